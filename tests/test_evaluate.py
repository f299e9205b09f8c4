"""Evaluation: the whole report of a tiny model, and its parts against answers found by hand."""

import importlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import one_line_error
from PIL import Image

from worldmodel import evaluate as command
from worldmodel.checkpoint import load_checkpoint
from worldmodel.data import DatasetInfo, EpisodeReader, EpisodeWriter
from worldmodel.errors import UserError
from worldmodel.evaluate import Evaluate, evaluate
from worldmodel.evaluation import horizon, likelihood
from worldmodel.evaluation.actions import KINDS, accuracy_of_each
from worldmodel.evaluation.held_out import (
    HeldOut,
    Settings,
    draw_frames,
    wander,
)
from worldmodel.evaluation.inverse_dynamics import (
    InverseDynamics,
    train_inverse_dynamics,
)
from worldmodel.evaluation.parts import DREAM_PARTS
from worldmodel.evaluation.place import pose_errors
from worldmodel.evaluation.returns import find_returns
from worldmodel.evaluation.stability import block_statistics, rarest
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import NO_POSE, PoseSpec
from worldmodel.interface.sampling import SamplingOptions
from worldmodel.metrics.bootstrap import Bootstrap
from worldmodel.prior.layers import encode_actions
from worldmodel.training.prior_losses import prior_losses

HORIZON = 6
NUM_CLIPS = 8


@pytest.fixture(scope="module")
def options(evaluated: tuple[Evaluate, dict]) -> Evaluate:
    return evaluated[0]


@pytest.fixture(scope="module")
def report(evaluated: tuple[Evaluate, dict]) -> dict:
    return evaluated[1]


@pytest.fixture(scope="module")
def held_out(tiny_run: Path, toy_data: Path) -> HeldOut:
    settings = Settings(num_clips=NUM_CLIPS, num_samples=2, horizon=HORIZON, num_frames=32)
    return HeldOut(load_checkpoint(str(tiny_run)).model, EpisodeReader(toy_data), settings)


@pytest.fixture(scope="module")
def posed_held_out(posed_run: Path, posed_data: Path) -> HeldOut:
    model = load_checkpoint(str(posed_run)).model
    generator = torch.Generator().manual_seed(0)
    for parameter in model.prior.parameters():  # what began as nothing counts
        if parameter.abs().max() < 0.02:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    settings = Settings(num_clips=NUM_CLIPS, num_samples=2, horizon=16, num_frames=32)
    return HeldOut(model, EpisodeReader(posed_data), settings)


def test_asked_again_a_posed_dream_is_what_it_was(posed_held_out: HeldOut) -> None:
    """Its own past, poses and older frames: the prior says of it what it said dreaming."""
    again = posed_held_out.predict("asked again", dreamed=True).steps(posed_held_out.future)
    np.testing.assert_allclose(again.nats, posed_held_out.dreams.nats, atol=1e-4)
    assert np.isfinite(again.pose_nats).all()


WITHOUT_POSE = tuple(name for name in DREAM_PARTS if name not in ("place", "returns"))


def test_the_report_holds_every_part_with_its_source(report: dict, options: Evaluate) -> None:
    assert tuple(report["parts"]) == WITHOUT_POSE
    for name, part in report["parts"].items():
        assert part["settings"]["seed"] == 0
        if name != "tokenizer":
            assert part["settings"]["temperature"] == 0.8  # what dreams are drawn at
        assert part["machine"]["torch"] == torch.__version__
        assert part["command"] == "the <b>command</b> & more"
    assert options.out is not None
    assert json.loads((options.out / "report.json").read_text()) == report
    text = (options.out / "report.md").read_text()
    for name in WITHOUT_POSE:
        assert f"## {name.capitalize()}" in text


def test_pictures_and_films_are_written(report: dict, options: Evaluate) -> None:
    assert report
    assert options.out is not None
    for name in ("horizon.png", "real-and-dream.png", "stability.png", "long-dreams.png"):
        with Image.open(options.out / name) as picture:
            assert min(picture.size) > 100
    with Image.open(options.out / "real-and-dream.gif") as film:
        assert getattr(film, "n_frames", 1) > 1


def test_numbers_are_in_their_ranges(report: dict) -> None:
    numbers = {name: part["numbers"] for name, part in report["parts"].items()}
    psnr = numbers["horizon"]["psnr"]
    assert list(psnr["one"]) == ["1", "2", "4"]
    for steps in psnr["one"]:
        assert psnr["best"][steps]["value"] >= psnr["mean"][steps]["value"]
        assert psnr["best"][steps]["value"] >= psnr["one"][steps]["value"]
    assert 0 < numbers["tokenizer"]["codes_used"] <= numbers["tokenizer"]["num_codes"] == 32
    assert 0 <= numbers["likelihood"]["copy_accuracy"] <= 1
    assert 0 <= numbers["actions"]["real"]["value"] <= 1
    assert set(numbers["actions"]["each"]) == {"stay", "right"}
    assert 0 <= numbers["stability"]["share_collapsed"] <= 1
    assert numbers["outcomes"]["next_step"]["ends"]["count"] > 0
    assert 0 <= numbers["outcomes"]["dreamed"]["ends"]["auroc"]["value"] <= 1


def test_each_factor_is_followed_by_its_own_share() -> None:
    spec = ActionSpec("multi_discrete", (3, 2), meanings=("walk", "fire"))
    rng = np.random.default_rng(0)
    clips, steps = 40, 20
    actions = np.stack([rng.integers(3, size=(clips, steps)), np.zeros((clips, steps), int)], -1)
    real = np.ones((clips, steps, 2))
    dreamed = real.copy()
    dreamed[:, ::2, 0] = 0  # every second step is not obeyed
    seen: dict[str, np.ndarray] = {**dict.fromkeys(KINDS, real), "dreamed": dreamed}
    each = accuracy_of_each(spec, seen, actions, Bootstrap(np.arange(clips), 0))
    assert each["walk"].ratio[:3] == pytest.approx((0.5, 0.5, 0.5))
    assert each["fire"].ratio[:3] == pytest.approx((1, 1, 1))
    assert each["walk"].commonest == np.bincount(actions[..., 0].ravel()).max() / (clips * steps)
    assert each["fire"].commonest == 1


def test_each_choice_is_followed_by_its_own_share() -> None:
    spec = ActionSpec("discrete", (2,), meanings=("stay", "go"))
    actions = np.random.default_rng(0).integers(2, size=(40, 20))
    seen: dict[str, np.ndarray] = {kind: np.ones((40, 20, 1)) for kind in KINDS}
    seen["dreamed"] = (actions == 1).astype(float)[..., None]
    each = accuracy_of_each(spec, seen, actions, Bootstrap(np.arange(40), 0))
    assert each["stay"].ratio[:3] == pytest.approx((0, 0, 0))
    assert each["go"].ratio[:3] == pytest.approx((1, 1, 1))
    assert (each["go"].count or 0) + (each["stay"].count or 0) == 800


def test_a_part_measured_again_is_the_same_and_the_others_stay(
    report: dict, options: Evaluate, tmp_path: Path
) -> None:
    assert options.out is not None
    own = replace(options, parts="likelihood", again=True, out=tmp_path / "report")
    shutil.copytree(options.out, tmp_path / "report")
    again = evaluate(own, command="another command")
    before = report["parts"]["likelihood"]
    assert again["parts"]["likelihood"]["numbers"] == before["numbers"]
    assert again["parts"]["likelihood"]["command"] == "another command"
    assert again["parts"]["horizon"] == report["parts"]["horizon"]


def test_clips_are_different_windows_of_all_test_episodes(held_out: HeldOut) -> None:
    assert len(held_out) == NUM_CLIPS
    frames = held_out.clips.frames.reshape(NUM_CLIPS, -1)
    assert len(np.unique(frames, axis=0)) == NUM_CLIPS
    lengths = held_out.reader.index["episode_length"]
    long_enough = [
        i for i in held_out.reader.split("test") if lengths[i] + 1 >= held_out.num_given + HORIZON
    ]
    assert set(held_out.episodes) == set(long_enough)
    assert held_out.actions.shape == (NUM_CLIPS, HORIZON)
    # The square moves when, and only when, the action says so.
    moved = np.diff(held_out.clips.variables[:, held_out.num_given - 1 :, 0], axis=1) > 0
    np.testing.assert_array_equal(moved, held_out.actions == 1)


def test_dreams_are_repeatable_and_samples_differ(held_out: HeldOut) -> None:
    first, again, other = (
        held_out.dream(held_out.actions[:, :2], what="", sample=sample).frames
        for sample in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_token_nats_are_those_that_training_minimises(held_out: HeldOut) -> None:
    # A window as long as the clip makes the two agree on which frames are seen.
    model, clips = held_out.model, held_out.clips
    tensors = {name: torch.from_numpy(getattr(clips, name)) for name in vars(clips)}
    with torch.no_grad():
        losses = prior_losses(
            model.prior,
            model.prior,
            codes=held_out.real_codes,
            past_codes=held_out.real_codes[:, :-1],
            actions=encode_actions(model.config.actions, tensors["action"]),
            reward=tensors["reward"],
            terminated=tensors["terminated"],
            variables=tensors["variables"],
            weights=torch.ones(tensors["reward"].shape),
        )
    nats = held_out.predicted.nats
    assert nats.shape == (NUM_CLIPS, clips.frames.shape[1] - 1)
    assert nats.mean() == pytest.approx(float(losses.token_nats), rel=1e-4)


def test_a_prior_that_knows_nothing_takes_the_logarithm_of_the_codes(
    held_out: HeldOut, tmp_path: Path
) -> None:
    model = load_checkpoint_with_flat_head(held_out)
    ignorant = HeldOut(model, held_out.reader, held_out.settings)
    numbers = likelihood.measure(ignorant, tmp_path)
    assert numbers.nats_a_token.value == pytest.approx(math.log(32), rel=1e-4)
    assert numbers.bits_a_pixel_channel == pytest.approx(5 * 64 / (64 * 64 * 3), rel=1e-4)
    assert numbers.copy_nats <= numbers.unigram_nats


def load_checkpoint_with_flat_head(held_out: HeldOut):
    model = type(held_out.model)(held_out.model.config).eval()
    model.load_state_dict(held_out.model.state_dict())
    torch.nn.init.zeros_(model.prior.head.logits.weight)
    torch.nn.init.zeros_(model.prior.head.logits.bias)
    return model


def test_a_dream_of_the_future_itself_is_the_ceiling(
    held_out: HeldOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = held_out.reconstructions[:, held_out.num_given :]
    codes = held_out.real_codes[:, held_out.num_given :].numpy()
    prophecy = replace(held_out.dreams, frames=future, codes=codes)

    def foresee(self: HeldOut, actions: np.ndarray, **_):
        assert (actions == self.actions).all()
        return prophecy

    perfect = HeldOut(held_out.model, held_out.reader, held_out.settings)
    monkeypatch.setattr(HeldOut, "dream", foresee)
    numbers = horizon.measure(perfect, tmp_path)
    for name in ("one", "mean", "best"):
        assert numbers.psnr[name] == numbers.psnr["ceiling"]
    assert numbers.ssim["one"] == numbers.ssim["ceiling"]


def test_block_statistics_by_hand() -> None:
    still = np.full((4, 6, 6, 3), 77, np.uint8)
    codes = np.zeros((4, 2, 2, 1), int)
    rare = np.arange(8)[None] == 5
    by_hand = [0, 0, 1, 0, 0]
    np.testing.assert_allclose(block_statistics(still, codes, rare), by_hand, atol=1e-6)
    blinking = still.copy()
    blinking[::2], blinking[1::2] = 0, 255
    codes[:, 0], codes[:, 1] = 3, 5
    by_hand = [0, 0.5, 2, 1, 0.5]
    np.testing.assert_allclose(block_statistics(blinking, codes, rare), by_hand, atol=1e-6)


def test_the_rarest_codes_make_up_a_tenth() -> None:
    """Of 100 tokens: 60 zeros, 31 ones, 5 twos, 4 threes; the other codebook holds one code."""
    codes = np.repeat([0, 1, 2, 3], [60, 31, 5, 4])
    codes = np.random.default_rng(0).permutation(codes).reshape(4, 5, 5)
    rare = rarest(np.stack([codes, np.full_like(codes, 3)], -1), 5)
    assert rare.tolist() == [[False, False, True, True, True], [True, True, True, False, True]]


def test_frames_are_drawn_once_each_with_their_episode(toy_data: Path) -> None:
    reader = EpisodeReader(toy_data)
    frames, episodes = draw_frames(reader, "test", 10**6, seed=0)
    for i in reader.split("test"):
        np.testing.assert_array_equal(frames[episodes == i], reader.frames(int(i)))
    fewer, _ = draw_frames(reader, "test", 5, seed=0)
    assert len(fewer) == 5


@pytest.mark.parametrize(
    "spec",
    [
        ActionSpec("discrete", (4,)),
        ActionSpec("multi_discrete", (2, 3)),
        ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 5.0)),
    ],
    ids=lambda spec: spec.kind,
)
def test_random_actions_lie_in_their_space_and_wanderers_stay(spec: ActionSpec) -> None:
    rng = np.random.default_rng(0)
    for actions in (spec.sample(rng, (50, 40)), wander(rng, spec, 50, 40)):
        assert actions.shape == (50, 40, *spec.shape)
        assert actions.dtype == spec.dtype
        assert spec.contains(actions)
    steps = wander(rng, spec, 50, 40).reshape(50, 40, -1)
    stayed = (steps[:, 1:] == steps[:, :-1]).all(-1).mean()
    assert 0.75 < stayed < 0.9


def moving_square(spec: ActionSpec, num_films: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Films (B, 5, 16, 16, 3) of a square whose actions say where it goes, and the actions."""
    rng = np.random.default_rng(seed)
    actions = spec.sample(rng, (num_films, 4))
    if spec.kind == "discrete":
        right, down = np.asarray([-2, 0, 2, 0])[actions], np.asarray([0, -2, 0, 2])[actions]
    elif spec.kind == "multi_discrete":
        right, down = 2 * actions[..., 0], 2 * actions[..., 1] - 2
    else:
        right, down = np.round(actions[..., 0] * 3).astype(int), 0 * actions[..., 0].astype(int)
    places = rng.integers(0, 16, (num_films, 1, 2)) + np.stack([down, right], -1).cumsum(1)
    places = np.concatenate([places[:, :1] - np.stack([down, right], -1)[:, :1], places], 1)
    films = np.full((num_films, 5, 16, 16, 3), 30, np.uint8)
    for i, t in np.ndindex(num_films, 5):
        rows, columns = ((place + np.arange(4)) % 16 for place in places[i, t])
        films[i, t][np.ix_(rows, columns)] = (220, 180, 40)
    return films, actions


@pytest.mark.parametrize(
    "spec",
    [
        ActionSpec("discrete", (4,)),
        ActionSpec("multi_discrete", (2, 3)),
        ActionSpec("box", low=(-1.0,), high=(1.0,)),
    ],
    ids=lambda spec: spec.kind,
)
def test_visible_actions_are_read_off_nearly_always(spec: ActionSpec) -> None:
    torch.manual_seed(0)
    network = InverseDynamics(spec, (16, 16, 3))
    films, actions = moving_square(spec, 600, seed=0)
    train_inverse_dynamics(network, [films, films], actions, steps=300)
    unseen, truth = moving_square(spec, 100, seed=1)
    agreement = network.agreement(unseen, truth)
    assert agreement.shape == (100, 4, max(1, len(spec.sizes)))
    assert agreement.mean() > 0.95
    shuffled = network.agreement(unseen, np.roll(truth, 1, axis=0))
    assert shuffled.mean() < 0.6


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"parts": "horizon,beauty"}, "unknown part 'beauty'; the known ones are: tokenizer,"),
        ({"checkpoint": "nowhere"}, "unknown checkpoint 'nowhere'"),
        ({"data": Path("nowhere")}, "nowhere does not exist"),
        ({"horizon": 500}, "--horizon 500 asks for that many"),
        ({"clips": 1}, "--clips must be from 2 to 2147483647, not 1"),
        ({"sampling": SamplingOptions(temperature=-1.0)}, "temperature must be at least 0"),
        ({"sampling": SamplingOptions(guidance=-1.0)}, "guidance must be from 0"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"data": None}, "--data is needed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_get_one_clear_line(
    options: Evaluate, changes: dict, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.tyro, "cli", lambda *_, **__: replace(options, **changes))
    assert complaint in one_line_error(command.main)


def test_data_of_another_world_are_refused(
    options: Evaluate, toy_data: Path, tmp_path: Path
) -> None:
    info = EpisodeReader(toy_data).info
    other: DatasetInfo = replace(info, actions=ActionSpec("discrete", (3,)))
    with EpisodeWriter(tmp_path / "other", other) as writer:
        writer.append(EpisodeReader(toy_data).episode(0))
    with pytest.raises(UserError, match="have different actions"):
        evaluate(replace(options, data=tmp_path / "other"))


def test_the_place_of_a_posed_dream_is_measured(
    posed_run: Path, posed_data: Path, tmp_path: Path
) -> None:
    options = Evaluate(
        checkpoint=str(posed_run),
        data=posed_data,
        out=tmp_path / "report",
        parts="place,returns",
        clips=4,
        horizon=4,
    )
    report = evaluate(options)
    place = report["parts"]["place"]["numbers"]
    assert place["pose_error"]["1"]["value"] >= 0
    assert 0 <= place["heading_error"]["4"]["value"] <= 180
    assert (tmp_path / "report" / "place.png").stat().st_size > 1000
    assert "## Place" in (tmp_path / "report" / "report.md").read_text()
    with pytest.raises(UserError, match="place can't be measured: checkpoint or data have no pose"):
        evaluate(replace(options, data=_without_pose(posed_data, tmp_path), parts="place"))


def _without_pose(data: Path, tmp_path: Path) -> Path:
    reader = EpisodeReader(data)
    with EpisodeWriter(tmp_path / "plain", replace(reader.info, pose=NO_POSE)) as writer:
        for i in range(len(reader)):
            episode = reader.episode(i)
            writer.append(replace(episode, pose=np.zeros((len(episode.frames), 0), np.float32)))
    return tmp_path / "plain"


def test_pose_errors_by_hand() -> None:
    spec = PoseSpec(("x", "y"), "angle")
    off, turned = pose_errors(spec, np.array([[3.0, 4.0, 350.0]]), np.array([[0.0, 0.0, 10.0]]))
    assert off.tolist() == [5]
    assert turned is not None
    np.testing.assert_allclose(turned, 20)


def test_who_looks_away_and_back_returns() -> None:
    spec = PoseSpec(("x", "y"), "angle")
    angles = [0.0] * 5 + [40, 80, 120, 120, 120, 80, 40, 0, 0]
    turned = np.stack([np.full(14, 500.0), np.full(14, 500.0), np.array(angles)], 1)
    found = find_returns(spec, turned, episode=7, first=3, size=1000)
    assert [(r.moment, r.back, r.steps_away, r.walked) for r in found] == [(3, 12, 5, False)]
    xs = [0.0] * 4 + [50, 100, 150, 200, 150, 100, 50, 0, 0]
    walked = np.stack([500 + np.array(xs), np.full(13, 500.0), np.zeros(13)], 1)
    (back,) = find_returns(spec, walked, episode=7, first=3, size=1000)
    assert (back.moment, back.back, back.walked) == (3, 11, True)


def test_the_median_s_interval_is_that_of_drawing_groups_again() -> None:
    values, groups = np.arange(40.0), np.arange(40) // 2
    found = Bootstrap(groups, 0).median(values)
    rng = np.random.default_rng(1)
    medians = [np.median(values.reshape(20, 2)[rng.integers(20, size=20)]) for _ in range(4000)]
    assert found.value == 19.5
    assert found.low == pytest.approx(np.quantile(medians, 0.025), abs=2)
    assert found.high == pytest.approx(np.quantile(medians, 0.975), abs=2)


def test_a_function_of_yours_drives_the_long_dreams(
    options: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "seen = []\ndef drive(frame):\n    seen.append(frame)\n    return len(seen) % 2\n"
    (tmp_path / "my_driver.py").write_text(code + "def jump(frame):\n    return 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    driven = replace(options, out=tmp_path / "report", parts="stability", stability_steps=6)
    report = evaluate(replace(driven, driver="my_driver:drive"))
    assert report["parts"]["stability"]["numbers"]["driver"] == "my_driver:drive"
    assert "actions chosen by my_driver:drive" in (tmp_path / "report" / "report.md").read_text()
    seen = importlib.import_module("my_driver").seen
    assert len(seen) == 6 * 8
    assert all(frame.dtype == np.uint8 and frame.shape == (64, 64, 3) for frame in seen)
    assert any((a != b).any() for a, b in zip(seen, seen[8:], strict=False))  # the dream moves
    with pytest.raises(UserError, match=r"--driver my_driver:jump: .*7"):
        evaluate(replace(driven, driver="my_driver:jump"))
    with pytest.raises(UserError, match="--driver my_driver:fly can't be imported"):
        evaluate(replace(driven, driver="my_driver:fly"))
