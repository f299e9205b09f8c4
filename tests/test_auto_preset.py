"""Sizes chosen from the data: they train, and what can't be is said in a line."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import one_line_error
from data_samples import INFO, sample_episode
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.checkpoint import load_checkpoint
from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import (
    SMALL_PRIOR,
    auto_preset,
    clip_length,
    pixels_a_token,
    shortage,
)
from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.train import Train, main, train
from worldmodel.training.dream import describe


def write(folder: Path, *, shape=(16, 16, 3), num_steps=30, names=("x",), episodes=10) -> Path:
    info = replace(INFO, frame_shape=shape, variable_names=names)
    with EpisodeWriter(folder, info) as writer:
        for i in range(episodes):
            writer.append(sample_episode(i, num_steps, info=info))
    return folder


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(64, 64, 8), (96, 96, 8), (128, 128, 16), (32, 32, 4), (16, 16, 2), (8, 8, 2), (64, 96, 8)],
)
def test_a_frame_becomes_some_8x8_tokens(height: int, width: int, expected: int):
    assert pixels_a_token(height, width) == expected


@given(st.integers(1, 600), st.integers(1, 600))
def test_tokens_tile_the_frame_in_blocks_of_2x2(height: int, width: int):
    side = pixels_a_token(height, width)
    if side is None:
        return
    rows, columns = height // side, width // side
    assert (rows * side, columns * side) == (height, width)
    assert rows % 2 == columns % 2 == 0
    assert rows * columns <= 256


def test_every_multiple_of_32_up_to_256_is_a_good_size():
    for size in range(32, 257, 32):
        side = pixels_a_token(size, size)
        assert side is not None
        assert 64 <= (size // side) ** 2 <= 256


@pytest.mark.parametrize("num_steps", [1, 2, 5, 15, 16, 40])
def test_clips_fit_into_short_episodes(tmp_path: Path, num_steps: int):
    reader = EpisodeReader(write(tmp_path, num_steps=num_steps))
    assert clip_length(reader) == min(17, num_steps + 1)
    preset = auto_preset(reader)
    assert preset.prior.window <= preset.prior_recipe.num_frames
    short = shortage(preset, reader)
    assert (short is None) == (num_steps >= 16)
    assert short is None or f"has more than {num_steps + 1} frames" in short


def test_a_few_short_episodes_do_not_shorten_the_clips(tmp_path: Path):
    with EpisodeWriter(tmp_path, INFO) as writer:
        for i in range(30):
            writer.append(sample_episode(i, 2 if i in (3, 11, 20) else 30))
    assert clip_length(EpisodeReader(tmp_path)) == 17


def test_more_data_train_longer_within_reason(tmp_path: Path):
    steps = []
    for num_frames in (10, 100_000, 10**9):
        reader = EpisodeReader(write(tmp_path / str(num_frames), episodes=10))
        reader.index["episode_length"] = num_frames // 8
        preset = auto_preset(reader)
        steps.append((preset.tokenizer_recipe.steps, preset.prior_recipe.steps))
    assert steps[0] == (3_000, 5_000)
    assert steps[2] == (20_000, 40_000)
    assert steps[0] < steps[1] < steps[2]


def test_it_trains_without_a_name_and_without_variables(tmp_path: Path):
    data = write(tmp_path / "data", names=(), num_steps=14)
    out = tmp_path / "run"
    options = Train(data=data, out=out, device="cpu", precision="fp32", batch_size=2)
    train(replace(options, tokenizer_steps=2, prior_steps=2))
    assert (out / "weights.safetensors").exists()


def test_the_small_preset_takes_less_computation(tmp_path: Path):
    reader = EpisodeReader(write(tmp_path, episodes=10))
    cost = {
        small: {
            stage: of["flops"]
            for stage, of in describe("auto", auto_preset(reader, small=small))["step"].items()
        }
        for small in (False, True)
    }
    assert cost[True]["vqvae"] / cost[False]["vqvae"] == pytest.approx(4 / 64, rel=0.01)  # frames
    assert 0.2 < 4 * cost[True]["prior"] / cost[False]["prior"] < 0.4  # 2 clips, not 8


def test_it_starts_from_the_tokenizer_of_a_shipped_dream(tmp_path: Path, capsys):
    data = write(tmp_path / "data", shape=(64, 64, 3), num_steps=5)
    options = Train("auto-small", data=data, out=tmp_path / "run", device="cpu", precision="fp32")
    options = replace(
        options, stage="tokenizer", tokenizer_steps=1, batch_size=2, learning_rate=1e-12
    )
    train(options)
    assert "the tokenizer starts from that of dream-doom" in capsys.readouterr().err
    train(replace(options, stage="prior", prior_steps=1))
    trained = load_checkpoint(str(tmp_path / "run")).model.tokenizer.state_dict()
    shipped = load_checkpoint("dream-doom").model.tokenizer.state_dict()
    for name, tensor in shipped.items():
        is_same = torch.allclose(trained[name], tensor, rtol=0, atol=1e-9)
        # The codes are of this world's own frames.
        assert is_same != (name.startswith("codebooks") or name == "data_variance"), name

    card = (tmp_path / "run" / "README.md").read_text()
    assert "training started from: the tokenizer of dream-doom" in card  # of an earlier command

    train(replace(options, out=tmp_path / "random", init="none"))
    assert "dream-doom" not in capsys.readouterr().err
    with pytest.raises(UserError, match="--init dream-doom: its variable_names"):
        train(replace(options, out=tmp_path / "prior", init="dream-doom", stage="prior"))


def test_frames_of_any_size_start_from_it_if_its_tokens_fit(tmp_path: Path):
    starts = {}
    for size in (64, 96, 128, 32):
        reader = EpisodeReader(write(tmp_path / str(size), shape=(size, size, 3), num_steps=2))
        starts[size] = auto_preset(reader).start
    # Tokens of 16x16 or 4x4 pixels need other networks.
    assert starts == {64: "dream-doom", 96: "dream-doom", 128: None, 32: None}


def test_the_small_preset_trains(tmp_path: Path):
    data, out = write(tmp_path / "data", num_steps=14), tmp_path / "run"
    options = Train("auto-small", data=data, out=out, device="cpu", batch_size=2)
    train(replace(options, tokenizer_steps=2, prior_steps=2))
    assert load_checkpoint(str(out)).model.config.prior.width == SMALL_PRIOR["width"]


def test_a_model_of_the_chosen_sizes_can_be_made(tmp_path: Path):
    reader = EpisodeReader(write(tmp_path, shape=(32, 64, 3)))
    preset = auto_preset(reader)
    config = WorldModelConfig(preset.actions, preset.variable_names, preset.tokenizer, preset.prior)
    assert WorldModel(config).config.tokenizer.grid == (8, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the folder of episodes with --data, or name a preset"),
        (("--describe",), "give the folder of episodes with --data, or name a preset"),
        (("--data", "no/such"), "no/such does not exist"),
        (("--data", "ODD"), "frames of 30x30 can't be cut into some 8x8 tokens: .*--size 64"),
        (("--data", "ODD", "--describe"), "frames of 30x30 .*--size 64"),
    ],
)
def test_what_is_missing_is_said_in_a_line(tmp_path, monkeypatch, arguments, message):
    odd = str(write(tmp_path / "odd", shape=(30, 30, 3), episodes=2))
    given_ones = [odd if argument == "ODD" else argument for argument in arguments]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *given_ones])
    assert re.search(message, one_line_error(main))
    assert not (tmp_path / "runs").exists()


def test_it_is_described(tmp_path: Path, monkeypatch, capsys):
    data = write(tmp_path / "data", shape=(64, 64, 3))
    monkeypatch.setattr(sys, "argv", ["train", "--data", str(data), "--describe"])
    main()
    described = capsys.readouterr().out
    assert "preset       auto" in described
    assert "latents      8x8" in described
    assert described.count("steps at") == 2
