"""The benchmarks run, and their tables show what was measured."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import one_line_error, write_toy_data
from toy_square import registered_square

from benchmarks import (
    attention,
    busy_neighbour,
    dream_memory,
    dream_step,
    gpu,
    learning_curve,
    pushing_step,
    sampling,
    train_step,
    vector_dream,
)
from benchmarks.measuring import about, run_benchmark
from envs.renderers import choose_renderer
from worldmodel.checkpoint import load_checkpoint
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import to_lines
from worldmodel.training import costs
from worldmodel.videogpt.configs import PUBLISHED, VideoGPTConfig
from worldmodel.videogpt.gpt import GPT, Conditions


def shown(module, results) -> str:
    return "\n".join(to_lines(module.tables({**results, **about()})))


def test_dream_step_measures_every_variant(tiny_run: Path) -> None:
    results = dream_step.measure(dream_step.Options(checkpoint=str(tiny_run), steps=2))
    assert len(results["variants"]) == 4
    assert all(row["p50_ms"] > 0 for row in results["variants"].values())
    assert set(results["parts_ms"]) == set(results["floor"]["parts"])
    assert results["floor"]["ms"] > 0
    assert set(results["batched"]) == {str(size) for size in dream_step.BATCH_SIZES}
    text = shown(dream_step, results)
    for name in results["variants"]:
        assert name in text


def test_a_dreams_memory_grows_by_its_keys_and_values(tiny_run: Path) -> None:
    options = dream_memory.Options(checkpoint=str(tiny_run), batch=2)
    few, many = (dream_memory._variant(options, f"window {window}") for window in (3, 8))
    config = load_checkpoint(str(tiny_run)).model.config
    numbers = 2 * config.prior.layers * config.positions * config.prior.width
    numbers += len(config.variable_names) + config.actions.vector_size
    grown = (many["state_a_dream"] - few["state_a_dream"]) * 2**20 / (8 - 3)
    assert grown == pytest.approx(4 * numbers, abs=2)  # and one or two flags a frame
    assert few["dreams"] == 2
    assert few["peak_a_dream"] >= 0
    one, three = (dream_memory._variant(options, f"dreams {dreams}") for dreams in (1, 3))
    assert one["state_a_dream"] == three["state_a_dream"]


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own(tiny_run: Path, tmp_path, monkeypatch):
    monkeypatch.setattr(dream_memory, "PICTURE", tmp_path / "memory.png")
    results = dream_memory.measure(
        dream_memory.Options(str(tiny_run), (1, 4), (3,), (0, 2), batch=2, publish=True)
    )
    assert list(results["variants"]) == [
        "dreams 1",
        "dreams 4",
        "window 3",
        "older frames 0",
        "older frames 2",
    ]
    assert all(row["process"] > 50 for row in results["variants"].values())
    assert "older frames 2" in shown(dream_memory, results)
    assert (tmp_path / "memory.png").stat().st_size > 1000


def test_vectors_of_dreams_are_measured_in_every_size(tiny_run: Path) -> None:
    options = vector_dream.Options(checkpoint=str(tiny_run), sizes=(1, 3), seconds=0.2, real=False)
    with registered_square():
        results = vector_dream.measure(options)
    rates = results["frames_a_second"]
    assert list(rates) == ["1 dreams, one batch", "3 dreams, one batch", "4 single dreams in turn"]
    assert min(rates.values()) > 0
    assert "3 dreams, one batch" in shown(vector_dream, results)


def test_the_learning_curve_learns_from_more_and_longer(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(learning_curve, "LEARNING_CURVE", tmp_path / "curve.json")
    monkeypatch.setattr(learning_curve, "PICTURE", tmp_path / "curve.png")
    monkeypatch.setattr(costs, "LEARNING_CURVE", tmp_path / "curve.json")
    data = write_toy_data(tmp_path / "data", num_episodes=40)
    options = learning_curve.Options(
        data,
        frames="40,90",
        minutes="0.01,0.03",
        preset="tiny",
        clips=4,
        work=tmp_path / "work",
        publish=True,
    )
    results = learning_curve.measure(options)
    pairs = [(row["frames"], row["minutes"]) for row in results["rows"]]
    assert pairs == [(40, 0.03), (90, 0.03), (90, 0.01)]
    whole = EpisodeReader(data)
    work = tmp_path / "work" / whole.digest()[:8]
    few, many = (EpisodeReader(work / f"{n}-frames") for n in (40, 90))
    for split in ("validation", "test"):
        ids = [set(r.index["episode_id"][r.split(split)].tolist()) for r in (few, many, whole)]
        assert ids[0] == ids[1] == ids[2]
    lengths = [(r.index["episode_length"] + 1)[r.split("train")] for r in (few, many)]
    assert 40 <= lengths[0].sum() < 40 + lengths[0][-1]
    assert "MovingSquare, tiny" in shown(learning_curve, results)
    assert (tmp_path / "curve.png").exists()
    gain = results["rows"][0]["above_copying"]["8"]["value"]
    (line,) = [line for line in costs.compared(1234) if "compare" in line]
    assert f"40 / 90 frames gave dreams {gain:.1f} / " in line
    with pytest.raises(UserError, match="frames to learn from, not 9000"):
        learning_curve.measure(replace(options, frames="9000"))
    with pytest.raises(UserError, match="--minutes must be rising"):
        learning_curve.measure(replace(options, minutes="2,1"))


SMALL = attention.Options(latent_shape=(2, 3, 8, 1), width=16, heads=2, repeats=1)


@pytest.mark.slow
def test_attention_is_measured_in_processes_of_their_own():
    results = attention.measure(SMALL)
    assert list(results["variants"]) == list(attention.variants(SMALL))
    assert all(row["ms"] > 0 for row in results["variants"].values())
    text = shown(attention, results)
    assert all(name in text for name in results["variants"])
    assert "48 tokens (2 x 3 x 8 x 1)" in text
    only = attention.measure(replace(SMALL, variant=attention.DENSE))
    assert list(only["variants"]) == [attention.DENSE]
    assert attention.DENSE in shown(attention, only)


def test_attention_variants_agree_where_all_is_near():
    q, k, v = torch.randn(3, 1, 2, 48, 8)
    expected = attention.materialised_attention(q, k, v)
    for attend in attention.variants(SMALL).values():
        torch.testing.assert_close(attend(q, k, v), expected)


def test_sampling_is_measured_in_every_variant():
    results = sampling.measure(sampling.Options(preset="tiny-videogpt", tokens=9))
    assert len(results["ms"]) == 4
    assert all(ms > 0 for row in results["ms"].values() for ms in row.values())
    text = shown(sampling, results)
    assert all(name in text for name in results["ms"])


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_cache_of_the_whole_length_gives_the_logits_of_ours(kind):
    """Otherwise its speed is no measure of ours."""
    torch.manual_seed(0)
    preset = PUBLISHED["tiny-videogpt"]
    # 256 codes: more than a code sees near it.
    tokenizer = replace(preset.tokenizer, clip_shape=(8, 64, 64, 3))
    config = VideoGPTConfig(tokenizer, replace(preset.prior, attention=kind), sampling.ACTIONS)
    prior = GPT(config).eval()
    torch.nn.init.normal_(prior.heads[0].weight)  # pyright: ignore[reportArgumentType]
    prior.code_vectors.normal_()
    codes = torch.randint(config.tokenizer.num_codes, (1, prior.num_tokens))
    conditions = Conditions(torch.rand(1, config.condition_size), None)
    _, cache = prior.prefill(conditions, codes[:, :-2])
    kept = cache.keys_values.unflatten(-1, (2, config.prior.heads, -1)).permute(0, 3, 1, 4, 2, 5)
    whole = sampling.WholeLength(prior, cache, kept.clone())
    with torch.no_grad():
        expected = prior.decode_one_token(cache, codes[:, -2])[0]
        torch.testing.assert_close(whole(codes[:, -2], cache.length), expected)


def command_of(module):
    name = module.__name__.rpartition(".")[2]
    return lambda: run_benchmark(name, module.Options, module.measure, module.tables)


@pytest.mark.parametrize(
    ("module", "arguments", "complaint"),
    [
        (attention, ["--width", "10", "--heads", "4"], "must be a multiple of"),
        (attention, ["--repeats", "0"], "at least 1"),
        (attention, ["--variant", "fastest"], "--variant must be one of"),
        (sampling, ["--preset", "doom"], "--preset must be one of"),
        (sampling, ["--tokens", "5000"], "--tokens must be from 2 to 2730"),
    ],
)
def test_benchmarks_say_what_is_wrong(module, arguments, complaint, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    assert complaint in one_line_error(command_of(module))


@pytest.mark.parametrize("variant", ["vqvae fp32", "vqvae bf16 recomputed", "prior bf16"])
def test_train_steps_are_measured(variant: str):
    row = train_step.measure_here(train_step.Options("tiny-videogpt", repeats=1), variant)
    assert row["s"] > 0
    assert row["peak_mib"] >= row["model_mib"] > 0
    assert variant in train_step.VARIANTS
    results = {"preset": "tiny-videogpt", "device": "cpu", "variants": {variant: row}}
    assert variant in shown(train_step, results)


def test_renderers_are_measured_beside_the_physics_alone():
    results = pushing_step.measure(pushing_step.Options(episodes=1))
    assert results["variants"].keys() == {choose_renderer("auto"), "rays", "physics alone"}
    assert "| rays | " in shown(pushing_step, results)


def test_an_unknown_preset_gets_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "nowhere"])
    assert "the known ones are: moving-mnist" in one_line_error(command_of(train_step))


@pytest.mark.slow
def test_play_is_measured_alone_and_beside_a_busy_process():
    results = busy_neighbour.measure(busy_neighbour.Options(steps=2, pairs=1))
    assert results["ratio"] == results["beside"][0] / results["alone"][0] > 0
    assert "dream-doom: " in shown(busy_neighbour, results)
    with pytest.raises(UserError, match="unknown --env 'quake'"):
        busy_neighbour.measure(busy_neighbour.Options(env="quake"))


@pytest.mark.slow
def test_all_gpu_measurements_are_rehearsed(tiny_run: Path, tmp_path: Path):
    options = gpu.Options(out=tmp_path / "out", checkpoint=str(tiny_run), rehearse=True)
    results = gpu.measure(options)
    assert set(results["parts"]) == set(gpu.PARTS), results["outcomes"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"vector_dream.json", "attention.json", "train_step.json"}
    text = shown(gpu, results)
    assert "2 dreams, one batch" in text
    assert "fused, dense" in text


def test_a_gpu_measurement_that_takes_too_long_is_stopped(tmp_path: Path):
    outcome, said = gpu._run(["timeit", "-n", "1", "import time; time.sleep(60)"], most_s=1)
    assert (outcome, said) == ("stopped after 1 s", None)
    outcome, said = gpu._run(["no_such_module"], most_s=30)
    assert outcome.startswith("failed: ")
    assert said is None
    assert gpu._run(["timeit"], most_s=0) == ("left out: no time was left", None)
