"""Progress: a log tells what a terminal draws."""

import pytest
from rich.console import Console

from worldmodel import command as progress


@pytest.fixture
def told_always(monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)


def test_a_log_gets_lines(told_always, capsys):
    with progress.progress_bar() as bar:
        what = "recording " + "a set with a long name " * 5
        task = bar.add_task(what, total=4)
        bar.advance(task)
        bar.update(task, completed=2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{what}: 25 %, ")
    assert lines[1].startswith(f"{what}: 50 %, ")
    assert lines[0].endswith(" left")


def test_it_does_so_once_a_minute(monkeypatch, capsys):
    with progress.progress_bar() as bar:
        task = bar.add_task("recording", total=1000)
        now = progress.time.monotonic()
        for i in range(1000):
            later = now + i * 0.13  # 130 seconds in all
            monkeypatch.setattr(progress.time, "monotonic", lambda later=later: later)
            bar.advance(task)
        monkeypatch.undo()
    assert capsys.readouterr().err.count("recording: ") == 2


def test_a_terminal_gets_the_bar_alone(told_always, monkeypatch, capsys):
    console = Console(stderr=True, force_terminal=True, highlight=False)
    monkeypatch.setattr(progress, "console", console)
    with progress.progress_bar() as bar:
        bar.advance(bar.add_task("recording", total=4))
    told = capsys.readouterr().err
    assert "recording" in told
    assert "25 %" not in told


def test_what_is_tracked_tells_a_log_too(told_always, capsys):
    assert list(progress.track(range(3), "counting")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("counting: 100 %, ") for line in lines)
