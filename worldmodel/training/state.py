"""The state of a stage's training: one file, from which training resumes."""

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from worldmodel.checkpoint.contents import present_name
from worldmodel.errors import UserError, one_line, os_error
from worldmodel.storage.tensors import opened_tensors, save_tensors

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
MODEL, OPTIMIZER = "model.", "optimizer."  # before names of weights and of optimisers' entries


@dataclass
class Progress:
    """Steps and seconds of training so far, over all calls."""

    step: int = 0
    seconds: float = 0.0


def state_path(folder: Path, stage: str) -> Path:
    """The file of a stage's state."""
    return folder / f"{stage}.state.safetensors"


def save_state(
    path: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    inputs: str = "",
) -> None:
    """Write weights, optimisers and progress to one file, completely or not at all.

    The file is the same however many processes trained.

    Args:
        inputs: see `Stage.inputs`.
    """
    state = {MODEL + name: value for name, value in module.state_dict().items()}
    first = 0  # number of an optimiser's first parameter among those of all
    for optimizer in optimizers:
        for index, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                state[f"{OPTIMIZER}{first + index}.{name}"] = torch.as_tensor(value)
        first += len(_parameters(optimizer))
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    metadata = {"progress": json.dumps(vars(progress)), "inputs": inputs}
    try:
        save_tensors(path, tensors, metadata)
    except OSError as error:
        room = "free some space, then " if error.errno in DISK_FULL else ""
        raise UserError(
            f"the training state can't be written: {os_error(error)}. To resume from the last "
            f"saved state, {room}run the same command again"
        ) from None


def load_state(
    path: Path,
    module: nn.Module,
    inputs: str = "",
    *,
    part: str = "",
) -> Progress:
    """Load weights that `save_state` wrote; no progress where there is no file.

    Args:
        part: prefix of the names of `module`'s weights, where the file holds more; "": all.

    Raises:
        UserError: the file is damaged, holds another model, or learned other inputs.
    """
    if not path.exists():
        return Progress()
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if metadata["inputs"] != inputs:
            raise UserError(
                f"{path} learned the codes of another tokenizer: remove it to train "
                "again, or choose another --out"
            )
        progress = Progress(**json.loads(metadata["progress"]))
        prefix = MODEL + part
        module.load_state_dict(
            {
                present_name(name.removeprefix(prefix)): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
                if name.startswith(prefix)
            }
        )
    return progress


def load_optimizers(path: Path, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Load the optimisers' state that `save_state` wrote.

    Raises:
        UserError: the file is damaged or holds another model.
    """
    if not path.exists():
        return
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    owners = [
        (which, index)
        for which, optimizer in enumerate(optimizers)
        for index in range(len(_parameters(optimizer)))
    ]
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118
            if name.startswith(OPTIMIZER):
                _, number, entry = name.split(".")
                which, index = owners[int(number)]
                states[which].setdefault(index, {})[entry] = file.get_tensor(name)
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The training state, opened; every fault in it becomes a UserError."""
    try:
        with opened_tensors(path) as file:
            yield file
    except UserError:
        raise
    except PermissionError:
        raise UserError(f"{path} may not be read: its permissions forbid it") from None
    except OSError as error:
        raise UserError(f"the training state can't be read: {os_error(error)}") from None
    except (SafetensorError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or of another model ({one_line(error, most=200)}): choose another "
            "--out, or remove it to train from the beginning"
        ) from None
