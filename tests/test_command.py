"""How commands end: one line for an error, one exit status each, and text that stays text."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.command import run_command, say
from worldmodel.errors import MOST_CHARACTERS, UserError, one_line, os_error
from worldmodel.storage.files import (
    locked,
    parse_json,
    read_bytes,
    read_json,
    refuse_existing,
    write_json,
)

ROOT = Path(__file__).parents[1]
COMMANDS = ("worldmodel.train", "worldmodel.data", "collect.gym", "play")


def _raising(error: BaseException):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            UserError("no\nsuch [bold]file[/bold] \x1b[31m"),
            2,
            "error: no such [bold]file[/bold] ?[31m",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "data/x"),
            2,
            "error: data/x: No space left",
        ),
        (OSError(errno.EMFILE, "Too many open files"), 2, "error: Too many open files"),
        (MemoryError("1 TiB"), 2, "error: not enough memory: 1 TiB"),
        (KeyboardInterrupt(), 130, "stopped; the same command resumes here"),
    ],
)
def test_an_error_is_one_line_and_one_status(capsys, error, status, said):
    with pytest.raises(SystemExit) as stopped:
        run_command(_raising(error))
    assert stopped.value.code == status
    captured = capsys.readouterr()
    assert captured.err.startswith(said)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_fault_of_the_program_is_no_user_s_error():
    with pytest.raises(ZeroDivisionError):
        run_command(_raising(ZeroDivisionError()))


@pytest.mark.parametrize("module", ["worldmodel.train", "worldmodel.data"])
def test_help_ends_quietly_with_its_reader(module):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", module, "--help"]
    try:
        done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (2, "")


def test_what_went_well_does_not_exit():
    run_command(lambda: None)
    run_command(lambda: 0)
    with pytest.raises(SystemExit, match="1"):
        run_command(lambda: 1)


@given(st.text(max_size=5000))
def test_any_text_becomes_one_bounded_printable_line(text):
    said = str(UserError(text))
    assert said.isprintable()
    assert 0 < len(said) <= MOST_CHARACTERS
    assert "\n" not in said


def test_a_long_text_keeps_its_ends():
    said = one_line("begin" + "x" * 10**7 + "end")
    assert said.startswith("begin")
    assert said.endswith("end")


def test_an_exception_without_words_is_named():
    assert one_line(KeyError()) == "KeyError"
    assert os_error(OSError()) == "OSError"


def test_notes_are_text(capsys):
    say("car [final] holds \x1b[31m10[/red] episodes")
    assert capsys.readouterr().err == "car [final] holds ?[31m10[/red] episodes\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_nonsense_with_the_same_status(command):
    done = subprocess.run(
        [sys.executable, "-m", command, "--no-such-option"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1,", "Expecting value"),
        ('{"a": NaN}', "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("1e999", "too large"),
        ("123456789012345678901", "a whole number of 21 digits"),
        ("[" * 70 + "]" * 70, "nested too deeply"),
        ("[" * 10**5, "nested too deeply"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        (b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_json_is_bounded(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_other_json_is_read_as_json_does(value):
    assert parse_json(json.dumps(value)) == value


def test_files_are_bounded_and_regular(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, [1.5, "x"])
    assert read_json(path, most_bytes=1000) == [1.5, "x"]
    with pytest.raises(UserError, match="is larger than 3 bytes"):
        read_bytes(path, most_bytes=3)
    with pytest.raises(UserError, match="does not exist"):
        read_bytes(tmp_path / "nothing", most_bytes=3)
    with pytest.raises(UserError, match=r"is a folder|is not a regular file"):
        read_bytes(tmp_path, most_bytes=3)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is not a regular file"):
        read_bytes(tmp_path / "pipe", most_bytes=3)
    with pytest.raises(UserError, match="can't be read: File name too long"):
        read_bytes(tmp_path / ("x" * 300), most_bytes=3)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, float("nan"))
    assert path.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_there_is_replaced_only_where_that_is_said(tmp_path):
    refuse_existing(tmp_path / "new", overwrite=False)
    (tmp_path / "old").touch()
    refuse_existing(tmp_path / "old", overwrite=True)
    with pytest.raises(UserError, match=r"old exists already.*--overwrite"):
        refuse_existing(tmp_path / "old", overwrite=False)
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(UserError, match="exists already"):
        refuse_existing(tmp_path / "dangling", overwrite=False)


def test_a_folder_is_locked_by_one_at_a_time(tmp_path):
    folder = tmp_path / "data" / "set"
    with (
        locked(folder),
        pytest.raises(UserError, match="is being written to by another process"),
        locked(folder),
    ):
        pass
    assert list(tmp_path.iterdir()) == []  # nothing was written to it
    with locked(folder):
        (folder / "x").touch()
    with locked(folder):
        pass
    assert (folder / "x").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch, code):
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path / "set"):
        (tmp_path / "set" / "x").touch()
    assert (tmp_path / "set" / "x").exists()
