"""A training table beside the launches of a real step: order, bytes, FLOPs, shapes, and what autograd saves."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from oracle import Launch
from shapes import assert_kernel_is

from gpt2cost.table.kernel import Gemm, Kernel, Row
from gpt2cost.table.training import TrainingTable, saved

PRECISIONS = {
    "fp32": (torch.float32, None),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "bf16": (torch.bfloat16, None),
}
"""A precision -> the dtype of the weights, and what autocast casts to."""
STAND_INS = {
    "flash_attn_func": "_scaled_dot_product_flash_attention",
    "flash_attn_backward": "_scaled_dot_product_flash_attention_backward",
}
"""Kernels of the flash-attn package -> torch's, which the trace has in their place."""


def unrolled(rows: Sequence[Row], layers: range) -> list[tuple[str, Kernel]]:
    """The kernels in the order in which they run, the block's once for each layer."""
    block = [row for row in rows if row.module.startswith("transformer.h")]
    first = rows.index(block[0])
    turns = [(re.sub(r"\.h\b", f".h.{layer}", row.module, count=1), row.step) for layer in layers for row in block]
    around = [(row.module, row.step) for row in rows if row not in block]
    steps = [*around[:first], *turns, *around[first:]]
    return [(module, step) for module, step in steps if isinstance(step, Kernel)]


def assert_equal(
    kernels: list[tuple[str, Kernel]], launches: list[Launch], sizes: dict[str, int], modules: bool
) -> None:
    launched = [(module, kernel) for module, kernel in kernels if kernel.when.evaluate(sizes)]
    assert [STAND_INS.get(kernel.op, kernel.op) for _, kernel in launched] == [launch.op for launch in launches]
    if modules:
        assert [module for module, _ in launched] == [launch.module for launch in launches]
    for (module, kernel), launch in zip(launched, launches, strict=True):
        where = f"{module} {kernel.name} {kernel.op}"
        assert_kernel_is(kernel, launch, sizes, where)
        if isinstance(kernel.shape, Gemm):
            # eager attention without a cache copies its keys transposed from two sequences on: not followed
            laid = zip(kernel.shape.layout, launch.layout, strict=True)
            assert kernel.kind == "bmm" or all(real in (own, "?") for own, real in laid), where


def saved_bytes(table: TrainingTable, sizes: dict[str, int]) -> int:
    return sum(
        each.tensor.bytes.evaluate(sizes) * each.count.evaluate(sizes)
        for each in saved(table)
        if each.when.evaluate(sizes)
    )
