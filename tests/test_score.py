"""Likelihood of recorded episodes: exact in stretches, and what the command writes."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import one_line_error, toy_episode

from worldmodel import evaluate as command
from worldmodel.checkpoint import load_checkpoint
from worldmodel.configs.dream import WorldModelConfig
from worldmodel.configs.presets import PRESETS
from worldmodel.data import EpisodeReader, EpisodeWriter
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.evaluate import Evaluate, score
from worldmodel.evaluation import score as scoring
from worldmodel.evaluation.score import select_episodes, step_nats
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import PoseSpec
from worldmodel.prior.layers import encode_actions


@pytest.fixture
def options(tiny_run: Path, toy_data: Path, tmp_path: Path) -> Evaluate:
    return Evaluate(checkpoint=str(tiny_run), score=toy_data, out=tmp_path / "scores")


def short_sighted() -> WorldModel:
    """A random model with a window so short that a long episode needs many stretches."""
    preset = PRESETS["tiny"]
    prior = replace(preset.prior, window=4, layers=2)
    torch.manual_seed(0)
    config = WorldModelConfig(ActionSpec("discrete", (2,)), ("column",), preset.tokenizer, prior)
    config = replace(config, pose=PoseSpec(("x", "y"), "angle"))
    model = WorldModel(config).eval()
    for name, buffer in model.tokenizer.named_buffers():
        if name.endswith(".vectors"):
            buffer.normal_()  # untrained codes are all alike
    for parameter in model.parameters():  # nothing begins at zero: every path counts
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def test_stretches_say_what_one_pass_says() -> None:
    model = short_sighted()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (41, 64, 64, 3), np.uint8)
    actions = rng.integers(0, 2, 40)
    variables = rng.normal(size=(41, 1)).astype(np.float32)
    poses = rng.random((41, 3), np.float32)
    whole = step_nats(model, frames, actions, variables, poses, max_steps=1000)
    assert whole.shape == (40,)
    assert whole.std() > 1e-3
    for max_steps in (1, 6, 7, 13, 39, 40):
        stretched = step_nats(model, frames, actions, variables, poses, max_steps=max_steps)
        np.testing.assert_allclose(stretched, whole, atol=1e-4)


def test_fewer_frames_before_a_stretch_would_not_do() -> None:
    """The frames that reach a step are as many as said: changing the farthest changes it."""
    model = short_sighted()
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (12, 64, 64, 3), np.uint8)
    actions, variables = rng.integers(0, 2, 11), np.zeros((12, 1), np.float32)
    poses = rng.random((12, 3), np.float32)
    reach = model.config.prior.layers * (model.config.prior.window - 1)
    before = step_nats(model, frames, actions, variables, poses)
    actions[10 - reach] = 1 - actions[10 - reach]
    assert abs(step_nats(model, frames, actions, variables, poses)[10] - before[10]) > 1e-7
    actions[10 - reach] = 1 - actions[10 - reach]
    actions[9 - reach] = 1 - actions[9 - reach]
    assert abs(step_nats(model, frames, actions, variables, poses)[10] - before[10]) < 1e-5


def test_scores_are_sums_over_steps(options: Evaluate, toy_data: Path) -> None:
    scores = score(replace(options, episodes="test"), command="the command")
    reader = EpisodeReader(toy_data)
    members = reader.split("test")
    rows = scores["episodes"]
    assert [row["episode_id"] for row in rows] == reader.index["episode_id"][members].tolist()
    model = load_checkpoint(options.checkpoint).model
    for i, row in zip(members, rows, strict=True):
        episode = reader.episode(int(i))
        codes = model.encode(torch.from_numpy(episode.frames))[None]
        with torch.no_grad():
            logits = model.prior(
                codes[:, :-1],
                encode_actions(model.config.actions, torch.from_numpy(episode.action)[None]),
                torch.from_numpy(episode.variables)[None, :-1],
                codes[:, 1:],
                past=model.prior.whole_past(codes[:, :-1]),
            ).logits
        chances = torch.distributions.Categorical(logits=logits)
        by_step = -chances.log_prob(codes[:, 1:].flatten(2)).sum(-1)[0]
        assert row["total_nats"] == pytest.approx(float(by_step.sum()), rel=1e-5)
        assert row["worst_step"] == int(by_step.argmax())
        assert row["tokens"] == 64 * episode.length
        assert row["nats_a_token"] == pytest.approx(row["total_nats"] / row["tokens"])
        assert row["total_bits"] == pytest.approx(row["total_nats"] / math.log(2))
        assert (row["split"], row["policy"]) == ("test", "toy")
    assert options.out is not None
    assert json.loads((options.out / "scores.json").read_text()) == scores
    with (options.out / "scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["total_nats"]) for row in table] == [row["total_nats"] for row in rows]


def test_scoring_goes_on_and_again_begins_anew(
    options: Evaluate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []
    one = scoring.score_episode

    def counted(model: WorldModel, reader: EpisodeReader, i: int) -> scoring.Score:
        asked.append(i)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return one(model, reader, i)

    monkeypatch.setattr(scoring, "score_episode", counted)
    monkeypatch.setattr(scoring, "SAVE_EVERY_S", -1.0)
    options = replace(options, episodes="0-3")
    with pytest.raises(KeyboardInterrupt):
        score(options)
    scores = score(options)
    assert asked == [0, 1, 2, 2, 3]
    assert "kept: 2 of 4 episodes" in capsys.readouterr().err
    assert [row["episode_id"] for row in scores["episodes"]] == [0, 1, 2, 3]
    score(replace(options, again=True))
    assert asked == [0, 1, 2, 2, 3, 0, 1, 2, 3]
    only = score(replace(options, episodes="1"))  # the others stay in the file
    assert [row["episode_id"] for row in only["episodes"]] == [1]
    assert options.out is not None
    assert json.loads((options.out / "scores.json").read_text())["episodes"] == scores["episodes"]


def test_episodes_are_chosen_by_id(tmp_path: Path, toy_data: Path) -> None:
    with EpisodeWriter(tmp_path / "data", EpisodeReader(toy_data).info) as writer:
        for episode_id in (2, 5, 6, 11):
            writer.append(toy_episode(episode_id))
    reader = EpisodeReader(tmp_path / "data")
    for text, expected in (
        ("all", [0, 1, 2, 3]),
        ("5", [1]),
        ("11, 2-5", [0, 1, 3]),
        ("3-100", [1, 2, 3]),
    ):
        assert select_episodes(reader, text).tolist() == expected
    for text in ("", "x", "-3", "1.5", "7-9", "5,4"):
        with pytest.raises(UserError):
            select_episodes(reader, text)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"score": Path("nowhere")}, "nowhere does not exist"),
        ({"episodes": "first"}, "'first' is no id; write all, a split"),
        ({"episodes": "99999"}, "has no episode 99999 (it holds 0 to"),
        ({"parts": "horizon"}, "--score writes no report: leave --parts out"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_get_one_clear_line(
    options: Evaluate, changes: dict, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.tyro, "cli", lambda *_, **__: replace(options, **changes))
    assert complaint in one_line_error(command.main)


def test_a_damaged_file_of_scores_is_one_clear_line(
    options: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert options.out is not None
    options.out.mkdir()
    (options.out / "scores.json").write_text('{"episodes": 3')
    monkeypatch.setattr(command.tyro, "cli", lambda *_, **__: options)
    assert "is damaged or no file of this command" in one_line_error(command.main)
