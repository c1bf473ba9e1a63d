"""`fit`: what it says fits does, one more does not, and nothing in reach is faster."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from helpers import assert_refused

from gpt2cost.device.catalog import load_hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.capacity import capacities, fit
from gpt2cost.prediction.compare import Work
from gpt2cost.prediction.predict import Prediction, predict
from gpt2cost.prediction.sweep import Combination
from gpt2cost.table.config import load_model

XL = ["fit", "--model", "gpt2-xl", "--gpu", "a100"]


def one(work: Work, **sizes: Any) -> Prediction:
    size = {"batch": work.batch, "seq": work.seq, "cache": work.cache, **sizes}
    return predict("gpt2-xl", "l4", **size, phase=work.phase, logits=work.logits, use_cache=work.use_cache)


@pytest.mark.parametrize("limit_s", [None, 0.3, 0.02])
@pytest.mark.parametrize(
    "work",
    [
        Work(1, 512, 0, "prefill"),
        Work(16, 64, 300, "prefill"),
        Work(32, 512, 0, "decode"),
        Work(64, 1, 700, "decode"),
        Work(2, 400, 0, "decode", "last", False),
    ],
)
def test_the_next_size_does_not_do(work: Work, limit_s: float | None) -> None:
    choice = Combination(load_model("gpt2-xl"), load_hardware("l4"), "fp16", "sdpa", "eager")
    context = "cache" if work.seq == 1 else "seq"

    def will_do(**sizes: Any) -> bool:
        found = one(work, **sizes)
        return bool(found.memory.fits) and found.phases[0].totals.latency_s <= (limit_s or np.inf)

    largest, longest, best = capacities(choice, work, limit_s)
    assert [each.goal for each in (largest, longest, best)] == ["largest batch", "largest context", "best throughput"]
    if largest.batch_size:
        assert will_do(batch=largest.batch_size)
    assert not will_do(batch=largest.batch_size + 1)
    assert largest.limited_by == ("memory" if not one(work, batch=largest.batch_size + 1).memory.fits else "latency")

    phase = longest.prediction.phases[0] if longest.prediction else None
    if longest.limited_by == "positions":
        assert phase
        assert phase.kv_len == 1024
    elif phase:
        size = phase.cache_len if context == "cache" else phase.kv_len - work.cache - (work.phase == "decode")
        assert will_do(**{context: size})
        assert not will_do(**{context: size + 1})
    else:
        assert not will_do(**{context: 1})

    if best.prediction:
        every = np.arange(1, largest.batch_size + 1)
        rates = one(work, batch=every).phases[0].totals.tokens_per_s
        assert best.prediction.phases[0].totals.tokens_per_s == pytest.approx(rates.max(), rel=1e-12)
    else:
        assert largest.batch_size == 0


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
    assert "1024 learned" in gpt2cost(*XL).out
    assert gpt2cost(*XL, "--format", "markdown").out.count("\n") == 8
    assert len(gpt2cost(*XL, "--format", "jsonl").out.splitlines()) == 6


def test_from_python(gpt2cost: Any) -> None:
    answers = json.loads(gpt2cost(*XL, "--phase", "decode", "--max-latency", "20 ms", "--format", "json").out)[
        "answers"
    ]
    found = fit("gpt2-xl", "a100", max_latency_s=0.02)
    assert [each.batch_size for each in found] == [each["batch_size"] for each in answers]
    with pytest.raises(InputError, match="phase"):
        fit("gpt2-xl", "a100", phase="both")


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
