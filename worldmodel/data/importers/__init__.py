"""Data sets of others, made into episodes: one module a format."""
