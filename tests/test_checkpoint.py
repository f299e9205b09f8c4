"""A checkpoint comes back as it was, and one that lies is refused whole."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jaxtyping
import numpy as np
import pytest
import torch
from conftest import unprivileged
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

import envs  # noqa: F401  registers the environments
from worldmodel.checkpoint import (
    finish_save,
    load_checkpoint,
    read_lineage,
    read_world,
    save_checkpoint,
)
from worldmodel.checkpoint.contents import ADDED_SINCE
from worldmodel.configs.dream import FrameGPTConfig, VQVAEConfig, WorldModelConfig
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.pretrained import shipped_names
from worldmodel.ship import Ship, ship
from worldmodel.train import Train, train


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in tiny_run.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def make_older(folder: Path, version: int) -> dict[str, Any]:
    """Make a checkpoint one of a version without recall; returns its weights."""
    path = folder / "weights.safetensors"
    weights = {k: v for k, v in load_file(path).items() if not k.startswith("prior.recall.")}
    older = {"prior.recalls.0.norm.weight": np.ones(4, np.float32)}  # had no effect
    save_file(weights | older, path)
    change_config(folder, lambda c: (c.update(format_version=version), c.pop("files")))
    return weights


def change_config(folder: Path, change) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def change_weights(folder: Path, change) -> None:
    """Changed weights in a checkpoint that doesn't name their digest, as older ones don't."""
    weights = load_tensors(folder / "weights.safetensors")
    change(weights)
    save_tensors(weights, folder / "weights.safetensors")
    change_config(folder, lambda c: c.pop("files", None))


def test_a_checkpoint_comes_back_exactly(tiny_run, tmp_path):
    first = load_checkpoint(str(tiny_run))
    save_checkpoint(tmp_path / "again", first, card="# again\n", compact=False)
    second = load_checkpoint(str(tmp_path / "again"))
    assert second.model.config == first.model.config
    assert second.world == first.world
    weights = second.model.state_dict()
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for name, array in vars(first.starts).items():
        np.testing.assert_array_equal(array, getattr(second.starts, name))


def test_controls_come_back_and_older_checkpoints_have_none(copy: Path, tmp_path: Path):
    controls = {"idle": 0, "keys": [{"keys": ["w"], "sets": {"0": 1}}]}
    change_config(copy, lambda c: c["world"].update(controls=controls))
    loaded = load_checkpoint(str(copy))
    assert loaded.world.controls == controls
    save_checkpoint(tmp_path / "small", loaded, card="", compact=True)
    assert load_checkpoint(str(tmp_path / "small")).world == loaded.world
    change_config(copy, lambda c: c["world"].pop("controls"))
    assert load_checkpoint(str(copy)).world.controls == {}


def test_scales_of_another_shape_are_refused(tiny_run: Path, copy: Path):
    save_checkpoint(copy, load_checkpoint(str(tiny_run)), card="", compact=True)
    weights = load_file(copy / "weights.safetensors")
    name = next(name for name in weights if name.endswith(".row_scale"))
    weights[name] = weights[name][..., None]  # would broadcast to a giant
    save_file(weights, copy / "weights.safetensors")
    with pytest.raises(UserError, match="should have one scale a row"):
        load_checkpoint(str(copy))


def test_a_compact_checkpoint_is_small_and_nearly_the_same(tiny_run, tmp_path):
    first = load_checkpoint(str(tiny_run))
    save_checkpoint(tmp_path / "small", first, card="# small\n", compact=True)
    size = (tmp_path / "small" / "weights.safetensors").stat().st_size
    assert size < 0.65 * (tiny_run / "weights.safetensors").stat().st_size
    weights = load_checkpoint(str(tmp_path / "small")).model.state_dict()
    for name, tensor in first.model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim >= 2:
            # Half a step of int8 in a row, or the rounding of half precision.
            largest = tensor.abs().amax(tuple(range(1, tensor.ndim)), keepdim=True)
            assert ((weights[name] - tensor).abs() <= largest / 127 * 0.51 + 1e-6).all(), name


def test_a_compact_pose_head_is_exact_enough_for_long_dreams(posed_run: Path, tmp_path: Path):
    """Errors of its weights add up over the steps of a dream."""
    first = load_checkpoint(str(posed_run))
    save_checkpoint(tmp_path / "small", first, card="# small\n", compact=True)
    weights = load_checkpoint(str(tmp_path / "small")).model.state_dict()
    place = first.model.prior.place
    assert place is not None
    for name, tensor in place.head.state_dict().items():
        torch.testing.assert_close(
            weights[f"prior.place.head.{name}"], tensor, rtol=2**-11, atol=1e-7, msg=name
        )


@pytest.mark.parametrize(("version", "lacks"), [(2, ("recent", "in_turn")), (3, ("in_turn",))])
def test_what_an_older_format_lacks_is_zeros(copy: Path, version: int, lacks: tuple[str, ...]):
    """So it dreams as it did: format 2 told the outcomes nothing of the steps before, format 3
    told no variable of the others."""
    weights = load_file(copy / "weights.safetensors")
    names = [name for name in weights if name.startswith("prior.outcome.")]
    added = {name: weights.pop(name) for name in names if name.split(".")[2] in lacks}
    save_file(weights, copy / "weights.safetensors")
    with pytest.raises(UserError, match=rf"disagree about prior\.outcome\.{lacks[-1]}"):
        load_checkpoint(str(copy))
    make_older(copy, version)
    starts = load_file(copy / "starts.safetensors")
    del starts["poses"]
    save_file(starts, copy / "starts.safetensors")
    state = load_checkpoint(str(copy)).model.state_dict()
    assert len(added) == 2 * len(lacks)
    for name in state:
        expected = 0 * added[name] if name in added else weights[name]
        np.testing.assert_array_equal(state[name].numpy(), expected)


def test_what_an_older_format_said_of_ages_is_left_out(copy: Path):
    weights = make_older(copy, 8)
    width = weights["prior.position"].shape[1]
    ages = {"prior.age.weight": np.ones((8, width)), "prior.trust": np.ones((7, width))}
    save_file(weights | ages, copy / "weights.safetensors")
    change_config(copy, lambda c: c["prior"].update(tells_age=True))
    state = load_checkpoint(str(copy)).model.state_dict()
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor.numpy(), weights[name])


def test_an_older_checkpoint_keeps_its_map_and_learns_what_it_lacks(
    posed_run: Path, posed_data: Path, tmp_path: Path
):
    older = tmp_path / "older"
    shutil.copytree(posed_run, older, ignore=shutil.ignore_patterns("training"))
    weights = make_older(older, 8)
    for name in ADDED_SINCE[8]:
        del weights[name]
    save_file(weights, older / "weights.safetensors")
    options = Train(preset="tiny", data=posed_data, out=tmp_path / "run", device="cpu")
    train(replace(options, precision="fp32", stage="prior", init=str(older), max_minutes=1e-9))
    state = load_file(tmp_path / "run" / "training" / "place.state.safetensors")
    prior = load_checkpoint(str(older)).model.prior
    assert prior.place is not None
    assert prior.config.recalled == 0
    recall = load_checkpoint(str(posed_run)).model.prior.recall
    assert recall is not None
    assert {name for name in state if name.startswith("model.")} == {
        "model.view_bias",
        *(f"model.head.{name}" for name in prior.place.head.state_dict()),
        *(f"model.recall.{name}" for name in recall.state_dict()),
    }


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown checkpoint 'dream-dom'"):
        load_checkpoint("dream-dom")
    for name in shipped_names():
        with pytest.raises(UserError, match=name):
            load_checkpoint("no-such")


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "starts.safetensors"])
@pytest.mark.parametrize("kept", [0, 100, -10])
def test_a_truncated_file_is_refused(copy: Path, name: str, kept: int):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:kept])
    with pytest.raises(UserError):
        load_checkpoint(str(copy))


def test_others_may_read_it_as_far_as_the_umask_says(tiny_run: Path):
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in tiny_run.iterdir() if path.is_file()
    }
    assert len(set(modes.values())) == 1, modes


def test_a_file_that_may_not_be_read_is_not_called_damaged(copy: Path):
    (copy / "weights.safetensors").chmod(0)
    with unprivileged(copy), pytest.raises(UserError, match="permissions") as error:
        load_checkpoint(str(copy))
    assert "damaged" not in str(error.value)
    copy.chmod(0)
    with unprivileged(copy.parent), pytest.raises(UserError, match="permissions"):
        load_checkpoint(str(copy))
    copy.chmod(0o755)


def test_a_missing_file_is_named(copy: Path):
    (copy / "starts.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks starts\.safetensors"):
        load_checkpoint(str(copy))


def test_config_and_tensors_must_agree(copy: Path):
    change_config(copy, lambda c: c["prior"].update(width=64))
    with pytest.raises(UserError, match="has shape"):
        load_checkpoint(str(copy))


def test_a_config_that_asks_for_a_giant_is_refused_without_making_it(copy: Path):
    change_config(copy, lambda c: c["prior"].update(width=8192, heads=64, layers=4))
    with pytest.raises(UserError, match="more than 2000000000 parameters"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(format_version=99),
        lambda c: c["actions"].update(sizes=[]),
        lambda c: c["tokenizer"].update(surprise=1),
        lambda c: c["tokenizer"].update(num_codes="many"),
        lambda c: c["tokenizer"].update(downsampling=0),
        lambda c: c["prior"].update(heads=0),
        lambda c: c["world"].update(env_id="Doom\ud800"),
        lambda c: c["world"].update(env_id=["Doom"]),
        lambda c: c["world"].update(env_kwargs=[["a", 1]]),
        lambda c: c.update(lineage=7),
        lambda c: c.update(files=["weights.safetensors"]),
        lambda c: c["world"].update(fps=0),
        lambda c: c["world"].update(temperature=-1),
        lambda c: c["world"].update(guidance=float("nan")),
        lambda c: c["world"].update(temperature=float("inf")),
        lambda c: c["world"].update(controls=["w"]),
        lambda c: c["world"].update(controls={"keys": "w" * 2**16}),
        lambda c: c["prior"].update(window=65_536),
        lambda c: c.pop("world"),
        lambda c: c.pop("tokenizer"),
        lambda c: c.pop("prior"),
    ],
)
def test_a_wrong_config_is_refused(copy: Path, change):
    change_config(copy, change)
    with pytest.raises(UserError):
        load_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda c: c["tokenizer"].update(num_codebooks=65),
            "num_codebooks should be less than or equal to 64",
        ),
        (
            lambda c: c["tokenizer"].update(hidden_units="32"),
            "hidden_units should be a valid integer",
        ),
        (
            lambda c: c["tokenizer"].update(frame_shape=[64, 64, "3"]),
            r"frame_shape\[2\] should be a valid integer",
        ),
        (lambda c: c["tokenizer"].update(frame_shape=[64, 64]), r"frame_shape\[2\]"),
        (lambda c: c["tokenizer"].update(commitment=True), "commitment should be a valid number"),
        (lambda c: c["prior"].update(layers=2.5), "layers should be a valid integer, not 2.5"),
        (lambda c: c["prior"].update(layers=True), "layers should be a valid integer, not True"),
        (lambda c: c["actions"].update(sizes=[2**58], meanings=[]), "not an action space"),
        (
            lambda c: c.update(variable_names=["health"] * 2**17),
            "variable_names should have at most 65536 items",
        ),
    ],
)
def test_a_config_says_which_of_its_sizes_is_wrong(copy: Path, change, complaint, monkeypatch):
    # Else the tests' own type checks would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    change_config(copy, change)
    with pytest.raises(UserError, match=complaint):
        load_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("lineage", "complaint"),
    [
        ([], "lineage must be an object"),
        ({"trained": "x"}, "lineage: trained must be an object"),
        ({"data": [1]}, "lineage: data must be an object"),
        ({"started_from": {"name": 1}}, "lineage: started_from must hold texts"),
        ({"data": {"num_episodes": "3"}}, "num_episodes must be a whole number"),
        ({"data": {"num_episodes": 3, "recorded_by": 7}}, "recorded_by must be a list of names"),
        ({"data": {"num_episodes": 3, "recorded_by": [7]}}, "recorded_by must be a list of names"),
    ],
)
def test_a_lineage_of_another_shape_is_damage(copy: Path, lineage, complaint):
    change_config(copy, lambda c: c.update(lineage=lineage))
    for read in (load_checkpoint, lambda folder: read_lineage(Path(folder))):
        with pytest.raises(UserError, match=complaint):
            read(str(copy))


def test_sizes_that_no_tensor_has_are_refused_in_one_line(copy: Path, monkeypatch):
    def impossible(_: object) -> None:
        torch.empty(2**58, 2**30, device="meta")

    monkeypatch.setattr("worldmodel.checkpoint.reading.WorldModel", impossible)
    with pytest.raises(UserError, match="no model can have its config") as e:
        load_checkpoint(str(copy))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(frames=s["frames"].astype(np.float32)),
        lambda s: s.update(frames=s["frames"][:, :, :32]),
        lambda s: s.update(actions=s["actions"] + 7),
        lambda s: s.update(actions=s["actions"].astype(np.int32)),  # encoding wants int64
        lambda s: s.update(prefixes=s["prefixes"].astype(np.int32)),
        lambda s: s.update(variables=s["variables"][:, :2]),
        lambda s: s.update(prefix_lengths=s["prefix_lengths"] + 1000),
        lambda s: s.pop("seeds"),
    ],
)
def test_wrong_starts_are_refused(copy: Path, change):
    starts = load_file(copy / "starts.safetensors")
    change(starts)
    save_file({k: np.ascontiguousarray(v) for k, v in starts.items()}, copy / "starts.safetensors")
    with pytest.raises(UserError):
        load_checkpoint(str(copy))


def test_weights_that_are_not_finite_are_refused(copy: Path):
    change_weights(copy, lambda w: w["prior.position"].view(-1)[:1].fill_(torch.nan))
    with pytest.raises(UserError, match="not finite"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.update({"prior.position": w["prior.position"].double() + 1e300}), "finite"),
        (lambda w: w.update({"prior.position": w["prior.position"] * (1 + 1j)}), "stored as"),
        (lambda w: w.update({"prior.position": w["prior.position"].bool()}), "stored as BOOL"),
        (
            lambda w: w.update({"prior.outcome.num_used": w["prior.outcome.num_used"].int()}),
            "num_used is stored as I32, not as I64",
        ),
        (lambda w: w["prior.outcome.num_used"].fill_(0), "num_used must be from 1 to 8"),
        (lambda w: w["prior.outcome.num_used"].fill_(9), "num_used must be from 1 to 8"),
        (lambda w: w["prior.outcome.variable_std"].fill_(0), "variable_std must be above 0"),
        (lambda w: w["prior.outcome.variable_std"].fill_(-1), "variable_std must be above 0"),
        (
            lambda w: w["prior.outcome.variable_low"].fill_(1e6),
            "variable_low must not be above",
        ),
        (lambda w: w["tokenizer.data_variance"].fill_(0), "data_variance must be above 0"),
        (lambda w: w["tokenizer.codebooks.0.count"].fill_(-1), "count must not be below 0"),
        (lambda w: w["tokenizer.codebooks.0.num_updates"].fill_(-1), "must not be below 0"),
    ],
)
def test_numbers_that_no_dream_can_live_with_are_refused(copy: Path, change, complaint: str):
    change_weights(copy, change)
    with pytest.raises(UserError, match=complaint):
        load_checkpoint(str(copy))


def test_names_of_tensors_reach_no_terminal_as_they_are(copy: Path):
    change_weights(copy, lambda w: w.update({"\x1b[2J" + "a" * 2**20: torch.zeros(1)}))
    with pytest.raises(UserError, match="disagree about") as error:
        load_checkpoint(str(copy))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        # A megabyte of weights that asked for 16 GiB at reset.
        (lambda c: c["prior"].update(window=1024, layers=256, merge=1), "positions in the window"),
        # 4 MB of weights that never came to the end of a step.
        (lambda c: c["tokenizer"].update(downsampling=2, num_codebooks=64), "65536 tokens a frame"),
        (
            lambda c: c["tokenizer"].update(frame_shape=[65536, 65536, 3], downsampling=2**14),
            "activations of a frame",
        ),
        (lambda c: c["prior"].update(width=2**15, heads=2**12), "keys and values|multiplic"),
        (lambda c: c.update(variable_names=["v"] * 2000), "multiplications a step"),
    ],
)
def test_sizes_that_together_ask_for_too_much_are_refused(
    copy: Path, change, complaint: str, monkeypatch
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    change_config(copy, change)
    with pytest.raises(UserError, match=complaint):
        load_checkpoint(str(copy))


SIZES = st.integers(1, 2**16) | st.sampled_from([2**i for i in range(17)])


@settings(max_examples=300, deadline=None)
@given(
    window=SIZES,
    layers=st.integers(1, 256),
    heads=st.sampled_from([1, 2, 8]),
    size=st.sampled_from([8, 64, 1024]),
    side=st.sampled_from([2**i for i in range(3, 17)]),
    downsampling=st.sampled_from([2, 4, 8]),
    merge=st.sampled_from([1, 2, 4]),
    books=st.integers(1, 64),
)
def test_whatever_sizes_pass_the_memory_of_a_dream_is_bounded(
    window, layers, heads, size, side, downsampling, merge, books
):
    tokenizer = VQVAEConfig(
        frame_shape=(side, side, 3), downsampling=downsampling, num_codebooks=books
    )
    prior = FrameGPTConfig(
        width=8 * heads * size, heads=heads, layers=layers, window=window, merge=merge
    )
    try:
        config = WorldModelConfig(ActionSpec("discrete", (2,)), (), tokenizer, prior)
    except ValueError:
        return
    positions = (side // downsampling // merge) ** 2
    assert 4 * 2 * layers * window * positions * prior.width <= 2**30  # bytes
    assert (window * positions) ** 2 <= 2**26  # of the mask
    assert (side // downsampling) ** 2 * books <= 2**12
    assert config.positions == positions


@pytest.mark.parametrize(
    ("low", "high"), [(-3e38, 3e38), (0, 1e39), (0, 1e-50), (1, 1 + 1e-12), (0, float("nan"))]
)
def test_a_box_whose_span_is_none_in_float32_is_no_action_space(low: float, high: float):
    with pytest.raises(ValueError, match="not an action space"):
        ActionSpec("box", low=(low,), high=(high,))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 70 + b"1" + b"}" * 70, "nested too deeply"),
        (b'{"format_version": Infinity}', "Infinity"),
        (b'{"format_version": 1e999}', "too large"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b"[]", "should hold a JSON object"),
        (b"\xff", "not text in UTF-8"),
        (b" " * (2**22 + 1), "larger than"),
    ],
)
def test_a_config_is_read_within_bounds(copy: Path, content: bytes, complaint: str):
    (copy / "config.json").write_bytes(content)
    for read in (load_checkpoint, read_world):
        with pytest.raises(UserError, match=complaint):
            read(str(copy))


def test_a_pipe_for_a_config_blocks_nobody(copy: Path):
    (copy / "config.json").unlink()
    os.mkfifo(copy / "config.json")
    with pytest.raises(UserError, match=r"no config\.json|not a regular file"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize("name", ["a" * 300, "./" + "b" * 300])
def test_a_name_that_no_folder_can_have_is_refused(name: str):
    with pytest.raises(UserError, match="no checkpoint can have this name"):
        load_checkpoint(name)


def test_a_folder_of_films_with_a_colon_is_a_world(copy: Path):
    """Whoever makes an environment of it refuses to import a module (`envs.making`)."""
    change_config(copy, lambda c: c["world"].update(env_id="clips:2024"))
    assert load_checkpoint(str(copy)).world.env_id == "clips:2024"
    change_config(copy, lambda c: c["world"].update(env_id="evil_module:Doom-v0"))
    env = gymnasium.make("VideoGPTDream-v0", checkpoint=str(copy))
    env.reset(seed=0)
    assert "evil_module" not in sys.modules


def test_files_of_two_saves_are_told_apart(tiny_run: Path, copy: Path, tmp_path: Path):
    other = load_checkpoint(str(tiny_run))
    with torch.no_grad():
        other.model.prior.head.logits.bias.add_(1)
    save_checkpoint(tmp_path / "other", other, card="", compact=False)
    shutil.copy(tmp_path / "other" / "weights.safetensors", copy)
    with pytest.raises(UserError, match="files of two checkpoints"):
        load_checkpoint(str(copy))


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from worldmodel.checkpoint import load_checkpoint, save_checkpoint
folder, changed, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
checkpoint = load_checkpoint(changed)
replace, calls = os.replace, 0

def counting(*names):
    global calls
    calls += 1
    if calls > count:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)

os.replace = counting
save_checkpoint(folder, checkpoint, card="new", compact=False)
"""


@pytest.mark.parametrize("count", range(9))
def test_a_save_that_is_killed_leaves_the_old_or_is_finished(
    tiny_run: Path, copy: Path, tmp_path: Path, count: int
):
    old = load_checkpoint(str(copy)).model.prior.head.logits.bias
    new = load_checkpoint(str(tiny_run))
    with torch.no_grad():
        new.model.prior.head.logits.bias.add_(1)
    save_checkpoint(tmp_path / "new", new, card="", compact=False)
    script = [sys.executable, "-c", KILLED_AT, str(copy), str(tmp_path / "new"), str(count)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if count == 8 else -9), done.stderr
    if count < 4:  # the new files were still being written
        assert torch.equal(load_checkpoint(str(copy)).model.prior.head.logits.bias, old)
        finish_save(copy)
        assert torch.equal(load_checkpoint(str(copy)).model.prior.head.logits.bias, old)
        return
    if count < 8:
        with pytest.raises(UserError, match="half of a checkpoint"):
            load_checkpoint(str(copy))
    finish_save(copy)
    assert torch.equal(load_checkpoint(str(copy)).model.prior.head.logits.bias, old + 1)
    assert (copy / "README.md").read_text() == "new"
    assert not (copy / "unfinished.tmp").exists()


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tiny_run: Path, full_disk):
    checkpoint = load_checkpoint(str(tiny_run))
    num_bytes = sum(path.stat().st_size for path in tiny_run.iterdir() if path.is_file())
    folder = full_disk(int(1.5 * num_bytes)) / "run"  # both don't fit
    save_checkpoint(folder, checkpoint, card="", compact=False)
    with pytest.raises(OSError, match="No space left") as error:
        save_checkpoint(folder, checkpoint, card="", compact=False)
    assert str(error.value.filename).startswith(str(folder))
    loaded = load_checkpoint(str(folder)).model.state_dict()
    assert all(torch.equal(t, loaded[n]) for n, t in checkpoint.model.state_dict().items())
    assert not (folder / "unfinished.tmp").exists()


def test_a_checkpoint_says_how_its_dreams_are_drawn(tiny_run: Path, tmp_path: Path):
    ship(Ship(str(tiny_run), tmp_path / "warm", temperature=1.5, guidance=0.5))
    assert load_checkpoint(str(tmp_path / "warm")).world.sampling == Sampling(1.5, guidance=0.5)
    assert read_world(str(tmp_path / "warm")) == load_checkpoint(str(tmp_path / "warm")).world
    assert load_checkpoint(str(tiny_run)).world.sampling == Sampling(0.8)

    def dreamed(checkpoint: Path, **arguments) -> list[np.ndarray]:
        env = gymnasium.make("VideoGPTDream-v0", checkpoint=str(checkpoint), **arguments)
        env.reset(seed=0)
        return [env.step(0)[0] for _ in range(2)]

    own = dreamed(tmp_path / "warm")
    given = {"temperature": 1.5, "guidance": 0.5}
    np.testing.assert_array_equal(own, dreamed(tmp_path / "warm", **given))
    assert (np.stack(own) != np.stack(dreamed(tmp_path / "warm", temperature=0.3))).any()
    assert (np.stack(own) != np.stack(dreamed(tmp_path / "warm", guidance=1e4))).any()
    with pytest.raises(UserError, match="temperature must be at least 0"):
        ship(Ship(str(tiny_run), tmp_path / "cold", temperature=-1.0))
    with pytest.raises(UserError, match="guidance must be from 0"):
        ship(Ship(str(tiny_run), tmp_path / "cold", guidance=-1.0))


def test_what_is_not_stored_is_as_in_a_new_model(tiny_run: Path) -> None:
    """Initialisation is skipped where weights are replaced, and only there."""
    loaded = load_checkpoint(str(tiny_run)).model
    new = WorldModel(loaded.config)
    buffers = {n: b for n, b in new.named_buffers() if n not in new.state_dict()}
    assert buffers
    for name, buffer in buffers.items():
        torch.testing.assert_close(loaded.get_buffer(name), buffer, rtol=0, atol=0)
    for name in ("time_speeds", "space_angles"):
        ours, theirs = getattr(loaded.prior.rotary, name), getattr(new.prior.rotary, name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
