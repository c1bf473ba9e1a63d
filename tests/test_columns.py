"""docs/columns.md is what the rows and the lists of fields say, and every column has its meaning."""

from __future__ import annotations

import json
from pathlib import Path

import columns
from helpers import Call

from gpt2cost.output.columns import MEANINGS, TEXT, TRUTH, WHOLE
from gpt2cost.units import unit_of


def test_every_column_has_a_meaning() -> None:
    assert sorted(MEANINGS) == columns.every(columns.columns().values())
    assert all(text and text.isprintable() and "|" not in text for text in MEANINGS.values())


def test_a_column_has_one_type() -> None:
    """Those of all rows are looked at in `output/test_arrow.py`."""
    assert len(TEXT | TRUTH | WHOLE) == len(TEXT) + len(TRUTH) + len(WHOLE)
    assert set(MEANINGS) >= TEXT | TRUTH | WHOLE


def test_the_page_is_the_lists_of_fields() -> None:
    """`python tests/regenerate.py` writes it."""
    assert columns.PAGE.read_text("utf-8") == columns.page()


def test_a_column_is_found_once() -> None:
    for command, names in columns.columns().items():
        assert len(names) == len(set(names)), command
        assert not {"hardware", "low_s", "high_s", "moved_bytes"} & set(names), command


def test_units_are_in_the_names() -> None:
    """A quantity of bytes or seconds says so at its end, in every command alike."""
    for name in MEANINGS:
        if name.endswith(("_us", "_ms", "_mb", "_gb", "_GB")):
            raise AssertionError(f"{name}: not SI")
        unit_of(name)


def test_nothing_has_its_header(tmp_path: Path, gpt2cost: Call) -> None:
    """A spreadsheet reads an empty result as it reads any other."""
    path = tmp_path / "passes.jsonl"
    record = {"kind": "pass", "model": "gpt2", "dtype": "fp32", "attn": "sdpa", "batch": 1, "seq": 16, "cache": 0,
              "wall_us": 9000.0, "wall_min_us": 8000.0, "runs": 9}  # fmt: skip
    path.write_text(json.dumps(record))
    known = columns.columns()
    for arguments, name in (
        (["validate", "--gpu", "a100", "--from", path, "--kernels"], "validate --kernels"),
        (["accuracy", "--gpu", "m4"], "accuracy --gpu a100"),
        (["accuracy", "--gpu", "m4", "--leave-one-out"], "accuracy --gpu a100 --leave-one-out"),
    ):
        assert gpt2cost(*arguments, "--format", "csv").out == ",".join(known[name]) + "\n"
        header = gpt2cost(*arguments, "--format", "markdown").out.splitlines()
        assert header[0] == f"| {' | '.join(known[name])} |"
        assert len(header) == 2
        assert gpt2cost(*arguments, "--format", "jsonl").out == ""
