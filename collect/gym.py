"""Record any Gymnasium environment: python -m collect.gym --env-id CarRacing-v3 --out data/car

Frames are the environment's observations if these are images, else what it renders. The player is
random, a policy that learns in the environment first (--policy train), or one of yours.
If interrupted, rerun the same command to resume.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from gymnasium import spaces

import envs  # noqa: F401  registers the environments
from collect.recorder import POLICY, Behaviour
from collect.recording import Options, World, record_set
from collect.rewards import Training
from collect.score import Measure
from envs.making import made
from envs.pixels import PixelsEnv
from worldmodel import randomness
from worldmodel.command import parse_options, run_command, say
from worldmodel.errors import UserError, raised

# Box actions rest half of the time: with gas and brake both pressed no car drives.
NOISE = Behaviour("policy+noise", actor="policy", random_start=0.1, max_hold=8, rest=0.5)
AT_RANDOM = Behaviour("random", actor=None, random_start=1.0, max_hold=8, rest=0.5)
# Long detours lead to places where the policy never is, and it shows how to come back from there.
DETOURS = Behaviour("policy+detours", actor="policy", random_start=0.03, max_hold=24, rest=0.5)
WITH_POLICY = {POLICY: 0.3, NOISE: 0.3, DETOURS: 0.2, AT_RANDOM: 0.2}
PATIENCE = 0.3  # see `Training`
# What stable-baselines3 learns from; not from words, for example.
LEARNABLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
PROBE_STEPS = 50  # played twice before recording, to inspect the environment


@dataclass(frozen=True, kw_only=True)
class Collect(Options):
    """Record any Gymnasium environment that has images, played at random or also by a policy.
    If interrupted, rerun the same command to resume."""

    env_id: str
    """Gymnasium id of the environment; module:Name-v0 imports the module first."""
    env_kwargs: Annotated[str, tyro.conf.arg(metavar="JSON")] = "{}"
    """Its arguments, as a JSON object: '{"continuous": false}'."""
    size: int = 64
    """Height and width of the stored frames; images are stretched to a square."""
    source: Literal["auto", "observation", "render"] = "auto"
    """What becomes frames; auto: observations if they are images, else renderings."""
    frame_skip: int = 1
    """Environment steps for which each action is repeated; rewards are summed."""
    variables: str = ""
    """Names of numbers in the environment's info to record as well, comma-separated."""
    pose: str = ""
    """Names of 1 to 3 coordinates of the player in the environment's info, comma-separated: x,y.
    Default: the environment's own attribute pose, if it has one."""
    heading: str | None = None
    """With --pose: name of the direction that the player faces, counterclockwise from x."""
    full_turn: float = 360.0
    """Change of the heading in a full turn: 360 for degrees, 6.2832 for radians, negative if it
    increases clockwise."""
    new_levels: bool = False
    """With --pose: every episode has a level of its own, as where levels are generated; the dream
    then learns from poses how players move, but not what is where."""
    action_limit: float | None = None
    """Bounds for a Box of actions that has none: from -LIMIT to LIMIT."""
    length: int = 200
    """Maximum number of steps per episode, each --frame-skip environment steps long."""
    out: Path
    """Folder of the data set."""
    policy: str = "random"
    """Who plays: random; train, a policy that learns here first (saved as OUT/policy.zip); or the
    path of a stable-baselines3 .zip of PPO or SAC that was trained on the environment's own
    observations, stacked or not, or on Pixels-v0 (see --trust); or module:name, a function of yours
    from the environment's own observation to its own action."""
    train_steps: int = 200_000
    """Steps that --policy train learns for, at most, each --frame-skip environment steps long. It
    stops when its mean return no longer grows. PPO learns from frames where the environment
    observes images, or what can't be learned from; from its own numbers learns SAC where actions
    are a box, else PPO."""
    evaluate_episodes: int = 20
    """Complete games on which the policy and a random player are scored; 0 skips scoring."""


def main() -> None:
    options = parse_options(Collect, "collect.gym", __doc__)
    run_command(lambda: collect(options))


def collect(options: Collect) -> None:
    """Run the command. Raises UserError as `record_set` does."""
    env_kwargs: dict[str, Any] = {
        "env_id": options.env_id,
        "env_kwargs": _json_object(options.env_kwargs),
        "size": options.size,
        "source": options.source,
        "frame_skip": options.frame_skip,
        "variables": _names(options.variables),
        "action_limit": options.action_limit,
    }
    if options.pose:  # otherwise absent, as in sets without a pose
        env_kwargs["pose"] = _names(options.pose)
        env_kwargs["heading"] = options.heading
        env_kwargs["full_turn"] = options.full_turn
        env_kwargs["new_levels"] = options.new_levels
    elif options.heading is not None or options.new_levels:
        option = "--heading" if options.heading is not None else "--new-levels"
        in_attribute = option.removeprefix("--").replace("-", "_")
        raise UserError(
            f"{option} needs --pose x,y; an environment's own attribute pose says {in_attribute} "
            "itself"
        )
    most_steps, is_repeatable, training = probe(env_kwargs, options.train_steps)
    if not is_repeatable:
        say(
            f"note: {options.env_id} gives different frames when the same seed is played again: it "
            "can be recorded, but a dream and the real environment played beside it will diverge"
        )
    world = World(
        "Pixels-v0",
        WITH_POLICY,
        {
            "return": Measure(lambda episode, info: float(episode.reward.sum())),
            "length": Measure(lambda episode, info: float(episode.length)),
        },
        env_kwargs=env_kwargs,
        training=training if options.policy == "train" else None,
        longest_game=most_steps or options.length,
        is_repeatable=is_repeatable,
    )
    record_set(options, world)


def probe(env_kwargs: dict[str, Any], train_steps: int) -> tuple[int | None, bool, Training]:
    """Make a Pixels environment and play `PROBE_STEPS` twice.

    Returns:
        The environment's limit on steps, if it has one; whether the same seed and actions gave the
        same frames twice; and how a policy learns here.

    Raises:
        UserError: it can't be made, played or recorded, or its info lacks a variable.
    """
    with contextlib.closing(made("Pixels-v0", **env_kwargs)) as env:
        pixels = env.unwrapped
        assert isinstance(pixels, PixelsEnv)
        try:
            (once, names), (again, _) = _played(pixels), _played(pixels)
        except Exception as error:  # an external environment may raise anything
            raise UserError(f"{env_kwargs['env_id']} can't be recorded: {raised(error)}") from None
    if unknown := {*pixels.variable_names, *pixels.pose.names} - names:
        raise UserError(
            f"info of {env_kwargs['env_id']} has no number {min(unknown)!r} in its first "
            f"{PROBE_STEPS} steps; it has: {', '.join(sorted(names)) or 'none'}"
        )
    return pixels.most_steps, np.array_equal(once, again), _training(pixels, train_steps)


def _training(env: PixelsEnv, num_steps: int) -> Training:
    seen = env.state_space
    parts = seen.values() if isinstance(seen, spaces.Dict) else [seen]
    if env.draws_observations or not all(isinstance(part, LEARNABLE) for part in parts):
        return Training("frames", num_steps, None, patience=PATIENCE)
    return Training(
        "state",
        num_steps,
        None,
        algorithm="sac" if isinstance(env.action_space, spaces.Box) else "ppo",
        cheapest_frames={"is_blank": True},
        patience=PATIENCE,
    )


def _played(env: PixelsEnv) -> tuple[list[np.ndarray], set[str]]:
    """Frames of a few steps from a seed, and the names of the numbers in the environment's info."""
    env.action_space.seed(randomness.integer(0, "first look"))
    frame, _ = env.reset(seed=0)
    frames, names, is_over = [frame], set(), False
    while True:
        names |= {name for name, value in env.wrapped_info.items() if _is_number(value)}
        if len(frames) > PROBE_STEPS or is_over:
            return frames, names
        frame, _, terminated, truncated, _ = env.step(env.action_space.sample())
        frames.append(frame)
        is_over = terminated or truncated


def _is_number(value: Any) -> bool:
    # Other entries of an info may have any shape, such as ragged lists.
    if isinstance(value, np.ndarray | np.generic):
        return value.ndim == 0 and value.dtype.kind in "biuf"
    return isinstance(value, int | float)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"--env-kwargs is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"--env-kwargs must be a JSON object such as {{}}, not {text}")
    return value


if __name__ == "__main__":
    main()
