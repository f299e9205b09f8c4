"""The device that a command works on."""

import torch

from worldmodel.errors import UserError


def usable_device(name: str, *, or_auto: bool = False) -> str:
    """ "cpu" or "cuda", as `name` says.

    Args:
        or_auto: whether "auto" is known too: CUDA where there is one.

    Raises:
        UserError: it is another name, or there is no CUDA device.
    """
    if name == "auto" and or_auto:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: {'auto, ' * or_auto}cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is at hand: leave --device out")
    return name
