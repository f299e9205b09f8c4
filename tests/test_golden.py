"""What no rearrangement of the code may change."""

import json
import math
from typing import Any

import golden
import pytest


@pytest.mark.slow
def test_numbers_are_those_of_the_golden_file():
    """To rounding: processors differ in the last bit, and a draw that this tips changes what
    follows it. On one machine `python tests/golden.py` compares to the bit."""
    wanted = dict(golden.leaves(json.loads(golden.FILE.read_text())))
    found = dict(golden.leaves(json.loads(json.dumps(golden.measure()))))
    assert found.keys() == wanted.keys()
    differing = [key for key in wanted if not same(found[key], wanted[key])]
    assert len(differing) <= 0.02 * len(wanted), differing
    assert not [key for key in differing if key.startswith(("/trained", "/recorded"))]


def same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-3))
