"""A checkpoint is found and read as data: every size is checked before it is used."""

import contextlib
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file as load_numpy

from worldmodel.actions import ActionSpec, checked_controls
from worldmodel.checkpoint.contents import (
    ADDED_SINCE,
    FILES,
    SCALE_SUFFIX,
    VIDEOGPT,
    Checkpoint,
    GivenClips,
    Starts,
    VideoGPTCheckpoint,
    World,
)
from worldmodel.configs import (
    FrameGPTConfig,
    GPTConfig,
    VideoGPTConfig,
    VideoVQVAEConfig,
    VQVAEConfig,
    WorldModelConfig,
)
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.prior.sampling import Sampling
from worldmodel.shipped import PRETRAINED, shipped_names
from worldmodel.videogpt import VideoGPT

MAX_PARAMETERS = 2 * 10**9
MAX_STARTS_BYTES = 2**30
MAX_FPS = 1000
MAX_TOKENS = 2**18  # of a clip
MAX_WINDOW = 1024  # frames: keys and values of all of them are held in memory


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: a shipped name, a folder, or a Hugging Face Hub id.

    Raises:
        UserError: there is none; the message lists the shipped ones.
    """
    if name in shipped_names():
        return PRETRAINED / name
    try:
        is_checkpoint = (Path(name) / "config.json").is_file()
    except PermissionError:
        raise _forbidden(Path(name)) from None
    if is_checkpoint:
        return Path(name)
    if Path(name).exists():
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


def weights_digest(folder: Path) -> str:
    """sha256 of a checkpoint's weights."""
    with (folder / "weights.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_videogpt(name: str) -> bool:
    """Whether a checkpoint is VideoGPT as published, and not a dream.

    Raises:
        UserError: there is no such checkpoint, or its config.json is no JSON object.
    """
    return _is_videogpt(find_checkpoint(name))


def _is_videogpt(folder: Path) -> bool:
    path = folder / "config.json"
    try:
        return _read_json(path).get("model") == VIDEOGPT
    except PermissionError:
        raise _forbidden(folder) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}; get it again") from None


def read_world(name: str) -> World:
    """What a checkpoint has learned, without its weights.

    Raises:
        UserError: it is missing, or its config.json is damaged.
    """
    folder = find_checkpoint(name)
    with _reading(folder):
        return _read_common(folder / "config.json")[1]


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
        config, world, added = _read_config(folder / "config.json")
        weights = _read_weights(folder / "weights.safetensors", lambda: WorldModel(config), added)
        model = WorldModel(config)
        model.load_state_dict(weights)
        starts = _read_starts(folder / "starts.safetensors", config)
    return Checkpoint(model.to(device).eval(), world, starts)


def load_videogpt(name: str, *, device: str | torch.device = "cpu") -> VideoGPTCheckpoint:
    """Load VideoGPT as published whole, in evaluation mode.

    Raises:
        UserError: it is missing, truncated, its files disagree, or it is a dream.
    """
    folder = find_checkpoint(name)
    if not _is_videogpt(folder):
        raise UserError(f"{name} is a dream, not VideoGPT as published")
    with _reading(folder):
        config, world = _read_videogpt_config(folder / "config.json")
        weights = _read_weights(folder / "weights.safetensors", lambda: VideoGPT(config))
        model = VideoGPT(config)
        model.load_state_dict(weights)
        clips = _read_clips(folder / "starts.safetensors", config)
    return VideoGPTCheckpoint(model.to(device).eval(), world, clips)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Whatever is wrong with the files of a checkpoint becomes a UserError."""
    for file in FILES:
        if not (folder / file).is_file():
            raise UserError(f"{folder} is not whole: it lacks {file}")
    try:
        for file in FILES:  # safetensors takes a file that it may not read for none
            (folder / file).open("rb").close()
        yield
    except UserError:
        raise
    except PermissionError:
        raise _forbidden(folder) from None
    except (
        OSError,
        ValueError,  # json.JSONDecodeError and UnicodeDecodeError among them
        KeyError,
        TypeError,
        AttributeError,  # a list where an object should be
        OverflowError,
        RecursionError,  # JSON of a thousand brackets
        SafetensorError,
        struct.error,
    ) as error:
        raise UserError(f"{folder} is damaged: {error}; get it again") from None


def _forbidden(folder: Path) -> UserError:
    return UserError(f"{folder} may not be read: its permissions, or its files', forbid it")


def _read_json(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_bytes())
    if not isinstance(data, dict):
        raise UserError(f"{path} should hold a JSON object")
    return data


def _read_common(path: Path) -> tuple[dict[str, Any], World]:
    """The JSON object of a config, and the world in it."""
    data = _read_json(path)
    if data.get("format_version") not in ADDED_SINCE:
        raise UserError(
            f"{path}: format version {data.get('format_version')!r} is none of those read here, "
            f"{', '.join(map(str, ADDED_SINCE))}"
        )
    world = data["world"]
    if ":" in str(world["env_id"]):  # gymnasium.make would import the module before the colon
        raise UserError(f"{path}: env_id {world['env_id']!r} names a module to import")
    fps = float(world["fps"])
    if not 0 < fps <= MAX_FPS:
        raise UserError(f"{path}: fps must be above 0 and at most {MAX_FPS}, not {fps}")
    temperature = float(world.get("temperature", World.temperature))  # older ones have none,
    guidance = float(world.get("guidance", World.guidance))  # nor of this
    Sampling(temperature, guidance=guidance)  # raises ValueError where they are none
    return data, World(
        env_id=str(world["env_id"]),
        env_kwargs=dict(world["env_kwargs"]),
        fps=fps,
        controls=checked_controls(world.get("controls", {})),  # older checkpoints have none
        temperature=temperature,
        guidance=guidance,
    )


def _read_config(path: Path) -> tuple[WorldModelConfig, World, frozenset[str]]:
    """Sizes, world, and the tensors that may be missing."""
    data, world = _read_common(path)
    tokenizer = dict(data["tokenizer"])
    tokenizer["frame_shape"] = tuple(tokenizer["frame_shape"])
    config = WorldModelConfig(
        actions=ActionSpec.from_json(data["actions"]),
        variable_names=tuple(str(name) for name in data["variable_names"]),
        tokenizer=VQVAEConfig(**tokenizer),
        prior=FrameGPTConfig(**data["prior"]),
    )
    if config.prior.window > MAX_WINDOW:
        raise UserError(f"{path}: the window must be at most {MAX_WINDOW} frames")
    return config, world, ADDED_SINCE[data["format_version"]]


def _read_videogpt_config(path: Path) -> tuple[VideoGPTConfig, World]:
    data, world = _read_common(path)
    tokenizer = dict(data["tokenizer"])
    for name in ("clip_shape", "downsampling"):
        tokenizer[name] = tuple(tokenizer[name])
    config = VideoGPTConfig(
        tokenizer=VideoVQVAEConfig(**tokenizer),
        prior=GPTConfig(**data["prior"]),
        actions=ActionSpec.from_json(data["actions"]),
        class_names=tuple(str(name) for name in data["class_names"]),
    )
    num_tokens = math.prod(config.tokenizer.latent_shape)
    if num_tokens > MAX_TOKENS:
        raise UserError(f"{path}: a clip of {num_tokens} tokens is above {MAX_TOKENS}")
    return config, world


def _read_weights(
    path: Path, make_model: Callable[[], torch.nn.Module], added: frozenset[str] = frozenset()
) -> dict[str, torch.Tensor]:
    """Every tensor that such a model has, with the shape that the config gives it; those `added`
    since the file was written are zeros.
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
    with safe_open(path, "pt") as file:
        names = {name for name in file.keys() if not name.endswith(SCALE_SUFFIX)}  # noqa: SIM118
        if odd := names ^ (set(expected) - added):
            listed = ", ".join(sorted(odd)[:3])
            raise UserError(f"{path}: config and tensors disagree about {listed}")
        for name, wanted in expected.items():
            if name in added:
                weights[name] = torch.zeros(wanted.shape, dtype=wanted.dtype)
                continue
            shape = tuple(file.get_slice(name).get_shape())
            if shape != tuple(wanted.shape):
                raise UserError(
                    f"{path}: {name} has shape {shape}, the config says {tuple(wanted.shape)}"
                )
            tensor = file.get_tensor(name)
            if tensor.dtype == torch.int8:
                scale = file.get_slice(name + SCALE_SUFFIX)
                if tensor.ndim != 2 or scale.get_shape() != [len(tensor), 1]:
                    raise UserError(f"{path}: {name} should have one scale a row")
                tensor = tensor.float() * file.get_tensor(name + SCALE_SUFFIX)
            weights[name] = tensor.to(wanted.dtype)
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(f"{path}: {name} holds numbers that are not finite")
    return weights


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if path.stat().st_size > MAX_STARTS_BYTES:
        raise UserError(f"{path} is larger than {MAX_STARTS_BYTES} bytes")
    return load_numpy(path)


def _read_clips(path: Path, config: VideoGPTConfig) -> GivenClips:
    clips = GivenClips(**_read_arrays(path))
    wanted = config.tokenizer.clip_shape
    if clips.frames.dtype != np.uint8 or clips.frames.shape[1:] != wanted:
        raise UserError(f"{path}: clips should be uint8 of shape {wanted}")
    _check_actions(path, "actions", clips.actions, config.actions)
    num_classes = max(1, len(config.class_names))
    if clips.classes.dtype != np.int64 or not set(clips.classes) <= set(range(num_classes)):
        raise UserError(f"{path}: classes should be whole numbers below {num_classes}")
    return clips


def _read_starts(path: Path, config: WorldModelConfig) -> Starts:
    starts = Starts(**_read_arrays(path))
    if starts.frames.dtype != np.uint8 or starts.frames.shape[2:] != config.tokenizer.frame_shape:
        raise UserError(f"{path}: frames should be uint8 of shape {config.tokenizer.frame_shape}")
    if starts.variables.shape[2:] != (len(config.variable_names),):
        raise UserError(f"{path}: variables should be {config.variable_names}")
    if starts.variables.dtype != np.float32 or not np.isfinite(starts.variables).all():
        raise UserError(f"{path}: variables should be finite float32")
    for name in ("actions", "prefixes"):
        _check_actions(path, name, getattr(starts, name), config.actions)
    return starts


def _check_actions(path: Path, name: str, actions: np.ndarray, spec: ActionSpec) -> None:
    if actions.dtype != spec.dtype:
        raise UserError(f"{path}: {name} should be {np.dtype(spec.dtype)}, not {actions.dtype}")
    if not spec.contains(actions):
        raise UserError(f"{path}: {name} are outside the action space")
