"""Several devices and their prices in `predict`, `generate` and `fit`, and the service level of `fit`."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from helpers import assert_refused

import gpt2cost as package

TWO = ["--model", "gpt2-large", "--gpu", "a100,l4"]
PRICES = ["--price-per-hour", "a100=1.3,l4=0.7"]
LEVEL = ["fit", *TWO, "--prompt", "64", "--new-tokens", "20", "--max-tpot", "60ms", *PRICES]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("command", ["predict", "generate", "fit"])
def test_each_device_answers_as_if_it_were_alone(gpt2cost: Any, command: str) -> None:
    alone = [rows_of(gpt2cost(command, "--model", "gpt2-large", "--gpu", gpu, "--format", "csv").out)
             for gpu in ("a100", "l4")]  # fmt: skip
    assert rows_of(gpt2cost(command, *TWO, "--format", "csv").out) == [row for rows in alone for row in rows]
    document = json.loads(gpt2cost(command, *TWO, "--format", "json").out)
    own = [json.loads(gpt2cost(command, "--model", "gpt2-large", "--gpu", gpu, "--format", "json").out)
           for gpu in ("a100", "l4")]  # fmt: skip
    assert document["schema_version"] == own[0]["schema_version"]
    assert [{key: run[key] for key in one} for run, one in zip(document["runs"], own, strict=True)] == own


@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize("command", ["predict", "generate", "fit"])
def test_side_by_side(gpt2cost: Any, monkeypatch: pytest.MonkeyPatch, command: str, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    text = gpt2cost(command, *TWO, *PRICES).out
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("a100-sxm-80gb ")]
    assert [line for line in lines if line.startswith("l4 ")]
    assert "cheapest" in text
    assert "per million tokens" in text
    assert command == "fit" or "fastest: " in text
    table = [line for line in lines if line.startswith(("device", "a100", "l4"))]
    assert max(map(len, table)) <= int(width)


def test_what_passes_cost(gpt2cost: Any) -> None:
    """Of a prefill a token of the prompt, of decode a new one."""
    rows = rows_of(gpt2cost("predict", *TWO, *PRICES, "--batch", "4", "--seq", "32", "--format", "csv").out)
    assert {(row["gpu"], row["price_per_hour"]) for row in rows} == {("a100-sxm-80gb", "1.3"), ("l4", "0.7")}
    for row in rows:
        tokens = 4 * (32 if row["phase"] == "prefill" else 1)
        for cost, latency in (("cost", "latency"), ("cost_low", "latency_low"), ("cost_high", "latency_high")):
            expected = float(row["price_per_hour"]) / 3600 * float(row[f"pass_{latency}_s"]) / tokens * 1e6
            assert float(row[f"{cost}_per_million_tokens"]) == pytest.approx(expected, rel=1e-12)
    alone = gpt2cost("predict", "--model", "gpt2-large", "--gpu", "a100", "--price-per-hour", "1.3")
    assert "prefill: 0" in alone.out.splitlines()[-2]
    assert "tokens per dollar, at 1.3 per hour" in alone.out.splitlines()[-1]


def test_a_price_is_in_every_row_of_generate(gpt2cost: Any) -> None:
    flags = ["generate", "--model", "gpt2", "--gpu", "l4", "--new-tokens", "3", "--format"]
    rows = rows_of(gpt2cost(*flags, "csv", "--price-per-hour", "2").out)
    document = json.loads(gpt2cost(*flags, "json", "--price-per-hour", "l4=2").out)
    assert {float(row["cost_per_million_tokens"]) for row in rows} == {document["cost_per_million_tokens"]}
    assert {row["price_per_hour"] for row in rows} == {"2.0"}
    assert {row["price_per_hour"] for row in rows_of(gpt2cost(*flags, "csv").out)} == {""}


def test_a_device_without_a_price_is_named(gpt2cost: Any) -> None:
    done = gpt2cost("generate", *TWO, "--price-per-hour", "l4=1")
    assert "none of a100-sxm-80gb" in done.err
    assert "cheapest: l4" in done.out
    changed = gpt2cost("generate", *TWO, *PRICES, "--host-factor", "2")
    assert changed.code == 0


def test_a_service_level(gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*LEVEL, "--format", "json").out)
    rows = rows_of(gpt2cost(*LEVEL, "--format", "csv").out)
    assert document["level"] == {"max_ttft_s": None, "max_tpot_s": 0.06, "at": "high"}
    assert [row["gpu"] for row in rows] == ["a100-sxm-80gb", "l4"]
    for row, offer, gpu in zip(rows, document["offers"], ("a100", "l4"), strict=True):
        assert {name: "" if value is None else value if isinstance(value, str) else json.dumps(value)
                for name, value in offer.items()} == row  # fmt: skip
        run = package.generate(
            "gpt2-large", gpu, prompt_tokens=64, new_tokens=20, batch=offer["batch_size"],
            price_per_hour=offer["price_per_hour"],
        ).to_dict()  # fmt: skip
        for name in ("tpot_mean_s", "tpot_low_s", "tpot_high_s", "ttft_high_s", "peak_bytes", "fits",
                     "cost_per_million_tokens", "cost_high_per_million_tokens", "tokens_per_dollar"):  # fmt: skip
            assert offer[name] == run[name]
        assert offer["tpot_low_s"] < offer["tpot_mean_s"] < offer["tpot_high_s"] <= 0.06
    costs = {offer["gpu"]: offer["cost_high_per_million_tokens"] for offer in document["offers"]}
    assert document["cheapest"] == min(costs, key=lambda gpu: costs[gpu])
    text = gpt2cost(*LEVEL).out
    assert f"cheapest: {document['cheapest']} with batch " in text
    assert "each later token within 60.0 ms, at the upper end of the range" in text
    assert "in the middle of the range" in gpt2cost(*LEVEL, "--at", "middle").out


def test_a_service_level_on_a_narrow_page(gpt2cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = gpt2cost(*LEVEL).out.splitlines()
    table = [line for line in lines if line.startswith(("device", "a100", "l4"))]
    assert max(map(len, table)) <= 80
    assert all("(" in line for line in table[1:])


def test_where_no_batch_holds_the_level(gpt2cost: Any) -> None:
    done = gpt2cost(*LEVEL[:-4], "--max-tpot", "1us", "--fail-on", "oom")
    assert done.code == 0
    assert "l4: not even a batch of 1 will do (tpot)" in done.out
    full = gpt2cost("fit", *TWO, "--prompt", "9", "--hw-set", "memory.capacity=1 GB", "--fail-on", "oom")
    assert full.code == 3
    assert "(memory)" in full.out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--seq", "5"], "--seq: of single passes; --max-tpot asks for a service level"),
        (["--max-latency", "5ms", "--phase", "decode"], "--phase, --max-latency: of single passes"),
        (["--logits", "last"], "--logits: generate computes"),
        (["--max-ttft", "5"], "--max-ttft: expected a time"),
        (["--at", "low"], "at: expected one of middle, high"),
        (["--price-per-hour", "a100"], "--price-per-hour: expected 2.5 or a100=1.3,h100=2.5, got 'a100'"),
        (["--price-per-hour", "a100=x"], "--price-per-hour: expected 2.5 or"),
        (["--price-per-hour", "a100=1,a100=2"], "a100 is set twice"),
        (["--price-per-hour", "a100=1,a1000=2"], "did you mean"),
        (["--price-per-hour", "2"], "expected a price of each device"),
        (["--price-per-hour", "a100=-1"], "above 0"),
        (["--gpu", "a100,"], "commas"),
        (["--gpu", "a100,b100x"], "unknown hardware"),
    ],
)
def test_refused(gpt2cost: Any, arguments: list[str], hint: str) -> None:
    assert_refused(gpt2cost(*LEVEL, *arguments), hint)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--explain"], "--explain of several devices: goes with --format json"),
        (["--explain", "--format", "markdown"], "--explain of several devices: goes with --format json"),
        (["--group", "layer"], "--group of several devices: goes with --format json or jsonl"),
        (["--all"], "--all: names kernels, which the table of several devices has not"),
    ],
)
def test_flags_of_one_device_are_not_ignored_beside_several(gpt2cost: Any, arguments: list[str], hint: str) -> None:
    assert_refused(gpt2cost("predict", *TWO, *arguments), hint)


def test_markdown_of_a_device_with_a_price(gpt2cost: Any) -> None:
    """It is that without one, with all that was asked for, and the cost after it."""
    one = ("predict", "--model", "gpt2", "--gpu", "a100", "--explain", "--format", "markdown")
    free, priced = gpt2cost(*one).out, gpt2cost(*one, "--price-per-hour", "2").out
    assert priced.startswith(free)
    assert "## cost" in priced[len(free) :]
