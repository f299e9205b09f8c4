"""The tokenizer: frames to a grid of discrete codes and back (VideoGPT Sec. 3, Appendix A.1)."""

from worldmodel.vqvae.vqvae import VQVAE, Tokenized

__all__ = ["VQVAE", "Tokenized"]
