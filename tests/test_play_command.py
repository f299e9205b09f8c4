"""`python -m play` as one types it: on the real Doom, and with everything typed wrong."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from played import played_episode, write_session

from envs.making import made
from play.__main__ import main
from play.commands import COMMAND_KEYS
from play.session import Session, read_session
from worldmodel.command import local_command
from worldmodel.interface.sampling import SamplingOptions

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


def play(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "play", *map(str, arguments)],
        env=_without_display() | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _without_display() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in DISPLAYS}


def film_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A headless walk of 120 steps (Doom's idle player lives 96), and what it printed."""
    film = tmp_path_factory.mktemp("walk") / "walk.mp4"
    done = play(
        *("--env", "doom-hgs", "--headless", "--steps", 120, "--seed", 5),
        *("--size", 128, "--record", film),
    )
    assert done.returncode == 0, done.stderr
    return film, done.stdout


def test_a_headless_walk_says_what_it_did(recorded: tuple[Path, str]) -> None:
    film, printed = recorded
    assert "first frame after" in printed
    assert "120 steps by a policy in" in printed
    assert "steps/s, return" in printed
    assert str(film) in printed
    assert f"--replay {film.with_suffix('.json')}" in printed
    assert sorted(path.name for path in film.parent.iterdir()) == ["walk.json", "walk.mp4"]


def test_the_film_has_every_frame(recorded: tuple[Path, str]) -> None:
    film, _ = recorded
    session = read_session(film.with_suffix(".json"))
    frames = film_frames(film)
    assert frames.shape == (session.num_frames, 128, 128, 3)
    assert session.num_frames == 120 + len(session.episodes)
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate or 0) == 8.75
        assert stream.codec_context.pix_fmt == "yuv420p"


def test_a_recording_plays_again_bit_for_bit(recorded: tuple[Path, str], tmp_path: Path) -> None:
    film, _ = recorded
    again = tmp_path / "again.mp4"
    done = play(
        *("--replay", film.with_suffix(".json"), "--headless", "--size", 128, "--record", again)
    )
    assert done.returncode == 0, done.stderr
    assert "frames are as recorded" in done.stdout
    assert again.with_suffix(".json").read_bytes() == film.with_suffix(".json").read_bytes()
    np.testing.assert_array_equal(film_frames(again), film_frames(film))


def test_other_actions_are_found_out(recorded: tuple[Path, str], tmp_path: Path) -> None:
    film, _ = recorded
    data = json.loads(film.with_suffix(".json").read_text())
    changed = tmp_path / "changed.json"
    data[5][0] = (data[5][0] + 1) % 4  # behind the head and the beginning: step 4
    changed.write_text(json.dumps(data))
    done = play("--replay", changed, "--headless")
    assert done.returncode == 1
    assert "NOT as recorded" in done.stdout
    assert "the frame at step 4 of episode 1" in done.stdout


def test_a_dream_is_drawn_as_it_was_told_to_be_and_so_again(tmp_path: Path) -> None:
    digests = {}
    for told in ((), ("--guidance", 2)):
        film = tmp_path / f"{len(digests)}.mp4"
        done = play(
            *("--env", "dream-doom", "--headless", "--steps", 4, "--seed", 5),
            *("--start", 0, "--record", film, *told),
        )
        assert done.returncode == 0, done.stderr
        digests[told] = read_session(film.with_suffix(".json")).episodes[0].marks
        again = play("--replay", film.with_suffix(".json"), "--headless")
        assert again.returncode == 0, again.stderr
    assert len(set(digests.values())) == 2


def recording(film: Path, *arguments: object) -> subprocess.Popen[str]:
    """A walk without end through Doom, once it is being filmed."""
    playing = subprocess.Popen(
        [
            *(sys.executable, "-m", "play", "--env", "doom-hgs", "--headless"),
            *("--steps", "1000000", "--size", "64", "--record", str(film)),
            *map(str, arguments),
        ],
        env=_without_display(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while playing.poll() is None and not (film.exists() and film.stat().st_size > 1000):
        time.sleep(0.05)
    return playing


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_both_files_whole(tmp_path: Path, stop: signal.Signals) -> None:
    film = tmp_path / "films" / "long.mp4"  # a folder that is made
    playing = recording(film)
    playing.send_signal(stop)
    _, errors = playing.communicate(timeout=60)
    assert playing.returncode == 0, errors
    assert sorted(path.name for path in film.parent.iterdir()) == ["long.json", "long.mp4"]
    session = read_session(film.with_suffix(".json"))
    assert len(film_frames(film)) == session.num_frames > 1
    json.loads(film.with_suffix(".json").read_text())


def test_a_kill_costs_the_films_last_seconds_alone(tmp_path: Path) -> None:
    film = tmp_path / "long.mp4"
    playing = recording(film)
    again = play(  # meanwhile nobody else writes there
        *("--env", "doom-hgs", "--headless", "--steps", 5, "--record", film, "--overwrite")
    )
    assert again.returncode == 2
    assert "long.json is in use by another process" in again.stderr
    playing.kill()
    playing.communicate()
    session = read_session(film.with_suffix(".json"))
    assert 1 < len(film_frames(film)) <= session.num_frames
    assert session.num_frames - len(film_frames(film)) < 100
    replayed = play("--replay", film.with_suffix(".json"), "--headless")
    assert replayed.returncode == 0, replayed.stderr
    assert "frames are as recorded" in replayed.stdout


def test_a_recording_replaces_nothing(recorded: tuple[Path, str], tmp_path: Path) -> None:
    source, _ = recorded
    film, session = (tmp_path / f"walk.{ending}" for ending in ("mp4", "json"))
    shutil.copy(source, film)
    shutil.copy(source.with_suffix(".json"), session)
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"idle": 0, "keys": []}))
    files = (film, session, keys)
    before = [path.read_bytes() for path in files]
    walk = ("--env", "doom-hgs", "--headless", "--steps", 3, "--size", 64)
    for arguments, message in (
        ((*walk, "--record", film), "walk.mp4 exists already"),
        ((*walk, "--record", tmp_path / "keys.mp4"), "keys.json exists already"),
        ((*walk, "--record", tmp_path / "keys.mp4", "--keys", keys), "would overwrite --keys"),
        (
            (*walk, "--record", tmp_path / "keys.mp4", "--keys", keys, "--overwrite"),
            "would overwrite --keys",
        ),
        (("--replay", session, "--headless", "--record", film), "walk.mp4 exists already"),
        # Where nothing comes to be seen, nothing is replaced.
        ((*walk, "--record", film, "--overwrite", "--policy", tmp_path / "no.zip"), "no policy"),
    ):
        done = play(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert [path.read_bytes() for path in files] == before
        assert sorted(tmp_path.iterdir()) == sorted(files)
    done = play(*walk, "--record", film, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert read_session(session).num_frames == len(film_frames(film)) == 4


def test_a_stopped_replay_leaves_its_session_whole(
    recorded: tuple[Path, str], tmp_path: Path
) -> None:
    """Though it is filmed again under the session's own name."""
    source, _ = recorded
    film, session = tmp_path / "walk.mp4", tmp_path / "walk.json"
    whole = read_session(source.with_suffix(".json"))
    long = replace(whole, episodes=whole.episodes * 40)
    write_session(session, long)
    before = session.read_bytes()
    playing = subprocess.Popen(
        [
            *(sys.executable, "-m", "play", "--replay", str(session), "--headless"),
            *("--size", "64", "--record", str(film)),
        ],
        env=_without_display(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while playing.poll() is None and not film.exists():
        time.sleep(0.02)
    playing.send_signal(signal.SIGINT)
    printed, errors = playing.communicate(timeout=60)
    assert playing.returncode == 1, errors
    assert "the replay stopped after" in printed
    assert session.read_bytes() == before
    assert 0 < len(film_frames(film)) < long.num_frames


def test_a_dream_is_the_same_with_any_number_of_threads(tmp_path: Path) -> None:
    walk = ("--env", "dream-doom", "--headless", "--steps", 12, "--seed", 5, "--size", 64)
    sessions = []
    for number in ("1", "2", "4"):
        film = tmp_path / f"{number}.mp4"
        done = play(*walk, "--record", film, OMP_NUM_THREADS=number)
        assert done.returncode == 0, done.stderr
        sessions.append(film.with_suffix(".json"))
    assert sessions[1].read_bytes() == sessions[0].read_bytes() == sessions[2].read_bytes()
    done = play("--replay", sessions[1], "--headless", OMP_NUM_THREADS="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "frames are as recorded" in done.stdout
    entries = json.loads(sessions[0].read_text())
    entries[7][1] = "0" * 8
    sessions[0].write_text(json.dumps(entries))
    done = play("--replay", sessions[0], "--headless")
    assert done.returncode == 1
    assert "the codes at step 6 of episode 1 of 1" in done.stdout


def test_a_training_that_is_not_finished_is_no_dream_yet(tmp_path: Path) -> None:
    (tmp_path / "run" / "training").mkdir(parents=True)
    done = play("--env", tmp_path / "run", "--headless")
    assert done.returncode == 2
    assert "run is not finished: resume it" in done.stderr
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoint" in play("--env", tmp_path / "empty", "--headless").stderr


def test_a_policy_is_loaded_once_it_is_trusted(tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    env = made("DoomHealthGatheringSupreme-v0")
    small = {"features_extractor_kwargs": {"features_dim": 8}}
    PPO("CnnPolicy", env, n_steps=2, batch_size=2, policy_kwargs=small).save(tmp_path / "p.zip")
    env.close()
    walk = ("--env", "doom-hgs", "--headless", "--steps", 3, "--policy", tmp_path / "p.zip")
    done = play(*walk)
    assert done.returncode == 2
    assert "may contain code" in done.stderr
    assert "--trust" in done.stderr
    done = play(*walk, "--trust")
    assert done.returncode == 0, done.stderr


def test_a_strangers_session_fetches_nothing(tmp_path: Path) -> None:
    session = Session(
        env_id="VideoGPTDream-v0",
        checkpoint="stranger/dream",
        sampling=SamplingOptions(),
        frame_size=(64, 64),
        episodes=(played_episode(0, 0, 1),),
    )
    write_session(tmp_path / "walk.json", session)
    done = play("--replay", tmp_path / "walk.json", "--headless")
    assert done.returncode != 0
    assert "if you trust it, use --env stranger/dream" in done.stderr


def test_a_file_of_keys_is_checked_against_the_world(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    walk = ("--env", "doom-hgs", "--headless", "--steps", 2, "--keys", keys)
    keys.write_text(json.dumps({"idle": 0, "keys": [{"keys": ["w"], "sets": {"0": 3}}]}))
    assert play(*walk).returncode == 0
    keys.write_text(json.dumps({"idle": 0, "keys": [{"keys": ["w"], "sets": {"0": 4}}]}))
    done = play(*walk)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --keys: keys[0].sets[0] must be an integer from 0 to 3, not 4"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "quake"), "known are: doom-hgs"),
        (("--env", "doom-hgs"), "--headless --record out.mp4 --steps 200"),
        (("--env", "doom-hgs", "--start", 1, "--headless"), "is for dreams"),
        (("--env", "doom-hgs", "--top-k", 5), "is for dreams"),
        (("--env", "doom-hgs", "--guidance", 0), "is for dreams"),
        (("--env", "dream-doom", "--guidance", -1), "guidance must be from 0"),
        (("--env", "doom-hgs", "--size", 1), "--size must be"),
        (("--env", "doom-hgs", "--fps", 0), "--fps must be"),
        (("--env", "doom-hgs", "--seed", -1), "--seed must be"),
        (("--env", "doom-hgs", "--steps", 5), "needs --headless"),
        (("--env", "doom-hgs", "--headless", "--record", "walk.avi"), "must end in .mp4"),
        (("--env", "doom-hgs", "--headless", "--record", "/dev/null/walk.mp4"), "can't write"),
        (("--env", "doom-hgs", "--headless", "--policy", "none.zip"), "there is no policy file"),
        (("--env", "doom-hgs", "--keys", "none.json", "--headless"), "none.json does not exist"),
        (("--replay", "none.json"), "none.json does not exist"),
        (("--env", "x" * 300), "unknown --env 'xxx"),
        (("--env", "x" * 300 + "/y"), "unknown --env 'xxx"),
        (("--env", "dream-doom", "--top-k", 10**19), "top_k must be"),
        (("--env", "dream-doom", "--start", 10**19, "--headless"), "--start must be"),
        (("--env", "doom-hgs", "--seed", 10**19), "--seed must be"),
        (("--env", "doom-hgs", "--overwrite"), "needs --record"),
        (("--replay", "none.json", "--seed", 1), "the session determines"),
    ],
)
def test_a_mistake_gets_one_line(
    monkeypatch, capsys, arguments: tuple[object, ...], message: str
) -> None:
    for name in DISPLAYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["play", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    done = capsys.readouterr()
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not done.out or "first frame" in done.out


def test_what_is_proposed_without_a_display_works(tmp_path: Path) -> None:
    film = tmp_path / "a walk.mp4"
    done = play("--env", "doom-hgs", "--record", film)
    assert done.returncode == 2
    proposed = shlex.split(done.stderr.split("this works: ")[1])
    walked = subprocess.run(proposed, env=_without_display(), capture_output=True, text=True)
    assert walked.returncode == 0, walked.stderr
    assert "200 steps" in walked.stdout
    session = read_session(film.with_suffix(".json"))
    assert session.env_id == "DoomHealthGatheringSupreme-v0"
    again = shlex.split(walked.stdout.split("replay: ")[1].splitlines()[0])
    assert again[-1] == str(film.with_suffix(".json"))
    proposed = shlex.split(play(*again[3:]).stderr.split("this works: ")[1])
    replayed = subprocess.run(proposed, env=_without_display(), capture_output=True, text=True)
    assert replayed.returncode == 0, replayed.stderr
    assert "frames are as recorded" in replayed.stdout


def test_a_command_is_proposed_as_one_would_type_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.chdir(tmp_path)
    assert local_command("play", "--steps", "2") == ".venv/bin/python -m play --steps 2"
    monkeypatch.setenv("PATH", str(python.parent), prepend=os.pathsep)  # the venv is active
    assert local_command("play", "--steps", "2") == "python -m play --steps 2"
    monkeypatch.setattr(sys, "executable", "/somewhere/else/python")
    assert local_command("play") == "/somewhere/else/python -m play"


def test_a_dream_starts_without_torchs_compiler() -> None:
    """Importing that takes longer than everything else."""
    code = (
        "import sys, gymnasium, envs; dream = gymnasium.make('VideoGPTDream-v0');"
        "dream.reset(seed=0); dream.step(3); print({'torch._dynamo', 'sympy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_nothing_heavy_is_loaded_before_the_window() -> None:
    """An unknown name is answered, and the window is there, before torch is."""
    code = (
        "import sys, play.command, play.window; play.worlds.choose_world('dream-doom');"
        "print({'torch', 'vizdoom', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_broken_display_gets_one_line() -> None:
    done = play("--env", "doom-hgs", DISPLAY=":4242")
    assert done.returncode == 2
    # The display's own library may have grumbled before.
    assert "--headless --record" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_help_names_every_option_and_key() -> None:
    done = play("--help", COLUMNS="100")
    assert done.returncode == 0
    for option in ("env", "fps", "size", "policy", "record", "replay", "headless", "steps", "seed"):
        assert f"--{option}" in done.stdout
    text = " ".join(done.stdout.split())
    for entry in COMMAND_KEYS:
        assert f"{entry.shown}: " in text
