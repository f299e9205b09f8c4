"""VideoGPT as published: a VQ-VAE of clips, and a prior over all codes of a clip.

    codes = model.sample(conditions, uniforms, Sampling())      # B new clips
    clips = model.decode(codes)

It sees all of a clip at once, future actions included, so it can't be stepped; `WorldModel` can.
"""

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.media.frames import clips_to_float, clips_to_uint8
from worldmodel.prior.layers import encode_actions
from worldmodel.videogpt.configs import VideoGPTConfig
from worldmodel.videogpt.gpt import GPT, Conditions
from worldmodel.videogpt.vqvae import VideoVQVAE


class VideoGPT(nn.Module):
    """A generator of clips.

    Args:
        config: sizes, and the data's actions and classes.
    """

    def __init__(self, config: VideoGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = VideoVQVAE(config.tokenizer)
        self.prior = GPT(config)

    @torch.no_grad()
    def encode(self, clips: UInt8[Tensor, "B T H W C"]) -> Int[Tensor, "B t h w q"]:
        return self.tokenizer.encode(clips_to_float(clips))

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B t h w q"]) -> UInt8[Tensor, "B T H W C"]:
        return clips_to_uint8(self.tokenizer.decode(codes))

    def conditions(
        self,
        clips: UInt8[Tensor, "B T H W C"],
        actions: Shaped[Tensor, "B T-1 *shape"],
        classes: Int[Tensor, " B"],
    ) -> Conditions:
        """The conditions of B clips that the config asks for.

        Args:
            clips: the given frames are their first ones.
            actions: between the frames. Where the config asks for one more (BAIR), which leads out
                of the clip, it is unknown and encoded as zeros.
            classes: indices of the config's class names.
        """
        prior = self.config.prior
        parts: list[Float[Tensor, "B S"]] = []
        if prior.num_actions:
            vectors = encode_actions(self.config.actions, actions[:, : prior.num_actions])
            missing = prior.num_actions - vectors.shape[1]
            parts.append(F.pad(vectors, (0, 0, 0, missing)).flatten(1))
        if prior.on_class:
            parts.append(F.one_hot(classes, len(self.config.class_names)).float())
        given = clips_to_float(clips[:, : prior.given_frames]) if prior.given_frames else None
        return Conditions(vector=torch.cat(parts, 1) if parts else None, frames=given)
