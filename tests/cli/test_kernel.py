"""`gpt2cost kernel`: a flag for every size of every kind."""

from __future__ import annotations

import json

import pytest
from helpers import Call, assert_refused

from gpt2cost import kernel_latency
from gpt2cost.prediction.one_kernel import KERNEL_SIZES


@pytest.mark.parametrize("kind", KERNEL_SIZES)
def test_every_size_of_a_kind_is_a_flag(kind: str, gpt2cost: Call) -> None:
    """Catches a size for which there is no flag, and a flag that does not reach the kernel."""
    sizes: dict[str, int | bool] = {
        name: not default if isinstance(default, bool) else 16 + 8 * number
        for number, (name, default) in enumerate(KERNEL_SIZES[kind].items())
    }
    flags: list[str] = []
    for name, size in sizes.items():
        flag = name.replace("_", "-")
        switch = {False: [f"--no-{flag}"], True: [f"--{flag}"]}
        flags += switch[size] if isinstance(size, bool) else [f"--{flag}", str(size)]
    expected = kernel_latency(kind, "a100", **sizes).to_dict()
    assert json.loads(gpt2cost("kernel", kind, "--gpu", "a100", *flags, "--format", "json").out) == expected


ATTENTION = ["attention", "--heads", "12", "--head-dim", "64", "--new-tokens", "64"]


def test_operands_are_as_cold_as_asked_for(gpt2cost: Call) -> None:
    run = ["kernel", "copy", "--gpu", "a100", "--elements", "1000000", "--format", "json"]
    cold = json.loads(gpt2cost(*run, "--reuse-bytes", "1000000000").out)
    assert cold == kernel_latency("copy", "a100", elements=1_000_000, reuse_bytes=10**9).to_dict()
    assert cold["kernels"][0]["device_s"] > json.loads(gpt2cost(*run).out)["kernels"][0]["device_s"]
    assert_refused(gpt2cost(*run, "--reuse-bytes", "-1"), "reuse_bytes")


def test_an_attention_kernel_is_chosen_and_named(gpt2cost: Call) -> None:
    texts = [gpt2cost("kernel", *ATTENTION, "--gpu", "h100", *more).out for more in ([], ["--kernel", "flash3"])]
    assert ["attention_kernel: cudnn" in text for text in texts] == [True, False]
    assert "attention_kernel: flash3" in texts[1]


@pytest.mark.parametrize(
    ("arguments", "trust"),
    [
        (["gemm", "--gpu", "h100", "--m", "512", "--n", "512", "--k", "512"], ("calibrated", "h100-sxm-80gb")),
        (["gemm", "--gpu", "h200", "--m", "512", "--n", "512", "--k", "512"], ("borrowed", "h100-sxm-80gb")),
        ([*ATTENTION, "--gpu", "h100"], ("calibrated", "h100-sxm-80gb")),
        ([*ATTENTION, "--gpu", "l40s", "--kernel", "efficient"], ("borrowed", "a100-sxm-80gb")),
        ([*ATTENTION, "--gpu", "l40s", "--kernel", "flash2"], ("borrowed", "l40s in flash2_paged")),
        ([*ATTENTION, "--gpu", "a100", "--kernel", "efficient"], ("borrowed", "an assumption")),
        ([*ATTENTION, "--gpu", "a100", "--kernel", "efficient", "--dtype", "fp32"], ("calibrated", "a100-sxm-80gb")),
        ([*ATTENTION, "--gpu", "h100", "--kernel", "efficient"], ("borrowed", "a100-sxm-80gb")),
        ([*ATTENTION, "--gpu", "h100", "--kernel", "efficient", "--dtype", "fp32"], ("calibrated", "h100-sxm-80gb")),
        (["copy", "--gpu", "a100", "--elements", "5"], ("borrowed", "an assumption")),
        (["gelu", "--gpu", "t4", "--elements", "5"], ("borrowed", "a100-sxm-80gb")),
        (["elementwise", "--gpu", "t4", "--elements", "5"], ("calibrated", "t4")),
        (["copy", "--gpu", "t4", "--elements", "5", "--hw-set", "memory.bandwidth=1 TB/s"], ("changed", "t4")),
    ],
)
def test_what_a_kernel_rests_on(arguments: list[str], trust: tuple[str, str], gpt2cost: Call) -> None:
    (kernel,) = json.loads(gpt2cost("kernel", *arguments, "--format", "json").out)["kernels"]
    assert (kernel["trust"], kernel["trust_from"]) == trust


def test_bytes_have_a_unit(gpt2cost: Call) -> None:
    text = gpt2cost("kernel", "copy", "--gpu", "a100", "--elements", "1000000", "--reuse-bytes", "0").out
    assert {"reuse: 0 B", "read: 2.00 MB", "write: 2.00 MB"} <= {*text.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["gem", "--gpu", "a100"], "did you mean 'gemm'"),
        (["gemm", "--gpu", "a100", "--m", "5"], "n, k: missing"),
        (["copy", "--gpu", "a100", "--rows", "5"], "copy takes elements, inputs"),
        (["copy", "--elements", "5"], "--gpu is required"),
        (["copy", "--gpu", "a100", "--elements", "5", "--kernel", "flash2"], "only attention"),
        ([*ATTENTION, "--gpu", "a100", "--kernel", "flash3"], "it has flash2, efficient, math"),
        ([*ATTENTION, "--gpu", "h100", "--kernel", "flash3", "--dtype", "fp32"], "fp16 or bf16"),
        ([*ATTENTION, "--gpu", "h100", "--kernel", "flash2", "--head-dim", "264"], "heads of up to 256"),
        ([*ATTENTION, "--gpu", "h100", "--kernel", "flash2", "--masked"], "takes no explicit mask"),
    ],
)
def test_refused(arguments: list[str], named: str, gpt2cost: Call) -> None:
    assert_refused(gpt2cost("kernel", *arguments), named)
