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
        flags += [f"--no-{flag}"] if size is False else [f"--{flag}", str(size)]
    expected = kernel_latency(kind, "a100", **sizes).to_dict()
    assert json.loads(gpt2cost("kernel", kind, "--gpu", "a100", *flags, "--format", "json").out) == expected


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["gem", "--gpu", "a100"], "did you mean 'gemm'"),
        (["gemm", "--gpu", "a100", "--m", "5"], "n, k: missing"),
        (["copy", "--gpu", "a100", "--rows", "5"], "copy takes elements, inputs"),
        (["copy", "--elements", "5"], "--gpu is required"),
    ],
)
def test_refused(arguments: list[str], named: str, gpt2cost: Call) -> None:
    assert_refused(gpt2cost("kernel", *arguments), named)
