"""`gpt2cost fit`: formats, limits, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from helpers import assert_refused

XL = ["fit", "--model", "gpt2-xl", "--gpu", "a100"]


def test_formats(gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*XL, "--format", "json").out)
    rows = list(csv.DictReader(io.StringIO(gpt2cost(*XL, "--format", "csv").out)))
    assert [(row["phase"], row["goal"]) for row in rows] == [
        (phase, goal)
        for phase in ("prefill", "decode")
        for goal in ("largest batch", "largest context", "best throughput")
    ]
    assert [each["batch_size"] for each in document["answers"]] == [int(row["batch_size"]) for row in rows]
    assert document["positions"] == 1024
    assert "learned 1024" in gpt2cost(*XL).out
    assert gpt2cost(*XL, "--format", "markdown").out.count("\n") == 8
    assert len(gpt2cost(*XL, "--format", "jsonl").out.splitlines()) == 6


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_page(gpt2cost: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Each answer keeps its range."""
    monkeypatch.setenv("COLUMNS", str(width))
    table = [line for line in gpt2cost(*XL).out.splitlines() if line.startswith(("phase", "prefill", "decode"))]
    assert max(map(len, table)) <= width
    assert all(" to " in line for line in table[1:])


def test_a_latency_limit(gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*XL, "--max-latency", "50ms", "--format", "json").out)
    assert document["settings"]["max_latency_s"] == 0.05
    assert all(each["latency_s"] <= 0.05 for each in document["answers"])
    assert document["answers"][0]["limited_by"] == "latency"


def test_where_nothing_fits(gpt2cost: Any) -> None:
    done = gpt2cost(*XL, "--hw-set", "memory.capacity=1 GB", "--format", "json")
    answers = json.loads(done.out)["answers"]
    assert done.code == 0
    assert {(each["limited_by"], each["latency_s"]) for each in answers} == {("memory", None)}
    assert gpt2cost(*XL, "--hw-set", "memory.capacity=1 GB").code == 0
    assert json.loads(done.out)["what_if"]["hardware"] == {"memory.capacity": "1 GB"}


def test_a_single_token_is_a_decode_step(gpt2cost: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(gpt2cost(*XL, "--seq", "1", "--cache", "500", "--format", "csv").out)))
    assert [row["phase"] for row in rows] == ["decode"] * 3
    assert (rows[1]["seq_len"], rows[1]["cache_len"], rows[1]["limited_by"]) == ("1", "1023", "positions")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--max-latency", "50"], "--max-latency: expected a time"),
        (["--max-latency", "-5ms"], "--max-latency"),
        (["--phase", "x"], "phase"),
        (["--batch", "0"], "batch"),
        (["--gpu", "x100"], "unknown hardware"),
        (["--gpu", "t4", "--dtype", "bf16"], "bf16"),
        (["--set", "n_embd=3"], "n_head"),
        (["--no-use-cache", "--cache", "5"], "cache"),
    ],
)
def test_refused(gpt2cost: Any, arguments: list[str], hint: str) -> None:
    assert_refused(gpt2cost(*XL, *arguments), hint)


def test_model_and_gpu_are_required(gpt2cost: Any) -> None:
    assert_refused(gpt2cost("fit", "--gpu", "a100"), "--model is required")
    assert_refused(gpt2cost("fit", "--model", "gpt2"), "--gpu is required")
