"""Activation checkpointing of each block: its input is kept, and its forward pass run again before its backward.

`torch.utils.checkpoint(use_reentrant=False)`, as transformers' `gradient_checkpointing_enable` and others call it. The
second forward stops as soon as all that autograd saves has been made again: what comes after, such as the block's last
sum, is not run again. Weights are cast again under autocast; the state of the random numbers is the host's affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gpt2cost.table.autograd import node_of
from gpt2cost.table.kernel import Free, Kernel, Row, numbered

AGAIN = "recompute"
"""What the kernels of the second forward are called, after their own names."""


def is_recomputed(row: Row) -> bool:
    """Whether a row of a backward pass runs a kernel of the forward again."""
    return row.step.name.rpartition(".")[2] == AGAIN


def checkpointed(forward: Sequence[Row], backward: Sequence[Row]) -> tuple[Row, ...]:
    """The backward pass with the forward of each block, once the first of its nodes asks for a tensor of it.

    Numbered from 0.
    """
    block = [index for index, row in enumerate(backward) if row.count != 1]
    first = next(index for index in block if _saved(backward[index]))
    again = _again([row for row in forward if row.count != 1], [backward[index] for index in block])
    return numbered([*backward[:first], *again, *backward[first:]])


def _again(forward: Sequence[Row], backward: Sequence[Row]) -> Iterator[Row]:
    """The rows of a block's forward until all that its backward reads has been made."""
    last = 0
    for index, row in enumerate(forward):
        node = [each for each in backward if node_of(each) == (row.module, row.step.name)]
        saved = set().union(*map(_saved, node))
        if saved and isinstance(row.step, Kernel):
            last = index + 1 if saved & {tensor.name for tensor in row.step.outputs} else index
    variables = [row for row in forward[last:] if isinstance(row.step, Free) and row.step.keeps]
    for row in (*forward[:last], *variables):
        yield replace(row, step=_named_again(row.step))


def _saved(row: Row) -> set[str]:
    """The names of what a backward kernel reads of the forward."""
    inputs = row.step.inputs if isinstance(row.step, Kernel) else ()
    return {tensor.name for tensor in inputs if ".grad" not in tensor.name}


def _named_again(step: Kernel | Free) -> Kernel | Free:
    if isinstance(step, Free):
        return replace(step, name=f"{step.name}.{AGAIN}")
    return replace(step, name=".".join(filter(None, (step.name, AGAIN))))
