"""The cost table as text: every equation that is printed holds."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from helpers import assert_refused, flattened


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
        lines = [line for line in blocks[kernel["name"]].splitlines() if not line.startswith("    shapes ")]
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


@pytest.mark.parametrize("flags", [("--seq", "7"), ("--seq", "1", "--cache", "5", "--attn", "eager")])
def test_each_kernel_names_its_tensors_with_their_shapes(flags: tuple[str, ...], gpt2cost: Any) -> None:
    command = ("table", "--model", "gpt2", "--batch", "3", *flags)
    document, text = json.loads(gpt2cost(*command, "--format", "json").out), gpt2cost(*command).out
    rows = map(json.loads, gpt2cost(*command, "--format", "jsonl").out.splitlines())
    lines = re.findall(r"^    shapes (.*?) ?-> (.*)$", text, re.M)
    for kernel, row, line in zip(document["kernels"], rows, lines, strict=True):
        assert (row["inputs"], row["outputs"]) == line == (flattened(kernel, "inputs"), flattened(kernel, "outputs"))
        for tensor in kernel["inputs"] + kernel["outputs"]:
            sizes = eval(tensor["symbols"].replace(")", ",)").replace("(,)", "()"), {}, dict(document["symbols"]))
            assert list(sizes) == tensor["shape"]
    for kernel in json.loads(gpt2cost("table", *flags[4:], "--format", "json").out)["kernels"]:
        assert {tensor["shape"] for tensor in kernel["inputs"] + kernel["outputs"]} <= {None}


def test_weights_have_the_shapes_of_the_real_ones(gpt2cost: Any) -> None:
    pytest.importorskip("torch")
    import oracle
    import torch
    from transformers import GPT2Config

    real = {name: list(p.shape) for name, p in oracle.build(GPT2Config(), "sdpa", torch.float32).named_parameters()}
    kernels = json.loads(gpt2cost("table", "--model", "gpt2", "--format", "json").out)["kernels"]
    seen = set()
    for kernel in kernels:
        for tensor in kernel["inputs"]:
            leaf = tensor["name"].rpartition(".")[2]
            name = f"{kernel['module'].replace('.h.', '.h.0.')}.{leaf}"
            if name in real:
                assert tensor["shape"] == real[name]
                seen.add(name)
    first = {name for name in real if ".h.0." in name or ".ln_f." in name}
    assert seen == first


TRAIN = ("--phase", "train", "--model", "distilgpt2", "--batch", "2", "--seq", "64")


@pytest.mark.parametrize(
    "more",
    [
        ("--precision", "fp32", "--attn", "eager"), ("--dropout", "0", "--impl", "nanogpt"),
        ("--checkpointing", "block", "--precision", "bf16"), ("--runtime", "compile"),
    ],
)  # fmt: skip
def test_the_table_of_training_is_what_train_counts(more: tuple[str, ...], gpt2cost: Any) -> None:
    document = json.loads(gpt2cost("table", *TRAIN, *more, "--format", "json").out)
    command = ("train", "--model", "distilgpt2", "--gpu", "a100", "--micro-batch", "2", "--seq", "64", *more)
    phases = json.loads(gpt2cost(*command, "--format", "json").out)["phases"]
    figures = ("name", "count", "flops", "read_bytes", "write_bytes")
    trained = [
        (phase["phase"], *map(kernel.get, figures))
        for phase in phases
        if phase["phase"] in ("forward", "backward")
        for kernel in phase["kernels"]
    ]
    assert trained == [
        tuple(kernel[key] for key in ("phase", *figures)) for kernel in document["kernels"] if kernel["count"]
    ]
    for kernel in document["kernels"]:
        value = eval(kernel["read_formula"], {"__builtins__": {}}, dict(document["symbols"]))
        assert kernel["read_bytes"] == (value if kernel["count"] else 0)


def test_the_table_of_training_as_text(gpt2cost: Any) -> None:
    text = gpt2cost("table", "--phase", "train").out
    assert re.findall(r"^(forward|backward)$", text, re.M) == ["forward", "backward"]
    assert re.search(r"^transformer\.h\.mlp\.c_fc\.grad_weight: mm x num_layers  \[.+\]$", text, re.M)
    assert not re.search(r"^(forward|backward)$", gpt2cost("table").out, re.M)
    header = gpt2cost("table", "--phase", "train", "--format", "csv").out.partition("\n")[0]
    assert ",phase,module,name," in header


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--phase", "both"), "phase: expected one of pass, prefill, decode, train, got 'both'"),
        (("--precision", "fp32"), "--precision: goes with --phase train alone"),
        (("--phase", "train", "--dtype", "bf16"), "--dtype: not of training, which takes"),
        (("--phase", "train", "--cache", "3"), "--cache: not of training, which takes"),
        (("--phase", "train", "--runtime", "cuda-graph"), "runtime: expected one of eager, compile"),
    ],
)
def test_a_table_that_is_refused(flags: tuple[str, ...], message: str, gpt2cost: Any) -> None:
    assert_refused(gpt2cost("table", *flags), message)
