"""What was left out of a data set is counted once, whatever is interrupted, and said as text."""

import json

import pytest

from worldmodel.data.left_out import (
    LEFT_OUT,
    MOST_REASONS,
    Tally,
    begin_left_out,
    note_left_out,
    read_left_out,
)
from worldmodel.errors import UserError


def test_counts_by_reason_with_the_first_name(tmp_path):
    assert read_left_out(tmp_path) == []
    for name in ("a", "b", "b", "c"):  # b again, after a kill
        note_left_out(tmp_path, "damaged", name)
    note_left_out(tmp_path, "not finite", "episode 7")
    assert read_left_out(tmp_path) == [
        "left out     damaged: 3, the first a",
        "left out     not finite: 1, episode 7",
    ]


def test_counting_begins_anew_but_for_some_reasons(tmp_path):
    for name in "abc":
        note_left_out(tmp_path, "damaged", name)
        note_left_out(tmp_path, "too long", name)
    tally = Tally()
    tally.add("unlisted", "x")
    tally.add("unlisted", "y", count=4)
    begin_left_out(tmp_path, tally, but=["too long"])
    assert read_left_out(tmp_path) == [
        "left out     too long: 3, the first a",
        "left out     unlisted: 5, the first x",
    ]
    begin_left_out(tmp_path)
    assert not (tmp_path / LEFT_OUT).exists()


def test_text_is_bounded_and_shows_as_text(tmp_path):
    for i in range(MOST_REASONS + 50):
        note_left_out(tmp_path, f"\x1b[31m reason {i:04} " + "x" * 500, f"{i}" + "\n\udcff" * 500)
    lines = read_left_out(tmp_path)
    assert len(lines) == MOST_REASONS + 1
    assert lines[-1].startswith("left out     other reasons: 50, the first 100 ? ? ")
    assert all(line.isprintable() and len(line) < 700 for line in lines)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"a": 1}',
        '{"a": {"count": "1", "first": "x", "last": "x"}}',
        '{"a": {"count": 1, "first": 2, "last": "x"}}',
        json.dumps({"a": {"count": 1, "first": "x" * 2**20, "last": "x"}}),
    ],
)
def test_what_is_no_count_is_refused(tmp_path, content):
    (tmp_path / LEFT_OUT).write_text(content)
    with pytest.raises(UserError, match=LEFT_OUT):
        read_left_out(tmp_path)
