"""Actions of any environment become flat numbers and come back as they were."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from envs.interface import action_spec, flat_actions, space_of
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec

SHAPES = arrays.array_shapes(max_dims=3, max_side=3)


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int64, np.uint8]))
    shape = draw(SHAPES)
    low = draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 100)))
    span = draw(arrays.arrays(np.int64, shape, elements=st.integers(1, 100)))
    scale = 1 if np.issubdtype(dtype, np.integer) else draw(st.sampled_from([1, 0.1, 1e-3]))
    return spaces.Box(
        (low * scale).astype(dtype), ((low + span) * scale).astype(dtype), dtype=dtype
    )


@st.composite
def multi_discretes(draw: st.DrawFn) -> spaces.MultiDiscrete:
    shape = draw(SHAPES)
    nvec = draw(arrays.arrays(np.int64, shape, elements=st.integers(1, 5)))
    start = draw(arrays.arrays(np.int64, shape, elements=st.integers(-3, 3)))
    return spaces.MultiDiscrete(nvec, start=start)


SPACES = st.one_of(
    st.builds(spaces.Discrete, st.integers(1, 9), start=st.integers(-5, 5)),
    multi_discretes(),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 5), SHAPES)),
    boxes(),
)


class Anything(gymnasium.Env):
    """An environment of which only the actions count."""

    def __init__(self, space: gymnasium.Space) -> None:
        self.action_space = space


@given(SPACES, st.integers(0, 2**31 - 1))
def test_an_action_goes_there_and_back(own: gymnasium.Space, seed: int):
    actions = flat_actions(own)
    space = space_of(actions.spec)
    assert action_spec(Anything(space)) == actions.spec  # it can be recorded
    own.seed(seed)
    space.seed(seed)
    action, flat = own.sample(), space.sample()
    assert own.contains(actions.to_own(flat))
    assert space.contains(actions.from_own(action))
    again = actions.to_own(actions.from_own(action))
    # A flat box is of float32: an action of float64 comes back as near as that is.
    np.testing.assert_allclose(again, action, rtol=1e-6, atol=1e-6)
    if not isinstance(own, spaces.Box):
        np.testing.assert_array_equal(again, action)
        np.testing.assert_array_equal(actions.from_own(actions.to_own(flat)), flat)


@given(boxes())
def test_the_ends_of_a_box_are_actions(own: spaces.Box):
    actions = flat_actions(own)
    for end in (actions.spec.low, actions.spec.high):
        assert own.contains(actions.to_own(end))


def test_numbers_keep_their_order():
    own = spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [0, 1]]))
    actions = flat_actions(own)
    assert actions.spec == ActionSpec("multi_discrete", (2, 3, 4, 5))
    assert actions.to_own(np.array([1, 0, 3, 4])).tolist() == [[1, 1], [3, 5]]
    assert flat_actions(spaces.Discrete(3, start=5)).to_own(2) == 7


def test_bounds_that_are_missing_can_be_given():
    own = spaces.Box(np.array([-np.inf, -0.5], np.float32), np.array([2, np.inf], np.float32))
    with pytest.raises(UserError, match="--action-limit"):
        flat_actions(own)
    spec = flat_actions(own, limit=1.5).spec
    assert (spec.low, spec.high) == ((-1.5, -0.5), (2, 1.5))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict(a=spaces.Discrete(2)),
        spaces.Box(1, 1, (2,)),
        spaces.Box(-1e308, 1e308, (1,), np.float64),
        spaces.Text(3),
    ],
)
def test_what_cannot_be_recorded_is_said_in_a_line(space: gymnasium.Space):
    with pytest.raises(UserError) as refused:
        flat_actions(space)
    assert "\n" not in str(refused.value)
