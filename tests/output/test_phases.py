"""Prefill beside decode: modules whose figures are those of a trace, which sum to the passes, in every form."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from helpers import assert_refused

from gpt2cost import predict

T4 = ["compare", "--phases", "--model", "distilgpt2", "--gpu", "t4", "--batch", "8", "--seq", "512"]
BY_HAND = {
    "transformer.h.attn": ((155e9, 278), (0.302e9, 1.18)),
    "transformer.h.mlp": ((233e9, 73.8), (0.454e9, 7.24)),
    "lm_head": ((316e9, 639), (0.618e9, 7.92)),
}
"""Module -> FLOPs and FLOP/B in each phase, summed by hand over an eager dispatch trace."""


def test_modules_by_hand(gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*T4, "--format", "json").out)
    modules = {module["module"]: module for module in document["modules"]}
    for name, figures in BY_HAND.items():
        for phase, (flops, intensity) in zip(("prefill", "decode"), figures, strict=True):
            assert modules[name][phase]["flops"] == pytest.approx(flops, rel=0.005)
            assert modules[name][phase]["arithmetic_intensity"] == pytest.approx(intensity, rel=0.005)
    assert document["hardware"]["ridge_flop_per_byte"] == pytest.approx(65e12 / 320e9)


@pytest.mark.parametrize("more", [[], ["--attn", "eager", "--cache", "9"], ["--runtime", "compile"]])
def test_modules_sum_to_the_passes(more: list[str], gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*T4, *more, "--format", "json").out)
    rows = [json.loads(line) for line in gpt2cost(*T4, *more, "--format", "jsonl").out.splitlines()]
    cells = list(csv.DictReader(io.StringIO(gpt2cost(*T4, *more, "--format", "csv").out)))
    assert [(row["phase"], row["module"]) for row in rows] == [(cell["phase"], cell["module"]) for cell in cells]
    assert [phase["phase"] for phase in document["phases"]] == ["prefill", "decode"]
    for phase in document["phases"]:
        own = [module[phase["phase"]] for module in document["modules"] if module[phase["phase"]]]
        flat = [row for row in rows if row["phase"] == phase["phase"]]
        for name in ("flops", "read_bytes", "write_bytes", "device_s"):
            assert sum(row[name] for row in flat) == pytest.approx(phase["totals"][name])
            assert [row[name] for row in flat] == [row[name] for row in own]
        assert sum(row["count"] for row in own) == phase["totals"]["launches"]
        assert sum(row["share"] for row in own) == pytest.approx(1)


@pytest.mark.parametrize("width", ["80", "120"])
def test_the_text_shows_both(width: str, gpt2cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    done = gpt2cost(*T4)
    above, header, _, *lines = done.out.split("\n\n")[1].splitlines()
    assert all(len(line) <= int(width) for line in (above, header, *lines))
    assert above.index("decode 8x1+512") > above.index("prefill 8x512") > 20
    assert header.count("FLOP/B") == header.count("of pass") == 2
    assert [line.split()[0] for line in lines][-4:] == ["ln_f", "lm_head", "waiting", "the"]
    prediction = predict("distilgpt2", "t4", batch=8, seq=512)
    for phase in prediction.phases:
        assert f"{phase.phase}: " in done.out
        assert f"{phase.totals.arithmetic_intensity:.3g} FLOP/B, below the ridge of 203" in done.out
    assert gpt2cost(*T4, "--format", "markdown").out.startswith("## prefill\n\n| module |")


def test_wide_figures_fit_a_narrow_page(gpt2cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = gpt2cost("compare", "--model", "gpt2", "--gpu", "a100", "--phases").out.split("\n\n")[1]
    assert max(map(len, table.splitlines())) <= 80
    assert table.count("FLOP/B") == 2


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--gpu", "t4,a100"], "got 2 candidates"),
        (["--phase", "decode"], "--phases: shows prefill and decode"),
        (["--seq", "1", "--cache", "9"], "is a decode step"),
    ],
)
def test_refused(flags: list[str], named: str, gpt2cost: Any) -> None:
    assert_refused(gpt2cost(*T4, *flags), named)
