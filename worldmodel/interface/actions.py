"""Action spaces without Gymnasium, and sequences of actions as users write them."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from worldmodel.errors import UserError, printable
from worldmodel.interface.world import check_names
from worldmodel.storage.parsed import parsed

Number = int | float
# An action as Python numbers: the index of a discrete one, else a number for each component.
Action = int | tuple[Number, ...]

MOST_NUMBERS = 2**16  # of an encoded action: a spec may come from a stranger
MOST_SHOWN = 24  # characters of a name that are shown
MOST_DIGITS = 12  # of a number in an action sequence
ROUNDING = 1e-6  # of a number's range: how far rounding to float32 may move it beyond a bound


@dataclass(frozen=True)
class Component:
    """One of the numbers that make up an action.

    Attributes:
        name: what it controls, printable and short.
        low, high: the smallest and the largest value.
        is_integer: its values are whole numbers; otherwise they are float32.
        names: of its values from 0; for a real number two, of its negative and its positive
            direction. May be empty.
    """

    name: str
    low: Number
    high: Number
    is_integer: bool
    names: tuple[str, ...] = ()

    @property
    def is_button(self) -> bool:
        """Whether it is either on or off."""
        return self.is_integer and (self.low, self.high) == (0, 1)

    def nearest(self, value: Number) -> Number:
        """The valid value nearest to a number."""
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.is_integer else float(np.float32(inside))

    def check(self, value: Any, where: str) -> None:
        """Raises UserError unless a value from JSON is valid here; `where` locates it in the
        message."""
        kinds, kind = ((int,), "an integer") if self.is_integer else ((int, float), "a number")
        if type(value) not in kinds or not self.low <= value <= self.high:  # NaN neither
            raise UserError(
                f"{where} must be {kind} from {self.low:g} to {self.high:g}, not {value!r}"
            )

    def words(self, value: Number, idle: Number) -> str:
        """A value in words: "turn left", or "turn +2" relative to the idle value."""
        if self.is_integer and self.names:
            return self.names[int(value)]
        if self.is_integer:
            return self.name if self.is_button and value > idle else f"{self.name} {value - idle:+}"
        if self.names:
            return f"{self.names[value > idle]} {abs(value):.2f}"
        return f"{self.name} {value:+.2f}"


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
        choices: for each component of the others, a name for each value of an index, or for the
            negative and the positive direction of a real number. May be empty, as a whole or for
            one component. Spaces that differ only in these are equal: older files lack them.
    """

    kind: Literal["discrete", "multi_discrete", "box"]
    sizes: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    meanings: tuple[str, ...] = ()
    choices: tuple[tuple[str, ...], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        num_numbers = max(self.vector_size, len(self.low), len(self.high), len(self.sizes))
        if num_numbers > MOST_NUMBERS:
            raise UserError(
                f"not an action space: it has {num_numbers} choices or numbers, more than "
                f"{MOST_NUMBERS}"
            )
        if self.kind == "box":
            valid = len(self.low) == len(self.high) > 0 and not self.sizes
            # In the type of an action: encoding divides by the span.
            with np.errstate(over="ignore"):
                low, high = (np.asarray(ends, np.float32) for ends in (self.low, self.high))
                valid = valid and bool(np.isfinite(high - low).all() and (high > low).all())
        else:
            valid = min(self.sizes, default=0) > 0 and not self.low and not self.high
            valid = valid and (self.kind == "multi_discrete" or len(self.sizes) == 1)
        # How many names to expect: of each component's values, and of the components.
        values = () if self.kind == "discrete" else self.sizes or (2,) * len(self.low)
        named = self.sizes[0] if valid and self.kind == "discrete" else len(values)
        if (
            not valid
            or len(self.meanings) not in (0, named)
            or len(self.choices) not in (0, len(values))
            or any(len(names) not in (0, n) for names, n in zip(self.choices, values, strict=False))
        ):
            raise UserError(f"not an action space: {self!r}")
        for names in self.choices:
            check_names("choices", names)

    def __str__(self) -> str:
        """The space in words: "4 choices (noop, left, right, forward)"."""
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
        return () if self.kind == "discrete" else (len(self.sizes) or len(self.low),)

    @property
    def dtype(self) -> type[np.float32 | np.int64]:
        """Type of an action on disk."""
        return np.float32 if self.kind == "box" else np.int64

    @property
    def vector_size(self) -> int:
        """A: the length of an encoded action."""
        return len(self.low) if self.kind == "box" else sum(self.sizes)

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """One for a discrete action, else one for each number; missing names are filled in."""
        meanings = tuple(printable(name[:MOST_SHOWN]) for name in self.meanings)
        if self.kind == "discrete":
            names = meanings or tuple(f"action {choice}" for choice in range(self.sizes[0]))
            return (Component("action", 0, self.sizes[0] - 1, True, names),)
        is_integer = self.kind == "multi_discrete"
        count = self.shape[0]
        return tuple(
            Component(name, low, high, is_integer, tuple(choice[:MOST_SHOWN] for choice in names))
            for name, low, high, names in zip(
                meanings or [f"action {number}" for number in range(count)],
                [0] * count if is_integer else self.low,
                [size - 1 for size in self.sizes] if is_integer else self.high,
                self.choices or [()] * count,
                strict=True,
            )
        )

    @property
    def idle(self) -> Action:
        """The action when nothing is pressed: "noop" if there is one, else 0 or what is nearest."""
        if self.kind == "discrete":
            names = [name.lower() for name in self.meanings]
            return names.index("noop") if "noop" in names else 0
        return tuple(component.nearest(0) for component in self.components)

    def numbers(self, action: Any) -> tuple[Number, ...]:
        """An action's numbers, one for each component, rounded to the type that is stored."""
        return tuple(np.asarray(action, self.dtype).reshape(len(self.components)).tolist())

    def plain(self, action: Any) -> Action:
        """An action as Python numbers: its index, or a tuple."""
        numbers = self.numbers(action)
        return int(numbers[0]) if self.kind == "discrete" else numbers

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Independent uniform actions, (*shape, *self.shape)."""
        if self.kind == "box":
            return rng.uniform(self.low, self.high, (*shape, *self.shape)).astype(np.float32)
        numbers = rng.integers(0, self.sizes, (*shape, len(self.sizes)))
        return numbers.reshape((*shape, *self.shape))

    def contains(self, actions: Any) -> bool:
        """Whether every one of the actions (..., *shape) lies in the space."""
        try:
            given = np.asarray(actions)
        except ValueError:  # a ragged list
            return False
        if given.shape[given.ndim - len(self.shape) :] != self.shape:
            return False
        if self.kind != "box" and not np.issubdtype(given.dtype, np.integer):
            return False
        low, high = self._bounds()
        return bool(np.all((given >= low) & (given <= high)))

    def checked(self, actions: Any, leading: tuple[int, ...] = ()) -> np.ndarray:
        """A copy of actions (*leading, *shape) in the type that is stored.

        Other types are accepted where only precision is lost: float64 for float32, as numpy and
        Gymnasium's wrappers produce it, or any integer for an index, but never 0.5 for an index.

        Raises:
            UserError: one is outside the space.
        """
        try:
            given = np.asarray(actions)
        except ValueError:  # a ragged list
            given = np.empty(0, object)
        fits = given.shape == (*leading, *self.shape)
        if fits and np.can_cast(given.dtype, self.dtype, "same_kind"):
            with np.errstate(over="ignore"):  # what is too large becomes infinite
                own = np.array(given, self.dtype, order="C")
                if self.kind == "box":
                    low, high = self._bounds()
                    inside = np.clip(own, low, high)
                    own = np.where(abs(own - inside) <= ROUNDING * (high - low), inside, own)
            if self.contains(own) and (self.kind == "box" or (own == given).all()):
                return own
        raise UserError(f"action {actions!r} is outside the action space: {self}")

    def _bounds(self) -> np.ndarray:
        """The lowest and the highest action, (2, *shape)."""
        ends = [
            [getattr(component, end) for component in self.components] for end in ("low", "high")
        ]
        return np.asarray(ends, self.dtype).reshape(2, *self.shape)

    def to_json(self) -> dict[str, Any]:
        """As JSON; without choices as older versions wrote it: it identifies a training run."""
        data = asdict(self)
        return data if self.choices else {n: value for n, value in data.items() if n != "choices"}

    @classmethod
    def from_json(cls, data: Any) -> "ActionSpec":
        """Raises UserError when `data` is not what `to_json` wrote."""
        return parsed(cls, data)


# The space of videos without actions.
NO_ACTION = ActionSpec("discrete", (1,), meanings=("none",))


def action_sequence(spec: ActionSpec, text: str, num_steps: int) -> np.ndarray:
    """The actions (num_steps,) of "right:8,forward": each repeated, the last one to the end.

    Raises:
        UserError: the world has no such actions, or there are more than `num_steps`.
    """
    taken: list[int] = []
    for part in text.split(","):
        name, _, count = part.strip().partition(":")
        if count and not (count.isdecimal() and count.strip("0")):
            raise UserError(f"--action {text}: {count!r} is not a number of steps")
        # Python refuses to convert more than 4,300 digits.
        times = num_steps + 1 if len(count) > MOST_DIGITS else int(count or 1)
        taken += [_numbered(spec, name)] * min(times, num_steps + 1)
    if len(taken) > num_steps:
        raise UserError(f"--action {text} is longer than the {num_steps} steps there are")
    taken += taken[-1:] * (num_steps - len(taken))
    return np.asarray(taken, np.int64)


def _numbered(spec: ActionSpec, action: str) -> int:
    if spec.kind != "discrete":
        raise UserError("--action goes with worlds of one discrete action: leave it out")
    names = [*spec.meanings, *map(str, range(len(spec.meanings), spec.sizes[0]))]
    if action in names:
        return names.index(action)
    if action.isdecimal() and len(action) <= MOST_DIGITS and int(action) < spec.sizes[0]:
        return int(action)
    raise UserError(f"unknown action {action!r}; the known ones are: {', '.join(names)}")
