"""The tokenizers: frames or clips to a grid of discrete codes and back (VideoGPT Sec. 3)."""

from worldmodel.vqvae.video import VideoVQVAE
from worldmodel.vqvae.vqvae import VQVAE, Tokenized

__all__ = ["VQVAE", "Tokenized", "VideoVQVAE"]
