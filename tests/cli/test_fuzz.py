"""Five hundred hostile inputs over all commands and kinds of files: fine, or refused in one line; see `fuzz.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fuzz
import pytest
from helpers import ROOT, process

EACH = 72
FEWER = {"pictures": 24, "measuring": 36}
"""Of a kind that takes longer."""
NEEDS = {"records": ("scipy",), "pictures": ("matplotlib", "jinja2"), "measuring": ("torch",)}
MOST_BYTES = 1 << 30


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_hostile_inputs_are_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    for library in NEEDS.get(kind, ()):
        pytest.importorskip(library)
    tests = ROOT / "tests"
    paths = os.pathsep.join(map(str, (ROOT, tests)))
    done = process(
        [str(tests / "fuzz.py"), kind, str(FEWER.get(kind, EACH)), str(tmp_path)], {"PYTHONPATH": paths}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["most_bytes"] < MOST_BYTES


def test_there_are_five_hundred() -> None:
    assert sum(FEWER.get(kind, EACH) for kind in fuzz.KINDS) >= 500
