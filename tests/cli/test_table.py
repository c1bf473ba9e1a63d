"""The cost table as text: every equation that is printed holds."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest


@pytest.mark.parametrize("arguments", [("--seq", "1"), ("--seq", "5", "--cache", "3"), ("--attn", "eager")])
def test_printed_equations_hold(arguments: tuple[str, ...], gpt2cost: Any) -> None:
    command = ("table", "--model", "gpt2", *arguments)
    document = json.loads(gpt2cost(*command, "--format", "json").out)
    text = gpt2cost(*command).out
    equations = re.findall(r"^    (?:FLOPs|reads|writes) +(.+) = (\d+)$", text, re.M)
    assert len(equations) > 50
    for formula, value in equations:
        assert eval(formula, {}, dict(document["symbols"])) == int(value)
    skipped = [kernel for kernel in document["kernels"] if not kernel["count"]]
    assert skipped
    blocks = dict(re.findall(r"^(\S+): .*\n((?:    .*\n?)*)", text, re.M))
    for kernel in skipped:
        lines = blocks[kernel["name"]].splitlines()
        assert lines
        assert all(line.endswith(" (not launched)") for line in lines)
        assert kernel["flops"] == kernel["read_bytes"] == kernel["write_bytes"] == 0


def test_the_table_command_has_numbers_with_a_model(gpt2cost: Any) -> None:
    symbolic = json.loads(gpt2cost("table", "--format", "json").out)
    assert symbolic["symbols"] is None
    assert "flops" not in symbolic["kernels"][0]
    numbers = json.loads(gpt2cost("table", "--model", "gpt2", "--seq", "7", "--format", "json").out)
    for kernel in numbers["kernels"]:
        for figure, formula in (("flops", "flops"), ("read_bytes", "read"), ("write_bytes", "write")):
            value = eval(kernel[f"{formula}_formula"], {"__builtins__": {}}, dict(numbers["symbols"]))
            assert kernel[figure] == (value if kernel["count"] else 0)
        assert bool(kernel["count"]) == eval(kernel["when"] or "True", {"__builtins__": {}}, dict(numbers["symbols"]))
