"""A part of some work, such as the third of 16: contiguous, so that the parts in order are the whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gpt2cost.errors import InputError, echo
from gpt2cost.prediction.blocks import Block

T = TypeVar("T")
MOST = 10**6


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, from 1 on."""

    number: int = 1
    count: int = 1

    def bounds(self, total: int) -> tuple[int, int]:
        """The first of `total` things that belong to it, and the first after them."""
        return (self.number - 1) * total // self.count, self.number * total // self.count

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Its part of some things."""
        first, end = self.bounds(len(items))
        return items[first:end]


WHOLE = Shard()


def parse_shard(text: object) -> Shard:
    """The shard that text such as `3/16` names. Raises `InputError` for anything else."""
    match = re.fullmatch(r"\s*([0-9]{1,7})\s*/\s*([0-9]{1,7})\s*", text, re.ASCII) if isinstance(text, str) else None
    if match and 1 <= int(match[1]) <= int(match[2]) <= MOST:
        return Shard(int(match[1]), int(match[2]))
    raise InputError(f"shard: expected a part such as 3/16, from 1/16 to 16/16, got {echo(text)}")


def within(block: Block, first: int, bounds: tuple[int, int], of_points: int) -> Block:
    """The rows of a block whose points are in `bounds`; `first`: the number of the block's first point.

    The last `len(shape) - of_points` axes of a block are rows of one point.
    """
    low, end = bounds
    if low <= first and first + block.points <= end:
        return block
    places = first + np.arange(block.points).reshape(block.shape[:of_points])
    inside: Any = (low <= places) & (places < end)
    keep = np.broadcast_to(block.keep, block.shape) & inside.reshape(
        *inside.shape, *[1] * (len(block.shape) - of_points)
    )
    return Block(block.columns, block.shape, keep, int(np.sum(inside)))
