"""A robot hand over a bin of objects, similar to BAIR robot pushing."""

from typing import TYPE_CHECKING, Any

from envs.renderers import choose_renderer

if TYPE_CHECKING:
    from envs.pushing.env import PushingEnv


def make(*, renderer: str = "auto", **options: Any) -> "PushingEnv":
    """Make `RobotPushing-v0`.

    Args:
        renderer: egl, osmesa or rays; auto: the first of them that works here.
        options: of `envs.pushing.env.PushingEnv`.

    Raises:
        UserError: an option is out of range, or the renderer doesn't work here.
    """
    chosen = choose_renderer(renderer)  # before MuJoCo is imported
    from envs.pushing.env import PushingEnv

    return PushingEnv(renderer=chosen, **options)
