"""The state of a stage's training, kept as one file that training resumes from."""

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from worldmodel.checkpoint.contents import present_name
from worldmodel.errors import UserError, one_line, os_error
from worldmodel.storage.tensors import opened_tensors, save_tensors
from worldmodel.training.schedule import Progressed

NOTHING: Mapping[str, Tensor] = {}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def save_state(
    path: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progressed: Progressed,
    inputs: str = "",
    kept: Mapping[str, Tensor] = NOTHING,
) -> None:
    """Write weights, optimisers and progress as one file, whole or not at all.

    The file is the same however many processes trained.

    Args:
        kept: by the stage, as of `Stage.kept`.
    """
    state = {f"model.{name}": value for name, value in module.state_dict().items()}
    first = 0  # number of an optimiser's first parameter among those of all
    for optimizer in optimizers:
        for index, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                state[f"optimizer.{first + index}.{name}"] = torch.as_tensor(value)
        first += len(_parameters(optimizer))
    state |= {f"kept.{name}": value for name, value in kept.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    metadata = {"progress": json.dumps(vars(progressed)), "inputs": inputs}
    try:
        save_tensors(path, tensors, metadata)
    except OSError as error:
        room = "free some space, then " if error.errno in NO_ROOM else ""
        raise UserError(
            f"the training state can't be written: {os_error(error)}. To resume from the state "
            f"saved before, {room}run the same command again"
        ) from None


def load_state(
    path: Path,
    module: nn.Module,
    inputs: str = "",
    kept: Mapping[str, Tensor] = NOTHING,
    *,
    part: str = "",
) -> Progressed:
    """Load the weights that `save_state` wrote, and what the stage kept; nothing where there is
    nothing.

    Args:
        part: the beginning of the names of the weights that are `module`'s; "": all are.

    Raises:
        UserError: the file is damaged, holds another model, or learned other inputs.
    """
    if not path.exists():
        return Progressed()
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if metadata["inputs"] != inputs:
            raise UserError(
                f"{path} learned the codes of another tokenizer: remove it to train "
                "again, or choose another --out"
            )
        progressed = Progressed(**json.loads(metadata["progress"]))
        prefix = f"model.{part}"
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        module.load_state_dict(
            {present_name(n.removeprefix(prefix)): file.get_tensor(n) for n in names}
        )
        stored = {name: f"kept.{name}" for name in kept if f"kept.{name}" in file.keys()}  # noqa: SIM118
        fits = all(
            name in stored and file.get_slice(stored[name]).get_shape() == list(tensor.shape)
            for name, tensor in kept.items()
        )
        for name, tensor in kept.items() if fits else ():  # of another batch size: made anew
            tensor.copy_(file.get_tensor(stored[name]))
    return progressed


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
            if name.startswith("optimizer."):
                _, number, entry = name.split(".")
                which, index = owners[int(number)]
                states[which].setdefault(index, {})[entry] = file.get_tensor(name)
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The training state; every fault in it becomes a UserError."""
    try:
        with opened_tensors(path) as file:
            yield file
    except UserError:
        raise
    except PermissionError:
        raise UserError(f"{path} may not be read: its permissions forbid it") from None
    except OSError as error:
        raise UserError(f"the training state can't be read: {os_error(error)}") from None
    except (
        SafetensorError,
        RuntimeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(
            f"{path} is damaged or of another model ({one_line(error, most=200)}): choose another "
            "--out, or remove it to train from the beginning"
        ) from None
