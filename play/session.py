"""The command line of `python -m play`, and the four ways through it."""

import contextlib
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import tyro

import envs
from envs.interface import fps_of
from play import command_line
from play.commands import COMMAND_KEYS
from play.headless import replay, walk
from play.pilot import Moment, Pilot
from play.recording import Recording, is_same_file
from play.replay import MAX_SEED, Session, read_session
from play.replay_pilot import ReplayPilot
from play.worlds import UnopenedWorld, choose_world, is_local, load_policy
from worldmodel.command import say
from worldmodel.errors import UserError, printable
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.storage.files import read_json

# Makes the pilot; given what tells the person why it takes long.
OpenPilot = Callable[[Callable[[str], None]], Pilot]
DEFAULT_ENV = "dream-doom"
DEFAULT_NUM_STEPS = 200
MAX_SIZE = 4096
MAX_KEYS_BYTES = 2**16  # of --keys


@dataclass(frozen=True)
class PlayOptions:
    """Play a learned world, or the real game it was learned from."""

    env: str | None = None
    """What to play: a real game (doom-hgs, doom-battle2, doom-take-cover, robot-pushing), a shipped
    dream, the folder of a checkpoint, or a Hugging Face Hub id. Default: dream-doom. With --replay:
    the checkpoint to use instead of the session's."""

    fps: float | None = None
    """Steps per second in the window, and frames per second of the film. Default: the game's
    own."""

    size: int = 512
    """Height of the picture in pixels."""

    policy: Path | None = None
    """A stable-baselines3 PPO policy (.zip) that takes over when you press m, or at once with
    --headless. One that was not made here needs --trust the first time."""

    trust: bool = False
    """Load --policy, although stable-baselines3's files can run code of whoever made them."""

    keys: Path | None = None
    """A JSON file of keys and mouse controls to use instead of the world's own; its format is
    described in worldmodel/interface/controls.py."""

    record: Path | None = None
    """Record a film to this .mp4, and next to it a .json that --replay can play again."""

    map: bool = False
    """Show the map from the beginning, and beside the frames in --record's film."""

    overwrite: bool = False
    """Let --record replace existing files."""

    replay: Path | None = None
    """Replay a recorded .json, and report whether every frame is the same."""

    headless: bool = False
    """Open no window: play as fast as possible, with --policy or at random, and print a
    summary."""

    steps: int | None = None
    """Number of steps to play with --headless. Default: 200."""

    seed: int | None = None
    """Seed of everything random. Default: drawn, and printed."""

    start: int | None = None
    """Number of the recorded moment that a dream starts from. Default: drawn from the seed."""

    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = SamplingOptions()
    """How a dream samples its tokens."""


def parse(arguments: Sequence[str]) -> PlayOptions:
    """The command line as options; exits for --help and for unknown options."""
    keys = "\n".join(f"  {entry.shown}: {entry.description}" for entry in COMMAND_KEYS)
    return tyro.cli(
        PlayOptions,
        prog="python -m play",
        description=f"Play a learned world, or the real game it was learned from.\n\n"
        f"Arrow keys and WASD steer; h shows all of a world's keys.\n\nKeys:\n{keys}",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def run(options: PlayOptions, *, started_s: float) -> int:
    """Play as the options say.

    Args:
        started_s: when the command began, by time.perf_counter.

    Returns:
        The exit status: 0, or 1 when a replay wasn't the same.

    Raises:
        UserError: something in the options can't be done.
    """
    _check(options)
    session = read_session(options.replay) if options.replay else None
    keys = read_json(options.keys, most_bytes=MAX_KEYS_BYTES) or {} if options.keys else None
    world = _world_of(options, session)
    if not options.headless:
        from play.window import check_display

        check_display(_without_window(options, world))
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    recording = _recording(options, world)
    played: Pilot | None = None

    def open_pilot(tell: Callable[[str], None]) -> Pilot:
        nonlocal played
        env = world.open(tell)
        if recording is not None and recording.fps is None:
            recording.fps = fps_of(env)
        try:
            watch = recording.add if recording else None
            played = _pilot(env, options, session, seed, keys, watch)
        except BaseException:
            env.close()
            raise
        return played

    stop = threading.Event()
    try:
        with _interrupts_set(stop):
            if options.headless:
                _play_headless(open_pilot, options, seed, stop, started_s)
            else:
                _play_in_window(open_pilot, options, world, stop, started_s)
    finally:
        if recording is not None:
            _finish(recording)
    if not isinstance(played, ReplayPilot):
        print(f"seed {seed}")
        return 0
    return _verdict(played)


def _pilot(
    env: gymnasium.Env,
    options: PlayOptions,
    session: Session | None,
    seed: int,
    keys: Any,
    watch: Callable[[Moment], None] | None,
) -> Pilot:
    if session is not None:
        return ReplayPilot(env, session, keys=keys, watch=watch)
    policy = None
    if options.policy is not None:
        policy = load_policy(options.policy, env, trusted=options.trust, seed=seed)
    return Pilot(env, seed=seed, start=options.start, policy=policy, keys=keys, watch=watch)


def _play_headless(
    open_pilot: OpenPilot,
    options: PlayOptions,
    seed: int,
    stop: threading.Event,
    started_s: float,
) -> None:
    pilot = open_pilot(say)
    print(f"first frame after {time.perf_counter() - started_s:.1f} s")
    try:
        if isinstance(pilot, ReplayPilot):
            replay(pilot, stop=stop)
            return
        if pilot.policy is not None:
            pilot.toggle_policy()
        num_steps = DEFAULT_NUM_STEPS if options.steps is None else options.steps
        summary = walk(pilot, num_steps=num_steps, seed=seed, stop=stop)
    finally:
        pilot.close()
    episodes = "1 episode" if summary.num_episodes == 1 else f"{summary.num_episodes} episodes"
    print(
        f"{summary.num_steps} steps in {episodes} at {summary.steps_per_s:.1f} steps/s, "
        f"return {summary.total_reward:,.1f}"
    )


def _play_in_window(
    open_pilot: OpenPilot,
    options: PlayOptions,
    world: UnopenedWorld,
    stop: threading.Event,
    started_s: float,
) -> None:
    from play.window import Window

    window = Window(
        open_pilot,
        title=_name_of(options, world),
        names=("dream", "real game"),
        pane=options.size,
        fps=options.fps,
        shows_map=options.map,
        stop=stop,
        instead=_without_window(options, world),
    )
    window.run()
    if window.first_frame_at_s is not None:
        print(f"first frame after {window.first_frame_at_s - started_s:.1f} s")


def _name_of(options: PlayOptions, world: UnopenedWorld) -> str:
    return options.env or world.checkpoint or DEFAULT_ENV


def _without_window(options: PlayOptions, world: UnopenedWorld) -> str:
    """The command to run where no window can open."""
    if options.replay is not None:
        return command_line("--replay", str(options.replay), "--headless")
    film = str(options.record or "out.mp4")
    env = _name_of(options, world)
    return command_line("--env", env, "--headless", "--record", film, "--steps", "200")


def _recording(options: PlayOptions, world: UnopenedWorld) -> Recording | None:
    """What --record asks for. Raises UserError where it would replace a file that it may not."""
    if options.record is None:
        return None
    session_path = options.record.with_suffix(".json")
    if options.keys is not None and is_same_file(options.keys, session_path):
        raise UserError(
            f"--record {options.record} would write its session over --keys {options.keys}: choose "
            "another name"
        )
    return Recording(
        options.record,
        world,
        size=options.size,
        fps=options.fps,
        with_map=options.map,
        overwrite=options.overwrite,
        replayed=options.replay,
    )


def _finish(recording: Recording) -> None:
    """Leave the film and the session whole, however the playing ended."""
    recording.finish()
    if recording.num_frames:
        print(printable(f"{recording.num_frames} frames in {recording.path}"))
        again = command_line("--replay", str(recording.session_path))
        print(printable(f"play them again: {again}"))


def _verdict(played: ReplayPilot) -> int:
    """Say whether a replay was the same; the exit status."""
    total = played.session.num_frames
    if played.first_difference is not None:
        print(
            f"the frames are NOT the recorded ones: the first to differ is "
            f"{played.first_difference}. It is another checkpoint, another version of a library, "
            "or another kind of processor"
        )
        return 1
    if not played.is_over:
        print(f"the replay stopped after {played.num_frames} of {total} frames, all as recorded")
        return 1
    print(f"all {total} steps are as recorded")
    return 0


def _check(options: PlayOptions) -> None:
    """Raises UserError for values out of range and for options that don't go together."""
    if options.fps is not None and not 0.1 <= options.fps <= 1000:
        raise UserError(f"--fps must be from 0.1 to 1000, not {options.fps}")
    if not 64 <= options.size <= MAX_SIZE:
        raise UserError(f"--size must be from 64 to {MAX_SIZE}, not {options.size}")
    if options.seed is not None and not 0 <= options.seed <= MAX_SEED:
        raise UserError(f"--seed must be from 0 to 2**63 - 1, not {options.seed}")
    options.sampling.applied_to(Sampling())  # or UserError, before anything is loaded
    if options.steps is not None:
        if not options.headless:
            raise UserError("--steps goes with --headless: in a window you decide when to stop")
        if options.steps < 1:
            raise UserError(f"--steps must be at least 1, not {options.steps}")
    if options.overwrite and options.record is None:
        raise UserError("--overwrite goes with --record: nothing else writes files")
    if options.replay is not None:
        decided = ("policy", "steps", "seed", "start")
        given = [name for name in decided if getattr(options, name) is not None]
        for name in (*given, *options.sampling.given):
            option = name.replace("_", "-")
            raise UserError(f"--{option} doesn't go with --replay: the session decides it")


def _world_of(options: PlayOptions, session: Session | None) -> UnopenedWorld:
    """What the options or the session name, not yet opened."""
    if session is None:
        return choose_world(options.env or DEFAULT_ENV, options.sampling)
    real_names = {env_id: name for name, env_id in envs.REAL_WORLDS.items()}
    recorded = session.checkpoint or real_names.get(session.env_id)
    if recorded is None:
        raise UserError(f"{options.replay} was played in {session.env_id!r}, unknown here")
    name = options.env or recorded
    if options.env is None and recorded not in envs.REAL_WORLDS and not is_local(recorded):
        raise UserError(
            f"{options.replay} was played in {recorded!r}, which is not on this machine; if you "
            f"trust it, say so: --env {recorded}"
        )
    world = choose_world(name, session.sampling)
    if world.env_id != session.env_id:
        raise UserError(f"{options.replay} was played in {session.env_id!r}, not in {name!r}")
    return world


@contextlib.contextmanager
def _interrupts_set(stop: threading.Event) -> Iterator[None]:
    """Within, the first Ctrl-C or TERM sets `stop`, so files are finished; a second one kills."""

    def on_interrupt(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = {of: signal.signal(of, on_interrupt) for of in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for of, handler in before.items():
            signal.signal(of, handler)
