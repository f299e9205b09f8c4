"""A robot's hand over a bin of objects, in the manner of BAIR robot pushing."""

from typing import TYPE_CHECKING, Any

from envs.pushing.renderers import choose_renderer

if TYPE_CHECKING:
    from envs.pushing.env import PushingEnv


def make(*, renderer: str = "auto", **options: Any) -> "PushingEnv":
    """What `gymnasium.make("RobotPushing-v0", ...)` calls.

    Args:
        renderer: egl, osmesa or rays; auto: the first of them that works here.
        options: of `envs.pushing.env.PushingEnv`.

    Raises:
        ValueError: an option is out of range.
        envs.pushing.renderers.UserError: the renderer doesn't work here.
    """
    chosen = choose_renderer(renderer)  # before MuJoCo is imported: it decides only once
    from envs.pushing.env import PushingEnv

    return PushingEnv(renderer=chosen, **options)
