"""The memory of published training steps, as torch counted it, beside the prediction.

Rows of one code (llm.c-like, 124M, biases, dropout 0) on two GPUs, compiled at eight batches, and one eager row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import ROOT

import gpt2cost

MEASURED = ROOT.parent / "shared" / "measurements" / "training_published.csv"
MIB = 2**20

pytestmark = pytest.mark.skipif(not MEASURED.is_file(), reason="measured data are not part of the project")


def published() -> Iterator[tuple[dict[str, Any], float]]:
    """What was run, and the most bytes that were allocated."""
    with MEASURED.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            flash = "flash" in row["attn_impl"]
            if row["metric"] != "peak max_memory_allocated" or not flash or not row["model"].endswith("biases)"):
                continue
            found = re.search(r"B=(\d+)", row["batch"])
            assert found
            ran = {
                "gpu": "h100" if "H100" in row["hardware"] else "rtx3090",
                "micro_batch": int(found[1]),
                "seq": int(row["seq"]),
                "precision": "bf16-mixed" if "bf16" in row["dtype"] else "fp16-mixed",
                "runtime": "compile" if re.search("compile|same", row["software"]) else "eager",
                "optimizer": "adamw-fused" if re.search("fused|same", row["software"]) else "adamw",
            }
            yield ran, float(row["value"]) * MIB


def test_peaks_of_published_steps() -> None:
    errors = []
    for ran, measured in published():
        memory = gpt2cost.train("gpt2", impl="nanogpt", dropout=0.0, grad_accum=1, **ran).memory
        errors.append(memory.total_bytes / measured - 1)
    assert len(errors) == 18
    assert max(map(abs, errors)) <= 0.05
    assert sorted(map(abs, errors))[len(errors) // 2] <= 0.01


def test_the_slope_of_the_memory_in_the_batch() -> None:
    """524.4 MiB a sequence on the H100, from batch 2 to 64."""
    slope = [
        gpt2cost.train(
            "gpt2", "h100", micro_batch=batch, seq=1024, grad_accum=1, impl="nanogpt", dropout=0.0,
            precision="bf16-mixed", runtime="compile", optimizer="adamw-fused",
        ).memory.total_bytes / MIB
        for batch in (2, 64)
    ]  # fmt: skip
    assert (slope[1] - slope[0]) / 62 == pytest.approx(524.4, rel=0.02)


def test_two_gpus_hold_buckets_beside() -> None:
    """2x RTX 4090, B=32, 4 micro-steps: 18,885 MiB. (That model's norms have no weights.)"""
    memory = gpt2cost.train(
        "gpt2", "rtx4090", gpus=2, micro_batch=32, seq=1024, grad_accum=4, impl="nanogpt", dropout=0.0,
        precision="bf16-mixed", runtime="compile", optimizer="adamw-fused",
    ).memory  # fmt: skip
    assert memory.bucket_bytes == memory.parameters_bytes
    assert memory.total_bytes / MIB == pytest.approx(18885, rel=0.05)
