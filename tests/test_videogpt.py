"""VideoGPT as published, end to end: described, trained, kept, sampled and measured."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from conftest import one_line_error, toy_episode, write_toy_data
from PIL import Image
from safetensors.torch import load_file, save_file

from collect.pushing import Collect as CollectPushing
from collect.vizdoom import SCENARIOS, Collect
from worldmodel import evaluate as dream_evaluate
from worldmodel import sample as dream_sample
from worldmodel import train as dream_train
from worldmodel.checkpoint import load_checkpoint, save_checkpoint
from worldmodel.configs.presets import PRESETS
from worldmodel.data import ClipSampler, EpisodeReader, EpisodeWriter
from worldmodel.data.__main__ import Command
from worldmodel.data.episodes import read_info
from worldmodel.errors import UserError
from worldmodel.interface.actions import NO_ACTION, ActionSpec, action_sequence
from worldmodel.interface.sampling import Sampling
from worldmodel.media.film import GAP, RED
from worldmodel.training.dream import describe as describe_dream
from worldmodel.videogpt import evaluate as evaluate_command
from worldmodel.videogpt import sample as sample_command
from worldmodel.videogpt import train as train_command
from worldmodel.videogpt import training
from worldmodel.videogpt.checkpoint import VideoGPTCheckpoint, load_videogpt
from worldmodel.videogpt.configs import PUBLISHED, GPTConfig, VideoGPTConfig
from worldmodel.videogpt.evaluate import Evaluate, evaluate
from worldmodel.videogpt.model import VideoGPT
from worldmodel.videogpt.sample import Sample, sample
from worldmodel.videogpt.stages import VideoPriorStage, sample_clips
from worldmodel.videogpt.train import Train, train
from worldmodel.videogpt.training import describe
from worldmodel.videogpt.whole_clips import ClipSettings, WholeClips

TINY = Train(preset="tiny-videogpt", device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def published_run(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny VideoGPT that is told actions and the first frame."""
    out = tmp_path_factory.mktemp("runs") / "published"
    train(replace(TINY, data=toy_data, out=out, conditions="actions,frames"))
    return out


LARGE = {"bair", "robonet", "vizdoom-hgs", "vizdoom-battle2", "ucf101", "ucf101-128", "tgif"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name in (*PRESETS, *PUBLISHED)
    ],
)
def test_every_preset_is_described_without_data(name: str):
    dream, published = PRESETS.get(name), PUBLISHED.get(name)
    found = describe_dream(name, dream) if dream else describe(name, PUBLISHED[name])
    assert (dream is None) != (published is None)
    described = json.loads(json.dumps(found))
    assert described["parameters"]["vqvae"] == sum(described["parts"]["vqvae"].values())
    assert described["parameters"]["prior"] == sum(described["parts"]["prior"].values())
    assert described["tokens"] == math.prod(described["latent_shape"]) * (
        1 if len(described["latent_shape"]) == 4 else described["codebooks"]
    )
    for step in described["step"].values():
        assert step["flops_a_clip"] > 0
        assert step["memory_bytes"] > step["activation_bytes_a_clip"] > 0


def test_sizes_are_described_for_machines(capsys: pytest.CaptureFixture, monkeypatch):
    options = Train(preset="moving-mnist", describe=True, json=True)
    monkeypatch.setattr(tyro, "cli", lambda *_, **__: options)
    train_command.main()
    described = json.loads(capsys.readouterr().out)
    assert described["latent_shape"] == [4, 16, 16]
    assert (described["tokens"], described["tokens_a_frame"]) == (1024, 64)
    assert described["conditions"] == "1 given frame"


def test_flops_of_a_dense_prior_are_those_worked_out_by_hand():
    preset = PUBLISHED["tiny-videogpt"]
    prior = replace(preset.prior, attention="dense", num_actions=0)
    tokenizer = preset.tokenizer
    described = describe("mine", replace(preset, prior=prior))
    n, width, hidden = described["tokens"], prior.width, prior.feedforward
    of_weights = prior.layers * (4 * width**2 + 2 * width * hidden)
    of_weights += tokenizer.code_dim * width + width * tokenizer.num_codes
    # A product of matrices forward, two backward; none flows back into the frozen codes.
    linear = 2 * n * (3 * of_weights - tokenizer.code_dim * width)
    linear -= 2 * 2 * tokenizer.code_dim * width  # the first token is no code
    # Attention: two products forward; five backward, one of them the scores once more.
    attention = prior.layers * 2 * n * n * width * (2 + 5)
    assert described["step"]["prior"]["flops_a_clip"] == linear + attention


def test_conditions_hold_what_the_config_asks_for():
    preset = PUBLISHED["tiny-videogpt"]
    prior = replace(preset.prior, num_actions=4, on_class=True, given_frames=2)
    spec = ActionSpec("box", low=(-1.0, -1.0), high=(1.0, 1.0))
    config = VideoGPTConfig(preset.tokenizer, prior, spec, class_names=("a", "b", "c"))
    assert config.condition_size == 4 * 2 + 3
    model = VideoGPT(config)
    clips = torch.randint(0, 256, (2, 4, 64, 64, 3), dtype=torch.uint8)
    actions = torch.rand(2, 3, 2)
    conditions = model.conditions(clips, actions, torch.tensor([2, 0]))
    assert conditions.vector is not None
    assert conditions.frames is not None
    wanted = torch.cat([actions.flatten(1), torch.zeros(2, 2)], 1)  # the fourth leads out
    torch.testing.assert_close(conditions.vector[:, :8], wanted)
    assert conditions.vector[:, 8:].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert conditions.frames.shape == (2, 3, 2, 64, 64)


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"prior": GPTConfig(on_class=True)}, "the data have none"),
        ({"prior": GPTConfig(given_frames=17)}, "than a clip has"),
    ],
)
def test_impossible_conditions_are_refused(sizes: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        VideoGPTConfig(
            **{"tokenizer": PUBLISHED["bair"].tokenizer, "actions": PUBLISHED["bair"].actions}
            | sizes
        )


def test_a_run_leaves_a_checkpoint_curves_and_pictures(published_run: Path):
    checkpoint = load_videogpt(str(published_run))
    assert checkpoint.world.env_id == "MovingSquare"
    assert checkpoint.model.config.prior.given_frames == 1
    assert checkpoint.starts.frames.shape[1:] == (4, 64, 64, 3)
    pictures = {path.name.split("-")[0] for path in (published_run / "training").glob("*.png")}
    assert pictures == {"tokenizer", "prior"}
    lines = (published_run / "training" / "prior.jsonl").read_text().splitlines()
    assert "validation/nats_a_token" in json.loads(lines[-1])


@pytest.mark.slow
def test_a_published_toy_world_is_learned(toy_data: Path, tmp_path: Path):
    train(
        replace(
            TINY,
            data=toy_data,
            out=tmp_path,
            tokenizer_steps=150,
            prior_steps=150,
            learning_rate=3e-3,
        )
    )
    lines = [
        json.loads(line)
        for line in (tmp_path / "training" / "prior.jsonl").read_text().splitlines()
    ]
    assert lines[0]["loss"] == pytest.approx(math.log(32), abs=1e-3)  # knows nothing yet
    assert lines[-1]["validation/nats_a_token"] < 0.5 * math.log(32)


def test_a_checkpoint_comes_back_as_it_was(published_run: Path, tmp_path: Path):
    checkpoint = load_videogpt(str(published_run))
    save_checkpoint(tmp_path / "again", checkpoint, card="", compact=False)
    again = load_videogpt(str(tmp_path / "again"))
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    assert again.model.config == checkpoint.model.config
    np.testing.assert_array_equal(again.starts.actions, checkpoint.starts.actions)


def test_dreams_and_clips_are_not_taken_for_each_other(published_run: Path, tiny_run: Path):
    with pytest.raises(UserError, match="makes whole clips and can't be stepped"):
        load_checkpoint(str(published_run))
    with pytest.raises(UserError, match="is a dream"):
        load_videogpt(str(tiny_run))


def test_the_wrong_command_names_the_one_that_works(
    published_run: Path, tiny_run: Path, toy_data: Path, tmp_path: Path
):
    clips, dream, film, run = (
        str(published_run),
        str(tiny_run),
        tmp_path / "x y.png",
        tmp_path / "r",
    )
    to_dream = dream_train.Train("tiny", toy_data, run, init=clips)
    to_clips = replace(TINY, data=toy_data, out=run, init=dream)
    wrong = [
        (lambda: dream_sample.sample(dream_sample.Sample(clips, film)), Sample),
        (lambda: sample(Sample(dream, film)), dream_sample.Sample),
        (lambda: dream_evaluate.evaluate(dream_evaluate.Evaluate(clips, toy_data)), Evaluate),
        (lambda: dream_evaluate.score(dream_evaluate.Evaluate(clips, score=toy_data)), Evaluate),
        (lambda: evaluate(Evaluate(dream, toy_data)), dream_evaluate.Evaluate),
        (lambda: dream_train.train(dream_train.Train("bair", toy_data, run)), Train),
        (lambda: train(Train("tiny", toy_data, run)), dream_train.Train),
        (lambda: dream_train.train(to_dream), Train),
        (lambda: train(to_clips), dream_train.Train),
    ]
    trainings = {Train: train_command.__name__, dream_train.Train: dream_train.__name__}
    for work, options in wrong:
        with pytest.raises(UserError) as refused:
            work()
        named = re.search("`(.*)`", str(refused.value))
        assert named is not None
        _, dash_m, module, *arguments = shlex.split(named[1])
        assert (dash_m, module) == ("-m", trainings.get(options, options.__module__))
        given = vars(tyro.cli(options, args=arguments))
        assert given.get("data", toy_data) == toy_data
        assert given["out"] in (None, film, run)


def _changed_config(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _changed_config(folder, lambda c: c["prior"].update(width=64)),
        lambda folder: _changed_config(folder, lambda c: c["prior"].update(layers=60000)),
        lambda folder: _changed_config(folder, lambda c: c["tokenizer"].update(clip_shape=[4, 64])),
        lambda folder: _changed_config(folder, lambda c: c.update(class_names=["a"] * 2**17)),
        lambda folder: _changed_config(folder, lambda c: c.pop("class_names")),
        lambda folder: (folder / "weights.safetensors").write_bytes(
            (folder / "weights.safetensors").read_bytes()[:-100]
        ),
        lambda folder: save_file(
            {**load_file(folder / "starts.safetensors"), "actions": torch.full((2, 3), 9)},
            folder / "starts.safetensors",
        ),
        lambda folder: save_file(
            {
                **load_file(folder / "starts.safetensors"),
                "actions": torch.zeros(2, 3, dtype=torch.int32),
            },
            folder / "starts.safetensors",
        ),
        lambda folder: save_file(
            {**load_file(folder / "starts.safetensors"), "classes": torch.tensor([0, 7])},
            folder / "starts.safetensors",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_whole(published_run: Path, tmp_path: Path, damage):
    checkpoint = load_videogpt(str(published_run))
    save_checkpoint(tmp_path, checkpoint, card="", compact=False)
    damage(tmp_path)
    with pytest.raises(UserError):
        load_videogpt(str(tmp_path))


def test_compact_checkpoints_are_smaller_and_nearly_the_same(published_run: Path, tmp_path: Path):
    checkpoint = load_videogpt(str(published_run))
    save_checkpoint(tmp_path, checkpoint, card="", compact=True)
    small = load_videogpt(str(tmp_path))
    sizes = [(f / "weights.safetensors").stat().st_size for f in (tmp_path, published_run)]
    assert sizes[0] < 0.6 * sizes[1]
    for name, tensor in checkpoint.model.state_dict().items():
        scale = tensor.float().abs().max().clamp_min(1e-6)
        assert ((small.model.state_dict()[name].float() - tensor) / scale).abs().max() < 0.01, name


def test_the_same_seed_draws_the_same_clips(published_run: Path):
    checkpoint: VideoGPTCheckpoint = load_videogpt(str(published_run))
    clips = checkpoint.starts
    frames, actions, classes = (
        torch.from_numpy(array[:2]) for array in (clips.frames, clips.actions, clips.classes)
    )
    given = (frames, actions, classes)
    drawn = [
        sample_clips(checkpoint.model, given, rng=np.random.default_rng(seed), sampling=Sampling())
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_picture_of_samples_shows_the_given_frames_in_red(published_run: Path, tmp_path: Path):
    out = tmp_path / "grid.png"
    sample(Sample(str(published_run), out, starts=(0, 1), futures=2, scale=1))
    picture = np.asarray(Image.open(out))
    assert picture.shape == (4 * (64 + GAP) - GAP, 4 * (64 + GAP) - GAP, 3)
    is_red = (picture[::66] == RED).all(-1)  # the first line of each row of clips
    assert is_red[:, :64].all()
    assert not is_red[:, 64 + GAP :].any()
    clips = load_videogpt(str(published_run)).starts.frames
    for row, start in enumerate((0, 0, 1, 1)):
        first = picture[row * (64 + GAP) :][:64, :64]
        np.testing.assert_array_equal(first[2:-2, 2:-2], clips[start, 0, 2:-2, 2:-2])


def test_one_action_sequence_makes_many_worlds(published_run: Path, tmp_path: Path):
    out = tmp_path / "grid.gif"
    options = Sample(str(published_run), out, starts=(0, 1), futures=1, action="stay:2,right")
    sample(options)
    assert out.exists()
    taken = action_sequence(ActionSpec("discrete", (2,)), "0:2,1", 4)
    assert taken.tolist() == [0, 0, 1, 1]


def test_a_class_by_its_name_makes_other_clips(published_run: Path, tmp_path: Path):
    checkpoint = load_videogpt(str(published_run))
    config = checkpoint.model.config
    config = replace(
        config,
        prior=replace(config.prior, num_actions=0, on_class=True),
        class_names=("cats", "dogs"),
    )
    torch.manual_seed(0)
    model = VideoGPT(config)
    model.tokenizer.load_state_dict(checkpoint.model.tokenizer.state_dict())
    for name, parameter in model.prior.named_parameters():
        if "gain_and_bias.weight" in name or "heads" in name:  # zeros while untrained
            torch.nn.init.normal_(parameter, std=1.0)
    save_checkpoint(tmp_path / "run", replace(checkpoint, model=model), card="", compact=False)
    drawn = []
    for name in ("dogs", "dogs", "cats", None):  # the toy's clips are all of the first class
        out = tmp_path / "grid.png"
        sample(Sample(str(tmp_path / "run"), out, futures=1, class_name=name, overwrite=True))
        drawn.append(out.read_bytes())
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]
    with pytest.raises(sample_command.UserError, match=r"unknown class 'cat'; .*: cats, dogs"):
        sample(Sample(str(tmp_path / "run"), out, class_name="cat", overwrite=True))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"action": "right:x"}, "'x' is not a number of steps"),
        ({"action": "right:0"}, "'0' is not a number of steps"),
        ({"starts": (99,)}, "there is no start 99"),
        ({"class_name": "cat"}, "takes no class"),
    ],
)
def test_bad_samples_get_one_clear_line(published_run: Path, changes, complaint, monkeypatch):
    options = replace(Sample(str(published_run), Path("grid.png")), **changes)
    monkeypatch.setattr(sample_command.tyro, "cli", lambda *_, **__: options)
    assert complaint in one_line_error(sample_command.main)


def test_it_is_measured(published_run: Path, toy_data: Path, tmp_path: Path):
    options = Evaluate(str(published_run), data=toy_data, out=tmp_path, clips=6, batch_size=4)
    report = evaluate(options)
    assert set(report["parts"]) == {"reconstruction", "likelihood", "samples"}
    likelihood = report["parts"]["likelihood"]["numbers"]
    bits = likelihood["bits_a_token"]["value"]
    assert bits == pytest.approx(likelihood["nats_a_token"]["value"] / math.log(2))
    values_a_token = 4 * 64 * 64 * 3 / (2 * 8 * 8)
    assert likelihood["bits_a_pixel_channel"]["value"] == pytest.approx(bits / values_a_token)
    # What it is given changes what it predicts.
    assert likelihood["exchange_costs"]["value"] != 0
    assert {"report.md", "report.json", "samples.png", "samples.gif"} <= {
        path.name for path in tmp_path.iterdir()
    }
    # Rows of three: a real clip, its reconstruction, and a sample behind the given frame.
    rows = np.asarray(Image.open(tmp_path / "samples.png"))[::2, ::2]
    for i in range(0, 18, 3):
        real, sampled = (rows[row * (64 + GAP) :][:64, :64] for row in (i, i + 2))
        assert (sampled[0] == RED).all()
        np.testing.assert_array_equal(sampled[2:-2, 2:-2], real[2:-2, 2:-2])
    text = (tmp_path / "report.md").read_text()
    for heading in ("## Reconstruction", "## Likelihood", "## Samples"):
        assert heading in text


def test_the_loss_of_training_is_the_likelihood_that_is_measured(
    published_run: Path, toy_data: Path
):
    model, reader = load_videogpt(str(published_run)).model.eval(), EpisodeReader(toy_data)
    whole = WholeClips(model, reader, ClipSettings(3, Sampling(), seed=0, batch_size=2))
    recipe = replace(PUBLISHED["tiny-videogpt"].prior_recipe, batch_size=3)
    stage = VideoPriorStage(model, reader, recipe, memory_limit_bytes=0, device=torch.device("cpu"))
    stage.clips = ClipSampler(reader, "test", recipe.num_frames, memory_limit_bytes=0)
    # One batch of training, of just the clips that are measured.
    stage.clips.draw = lambda rng, batch_size: whole.rows
    with torch.no_grad():
        losses = stage.losses(stage.module, np.random.default_rng(0), slice(None))
    measured = whole.likelihood()
    assert float(losses["loss"]) == pytest.approx(measured["nats_a_token"].value, rel=1e-5)
    assert float(losses["bits_a_token"]) == pytest.approx(measured["bits_a_token"].value, rel=1e-5)
    alone = WholeClips(model, reader, replace(whole.settings, batch_size=1)).likelihood()
    assert alone["nats_a_token"].value == pytest.approx(measured["nats_a_token"].value, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"parts": "fvd"}, "--i3d-weights"),
        ({"parts": "inception"}, "--c3d-weights"),
        ({"parts": "horizon"}, "unknown part 'horizon'; the known ones are: reconstruction"),
        ({"i3d_weights": Path("nowhere.pt")}, "nowhere.pt"),
        ({"data": None}, "--data is needed"),
    ],
)
def test_bad_measures_get_one_clear_line(
    published_run: Path, toy_data: Path, changes, complaint, monkeypatch
):
    options = replace(Evaluate(str(published_run), data=toy_data), **changes)
    monkeypatch.setattr(tyro, "cli", lambda *_, **__: options)
    assert complaint in one_line_error(evaluate_command.main)


def test_data_of_another_kind_are_refused(published_run: Path, tmp_path: Path, monkeypatch):
    other = write_toy_data(tmp_path / "data")
    meta = json.loads((other / "meta.json").read_text())
    meta["actions"]["meanings"] = ["left", "right"]
    (other / "meta.json").write_text(json.dumps(meta))
    options = Evaluate(str(published_run), data=other)
    monkeypatch.setattr(tyro, "cli", lambda *_, **__: options)
    assert "have different actions" in one_line_error(evaluate_command.main)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"preset": "nowhere"}, "the known ones are: moving-mnist, bair, robonet"),
        ({"conditions": "weather"}, "unknown condition 'weather'"),
        ({"conditions": "class"}, "the data have none"),
        ({"preset": "bair", "data": None}, "`python -m worldmodel.data bair SRC --out data/bair`"),
        (
            {"preset": "vizdoom-battle2", "data": None},
            "`python -m collect.vizdoom --scenario battle2",
        ),
        ({"json": True}, "--json goes with --describe"),
        (
            {"describe": True, "precision": "auto", "accumulate": 2},
            "--describe doesn't take --accumulate",
        ),
    ],
)
def test_bad_training_gets_one_clear_line(
    toy_data: Path, tmp_path: Path, changes, complaint, monkeypatch
):
    options = replace(TINY, data=toy_data, out=tmp_path / "run")
    options = replace(options, **changes)
    monkeypatch.setattr(tyro, "cli", lambda *_, **__: options)
    monkeypatch.chdir(tmp_path)
    assert complaint in one_line_error(train_command.main)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [*PRESETS, *PUBLISHED])
def test_the_command_that_gets_a_preset_s_data_is_one(name: str):
    preset = PRESETS.get(name) or PUBLISHED[name]
    python, dash_m, module, *arguments = f"{preset.get} --out {preset.data}".split()
    assert (python, dash_m) == ("python", "-m")
    command = {
        "worldmodel.data": Command,
        "collect.vizdoom": Collect,
        "collect.pushing": CollectPushing,
    }[module]
    given = tyro.cli(command, args=arguments)
    assert given.out == Path(preset.data)
    assert getattr(given, "scenario", "hgs") in SCENARIOS


def test_no_data_set_but_doom_s_is_told_to_be_recorded_from_doom(tmp_path: Path):
    with pytest.raises(UserError, match="or import one") as error:
        read_info(tmp_path / "moving-mnist")
    assert "--scenario" not in str(error.value)


def test_actions_that_nobody_took_are_refused_if_asked_for_and_else_left_out(
    toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    data = tmp_path / "data"
    with EpisodeWriter(data, replace(read_info(toy_data), actions=NO_ACTION)) as writer:
        for episode in map(toy_episode, range(20)):
            writer.append(replace(episode, action=np.zeros_like(episode.action)))
    options = replace(TINY, data=data, out=tmp_path / "run", tokenizer_steps=1, prior_steps=1)
    with pytest.raises(UserError, match="holds no actions to condition on"):
        train(replace(options, conditions="actions,frames"))
    assert not (tmp_path / "run").exists()
    train(options)  # the preset would tell actions
    assert load_videogpt(str(tmp_path / "run")).model.config.prior.num_actions == 0
    assert "note: these episodes have no actions" in capsys.readouterr().err


def test_sizes_that_the_data_change_are_told(toy_data: Path):
    preset = PUBLISHED["ucf101-128"]
    config = training.config_of(preset, EpisodeReader(toy_data))
    (note,) = training._notes(preset, config, Train(preset="ucf101-128"))
    assert "meant for clips of 16x128x128x3 and latents of 4x32x32" in note
    assert "clips of 16x64x64x3, so latents are 4x16x16" in note


@pytest.mark.slow
def test_two_processes_train_as_one(toy_data: Path, tmp_path: Path):
    """The real models, given frames and all, through the real command; activations computed again
    in the backward pass change nothing either."""
    command = ["-m", "worldmodel.videogpt.train", "tiny-videogpt", "--data", str(toy_data)]
    command += ["--device", "cpu", "--precision", "fp32", "--conditions", "actions,frames"]
    command += ["--tokenizer-steps", "2", "--prior-steps", "2"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    subprocess.run([sys.executable, *command, "--out", alone], check=True, capture_output=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [sys.executable, *torchrun, *command, "--checkpoint-activations", "--out", together],
        check=True,
        capture_output=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    for stage in ("tokenizer", "prior"):
        one, two = (
            [json.loads(line) for line in text.splitlines()]
            for text in (
                (run / "training" / f"{stage}.jsonl").read_text() for run in (alone, together)
            )
        )
        assert len(one) == len(two) > 1
        for a, b in zip(one, two, strict=True):
            for name in set(a) - {"seconds"}:
                assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), (stage, name)
