"""`gpt2cost train`: its document, its formats, its text, and what it refuses."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import assert_refused, process

from gpt2cost.output.sink import PIPED_WIDTH

TRAIN = ["train", "--model", "distilgpt2", "--gpu", "a100"]
SMALL = [*TRAIN, "--micro-batch", "2", "--seq", "64", "--grad-accum", "3", "--gpus", "4"]
RUN = ["--steps", "1000", "--eval-every", "100", "--price-per-hour", "2"]


def document_of(gpt2cost: Any, *flags: str) -> Any:
    result = gpt2cost(*flags, "--format", "json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_schema(gpt2cost: Any) -> None:
    document = document_of(gpt2cost, *SMALL, *RUN)
    assert {"model", "hardware", "settings", "step", "memory", "run", "phases", "buckets", "warnings"} <= set(document)
    assert set(document["step"]) == {
        "step_s", "step_low_s", "step_high_s", "forward_s", "backward_s", "optimizer_s", "clip_s", "communication_s",
        "exposed_communication_s", "device_s", "host_s", "bound", "tokens_per_s", "tokens_per_s_per_gpu", "flops",
        "mfu", "mfu_convention", "hfu",
    }  # fmt: skip
    assert set(document["memory"]) == {
        "parameters_bytes", "gradients_bytes", "optimizer_bytes", "bucket_bytes", "casts_bytes", "activations_bytes",
        "logits_bytes", "total_bytes", "capacity_bytes", "fits", "max_micro_batch", "peak_at",
    }  # fmt: skip
    assert set(document["run"]) == {"tokens_per_step", "steps", "tokens", "time_s", "gpu_hours", "cost"}
    assert document["settings"] | {
        "gpus": 4, "nodes": 1, "micro_batch": 2, "seq_len": 64, "grad_accum": 3, "global_batch": 24,
        "global_tokens": 1536, "precision": "bf16-mixed", "attn": "sdpa", "runtime": "eager", "optimizer": "adamw",
        "clip_grad_norm": 1.0, "dropout": 0.1, "checkpointing": "none", "zero": 0, "eval_every": 100,
    } == document["settings"]  # fmt: skip
    for phase in document["phases"]:
        assert {"phase", "count", "totals", "kernels"} <= set(phase)
        assert {"launches", "flops", "read_bytes", "write_bytes", "device_s", "host_s"} <= set(phase["totals"])
    for bucket in document["buckets"]:
        assert set(bucket) == {"bytes", "ready_s", "start_s", "end_s"}


@pytest.mark.parametrize("group", ["kernel", "module", "layer"])
@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_rows_sum_to_the_totals_and_phases_to_the_step(group: str, runtime: str, gpt2cost: Any) -> None:
    document = document_of(gpt2cost, *SMALL, "--group", group, "--runtime", runtime)
    step, phases = document["step"], document["phases"]
    assert [phase["phase"] for phase in phases] == ["forward", "backward", "clip", "optimizer"]
    assert [phase["count"] for phase in phases] == [3, 3, 1, 1]
    phases += document["gradient_phases"]
    assert [phase["count"] for phase in phases[4:]] == [2, 1, 1]
    for phase in phases:
        for name in ("flops", "read_bytes", "write_bytes"):
            assert sum(row[name] for row in phase["kernels"]) == phase["totals"][name]
        assert sum(row["count"] for row in phase["kernels"]) == phase["totals"]["launches"]
    assert sum(phase["count"] * phase["totals"]["flops"] for phase in phases) == step["flops"]
    for name in ("device_s", "host_s"):
        parts = sum(phase["count"] * phase["totals"][name] for phase in phases)
        assert parts == pytest.approx(step[name], abs=0.006)  # the host has a little to do besides
    by_clock = ("forward_s", "backward_s", "clip_s", "optimizer_s", "exposed_communication_s")
    assert 0 <= step["step_s"] - sum(step[name] for name in by_clock) < 0.006
    assert step["step_low_s"] < step["step_s"] < step["step_high_s"]


def test_formulas_give_the_figures(gpt2cost: Any) -> None:
    for phase in document_of(gpt2cost, *SMALL)["phases"]:
        for kernel in phase["kernels"]:
            for figure, formula in (("flops", "flops"), ("read_bytes", "read"), ("write_bytes", "write")):
                value = eval(kernel[f"{formula}_formula"], {"__builtins__": {}}, dict(phase["symbols"]))
                assert value == kernel[figure], kernel["name"]


def test_memory_is_the_sum_of_its_parts(gpt2cost: Any) -> None:
    memory = document_of(gpt2cost, *SMALL)["memory"]
    parts = ("parameters", "gradients", "optimizer", "bucket", "casts", "activations", "logits")
    assert sum(memory[f"{name}_bytes"] for name in parts) == memory["total_bytes"]
    assert memory["fits"]


def test_a_run(gpt2cost: Any) -> None:
    """10 B tokens in steps of 2**19; 8 GPUs, 19,073 steps, 78 validations of 20 batches."""
    flags = ["--gpus", "8", "--micro-batch", "64", "--global-tokens", "524288", "--tokens", "10e9",
             "--price-per-hour", "1.5"]  # fmt: skip
    plain = document_of(gpt2cost, *TRAIN, *flags)
    run, step = plain["run"], plain["step"]
    assert (run["tokens_per_step"], run["steps"], run["tokens"]) == (524_288, 19_073, 9_999_745_024)
    assert run["time_s"] == pytest.approx(19_073 * step["step_s"])
    assert run["gpu_hours"] == pytest.approx(8 * run["time_s"] / 3600)
    assert run["cost"] == pytest.approx(1.5 * run["gpu_hours"])
    assert step["tokens_per_s"] == pytest.approx(524_288 / step["step_s"]) == 8 * step["tokens_per_s_per_gpu"]
    validated = document_of(gpt2cost, *TRAIN, *flags, "--eval-every", "250", "--eval-batches", "20")
    more_s = validated["run"]["time_s"] - run["time_s"]
    assert 0.5 * 78 * 20 * step["forward_s"] < more_s < 1.1 * 78 * 20 * step["forward_s"]


def test_without_a_length_there_is_no_run(gpt2cost: Any) -> None:
    run = document_of(gpt2cost, *SMALL)["run"]
    assert run.pop("tokens_per_step") == 1536
    assert set(run.values()) == {None}


def test_mfu_is_nanogpts(gpt2cost: Any) -> None:
    """estimate_mfu of gpt2 with V=50304, T=1024: N = 50304 * 768 + 12 * 7,087,872 + 1536 = 123,689,472 without wpe,
    and 6 N + 12 * 12 * 768 * 1024 = 855,383,040 a token."""
    flags = ["train", "--model", "gpt2", "--set", "vocab_size=50304", "--gpu", "a100", "--seq", "1024"]
    step = document_of(gpt2cost, *flags)["step"]
    assert step["mfu"] * 312e12 / step["tokens_per_s"] == pytest.approx(855_383_040)
    assert step["mfu_convention"].startswith("nanoGPT: 6N + 12LCT")


def test_flat_rows_echo_every_input(gpt2cost: Any) -> None:
    document = document_of(gpt2cost, *SMALL)
    order = ("forward", "backward", "accumulate", "to_buckets", "from_buckets", "clip", "optimizer")
    phases = {phase["phase"]: phase for phase in (*document["phases"], *document["gradient_phases"])}
    kernels = [kernel for name in order for kernel in phases[name]["kernels"]]
    lines = [json.loads(line) for line in gpt2cost(*SMALL, "--format", "jsonl").out.splitlines()]
    rows = list(csv.DictReader(io.StringIO(gpt2cost(*SMALL, "--format", "csv").out)))
    assert len(lines) == len(rows) == len(kernels)
    for line, row, kernel in zip(lines, rows, kernels, strict=True):
        assert list(line) == list(row)
        assert {key: line[key] for key in kernel} == kernel
        assert {key: line[key] for key in document["settings"]} == document["settings"]
        assert line["step_s"] == document["step"]["step_s"]


def test_flat_rows_have_the_run(gpt2cost: Any) -> None:
    """A spreadsheet that was asked for a price has the cost."""
    run = document_of(gpt2cost, *SMALL, *RUN)["run"]
    line = json.loads(gpt2cost(*SMALL, *RUN, "--format", "jsonl").out.splitlines()[0])
    names = {"steps": "steps", "run_tokens": "tokens", "run_time_s": "time_s", "gpu_hours": "gpu_hours", "cost": "cost"}
    assert {name: line[name] for name in names} == {name: run[key] for name, key in names.items()}
    assert run["cost"] > 0
    other = json.loads(gpt2cost(*SMALL, "--format", "jsonl").out.splitlines()[0])
    assert [other[name] for name in names] == [None] * len(names)


def test_one_is_singular(gpt2cost: Any) -> None:
    last = gpt2cost(*TRAIN, "--seq", "64", "--steps", "1", "--eval-every", "1").out.splitlines()[-1]
    assert last.startswith("run: 1 step of 64 tokens, 64 in all: ")
    assert ", validated once, " in last


def test_the_largest_micro_batch_of_a_tiny_model(gpt2cost: Any, tmp_path: Path) -> None:
    """It fits, and one more does not."""
    path = tmp_path / "tiny.json"
    keys = {"block_size": 8, "vocab_size": 64, "n_layer": 1, "n_head": 1, "n_embd": 8}
    path.write_text(json.dumps(keys), "utf-8")
    flags = ["train", "--model", str(path), "--gpu", "h200"]
    most = document_of(gpt2cost, *flags)["memory"]["max_micro_batch"]
    fits = [document_of(gpt2cost, *flags, "--micro-batch", str(size))["memory"]["fits"] for size in (most, most + 1)]
    assert fits == [True, False]


def test_markdown(gpt2cost: Any) -> None:
    lines = gpt2cost(*SMALL, *RUN, "--format", "markdown").out.splitlines()
    titles = [line for line in lines if line.startswith("## ")]
    assert titles[:4] == ["## step", "## memory", "## run", "## forward, 3 times per step"]


def test_text(gpt2cost: Any) -> None:
    result = gpt2cost(*SMALL, *RUN)
    lines = result.out.splitlines()
    for part in ("distilgpt2", "4 x a100-sxm-80gb", "bf16-mixed", "sdpa", "adamw", "clip 1", "dropout 0.1"):
        assert part in lines[0]
    assert re.match(r"step: [\d.]+ ms \([\d.]+ ms to [\d.]+ ms, \w+.*\) for 2 x 64 tokens x 3 micro-steps x 4 GPUs"
                    r" = 1,536 tokens", lines[-4])  # fmt: skip
    assert lines[1].startswith("memory: ")
    assert "the largest micro-batch is" in lines[1]
    assert lines[-1].startswith("run: 1,000 steps of 1,536 tokens, 1,536,000 in all: ")
    assert "validated 11 times" in lines[-1]
    assert lines[-1].endswith("at 2 per GPU-hour")
    assert max(map(len, lines[3:-4])) <= PIPED_WIDTH


def test_where_nothing_fits_the_text_says_so(gpt2cost: Any) -> None:
    result = gpt2cost("train", "--model", "gpt2-xl", "--gpu", "rtx4090")
    assert result.err.endswith("; not even a micro-batch of 1 fits\n")
    memory = result.out.splitlines()[1]
    assert "does NOT fit" in memory
    assert memory.endswith("not even a micro-batch of 1 does")


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_width(width: int) -> None:
    done = process(["-m", "gpt2cost", *SMALL], {"COLUMNS": str(width), "NO_COLOR": "1"})
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    rules = [line for line in done.stdout.splitlines() if set(line) == {"-"}]
    assert rules
    assert max(map(len, rules)) <= width


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpus", "8", "--micro-batch", "16", "--grad-accum", "5", "--global-tokens", "524288"],
         "global_tokens: 524288 / (8 GPUs x 16 sequences x 1024 tokens) = 4 micro-steps, but grad_accum is 5"),
        (["--micro-batch", "16", "--global-batch", "100"], "= 6.25 micro-steps, which is no whole number"),
        (["--dropout", "0.2", "--set", "attn_pdrop=0.1"],
         "dropout: 0.2 is for all three, but set gives attn_pdrop=0.1"),
        (["--gpus", "16"], "gpus: a node has 8 at most, got 16; nodes: more than one takes further GPUs"),
        (["--gpus", "16", "--nodes", "3"], "nodes: 16 GPUs / 3 = 5.33333 GPUs a node, which is no whole number"),
        (["--zero", "1"], "zero: stage 1 shards over several GPUs, and gpus is 1"),
        (["--compile-inside-ddp", "--gpus", "2"], "compile_inside_ddp: needs runtime compile, got eager"),
        (["--tokens", "10e9", "--steps", "5"], "tokens: 10000000000 / 1024 a step = 9765625 steps, but steps is 5"),
        (["--tokens", "10Q"], "tokens: expected a whole number such as 524288, 10e9, 0.5M or 10B, got '10Q'"),
        (["--dtype", "bf16"], "No such option: --dtype; here it is --precision"),
        (["--batch", "8"], "No such option: --batch; here it is --micro-batch"),
        (["--eval-every", "5"], "eval_every: needs the length of the run, steps or tokens"),
        (["--steps", "5", "--eval-batches", "5"], "eval_batches: needs eval_every"),
        (["--clip-grad-norm", "much"], "clip_grad_norm: expected a number or none, got 'much'"),
        (["--group", "all"], "group: expected one of kernel, module, layer"),
        (["--precision", "fp8"], "precision: expected one of fp32, tf32, bf16-mixed, fp16-mixed, bf16"),
        (["--seq", "2048", "--strict"], "seq: 2048 exceeds n_positions 1024 of distilgpt2"),
    ],
)  # fmt: skip
def test_refused(flags: list[str], message: str, gpt2cost: Any) -> None:
    assert_refused(gpt2cost(*TRAIN, *flags), message)


def test_bf16_on_a_t4(gpt2cost: Any) -> None:
    flags = ["train", "--model", "gpt2", "--gpu", "t4"]
    assert_refused(gpt2cost(*flags), "precision: t4 has no bf16; it runs fp32, fp16-mixed")
    assert gpt2cost(*flags, "--precision", "fp16-mixed").code == 0


def test_what_does_not_fit(gpt2cost: Any) -> None:
    flags = [*TRAIN, "--micro-batch", "4096"]
    result = gpt2cost(*flags, "--fail-on", "oom", "--format", "json")
    assert result.code == 3
    assert result.err.startswith("warning: memory: ")
    memory = json.loads(result.out)["memory"]
    assert result.err.endswith(f"; the largest micro-batch that fits is {memory['max_micro_batch']}\n")
    assert not memory["fits"]
    largest = memory["max_micro_batch"]
    assert 1 < largest < 4096
    for micro, fits in ((largest, True), (largest + 1, False)):
        assert document_of(gpt2cost, *TRAIN, "--micro-batch", str(micro))["memory"]["fits"] == fits


def test_nothing_slow_is_loaded() -> None:
    flags = [*SMALL, "--format", "json"]
    code = f"import sys\nfrom gpt2cost.cli.app import run\nrun({flags!r})\nprint([m for m in ('torch', 'transformers') if m in sys.modules], file=sys.stderr)"  # fmt: skip  # noqa: E501
    assert process(["-c", code], check=True).stderr.strip() == "[]"


def test_help_lists_it(gpt2cost: Any) -> None:
    assert re.search(r"train\s.*Predict a training step", gpt2cost("--help").out)
    for flag in ("--micro-batch", "--global-tokens", "--precision", "--zero", "--eval-every", "--price-per-hour"):
        assert flag in gpt2cost("train", "--help").out


SWEEP = ["sweep", "--phase", "train", "--model", "distilgpt2", "--gpu", "a100", "--seq", "64"]


def test_sweep(gpt2cost: Any) -> None:
    flags = [*SWEEP, "--gpus", "1,2", "--micro-batch", "1-4*2", "--global-batch", "8", "--precision", "fp32,bf16-mixed"]
    rows = list(csv.DictReader(io.StringIO(gpt2cost(*flags, "--format", "csv").out)))
    assert len(rows) == 12
    one = document_of(gpt2cost, *TRAIN, "--seq", "64", "--gpus", "2", "--micro-batch", "2", "--grad-accum", "2",
                      "--precision", "fp32")  # fmt: skip
    same = [row for row in rows if (row["gpus"], row["micro_batch"], row["precision"]) == ("2", "2", "fp32")]
    assert float(same[0]["step_s"]) == pytest.approx(one["step"]["step_s"])
    fastest = gpt2cost(*flags, "--format", "csv", "--sort", "-tokens_per_s", "--top", "1").out.splitlines()
    assert len(fastest) == 2
    text = gpt2cost(*flags).out.splitlines()
    assert text[0].startswith("model distilgpt2, gpu a100-sxm-80gb, seq 64, global_batch 8, global_tokens 512")
    assert re.match(r"gpus +micro_batch +grad_accum +precision +(trust +)?step ", text[2])


def test_a_study_of_training(gpt2cost: Any, tmp_path: Any) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("phase: train\nmodel: distilgpt2\ngpu: a100\nmicro_batch: [1, 2]\nseq: 64\nset: {n_layer: 2}\n")
    out = gpt2cost("sweep", "--grid", study, "--format", "jsonl").out
    assert [json.loads(line)["micro_batch"] for line in out.splitlines()] == [1, 2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*SWEEP, "--batch", "1,2"], "--batch: not of training"),
        ([*SWEEP, "--dtype", "fp16"], "--dtype: not of training"),
        ([*SWEEP, "--kernels"], "--kernels: not of training"),
        ([*SWEEP, "--no-use-cache"], "--no-use-cache: not of training"),
        (["sweep", "--model", "gpt2", "--gpu", "a100", "--micro-batch", "1"], "--micro-batch: goes with --phase train"),
        ([*SWEEP, "--sort", "latency_s"], "sort: no column 'latency_s'"),
        ([*SWEEP, "--clip-grad-norm", "much"], "clip_grad_norm: expected a number or none, got 'much'"),
    ],
)
def test_a_sweep_that_is_refused(flags: list[str], message: str, gpt2cost: Any) -> None:
    assert_refused(gpt2cost(*flags), message)


COMPARE = ["compare", "--phase", "train", "--model", "distilgpt2", "--seq", "64", "--micro-batch", "2"]


def test_compare(gpt2cost: Any) -> None:
    flags = [*COMPARE, "--gpu", "a100,h100", "--gpus", "1,2"]
    document = json.loads(gpt2cost(*flags, "--format", "json").out)
    assert [row["label"] for row in document["candidates"]] == [
        "a100-sxm-80gb 1 GPU", "a100-sxm-80gb 2 GPUs", "h100-sxm-80gb 1 GPU", "h100-sxm-80gb 2 GPUs",
    ]  # fmt: skip
    first = document["candidates"][0]
    for row in document["candidates"]:
        assert row["tokens_ratio"] == pytest.approx(row["tokens_per_s"] / first["tokens_per_s"])
        one = document_of(gpt2cost, "train", "--model", "distilgpt2", "--gpu", row["gpu"], "--seq", "64",
                          "--micro-batch", "2", "--gpus", str(row["gpus"]))  # fmt: skip
        assert row["step_s"] == one["step"]["step_s"]
    text = gpt2cost(*flags).out
    assert text.startswith("training: distilgpt2, bf16-mixed, sdpa, eager, adamw, micro-batch 2, seq 64\n")
    fastest = max(document["candidates"], key=lambda row: row["tokens_per_s"])
    assert f"the most tokens per second: {fastest['label']}" in text


def test_where_the_ranking_of_trainings_changes(gpt2cost: Any) -> None:
    """A precision that is faster for large batches and not for small ones: the ranking changes where it says."""
    flags = [*COMPARE, "--gpu", "a100", "--precision", "fp32,bf16-mixed", "--format", "json"]
    crossovers = json.loads(gpt2cost(*flags).out)["crossovers"]
    for crossover in (item for item in crossovers if item["axis"] == "micro_batch"):
        sizes = (crossover["size"] - 1, crossover["size"])
        for size, faster in zip(sizes, ("before", "after"), strict=True):
            rates = {
                precision: document_of(
                    gpt2cost, *TRAIN, "--seq", "64", "--micro-batch", str(size), "--precision", precision
                )["step"]["tokens_per_s"]
                for precision in ("fp32", "bf16-mixed")
            }
            assert max(rates, key=lambda name: rates[name]) == crossover[faster]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*COMPARE, "--gpu", "a100"], "compare: expected 2 to 20 candidates, such as --gpu a100,h100; only one runs"),
        ([*COMPARE, "--gpu", "a100,h100", "--batch", "2"], "--batch: not of training"),
        ([*COMPARE, "--gpu", "a100,h100", "--logits", "last"], "--logits: not of training"),
        (["compare", "--model", "gpt2", "--gpu", "a100,h100", "--zero", "1"], "--zero: goes with --phase train alone"),
    ],
)
def test_a_comparison_that_is_refused(flags: list[str], message: str, gpt2cost: Any) -> None:
    assert_refused(gpt2cost(*flags), message)


def test_explain(gpt2cost: Any) -> None:
    flags = [*TRAIN, "--gpus", "2", "--micro-batch", "4", "--explain"]
    document = document_of(gpt2cost, *flags)
    for phase in document["phases"]:
        names = [kernel["name"] for kernel in phase["kernels"]]
        assert {kernel["name"] for kernel in phase["slowest"]} <= set(names)
    changes = {change["change"]: change for change in document["sensitivity"]}
    compiled = document_of(gpt2cost, *TRAIN, "--gpus", "2", "--micro-batch", "4", "--runtime", "compile")
    assert changes["runtime compile"]["latency_s"] == pytest.approx(compiled["step"]["step_s"])
    assert {change["kind"] for change in changes.values()} == {"software", "hardware"}
    assert "with runtime compile: " in gpt2cost(*flags).out
    counts = {count["convention"]: count["mfu"] for count in document["mfu_conventions"]}
    assert counts["nanoGPT"] == pytest.approx(document["step"]["mfu"])
    assert counts["FlopCounterMode"] == pytest.approx(document["step"]["hfu"])
    assert "MFU as counted by" in gpt2cost(*flags).out
    assert gpt2cost(*flags, "--format", "markdown").out.count("### ") > 2


def test_communication(gpt2cost: Any) -> None:
    """What overlaps the backward pass is hidden but for its end; compiled inside DDP nothing is."""
    flags = [*TRAIN, "--micro-batch", "8", "--runtime", "compile", "--grad-accum", "2"]
    alone = document_of(gpt2cost, *flags)
    step = alone["step"]
    assert (step["communication_s"], step["exposed_communication_s"], alone["buckets"]) == (0, 0, [])
    outside, inside = (document_of(gpt2cost, *flags, "--gpus", "8", *more) for more in ([], ["--compile-inside-ddp"]))
    total_s = outside["step"]["communication_s"]
    assert 0 < outside["step"]["exposed_communication_s"] < 0.7 * total_s
    assert inside["step"]["exposed_communication_s"] == pytest.approx(inside["step"]["communication_s"])
    assert inside["step"]["communication_s"] == pytest.approx(total_s)
    buckets = inside["buckets"]
    sent_s = sum(bucket["end_s"] - bucket["start_s"] for bucket in buckets)
    assert sent_s < total_s < sent_s + 0.002  # and copies out of buckets
    gradients = outside["memory"]["bucket_bytes"]
    for document in (outside, inside):
        buckets = document["buckets"]
        assert sum(bucket["bytes"] for bucket in buckets) == gradients
        for before, after in itertools.pairwise(buckets):
            assert before["end_s"] <= after["start_s"]
            assert before["ready_s"] <= after["ready_s"]
        assert all(bucket["ready_s"] <= bucket["start_s"] < bucket["end_s"] for bucket in buckets)
    assert len({bucket["ready_s"] for bucket in inside["buckets"]}) == 1


def test_the_text_says_what_waiting_is_made_of(gpt2cost: Any) -> None:
    flags = [*TRAIN, "--gpus", "8", "--runtime", "compile", "--compile-inside-ddp"]
    text = gpt2cost(*flags).out
    copies = next(line for line in text.splitlines() if line.startswith("from_buckets: ")).rpartition(", ")[2]
    assert re.search(rf"communication not hidden [^,]+ of [^,]+ \(with {copies} of copies out of buckets\)", text)
    assert "out of buckets" not in gpt2cost(*TRAIN, "--gpus", "8", "--zero", "1").out


def test_zero(gpt2cost: Any) -> None:
    """Each stage shards one more part of the memory, and says where its time is rough."""
    flags = [*TRAIN, "--gpus", "8", "--micro-batch", "4"]
    stages = [document_of(gpt2cost, *flags, "--zero", stage) for stage in ("0", "1", "2", "3")]
    memories = [document["memory"] for document in stages]
    assert [document["settings"]["zero"] for document in stages] == [0, 1, 2, 3]
    optimizer = [memory["optimizer_bytes"] for memory in memories]
    assert optimizer[1:] == [-(-optimizer[0] // 8)] * 3
    assert memories[3]["parameters_bytes"] == -(-memories[0]["parameters_bytes"] // 8)
    totals = [memory["total_bytes"] for memory in memories]
    assert totals == sorted(totals, reverse=True)
    assert stages[1]["step"]["optimizer_s"] < 0.3 * stages[0]["step"]["optimizer_s"]
    assert [bool(document["warnings"]) for document in stages] == [False, False, True, True]
    assert document_of(gpt2cost, *flags, "--zero", "fsdp")["settings"]["zero"] == 3
