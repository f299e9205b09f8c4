"""Random streams: named children of one seed, no two of them alike."""

import ast
from collections import Counter, defaultdict
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from collect.recorder import POLICY_WITH_NOISE, RANDOM, Job, Player, play_episode
from worldmodel import randomness

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for package in ("worldmodel", "envs", "collect", "play", "examples", "benchmarks")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "randomness.py"
]
MAKERS = {"default_rng", "SeedSequence", "RandomState", "manual_seed", "Generator"}
STREAMS = {"generator", "integer", "sequence", "torch_generator", "seed_torch"}
paths = st.lists(st.one_of(st.text(max_size=6), st.integers(0, 2**64)), max_size=4)


def _calls(path: Path):
    """Every call by a name, `x.name(...)` or `name(...)`: the call, its name, and x or None."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute):
            yield node, node.func.attr, ast.unparse(node.func.value)
        elif isinstance(node.func, ast.Name):
            yield node, node.func.id, None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_makes_generators_of_its_own(path: Path):
    made = {
        name
        for call, name, _ in _calls(path)
        # Without an argument they are seeded by the system: nobody's twin.
        if name in MAKERS and (call.args or call.keywords)
    }
    assert not made, f"use worldmodel.randomness in place of {made}"


def test_every_stream_has_a_name_of_its_own():
    names = Counter(
        call.args[1].value
        for path in SOURCES
        for call, name, of in _calls(path)
        if name in STREAMS
        and of in ("randomness", None)
        and len(call.args) > 1
        and isinstance(call.args[1], ast.Constant)
    )
    assert len(names) > 20
    assert [name for name, count in names.items() if count > 1] == []


@given(st.integers(0, 2**63), paths, paths)
def test_different_paths_are_different_streams(seed, one, other):
    def state(path):
        return tuple(randomness.sequence(seed, "stream", *path).generate_state(4))

    assert (state(one) == state(other)) == (
        [(type(part), part) for part in one] == [(type(part), part) for part in other]
    )


@pytest.mark.parametrize(
    ("one", "other"), [((1,), (1, 0)), (("1",), (1,)), (("a", "b"), ("ab",)), ((), (0,))]
)
def test_paths_that_look_alike_are_different_streams(one, other):
    states = [tuple(randomness.sequence(3, "x", *p).generate_state(4)) for p in (one, other)]
    assert states[0] != states[1]


def test_a_stream_is_named():
    with pytest.raises(TypeError, match="a stream needs a name"):
        randomness.generator(0, 1)


def test_a_stream_stays_what_it_is():
    """Sets that are resumed depend on it."""
    assert randomness.integer(0, "player", 5) == 1272037314
    assert randomness.generator(7, "x").integers(1000, size=3).tolist() == [397, 246, 349]


@pytest.mark.parametrize("behaviour", [RANDOM, POLICY_WITH_NOISE], ids=lambda b: b.name)
def test_what_a_random_player_does_says_nothing_of_how_long(behaviour):
    """Both were once drawn from twins: the third action was (first hold - 1) // 2, always."""

    class Still:
        def reset(self, *, seed=None):
            pass

        def act(self, frame):
            return 9

    space, frame = gymnasium.spaces.Discrete(4), np.zeros((1, 1, 3), np.uint8)
    table = np.zeros((behaviour.max_hold, space.n), int)
    for seed in range(1500):
        holds = _holds(Player(behaviour, Still() if behaviour.actor else None, space, seed), frame)
        table[holds[0][1] - 1, holds[2][0]] += 1
    assert table.sum() == 1500
    result = chi2_contingency(table[table.sum(1) > 0])
    assert result.pvalue > 1e-3  # pyright: ignore[reportAttributeAccessIssue]


def _holds(player: Player, frame: np.ndarray) -> list[tuple[int, int]]:
    """The first random actions, and for how many steps each is held."""
    holds = []
    while len(holds) < 3:
        began = player._hold_left == 0
        action = player.act(frame)
        if action != 9 and began:
            holds.append((int(action), player._hold_left + 1))
    return holds


def test_no_two_generators_of_a_recording_share_a_state(monkeypatch):
    made = defaultdict(set)
    sequence = randomness.sequence

    def noted(seed, *path):
        child = sequence(seed, *path)
        made[tuple(child.generate_state(4))].add((seed, *path))
        return child

    monkeypatch.setattr(randomness, "sequence", noted)
    from collect.recording import choose_behaviour
    from collect.vizdoom import WITH_POLICY

    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    frames = gymnasium.wrappers.AddRenderObservation(env)
    for i in range(20):
        choose_behaviour(0, i, WITH_POLICY)
        player_seed = randomness.integer(0, "player", i)
        env_seed = randomness.integer(0, "environment", i)
        play_episode(frames, Job(i, env_seed, player_seed, RANDOM, 3), None)
    env.close()
    assert len(made) >= 20 * 5
    assert all(len(paths) == 1 for paths in made.values())
