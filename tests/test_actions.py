import json

import numpy as np
import pytest
import torch

from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.prior.layers import encode_actions, mean_action

DISCRETE = ActionSpec("discrete", (4,))
MULTI = ActionSpec("multi_discrete", (3, 2))
BOX = ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 4.0))


NAMED = ActionSpec(
    "multi_discrete", (3, 2), choices=(("stay", "forward", "backward"), ("hold fire", "attack"))
)


@pytest.mark.parametrize("spec", [DISCRETE, MULTI, BOX, NAMED])
def test_json_round_trip(spec):
    written = json.loads(json.dumps(spec.to_json()))
    assert ActionSpec.from_json(written) == spec
    assert ActionSpec.from_json(written).choices == spec.choices
    assert ("choices" in written) == (spec is NAMED)  # which older versions didn't write
    written.pop("choices", None)
    assert ActionSpec.from_json(written) == spec


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "it should be an object"),
        ({"sizes": [2]}, "lacks kind"),
        ({"kind": "text"}, "kind should be 'discrete', 'multi_discrete' or 'box', not 'text'"),
        ({"kind": "discrete", "sizes": 4}, "sizes should be a valid list, not 4"),
        ({"kind": "discrete", "sizes": [2.5]}, r"sizes\[0\] should be a valid integer"),
        ({"kind": "box", "low": [0], "high": ["x"]}, r"high\[0\] should be a valid number"),
        ({"kind": "discrete", "sizes": []}, "not an action space"),
        ({"kind": "discrete", "sizes": [2], "choices": [["a", "b"]]}, "not an action space"),
        ({"kind": "multi_discrete", "sizes": [2], "choices": [["a"]]}, "not an action space"),
        (
            {"kind": "multi_discrete", "sizes": [2], "choices": [["a", "\n"]]},
            "not a printable",
        ),
    ],
)
def test_what_is_no_action_space_is_named(data, message):
    with pytest.raises(UserError, match=message):
        ActionSpec.from_json(data)


def test_values_are_told_in_words():
    walk, attack = NAMED.components
    assert [walk.words(value, 0) for value in range(3)] == ["stay", "forward", "backward"]
    assert attack.words(1, 0) == "attack"
    unnamed = MULTI.components
    assert (unnamed[0].words(2, 0), unnamed[1].words(1, 0)) == ("action 0 +2", "action 1")
    steer = ActionSpec("box", low=(-1.0,), high=(1.0,), choices=(("left", "right"),)).components[0]
    assert (steer.words(-0.5, 0), steer.words(1, 0)) == ("left 0.50", "right 1.00")


def test_nobody_does_nothing():
    assert ActionSpec("discrete", (3,), meanings=("left", "NOOP", "right")).idle == 1
    assert (DISCRETE.idle, MULTI.idle, BOX.idle) == (0, (0, 0), (0.0, 0.0))
    assert ActionSpec("box", low=(0.5,), high=(1.0,)).idle == (0.5,)


def test_encodings_by_hand():
    assert encode_actions(DISCRETE, torch.tensor([2, 0])).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert encode_actions(MULTI, torch.tensor([[2, 0]])).tolist() == [[0, 0, 1, 1, 0]]
    assert encode_actions(BOX, torch.tensor([[0.5, 1.0]])).tolist() == [[0.5, -0.5]]


def test_no_action_in_particular_is_the_mean_of_all():
    all_choices = torch.cartesian_prod(torch.arange(3), torch.arange(2))
    torch.testing.assert_close(mean_action(MULTI), encode_actions(MULTI, all_choices).mean(0))
    torch.testing.assert_close(
        mean_action(DISCRETE), encode_actions(DISCRETE, torch.arange(4)).mean(0)
    )
    ends = torch.tensor([BOX.low, BOX.high])
    torch.testing.assert_close(mean_action(BOX), encode_actions(BOX, ends).mean(0))


@pytest.mark.parametrize("spec", [DISCRETE, MULTI, BOX])
def test_a_vector_has_the_size_said(spec):
    actions = torch.zeros(
        (5, 2, *spec.shape), dtype=torch.from_numpy(np.zeros(1, spec.dtype)).dtype
    )
    assert encode_actions(spec, actions).shape == (5, 2, spec.vector_size)


@pytest.mark.parametrize(
    ("spec", "actions", "inside"),
    [
        (DISCRETE, np.array([0, 3]), True),
        (DISCRETE, np.array([4]), False),
        (DISCRETE, np.array([-1]), False),
        (DISCRETE, np.array([1.0]), False),
        (MULTI, np.array([[2, 1]]), True),
        (MULTI, np.array([[1, 2]]), False),
        (MULTI, np.array([2, 1, 0]), False),
        (BOX, np.array([[1.0, 4.0]]), True),
        (BOX, np.array([[1.1, 4.0]]), False),
        (BOX, np.array([[np.nan, 4.0]]), False),
    ],
)
def test_contains(spec, actions, inside):
    assert spec.contains(actions) is inside


def test_a_space_tells_people_what_it_is():
    discrete = ActionSpec("discrete", (2,), meanings=("noop", "left"))
    assert str(discrete) == "2 choices (noop, left)"
    assert str(ActionSpec("multi_discrete", (3, 2))) == "choices of 3 x 2"
    box = ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 0.5), meanings=("steer", "gas"))
    assert str(box) == "2 numbers (steer, gas: -1 to 1, 0 to 0.5)"


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "discrete"},
        {"kind": "discrete", "sizes": (2, 3)},
        {"kind": "discrete", "sizes": (0,)},
        {"kind": "box", "low": (0.0,)},
        {"kind": "box", "low": (0.0,), "high": (1.0,), "sizes": (2,)},
        {"kind": "discrete", "sizes": (3,), "meanings": ("stay", "go")},
        {"kind": "box", "low": (0.0,), "high": (0.0,)},
        {"kind": "box", "low": (0.0,), "high": (float("inf"),)},
        {"kind": "multi_discrete", "sizes": (2**15, 2**15, 1)},
    ],
)
def test_impossible_spaces_are_refused(arguments):
    with pytest.raises(ValueError, match="not an action space"):
        ActionSpec(**arguments)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_real_numbers_of_any_width_are_taken(dtype):
    spec = ActionSpec("box", low=(-0.3, 0.0), high=(0.7, 1.0))
    for numbers in ([-0.3, 0], [0.7, 1], [0.25, 0.5]):
        taken = spec.checked(np.array(numbers, dtype))
        np.testing.assert_array_equal(taken, np.array(numbers, np.float32))
        assert taken.dtype == np.float32
    given = np.array([0.25, 0.5], dtype)
    taken = spec.checked(given)
    taken[:] = 0  # a copy
    assert given.tolist() == [0.25, 0.5]
    for numbers in ([0.71, 1], [np.nan, 0], [1e300, 0], [0.1], [[0, 1]]):
        with (
            np.errstate(over="ignore"),
            pytest.raises(UserError, match="outside the action space: 2 numbers"),
        ):
            spec.checked(np.array(numbers, dtype))
