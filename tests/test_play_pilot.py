"""Who steers what, without any window."""

import dataclasses
import itertools
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from played import session_of

from envs.engine_guard import engines_using
from envs.interface import actions_of
from play.headless import RandomWalk, walk
from play.pilot import Moment, Pilot
from play.replay_pilot import ReplayPilot
from play.worlds import load_policy
from worldmodel.errors import UserError

MEANINGS = ("noop", "left", "right", "forward")
PREFIX = (3, 3, 1)  # what brings the toy's real game to the start of each dream


class EngineCrash(Exception):
    """As a game's own library raises it: of no kind that Gymnasium knows."""


class ToyWorld(gymnasium.Env[np.ndarray, np.int64]):
    """Its frame shows the seed and the sum of all actions; over after `length` steps."""

    metadata = {"render_modes": [], "render_fps": 20}  # noqa: RUF012
    action_space = gymnasium.spaces.Discrete(4)
    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_meanings = MEANINGS

    def __init__(self, length: int = 50) -> None:
        self.length = length
        self.is_closed = False
        self.is_broken = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        self.actions: list[int] = []
        self.root = seed or 0
        return self._frame(), {"health": 100.0}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        if self.is_broken:
            raise EngineCrash("the engine\nis gone")
        self.actions.append(int(action))
        over = len(self.actions) >= self.length
        return self._frame(), float(action), over, False, {"health": 50.0}

    def close(self) -> None:
        self.is_closed = True

    def _frame(self) -> np.ndarray:
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[0, 0] = self.root % 256, sum(self.actions) % 256, len(self.actions) % 256
        return frame


class ToyDream(ToyWorld):
    """Begins where ToyReal-v0 is after its start's seed and the prefix."""

    num_starts = 3

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        assert options is not None
        super().reset(seed=100 + options["start"])
        self.actions = list(PREFIX)
        return self._frame(), {"health": 100.0}

    def real_moment(self, start: int) -> SimpleNamespace:
        return SimpleNamespace(
            env_id="ToyReal-v0",
            env_kwargs={"length": 9},
            seed=100 + start,
            actions=np.asarray(PREFIX),
        )


@pytest.fixture(autouse=True)
def real_toys() -> Iterator[list[ToyWorld]]:
    """The real games that were opened, in order."""
    opened: list[ToyWorld] = []

    def open_one(**kwargs: Any) -> ToyWorld:
        opened.append(ToyWorld(**kwargs))
        return opened[-1]

    gymnasium.register("ToyReal-v0", entry_point=open_one)
    yield opened
    del gymnasium.registry["ToyReal-v0"]


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained PPO policy that looks at two frames."""
    from stable_baselines3 import PPO

    class TwoFrames(ToyWorld):
        observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 6), np.uint8)

    path = tmp_path_factory.mktemp("policy") / "tiny.zip"
    tiny = {"features_extractor_kwargs": {"features_dim": 8}}
    PPO("CnnPolicy", TwoFrames(), n_steps=2, batch_size=2, policy_kwargs=tiny).save(path)
    return path


class EchoPolicy:
    """Acts by what it has seen: the number of frames since its reset, modulo 4."""

    num_stacked = 3

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def reset(self) -> None:
        self.seen = []

    def act(self, frame: np.ndarray) -> int:
        self.seen.append(frame)
        return len(self.seen) % 4


def test_a_person_steers_and_the_return_adds_up() -> None:
    pilot = Pilot(ToyWorld(), seed=4)
    assert pilot.moment.action is None
    assert pilot.moment.frame[0, 0, 0] == 4
    moments = [pilot.step(action) for action in (3, 1, 2)]
    assert [moment.action for moment in moments] == [3, 1, 2]
    assert [moment.total_reward for moment in moments] == [3, 4, 6]
    assert [moment.step_number for moment in moments] == [1, 2, 3]
    assert {moment.steered_by for moment in moments} == {"person"}
    assert pilot.actions_taken == [3, 1, 2]


def test_an_end_waits_for_a_restart() -> None:
    pilot = Pilot(ToyWorld(length=2), seed=0)
    pilot.step(1)
    assert not pilot.is_over
    assert pilot.step(1).terminated
    assert pilot.is_over
    with pytest.raises(gymnasium.error.ResetNeeded, match="restart"):
        pilot.step(1)
    pilot.restart()
    assert not pilot.is_over
    assert (pilot.seed, pilot.moment.total_reward, pilot.actions_taken) == (0, 0.0, [])
    pilot.another_start()
    assert pilot.seed == 1


def test_another_start_goes_round_a_dreams_starts() -> None:
    pilot = Pilot(ToyDream(), seed=0, start=1)
    starts = [pilot.moment.start]
    for _ in range(3):
        pilot.another_start()
        starts.append(pilot.moment.start)
    assert starts == [1, 2, 0, 1]
    pilot.restart()
    assert pilot.moment.start == 1
    drawn = Pilot(ToyDream(), seed=8).start
    assert drawn == Pilot(ToyDream(), seed=8).start


def test_the_policy_takes_over_and_gives_back() -> None:
    policy = EchoPolicy()
    pilot = Pilot(ToyWorld(), seed=0, find_policy=lambda: policy)
    for action in (1, 1, 1, 1):
        pilot.step(action)
    assert "policy steers" in pilot.toggle_policy()
    moment = pilot.step(0)
    assert (moment.steered_by, moment.action) == ("policy", 3)
    # It has been shown the frames it would have seen, had it steered all along.
    assert [frame[0, 0, 2] for frame in policy.seen] == [2, 3, 4]
    assert pilot.toggle_policy() == "you steer"
    assert pilot.step(2).steered_by == "person"
    assert pilot.actions_taken == [1, 1, 1, 1, 3, 2]
    assert "--policy" in Pilot(ToyWorld(), seed=0).toggle_policy()


def test_a_policy_file_steers(policy_file: Path, tmp_path: Path) -> None:
    pilots = []
    for _ in range(2):
        env = ToyWorld()
        policy = load_policy(policy_file, env, trusted=True, seed=3)
        pilot = Pilot(env, seed=0, find_policy=lambda policy=policy: policy)
        pilot.step(1)
        pilot.toggle_policy()
        for _ in range(5):
            assert pilot.step(0).steered_by == "policy"
        pilot.toggle_policy()
        assert pilot.step(2).steered_by == "person"
        pilots.append(pilot)
    assert pilots[0].actions_taken == pilots[1].actions_taken


def test_a_policy_that_does_not_fit_is_refused(policy_file: Path, tmp_path: Path) -> None:
    env = ToyWorld()
    with pytest.raises(UserError, match="there is no policy file"):
        load_policy(tmp_path / "none.zip", env, trusted=True, seed=0)
    (tmp_path / "bad.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="not a stable-baselines3"):
        load_policy(tmp_path / "bad.zip", env, trusted=True, seed=0)
    env.observation_space = gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="the policy observes frames"):
        load_policy(policy_file, env, trusted=True, seed=0)
    env = ToyWorld()
    env.action_space = gymnasium.spaces.Discrete(3)
    with pytest.raises(UserError, match="the policy acts in"):
        load_policy(policy_file, env, trusted=True, seed=0)


def test_the_real_game_catches_up_and_follows() -> None:
    pilot = Pilot(ToyDream(), seed=0, start=2)
    pilot.step(1)
    pilot.step(2)
    assert pilot.toggle_real() is None
    for action in (3, 0):
        assert pilot.moment.real is not None
        np.testing.assert_array_equal(pilot.moment.real.frame, pilot.moment.frame)
        pilot.step(action)
    pilot.another_start()
    assert pilot.moment.real is not None
    np.testing.assert_array_equal(pilot.moment.real.frame, pilot.moment.frame)
    for _ in range(6):
        pilot.step(0)
    real = pilot.moment.real
    assert real is not None
    assert real.is_over  # the toy's real game ends after 9 steps; the dream goes on
    assert pilot.step(0).real is real
    pilot.toggle_real()
    assert pilot.moment.real is None
    # Shown later than it lasts, it starts again beside the dream.
    assert pilot.toggle_real() == "the real game had ended here: it starts again beside the dream"
    assert pilot.moment.real is not None
    assert not pilot.moment.real.is_over
    before = pilot.moment.real.frame
    moment = pilot.step(1)
    assert moment.real is not None
    assert (moment.real.frame != before).any()


def test_a_real_game_that_fails_is_closed_and_the_dream_goes_on(
    real_toys: list[ToyWorld],
) -> None:
    pilot = Pilot(ToyDream(), seed=0, start=2)
    pilot.toggle_real()
    assert pilot.step(1).note is None
    real_toys[0].is_broken = True
    moment = pilot.step(2)
    assert moment.note == "the real game failed: the engine is gone"
    assert moment.real is None
    assert real_toys[0].is_closed
    assert pilot.step(3).note is None  # said once
    assert pilot.actions_taken == [1, 2, 3]
    # The key opens another one, at the same moment.
    assert pilot.toggle_real() is None
    assert pilot.moment.real is not None
    np.testing.assert_array_equal(pilot.moment.real.frame, pilot.moment.frame)
    assert len(real_toys) == 2
    # A restart that the real game doesn't survive is a restart all the same.
    for begin_again in (pilot.restart, pilot.another_start):
        if pilot.moment.real is None:
            pilot.toggle_real()
        real_toys[-1].is_broken = True  # fails on the way to the start
        assert begin_again() == "no real game for this moment: the engine is gone"
        assert pilot.moment.real is None
        assert pilot.moment.step_number == 0
        assert pilot.step(1).note is None
    assert all(toy.is_closed for toy in real_toys)


def test_a_killed_engine_leaves_the_dream_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DreamOfDoom(ToyDream):
        def real_moment(self, start: int) -> SimpleNamespace:
            return SimpleNamespace(
                env_id="DoomHealthGatheringSupreme-v0", env_kwargs={}, seed=1, actions=(3,)
            )

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the engine's folder is made there
    pilot = Pilot(DreamOfDoom(), seed=0)
    try:
        assert pilot.toggle_real() is None
        ((engine, _),) = engines_using(str(tmp_path))
        os.kill(engine, signal.SIGKILL)
        moment = pilot.step(1)
        assert (moment.note or "").startswith("the real game failed: ")
        assert "\n" not in (moment.note or "")
        assert not list(tmp_path.iterdir())  # closed: nothing is left of it
        assert pilot.step(3).action == 3
    finally:
        pilot.close()


def test_what_has_no_real_game_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "this is the real game" in (Pilot(ToyWorld(), seed=0).toggle_real() or "")
    pilot = Pilot(ToyDream(), seed=0)

    def unknown(_: int) -> None:
        raise ValueError("these frames are the user's own")

    monkeypatch.setattr(pilot.env, "real_moment", unknown)
    assert "the user's own" in (pilot.toggle_real() or "")
    assert pilot.moment.real is None


def test_a_checkpoint_cannot_have_code_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    pilot = Pilot(ToyDream(), seed=0)
    claimed = SimpleNamespace(env_id="antigravity:Toy-v0", env_kwargs={}, seed=0, actions=())
    monkeypatch.setattr(pilot.env, "real_moment", lambda _: claimed)
    assert "imports a module" in (pilot.toggle_real() or "")
    claimed.env_id = "os:Toy-v0"  # not even one that is imported
    assert "imports a module" in (pilot.toggle_real() or "")
    claimed.env_id, claimed.env_kwargs = "ToyReal-v0", {"height": 3}
    assert "no real game" in (pilot.toggle_real() or "")


def test_a_start_must_exist() -> None:
    with pytest.raises(UserError, match="from 0 to 2"):
        Pilot(ToyDream(), seed=0, start=3)
    with pytest.raises(UserError, match="for dreams"):
        Pilot(ToyWorld(), seed=0, start=0)


def test_what_keys_cannot_play_is_refused() -> None:
    env = ToyWorld()
    for space in (
        gymnasium.spaces.Box(-np.inf, np.inf, (2,)),
        gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2)]),
    ):
        env.action_space = space  # type: ignore[assignment]
        with pytest.raises(UserError, match=r"actions in .* (have no bounds|is needed)"):
            Pilot(env, seed=0)
    env = ToyWorld()
    env.observation_space = gymnasium.spaces.Box(0, 1, (4,))  # type: ignore[assignment]
    with pytest.raises(UserError, match="RGB"):
        Pilot(env, seed=0)


@pytest.mark.parametrize(
    ("space", "taken"),
    [
        (gymnasium.spaces.Discrete(3, start=5), 6),
        (
            gymnasium.spaces.MultiDiscrete(np.asarray([[2, 3]]), start=np.asarray([[7, 8]])),
            [[8, 9]],
        ),
        (gymnasium.spaces.MultiBinary((2, 1)), [[1], [0]]),
        (gymnasium.spaces.Box(-3, 9, (1, 2), np.int16), [[9, 0]]),
    ],
)
def test_any_fixed_space_is_played_in_its_own_actions(space: Any, taken: Any) -> None:
    given = []
    env: Any = ToyWorld()
    env.action_space, step = space, env.step
    env.step = lambda action: (given.append(action), step(np.int64(0)))[1]
    pilot = Pilot(env, seed=0)
    pilot.step(pilot.controls.resolve(("1", "right")))
    assert np.asarray(given).tolist() == [taken]


@pytest.mark.parametrize("world", [ToyWorld, ToyDream])
def test_a_session_plays_again(world: type[ToyWorld], tmp_path: Path) -> None:
    seen: list[Moment] = []
    pilot = Pilot(world(length=12), seed=3, watch=seen.append)
    summary = walk(pilot, num_steps=30, seed=1, stop=_never())
    assert summary.num_steps == 30
    assert summary.num_episodes > 1
    session = session_of(seen, tmp_path / "s.json")
    assert session.num_frames == len(seen) == 30 + summary.num_episodes

    again: list[Moment] = []
    replayed = ReplayPilot(world(length=12), session, watch=again.append)
    assert replayed.frames_agree is None
    play_through(replayed)
    assert (replayed.frames_agree, replayed.first_difference) == (True, None)
    assert replayed.num_frames == session.num_frames
    for one, other in zip(again, seen, strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)
    assert "replay" in replayed.restart()


def play_through(replayed: ReplayPilot) -> None:
    while not replayed.is_over:
        replayed.step(0)


def test_a_replay_says_where_it_differs_first(tmp_path: Path) -> None:
    seen: list[Moment] = []
    pilot = Pilot(ToyWorld(length=12), seed=3, watch=seen.append)
    walk(pilot, num_steps=20, seed=1, stop=_never())
    session = session_of(seen, tmp_path / "s.json")

    # A world that ends earlier is another world.
    shorter = ReplayPilot(ToyWorld(length=10), session)
    play_through(shorter)
    assert shorter.frames_agree is False
    assert shorter.first_difference == "the end at step 10 of episode 1 of 2"

    class Brighter(ToyWorld):
        """Another picture in the third step of the second life."""

        def _frame(self) -> np.ndarray:
            frame = super()._frame()
            frame[5, 5] = 9 * (self.root == 4 and len(self.actions) == 3)
            return frame

    brighter = ReplayPilot(Brighter(length=12), session)
    play_through(brighter)
    assert brighter.frames_agree is False
    assert brighter.first_difference == "the frame at step 3 of episode 2 of 2"


def test_dreams_are_compared_by_their_codes(tmp_path: Path) -> None:
    """Which decide all that follows; pixels may be rounded otherwise elsewhere."""

    class Coded(ToyDream):
        rounding = 0
        slip = 0

        @property
        def codes(self) -> np.ndarray:
            return np.asarray([self.root, *self.actions, self.slip])

        def _frame(self) -> np.ndarray:
            return super()._frame() + np.uint8(self.rounding)

    seen: list[Moment] = []
    walk(Pilot(Coded(), seed=3, watch=seen.append), num_steps=5, seed=1, stop=_never())
    session = session_of(seen, tmp_path / "s.json")
    other = Coded()
    other.rounding = 1
    replayed = ReplayPilot(other, session)
    play_through(replayed)
    assert replayed.frames_agree is True
    other = Coded()
    replayed = ReplayPilot(other, session)
    replayed.step(0)
    other.slip = 1
    play_through(replayed)
    assert replayed.first_difference == "the codes at step 2 of episode 1 of 1"


def test_grey_worlds_are_played_and_frames_are_kept_as_they_were() -> None:
    class Grey(ToyWorld):
        """Draws into one array."""

        observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 1), np.uint8)
        shown = np.zeros((64, 64, 1), np.uint8)

        def _frame(self) -> np.ndarray:
            self.shown[:] = super()._frame()[..., 1:2]
            return self.shown

    moments: list[Moment] = []
    pilot = Pilot(Grey(), seed=0, watch=moments.append)
    for _ in range(3):
        pilot.step(2)
    assert [moment.frame[0, 0].tolist() for moment in moments] == [[n] * 3 for n in (0, 2, 4, 6)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": (4,)}, "action outside"),
        ({"start": 3}, "start 3 of only 3"),
        ({"start": None}, "needs a start"),
    ],
)
def test_a_session_of_another_world_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pilot = Pilot(ToyDream(), seed=0)
    session = session_of([pilot.moment], tmp_path / "s.json")
    episode = dataclasses.replace(session.episodes[0], **change)
    with pytest.raises(UserError, match=message):
        ReplayPilot(ToyDream(), dataclasses.replace(session, episodes=(episode,)))
    with pytest.raises(UserError, match="session's frames"):
        ReplayPilot(ToyDream(), dataclasses.replace(session, frame_size=(32, 32)))


def test_a_random_walk_holds_its_actions_and_mostly_goes_forward() -> None:
    wanderer, same = (RandomWalk(actions_of(ToyWorld()).spec, seed=5) for _ in range(2))
    actions = [wanderer.next_action() for _ in range(4000)]
    assert actions == [same.next_action() for _ in range(4000)]
    forward = actions.count(3) / len(actions)
    assert 0.4 < forward < 0.6
    assert set(actions) == {0, 1, 2, 3}
    changes = sum(a != b for a, b in itertools.pairwise(actions))
    assert changes < len(actions) / 4


def test_what_is_drawn_from_one_seed_is_drawn_independently() -> None:
    """The walk, a dream's first start, and an action space that a user seeds alike."""
    steps, starts, others = [], [], []
    dream = ToyDream()
    dream.num_starts = 1000
    for seed in range(300):
        steps.append(RandomWalk(actions_of(ToyWorld()).spec, seed=seed)._random.random())
        starts.append(Pilot(dream, seed=seed).start)
        others.append(np.random.default_rng(seed).random())
    correlations = np.corrcoef([steps, starts, others])[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 0.25


def _never() -> Any:
    return SimpleNamespace(is_set=lambda: False)
