"""What was left out of a data set is counted once, whatever is interrupted, and said as text."""

import json

import pytest

from worldmodel.data.left_out import LEFT_OUT, MOST_REASONS, LeftOut, read_left_out
from worldmodel.errors import UserError


def test_counts_by_reason_with_the_first_name(tmp_path):
    assert read_left_out(tmp_path).lines() == []
    for name in ("a", "b", "b", "c"):  # b again, after a kill
        left_out = read_left_out(tmp_path)
        left_out.add("damaged", name)
        left_out.write(tmp_path)
    left_out.add("not finite", "episode 7", count=5)
    left_out.write(tmp_path)
    assert read_left_out(tmp_path).lines() == [
        "left out     damaged: 3, the first a",
        "left out     not finite: 5, the first episode 7",
    ]
    LeftOut().write(tmp_path)
    assert not (tmp_path / LEFT_OUT).exists()


def test_text_is_bounded_and_shows_as_text(tmp_path):
    left_out = LeftOut()
    for i in range(MOST_REASONS + 50):
        left_out.add(f"\x1b[31m reason {i:04} " + "x" * 500, f"{i}" + "\n\udcff" * 500)
    left_out.write(tmp_path)
    lines = read_left_out(tmp_path).lines()
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
