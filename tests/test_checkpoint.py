"""A checkpoint comes back as it was, and one that lies is refused whole."""

import json
import shutil
from pathlib import Path

import gymnasium
import jaxtyping
import numpy as np
import pytest
import torch
from conftest import unprivileged
from safetensors.numpy import load_file, save_file

import envs  # noqa: F401  registers the environments
from worldmodel.checkpoint import load_checkpoint, read_world, save_checkpoint
from worldmodel.errors import UserError
from worldmodel.prior.sampling import Sampling
from worldmodel.ship import Ship, ship
from worldmodel.shipped import shipped_names


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in tiny_run.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def change_config(folder: Path, change) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


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
    assert size < 0.6 * (tiny_run / "weights.safetensors").stat().st_size
    weights = load_checkpoint(str(tmp_path / "small")).model.state_dict()
    for name, tensor in first.model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim >= 2:
            # Half a step of int8 in a row, or the rounding of half precision.
            largest = tensor.abs().amax(tuple(range(1, tensor.ndim)), keepdim=True)
            assert ((weights[name] - tensor).abs() <= largest / 127 * 0.51 + 1e-6).all(), name


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
    change_config(copy, lambda c: c.update(format_version=version))
    state = load_checkpoint(str(copy)).model.state_dict()
    assert len(added) == 2 * len(lacks)
    for name in state:
        expected = 0 * added[name] if name in added else weights[name]
        np.testing.assert_array_equal(state[name].numpy(), expected)


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
    with pytest.raises(UserError, match="the config says"):
        load_checkpoint(str(copy))


def test_a_config_that_asks_for_a_giant_is_refused_without_making_it(copy: Path):
    change_config(copy, lambda c: c["prior"].update(width=65_536))
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
        lambda c: c["world"].update(env_id="os:Doom-v0"),
        lambda c: c["world"].update(fps=0),
        lambda c: c["world"].update(temperature=-1),
        lambda c: c["world"].update(guidance=float("nan")),
        lambda c: c["world"].update(temperature=float("inf")),
        lambda c: c["world"].update(controls=["w"]),
        lambda c: c["world"].update(controls={"keys": "w" * 2**16}),
        lambda c: c["prior"].update(window=65_536),
        lambda c: c.pop("world"),
    ],
)
def test_a_wrong_config_is_refused(copy: Path, change):
    change_config(copy, change)
    with pytest.raises(UserError):
        load_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["tokenizer"].update(num_codebooks=65), "num_codebooks must be from 0 to 64"),
        (lambda c: c["tokenizer"].update(hidden_units="32"), "hidden_units must be a whole number"),
        (lambda c: c["tokenizer"].update(frame_shape=[64, 64, "3"]), "frame_shape must be a whole"),
        (lambda c: c["tokenizer"].update(frame_shape=[64, 64]), "frame_shape must be 3 numbers"),
        (lambda c: c["tokenizer"].update(commitment=True), "commitment must be a number"),
        (lambda c: c["prior"].update(layers=2.5), "layers must be a whole number, not 2.5"),
        (lambda c: c["prior"].update(layers=True), "layers must be a whole number, not True"),
        (lambda c: c["actions"].update(sizes=[2**58], meanings=[]), "not an action space"),
        (lambda c: c.update(variable_names=["health"] * 2**17), "variable_names must be at most"),
    ],
)
def test_a_config_says_which_of_its_sizes_is_wrong(copy: Path, change, complaint, monkeypatch):
    # Else the tests' own type checks would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    change_config(copy, change)
    with pytest.raises(UserError, match=complaint):
        load_checkpoint(str(copy))


def test_sizes_that_no_tensor_has_are_refused_in_one_line(copy: Path, monkeypatch):
    def impossible(_: object) -> None:
        torch.empty(2**58, 2**30, device="meta")

    monkeypatch.setattr("worldmodel.checkpoint.reading.WorldModel", impossible)
    with pytest.raises(UserError, match="no model has the sizes that its config says") as e:
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
    weights = load_file(copy / "weights.safetensors")
    weights["prior.position"][0, 0] = np.nan
    save_file(weights, copy / "weights.safetensors")
    with pytest.raises(UserError, match="not finite"):
        load_checkpoint(str(copy))


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
    with pytest.raises(UserError, match="guidance must be at least 0"):
        ship(Ship(str(tiny_run), tmp_path / "cold", guidance=-1.0))
