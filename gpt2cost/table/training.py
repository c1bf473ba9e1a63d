"""The training table: the kernels of one micro-step, forward with its loss and backward, as rows of the cost table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Row, walk
from gpt2cost.table.options import Checkpointing, TableOptions


@dataclass(frozen=True, eq=False)
class TrainingTable:
    """The rows of one micro-step, each list numbered from 0. Rows of the repeated block have the count num_layers."""

    forward: tuple[Row, ...]
    backward: tuple[Row, ...]


@lru_cache(maxsize=64)
def training_table(options: TableOptions, checkpointing: Checkpointing = "none") -> TrainingTable:
    """The kernels of one micro-step of what `options` describe, in the order in which they run."""
    return TrainingTable(tuple(walk(cost_table(options))), ())
