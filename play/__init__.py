"""Play a real game or a dream of it with keyboard and mouse: `python -m play`."""
