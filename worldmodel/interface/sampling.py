"""How dreams are sampled."""

from dataclasses import dataclass, replace

import numpy as np

from worldmodel.errors import UserError

MOST_TOP_K = 2**31 - 1  # beyond any codebook, and within compiled code's integers
MOST_GUIDANCE = 1e4  # beyond any use; logits stay finite
# With less, logits in float32 overflow; long before, only the likeliest code is left.
LEAST_TEMPERATURE = 1e-30


@dataclass(frozen=True)
class Sampling:
    """How to sample codes and poses.

    Attributes:
        temperature: divides the logits; 1 samples from the model itself, 0 takes the likeliest.
        top_k: sample from the k likeliest codes; None: from all.
        top_p: sample from the fewest codes that together have this probability; None: from all.
        guidance: g in logits + g (logits - logits under the mean action): 0 samples from the model
            itself, 1 doubles what the action changes (classifier-free guidance, w of Ho and
            Salimans 2022; elsewhere a scale of 1 + g). For dreams, not for clips of VideoGPT.
        pose_temperature: as `temperature`, of the next pose. 0 suits worlds in which the same
            action always moves the player alike; errors of sampled poses add up over the steps.

    Raises:
        UserError: a value is outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 0.0
    pose_temperature: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not isinstance(value, int | float | np.number):
                raise UserError(f"{name} must be a number, not {value!r}")
        for name in ("temperature", "pose_temperature"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.top_k is not None and not 1 <= self.top_k <= MOST_TOP_K:
            raise UserError(f"top_k must be from 1 to {MOST_TOP_K}, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.guidance <= MOST_GUIDANCE:
            raise UserError(f"guidance must be from 0 to {MOST_GUIDANCE:g}, not {self.guidance}")

    @property
    def takes_likeliest(self) -> bool:
        """Whether the temperature is 0, or so low that it makes no difference."""
        return self.temperature < LEAST_TEMPERATURE


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling settings that a user chose; those left at None stay as the checkpoint has them."""

    temperature: float | None = None
    """Sampling temperature: 1 is the model itself, 0 takes the likeliest token. Default: the
    checkpoint's own."""
    top_k: int | None = None
    """Sample each token from its k likeliest values."""
    top_p: float | None = None
    """Sample each token from the fewest values that together have this probability."""
    guidance: float | None = None
    """Strength of classifier-free guidance by the action: 0 turns it off, which is nearly twice as
    fast. Default: the checkpoint's own."""
    pose_temperature: float | None = None
    """As the temperature, of the next pose: 0 (the default) takes the likeliest; 1 suits worlds in
    which the same action may move the player differently."""

    @property
    def given(self) -> dict[str, float | int]:
        """Those that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def applied_to(self, own: Sampling) -> Sampling:
        """A checkpoint's own settings, overridden by these. Raises UserError as `Sampling`."""
        return replace(own, **self.given)


@dataclass(frozen=True)
class ClipSamplingOptions:
    """Sampling settings of commands that sample clips of VideoGPT."""

    temperature: float = 1.0
    """Sampling temperature: 1 samples from the model itself, 0 takes the likeliest token."""
    top_k: int | None = None
    """Sample each token from its k likeliest values."""
    top_p: float | None = None
    """Sample each token from the fewest values that together have this probability."""

    @property
    def sampling(self) -> Sampling:
        """These settings. Raises UserError as `Sampling`."""
        return Sampling(self.temperature, self.top_k, self.top_p)
