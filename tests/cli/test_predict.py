"""`gpt2cost predict`: the example, its formats, its document and its text."""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import takewhile
from typing import Any

import pytest
from helpers import PREDICT, SMALL, assert_refused, flattened, process

from gpt2cost.output.sink import PIPED_WIDTH
from gpt2cost.table.kernel import short_path
from gpt2cost.table.options import RUNTIMES
from gpt2cost.timing.kernel import BOUNDS
from gpt2cost.units import parse_quantity


def test_what_ifs_in_predict(gpt2cost: Any) -> None:
    flags = ["--set", "n_layer=3,n_embd=96", "--set", "vocab_size=100", "--hw-set", "memory.bandwidth=1 TB/s",
             "--hw-set", "launch.stream_floor=1 us", "--format", "json"]  # fmt: skip
    done = gpt2cost("predict", "--model", "gpt2", "--gpu", "a100", *flags)
    document = json.loads(done.out)
    assert document["model"]["name"] == "gpt2[n_layer=3;n_embd=96;vocab_size=100]"
    assert (document["model"]["n_layer"], document["model"]["n_inner"]) == (3, 384)
    assert document["what_if"]["model"] == {"n_layer": 3, "n_embd": 96, "vocab_size": 100}
    assert document["what_if"]["hardware"] == {"memory.bandwidth": "1 TB/s", "launch.stream_floor": "1 us"}
    assert document["hardware"]["name"].startswith("a100-sxm-80gb[memory.bandwidth=1 TB/s;")


EXAMPLE = ["predict", "--model", "distilgpt2", "--batch", "8", "--seq", "512", "--cache", "1024", "--gpu", "a100"]


def test_the_example() -> None:
    done = process(["-m", "gpt2cost", *EXAMPLE])
    assert done.returncode == 0
    warnings = done.stderr.splitlines()
    assert [line.split(":")[0] for line in warnings] == ["warning", "warning"]
    for line, length in zip(warnings, ("1536", "1537"), strict=True):
        assert length in line
        assert "1024" in line
    for part in ("distilgpt2", "a100-sxm-80gb", "fp16", "sdpa", "eager runtime", "1 FMA = 2 FLOPs"):
        assert part in done.stdout.splitlines()[0]
    assert "\x1b" not in done.stdout


def test_strict_makes_a_warning_an_error(gpt2cost: Any) -> None:
    assert_refused(gpt2cost(*EXAMPLE, "--strict"), "1536")
    assert gpt2cost(*SMALL, "--strict").code == 0


def test_schema(gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*SMALL, "--format", "json").out)
    assert {"model", "hardware", "settings", "phases", "memory", "warnings", "flops_convention"} <= set(document)
    model = ("name", "n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions", "activation_function")
    assert {*model, "parameters"} <= set(document["model"])
    assert {"name", "borrowed", "ridge_flop_per_byte"} <= set(document["hardware"])
    assert set(document["settings"]) == {
        "batch_size", "seq_len", "cache_len", "dtype", "attn", "runtime", "logits", "use_cache", "cache_type",
        "impl",
    }  # fmt: skip
    assert set(document["memory"]) == {
        "weights_bytes", "kv_cache_bytes", "activations_bytes", "total_bytes", "capacity_bytes", "fits",
        "kv_bytes_per_token",
    }  # fmt: skip
    assert [phase["phase"] for phase in document["phases"]] == ["prefill", "decode"]
    for phase in document["phases"]:
        assert {"phase", "seq_len", "cache_len", "kv_len", "totals", "symbols", "kernels"} == set(phase)
        assert {
            "launches", "flops", "read_bytes", "write_bytes", "device_s", "host_s", "latency_s", "latency_low_s",
            "latency_high_s", "bound", "tokens_per_s", "flops_utilization", "bandwidth_utilization",
            "arithmetic_intensity",
        } <= set(phase["totals"])  # fmt: skip
        assert phase["totals"]["bound"] in ("host", *BOUNDS)
        for kernel in phase["kernels"]:
            assert {
                "name", "op", "kind", "count", "flops", "read_bytes", "write_bytes", "device_s", "share", "bound",
                "arithmetic_intensity", "flops_formula", "read_formula", "write_formula", "source",
            } <= set(kernel)  # fmt: skip
            assert kernel["bound"] in BOUNDS
            assert re.fullmatch(r"\w+\.py:(\d+|\?)", kernel["source"])  # `?`: the installed transformers lacks it


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_formulas_give_the_figures(attn: str, runtime: str, gpt2cost: Any) -> None:
    result = gpt2cost(*SMALL, "--attn", attn, "--runtime", runtime, "--format", "json")
    phases = json.loads(result.out)["phases"]
    assert len(phases) == 2
    for phase in phases:
        for kernel in phase["kernels"]:
            for figure, formula in (("flops", "flops"), ("read_bytes", "read"), ("write_bytes", "write")):
                value = eval(kernel[f"{formula}_formula"], {"__builtins__": {}}, dict(phase["symbols"]))
                assert value == kernel[figure], kernel["name"]
        assert sum(kernel["share"] for kernel in phase["kernels"]) == pytest.approx(1)


@pytest.mark.parametrize("group", ["module", "layer"])
def test_groups_have_the_prefix_of_the_largest(group: str, gpt2cost: Any) -> None:
    """A column of modules has no number of seven digits, as it has where a short kernel's prefix is taken."""
    text = gpt2cost(*PREDICT, "--batch", "8", "--seq", "512", "--group", group).out
    rows = re.findall(r"^(?:\w|\.)+(?: \(own\))? +\d+ .*$", text, re.M)
    assert len(rows) > 10
    assert max(float(cell.replace(",", "")) for row in rows for cell in re.findall(r"(?<= )[\d,.]+(?= )", row)) < 10_000


@pytest.mark.parametrize("group", ["kernel", "module", "layer"])
def test_rows_sum_to_the_totals(group: str, gpt2cost: Any) -> None:
    phases = json.loads(gpt2cost(*SMALL, "--group", group, "--format", "json").out)["phases"]
    assert len(phases) == 2
    for phase in phases:
        for name in ("flops", "read_bytes", "write_bytes"):
            assert sum(row[name] for row in phase["kernels"]) == phase["totals"][name]
        assert sum(row["count"] for row in phase["kernels"]) == phase["totals"]["launches"]
        names = [row["name"] for row in phase["kernels"]]
        assert len(names) == len(set(names))
        assert ("transformer.h" in names) == (group == "layer")


def test_flat_rows_echo_every_input(gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*SMALL, "--format", "json").out)
    kernels = [kernel for phase in document["phases"] for kernel in phase["kernels"]]
    lines = [json.loads(line) for line in gpt2cost(*SMALL, "--format", "jsonl").out.splitlines()]
    rows = list(csv.DictReader(io.StringIO(gpt2cost(*SMALL, "--format", "csv").out)))
    assert len(lines) == len(rows) == len(kernels)
    for line, row, kernel in zip(lines, rows, kernels, strict=True):
        assert list(line) == list(row)
        tensors = {side: flattened(kernel, side) for side in ("inputs", "outputs")}
        figures = {key: value for key, value in kernel.items() if key not in ("why", "removed_by")}
        assert {key: line[key] for key in figures} == {**figures, **tensors}
        assert (line["model"], line["gpu"], line["batch_size"], line["dtype"]) == (
            "distilgpt2",
            "a100-sxm-80gb",
            2,
            "fp16",
        )
        assert (line["seq_len"], line["cache_len"]) == (16, 4)
        assert row["flops"] == str(kernel["flops"])


@pytest.mark.parametrize("width", ["80", "100", "120", None])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_a_kernel_is_one_line_at_any_width(
    width: str | None, attn: str, gpt2cost: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No header is cut, and of a name only the middle: no two lines of a pass begin alike."""
    if width:
        monkeypatch.setenv("COLUMNS", width)
    document = json.loads(gpt2cost(*SMALL, "--attn", attn, "--format", "json").out)
    text = gpt2cost(*SMALL, "--attn", attn, "--all").out
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("kernel ")]
    assert len(tables) == 2
    for phase, (header, rule, *lines) in zip(document["phases"], tables, strict=True):
        rows, waiting, whole, sums = lines[:-3], *lines[-3:]
        assert len(rows) == len(phase["kernels"])
        assert len({line.split()[0] for line in rows}) == len(rows)
        for line, kernel in zip(rows, phase["kernels"], strict=True):
            own, (shown, count) = short_path(kernel["name"]), line.split()[:2]
            short = own.replace("scaled_dot_product_attention", "sdpa").replace("causal_mask", "mask")
            head, _, tail = shown.partition("...")
            assert any(name.startswith(head) and name.endswith(tail) for name in (own, short))
            assert int(count) == kernel["count"]
        assert waiting.startswith("waiting ")
        assert int(whole.split()[2]) == phase["totals"]["launches"]
        assert " FLOP/B, below the ridge of " in sums
        assert all(len(line) <= int(width or PIPED_WIDTH) for line in (header, rule, *lines))
        assert "..." not in header


def test_the_summary_ends_with_what_to_do(gpt2cost: Any) -> None:
    lines = gpt2cost(*SMALL).out.splitlines()
    memory, (prefill, decode) = lines[1], [line for line in lines if "tokens/s" in line]
    for name, line in (("prefill", prefill), ("decode", decode)):
        assert line.startswith(f"{name}: ")
        assert "-bound" in line
        assert parse_quantity(" ".join(line.split()[1:3]), "s") > 0
    assert "fits" in memory


def advice(call: Any, *flags: str) -> str:
    """The closing line of one phase, and what would help it."""
    lines = iter(call("predict", "--model", "gpt2", *flags).out.splitlines())
    return "\n".join([next(line for line in lines if "tokens/s" in line), *takewhile(lambda x: x[0] == " ", lines)])


def test_advice_that_the_device_can_follow(gpt2cost: Any) -> None:
    host = ("--set", "n_embd=96,n_head=2", "--phase", "prefill", "--seq", "2")
    nvidia, apple = (advice(gpt2cost, "--gpu", gpu, *host) for gpu in ("a100", "m4-max"))
    assert "host-bound: the GPU is busy" in nvidia
    assert "--runtime reduce-overhead saves " in nvidia
    assert "host-bound" in apple
    assert "graph" not in apple
    assert "--runtime compile saves " in apple
    assert "--runtime reduce-overhead saves " in advice(gpt2cost, "--gpu", "a100", *host, "--runtime", "compile")


def test_advice_of_a_pass_that_the_device_sets_the_pace_of(gpt2cost: Any) -> None:
    """What is named is what takes the time: GELU's kernels, the concatenation of a cache, logits nobody asked for."""
    prefill = advice(gpt2cost, "--gpu", "a100", "--batch", "8", "--seq", "512", "--phase", "prefill")
    assert re.search(r"\n  \d\d% of it in 8 kernels of h.mlp.act: --runtime compile saves \d\d%", prefill)
    assert re.search(r"\n  \d\d% of it in lm_head: --logits last saves \d\d%", prefill)
    decode = ("--gpu", "h100", "--batch", "64", "--seq", "1", "--cache", "960", "--runtime", "compile")
    cat = r"\n  \d\d% of it in h.attn.cat_key and h.attn.cat_value: --cache-type static saves \d\d%"
    assert re.search(cat, advice(gpt2cost, *decode))
    assert "static" not in advice(gpt2cost, *decode, "--cache-type", "static")


def test_a_decode_step_of_one_sequence_is_not_compute_bound(gpt2cost: Any) -> None:
    for gpu in ("t4", "l4", "a100", "h100", "v100", "rtx4090", "m3-max"):
        for dtype in ("fp32", "fp16"):
            line = advice(gpt2cost, "--gpu", gpu, "--dtype", dtype, "--seq", "1", "--cache", "512")
            assert "compute-bound" not in line


def test_a_host_that_was_measured_on_another_machine_is_named(gpt2cost: Any) -> None:
    step = ("--gpu", "t4", "--dtype", "fp32", "--seq", "1", "--cache", "9")
    assert ", measured on T4 server of 2025)" in advice(gpt2cost, *step)
    assert ", measured)" in advice(gpt2cost, "--gpu", "t4", "--dtype", "fp32", "--batch", "8", "--phase", "prefill")


def test_the_padding_that_would_help_is_named(gpt2cost: Any) -> None:
    flags = ("--gpu", "h100", "--batch", "16", "--seq", "512", "--phase", "prefill")
    assert "\n  vocab_size padded to 50304 saves " in advice(gpt2cost, *flags)
    assert "padded" not in advice(gpt2cost, *flags, "--set", "vocab_size=50304")


@pytest.mark.parametrize(
    ("command", "fits"),
    [
        (["predict", "--model", "gpt2-xl", "--gpu", "t4"], True),
        (["predict", "--model", "gpt2-xl", "--gpu", "t4", "--batch", "999"], False),
        (["generate", "--model", "gpt2-xl", "--gpu", "t4", "--batch", "999", "--new-tokens", "2"], False),
        (["compare", "--model", "gpt2-xl", "--gpu", "t4,h100", "--batch", "999", "--phase", "prefill"], False),
        (["sweep", "--model", "gpt2-xl", "--gpu", "t4", "--batch", "1,999"], False),
        (["sweep", "--model", "gpt2-xl", "--gpu", "t4", "--batch", "1,999", "--only-fitting"], True),
        (["sweep", "--model", "gpt2-xl", "--gpu", "t4", "--batch", "999", "--only-fitting"], False),
        (["fit", "--model", "gpt2-xl", "--gpu", "t4", "--phase", "decode"], True),
        (["fit", "--model", "gpt2-xl", "--gpu", "t4", "--phase", "decode", "--set", "n_layer=500"], False),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_fail_on_oom(command: list[str], fits: bool, gpt2cost: Any) -> None:
    """The output is the same; the exit code says that something does not fit."""
    plain, failing = gpt2cost(*command), gpt2cost(*command, "--fail-on", "oom")
    assert plain.code == 0
    assert failing.code == (0 if fits else 3)
    assert (failing.out, failing.err) == (plain.out, plain.err)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--runtime", "reduce-overhead", "--gpu", "m1"], "needs an NVIDIA device"),
        (["--runtime", "cuda-graph", "--attn", "flash_attention_2"], "modeling_flash_attention_utils.py"),
        (["--cache-type", "static", "--no-use-cache"], "cache_type"),
        (["--cache-type", "static", "--attn", "flash_attention_2"], "cache_type"),
        (["--fail-on", "slow"], "oom"),
    ],
)
def test_what_cannot_run(flags: list[str], named: str, gpt2cost: Any) -> None:
    gpu = [] if "--gpu" in flags else ["--gpu", "a100"]
    assert_refused(gpt2cost("predict", "--model", "gpt2", *gpu, *flags), named)


def test_no_graph_is_captured_of_what_is_refused_but_its_decode_step_is(gpt2cost: Any) -> None:
    flags = ("predict", "--model", "gpt2", "--gpu", "a100", "--runtime", "cuda-graph", "--attn", "flash_attention_2")
    assert gpt2cost(*flags).code == 2
    assert gpt2cost(*flags, "--phase", "decode").code == 0
    assert gpt2cost(*flags, "--batch", "2").code == 0


def test_kernels_name_their_tensors_as_the_table_does(gpt2cost: Any) -> None:
    flags = ("--model", "distilgpt2", "--batch", "2", "--seq", "12", "--cache", "4", "--format", "json")
    (phase,) = json.loads(gpt2cost("predict", *flags, "--gpu", "a100", "--phase", "prefill").out)["phases"]
    table = {kernel["name"]: kernel for kernel in json.loads(gpt2cost("table", *flags).out)["kernels"]}
    for kernel in phase["kernels"]:
        same = table[kernel["name"]]
        assert (kernel["inputs"], kernel["outputs"]) == (same["inputs"], same["outputs"])
