"""What may be said of an environment: one rule for data sets and checkpoints, so that what has been
recorded can be trained on, and what has been trained can be read."""

import json
from typing import Any

from worldmodel.errors import UserError, one_line
from worldmodel.storage.files import parse_json

MAX_FPS = 1000
MIN_FPS = 0.01  # a step in more than a minute and a half is nobody's pace
MOST_ID_CHARACTERS = 200
MOST_KWARGS_BYTES = 2**16  # as JSON


def check_world(env_id: object, env_kwargs: object, fps: object) -> None:
    """Whether data sets and checkpoints may say this of their environment.

    A colon in the id is fine: a folder of videos may be called "clips:2024". That "module:Name-v0"
    makes gymnasium import a module is for those to refuse who make an environment of it
    (`envs.recorded`).

    Args:
        env_id: printable text of 1 to 200 characters.
        env_kwargs: a JSON object of finite numbers and Unicode text, at most 64 KiB.
        fps: from 0.01 to 1000.

    Raises:
        UserError: says which of them is wrong, and how.
    """
    if not isinstance(env_id, str) or not 0 < len(env_id) <= MOST_ID_CHARACTERS:
        raise UserError(
            f"env_id must be a name of 1 to {MOST_ID_CHARACTERS} characters, not {_shown(env_id)}"
        )
    if not env_id.isprintable():
        raise UserError(f"env_id holds characters that can't be printed: {_shown(env_id)}")
    _check_kwargs(env_kwargs)
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(f"fps must be from {MIN_FPS} to {MAX_FPS}, not {_shown(fps)}")


def _check_kwargs(env_kwargs: object) -> None:
    if not isinstance(env_kwargs, dict):
        raise UserError(f"env_kwargs must be a JSON object, not {_shown(env_kwargs)}")
    try:
        text = json.dumps(env_kwargs, allow_nan=False)
        parse_json(text)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"env_kwargs can't be written as JSON: {reason}") from None
    if len(text) > MOST_KWARGS_BYTES:
        raise UserError(f"env_kwargs must be at most {MOST_KWARGS_BYTES} bytes as JSON")


def _shown(value: Any) -> str:
    return one_line(repr(value), most=80)
