"""Choose how to render without a display: OpenGL through EGL or OSMesa if installed, else rays.

MuJoCo reads `MUJOCO_GL` once, when it is imported. So the renderers are tried in another process
before MuJoCo is imported in this one.
"""

import functools
import os
import subprocess
import sys
from typing import Literal, cast

from worldmodel.errors import UserError

Renderer = Literal["egl", "osmesa", "rays"]
OPENGL = ("egl", "osmesa")
# Passes the result to child processes, which then neither try again nor get another result.
FOUND = "ROBOT_BIN_RENDERER"
PROBE_SECONDS = 60
INSTALL_OPENGL = "on Debian: apt-get install libegl1 libgl1-mesa-dri libopengl0, or libosmesa6"
PROBE = """
import mujoco
context = mujoco.GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), 50)
"""


def choose_renderer(wanted: str) -> Renderer:
    """Choose the renderer, and set `MUJOCO_GL` for it.

    Args:
        wanted: egl, osmesa or rays; auto: the first of them that works.

    Raises:
        UserError: there is no such renderer, or it doesn't work here.
    """
    if wanted not in ("auto", *OPENGL, "rays"):
        raise UserError(f"unknown renderer {wanted!r}: auto, {', '.join(OPENGL)} or rays")
    given = os.environ.get("MUJOCO_GL", "")
    is_decided = "mujoco" in sys.modules or given in OPENGL
    found: Renderer = "rays"
    for renderer in (given,) if is_decided else _order(wanted):
        if renderer in OPENGL and _works(renderer):
            # Even if rays are wanted: a second environment may want this one.
            os.environ["MUJOCO_GL"] = os.environ[FOUND] = renderer
            found = cast(Renderer, renderer)
            break
    if found == "rays" and "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = "disable"  # importing MuJoCo with a missing one fails
    if wanted in ("auto", found):
        return found
    if wanted == "rays":
        return "rays"
    if is_decided and given != wanted:
        raise UserError(
            f"{wanted} can't be used: MUJOCO_GL is {given!r}, which can't change once MuJoCo has "
            f"been imported. Set MUJOCO_GL={wanted} before Python starts"
        )
    raise UserError(
        f"{wanted} doesn't work here. Install it ({INSTALL_OPENGL}), or use the renderer rays, "
        "which needs nothing"
    )


def choose_opengl() -> bool:
    """Set `MUJOCO_GL` to an OpenGL that works without a display, for environments that read it when
    they render; returns whether there is one. One that the user has set is the only one tried."""
    given = os.environ.get("MUJOCO_GL", "")
    for renderer in (given,) if given in OPENGL else OPENGL:
        if _works(renderer):
            os.environ["MUJOCO_GL"] = os.environ[FOUND] = renderer
            return True
    return False


def _order(wanted: str) -> tuple[str, ...]:
    return (wanted,) if wanted in OPENGL else OPENGL


@functools.cache
def _works(renderer: str) -> bool:
    if os.environ.get(FOUND) == renderer:
        return True
    try:
        tried = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**os.environ, "MUJOCO_GL": renderer},
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return tried.returncode == 0
