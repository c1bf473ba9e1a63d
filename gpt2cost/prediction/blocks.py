"""Rows of a sweep in blocks of columns, which keep the shape that they depend on until they are written.

`host_s` of a block of (batch, seq, cache) may be an array of (1, seq, cache), a name just text.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from gpt2cost.result import Result

Column: TypeAlias = Any
"""A scalar, or an array that broadcasts to its block's shape."""
Task: TypeAlias = tuple[Any, Any, int]
"""A choice of everything but sizes, a part of the sizes, and the number of its first point."""
EXACT = 2.0**53
"""Up to here a float64 holds every integer."""
BLOCK_ROWS = 1 << 14
"""Rows that are evaluated together: enough for numpy, and little memory."""


@dataclass(frozen=True)
class Block:
    """Rows in the order of the flattened `shape`, without those where `keep` is false. `points`: of the grid."""

    columns: Mapping[str, Column]
    shape: tuple[int, ...]
    keep: Any
    points: int

    def flat(self, name: str) -> Any:
        """A column as an array of one element per row."""
        return self.spread(np.asarray(self.columns[name]))

    def spread(self, values: Any) -> Any:
        """An array that broadcasts to `shape`, as one element per row."""
        full = np.broadcast_to(values, self.shape)
        return full.ravel() if self.keep is True else full[np.broadcast_to(self.keep, self.shape)]

    @property
    def rows(self) -> int:
        return int(np.sum(np.broadcast_to(self.keep, self.shape)))


class Rows(Result):
    """Base of the sweeps. To go through one gives the rows, made as they are asked for.

    `inputs`: the columns that say what was asked for.
    """

    shown_by = "sweep"

    inputs: ClassVar[tuple[str, ...]]
    grid: Any
    choices: Sequence[Any]
    kernels: bool
    warnings: tuple[str, ...]
    shard: Any

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The keys of the rows."""

    @property
    def points(self) -> int:
        """How many points of the grid are evaluated."""
        first, end = self.bounds
        return end - first

    @property
    def bounds(self) -> tuple[int, int]:
        """The first point of the grid that is evaluated, and the first after them."""
        bounds: tuple[int, int] = self.shard.bounds(self.sizes * len(self.choices))
        return bounds

    @property
    def sizes(self) -> int:
        """How many points each choice has."""
        return int(self.grid.sizes)

    @abstractmethod
    def tasks(self) -> Iterator[Task]:
        """What there is to evaluate, block by block, in order."""

    @abstractmethod
    def block(self, task: Task) -> Block:
        """The rows of one of the tasks."""

    def blocks(self) -> Iterator[Block]:
        """The rows, block by block, in constant memory."""
        return map(self.block, self.tasks())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(map(block_rows, self.blocks()))

    def columns(self) -> dict[str, Any]:
        """All rows as one array per column, of shape (rows,), as pandas, polars and pyarrow take them."""
        blocks = list(self.blocks())
        return {name: np.concatenate([block.flat(name) for block in blocks]) for name in self.names}


def block_rows(block: Block) -> Iterator[dict[str, Any]]:
    """A block's rows as dictionaries of plain Python values."""
    columns = [block.flat(name).tolist() for name in block.columns]
    return (dict(zip(block.columns, values, strict=True)) for values in zip(*columns, strict=True))


def whole(values: Any) -> Any:
    """Floats that are whole numbers as integers, unless one is so large that a float no longer holds every integer."""
    array = np.asarray(values)
    return array.astype(np.int64) if array.dtype.kind == "f" and np.max(array) <= EXACT else array
