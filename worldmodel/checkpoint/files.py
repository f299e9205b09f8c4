"""Reading a checkpoint's files, whatever its model: every size is checked before it is used."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor
from torch.overrides import TorchFunctionMode

from worldmodel.checkpoint.contents import (
    ADDED_SINCE,
    FILES,
    POLICY_FILE,
    RECALL_SINCE,
    REMOVED,
    REMOVED_ENTRY,
    REMOVED_PARTS,
    UNFINISHED,
    Lineage,
    World,
    present_name,
)
from worldmodel.command import python_command
from worldmodel.errors import UserError, one_line, os_error
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.interface.world import Environment
from worldmodel.pretrained import PRETRAINED, shipped_names
from worldmodel.storage.files import file_digest, read_json
from worldmodel.storage.parsed import parsed
from worldmodel.storage.tensors import SCALE_SUFFIX, opened_tensors, read_weight

Config = TypeVar("Config")
Model = TypeVar("Model", bound=torch.nn.Module)
Starts = TypeVar("Starts")
VIDEOGPT = "videogpt"  # "model" in config.json; a dream's has none
KINDS = {
    None: "a dream, not VideoGPT as published",
    VIDEOGPT: "VideoGPT as published, which makes whole clips and can't be stepped",
}
HELD_TOGETHER = ("weights.safetensors", "starts.safetensors")  # config.json has their digests
MAX_PARAMETERS = 2 * 10**9
MAX_STARTS_BYTES = 2**30
MAX_CONFIG_BYTES = 2**22


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: a shipped name, a folder, or a Hugging Face Hub id.

    Find it once per command: a hub's checkpoint may change meanwhile.

    Raises:
        UserError: there is none; the message lists the shipped ones.
    """
    if name in shipped_names():
        return PRETRAINED / name
    folder = Path(name)
    try:
        is_checkpoint = (folder / "config.json").is_file()
        is_there = folder.exists()
        is_half_saved = (folder / UNFINISHED / "config.json").is_file()
    except PermissionError:
        raise _forbidden(folder) from None
    except (OSError, ValueError) as error:  # the name is too long or has a null character
        reason = os_error(error) if isinstance(error, OSError) else error
        raise UserError(f"no checkpoint can have this name: {reason}") from None
    if is_checkpoint:
        return folder
    if is_half_saved:
        raise UserError(
            f"{name} holds half of a checkpoint: a save was stopped while its files were moved "
            "into place. Run the command that wrote it again: it finishes the save"
        )
    if is_there:
        if (folder / "meta.json").is_file():
            raise UserError(f"{name} holds recorded episodes: train a dream on them first")
        if (folder / "training").is_dir():
            raise UserError(
                f"the training in {name} is not finished: resume it by running its `python -m "
                "worldmodel.train` command again"
            )
        raise UserError(f"{name} holds no checkpoint: it has no config.json")
    known = ", ".join(shipped_names()) or "none"
    hint = (
        f"the shipped ones are: {known}; otherwise give a folder or a Hugging Face Hub id, of a "
        "private one after `hf auth login`"
    )
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise UserError(f"unknown checkpoint {name!r}; {hint}")
    try:
        return Path(snapshot_download(name, allow_patterns=[*FILES, POLICY_FILE, "README.md"]))
    except Exception as error:  # the hub's client raises many kinds
        raise UserError(
            f"there is no folder {name!r} here, and it can't be fetched from the Hugging Face Hub "
            f"({type(error).__name__}); {hint}"
        ) from None


def find_kind(name: str, wanted: str | None, module: str, *arguments: str) -> Path:
    """The folder of a checkpoint with the wanted kind of model, see `AnyCheckpoint.kind`.

    Args:
        module, arguments: the command that does the same for the other kind.

    Raises:
        UserError: there is no such checkpoint, or it is of the other kind.
    """
    folder = find_checkpoint(name)
    kind = VIDEOGPT if _read_config_json(folder).get("model") == VIDEOGPT else None
    if kind != wanted:
        raise UserError(f"{name} is {KINDS[kind]}: use `{python_command(module, *arguments)}`")
    return folder


def read_world(name: str) -> World:
    """The environment that a checkpoint has learned, read without its weights.

    Raises:
        UserError: it is missing, or its config.json is damaged.
    """
    folder = find_checkpoint(name)
    with reading(folder):
        return read_common(folder)[1]


def read_lineage(folder: Path) -> Lineage | None:
    """What the checkpoint in a folder was made from; empty in older checkpoints, None where the
    folder holds no complete checkpoint.

    Raises:
        UserError: its config.json is damaged.
    """
    if not all((folder / file).is_file() for file in FILES):
        return None
    with reading(folder):
        return checked_lineage(_read_config_json(folder))


def read_parts(
    folder: Path,
    config_type: type[Config],
    make_model: Callable[[Config], Model],
    check_buffers: Callable[[Path, dict[str, Tensor]], None],
    read_starts: Callable[[Path, Config, int], Starts],
    *,
    added: tuple[str, ...] = (),
) -> tuple[Model, World, Starts, Lineage]:
    """The content of a checkpoint: model, world, starts and lineage.

    Args:
        check_buffers: raises UserError for weights in a file that the model can't work with.
        read_starts: reads the starts from a file, for a config and a format version.
        added: entries of the config that older checkpoints lack.

    Raises:
        UserError: it is missing, damaged, or its files don't belong together.
    """
    with reading(folder):
        data, world = read_common(folder)
        config, version = read_config(config_type, data, added=added), data["format_version"]
        path = folder / "weights.safetensors"
        weights = read_weights(path, lambda: make_model(config), ADDED_SINCE[version])
        check_buffers(path, weights)
        starts = read_starts(folder / "starts.safetensors", config, version)
        check_digests(folder, data)
        lineage = checked_lineage(data)
        with _Uninitialised():
            model = make_model(config)
        model.load_state_dict(weights)
    return model, world, starts, lineage


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Every fault in a checkpoint's files becomes a UserError. It recommends "get it again" only
    where content was read and is wrong."""
    try:
        for file in FILES:
            if not (folder / file).is_file():
                raise UserError(f"{folder} is incomplete: it lacks {file}")
        yield
    except UserError:
        raise
    except PermissionError:
        raise _forbidden(folder) from None
    except OSError as error:
        raise UserError(f"{folder} can't be read: {os_error(error)}") from None
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,  # a list where an object should be
        OverflowError,
        SafetensorError,
    ) as error:
        lacks = isinstance(error, KeyError)
        reason = f"it lacks {one_line(error)}" if lacks else one_line(error)
        raise UserError(f"{folder} is damaged: {reason}; get it again") from None


def _forbidden(folder: Path) -> UserError:
    return UserError(f"{folder} may not be read: its permissions, or its files', forbid it")


def _read_config_json(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    data = read_json(path, most_bytes=MAX_CONFIG_BYTES)
    if not isinstance(data, dict):
        raise UserError(f"{path} should hold a JSON object")
    return data


def read_common(folder: Path) -> tuple[dict[str, Any], World]:
    """The content of config.json, and the world in it."""
    data = _read_config_json(folder)
    version = data.get("format_version")
    if not isinstance(version, int) or version not in ADDED_SINCE:
        raise UserError(
            f"{folder / 'config.json'}: format version {one_line(repr(version), most=40)} is not "
            f"supported; supported are {', '.join(map(str, ADDED_SINCE))}"
        )
    world = data["world"]
    try:
        return data, World(
            **vars(parsed(Environment, world)),
            sampling=Sampling(  # older checkpoints have none
                temperature=world.get("temperature", World.sampling.temperature),
                guidance=world.get("guidance", World.sampling.guidance),
            ),
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None


def read_config(kind: type[Config], data: dict[str, Any], *, added: tuple[str, ...] = ()) -> Config:
    """A model's config from the content of config.json.

    Args:
        added: entries that older checkpoints lack.
    """
    names = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    present = {name: data[name] for name in names if name in data or name not in added}
    if isinstance(prior := present.get("prior"), dict):
        present["prior"] = {k: v for k, v in prior.items() if k != REMOVED_ENTRY}
        if data["format_version"] < RECALL_SINCE:
            present["prior"].pop("recalled", None)
    return parsed(kind, present)


def checked_lineage(data: dict[str, Any]) -> Lineage:
    """What a checkpoint was made from; entries that are used later are checked."""
    lineage = data.get("lineage", {})
    if not isinstance(lineage, dict):
        raise TypeError("lineage must be an object")
    for name in ("trained", "data", "started_from"):
        if not isinstance(lineage.get(name, {}), dict):
            raise TypeError(f"lineage: {name} must be an object")
    learned = lineage.get("data", {})
    if type(learned.get("num_episodes", 0)) is not int:
        raise TypeError("lineage: num_episodes must be a whole number")
    names = learned.get("recorded_by", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("lineage: recorded_by must be a list of names")
    if not all(isinstance(value, str) for value in lineage.get("started_from", {}).values()):
        raise TypeError("lineage: started_from must hold texts")
    return lineage


class _Uninitialised(TorchFunctionMode):
    """Leaves weights as they are allocated, for they are replaced.

    On the meta device, initialising and scaling them would import torch's compiler and sympy, which
    takes more than a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        is_scaling = func is Tensor.div_ and args[0].is_meta
        if is_scaling or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def read_weights(
    path: Path, make_model: Callable[[], torch.nn.Module], added: frozenset[str] = frozenset()
) -> dict[str, Tensor]:
    """Every tensor of a model: of the config's shape, of the model's type, and finite; those
    `added` since the file was written are zeros.
    """
    try:
        # Shapes only: a hostile config takes no memory.
        with _Uninitialised(), torch.device("meta"):
            expected = make_model().state_dict()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: no model can have its config's sizes: {reason}") from None
    if sum(tensor.numel() for tensor in expected.values()) > MAX_PARAMETERS:
        raise UserError(f"{path}: its config asks for more than {MAX_PARAMETERS} parameters")
    weights = {}
    with opened_tensors(path) as file:
        names = {
            present_name(name): name
            for name in file.keys()  # noqa: SIM118
            if not name.endswith(SCALE_SUFFIX)
            and name not in REMOVED
            and not name.startswith(REMOVED_PARTS)
        }
        if odd := set(names) ^ (set(expected) - added):
            listed = ", ".join(one_line(name, most=80) for name in sorted(odd)[:3])
            raise UserError(f"{path}: config and tensors disagree about {listed}")
        for name, wanted in expected.items():
            if name in added:
                weights[name] = torch.zeros(wanted.shape, dtype=wanted.dtype)
            else:
                weights[name] = read_weight(path, file, names[name], wanted)
    return weights


def check_tokenizer_buffers(path: Path, weights: dict[str, Tensor]) -> None:
    if not weights["tokenizer.data_variance"] > 0:
        raise UserError(f"{path}: tokenizer.data_variance must be above 0")
    for name, tensor in weights.items():
        if name.endswith((".count", ".num_updates")) and (tensor < 0).any():
            raise UserError(f"{path}: {name} must not be below 0")


def read_arrays(path: Path, wanted: dict[str, np.dtype | type]) -> dict[str, np.ndarray]:
    """The arrays of these names and types, at most 1 GiB in all."""
    if path.stat().st_size > MAX_STARTS_BYTES:
        raise UserError(f"{path} is larger than {MAX_STARTS_BYTES} bytes")
    with opened_tensors(path, "np") as file:
        names = set(file.keys())
        if odd := names ^ set(wanted):
            listed = ", ".join(one_line(name, most=80) for name in sorted(odd)[:3])
            raise UserError(f"{path}: it should hold {', '.join(wanted)}; see {listed}")
        arrays = {name: file.get_tensor(name) for name in wanted}
    for name, dtype in wanted.items():
        if arrays[name].dtype != dtype:
            raise UserError(f"{path}: {name} should be {np.dtype(dtype)}, not {arrays[name].dtype}")
    return arrays


def check_actions(path: Path, name: str, actions: np.ndarray, spec: ActionSpec) -> None:
    if not spec.contains(actions):
        raise UserError(f"{path}: {name} are outside the action space")


def weights_digest(folder: Path) -> str:
    """sha256 of a checkpoint's weights."""
    return file_digest(folder / "weights.safetensors")


def checkpoint_digest(folder: Path) -> str:
    """sha256 over a checkpoint's files: identifies what it dreams."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(bytes.fromhex(file_digest(folder / name)))
    return digest.hexdigest()


def check_digests(folder: Path, config: dict[str, Any]) -> None:
    """Raises UserError where a file is not the one that config.json was written with; older
    checkpoints don't say."""
    digests = config.get("files", {})
    for name in HELD_TOGETHER:
        if name in digests and digests[name] != file_digest(folder / name):
            raise UserError(
                f"{folder}: {name} is not the file that config.json was written with: the folder "
                "holds files of two checkpoints, or damaged ones. Copy all of it again"
            )
