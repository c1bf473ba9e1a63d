"""The cost table of single launches and of phases: sums are predict's totals and the tree's, and equations hold."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from helpers import assert_refused

from gpt2cost.prediction.one_pass import symbol_values, table_options, table_rows
from gpt2cost.prediction.predict import passes_of
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.prediction.tree import Node, tree_of
from gpt2cost.table.config import load_model
from gpt2cost.table.kernel import Kernel
from gpt2cost.table.module_sums import module_sums
from gpt2cost.table.narrowed import of_phase

HOWS = [
    How(), How(attn="eager"), How(attn="eager", use_cache=False), How(cache_type="static"), How(runtime="compile"),
    How(attn="flash_attention_2", logits="last"), How(impl="nanogpt", use_cache=False),
    How(impl="nanogpt", attn="eager", use_cache=False),
]  # fmt: skip
TOTALS = {"flops": "flops", "reads": "read_bytes", "writes": "write_bytes"}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("how", HOWS, ids=str)
def test_sums_are_those_of_the_tree(how: How, phase: str) -> None:
    """With numbers, and where all else has been decided by the phase."""
    model = load_model("gpt2")
    for batch in (1, 3):
        ((_, sizes),) = passes_of(Sizes(batch, 40, 0), phase, how.use_cache)
        options = table_options(model, how)
        values = symbol_values(model, how.dtype, sizes)
        rows = of_phase(table_rows(options, how.runtime), phase, options)
        nodes: dict[str, Node] = {}
        for node in tree_of(model, how, sizes).walk():  # the list of blocks comes before its first
            nodes.setdefault(re.sub(r"\.\d+(?=\.|$)", "", node.path), node)
        sums = module_sums(rows, values)
        assert [own.module for own in sums][-1] == ""
        for own in sums:
            calls = own.calls.evaluate(values)
            for name, figure in TOTALS.items():
                assert getattr(own, name).evaluate(values) * calls == getattr(nodes[own.module], figure)
            assert own.launches.evaluate(values) * calls == nodes[own.module].launches


def test_sums_without_numbers_leave_out_what_runs_at_some_sizes() -> None:
    model, how = load_model("gpt2"), How(attn="eager")
    options = table_options(model, how)
    rows = of_phase(table_rows(options, "eager"), "prefill", options)
    whole = module_sums(rows)[-1]
    assert {row.path.rpartition(".")[2] for row in whole.open} == {"clone_query", "clone_output"}
    values = symbol_values(model, "fp16", Sizes(3, 40, 0))
    (known,) = (own for own in module_sums(rows, values) if not own.module)
    left_out = sum(row.step.reads * row.count for row in whole.open if isinstance(row.step, Kernel))
    assert known.reads == whole.reads + left_out
    assert known.flops == whole.flops


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("more", [(), ("--attn", "eager"), ("--cache-type", "static")], ids=" ".join)
def test_the_whole_model_is_what_predict_counts(more: tuple[str, ...], phase: str, gpt2cost: Any) -> None:
    """Where kv_len is a multiple of 8: of another, the device would pad a mask."""
    flags = ("--model", "distilgpt2", "--batch", "2", "--seq", "39", "--phase", phase, *more, "--format", "json")
    totals = json.loads(gpt2cost("predict", *flags, "--gpu", "a100").out)["phases"][0]["totals"]
    document = json.loads(gpt2cost("table", *flags).out)
    whole = document["modules"][-1]
    assert whole["module"] == ""
    assert {name: whole[name] for name in TOTALS.values()} == {name: totals[name] for name in TOTALS.values()}
    alone = json.loads(gpt2cost("table", *flags, "--per-launch").out)
    assert alone["modules"][-1] == whole
    for kernel, all_launches in zip(alone["kernels"], document["kernels"], strict=True):
        for name in TOTALS.values():
            assert kernel[name] * kernel["count"] == all_launches[name]
    for module, all_calls in zip(alone["modules"], document["modules"], strict=True):
        calls = eval(module["count_formula"], {}, dict(document["symbols"]))
        assert module["flops"] * calls == all_calls["flops"]


def test_conditions_are_decided_and_the_cache_stays_a_symbol(gpt2cost: Any) -> None:
    kernels = json.loads(gpt2cost("table", "--phase", "decode", "--format", "json").out)["kernels"]
    assert not any("mask" in kernel["name"] for kernel in kernels)
    assert not any(
        "seq_len" in kernel[key] or "kv_len" in kernel[key] for kernel in kernels for key in ("when", "read_formula")
    )
    (key,) = (kernel for kernel in kernels if kernel["name"].endswith("cat_key"))
    assert "cache_len" in key["read_formula"]
    prefill = json.loads(gpt2cost("table", "--phase", "prefill", "--format", "json").out)["kernels"]
    assert not any("cache_len" in kernel["read_formula"] for kernel in prefill)


@pytest.mark.parametrize("more", [(), ("--attn", "eager"), ("--phase", "train"), ("--phase", "decode", "--free")])
def test_printed_equations_of_one_launch_hold(more: tuple[str, ...], gpt2cost: Any) -> None:
    command = ("table", "--per-launch", "--model", "gpt2", "--batch", "2", "--seq", "24", *more)
    symbols = json.loads(gpt2cost(*command, "--format", "json").out)["symbols"]
    text = gpt2cost(*command).out
    products = 0
    for block in re.split(r"\n(?=\S)", text):
        sizes = {}
        for name, formula, value in re.findall(r"^ {11}(\w+) = (.+) = (\d+)$", block, re.M):
            assert eval(formula, {}, dict(symbols)) == int(value)
            sizes[name] = int(value)
        for formula, value in re.findall(r"^    (?:FLOPs|reads|writes) +(.+) = (\d+)$", block, re.M):
            assert eval(formula, {}, {**symbols, **sizes}) == int(value)
        products += len(sizes) == 4 or len(sizes) == 3
    assert products > 4


def test_products_and_sums_as_text(gpt2cost: Any) -> None:
    text = gpt2cost("table", "--per-launch", "--phase", "prefill").out
    assert "    FLOPs  2*m*n*k\n           m = batch_size*seq_len\n           n = 3*hidden_size\n" in text
    assert re.search(r"^sum of one transformer\.h\.mlp, of num_layers: 10 launches$", text, re.M)
    assert text.rstrip().rpartition("\nsum of ")[2].startswith("the whole model: ")
    assert "sum of" not in gpt2cost("table").out


def test_steps_that_launch_nothing(gpt2cost: Any) -> None:
    text = gpt2cost("table", "--free").out
    assert re.search(r"^transformer\.h\.attn\.split: view \(7 of them\) x num_layers  \[no kernel\]$", text, re.M)
    assert "[no kernel]" not in gpt2cost("table").out
    rows = [json.loads(line) for line in gpt2cost("table", "--free", "--format", "jsonl").out.splitlines()]
    free = [row for row in rows if row["kind"] is None]
    assert free
    assert all(row["why"] and row["flops_formula"] is None for row in free)
    assert all(row["why"] for row in rows)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--phase", "prefill", "--cache", "3"), "--cache: expected 0 with --phase prefill"),
        (("--phase", "both"), "phase: expected one of pass, prefill, decode, train, got 'both'"),
    ],
)
def test_a_phase_that_is_refused(flags: tuple[str, ...], message: str, gpt2cost: Any) -> None:
    assert_refused(gpt2cost("table", *flags), message)
