"""The report: kept parts, damaged files, and the page, read as a browser would read it."""

import copy
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from conftest import one_line_error, toy_episode

from worldmodel import evaluate as command
from worldmodel.checkpoint import load_checkpoint
from worldmodel.data import ClipSampler, Episode, EpisodeReader, EpisodeWriter
from worldmodel.errors import UserError
from worldmodel.evaluate import Evaluate, evaluate
from worldmodel.evaluation import actions as actions_part
from worldmodel.evaluation import outcomes, policies, surprise
from worldmodel.evaluation.held_out import RANDOM_PLAYERS, HeldOut, Settings
from worldmodel.evaluation.inverse_dynamics import inverse_dynamics_of
from worldmodel.evaluation.parts import DREAM_PARTS, DREAM_SECTIONS
from worldmodel.evaluation.predicting import predict_outcomes, shown
from worldmodel.evaluation.report import (
    FORMAT_VERSION,
    report_blocks,
    to_html,
    to_json,
    to_markdown,
)
from worldmodel.evaluation.tables import interval, to_text
from worldmodel.interface.sampling import SamplingOptions
from worldmodel.metrics.bootstrap import Bootstrap

VOID = {"meta", "img", "br", "link", "input"}


@pytest.fixture(scope="module")
def options(evaluated: tuple[Evaluate, dict]) -> Evaluate:
    return evaluated[0]


@pytest.fixture(scope="module")
def report(evaluated: tuple[Evaluate, dict]) -> dict:
    return evaluated[1]


@pytest.fixture(scope="module")
def held_out(tiny_run: Path, toy_data: Path) -> HeldOut:
    settings = Settings(num_clips=4, num_samples=1, horizon=6, num_frames=16)
    return HeldOut(load_checkpoint(str(tiny_run)).model, EpisodeReader(toy_data), settings)


class Page(HTMLParser):
    """Checks that tags close as they opened; collects links, ids, text and tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            assert not name.startswith("on")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def folder(options: Evaluate) -> Path:
    assert options.out is not None
    return options.out


def test_the_page_holds_every_part_and_all_it_shows_lies_beside_it(
    report: dict, options: Evaluate
) -> None:
    page = Page((folder(options) / "report.html").read_text())
    without_pose = [name for name in DREAM_PARTS if name not in ("place", "returns")]
    assert page.ids == list(report["parts"]) == without_pose
    for link in page.links:
        parts = urlsplit(link)
        assert not parts.scheme
        assert not parts.netloc
        assert parts.fragment in page.ids if parts.fragment else (folder(options) / link).exists()
    assert "script" not in page.tags
    mean = report["parts"]["likelihood"]["numbers"]["nats_a_token"]["value"]
    few = "(n=2, too few for an interval)"  # the toy's test episodes
    assert page.text.count(f"{mean:.2f} {few}") >= 1  # in the summary
    assert page.text.count(f"{mean:.3f} {few}") == 1  # in its table
    assert "the <b>command</b> & more" in page.text


def test_names_of_strangers_are_text_not_tags(report: dict) -> None:
    evil = '<script>alert("1")</script><img src=x onerror=alert(1)>|'
    hostile = json.loads(json.dumps(report).replace('"toy"', json.dumps(evil)))
    hostile |= {"checkpoint": evil, "env_id": f"{evil}\n# heading"}
    errors = hostile["parts"]["outcomes"]["numbers"]["dreamed"]["variable_mae"]
    errors[evil] = errors.pop("column")
    page = Page(to_html(hostile, DREAM_SECTIONS))
    assert "script" not in page.tags
    assert page.links == Page(to_html(report, DREAM_SECTIONS)).links
    assert page.text.count("<script>") >= 4  # two titles, who acted, a variable
    markdown = to_markdown(hostile, DREAM_SECTIONS)
    assert "<script" not in markdown
    assert "\n# heading" not in markdown
    rows = [line for line in markdown.splitlines() if "alert" in line and line.startswith("|")]
    assert rows
    assert all(r"\|" in row for row in rows)


def test_a_terminal_shows_columns_and_no_markdown(report: dict) -> None:
    hostile = report | {"checkpoint": "\x1b[2J**bold**"}
    text = to_text(report_blocks(hostile, DREAM_SECTIONS))
    assert not [line for line in text.splitlines() if line.startswith(("|", "#"))]
    assert "`" not in text
    assert "\x1b" not in text
    header = next(line for line in text.splitlines() if line.startswith("frames  PSNR, dB"))
    rows = text.splitlines()[text.splitlines().index(header) + 1 :]
    assert rows[0].index("  ") == header.index("  ")


def test_few_episodes_give_no_interval() -> None:
    values = np.arange(12.0)
    few, enough = (
        interval(to_json(Bootstrap(np.arange(12) % count, seed=0).mean(values)), 1)
        for count in (9, 12)
    )
    assert few == "5.5 (n=9, too few for an interval)"
    assert re.fullmatch(r"5\.5 \[3\.\d, 7\.\d\]", enough)
    assert interval({"value": 1.0, "low": 0.5, "high": 1.5}, 1) == "1.0 [0.5, 1.5]"  # an older one


def test_tables_of_others_are_not_replaced(options: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(UserError, match="another program wrote it"):
        evaluate(replace(options, out=tmp_path, parts="tokenizer"))
    assert (tmp_path / "report.md").read_text() == "mine"


def test_what_was_measured_is_kept_until_something_it_hangs_on_changes(
    report: dict, options: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = replace(options, out=tmp_path / "report", parts="tokenizer,policies,stability")
    shutil.copytree(folder(options), folder(own))

    def measured(changed: Evaluate) -> set[str]:
        before = json.loads((folder(own) / "report.json").read_text())["parts"]
        after = evaluate(changed, command="again")["parts"]
        assert set(after) == set(before)
        return {name for name in after if after[name]["command"] != before[name]["command"]}

    assert measured(own) == set()
    assert "kept, as nothing they depend on has changed: tokenizer" in capsys.readouterr().err
    assert measured(replace(own, frames=17)) == {"tokenizer"}
    (folder(own) / "stability.png").unlink()
    assert measured(replace(own, frames=17, inverse_dynamics_steps=3)) == {"stability"}
    own = replace(own, parts="policies")
    assert measured(replace(own, sampling=SamplingOptions(0.9))) == {"policies"}
    report_json = folder(own) / "report.json"
    report_json.write_text(report_json.read_text().replace('"again"', '"once"'))
    assert measured(replace(own, sampling=SamplingOptions(0.9), again=True)) == {"policies"}


def test_a_killed_evaluation_goes_on_where_it_was(
    report: dict, options: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ("tokenizer", "policies", "stability")
    own = replace(options, out=tmp_path / "report", parts=",".join(parts))
    make = command.dream_parts

    class Killed(BaseException):
        pass

    def dies(*args, **kwargs):
        def die() -> dict:
            raise Killed

        made = make(*args, **kwargs)
        return made | {"stability": replace(made["stability"], measure=die)}

    with monkeypatch.context() as patched:
        patched.setattr(command, "dream_parts", dies)
        with pytest.raises(Killed):
            evaluate(own, command="first")
    # Killed between two files: the page is of before.
    (folder(own) / "report.html").write_text("older")
    after = evaluate(own, command="second")["parts"]
    assert [after[name]["command"] for name in parts] == ["first", "first", "second"]
    assert Page((folder(own) / "report.html").read_text()).ids == list(parts)
    for name in parts:
        assert after[name]["numbers"] == report["parts"][name]["numbers"]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[1, 2]",
        '{"name": "another program\'s"}',
        '{BEGINNING, "parts": {"tokenizer": {}}}',
        '{BEGINNING, "parts": {"tokenizer": {"numbers": 5}}}',
        '{BEGINNING, "parts": []}',
    ],
    ids=["empty", "list", "foreign", "no numbers", "no table", "no parts"],
)
def test_a_damaged_or_foreign_report_is_one_clear_line(
    report: dict, options: Evaluate, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    beginning = (
        f'"format_version": {FORMAT_VERSION}, "weights_sha256": "{report["weights_sha256"]}"'
    )
    path.write_text(damage.replace("BEGINNING", beginning))
    before = path.read_text()
    own = replace(options, out=tmp_path, parts="tokenizer")
    monkeypatch.setattr(command.tyro, "cli", lambda *_, **__: own)
    assert "is damaged or no report of this command" in one_line_error(command.main)
    assert path.read_text() == before


def test_a_report_about_other_weights_is_begun_anew(
    report: dict, options: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report | {"weights_sha256": "0"}))
    again = evaluate(replace(options, out=tmp_path, parts="tokenizer"))
    assert set(again["parts"]) == {"tokenizer"}
    assert "starts over: it is about other weights" in " ".join(capsys.readouterr().err.split())


def test_likelihood_by_horizon_meets_the_mean_and_the_first_step(report: dict) -> None:
    numbers = report["parts"]["likelihood"]["numbers"]
    seen, ahead = numbers["frames_seen"], numbers["steps_ahead"]
    given, horizon = numbers["num_given"], 6
    assert list(seen["prior"]) == [str(k) for k in range(1, given + horizon)]
    assert list(ahead["prior"]) == [str(k) for k in range(1, horizon + 1)]
    # One step ahead nothing was dreamed yet.
    assert ahead["prior"]["1"] == pytest.approx(ahead["teacher_forced"]["1"])
    assert ahead["copy"]["1"] == pytest.approx(seen["copy"][str(given)])
    for k in range(1, horizon + 1):
        assert ahead["teacher_forced"][str(k)] == seen["prior"][str(given + k - 1)]
        assert ahead["copy"][str(k)]["value"] <= ahead["unigram"][str(k)]["value"]
    mean = np.mean([entry["value"] for entry in ahead["teacher_forced"].values()])
    assert mean == pytest.approx(numbers["nats_a_token"]["value"])


def test_the_prior_says_of_a_dream_what_it_said_while_dreaming(held_out: HeldOut) -> None:
    future, dreams = held_out.future, held_out.dreams
    again = held_out.predict("", dreamed=True).steps(future)
    np.testing.assert_allclose(again.nats, dreams.nats, atol=1e-4)
    came = held_out.predict_outcomes("", dreamed=True)
    # Dreams knew the variables that were drawn; here outcomes are means over draws.
    np.testing.assert_allclose(came.end_chance[:, future], dreams.end_probability, atol=0.01)
    np.testing.assert_allclose(came.reward[:, future], dreams.reward, atol=0.02)


def test_events_are_rewards_other_than_the_common_one(held_out: HeldOut) -> None:
    # The square brings 1 for a step to the right, which is 60 % of them, else 0.
    assert held_out.common_reward == 1.0
    predicted = held_out.predict_outcomes("")
    np.testing.assert_allclose(predicted.event_chance, 1 - predicted.reward, atol=1e-5)


def test_players_together_are_followed_as_all_clips_are(report: dict) -> None:
    numbers = report["parts"]["actions"]["numbers"]
    (of_all,) = numbers["ratio_by_policy"].values()  # the toy has one player
    assert of_all["num_clips"] == numbers["num_clips"]
    assert of_all["all"] == numbers["ratio"]


def test_still_is_what_a_frame_shown_twice_gives_away(held_out: HeldOut, tmp_path: Path) -> None:
    settings = replace(held_out.settings, inverse_dynamics_steps=20)
    held_out = HeldOut(held_out.model, held_out.reader, settings)
    numbers = actions_part.measure(held_out, tmp_path)
    cache = tmp_path / "inverse-dynamics.safetensors"
    network = inverse_dynamics_of(held_out.model, held_out.reader, cache, steps=20)
    frames, actions = held_out.clips.frames[:, held_out.num_given - 1 :], held_out.actions
    each = [
        network.agreement(frames[:, [t, t]], actions[:, [t]]).mean()
        for t in range(actions.shape[1])
    ]
    assert numbers.still.value == pytest.approx(np.mean(each))


@pytest.mark.slow
def test_who_learned_from_random_players_alone_knows_no_habits(
    held_out: HeldOut, toy_data: Path, tmp_path: Path
) -> None:
    def pushing_at_a_wall(episode: Episode) -> Episode:
        """Nothing moves whatever is done, and right is all that is done."""
        frames = np.broadcast_to(episode.frames[:1, :, ::-1], episode.frames.shape).copy()
        return replace(episode, frames=frames, action=np.ones_like(episode.action), policy="pusher")

    with EpisodeWriter(tmp_path / "data", EpisodeReader(toy_data).info) as writer:
        for i in range(40):
            random = replace(toy_episode(i), policy="random")
            writer.append(random if i % 2 else pushing_at_a_wall(random))
    reader = EpisodeReader(tmp_path / "data")
    read_right = {}
    for player in (None, RANDOM_PLAYERS):
        network = inverse_dynamics_of(
            held_out.model, reader, tmp_path / "network", steps=300, player=player
        )
        for policy in ("random", "pusher"):
            sampler = ClipSampler(reader, "train", 9, player=policy.encode())
            clips = sampler.read(sampler.draw(np.random.default_rng(0), 32))
            read_right[player, policy] = network.agreement(clips.frames, clips.action).mean()
    assert read_right[None, "random"] > 0.9
    assert read_right[None, "pusher"] > 0.9
    assert read_right[RANDOM_PLAYERS, "random"] > 0.9
    assert read_right[RANDOM_PLAYERS, "pusher"] < 0.1


@pytest.mark.parametrize(
    ("others", "random_steps", "is_measured"),
    [("policy", 24, True), ("random", 24, False), ("policy", 6, False)],
    ids=["some", "all", "too short"],
)
def test_a_second_network_learns_from_random_players_where_there_are_some_and_others(
    others: str,
    random_steps: int,
    is_measured: bool,
    held_out: HeldOut,
    report: dict,
    toy_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actions_part, "MIN_RANDOM_STEPS", 100)
    with EpisodeWriter(tmp_path / "data", EpisodeReader(toy_data).info) as writer:
        for i in range(40):
            random = replace(toy_episode(i, random_steps), policy="random")
            writer.append(random if i % 2 else replace(toy_episode(i), policy=others))
    reader = EpisodeReader(tmp_path / "data")
    settings = replace(held_out.settings, inverse_dynamics_steps=5)
    numbers = actions_part.measure(HeldOut(held_out.model, reader, settings), tmp_path)
    shown = copy.deepcopy(report)
    shown["parts"]["actions"]["numbers"] = to_json(numbers)
    title = "trained on random play, accuracy"
    for shows in (to_markdown, to_html):
        assert (title in shows(shown, DREAM_SECTIONS)) == is_measured
    of_random = numbers.trained_on_random_play
    assert (of_random is not None) == is_measured
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert len(set(kept.values())) == 1 + is_measured


def test_a_network_that_sees_no_motion_gives_no_ratio(report: dict) -> None:
    rng = np.random.default_rng(0)
    still = rng.random(20)
    seen = {"still": still, "real": still + rng.normal(0, 0.01, 20), "dreamed": still}
    boot = Bootstrap(np.arange(20), seed=0)
    assert math.isnan(actions_part.dreamed_over_real(seen, boot).value)
    seen["real"] = still + 0.5
    ratio = actions_part.dreamed_over_real(seen, boot).value
    assert ratio == pytest.approx(still.mean() / (still.mean() + 0.5))
    # The report's network was trained for two steps and guesses.
    assert report["parts"]["actions"]["numbers"]["ratio"]["value"] is None


def test_chances_of_a_change_are_shares_of_draws(held_out: HeldOut) -> None:
    prior, clips = held_out.model.prior, held_out.clips
    parts = (clips.action[:2], clips.variables[:2], clips.pose[:2])
    of = shown(held_out.model, held_out.real_codes[:2], *parts)
    told = predict_outcomes(held_out.model, of, common_reward=None)
    before = of.variables
    with torch.no_grad():
        early = prior(of.codes, of.actions, before, of.next_codes).early_outcomes
    generator = torch.Generator().manual_seed(1)
    draws = [
        prior.outcome.draw_variables(early, before, torch.rand(before.shape, generator=generator))
        for _ in range(4000)
    ]
    drawn = torch.stack(draws)
    # Standard errors are below 0.008, of the chances nought: a first variable hangs on no other.
    risen, fallen = ((drawn > before).float().mean(0), (drawn < before).float().mean(0))
    np.testing.assert_allclose(told.rise_chance, risen, atol=0.04)
    np.testing.assert_allclose(told.fall_chance, fallen, atol=0.04)
    assert told.rise_chance.max() > 0.1


def test_changes_are_those_of_the_recorded_variables(held_out: HeldOut, tmp_path: Path) -> None:
    numbers = outcomes.measure(held_out, tmp_path)
    changes = numbers.next_step.changes["column"]
    test = [held_out.reader.steps(int(i))["variables"] for i in held_out.reader.split("test")]
    steps = np.concatenate([np.diff(variables[:, 0]) for variables in test])
    assert changes["rises"].count == (steps > 0).sum() > 0
    assert changes["falls"].recorded.value == pytest.approx((steps < 0).mean())
    dreamed = numbers.dreamed.changes["column"]
    given = held_out.num_given
    in_clips = np.diff(held_out.clips.variables[:, given - 1 :, 0], axis=1)
    assert dreamed["rises"].recorded.value == pytest.approx((in_clips > 0).mean())
    after = held_out.dreams.variables[..., 0]
    first = after[:, 0] > held_out.clips.variables[:, given - 1, 0]
    rises = first.sum() + (np.diff(after, axis=1) > 0).sum()
    assert dreamed["rises"].dreamed.value == pytest.approx(rises / after.size)


def test_policies_share_the_clips(held_out: HeldOut, monkeypatch: pytest.MonkeyPatch) -> None:
    index = held_out.reader.index.copy()
    names = np.resize(np.asarray([b"bot", b"random"], "S64"), len(index))
    index["policy"] = names
    monkeypatch.setattr(held_out.reader, "index", index)
    found = policies.measure(held_out, Path())
    assert found.steps == [1]
    clips = held_out.reader.index["policy"][held_out.episodes]
    after = held_out.predicted.steps(held_out.future).nats
    for name, of in found.policies.items():
        rows = clips == name.encode()
        assert of.num_clips == rows.sum() > 0
        assert of.nats_a_token.value == pytest.approx(after[rows].mean())
        error = np.square(
            held_out.dreams.frames[rows, 0] / 255.0 - held_out.real[rows, 0] / 255.0
        ).mean()
        assert of.psnr[1].value == pytest.approx(-10 * math.log10(error), rel=1e-4)


def test_surprise_of_equal_frames_tells_nothing_and_of_strange_ones_much(
    held_out: HeldOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(frames: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {"equal": frames, "nonsense": rng.integers(0, 256, frames.shape, np.uint8)}

    monkeypatch.setattr(surprise, "altered_clips", altered)
    found = surprise.measure(held_out, tmp_path)
    equal, nonsense = found.kinds["equal"], found.kinds["nonsense"]
    assert equal.auroc == equal.auroc_of_means
    assert equal.auroc is not None
    assert nonsense.auroc is not None
    assert equal.auroc.value == 0.5
    assert equal.rise == (0, 0, 0, 2)
    assert nonsense.auroc.value > 0.9
    mean = held_out.predicted.steps(held_out.future).nats.mean()
    assert found.kinds["recorded"].nats_a_token.value == pytest.approx(mean)
    assert found.frames_of_a_mean == 6
    assert (tmp_path / "surprise.png").exists()


def test_altered_clips_are_what_their_names_say() -> None:
    frames = np.random.default_rng(0).integers(90, 160, (2, 3, 16, 16, 3), np.uint8)
    altered = surprise.altered_clips(frames, seed=0)
    mirrored, inverted, weak, strong = altered.values()
    np.testing.assert_array_equal(mirrored[..., ::-1, :], frames)
    np.testing.assert_array_equal(mirrored[..., 0, :], frames[..., 15, :])
    np.testing.assert_array_equal(inverted, 255 - frames)
    for noisy, deviation in ((weak, 0.05), (strong, 0.2)):
        difference = (noisy.astype(float) - frames) / 255
        assert difference.std() == pytest.approx(deviation, rel=0.05)
        assert abs(difference.mean()) < 0.01
    np.testing.assert_array_equal(surprise.altered_clips(frames, seed=0)["pixel noise 0.2"], strong)
