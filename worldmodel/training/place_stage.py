"""The stage before the prior, in worlds with a pose: the map, the pose head and recall learn alone.

The map and the pose head depend on a moment's poses and actions alone, recall on a few older frames
besides; so a step on many moments takes a fraction of the time of a step of the prior, and they
bear a higher learning rate. Learned only along with the prior, they take many times as long.
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


class PlaceParts(nn.Module):
    """What this stage trains of a prior, and nothing else of it: those of the pose head, the map
    and recall that are new."""

    def __init__(self, prior: FrameGPT) -> None:
        super().__init__()
        place, recall = prior.place, prior.recall
        assert place is not None
        self.has_map = not place.space.is_measured
        self.has_head = self.has_map or not place.head.surroundings.weight.any()
        self.has_recall = recall is not None and not recall.knows_codes
        if self.has_head:
            self.head = place.head
            self.view_bias = place.view.bias  # what the pose head sees of a frame that is hidden
        if self.has_map:
            self.map, self.sketch = place.map, place.sketch
        if self.has_recall:
            self.recall = recall
        self._prior = (prior,)  # in a tuple, so that it is no submodule

    @property
    def are_any(self) -> bool:
        """Whether there is anything to train."""
        return self.has_head or self.has_recall

    def forward(self, moments: Moments) -> dict[str, Tensor]:
        """The losses of moments."""
        (prior,) = self._prior
        motion_nats, sketch_error = moment_losses(prior, moments, *prior.learn(moments))
        loss = torch.zeros_like(sketch_error)
        if self.has_head:
            loss = loss + MOTION_WEIGHT * motion_nats
        if self.has_map or self.has_recall:
            loss = loss + sketch_error
        return {"loss": loss, "motion_nats": motion_nats, "sketch_error": sketch_error}


class PlaceStage(Stage):
    """Trains the new parts of a prior that learn from single moments.

    A model that has learned its map, but whose pose head knows nothing of a player's surroundings
    (of a checkpoint before format 9), or that recalls nothing yet (before format 10), keeps the
    map.
    """

    name = "place"

    def __init__(self, model: WorldModel, coded: CodedEpisodes, recipe: StageRecipe) -> None:
        place, recall = model.prior.place, model.prior.recall
        assert place is not None
        self.model, self.recipe = model, recipe
        parts = PlaceParts(model.prior)
        if parts.has_head:
            nn.init.zeros_(place.view.weight)  # as the pose head is trained without frames
        if parts.has_recall:
            assert recall is not None
            recall.take_codes(model.tokenizer.codebooks)
        model.prior.requires_grad_(False)
        self.module: Any = parts.requires_grad_(True)
        self.inputs = model.tokenizer.digest()
        self.moments, self.validation = (
            MomentSampler(model, coded, split) for split in ("train", "validation")
        )
        self.moments.measure_poses()

    def losses(self, module: nn.Module, rng: np.random.Generator, part: slice) -> dict[str, Tensor]:
        # Every process computes the full batch: that is exact, and the stage is short.
        count, parts = self.recipe.batch_size, self.module
        num_recalled = count // 2
        num_sketched = count if parts.has_map else num_recalled
        num_moments = MOMENTS_A_SKETCH * count if parts.has_head else num_sketched
        return module(
            self.moments.draw(
                rng, num_moments, num_sketched=num_sketched, num_recalled=num_recalled
            )
        )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses of held-out moments, without older frames and, "recalled_error", with them; and
        PSNR in dB of the sketches' pictures against those of the recorded codes. Nothing if no
        held-out episode has a pose."""
        if not len(self.validation):
            return {}
        moments = self._held_out(NUM_VALIDATION_MOMENTS, NUM_VALIDATION_SKETCHES)
        alone = self.module(moments._replace(older=None))
        numbers = {name: float(value) for name, value in alone.items()}
        if moments.older is not None:
            numbers["recalled_error"] = float(self.module(moments)["sketch_error"])
        recorded, sketched = (pictures.float() / 255 for pictures in self._pictures(moments))
        return numbers | {"psnr": psnr(float((recorded - sketched).square().mean()))}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Recorded frames as the tokenizer shows them, above sketches of them."""
        if len(self.validation):
            moments = self._held_out(PREVIEW_FRAMES, PREVIEW_FRAMES)
            save_png(path, sheet([part.numpy() for part in self._pictures(moments)], scale=2))

    def _held_out(self, count: int, num_sketched: int) -> Moments:
        rng = randomness.generator(0, "place validation")
        return self.validation.draw(
            rng, count, num_sketched=num_sketched, num_recalled=num_sketched
        )

    def _pictures(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Of the sketched moments (M, H, W, C): as recorded, and as sketched."""
        _, sketch = self.model.prior.learn(moments)
        vectors = self.model.prior.vectors_of(sketch[None])[0].movedim(-1, 1)
        recorded, sketched = (
            to_uint8(self.model.tokenizer.decoder(part)).cpu()
            for part in (moments.next_vectors, vectors)
        )
        return recorded, sketched
