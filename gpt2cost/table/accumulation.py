"""Gradient accumulation: from the second micro-step on, each gradient of a weight is added to that of the ones before.

The addition runs as soon as the node of autograd that has made a gradient is through: the engine takes an
`AccumulateGrad` before all other work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from gpt2cost.table.autograd import node_of, weight_gradients
from gpt2cost.table.builders import pointwise
from gpt2cost.table.kernel import Kernel, Row, Tensor, numbered
from gpt2cost.table.training import TrainingTable


def accumulating(table: TrainingTable) -> TrainingTable:
    """The table of a micro-step after the first one."""
    rows = _accumulating(table.backward, weight_gradients(table.forward, table.backward))
    return TrainingTable(table.forward, numbered(rows))


def accumulation_rows(table: TrainingTable) -> tuple[Row, ...]:
    """What a micro-step after the first one launches beyond its table, one kernel a weight; numbered from 0."""
    return numbered(row for row in accumulating(table).backward if row.step.name.startswith("accumulate_"))


def _accumulating(backward: Sequence[Row], gradients: frozenset[str]) -> Iterator[Row]:
    """The rows with an `add_` for each weight behind the node that makes its gradient, and the engine's sums.

    The gradients of an op's operands go on in the operands' order, in which a bias, of which the kernel runs last, is
    before the weight.
    """

    def ready(rows: Sequence[Row]) -> Iterator[Row]:
        for row in reversed(rows):
            for tensor in row.step.outputs if isinstance(row.step, Kernel) else ():
                if tensor.name in gradients:
                    yield _add(row, tensor)

    waiting: list[Row] = []
    for node, group in groupby(backward, key=node_of):
        rows = list(group)
        for row in rows if node is None else ():  # sums belong to the node before them
            if not row.step.name.endswith(".add"):
                yield from ready(waiting)
                waiting = []
            yield row
            waiting.append(row)
        if node is not None:
            yield from ready(waiting)
            yield from rows
            waiting = rows
    yield from ready(waiting)


def _add(row: Row, gradient: Tensor) -> Row:
    """The addition of a weight's gradient to `.grad`."""
    total = Tensor(f"{gradient.name}.total", gradient.shape, gradient.element)
    leaf = gradient.name.removesuffix(".grad").rpartition(".")[2]
    assert isinstance(row.step, Kernel)
    return replace(row, step=pointwise(f"accumulate_{leaf}", "add_", (total, gradient), total, row.step.source))
