"""The tokenizers: frames or clips to a grid of discrete codes and back (VideoGPT Sec. 3)."""
