"""What `python -m worldmodel.evaluate` measures, one module a question."""
