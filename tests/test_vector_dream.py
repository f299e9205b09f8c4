"""Many dreams at once are what single ones are, in Gymnasium's words and stable-baselines3's."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecTransposeImage

import envs  # noqa: F401  registers the environments
from envs.dream import STREAM, DreamEnv
from envs.dream_world import Moment
from envs.sb3 import DreamVecEnv
from envs.vector_dream import DreamVectorEnv
from worldmodel import randomness
from worldmodel.data import EpisodeReader

NUM_ENVS = 3
HORIZON = 4


@pytest.fixture
def make(tiny_run: Path):
    """Makes vector environments of the tiny dream; ends are drawn, and the horizon is short."""
    made = []

    def make_vec(**kwargs):
        arguments = {"checkpoint": str(tiny_run), "horizon": HORIZON, **kwargs}
        made.append(gymnasium.make_vec("VideoGPTDream-v0", num_envs=NUM_ENVS, **arguments))
        return made[-1]

    yield make_vec
    for env in made:
        env.close()


def assert_same_frames(left: Any, right: Any) -> None:
    """Up to the last bit of a pixel: a batch rounds otherwise than a single dream."""
    assert np.abs(left.astype(int) - right.astype(int)).max() <= 1


def assert_same_infos(left: dict, right: dict) -> None:
    assert set(left) == set(right)
    for name, value in left.items():
        if isinstance(value, dict):
            assert_same_infos(value, right[name])
        elif name == "final_obs":
            for a, b in zip(value, right[name], strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    assert_same_frames(a, b)
        else:
            assert value.dtype == right[name].dtype, name
            mask = left.get(f"_{name}", np.ones(NUM_ENVS, bool))
            np.testing.assert_allclose(value[mask], right[name][mask], rtol=1e-4, err_msg=name)


def assert_same_step(left: tuple, right: tuple) -> None:
    assert_same_frames(left[0], right[0])
    for a, b in zip(left[1:-1], right[1:-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert a.dtype == b.dtype
    assert_same_infos(left[-1], right[-1])


@pytest.mark.parametrize(
    ("mode", "guidance"), [*((mode, 0.0) for mode in AutoresetMode), (AutoresetMode.NEXT_STEP, 2.0)]
)
def test_a_batch_is_what_single_dreams_are(make, mode, guidance):
    """Held against Gymnasium's own vector of single dreams, through ends and new beginnings."""
    batch = make(autoreset_mode=mode, guidance=guidance)
    singles = make(
        vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, guidance=guidance
    )
    assert batch.metadata["autoreset_mode"] is mode
    assert batch.observation_space == singles.observation_space
    assert batch.action_space == singles.action_space
    assert_same_step(batch.reset(seed=7), singles.reset(seed=7))
    batch.action_space.seed(0)
    assert batch.np_random_seed == singles.np_random_seed
    some_ended = False
    for _ in range(3 * HORIZON):
        actions = batch.action_space.sample()
        steps = batch.step(actions), singles.step(actions)
        assert_same_step(*steps)
        over = steps[0][2] | steps[0][3]
        codes = batch.get_state().dream.codes
        for i in np.flatnonzero(~over):  # what is dreamed is the same to the bit
            assert torch.equal(codes[i], singles.envs[i].unwrapped.get_state().dream.codes[0])
        some_ended |= over.any() and not over.all()
        if mode is AutoresetMode.DISABLED and over.any():
            with pytest.raises(gymnasium.error.ResetNeeded):
                batch.step(actions)
            resets = [env.reset(options={"reset_mask": over}) for env in (batch, singles)]
            assert_same_step(*resets)
    assert some_ended


def test_one_dream_begins_anew_and_the_others_go_on(make):
    batch, untouched = make(), make()
    alone = make(vectorization_mode="sync").envs[0]
    for env in (batch, untouched):
        env.reset(seed=0)
        assert not any(env.step([0, 1, 0])[2])
    frames, infos = batch.reset(
        seed=[None, 5, None], options={"reset_mask": np.array([False, True, False])}
    )
    assert infos["_start"].tolist() == [False, True, False]
    assert_same_frames(frames[1], alone.reset(seed=5)[0])
    for _ in range(3 * HORIZON):
        frames, _, terminated, truncated, _ = batch.step([1, 1, 1])
        others = untouched.step([1, 1, 1])
        np.testing.assert_array_equal(frames[[0, 2]], others[0][[0, 2]])
        single = alone.step(1)
        assert_same_frames(frames[1], single[0])
        assert (terminated[1], truncated[1]) == single[2:4]
        if terminated[1] or truncated[1]:
            break


def test_each_dream_has_its_seed_and_its_start(make):
    batch = make()
    frames, infos = batch.reset(seed=3, options={"start": [1, 0, 1]})
    assert infos["start"].tolist() == [1, 0, 1]
    assert (frames[0] != frames[1]).any()
    again, _ = batch.reset(seed=[3, 4, 5], options={"start": [1, 0, 1]})
    np.testing.assert_array_equal(frames, again)
    one_start, infos = batch.reset(seed=0, options={"start": 1})
    assert infos["start"].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(one_start[1], frames[2])


def test_what_is_handed_out_is_the_callers(make):
    """Whoever writes over frames, infos and states changes nothing in the dreams."""
    mode = AutoresetMode.SAME_STEP
    batch, untouched = make(autoreset_mode=mode), make(autoreset_mode=mode)
    outcomes = [env.reset(seed=4) for env in (batch, untouched)]
    for _ in range(2 * HORIZON):
        assert_same_frames(outcomes[0][0], outcomes[1][0])
        overwrite(outcomes[0])
        overwrite(batch.get_state().frames)
        overwrite([rng.bit_generator.state for rng in batch.np_random])
        outcomes = [env.step(np.array([0, 1, 1])) for env in (batch, untouched)]
        np.testing.assert_array_equal(outcomes[0][0], outcomes[1][0])
        np.testing.assert_array_equal(outcomes[0][1], outcomes[1][1])


def overwrite(given) -> None:
    if isinstance(given, dict):
        overwrite(list(given.values()))
        given.clear()
    elif isinstance(given, list | tuple):
        for part in given:
            overwrite(part)
    elif isinstance(given, np.ndarray) and given.dtype == object:
        overwrite([part for part in given if part is not None])
    elif isinstance(given, np.ndarray):
        given[...] = 0


def test_moments_of_ones_own_are_copied(tiny_run: Path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64, 3), np.uint8)
    none = np.zeros((0,), np.int64)
    moments = [Moment(frame, none, np.zeros((1, 1), np.float32)) for frame in frames]
    dreams = DreamVectorEnv(2, str(tiny_run), starts=moments)
    before, _ = dreams.reset(seed=0)
    frames[:] = 0
    np.testing.assert_array_equal(dreams.reset(seed=0)[0], before)


def test_no_temperature_is_a_temperature_too_low_to_draw_with(make):
    """In a batch, by PyTorch, and alone, by the compiled head."""
    histories = []
    for temperature in (0, 1e-46, 1e-40, 1e-31):
        batch = make(temperature=temperature)
        single = DreamEnv(str(batch.world.folder), temperature=temperature)
        batch.reset(seed=2)
        single.reset(seed=2)
        codes = []
        for _ in range(3):
            batch.step([1, 1, 1])
            single.step(1)
            codes.append(batch.get_state().dream.codes.tolist())
            assert single.codes.tolist() == codes[-1][0]
            if single._dreams.is_over[0]:
                break
        histories.append(codes)
    assert histories[1:] == histories[:1] * 3


def test_a_moment_of_another_checkpoint_is_refused(make, tiny_run):
    dreams = make()
    dreams.reset(seed=0)
    single = DreamEnv("dream-doom")
    single.reset(seed=0)
    with pytest.raises(ValueError, match="a checkpoint of another size"):
        dreams.branch(single.get_state())
    own = DreamEnv(str(tiny_run))
    with pytest.raises(ValueError, match="a checkpoint of another size"):
        own.set_state(single.get_state())
    alike = DreamEnv("dream-battle2")  # of the same sizes but for the variables
    with pytest.raises(ValueError, match="a checkpoint of another size"):
        alike.set_state(single.get_state())


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_a_state_given_back_goes_on_as_if_never_left(make, guidance):
    batch = make(guidance=guidance)
    batch.reset(seed=0)
    batch.step([0, 1, 1])
    state = batch.get_state()
    history = [batch.step([1, 0, 1]) for _ in range(HORIZON + 2)]
    batch.reset(seed=99)
    for _ in range(2):
        batch.set_state(state)
        for step in history:
            assert_same_step(batch.step([1, 0, 1]), step)


def test_futures_of_one_moment_are_those_of_a_single_dream(make, tiny_run: Path):
    single = DreamEnv(str(tiny_run))
    single.reset(seed=1)
    single.step(1)
    state = single.get_state()
    futures = make(horizon=None)
    frames, _ = futures.branch(state, seed=20)
    assert (frames == state.frames[0]).all()
    branched = [futures.step([1, 1, 1])[0] for _ in range(3)]
    for i in range(NUM_ENVS):
        single.set_state(state)
        single.np_random = randomness.generator(20 + i, STREAM)
        for frames in branched:
            frame, _, terminated, _, _ = single.step(1)
            assert_same_frames(frame, frames[i])
            if terminated:
                break
    single.close()


def test_memory_grows_with_what_dreams_keep_alone(tiny_run: Path):
    def num_bytes(num_envs: int) -> int:
        env = DreamVectorEnv(num_envs, str(tiny_run))
        env.reset(seed=0)
        env.step(env.action_space.sample())
        dream = env.get_state().dream
        parts = [*vars(dream).values()]
        for state in (dream.memory, dream.memory.keyframes):
            parts += vars(state).values()
        tensors = [part for part in parts if isinstance(part, torch.Tensor)]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    assert num_bytes(8) == 8 * num_bytes(1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"autoreset_mode": "Never"}, "Never"),
        ({"render_mode": "human"}, "render_mode"),
        ({"starts_at": "reset"}, "needs starts"),
        ({"starts": "/nowhere"}, "/nowhere"),
    ],
)
def test_wrong_arguments_are_refused(tiny_run: Path, wrong, message):
    arguments = {"num_envs": 2, "checkpoint": str(tiny_run), **wrong}
    with pytest.raises(ValueError, match=message):
        gymnasium.make_vec("VideoGPTDream-v0", **arguments)


def test_wrong_calls_are_refused(make):
    batch = make()
    with pytest.raises(gymnasium.error.ResetNeeded):
        batch.step([0, 0, 0])
    with pytest.raises(gymnasium.error.ResetNeeded):
        batch.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(ValueError, match="3 seeds"):
        batch.reset(seed=[1, 2])
    batch.reset(seed=0)
    for actions in ([0, 0], [0, 0, 2], [0.5, 0.0, 0.0]):
        with pytest.raises(ValueError, match="action"):
            batch.step(actions)
    with pytest.raises(ValueError, match="reset_mask"):
        batch.reset(options={"reset_mask": np.zeros(3, bool)})
    for start in ([0, 1], [0, 1, [1, 2]], [0, 1, 0.5], [0, 1, float("inf")], 10**30, "one"):
        with pytest.raises(ValueError, match="start must be"):
            batch.reset(options={"start": start})
    with pytest.raises(ValueError, match="unknown reset options"):
        batch.reset(options={"begin": 1})


def test_dreams_begin_where_recorded_episodes_say(tiny_run: Path, toy_data: Path):
    at_reset = DreamVectorEnv(8, str(tiny_run), starts=str(toy_data), starts_at="reset")
    _, infos = at_reset.reset(seed=0)
    assert (infos["column"] == 0).all()  # every toy episode begins in column 0
    anywhere = DreamVectorEnv(8, str(tiny_run), starts=str(toy_data))
    _, infos = anywhere.reset(seed=0)
    assert (infos["column"] > 0).any()
    assert anywhere.num_starts > 1
    single = DreamEnv(str(tiny_run), starts=str(toy_data), starts_at="reset")
    assert single.reset(seed=0)[1]["column"] == 0
    assert len(single.real_moment(3).actions) == 0


def test_dreams_begin_at_moments_of_ones_own(tiny_run: Path, toy_data: Path):
    episode = EpisodeReader(toy_data).episode(0)
    moments = [
        Moment(episode.frames[t : t + 3], episode.action[t : t + 2], episode.variables[t : t + 3])
        for t in (0, 4)
    ]
    dreams = DreamVectorEnv(2, str(tiny_run), starts=moments)
    _, infos = dreams.reset(seed=0, options={"start": [1, 0]})
    assert infos["column"].tolist() == [episode.variables[6, 0], episode.variables[2, 0]]
    single = DreamEnv(str(tiny_run), starts=moments)
    with pytest.raises(ValueError, match="your own moments"):
        single.real_moment(0)
    shorter = Moment(episode.frames[:1], episode.action[:0], episode.variables[:1])
    for wrong in ([], [*moments, shorter]):
        with pytest.raises(ValueError, match="moment, all of the same length"):
            DreamEnv(str(tiny_run), starts=wrong)


def test_the_rendered_frames_are_those_seen(make):
    batch = make(render_mode="rgb_array")
    frames, _ = batch.reset(seed=0)
    np.testing.assert_array_equal(np.stack(batch.render()), frames)


def test_sb3_sees_what_it_sees_of_single_dreams(tiny_run: Path):
    """Held against stable-baselines3's own vector of single dreams."""
    arguments = {"checkpoint": str(tiny_run), "horizon": HORIZON}
    batch = DreamVecEnv(NUM_ENVS, **arguments)
    singles = DummyVecEnv(
        [lambda: gymnasium.make("VideoGPTDream-v0", **arguments).unwrapped] * NUM_ENVS
    )
    for env in (batch, singles):
        env.seed(11)
    assert_same_frames(batch.reset(), singles.reset())
    assert batch.reset_infos == singles.reset_infos
    rng = np.random.default_rng(0)
    for _ in range(2 * HORIZON + 1):
        actions = rng.integers(0, 2, NUM_ENVS)
        left, right = batch.step(actions), singles.step(actions)
        assert_same_frames(left[0], right[0])
        np.testing.assert_allclose(left[1], right[1], rtol=1e-4, atol=1e-6)
        assert left[1].dtype == right[1].dtype
        np.testing.assert_array_equal(left[2], right[2])
        for a, b in zip(left[3], right[3], strict=True):
            assert set(a) == set(b)
            if "terminal_observation" in a:
                assert_same_frames(a.pop("terminal_observation"), b.pop("terminal_observation"))
            assert a == pytest.approx(b, rel=1e-4)
        assert batch.reset_infos == singles.reset_infos
    batch.close()


def test_ppo_learns_in_the_dream(tiny_run: Path):
    """To go right is what the toy rewards: a dream of it teaches that."""
    dreams = VecTransposeImage(
        VecMonitor(DreamVecEnv(4, checkpoint=str(tiny_run), horizon=HORIZON))
    )
    model = PPO("CnnPolicy", dreams, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    assert model.num_timesteps == 64
    assert len(model.ep_info_buffer or ()) >= 4
    dreams.close()
