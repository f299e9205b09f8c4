import numpy as np
import pytest
import torch

from worldmodel.interface.actions import ActionSpec
from worldmodel.prior.action_vectors import encode_actions, mean_action

DISCRETE = ActionSpec("discrete", (4,))
MULTI = ActionSpec("multi_discrete", (3, 2))
BOX = ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 4.0))


@pytest.mark.parametrize("spec", [DISCRETE, MULTI, BOX])
def test_json_round_trip(spec):
    assert ActionSpec.from_json(spec.to_json()) == spec


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
