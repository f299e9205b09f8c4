"""What actions look like on disk."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

MOST_CONTROLS_BYTES = 2**16  # as JSON: hundreds of keys
MOST_NUMBERS = 2**16  # of an encoded action: a spec may come from a stranger


@dataclass(frozen=True)
class ActionSpec:
    """An action space without Gymnasium.

    Attributes:
        kind: "discrete": one index, stored with shape (); "multi_discrete": several,
            shape (len(sizes),); "box": real numbers, shape (len(low),).
        sizes: number of choices of each index; empty for a box.
        low, high: bounds of each real number; empty for indices.
        meanings: a name for each choice of a discrete action, or for each component of the
            others; may be empty.
    """

    kind: Literal["discrete", "multi_discrete", "box"]
    sizes: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    meanings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        num_numbers = max(self.vector_size, len(self.low), len(self.high), len(self.sizes))
        if num_numbers > MOST_NUMBERS:
            raise ValueError(
                f"not an action space: it has {num_numbers} choices or numbers, more than "
                f"{MOST_NUMBERS}"
            )
        choices = self.sizes[0] if self.kind == "discrete" and self.sizes else 0
        components = choices or len(self.sizes) or len(self.low)
        if self.kind == "box":
            valid = len(self.low) == len(self.high) > 0 and not self.sizes
            # In the type of an action: encoding divides by the span.
            with np.errstate(over="ignore"):
                low, high = (np.asarray(ends, np.float32) for ends in (self.low, self.high))
                valid = valid and bool(np.isfinite(high - low).all() and (high > low).all())
        else:
            valid = len(self.sizes) > 0 and min(self.sizes) > 0 and not self.low and not self.high
            valid = valid and (self.kind == "multi_discrete" or len(self.sizes) == 1)
        valid = valid and self.kind in ("discrete", "multi_discrete", "box")
        if not valid or len(self.meanings) not in (0, components):
            raise ValueError(f"not an action space: {self!r}")

    def __str__(self) -> str:
        """For people: "4 choices (noop, left, right, forward)"."""
        named = f" ({', '.join(self.meanings)})" if self.meanings else ""
        if self.kind == "discrete":
            return f"{self.sizes[0]} choices{named}"
        if self.kind == "multi_discrete":
            return f"choices of {' x '.join(map(str, self.sizes))}{named}"
        low, high = ([f"{end:g}" for end in ends] for ends in (self.low, self.high))
        ranges = ", ".join(f"{a} to {b}" for a, b in zip(low, high, strict=True))
        return f"{len(self.low)} numbers ({', '.join(self.meanings) or 'unnamed'}: {ranges})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action on disk."""
        return {"discrete": (), "multi_discrete": (len(self.sizes),), "box": (len(self.low),)}[
            self.kind
        ]

    @property
    def dtype(self) -> type[np.generic]:
        """Type of an action on disk."""
        return np.float32 if self.kind == "box" else np.int64

    @property
    def vector_size(self) -> int:
        """A: the length of an encoded action."""
        return len(self.low) if self.kind == "box" else sum(self.sizes)

    def contains(self, actions: np.ndarray) -> bool:
        """Whether every one of the actions (..., *shape) lies in the space."""
        if actions.shape[actions.ndim - len(self.shape) :] != self.shape:
            return False
        if self.kind == "box":
            low, high = (np.asarray(ends, self.dtype) for ends in (self.low, self.high))
            return bool(((actions >= low) & (actions <= high)).all())
        if not np.issubdtype(actions.dtype, np.integer):
            return False
        return bool(((actions >= 0) & (actions < np.asarray(self.sizes).reshape(self.shape))).all())

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "sizes": list(self.sizes),
            "low": list(self.low),
            "high": list(self.high),
            "meanings": list(self.meanings),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ActionSpec":
        """Raises ValueError or KeyError when `data` is not what `to_json` wrote."""
        return cls(
            kind=data["kind"],
            sizes=tuple(int(n) for n in data["sizes"]),
            low=tuple(float(x) for x in data["low"]),
            high=tuple(float(x) for x in data["high"]),
            meanings=tuple(str(m) for m in data["meanings"]),
        )


def checked_controls(data: Any) -> dict[str, Any]:
    """Which keys choose the actions, as an environment announced it: a JSON object of bounded
    size. Who plays makes sense of it.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(data, dict):
        raise ValueError(f"controls must be a JSON object, not {type(data).__name__}")
    if len(json.dumps(data)) > MOST_CONTROLS_BYTES:
        raise ValueError(f"controls must be at most {MOST_CONTROLS_BYTES} bytes as JSON")
    return data


# Of videos that nobody steered.
NO_ACTION = ActionSpec("discrete", (1,), meanings=("none",))
