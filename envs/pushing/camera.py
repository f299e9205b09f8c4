"""Render the bin. Import this after `choose_renderer`, because it imports MuJoCo."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (MuJoCo's bindings have no types.)

import functools
import os
from typing import Any, Protocol

import mujoco
import numpy as np
from jaxtyping import UInt8

from envs.pushing.scene import CAMERA_NAME, GROUND, TO_LAMP
from envs.renderers import Renderer
from worldmodel.errors import UserError

MAX_GEOMS = 100
# For the rays; OpenGL reads them from the scene.
AMBIENT, HEADLIGHT, LAMP = 0.35, 0.25, 0.55
BACKGROUND = np.array([0.33, 0.34, 0.36], np.float32)
LAMP_DISTANCE = 50.0  # far enough for almost parallel rays
SHADOWING = np.array([group != GROUND for group in range(mujoco.mjNGROUP)], np.uint8)
SHADOW_MARGIN = 2e-3  # metres; prevents surfaces from shadowing themselves


class Camera(Protocol):
    """Renders square frames from the scene's camera."""

    def look_at(self, model: mujoco.MjModel) -> None:
        """Switch to another scene."""
        ...

    def picture(self, data: mujoco.MjData) -> UInt8[np.ndarray, "size size 3"]:
        """Render the scene; its kinematics must be up to date."""
        ...

    def close(self) -> None: ...


def open_camera(renderer: Renderer, *, size: int) -> Camera:
    """Make a camera for frames of `size` x `size` pixels."""
    return RayCamera(size) if renderer == "rays" else OpenGLCamera(size)


class OpenGLCamera:
    """Renders with OpenGL."""

    def __init__(self, size: int) -> None:
        self._drawn = 2 * size
        self._options = mujoco.MjvOption()
        self._view = mujoco.MjvCamera()
        self._rectangle = mujoco.MjrRect(0, 0, self._drawn, self._drawn)
        self._pixels = np.empty((self._drawn, self._drawn, 3), np.uint8)
        self._context: mujoco.MjrContext | None = None

    def look_at(self, model: mujoco.MjModel) -> None:
        self.close()
        _opengl_context().make_current()
        self._model = model
        self._scene = mujoco.MjvScene(model, MAX_GEOMS)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = model.camera(CAMERA_NAME).id

    def picture(self, data: mujoco.MjData) -> UInt8[np.ndarray, "size size 3"]:
        assert self._context is not None, "look_at comes first"
        _opengl_context().make_current()
        # For each frame, because another camera may have set its own buffer.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._options,
            None,
            self._view,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        return _halved(self._pixels[::-1])  # OpenGL's first row is at the bottom

    def close(self) -> None:
        if self._context is not None:
            _opengl_context().make_current()
            self._context.free()
            self._context = None


def _opengl_context() -> Any:
    """The process's context, which takes a third of a second to make.

    Raises:
        UserError: it was made before a fork, after which OpenGL would hang.
    """
    process, context = _made_context()
    if process != os.getpid():
        raise UserError(
            "OpenGL doesn't survive a fork: start processes with spawn (AsyncVectorEnv's "
            "context='spawn'), or use renderer='rays'"
        )
    return context


@functools.cache
def _made_context() -> tuple[int, Any]:
    return os.getpid(), mujoco.GLContext(1, 1)  # MuJoCo renders into its own buffers


class RayCamera:
    """Casts a ray for each pixel, and one from the lamp to each point that it hits."""

    def __init__(self, size: int) -> None:
        self._drawn = 2 * size
        count = self._drawn**2
        self._geoms = np.empty(count, np.int32)
        self._distances = np.empty(count)
        self._normals = np.empty(3 * count)
        self._lit_geoms = np.empty(count, np.int32)
        self._lit_distances = np.empty(count)

    def look_at(self, model: mujoco.MjModel) -> None:
        self._model = model
        camera = model.camera(CAMERA_NAME)
        half = np.tan(np.radians(float(camera.fovy[0])) / 2)
        # Through the centre of each pixel, from the upper left; the camera looks along -z.
        steps = (np.arange(self._drawn) + 0.5) / self._drawn * 2 - 1
        x, y = np.meshgrid(half * steps, -half * steps)
        rays = np.stack([x, y, -np.ones_like(x)], -1).reshape(-1, 3)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        turn = np.empty(9)
        mujoco.mju_quat2Mat(turn, camera.quat)
        self._rays = rays @ turn.reshape(3, 3).T
        self._eye = np.array(camera.pos)
        colours = model.geom_rgba[:, :3].astype(np.float32)
        self._colours = np.concatenate([colours, BACKGROUND[None]])

    def picture(self, data: mujoco.MjData) -> UInt8[np.ndarray, "size size 3"]:
        seen = (self._geoms, self._distances, self._normals)
        self._cast(data, self._eye, self._rays, *seen, groups=None)
        normals = self._normals.reshape(-1, 3)
        lamp = LAMP_DISTANCE * np.asarray(TO_LAMP)
        from_lamp = self._eye + self._distances[:, None] * self._rays - lamp
        lamp_distances = np.sqrt(_dot(from_lamp, from_lamp))
        from_lamp /= lamp_distances[:, None]
        shadowing = (self._lit_geoms, self._lit_distances, None)
        self._cast(data, lamp, from_lamp, *shadowing, groups=SHADOWING)
        nearest = self._lit_distances
        is_lit = (nearest < 0) | (nearest > lamp_distances - SHADOW_MARGIN)
        lamplight = np.maximum(-_dot(normals, from_lamp), 0) * is_lit
        light = AMBIENT + HEADLIGHT * np.abs(_dot(normals, self._rays)) + LAMP * lamplight
        light *= 255
        image = self._colours[self._geoms] * light[:, None].astype(np.float32)  # -1: no hit
        pixels = np.minimum(image + 0.5, 255).astype(np.uint8)
        return _halved(pixels.reshape(self._drawn, self._drawn, 3))

    def close(self) -> None: ...

    def _cast(
        self,
        data: mujoco.MjData,
        origin: np.ndarray,
        rays: np.ndarray,
        geoms: np.ndarray,
        distances: np.ndarray,
        normals: np.ndarray | None,
        *,
        groups: np.ndarray | None,
    ) -> None:
        mujoco.mj_multiRay(
            self._model,
            data,
            origin,
            rays.ravel(),
            groups,
            True,
            -1,
            geoms,
            distances,
            normals,
            len(geoms),
            mujoco.mjMAXVAL,
        )


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise dot product, three times as fast as a product and a sum."""
    return np.einsum("ij,ij->i", a, b)


def _halved(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Halve the size by averaging four pixels, which smooths edges."""
    rows = pixels[::2].astype(np.uint16) + pixels[1::2]
    return ((rows[:, ::2] + rows[:, 1::2] + 2) // 4).astype(np.uint8)
