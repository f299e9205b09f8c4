"""Older frames: which are chosen, what they change, and how they are learned."""

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from test_pose import PLANE, _clips, _prior
from test_vector_dream import assert_same_frames

import envs  # noqa: F401  registers the environments
from envs.dream import DreamEnv
from worldmodel.checkpoint import load_checkpoint
from worldmodel.configs.presets import PRESETS
from worldmodel.data import EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.interface.sampling import Sampling
from worldmodel.prior import stepping
from worldmodel.prior.frame_gpt import FrameGPT
from worldmodel.prior.look_back import look_back
from worldmodel.prior.memory import KEYFRAME_STEPS, Here, Keyframes, Older, Past, empty_memory
from worldmodel.prior.pose import PoseSpace
from worldmodel.prior.recall import NearAttention, Recall, Tokens
from worldmodel.prior.stepping import step
from worldmodel.training.codes import CodedEpisodes
from worldmodel.training.prior_stage import PriorStage


def _space() -> PoseSpace:
    space = PoseSpace(PLANE)
    space.low.fill_(0)
    space.high.fill_(1600)
    return space


def _chosen(poses, next_pose, *, num_chosen: int = 2, known: bool = True, times=None):
    poses = torch.tensor(poses)[None]
    count = poses.shape[1]
    times = torch.arange(count) if times is None else torch.tensor(times)
    numbers = torch.arange(count, dtype=torch.int16)  # shown by each frame's one code
    kept = Keyframes(
        numbers.view(1, count, 1, 1, 1),
        poses,
        torch.ones(1, count, dtype=torch.bool),
        times[None],
    )
    older = look_back(
        kept,
        torch.ones(1, 1, count, dtype=torch.bool),
        torch.tensor([[1000]]),
        torch.tensor(next_pose)[None, None],
        torch.tensor([[known]]),
        count=num_chosen,
        window=12,
        space=_space(),
    )
    return older.codes.flatten()[older.present.flatten()].tolist()


def test_who_looked_the_same_way_is_chosen():
    here = [800.0, 800.0, 0.0]
    behind, beside, same = [800.0, 800.0, 180.0], [800.0, 800.0, 60.0], [780.0, 800.0, 5.0]
    assert _chosen([behind, same, beside], here)[0] == 1
    assert _chosen([behind], here) == []  # it shows nothing of what is in view
    opposite = [1000.0, 800.0, 180.0]  # looks back over the ground ahead
    assert _chosen([behind, opposite], here) == [1]


def test_a_second_frame_shows_what_the_first_does_not():
    here = [800.0, 800.0, 0.0]
    left, left_again, right = [800.0, 800.0, 30.0], [801.0, 800.0, 31.0], [800.0, 800.0, -35.0]
    assert set(_chosen([left, left_again, right], here)) == {0, 2}


def test_without_a_pose_frames_are_spaced_ever_wider():
    poses = [[0.0, 0.0, 0.0]] * 1000
    chosen = _chosen(poses, [0.0, 0.0, 0.0], num_chosen=4, known=False)
    assert chosen == [0, 1000 - 24, 1000 - 48, 1000 - 96]
    assert _chosen(poses[:3], [0.0, 0.0, 0.0], num_chosen=4, known=False) == [0, 2, 1]


def _stepped(prior, codes, actions, variables, past, monkeypatch):
    """States of every step, and what each looked at again."""
    states, looked_at = [], []
    find, newest_states = prior.look_back, stepping._newest_states

    def noted(*given):
        found = newest_states(*given)
        states.append(found[0][:, 0])
        return found

    monkeypatch.setattr(stepping, "_newest_states", noted)

    def found(*given):
        looked_at.append(find(*given))
        return looked_at[-1]

    monkeypatch.setattr(prior, "look_back", found)
    memory = empty_memory(prior.world, len(codes), torch.device("cpu"))
    for t in range(actions.shape[1]):
        here = Here(past.poses[:, t], past.known[:, t])
        num_uniforms = prior.head.num_tokens + 1 + prior.world.num_pose_uniforms
        uniforms = torch.rand(len(codes), num_uniforms)
        given = (codes[:, t], actions[:, t], variables[:, t], uniforms, Sampling(temperature=0))
        _, memory = step(prior, memory, *given, here, past.poses[:, t + 1])
    return states, looked_at


@pytest.mark.parametrize("num_dreams", [1, 2])  # alone it is compiled
def test_stepping_with_older_frames_equals_the_full_pass(num_dreams, monkeypatch):
    prior = _prior(recalled=2)
    codes, actions, variables, past = _clips(prior, num_frames=25)
    codes, actions, variables = codes[:num_dreams], actions[:num_dreams], variables[:num_dreams]
    poses, known, hidden = (part[:num_dreams] for part in past[:3])
    past = Past(poses, known, hidden)
    states, looked_at = _stepped(prior, codes, actions, variables, past, monkeypatch)
    older = Older(*(torch.cat(parts, 1) for parts in zip(*looked_at, strict=True)))
    assert older.present[:, -1, 0].all()
    assert (older.since[older.present] >= 1).all()
    seen = older.since[0, -1, 0]
    at = actions.shape[1] - 1 - int(seen)
    assert at % KEYFRAME_STEPS == KEYFRAME_STEPS - 1
    assert torch.equal(older.codes[0, -1, 0], codes[0, at])
    full: list[torch.Tensor] = []
    prior.norm.register_forward_hook(lambda _m, _i, output: full.append(output))  # type: ignore
    with torch.no_grad():
        told = past._replace(older=older)
        prior(codes[:, :-1], actions, variables[:, :-1], codes[:, 1:], past=told)
    for t, state in enumerate(states):
        torch.testing.assert_close(state, full[0][:, t], atol=1e-5, rtol=1e-5)


def _older(prior: FrameGPT, shape: tuple[int, int, int]) -> Older:
    """Frames that are not there."""
    return Older(
        codes=torch.randint(8, (*shape, *prior.grid, 1)),
        poses=torch.rand(*shape, 3) * 300,
        known=torch.ones(shape, dtype=torch.bool),
        since=torch.full(shape, 20),
        present=torch.zeros(shape, dtype=torch.bool),
    )


def test_what_is_not_there_changes_nothing():
    prior = _prior(recalled=2)
    codes, actions, variables, past = _clips(prior)

    def logits(older: Older | None):
        told = past._replace(older=older)
        with torch.no_grad():
            return prior(codes[:, :-1], actions, variables[:, :-1], codes[:, 1:], past=told).logits

    shape = (2, actions.shape[1], 2)
    none = _older(prior, shape)
    other = none._replace(codes=(none.codes + 1) % 8)
    assert torch.equal(logits(none), logits(None))
    assert torch.equal(logits(none), logits(other))
    there = torch.ones(shape, dtype=torch.bool)
    seen, other_seen = (logits(older._replace(present=there)) for older in (none, other))
    assert not torch.allclose(seen, other_seen)


@pytest.fixture
def coded(posed_run: Path, posed_data: Path, tmp_path: Path) -> tuple[WorldModel, CodedEpisodes]:
    model = load_checkpoint(str(posed_run)).model
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    reader = EpisodeReader(posed_data)
    return model, CodedEpisodes(model.tokenizer, reader, tmp_path / "codes", fabric)


def test_training_looks_back_as_a_dream_does(coded):
    """A clip from the middle of an episode sees the older frames that it would see in a pass over
    the whole episode."""
    model, episodes = coded
    prior = model.prior
    stage = PriorStage(model, episodes, replace(PRESETS["tiny"].prior_recipe, num_frames=6))
    lengths = episodes.reader.index["episode_length"]
    i = int(stage.clips.episodes[lengths[stage.clips.episodes].argmax()])
    codes = torch.from_numpy(episodes.codes_of(i).astype(np.int64))[None, :-1]
    poses = torch.from_numpy(episodes.poses_of(i))[None]
    whole = prior.whole_past(codes, poses).older
    assert whole is not None
    num_compared = 0
    for begin in range(codes.shape[1] - 4):
        example = stage._example(np.array([i, begin]), episodes.codes_of(i)[begin : begin + 5])
        clip = prior.given_past(codes[:, begin : begin + 5], poses[:, begin : begin + 6])
        older = stage._older([example], clip)
        assert older is not None
        steps = slice(begin, begin + 5)
        assert torch.equal(older.present, whole.present[:, steps])
        for mine, its in zip(older, (part[:, steps] for part in whole), strict=True):
            assert torch.equal(mine[older.present], its[older.present])
        num_compared += int(older.present.sum())
    assert num_compared > 5


@pytest.fixture
def posed(posed_run: Path):
    env = DreamEnv(str(posed_run))
    yield env
    env.close()


def test_info_says_where_the_player_is(posed: DreamEnv):
    _, info = posed.reset(seed=0, options={"start": 1})
    assert posed.starts is not None
    np.testing.assert_allclose(info["pose"], posed.starts.poses[1, -1])
    assert info["pose"].tolist() == [info["x"], info["y"], info["angle"]]
    for _ in range(5):
        _, _, ended, _, info = posed.step(1)
        assert np.isfinite(info["pose"]).all()
        assert 0 <= info["angle"] < 360
        if ended:
            break


def test_a_moment_without_a_pose_gets_one_from_its_frame(posed: DreamEnv):
    assert posed.starts is not None
    frames = posed.starts.frames[0]
    options = {"frames": frames, "actions": posed.starts.actions[0]}
    _, info = posed.reset(seed=0, options=options)
    space = posed.model.prior.place.space  # type: ignore[union-attr]
    assert (info["pose"][:2] >= space.low.numpy()).all()
    assert (info["pose"][:2] <= space.high.numpy()).all()
    _, info = posed.reset(seed=0, options={**options, "poses": posed.starts.poses[0]})
    np.testing.assert_allclose(info["pose"], posed.starts.poses[0, -1])


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ([np.nan, 0, 0], "near the range of the training data: x 0 to 4"),
        ([500, 40, 0], "near the range of the training data"),
    ],
)
def test_a_pose_far_outside_is_refused(posed: DreamEnv, last, message):
    assert posed.starts is not None
    poses = posed.starts.poses[0].copy()
    poses[-1] = last
    options = {
        "frames": posed.starts.frames[0],
        "actions": posed.starts.actions[0],
        "poses": poses,
    }
    with pytest.raises(UserError, match=message):
        posed.reset(options=options)


def _recall() -> Recall:
    place = _prior().place
    assert place is not None
    return Recall(_prior(recalled=1).world, place.space)


def test_a_new_network_copies_what_lies_in_the_same_direction():
    """The network's own start: what is seen again after a turn is found where it now is."""
    torch.manual_seed(0)
    recall = _recall()
    height, width = recall.grid
    recall.code.copy_(torch.eye(8, len(recall.code[0])))
    for parameter in recall.copying.queries.parameters():
        torch.nn.init.zeros_(parameter)  # directions alone decide
    codes = torch.randint(8, (1, 1, 1, height, width, 1))
    attended: list[torch.Tensor] = []
    recall.copying.register_forward_hook(lambda _m, _i, out: attended.append(out))  # type: ignore
    a_token = 90 / width  # degrees
    for turn in (0, a_token, -a_token):  # to the left
        here = torch.tensor([[[100.0, 100.0, 50 + turn]]])
        older = Older(
            codes,
            torch.tensor([[[[100.0, 100.0, 50.0]]]]),
            *(torch.ones(1, 1, 1, dtype=kind) for kind in (torch.bool, torch.int64, torch.bool)),
        )
        expected = torch.zeros(1, 1, height, width, len(recall.code[0]))
        with torch.no_grad():
            recall(expected, older, here, torch.ones(1, 1, dtype=torch.bool))
        found = attended.pop()[0, 0, :, :8].argmax(-1).view(height, width)
        seen, shift = codes[0, 0, 0, ..., 0], round(turn / a_token)
        kept = slice(max(0, shift), width + min(0, shift))
        # After a turn to the left, things lie further to the right.
        assert torch.equal(found[:, kept], seen.roll(shift, 1)[:, kept])


def test_recall_learns_to_copy_from_where_it_was():
    """Codes that no pose tells, but that an older frame at the same place shows."""
    torch.manual_seed(0)
    prior, recall = _prior(), _recall()
    recall.code.normal_()
    optimizer = torch.optim.Adam(recall.parameters(), lr=2e-3)
    known = torch.ones(16, 1, dtype=torch.bool)
    errors = []
    for _ in range(150):
        older = _older(prior, (16, 1, 1))
        older = older._replace(present=torch.ones_like(older.present))
        vectors = recall.vectors(older.codes[:, :, 0])
        expected = torch.zeros_like(vectors)
        recalled = recall(expected, older, older.poses[:, :, 0], known)
        error = (recalled - vectors).square().mean() / vectors.square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.2 < errors[0]


def test_it_attends_to_directions_alike_in_any_order():
    torch.manual_seed(0)
    attention = NearAttention(16)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, states, values = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 4, 7, 3)
    here, there = torch.rand(5, 2), torch.rand(2, 7, 2)
    present = torch.rand(2, 7) > 0.3
    found = attention(x, here, Tokens(states, there, present), values)
    order = torch.randperm(7)
    others = Tokens(states[:, order], there[:, order], present[:, order])
    torch.testing.assert_close(attention(x, here, others, values[:, :, order]), found)
    # By the formula: scores fall with the squared distance, and nothing has a score of its own.
    q, k = (
        layer(norm(part)).unflatten(-1, (4, 4)).transpose(1, 2)
        for layer, norm, part in (
            (attention.queries, attention.norm, x),
            (attention.keys, attention.norm_others, states),
        )
    )
    moved = attention.moved(attention.norm_others(states)).unflatten(-1, (4, 2)).transpose(1, 2)
    distances = (here[:, None] - (there[:, None] + moved)[:, :, None]).square().sum(-1)
    scores = q @ k.mT / 2 - attention.log_sharpness.exp() * distances
    scores = scores.masked_fill(~present[:, None, None], -torch.inf)
    nothing = attention.nothing.expand(2, 4, 5, 1)
    weights = torch.cat([nothing, scores], -1).softmax(-1)[..., 1:]
    torch.testing.assert_close(weights @ values, found, atol=1e-5, rtol=1e-4)


def test_many_posed_dreams_are_those_of_one(posed_run: Path):
    many = gymnasium.make_vec("VideoGPTDream-v0", num_envs=3, checkpoint=str(posed_run))
    many.reset(seed=5, options={"start": 0})
    singles = [DreamEnv(str(posed_run)) for _ in range(3)]
    for i, single in enumerate(singles):
        single.reset(seed=5 + i, options={"start": 0})
    for _ in range(12):
        frames, _, ended, _, infos = many.step(np.ones(3, np.int64))
        for i, single in enumerate(singles):
            frame, _, _, _, info = single.step(1)
            assert_same_frames(frame, frames[i])
            np.testing.assert_allclose(info["pose"], infos["pose"][i], rtol=1e-5)
        if ended.any():
            break


def test_a_posed_dream_is_kept_whole(posed_run: Path):
    checkpoint = load_checkpoint(str(posed_run))
    model, starts = checkpoint.model, checkpoint.starts
    given = (starts.frames, starts.actions, starts.variables, starts.poses)
    dream = model.start(*(torch.from_numpy(part[:1]) for part in given))

    def go_on(dream, num_steps: int, seed: int):
        rng = np.random.default_rng(seed)
        steps = []
        for _ in range(num_steps):
            uniforms = torch.from_numpy(rng.random((1, model.num_uniforms), np.float32))
            uniforms = uniforms.repeat(len(dream.codes), 1)
            action = torch.ones(len(dream.codes), dtype=torch.int64)
            step, dream = model.step(dream, action, uniforms, Sampling())
            steps.append(step)
        return steps, dream

    _, dream = go_on(dream, 9, 0)  # long enough for older frames to be there
    kept, copies = dream.clone(), dream.repeated(3)
    go_on(dream, 4, 1)  # writes over its own memory, and no other's
    copies.write(torch.tensor([1]), kept)
    first, _ = go_on(kept.clone(), 6, 2)
    for again in (go_on(kept, 6, 2)[0], go_on(copies, 6, 2)[0]):
        for a, b in zip(first, again, strict=True):
            assert torch.equal(a.codes[0], b.codes[0])
            torch.testing.assert_close(a.pose[0], b.pose[0], rtol=1e-4, atol=1e-3)
            assert (b.codes == b.codes[0]).all()


def test_posed_dreams_are_handed_to_sb3(posed_run: Path):
    from envs.sb3 import DreamVecEnv

    dreams = DreamVecEnv(2, checkpoint=str(posed_run), horizon=5)
    dreams.reset()
    assert all(info["pose"].shape == (3,) for info in dreams.reset_infos)
    _, _, _, infos = dreams.step(np.zeros(2, np.int64))
    assert infos[0]["pose"].tolist() == [infos[0][name] for name in ("x", "y", "angle")]
    dreams.close()
