"""The command `python -m play`: in a window or without one, playing or replaying."""

import contextlib
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium
import tyro

import envs
from envs.interface import fps_of
from play.commands import COMMAND_KEYS
from play.headless import replay, walk
from play.pilot import Pilot, Policy
from play.recording import Recording, is_same_file
from play.replay_pilot import ReplayPilot
from play.session import MAX_SEED, Session, read_session
from play.worlds import (
    UnopenedWorld,
    choose_world,
    is_local,
    load_policy,
    load_shipped_policy,
)
from worldmodel.command import local_command, parse_options, say
from worldmodel.errors import UserError, printable
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.storage.files import read_json

if TYPE_CHECKING:
    from envs.recording import RecordEpisodes

DEFAULT_ENV = "dream-doom"
DEFAULT_NUM_STEPS = 200
RANDOM = "random"  # --policy
MAX_SIZE = 4096
MAX_KEYS_BYTES = 2**16  # of --keys


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True)
class PlayOptions:
    """Play a learned world, or the real game it was learned from."""

    env: str | None = None
    """What to play: a real game (doom-hgs, doom-battle2, doom-take-cover, robot-pushing), a shipped
    dream, the folder of a checkpoint, or a Hugging Face Hub id. Default: dream-doom, or with
    --replay the session's own checkpoint."""

    fps: float | None = None
    """Steps per second in the window, and frames per second of the film. Default: the game's
    own."""

    size: int = 512
    """Height of the picture in pixels."""

    policy: str | None = None
    """Who takes over when you press m, or plays with --headless: a stable-baselines3 PPO policy
    (.zip) or a .safetensors that `python -m collect.ship_policy` made. Default: the policy that
    ships with the world, if there is one. With --headless also `random`. A .zip that this project's
    commands did not make on this machine needs --trust the first time."""

    trust: bool = False
    """Load --policy, although its file may contain code that runs when it is loaded."""

    keys: Path | None = None
    """A JSON file of keys and mouse controls to use instead of the world's own; its format is
    described in docs/tutorial.md, "Keys of your own"."""

    record: Path | None = None
    """Record a film to this .mp4, and next to it a .json for --replay."""

    map: bool = False
    """Show the map from the start, and beside the frames in --record's film."""

    episodes: Path | None = None
    """Record what is played as episodes, in this folder, which python -m worldmodel.train takes;
    an existing data set of the same world is continued."""

    overwrite: bool = False
    """Let --record replace existing files."""

    replay: Path | None = None
    """Replay a recorded .json, and report whether every frame is the same."""

    headless: bool = False
    """Open no window: let a policy play as fast as possible, and print a summary."""

    web: bool = False
    """Play a dream in a web browser: build its page, once, and serve it on this machine alone."""

    port: int | None = None
    """Port of --web. Default: 8175, or another one where that is taken."""

    steps: int | None = None
    """Number of steps to play with --headless. Default: 200."""

    seed: int | None = None
    """Seed of everything random. Default: a random one, which is printed."""

    start: int | None = None
    """Number of the recorded moment that a dream starts from. Default: chosen by the seed."""

    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = SamplingOptions()
    """How a dream samples its tokens and poses."""


def parse(arguments: Sequence[str]) -> PlayOptions:
    """Parse the command line; exits for --help and for unknown options."""
    keys = "\n".join(f"  {entry.shown}: {entry.description}" for entry in COMMAND_KEYS)
    return parse_options(
        PlayOptions,
        "play",
        "Play a learned world, or the real game it was learned from.\n\n"
        f"Arrow keys and WASD steer; h shows all of a world's keys.\n\nKeys:\n{keys}",
        args=arguments,
    )


def run(options: PlayOptions, *, started_s: float) -> int:
    """Run the command.

    Args:
        started_s: when the command started, by time.perf_counter.

    Returns:
        The exit status: 0, or 1 if a replay was not as recorded.

    Raises:
        UserError: an option is not usable.
    """
    _check(options)
    if options.web:
        _play_on_the_web(options)
        return 0
    return _Play(options, started_s).run()


def _play_on_the_web(options: PlayOptions) -> None:
    from play.web.server import served
    from play.web.site import build, cached_site, is_built

    name = options.env or DEFAULT_ENV
    site = cached_site(name, options.sampling)
    if not is_built(name, site, options.sampling):
        say("building the page, once, about half a minute")
        build(name, site, options.sampling)
    stop = threading.Event()
    with _stopped_by_signals(stop), served(site, port=options.port) as address:
        print(f"{name} is at {address} until you press Ctrl-C", flush=True)
        while not stop.wait(0.5):  # without an end, Windows would not be interrupted
            pass


class _Play:
    """One run of the command."""

    def __init__(self, options: PlayOptions, started_s: float) -> None:
        self.options, self.started_s = options, started_s
        self.session = read_session(options.replay) if options.replay else None
        self.keys: Any = None
        if options.keys is not None:
            self.keys = read_json(options.keys, most_bytes=MAX_KEYS_BYTES) or {}
        self.world = _world_of(options, self.session)
        self.name = options.env or self.world.checkpoint or DEFAULT_ENV
        if not options.headless:
            from play.window import check_display

            check_display(self._without_window())
        self.seed = secrets.randbelow(2**31) if options.seed is None else options.seed
        self.recording = self._record() if options.record is not None else None
        self.pilot: Pilot | None = None
        self.episodes: RecordEpisodes | None = None
        self.stop = threading.Event()

    def run(self) -> int:
        """Play; returns the exit status."""
        try:
            with _stopped_by_signals(self.stop):
                if self.options.headless:
                    self._play_headless()
                else:
                    self._play_in_window()
        finally:
            if self.recording is not None:
                self.recording.finish()
                if self.recording.num_frames:
                    path, session = self.recording.path, self.recording.session_path
                    print(printable(f"{self.recording.num_frames} frames in {path}"))
                    print(printable(f"replay: {local_command('play', '--replay', str(session))}"))
            self._say_episodes()
        if not isinstance(self.pilot, ReplayPilot):
            print(f"seed {self.seed}")
            return 0
        return _verdict(self.pilot)

    def _open_pilot(self, tell: Callable[[str], None]) -> Pilot:
        options, env = self.options, self.world.open(tell)
        if options.episodes is not None:
            try:
                env = self.episodes = self.world.recorded(env, options.episodes)
            except UserError:
                env.close()
                raise
        if self.recording is not None and self.recording.fps is None:
            self.recording.fps = fps_of(env)
        watch = self.recording.add if self.recording else None
        try:
            before_step = self.episodes.steered_by if self.episodes else None
            if self.session is not None:
                self.pilot = ReplayPilot(
                    env, self.session, keys=self.keys, watch=watch, before_step=before_step
                )
                return self.pilot
            self.pilot = Pilot(
                env,
                seed=self.seed,
                start=options.start,
                find_policy=self._policy_finder(env),
                keys=self.keys,
                watch=watch,
                before_step=before_step,
            )
        except BaseException:
            env.close()
            raise
        return self.pilot

    def _policy_finder(self, env: gymnasium.Env) -> Callable[[], Policy | None]:
        """What loads the policy; one that was asked for is loaded now, and refused now."""
        path = self.options.policy
        if path is not None and path != RANDOM:
            policy = load_policy(Path(path), env, trusted=self.options.trust, seed=self.seed)
            return lambda: policy
        find = partial(load_shipped_policy, env, seed=self.seed)
        if self.options.headless and path is None:
            policy = find()
            return lambda: policy
        return find

    def _play_headless(self) -> None:
        pilot = self._open_pilot(say)
        print(f"first frame after {time.perf_counter() - self.started_s:.1f} s")
        try:
            if isinstance(pilot, ReplayPilot):
                replay(pilot, stop=self.stop)
                return
            if self.options.policy != RANDOM:
                pilot.toggle_policy()
            player = "policy" if pilot.policy_steers else RANDOM
            if self.episodes is not None and player == RANDOM:
                self.episodes.policy = RANDOM
            num_steps = self.options.steps or DEFAULT_NUM_STEPS
            summary = walk(pilot, num_steps=num_steps, seed=self.seed, stop=self.stop)
        finally:
            pilot.close()
        episodes = _episodes(summary.num_episodes)
        by = "a policy" if player == "policy" else "random actions"
        print(
            f"{summary.num_steps} steps by {by} in {episodes} at {summary.steps_per_s:.1f} "
            f"steps/s, return {summary.total_reward:,.1f}"
        )

    def _play_in_window(self) -> None:
        from play.window import Window

        window = Window(
            self._open_pilot,
            title=self.name,
            names=("dream", "real game"),
            pane=self.options.size,
            fps=self.options.fps,
            shows_map=self.options.map,
            stop=self.stop,
            instead=self._without_window(),
            starts_at_once=self.session is not None,
            is_kept=bool(self.recording or self.session or self.options.episodes),
        )
        window.run()
        if window.first_frame_at_s is not None:
            print(f"first frame after {window.first_frame_at_s - self.started_s:.1f} s")

    def _say_episodes(self) -> None:
        if self.episodes is not None and self.episodes.num_episodes:
            folder = str(self.options.episodes)
            train = local_command("worldmodel.train", "--data", folder, "--out", "runs/mine")
            steps = f"{self.episodes.num_steps} steps in {_episodes(self.episodes.num_episodes)}"
            then = self.episodes.lacking_splits or f"train on them: {train}"
            print(printable(f"{steps} in {folder}; {then}"))

    def _without_window(self) -> str:
        """The command that works where no window can open."""
        if self.options.replay is not None:
            return local_command("play", "--replay", str(self.options.replay), "--headless")
        film = str(self.options.record or "out.mp4")
        return local_command(
            "play", "--env", self.name, "--headless", "--record", film, "--steps", "200"
        )

    def _record(self) -> Recording:
        """Start the recording. Raises UserError if it may not replace an existing file."""
        options = self.options
        assert options.record is not None
        session_path = options.record.with_suffix(".json")
        if options.keys is not None and is_same_file(options.keys, session_path):
            raise UserError(
                f"--record {options.record} would overwrite --keys {options.keys} with its "
                "session: choose another name"
            )
        return Recording(
            options.record,
            self.world,
            size=options.size,
            fps=options.fps,
            with_map=options.map,
            overwrite=options.overwrite,
            replayed=options.replay,
        )


def _episodes(number: int) -> str:
    return "1 episode" if number == 1 else f"{number} episodes"


def _verdict(played: ReplayPilot) -> int:
    """Print whether a replay was as recorded; returns the exit status."""
    total, status = played.session.num_frames, 1
    if played.first_difference is not None:
        text = (
            f"the frames are NOT as recorded: the first difference is {played.first_difference}. "
            "The checkpoint, the version of a library, or the kind of processor is different"
        )
    elif not played.is_over:
        text = f"the replay stopped after {played.num_frames} of {total} frames, all as recorded"
    else:
        text, status = f"all {total} frames are as recorded", 0
    print(text)
    return status


def _check(options: PlayOptions) -> None:
    """Raises UserError for values out of range and for options that can't be combined."""
    if options.fps is not None and not 0.1 <= options.fps <= 1000:
        raise UserError(f"--fps must be from 0.1 to 1000, not {options.fps}")
    if not 64 <= options.size <= MAX_SIZE:
        raise UserError(f"--size must be from 64 to {MAX_SIZE}, not {options.size}")
    if options.seed is not None and not 0 <= options.seed <= MAX_SEED:
        raise UserError(f"--seed must be from 0 to 2**63 - 1, not {options.seed}")
    options.sampling.applied_to(Sampling())  # or UserError, before anything is loaded
    if options.steps is not None:
        if not options.headless:
            raise UserError("--steps needs --headless: in a window you decide when to stop")
        if options.steps < 1:
            raise UserError(f"--steps must be at least 1, not {options.steps}")
    if options.port is not None and not (options.web and 0 <= options.port < 2**16):
        raise UserError("--port needs --web, and must be from 0 to 65535")
    if options.web:
        others = ("fps", "policy", "keys", "record", "episodes", "replay", "steps", "seed", "start")
        given = [name for name in others if getattr(options, name) is not None]
        given += [name for name in ("headless", "map") if getattr(options, name)]
        for name in given:
            raise UserError(f"--{name} can't be combined with --web")
    if options.policy == RANDOM and not options.headless:
        raise UserError("--policy random needs --headless: in a window you play yourself")
    if options.overwrite and options.record is None:
        raise UserError("--overwrite needs --record: it replaces nothing else")
    if options.replay is not None:
        decided = ("policy", "steps", "seed", "start")
        given = [name for name in decided if getattr(options, name) is not None]
        for name in (*given, *options.sampling.given):
            option = name.replace("_", "-")
            raise UserError(
                f"--{option} can't be combined with --replay: the session determines it"
            )


def _world_of(options: PlayOptions, session: Session | None) -> UnopenedWorld:
    """The world of the options or the session, not yet opened."""
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
            f"trust it, use --env {recorded}"
        )
    world = choose_world(name, session.sampling)
    if world.env_id != session.env_id:
        raise UserError(f"{options.replay} was played in {session.env_id!r}, not in {name!r}")
    return world


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C or TERM set `stop`, so that files are completed; a second one kills."""

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
