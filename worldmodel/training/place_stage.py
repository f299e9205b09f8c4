"""The stage before the prior, in worlds with a pose: the map and the pose head learn alone.

Both depend on a moment's poses and actions alone, so a step on many moments takes a fraction of the
time of a step of the prior, and they bear a learning rate ten times as high. Learned only along
with the prior, they take many times as long.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel import randomness
from worldmodel.configs.presets import StageRecipe
from worldmodel.dream import WorldModel
from worldmodel.media.film import save_png, sheet
from worldmodel.media.frames import to_uint8
from worldmodel.metrics.pictures import psnr
from worldmodel.prior.frame_gpt import FrameGPT
from worldmodel.prior.place import Moments
from worldmodel.training.codes import CodedEpisodes
from worldmodel.training.moments import MomentSampler
from worldmodel.training.prior_losses import moment_losses
from worldmodel.training.trainer import Stage

MOTION_WEIGHT = 0.01  # so that the map decides where the gradient is clipped
MOMENTS_A_SKETCH = 4  # the pose head learns from so many times as many moments as the map
NUM_VALIDATION_MOMENTS, NUM_VALIDATION_SKETCHES = 4096, 512
PREVIEW_FRAMES = 16


class MapAndPoseHead(nn.Module):
    """What this stage trains of a prior, and nothing else of it: the pose head and perhaps the
    map."""

    def __init__(self, prior: FrameGPT, *, with_map: bool) -> None:
        super().__init__()
        assert prior.place is not None
        self.head = prior.place.head
        self.view_bias = prior.place.view.bias  # what the pose head sees of a frame that is hidden
        if with_map:
            self.map, self.sketch = prior.place.map, prior.place.sketch
        self.with_map = with_map
        self._prior = (prior,)  # in a tuple, so that it is no submodule

    def forward(self, moments: Moments) -> dict[str, Tensor]:
        """The losses of moments."""
        (prior,) = self._prior
        assert prior.place is not None
        motion_nats, sketch_error = moment_losses(prior, moments, *prior.place.learn(moments))
        loss = MOTION_WEIGHT * motion_nats
        if self.with_map:
            loss = loss + sketch_error
        return {"loss": loss, "motion_nats": motion_nats, "sketch_error": sketch_error}


class PlaceStage(Stage):
    """Trains a prior's map and pose head on single moments.

    A model that has learned its map, but whose pose head knows nothing of a player's surroundings
    (of a checkpoint before format 9), keeps the map.
    """

    name = "place"

    def __init__(self, model: WorldModel, coded: CodedEpisodes, recipe: StageRecipe) -> None:
        place = model.prior.place
        assert place is not None
        self.model, self.recipe = model, recipe
        nn.init.zeros_(place.view.weight)  # as the pose head is trained without frames
        self.module: Any = MapAndPoseHead(model.prior, with_map=not place.space.is_measured)
        self.inputs = model.tokenizer.digest()
        self.moments, self.validation = (
            MomentSampler(model, coded, split) for split in ("train", "validation")
        )
        self.moments.measure_poses()

    def losses(self, module: nn.Module, rng: np.random.Generator, part: slice) -> dict[str, Tensor]:
        # Every process computes the full batch: that is exact, and the stage is short.
        count = self.recipe.batch_size
        num_sketched = count if self.module.with_map else 1
        return module(self.moments.draw(rng, MOMENTS_A_SKETCH * count, num_sketched=num_sketched))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses of held-out moments, and PSNR in dB of the sketches' pictures against those of
        the recorded codes; nothing if no held-out episode has a pose."""
        if not len(self.validation):
            return {}
        moments = self._held_out(NUM_VALIDATION_MOMENTS, NUM_VALIDATION_SKETCHES)
        numbers = {name: float(value) for name, value in self.module(moments).items()}
        recorded, sketched = (pictures.float() / 255 for pictures in self._pictures(moments))
        return numbers | {"psnr": psnr(float((recorded - sketched).square().mean()))}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Recorded frames as the tokenizer shows them, above the map's sketches of them."""
        if len(self.validation):
            moments = self._held_out(PREVIEW_FRAMES, PREVIEW_FRAMES)
            save_png(path, sheet([part.numpy() for part in self._pictures(moments)], scale=2))

    def _held_out(self, count: int, num_sketched: int) -> Moments:
        rng = randomness.generator(0, "place validation")
        return self.validation.draw(rng, count, num_sketched=num_sketched)

    def _pictures(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Of the sketched moments (M, H, W, C): as recorded, and as the map knows them."""
        place = self.model.prior.place
        assert place is not None
        _, sketch = place.learn(moments)
        vectors = self.model.prior.vectors_of(sketch[None])[0].movedim(-1, 1)
        recorded, sketched = (
            to_uint8(self.model.tokenizer.decoder(part)).cpu()
            for part in (moments.next_vectors, vectors)
        )
        return recorded, sketched
