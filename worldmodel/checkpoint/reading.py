"""A checkpoint is found and read as data: every size is checked before it is used."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor

from worldmodel.checkpoint.contents import (
    ADDED_SINCE,
    FILES,
    POSES_SINCE,
    SCALE_SUFFIX,
    UNFINISHED,
    VIDEOGPT,
    Checkpoint,
    GivenClips,
    Lineage,
    Starts,
    VideoGPTCheckpoint,
    World,
    present_name,
)
from worldmodel.checkpoint.digests import check_digests
from worldmodel.configs.dream import FrameGPTConfig, VQVAEConfig, WorldModelConfig
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError, one_line, os_error
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.pose import NO_POSE, PoseSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.interface.world import Environment
from worldmodel.pretrained import PRETRAINED, shipped_names
from worldmodel.storage.files import read_json
from worldmodel.storage.parsed import parsed
from worldmodel.storage.tensors import opened_tensors
from worldmodel.videogpt.configs import (
    GPTConfig,
    VideoGPTConfig,
    VideoVQVAEConfig,
)
from worldmodel.videogpt.model import VideoGPT

MAX_PARAMETERS = 2 * 10**9
MAX_STARTS_BYTES = 2**30
MAX_CONFIG_BYTES = 2**22
# Of the names of safetensors, what a weight of the model's type may be stored as.
STORED_AS = {
    torch.float32: ("F32", "F16", "BF16", "F64", "I8"),
    torch.int64: ("I64",),
}
LARGEST_EXTENT = 1e12  # of a level, and its distance from 0
SMALLEST_SPREAD = 1e-6  # that is divided by; training goes no lower than 1e-3


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: a shipped name, a folder, or a Hugging Face Hub id.

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
    except (OSError, ValueError) as error:  # too long a name, or one with a null character
        reason = os_error(error) if isinstance(error, OSError) else error
        raise UserError(f"no checkpoint can have this name: {reason}") from None
    if is_checkpoint:
        return folder
    if is_half_saved:
        raise UserError(
            f"{name} holds half of a checkpoint: a save was stopped while its files changed "
            "places. Run the command that wrote it again: it finishes the save"
        )
    if is_there:
        raise UserError(f"{name} holds no checkpoint: it has no config.json")
    known = ", ".join(shipped_names()) or "none"
    hint = f"the shipped ones are: {known}; otherwise give a folder or a Hugging Face Hub id"
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise UserError(f"unknown checkpoint {name!r}; {hint}")
    try:
        return Path(snapshot_download(name, allow_patterns=[*FILES, "README.md"]))
    except Exception as error:  # the hub's client raises many kinds; all mean: not to be had
        raise UserError(
            f"there is no folder {name!r} here, and it can't be fetched from the Hugging Face Hub "
            f"({type(error).__name__}); {hint}"
        ) from None


def is_videogpt(name: str) -> bool:
    """Whether a checkpoint is VideoGPT as published, and not a dream.

    Raises:
        UserError: there is no such checkpoint, or its config.json is no JSON object.
    """
    return _is_videogpt(find_checkpoint(name))


def _is_videogpt(folder: Path) -> bool:
    return _read_config_json(folder).get("model") == VIDEOGPT


def read_world(name: str) -> World:
    """What a checkpoint has learned, without its weights.

    Raises:
        UserError: it is missing, or its config.json is damaged.
    """
    folder = find_checkpoint(name)
    with _reading(folder):
        return _read_common(folder)[1]


def read_lineage(folder: Path) -> Lineage | None:
    """What the checkpoint in a folder was made from; empty for an older one, None where there is
    no whole checkpoint.

    Raises:
        UserError: its config.json is damaged.
    """
    if not all((folder / file).is_file() for file in FILES):
        return None
    with _reading(folder):
        return _lineage(_read_config_json(folder))


def load_checkpoint(name: str, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Load a dream whole, in evaluation mode.

    Raises:
        UserError: it is missing, truncated, its files disagree, or it is no dream.
    """
    folder = find_checkpoint(name)  # once: a hub's may change meanwhile
    if _is_videogpt(folder):
        raise UserError(
            f"{name} is VideoGPT as published: it makes whole clips and can't be stepped. Draw "
            "clips with `python -m worldmodel.sample`, or train a dream (preset dream-doom)"
        )
    with _reading(folder):
        data, world = _read_common(folder)
        config, added = _dream_config(data), ADDED_SINCE[data["format_version"]]
        weights = _read_weights(folder / "weights.safetensors", lambda: WorldModel(config), added)
        _check_dream_buffers(folder / "weights.safetensors", weights)
        starts = _read_starts(folder / "starts.safetensors", config, data["format_version"])
        check_digests(folder, data)
        lineage = _lineage(data)
        model = WorldModel(config)
        model.load_state_dict(weights)
    return Checkpoint(model.to(device).eval(), world, starts, lineage)


def load_videogpt(name: str, *, device: str | torch.device = "cpu") -> VideoGPTCheckpoint:
    """Load VideoGPT as published whole, in evaluation mode.

    Raises:
        UserError: it is missing, truncated, its files disagree, or it is a dream.
    """
    folder = find_checkpoint(name)
    if not _is_videogpt(folder):
        raise UserError(f"{name} is a dream, not VideoGPT as published")
    with _reading(folder):
        data, world = _read_common(folder)
        config = _videogpt_config(data)
        weights = _read_weights(folder / "weights.safetensors", lambda: VideoGPT(config))
        _check_tokenizer_buffers(folder / "weights.safetensors", weights)
        clips = _read_clips(folder / "starts.safetensors", config)
        check_digests(folder, data)
        lineage = _lineage(data)
        model = VideoGPT(config)
        model.load_state_dict(weights)
    return VideoGPTCheckpoint(model.to(device).eval(), world, clips, lineage)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Whatever is wrong with the files of a checkpoint becomes a UserError. "Get it again" is said
    only of content that was read and is wrong."""
    try:
        for file in FILES:
            if not (folder / file).is_file():
                raise UserError(f"{folder} is not whole: it lacks {file}")
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


def _read_common(folder: Path) -> tuple[dict[str, Any], World]:
    """The JSON object of a config, and the world in it."""
    data = _read_config_json(folder)
    version = data.get("format_version")
    if not isinstance(version, int) or version not in ADDED_SINCE:
        raise UserError(
            f"{folder / 'config.json'}: format version {one_line(repr(version), most=40)} is none "
            f"of those read here, {', '.join(map(str, ADDED_SINCE))}"
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


def _lineage(data: dict[str, Any]) -> Lineage:
    """What a checkpoint says it was made from; of this, all that is read later is checked."""
    lineage = data.get("lineage", {})
    if not isinstance(lineage, dict):
        raise TypeError("lineage must be an object")
    for name in ("trained", "data"):
        if not isinstance(lineage.get(name, {}), dict):
            raise TypeError(f"lineage: {name} must be an object")
    learned = lineage.get("data", {})
    if type(learned.get("num_episodes", 0)) is not int:
        raise TypeError("lineage: num_episodes must be a whole number")
    names = learned.get("recorded_by", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("lineage: recorded_by must be a list of names")
    return lineage


def _dream_config(data: dict[str, Any]) -> WorldModelConfig:
    tokenizer = dict(data["tokenizer"])
    tokenizer["frame_shape"] = tuple(tokenizer["frame_shape"])
    return WorldModelConfig(
        actions=ActionSpec.from_json(data["actions"]),
        variable_names=tuple(str(name) for name in data["variable_names"]),
        tokenizer=VQVAEConfig(**tokenizer),
        prior=FrameGPTConfig(**data["prior"]),
        pose=PoseSpec.from_json(data["pose"]) if "pose" in data else NO_POSE,
        sharp_frames=data.get("sharp_frames", 0),
    )


def _videogpt_config(data: dict[str, Any]) -> VideoGPTConfig:
    tokenizer = dict(data["tokenizer"])
    for name in ("clip_shape", "downsampling"):
        tokenizer[name] = tuple(tokenizer[name])
    return VideoGPTConfig(
        tokenizer=VideoVQVAEConfig(**tokenizer),
        prior=GPTConfig(**data["prior"]),
        actions=ActionSpec.from_json(data["actions"]),
        class_names=tuple(str(name) for name in data["class_names"]),
    )


def _read_weights(
    path: Path, make_model: Callable[[], torch.nn.Module], added: frozenset[str] = frozenset()
) -> dict[str, Tensor]:
    """Every tensor that such a model has, with the shape that the config gives it and finite in
    the model's own type; those `added` since the file was written are zeros.
    """
    try:
        with torch.device("meta"):  # shapes only: a hostile config takes no memory
            expected = make_model().state_dict()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: no model has the sizes that its config says: {reason}") from None
    if sum(tensor.numel() for tensor in expected.values()) > MAX_PARAMETERS:
        raise UserError(f"{path}: its config asks for more than {MAX_PARAMETERS} parameters")
    weights = {}
    with opened_tensors(path) as file:
        names = {
            present_name(name): name
            for name in file.keys()  # noqa: SIM118
            if not name.endswith(SCALE_SUFFIX)
        }
        if odd := set(names) ^ (set(expected) - added):
            listed = ", ".join(one_line(name, most=80) for name in sorted(odd)[:3])
            raise UserError(f"{path}: config and tensors disagree about {listed}")
        for name, wanted in expected.items():
            if name in added:
                weights[name] = torch.zeros(wanted.shape, dtype=wanted.dtype)
            else:
                weights[name] = _read_weight(path, file, names[name], wanted)
    return weights


def _read_weight(path: Path, file: Any, name: str, wanted: Tensor) -> Tensor:
    stored = file.get_slice(name)
    shape, kind = tuple(stored.get_shape()), stored.get_dtype()
    if shape != tuple(wanted.shape):
        raise UserError(f"{path}: {name} has shape {shape}, the config says {tuple(wanted.shape)}")
    if kind not in STORED_AS[wanted.dtype]:
        raise UserError(
            f"{path}: {name} is stored as {kind}, not as {' or '.join(STORED_AS[wanted.dtype])}"
        )
    tensor = file.get_tensor(name)
    if kind == "I8":
        scale_name = name + SCALE_SUFFIX
        scale = file.get_slice(scale_name)
        if tensor.ndim != 2 or scale.get_shape() != [len(tensor), 1] or scale.get_dtype() != "F32":
            raise UserError(f"{path}: {name} should have one scale a row")
        tensor = tensor.float() * file.get_tensor(scale_name)
    tensor = tensor.to(wanted.dtype)  # checked after it: 1e300 is finite in another type only
    if not tensor.isfinite().all():
        raise UserError(f"{path}: {name} holds numbers that are not finite")
    return tensor


def _check_dream_buffers(path: Path, weights: dict[str, Tensor]) -> None:
    """Raises UserError for what a dream can't divide by, index with or be clipped to."""
    _check_tokenizer_buffers(path, weights)
    if not (weights["prior.outcome.variable_std"] >= SMALLEST_SPREAD).all():
        raise UserError(f"{path}: prior.outcome.variable_std must be above 0")
    if not (weights["prior.outcome.variable_low"] <= weights["prior.outcome.variable_high"]).all():
        raise UserError(
            f"{path}: prior.outcome.variable_low must not be above prior.outcome.variable_high"
        )
    if "prior.place.space.low" in weights:
        low, high, scale = (weights[f"prior.place.space.{n}"] for n in ("low", "high", "scale"))
        for extent in (high - low, scale):
            if not ((extent >= SMALLEST_SPREAD) & (extent <= LARGEST_EXTENT)).all():
                raise UserError(
                    f"{path}: prior.place.space must have an extent and a scale from "
                    f"{SMALLEST_SPREAD:g} to {LARGEST_EXTENT:g}"
                )
        if not ((low.abs() <= LARGEST_EXTENT) & (high.abs() <= LARGEST_EXTENT)).all():
            raise UserError(f"{path}: prior.place.space lies too far from 0")
    num_used, num_bins = weights["prior.outcome.num_used"], weights["prior.outcome.bins"].shape[1]
    if not ((num_used >= 1) & (num_used <= num_bins)).all():
        raise UserError(f"{path}: prior.outcome.num_used must be from 1 to {num_bins}")


def _check_tokenizer_buffers(path: Path, weights: dict[str, Tensor]) -> None:
    if not weights["tokenizer.data_variance"] > 0:
        raise UserError(f"{path}: tokenizer.data_variance must be above 0")
    for name, tensor in weights.items():
        if name.endswith((".count", ".num_updates")) and (tensor < 0).any():
            raise UserError(f"{path}: {name} must not be below 0")


def _read_arrays(path: Path, wanted: dict[str, np.dtype | type]) -> dict[str, np.ndarray]:
    """Arrays of these names and types, of at most 1 GiB together."""
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


def _read_clips(path: Path, config: VideoGPTConfig) -> GivenClips:
    types = {"frames": np.uint8, "actions": config.actions.dtype, "classes": np.int64}
    clips = GivenClips(**_read_arrays(path, types))
    wanted = config.tokenizer.clip_shape
    if clips.frames.shape[1:] != wanted:
        raise UserError(f"{path}: clips should be of shape {wanted}")
    _check_actions(path, "actions", clips.actions, config.actions)
    num_classes = max(1, len(config.class_names))
    if not ((clips.classes >= 0) & (clips.classes < num_classes)).all():
        raise UserError(f"{path}: classes should be whole numbers below {num_classes}")
    return clips


def _read_starts(path: Path, config: WorldModelConfig, version: int) -> Starts:
    types = {
        "frames": np.uint8,
        "actions": config.actions.dtype,
        "variables": np.float32,
        "poses": np.float32,
        "seeds": np.int64,
        "prefix_lengths": np.int64,
        "prefixes": config.actions.dtype,
    }
    if version < POSES_SINCE:
        del types["poses"]
    arrays = _read_arrays(path, types)
    if version < POSES_SINCE:
        num_starts, num_frames = arrays["variables"].shape[:2]
        arrays["poses"] = np.zeros((num_starts, num_frames, 0), np.float32)
    starts = Starts(**arrays)
    if starts.frames.shape[2:] != config.tokenizer.frame_shape:
        raise UserError(f"{path}: frames should be of shape {config.tokenizer.frame_shape}")
    if starts.frames.shape[1] > config.prior.window:
        raise UserError(
            f"{path}: starts of {starts.frames.shape[1]} frames are longer than the window of "
            f"{config.prior.window}"
        )
    if starts.variables.shape[2:] != (len(config.variable_names),):
        raise UserError(f"{path}: variables should be {config.variable_names}")
    if starts.poses.shape[2:] != (len(config.pose),):
        raise UserError(f"{path}: poses should be {config.pose.names}")
    for name in ("variables", "poses"):
        if not np.isfinite(getattr(starts, name)).all():
            raise UserError(f"{path}: {name} should be finite")
    for name in ("actions", "prefixes"):
        _check_actions(path, name, getattr(starts, name), config.actions)
    return starts


def _check_actions(path: Path, name: str, actions: np.ndarray, spec: ActionSpec) -> None:
    if not spec.contains(actions):
        raise UserError(f"{path}: {name} are outside the action space")
