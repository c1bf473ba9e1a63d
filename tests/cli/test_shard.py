"""`--shard`: the parts of a sweep in order are the whole, byte for byte; and lists of what-ifs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, assert_refused

SWEEP = [
    "sweep",
    "--model",
    "gpt2,gpt2-xl",
    "--gpu",
    "a100,t4",
    "--batch",
    "1-5",
    "--seq",
    "64,2000",
    "--phase",
    "both",
]


@pytest.mark.parametrize("format", ["csv", "jsonl", "markdown"])
@pytest.mark.parametrize("more", [[], ["--kernels"], ["--only-fitting", "--only-valid"]], ids=str)
def test_three_parts_concatenate_to_the_whole(gpt2cost: Any, tmp_path: Path, format: str, more: list[str]) -> None:
    flags = [*SWEEP, *more, "--format", format]
    parts = []
    for number in (1, 2, 3):
        path = tmp_path / f"{number}"
        assert gpt2cost(*flags, "--shard", f"{number}/3", "-o", str(path)).code == 0
        parts.append(path.read_bytes())
    whole = gpt2cost(*flags).out.encode()
    assert b"".join(parts) == whole
    assert all(parts)
    assert gpt2cost(*flags, "--shard", "1/1").out.encode() == whole


def test_more_parts_than_points(gpt2cost: Any) -> None:
    flags = ["sweep", "--model", "gpt2", "--gpu", "a100", "--batch", "1,2", "--format", "csv"]
    parts = [gpt2cost(*flags, "--shard", f"{number}/5") for number in range(1, 6)]
    assert "".join(part.out for part in parts) == gpt2cost(*flags).out
    assert all(part.code == 0 for part in parts)


def test_lists_of_what_ifs(gpt2cost: Any, tmp_path: Path) -> None:
    base = ["sweep", "--model", "gpt2", "--gpu", "a100", "--format", "csv"]
    lists = ["--set", "n_layer=6,12,n_embd=768", "--set", "n_head=12,16", "--hw-set", "memory.bandwidth=1 TB/s,2 TB/s"]
    rows = list(csv.DictReader(io.StringIO(gpt2cost(*base, *lists).out)))
    assert len(rows) == 8
    assert rows[1]["model"] == "gpt2[n_layer=6;n_embd=768;n_head=12]"
    assert [row["gpu"][-7:] for row in rows] == ["1 TB/s]", "2 TB/s]"] * 4
    study = tmp_path / "study.yaml"
    study.write_text("set: {n_layer: [6, 12]}\nhw_set: {memory.bandwidth: [1 TB/s, 2 TB/s]}", "utf-8")
    assert gpt2cost(*base, "--grid", str(study)).out.count("\n") == 5
    two = gpt2cost("compare", "--model", "gpt2", "--gpu", "a100", "--set", "n_layer=6,12", "--format", "jsonl")
    assert {json.loads(line)["model"] for line in two.out.splitlines()} == {"gpt2[n_layer=6]", "gpt2[n_layer=12]"}


def test_parts_of_what_was_measured(gpt2cost: Any) -> None:
    folder = ROOT / "benchmarks/measurements/cpu-epyc-7003-2c"
    flags = [
        "validate",
        "--gpu",
        folder / "epyc-7003-2c.yaml",
        "--from",
        folder / "passes.jsonl.gz",
        "--format",
        "jsonl",
    ]
    whole = gpt2cost(*flags).out
    parts = [gpt2cost(*flags, "--shard", f"{number}/3").out for number in (1, 2, 3)]
    assert "".join(parts) == whole
    assert all(parts)
    assert_refused(gpt2cost(*flags, "--shard", "1/5000"), "--shard: of ")


def test_parts_of_what_is_measured(gpt2cost: Any, tiny_config: str, few_samples: None) -> None:
    pytest.importorskip("torch")
    flags = ["measure", "--model", tiny_config, "--batch", "1-3", "--seq", "4", "--cache", "0", "--rounds", "1"]
    found = [
        [record["batch"] for line in gpt2cost(*flags, "--format", "jsonl", "--shard", f"{number}/2").out.splitlines()
         if (record := json.loads(line))["kind"] == "pass"]
        for number in (1, 2)
    ]  # fmt: skip
    assert found == [[1], [2, 3]]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--shard", "4/3"], "shard: expected a part such as 3/16"),
        (["--shard", "2/3", "--sort", "latency_s"], "--shard: a part in another order"),
        (["--shard", "2/3", "--top", "2"], "leave out --sort and --top"),
        (["--set", "n_layer=6,"], "key=value"),
        (["--set", "6,n_layer=6"], "key=value"),
        (["--set", "n_layer=1-9*2"], "n_layer"),
        (["--batch", "1-10000000", "--set", "n_layer=6,12"], "20,000,000 points"),
    ],
)
def test_refused(gpt2cost: Any, arguments: list[str], hint: str) -> None:
    assert_refused(gpt2cost("sweep", "--model", "gpt2", "--gpu", "a100", *arguments), hint)


def test_a_part_of_a_large_grid_needs_no_yes(gpt2cost: Any) -> None:
    flags = ["sweep", "--model", "gpt2", "--gpu", "a100", "--batch", "1-10000", "--seq", "1-1023", "--cache", "0,1"]
    assert_refused(gpt2cost(*flags), "20,460,000 points")
    done = gpt2cost(*flags, "--shard", "7/1000000", "--format", "jsonl")
    assert done.code == 0
    assert 20 <= len(done.out.splitlines()) <= 21
