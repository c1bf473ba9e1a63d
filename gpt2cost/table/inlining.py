"""What a compiler computes anew wherever it is read, rather than writing it: the numbers of tokens, and masks of them.

Inductor writes a value that is pointwise and cheap only where something needs it in memory: a product, a fused
attention kernel, a scan, a result. Others read the values that it is made of, and make it themselves.

A mask that fused attention reads is written in each layer. Where it is made of a tensor (padding, packed sequences),
Inductor writes those of three to five layers by one kernel. It is counted as a launch of each; the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpt2cost.table.formula import formula
from gpt2cost.table.kernel import Kernel, Row, numbered

NUMBERS, MASK = "numbers", "mask"
"""The fusion groups of kernels that are computed where they are read."""


def inlined(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows without such kernels; each kernel that reads what they make is made of them too.

    Of two kernels that make the same at different sizes the last counts. `rows` are numbered anew.
    """
    makers: dict[str, Row] = {}
    kept: list[Row] = []
    for row in rows:
        step = row.step
        if isinstance(step, Kernel) and step.fusion_group in (NUMBERS, MASK):
            makers |= {tensor.name: row for tensor in step.outputs}
        elif isinstance(step, Kernel) and (made_of := _made_of(step, makers)):
            kept.append(replace(row, step=_with(made_of, row, step)))
        else:
            kept.append(row)
    return numbered(kept)


def _made_of(kernel: Kernel, makers: dict[str, Row]) -> list[Row]:
    """The rows that make what a kernel reads, and what those read, each once and in their order."""
    found: dict[int, Row] = {}
    left = [kernel]
    while left:
        for tensor in left.pop().inputs:
            maker = makers.get(tensor.name) or makers.get(tensor.view_of)
            if maker is not None and maker.index not in found:
                found[maker.index] = maker
                assert isinstance(maker.step, Kernel)
                left.append(maker.step)
    return [found[index] for index in sorted(found)]


def _with(made_of: list[Row], row: Row, kernel: Kernel) -> Kernel:
    """A kernel that also does what others did: under its own name, it writes what it wrote."""
    steps = [*(other.step for other in made_of if isinstance(other.step, Kernel)), kernel]
    made = {tensor.name for step in steps[:-1] for tensor in step.outputs}
    inputs = dict.fromkeys(t for step in steps for t in step.inputs if made.isdisjoint((t.name, t.view_of)))
    return replace(
        kernel,
        op="+".join(step.op for step in steps),
        inputs=tuple(inputs),
        flops=sum((step.flops for step in steps), formula(0)),
        parts=(*made_of, row),
    )
