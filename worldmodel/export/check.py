"""Whether an exported dream, run by onnxruntime, is the dream that PyTorch runs."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel import randomness
from worldmodel.checkpoint import Checkpoint
from worldmodel.command import track
from worldmodel.dream import Dream, Step, WorldModel
from worldmodel.export.graphs import state_of
from worldmodel.export.running import OnnxDream, State
from worldmodel.interface.sampling import Sampling

HELD = 8  # steps for which an action is held
ROUNDING = (1e-6, 1e-5, 1e-4, 1e-3)  # of a probability, after up to some hundred steps


@dataclass(frozen=True)
class Comparison:
    """The same actions and random numbers in onnxruntime and in PyTorch.

    Attributes:
        steps: taken by both.
        first: the first step with other codes or variables; None: there was none.
        equal: share of equal codes. After a step with other codes or variables, onnxruntime
            continues from PyTorch's state.
        differing: steps with other codes or variables.
        unexplained: those of them that rounding doesn't explain: PyTorch doesn't draw the value of
            onnxruntime for any random number that is smaller or larger by one of `ROUNDING`.
        pixels: largest difference of a pixel in the other steps, of 255.
        rewards: largest difference of a reward, likewise.
    """

    steps: int
    first: int | None
    equal: float
    differing: int
    unexplained: int
    pixels: int
    rewards: float

    @property
    def is_same(self) -> bool:
        """Whether all differences are rounding."""
        return not self.unexplained and self.pixels <= 1 and self.rewards < 0.1

    def __str__(self) -> str:
        since = "" if self.first is None else f", the first of them number {self.first}"
        return (
            f"{self.steps} steps: {100 * self.equal:.3f} % of the codes are equal; steps that "
            f"differ: {self.differing}{since}, by more than rounding: {self.unexplained}; "
            f"elsewhere pixels within {self.pixels} of 255, rewards within {self.rewards:.1e}"
        )


@torch.no_grad()
def compare(
    checkpoint: Checkpoint, exported: OnnxDream, sampling: Sampling, *, steps: int, seed: int = 0
) -> Comparison:
    """Dream from the first start under random actions, in both.

    Args:
        sampling: that of the export.
    """
    model, starts = checkpoint.model, checkpoint.starts
    first_start = (starts.frames, starts.actions, starts.variables, starts.poses)
    dream = model.start(*(torch.from_numpy(part[:1]) for part in first_start))
    state = exported.start(0)
    rng = randomness.generator(seed, "comparison")
    actions = model.config.actions.sample(rng, (-(-steps // HELD),)).repeat(HELD, 0)[:steps]
    num_equal, differing, unexplained, pixels, rewards = 0, [], 0, 0, 0.0
    for t, taken in enumerate(track(list(actions), "comparing")):
        action = np.asarray(taken)
        uniforms = rng.random(model.num_uniforms, np.float32)
        before = dream.clone()
        step, dream = _torch_step(model, dream, action, uniforms, sampling)
        outputs, state = exported.step(state, action, uniforms)
        ours, theirs = _drawn(step.codes[0], step.variables[0]), _drawn_by(outputs, state)
        num_codes = outputs["codes"].size
        num_equal += int((ours[:num_codes] == theirs[:num_codes]).sum())
        if not (is_equal := ours == theirs).all():
            draw = int(np.argmin(is_equal))
            differing.append(t)
            unexplained += not _is_rounding(
                model, before, action, uniforms, sampling, draw, theirs[draw]
            )
            state = {name: part.numpy() for name, part in state_of(dream.clone()).items()}
            state = {name: state[name] for name in exported.state_names}
            continue
        apart = exported.frame(state).astype(int) - step.frames[0].numpy()
        pixels = max(pixels, int(np.abs(apart).max()))
        rewards = max(rewards, abs(float(outputs["reward"]) - float(step.reward)))
    equal = num_equal / (steps * num_codes)
    first = differing[0] if differing else None
    return Comparison(steps, first, equal, len(differing), unexplained, pixels, rewards)


def _torch_step(
    model: WorldModel, dream: Dream, action: np.ndarray, uniforms: np.ndarray, sampling: Sampling
) -> tuple[Step, Dream]:
    one_action = torch.from_numpy(action[None])
    return model.step(dream, one_action, torch.from_numpy(uniforms)[None], sampling)


def _drawn(codes: Tensor, variables: Tensor) -> np.ndarray:
    """What was drawn with a random number each, in their order; variables rounded, as those in the
    pose aren't drawn."""
    return np.concatenate([codes.numpy().ravel(), variables.numpy().round()])


def _drawn_by(outputs: dict[str, np.ndarray], state: State) -> np.ndarray:
    return np.concatenate([outputs["codes"].ravel(), state.get("variables", np.zeros(0)).round()])


def _is_rounding(
    model: WorldModel,
    dream: Dream,
    action: np.ndarray,
    uniforms: np.ndarray,
    sampling: Sampling,
    draw: int,
    wanted: float,
) -> bool:
    """Whether a slightly different random number for this draw would give this value."""
    for change in (sign * size for size in ROUNDING for sign in (-1, 1)):
        moved = uniforms.copy()
        moved[draw] = np.clip(moved[draw] + change, 0, np.nextafter(np.float32(1), np.float32(0)))
        step, _ = _torch_step(model, dream.clone(), action, moved, sampling)
        if _drawn(step.codes[0], step.variables[0])[draw] == wanted:
            return True
    return False
