"""Poses: told by environments, recorded, drawn, and predicted before the frame."""

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import toy_episode
from data_samples import INFO, sample_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from scipy.stats import norm
from vizdoom import GameVariable

import envs  # noqa: F401  registers the environments
from collect.explorer import Explorer
from collect.recorder import EXPLORER, RANDOM, Job, play_episode
from worldmodel.checkpoint import load_checkpoint
from worldmodel.configs.dream import RECENT, FrameGPTConfig, VQVAEConfig, WorldModelConfig
from worldmodel.configs.presets import PRESETS
from worldmodel.data import DatasetInfo, EpisodeReader, EpisodeWriter
from worldmodel.data.importers.pipeline import PoseOptions
from worldmodel.data.merge import merge
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import NO_POSE, PoseSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.metrics.perceptual import LITE0, is_installed
from worldmodel.prior.frame_gpt import FrameGPT
from worldmodel.prior.layers import encode_actions
from worldmodel.prior.memory import Here, Past, empty_memory
from worldmodel.prior.place import Moments
from worldmodel.prior.pose import Locator, Mixture, PoseHead, PoseSpace, linear_motion
from worldmodel.prior.stepping import step
from worldmodel.train import Train, train
from worldmodel.training.codes import CodedEpisodes
from worldmodel.training.dream import train_preset
from worldmodel.training.moments import HINDERED, MomentSampler
from worldmodel.training.prior_losses import prior_losses

PLANE = PoseSpec(("x", "y"), "angle")
POSED = replace(INFO, pose=PLANE)


def _with_pose(i: int):
    episode = sample_episode(i)
    pose = np.random.default_rng(i).uniform(0, 300, (len(episode.frames), 3)).astype(np.float32)
    return replace(episode, pose=pose)


def test_a_pose_is_stored_and_drawn(tmp_path: Path):
    with EpisodeWriter(tmp_path, POSED) as writer:
        for i in range(10):
            writer.append(_with_pose(i))
    reader = EpisodeReader(tmp_path)
    assert reader.info.pose == PLANE
    for i in range(10):
        np.testing.assert_array_equal(reader.episode(i).pose, _with_pose(i).pose)
    report = verify(tmp_path)
    assert report.problems == []
    assert any(line.startswith("pose         angle: ") for line in report.lines)
    assert (tmp_path / "floor-plan.png").stat().st_size > 1000


def test_sets_with_and_without_a_pose_do_not_mix(tmp_path: Path):
    with EpisodeWriter(tmp_path, INFO) as writer:
        writer.append(sample_episode(0))
    assert EpisodeReader(tmp_path).steps(0)["pose"].shape[1] == 0
    with pytest.raises(UserError, match="episodes of another kind: pose"):
        EpisodeWriter(tmp_path, POSED)
    old = INFO.to_json()
    del old["pose"]  # as sets said it before there were poses
    assert DatasetInfo.from_json(old).pose == NO_POSE


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pose_that_is_not_finite_is_refused(tmp_path: Path, value):
    episode = _with_pose(0)
    episode.pose[2, 1] = value
    with (
        EpisodeWriter(tmp_path, POSED) as writer,
        pytest.raises(UserError, match="pose holds a value that is not finite"),
    ):
        writer.append(episode)


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": ("x", "x")},
        {"position": ("x", "y", "z", "w")},
        {"position": ("x",), "heading": "angle"},
        {"position": ("x", "y"), "heading": "angle", "full_turn": 0.0},
        {"position": ("x\n", "y")},
    ],
)
def test_what_is_no_pose_is_refused(wrong):
    with pytest.raises(ValueError, match=r"pose|heading|full_turn|name"):
        PoseSpec(**wrong)


def test_an_import_refuses_a_part_of_a_pose_without_a_position():
    assert PoseOptions(pose=("x", "y"), new_levels=True).pose_spec.new_levels
    with pytest.raises(UserError, match="--heading needs --pose"):
        _ = PoseOptions(heading="angle").pose_spec
    with pytest.raises(UserError, match="--new-levels needs --pose"):
        _ = PoseOptions(new_levels=True).pose_spec


def test_doom_tells_where_the_player_is():
    env = gymnasium.make("DoomHealthGatheringSupreme-v0")
    game = env.unwrapped._game  # pyright: ignore[reportAttributeAccessIssue]
    _, info = env.reset(seed=1)
    before = np.array([info[name] for name in ("x", "y", "angle")])
    for _ in range(6):
        _, _, _, _, info = env.step(3)
    for name, variable in (("x", GameVariable.POSITION_X), ("angle", GameVariable.ANGLE)):
        assert info[name] == game.get_game_variable(variable)
    moved = np.array([info["x"], info["y"]]) - before[:2]
    heading = math.radians(before[2])  # forward is where it looks, counterclockwise from x
    assert np.dot(moved, [math.cos(heading), math.sin(heading)]) > 0.9 * np.linalg.norm(moved)
    angle = info["angle"]
    for _ in range(3):
        _, _, _, _, info = env.step(1)
    assert 0 < (info["angle"] - angle) % 360 < 180  # a turn to the left grows it
    env.close()


def test_an_explorer_sees_more_of_the_level_than_chance_and_comes_back():
    env = gymnasium.make("DoomHealthGatheringSupreme-v0")
    cells = {}
    for behaviour, actor in ((EXPLORER, Explorer(env)), (RANDOM, None)):
        visited = [
            {
                tuple(cell)
                for cell in play_episode(env, Job(i, i, 50 + i, behaviour, 200), actor).pose[:, :2]
                // 64
            }
            for i in range(6)
        ]
        cells[behaviour.name] = sum(map(len, visited))
    env.close()
    assert cells["exploring"] > 1.3 * cells["random"]


poses = st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(0, 359))


@settings(deadline=None)
@given(poses, poses)
def test_a_displacement_leads_from_one_pose_to_the_other(before, after):
    space = PoseSpace(PLANE)
    space.low.fill_(0)
    space.high.fill_(100)
    first, last = (torch.tensor([pose], dtype=torch.float64) for pose in (before, after))
    again = space.moved(first, space.displacement(first, last))
    torch.testing.assert_close(again[:, :2], last[:, :2], atol=1e-4, rtol=0)
    off = (again[0, 2] - last[0, 2] + 180) % 360 - 180
    assert abs(float(off)) < 1e-3


def test_forward_is_where_the_player_looks():
    space = PoseSpace(PLANE)
    before = torch.tensor([[50.0, 50.0, 90.0]])
    after = torch.tensor([[50.0, 60.0, 120.0]])
    torch.testing.assert_close(
        space.displacement(before, after), torch.tensor([[10.0, 0.0, math.pi / 6]])
    )


def test_the_density_is_that_of_the_mixture():
    head = PoseHead(PoseSpace(PLANE), 4, 8, 16)
    rng = np.random.default_rng(0)
    logits, means, log_scales = rng.normal(size=2), rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    mixture = Mixture(*(torch.tensor(part)[None] for part in (logits, means, log_scales)))
    before = torch.tensor([[20.0, 30.0, 40.0]], dtype=torch.float64)
    after = torch.tensor([[20.5, 30.2, 50.0]], dtype=torch.float64)
    value = head.space.displacement(before, after)[0].numpy()
    weights = np.exp(logits) / np.exp(logits).sum()
    density = weights @ norm.pdf(value, means, np.exp(log_scales)).prod(1)
    assert float(head.nats(mixture, before, after)) == pytest.approx(-np.log(density))


def test_a_frame_that_looks_like_another_place_costs_a_few_nats():
    space = PoseSpace(PLANE)
    space.measure([torch.tensor([[0.0, 0.0, 0.0], [200.0, 100.0, 90.0]])])
    locator, scale = Locator(space, 8, 16), 0.01
    # Surely in the middle of the level, looking along x.
    means = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]], dtype=torch.float64)
    sure = Mixture(means[..., 0], means, torch.full_like(means, math.log(scale)))
    poses = torch.tensor([[100.0, 50.0, 0.0], [100.0, 50.5, 0.0], [200.0, 100.0, 180.0]])
    there, near, elsewhere = locator.nats(sure, poses.double()).tolist()
    anywhere = 0.001 / 2**4  # half the level's size is 1, as are sine and cosine
    peak = norm.pdf(0, 0, scale) ** 3
    assert there == pytest.approx(-math.log(0.999 * peak * norm.pdf(0, 0, scale) + anywhere))
    assert near == pytest.approx(-math.log(0.999 * peak * norm.pdf(0.01, 0, scale) + anywhere))
    assert elsewhere == pytest.approx(-math.log(anywhere))


def _prior(window: int = 4, recalled: int = 0, pose: PoseSpec = PLANE) -> FrameGPT:
    torch.manual_seed(0)
    world = WorldModelConfig(
        actions=ActionSpec("discrete", (4,)),
        variable_names=("health",),
        tokenizer=VQVAEConfig(frame_shape=(32, 32, 3), num_codes=8),
        prior=FrameGPTConfig(
            width=32,
            layers=2,
            heads=2,
            window=window,
            head_width=16,
            head_heads=2,
            map_width=24,
            recalled=recalled,
        ),
        pose=pose,
    )
    prior = FrameGPT(world).eval()
    for parameter in prior.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    assert prior.place is not None
    prior.place.space.high.fill_(300)
    if prior.recall is not None:
        prior.recall.code.normal_()
    return prior


def _clips(prior: FrameGPT, num_frames: int = 9):
    torch.manual_seed(0)  # whatever the prior has drawn
    codes = torch.randint(8, (2, num_frames, *prior.grid, 1))
    actions = torch.eye(4)[torch.randint(4, (2, num_frames - 1))]
    variables = torch.randn(2, num_frames, 1)
    poses = torch.rand(2, num_frames, 3) * 300
    known = torch.ones(2, num_frames, dtype=torch.bool)
    known[1] = False
    return codes, actions, variables, Past(poses, known, torch.zeros(2, num_frames - 1) > 0)


def test_stepping_equals_the_full_pass_given_the_poses(monkeypatch):
    prior = _prior()
    codes, actions, variables, past = _clips(prior)
    states: list[torch.Tensor] = []
    prior.norm.register_forward_hook(lambda _m, _i, output: states.append(output))  # type: ignore
    with torch.no_grad():
        expected = prior(codes[:, :-1], actions, variables[:, :-1], codes[:, 1:], past=past)
    full = states.pop()
    assert prior.place is not None
    mixtures: list[Mixture] = []

    def recorded(mixture, before, uniforms, temperature):
        mixtures.append(mixture)
        return past.poses[:, len(mixtures)]  # the pose that came

    monkeypatch.setattr(prior.place.head, "sample", recorded)
    memory = empty_memory(prior.world, 2, torch.device("cpu"))
    for t in range(actions.shape[1]):
        states.clear()
        here = Here(past.poses[:, t], past.known[:, t])
        uniforms = torch.rand(2, prior.head.num_tokens + 1 + prior.world.num_pose_uniforms)
        given = (codes[:, t], actions[:, t], variables[:, t], uniforms, Sampling(temperature=0))
        _, memory = step(prior, memory, *given, here)
        torch.testing.assert_close(states[-1], full[:, t], atol=5e-5, rtol=1e-5)
        assert expected.pose is not None
        for mine, whole in zip(mixtures[-1], expected.pose, strict=True):
            torch.testing.assert_close(mine, whole[:, t], atol=5e-5, rtol=1e-5)


def test_poses_are_predicted_and_read_off_frames_in_float32_even_where_training_is_in_bf16():
    prior = _prior(window=4)
    place = prior.place
    assert place is not None
    poses, actions = 300 * torch.rand(8, 1 + RECENT, 3), torch.rand(8, 1 + RECENT, 4)
    known = torch.ones(8, 1 + RECENT, dtype=torch.bool)
    codes = torch.randint(8, (8, 1, *prior.grid, 1))
    frames = prior.code(codes).flatten(1)
    predicted, read = place.predict(poses, known, actions), place.locator(frames)
    with torch.autocast("cpu", torch.bfloat16):
        others = place.predict(poses, known, actions), place.locator(frames)
    for wanted, found in zip((*predicted, *read), itertools.chain(*others), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_later_pose_changes_nothing_before():
    prior = _prior()
    codes, actions, variables, past = _clips(prior)

    def logits(poses):
        with torch.no_grad():
            told = past._replace(poses=poses)
            return prior(codes[:, :-1], actions, variables[:, :-1], codes[:, 1:], past=told)

    changed = past.poses.clone()
    changed[:, 6:] += 50
    before, after = logits(past.poses), logits(changed)
    assert torch.equal(before.logits[:, :5], after.logits[:, :5])  # row 5 draws frame 6
    assert not torch.equal(before.logits[:, 5], after.logits[:, 5])


def test_a_hidden_frame_tells_nothing():
    prior = _prior()
    codes, actions, variables, past = _clips(prior)
    hidden = past._replace(hidden=torch.ones_like(past.hidden))
    with torch.no_grad():
        first, second = (
            prior(c[:, :-1], actions, variables[:, :-1], codes[:, 1:], past=hidden).logits
            for c in (codes, (codes + 3) % 8)
        )
    assert torch.equal(first, second)


def test_unknown_poses_tell_nothing_whatever_stands_there():
    prior = _prior()
    codes, actions, variables, past = _clips(prior)
    unknown = past._replace(known=torch.zeros_like(past.known))
    with torch.no_grad():
        first, second = (
            prior(codes[:, :-1], actions, variables[:, :-1], codes[:, 1:], past=told).logits
            for told in (unknown, unknown._replace(poses=unknown.poses + 70))
        )
    assert torch.equal(first, second)


@given(st.floats(-500, 500), st.floats(-500, 500), st.floats(0, 360), st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_where_every_level_is_new_a_dream_is_the_same_anywhere(x, y, angle, seed):
    """Poses moved and turned as one change nothing but the predicted pose, moved likewise."""
    prior = _prior(recalled=2, pose=replace(PLANE, new_levels=True))
    assert prior.place is not None
    codes, actions, variables, _ = _clips(prior, num_frames=14)
    torch.manual_seed(seed)
    poses = torch.cat([torch.randn(2, 14, 2).cumsum(1) * 9, torch.rand(2, 14, 1) * 360], -1)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = torch.tensor([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    elsewhere = poses @ turn + torch.tensor([x, y, angle])

    def predicted(poses: torch.Tensor):
        with torch.no_grad():
            past = prior.whole_past(codes[:, :-1], poses)
            assert past.older is not None
            assert past.older.present.any()
            return prior(codes[:, :-1], actions, variables[:, :-1], codes[:, 1:], past=past)

    here, there = predicted(poses), predicted(elsewhere)
    torch.testing.assert_close(there.logits, here.logits, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(there.pose, here.pose, atol=2e-3, rtol=2e-3)
    step = torch.randn(2, 3)
    moved, moved_there = (prior.place.space.moved(p[:, -1], step) for p in (poses, elsewhere))
    off = (moved @ turn + torch.tensor([x, y, angle]) - moved_there).abs()
    assert off[:, :2].max() < 1e-2
    assert torch.minimum(off[:, 2] % 360, -off[:, 2] % 360).max() < 1e-2
    assert moved_there[:, :2].isfinite().all()


def test_a_set_without_a_pose_is_joined_where_that_is_asked_for(tmp_path: Path):
    for name, info, ids in (("told", POSED, range(10)), ("untold", INFO, range(10, 20))):
        with EpisodeWriter(tmp_path / name, info) as writer:
            for i in ids:
                writer.append(_with_pose(i) if info is POSED else sample_episode(i))
    folders = [tmp_path / "untold", tmp_path / "told"]
    with pytest.raises(UserError, match="--unknown-poses joins sets of which only some tell"):
        merge(folders, tmp_path / "refused")
    assert merge(folders, tmp_path / "joined", unknown_poses=True) == (20, 0)
    reader = EpisodeReader(tmp_path / "joined")
    assert reader.info.pose == PLANE
    for i in range(10):
        np.testing.assert_array_equal(reader.episode(i).pose, _with_pose(i).pose)
        assert np.isnan(reader.episode(10 + i).pose).all()
    assert verify(tmp_path / "joined").problems == []


def test_episodes_of_unknown_pose_are_learned_too(posed_data: Path, toy_data: Path, tmp_path: Path):
    joined, out = tmp_path / "joined", tmp_path / "run"
    with EpisodeWriter(tmp_path / "other", EpisodeReader(toy_data).info) as writer:
        for i in range(20):
            writer.append(toy_episode(100 + i))
    merge([posed_data, tmp_path / "other"], joined, unknown_poses=True)
    train(Train(preset="tiny", data=joined, out=out, device="cpu", precision="fp32"))
    checkpoint = load_checkpoint(str(out))
    assert checkpoint.model.prior.place is not None
    assert checkpoint.model.prior.place.space.high[0] <= 48
    assert np.isfinite(checkpoint.starts.poses).all()


def test_a_world_whose_pose_is_not_used_is_learned_without(posed_data: Path, tmp_path: Path):
    tiny = PRESETS["tiny"]
    preset = replace(tiny, prior=replace(tiny.prior, map_width=0))
    options = Train(preset="tiny", data=posed_data, out=tmp_path / "run", device="cpu")
    train_preset(preset, replace(options, precision="fp32"))
    train_preset(preset, replace(options, precision="fp32", stage="decoder"))
    checkpoint = load_checkpoint(str(tmp_path / "run"))
    assert checkpoint.starts.poses.shape[-1] == 0
    env = gymnasium.make("VideoGPTDream-v0", checkpoint=str(tmp_path / "run"))
    assert "pose" not in env.reset(seed=0)[1]


def test_a_world_of_new_levels_is_learned_and_dreamed(posed_data: Path, tmp_path: Path):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(posed_data, data)
    meta = json.loads((data / "meta.json").read_text())
    meta["pose"]["new_levels"] = True
    (data / "meta.json").write_text(json.dumps(meta))
    assert EpisodeReader(data).info.pose.new_levels
    train(Train(preset="tiny", data=data, out=run, device="cpu", precision="fp32"))
    env = gymnasium.make("VideoGPTDream-v0", checkpoint=str(run))
    assert env.get_wrapper_attr("pose_range") is None
    frames = EpisodeReader(data).episode(0).frames[:3]
    _, info = env.reset(seed=0, options={"frames": frames, "actions": [0, 1]})
    for _ in range(5):
        *_, info = env.step(1)
    assert np.isfinite(info["pose"]).all()


def _corridors() -> PoseSpace:
    """A level of 300 x 300 with a wall from x = 100 to 200, which ends at y = 200."""
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 300, (60_000, 2)).astype(np.float32)
    is_wall = (places[:, 0] > 100) & (places[:, 0] < 200) & (places[:, 1] < 200)
    poses = np.pad(places[~is_wall], ((0, 0), (0, 1)))
    space = PoseSpace(PLANE)
    space.measure([torch.from_numpy(poses)])
    space.draw_floor([torch.from_numpy(poses[1000:])], [torch.from_numpy(poses[:1000])])
    return space


def _walked(space: PoseSpace, start: list[float], forward: float, num_steps: int = 1) -> np.ndarray:
    pose = torch.tensor([start]).float()
    for _ in range(num_steps):
        pose = space.moved(pose, torch.tensor([[forward, 0.0, 0.0]]))
    return pose[0].numpy()


def test_a_player_walks_neither_into_walls_nor_through_them_but_along_them():
    space = _corridors()
    assert _walked(space, [30, 50, 0], 30, 2)[:2] == pytest.approx([90, 50], abs=1e-3)
    x, y, _ = _walked(space, [90, 50, 0], 30, 20)
    assert 95 < x < 105
    assert y == pytest.approx(50)
    x, y, _ = _walked(space, [90, 50, 45], 10, 10)  # degrees: half of the way is along the wall
    assert 95 < x < 105
    assert y == pytest.approx(50 + 100 * math.sin(math.pi / 4), abs=3)
    x, y, _ = _walked(space, [90, 150, 45], 20, 10)  # around the wall's end
    assert x > 150
    inside = _walked(space, [150, 50, 0], 10)
    assert inside[:2] == pytest.approx([160, 50], abs=1e-3)  # whoever is in a wall can leave it


def test_where_data_do_not_cover_the_level_walls_are_unknown():
    rng = np.random.default_rng(0)
    poses = torch.from_numpy(np.pad(rng.uniform(0, 300, (200, 2)), ((0, 0), (0, 1)))).float()
    space = PoseSpace(PLANE)
    space.measure([poses])
    space.draw_floor([poses[:100]], [poses[100:]])
    assert space.floor is not None
    assert not space.floor.distance.any()
    space = PoseSpace(PoseSpec(("x", "y", "z")))
    space.draw_floor([], [])
    assert space.floor is None


def test_the_linear_motion_is_that_of_players_whom_nothing_hinders():
    """A body with friction, pushed where it looks, which half of the time turns; walls stop one in
    ten."""
    rng = np.random.default_rng(0)
    space = PoseSpace(PLANE)
    head, count = PoseHead(space, 2, 4, 16), 5000
    actions = np.eye(2)[rng.integers(2, size=(count, RECENT + 6))]  # on, and turn
    place, heading, velocity = np.zeros((count, 2)), np.zeros(count), np.zeros((count, 2))
    poses = [np.concatenate([place, heading[:, None]], 1)]
    for t in range(RECENT + 6):
        heading = heading + 20 * actions[:, t, 1]
        along = np.stack([np.cos(np.radians(heading)), np.sin(np.radians(heading))], 1)
        velocity = 0.7 * velocity + 5 * actions[:, t, :1] * along
        if t == RECENT + 5:
            velocity[: count // 10] = 0
        place = place + velocity
        poses.append(np.concatenate([place, heading[:, None]], 1))
    poses = torch.from_numpy(np.stack(poses, 1)).float()
    space.measure(list(poses[:, :-1]))
    last, known = poses[:, -2 - RECENT : -1], torch.ones(count, 1 + RECENT, dtype=torch.bool)
    taken = torch.from_numpy(actions[:, -1 - RECENT :]).float()
    moves = head.moves(head.last_steps(last, known)[0], last, known, taken)
    displacement = space.displacement(poses[:, -2], poses[:, -1]) / space.scale
    missed = (displacement - moves @ linear_motion(moves, displacement).T).norm(dim=-1)
    assert missed[count // 10 :].max() < 1e-3
    assert (missed[: count // 10] > 0.05).float().mean() > 0.9
    # Seen from the newest pose: the level may be turned and moved.
    turned = last.clone()
    turned[..., :2] = torch.stack([100 - last[..., 1], 50 + last[..., 0]], -1)
    turned[..., 2] += 90
    again = head.moves(head.last_steps(turned, known)[0], turned, known, taken)
    torch.testing.assert_close(again, moves, atol=1e-4, rtol=0)


def test_moments_at_walls_are_drawn_more_often(posed_run: Path, posed_data: Path, tmp_path: Path):
    model, reader = load_checkpoint(str(posed_run)).model, EpisodeReader(posed_data)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    coded = CodedEpisodes(model.tokenizer, reader, tmp_path / "codes", fabric)
    for i in range(len(reader)):  # walk on until a wall at x = 20
        poses = coded.poses_of(i)
        poses[:] = 0
        poses[:, 0] = np.minimum(3 * np.arange(len(poses)), 20)
    sampler = MomentSampler(model, coded, "train")
    sampler.measure_poses()
    assert 0 < len(sampler._hindered) < HINDERED * len(sampler)
    drawn = sampler.draw(np.random.default_rng(0), 400, num_sketched=4, num_recalled=0)
    frames = torch.from_numpy(coded.poses[sampler._frames[sampler._hindered]])
    at_walls = (drawn.poses[:, -2, None] == frames).all(-1).any(-1)
    assert at_walls[300:].all()
    assert not at_walls[:300].all()


def test_steady_motion_has_a_scale():
    """A displacement that never changes has no deviation, but a size."""
    space = PoseSpace(PLANE)
    poses = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [6.0, 0.0, 0.0]])
    space.measure([poses])
    steps = space.displacement(poses[:-1], poses[1:]) / space.scale
    torch.testing.assert_close(steps[:, 0], torch.ones(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": PLANE}, "needs a map_width above 0"),
        ({"sharp_frames": 1}, "sharp_frames must be 0, or at least 2"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(change, message):
    prior = FrameGPTConfig(width=32, layers=2, heads=2, head_width=16, head_heads=2)
    with pytest.raises(ValueError, match=message):
        WorldModelConfig(ActionSpec("discrete", (4,)), (), prior=prior, **change)
    recalling = replace(prior, recalled=2)
    with pytest.raises(ValueError, match="can have at most 32768 codes"):
        WorldModelConfig(
            ActionSpec("discrete", (4,)),
            (),
            tokenizer=VQVAEConfig(num_codes=40_000),
            prior=recalling,
        )


def test_map_and_pose_head_learn_from_moments_alone():
    """Two places that look different, and an action that turns the player in one of them only: no
    clip is needed to learn it."""
    torch.manual_seed(0)
    prior = _prior()
    place = prior.place
    assert place is not None
    where = torch.tensor([[20.0, 30.0, 0.0], [200.0, 100.0, 180.0]]).repeat(8, 1)
    turned = torch.tensor([[0.0, 0.0, 30.0], [0.0, 0.0, 0.0]]).repeat(8, 1)
    poses = torch.cat([where[:, None].repeat(1, 1 + RECENT, 1), (where + turned)[:, None]], 1)
    moments = Moments(
        poses,
        torch.ones(16, 1 + RECENT, dtype=torch.bool),
        torch.eye(4)[torch.ones(16, 1 + RECENT, dtype=torch.int64)],
        torch.randn(2, prior.world.tokenizer.code_dim, *prior.grid).repeat(8, 1, 1, 1),
    )
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-3)
    codes, actions, variables, past = _clips(prior)
    steps = actions.shape[1]
    errors = []
    for _ in range(600):
        losses = prior_losses(
            prior,
            prior,
            codes=codes,
            past_codes=codes[:, :-1],
            actions=actions,
            reward=torch.zeros(2, steps),
            terminated=torch.zeros(2, steps, dtype=torch.bool),
            variables=variables,
            weights=torch.ones(2, steps),
            past=past,
            moments=moments,
        )
        optimizer.zero_grad()
        (losses.sketch_error + losses.motion_nats).backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        errors.append(losses.sketch_error.item())
    assert errors[0] > 0.8
    assert errors[-1] < 0.05
    mixture = place.predict(moments.poses[:2, :-1], moments.known[:2], moments.actions[:2])
    after = place.head.sample(mixture, where[:2], torch.rand(2, 4), temperature=0.0)
    torch.testing.assert_close(after, poses[:2, -1], atol=0.5, rtol=0)


def test_blocks_are_those_of_their_vectors():
    prior = _prior()
    vectors = torch.randn(2, 3, *prior.grid, 5)
    assert torch.equal(prior.vectors_of(prior.blocks_of(vectors)), vectors)


def test_moments_are_those_of_the_recordings(posed_data: Path, posed_run: Path):
    model = load_checkpoint(str(posed_run)).model
    reader = EpisodeReader(posed_data)
    fabric = Fabric(accelerator="cpu", devices=1)
    coded = CodedEpisodes(model.tokenizer, reader, posed_run / "codes.safetensors", fabric)
    sampler = MomentSampler(model, coded, "train")
    moments = sampler.draw(np.random.default_rng(0), 500, num_sketched=5, num_recalled=3)
    assert len(moments.poses) == 500
    assert len(moments.next_vectors) == 5
    assert not moments.known.all()
    assert moments.known[:, -1].all()
    recorded = set()
    for i in reader.split("train"):
        steps = reader.steps(int(i))
        taken = encode_actions(model.config.actions, torch.from_numpy(steps["action"])).numpy()
        poses = np.concatenate([np.repeat(steps["pose"][:1], RECENT, 0), steps["pose"]])
        taken = np.concatenate([np.zeros_like(taken[:1]).repeat(RECENT, 0), taken])
        for t in range(len(steps["action"])):
            for first_known in range(RECENT + 1):  # 0: all of it
                known = np.arange(RECENT + 1) >= max(first_known, RECENT - t)
                actions = taken[t : t + RECENT + 1] * known[:, None]
                window = poses[t : t + RECENT + 2], known, actions
                recorded.add(b"".join(np.ascontiguousarray(part).tobytes() for part in window))
    for pose, known, actions in zip(*moments[:3], strict=True):
        window = pose.numpy(), known.numpy(), actions.numpy()
        assert b"".join(part.tobytes() for part in window) in recorded


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_poses_are_sampled_at_their_temperature(temperature: float):
    head, n = PoseHead(PoseSpace(PLANE), 4, 8, 16), 20_000
    head.space.high.fill_(300)
    weights, scale = torch.tensor([0.7, 0.3]), 0.25
    shape = (n, 8)  # of the components, most of which weigh nothing
    logits = torch.full(shape, -torch.inf)
    logits[:, :2] = weights.log()
    means = torch.zeros(*shape, 3)
    means[:, 1] = 10.0
    mixture = Mixture(logits, means, torch.full((*shape, 3), math.log(scale)))
    before = torch.tensor([[100.0, 100.0, 0.0]]).repeat(n, 1)
    uniforms = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))
    moved = head.sample(mixture, before, uniforms, temperature)[:, 0] - 100
    sharpened = weights ** (1 / temperature)
    expected = float(sharpened[1] / sharpened.sum())
    is_second = moved > 5
    assert float(is_second.float().mean()) == pytest.approx(expected, abs=0.015)
    assert float(moved[~is_second].std()) == pytest.approx(temperature * scale, rel=0.05)


def test_a_pose_temperature_of_zero_takes_the_likeliest():
    head = PoseHead(PoseSpace(PLANE), 4, 8, 16)
    head.space.high.fill_(300)
    logits = torch.tensor([[0.0, 1.0] + [-1.0] * 6]).repeat(50, 1)
    means = torch.arange(8.0)[:, None].expand(50, 8, 3)
    before = torch.tensor([[100.0, 100.0, 0.0]]).repeat(50, 1)
    after = head.sample(Mixture(logits, means, means), before, torch.rand(50, 4), 0.0)
    torch.testing.assert_close(after[:, :2], before[:, :2] + 1.0)


@pytest.mark.gpu
def test_a_posed_world_is_learned_on_cuda(posed_data: Path, tmp_path: Path):
    """Every stage; recordings are on the CPU, the model is not."""
    options = Train(preset="tiny", data=posed_data, out=tmp_path / "run", device="cuda")
    train(options)
    if is_installed(LITE0):
        train(replace(options, stage="decoder", decoder_steps=2))
    checkpoint = load_checkpoint(str(tmp_path / "run"), device="cuda")
    assert checkpoint.model.prior.place is not None
    assert checkpoint.model.prior.place.space.is_measured
