"""The order of a sweep's rows: sorted by a column, and the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gpt2cost.errors import InputError, nearest
from gpt2cost.prediction.blocks import BLOCK_ROWS, Block


def check_column(name: str, columns: Sequence[str]) -> None:
    """Raise `InputError` unless a sweep has the column that `name`, with or without a leading `-`, means."""
    if name.removeprefix("-") not in columns:
        hint = nearest(name.removeprefix("-"), columns) or f"known: {', '.join(columns)}"
        raise InputError(f"sort: no column {name.removeprefix('-')!r}; {hint}")


def ordered(blocks: Iterable[Block], column: str | None, top: int | None) -> Iterator[Block]:
    """Blocks with their rows sorted by `column` (`-column`: largest first), and the first `top` of them alone.

    Without a column the order stays. With one, all rows are held, or `top` of them.
    """
    if column is None:
        yield from blocks if top is None else _first(blocks, top)
        return
    held: list[Block] = []
    waiting = 0
    for block in blocks:
        held.append(_flattened([block]))
        waiting += held[-1].shape[0]
        if top is not None and waiting > 2 * max(top, BLOCK_ROWS):
            whole = _flattened(held)
            held = [_taken(whole, _order(whole, column, top))]
            waiting = held[0].shape[0]
    if held:
        whole = _flattened(held)
        held.clear()
        order = _order(whole, column, top)
        for start in range(0, len(order), BLOCK_ROWS):
            yield _taken(whole, order[start : start + BLOCK_ROWS])


def _first(blocks: Iterable[Block], top: int) -> Iterator[Block]:
    for block in blocks:
        flat = _flattened([block])
        yield Block({name: values[:top] for name, values in flat.columns.items()}, (min(top, flat.shape[0]),), True, 0)
        top -= flat.shape[0]
        if top <= 0:
            return


def _flattened(parts: list[Block]) -> Block:
    """Several blocks as one of flat columns."""

    def flat(block: Block, name: str) -> Any:
        values = np.asarray(block.columns[name])
        return block.spread(values.astype(object) if values.dtype.kind == "U" else values)  # one pointer a row

    columns = {name: np.concatenate([flat(block, name) for block in parts]) for name in parts[0].columns}
    return Block(columns, (len(columns["phase"]),), True, sum(block.points for block in parts))


def _order(block: Block, column: str, top: int | None) -> Any:
    """The places of the rows in sorted order, the first `top` of them; equal rows stay in their order."""
    ranks = np.unique(block.columns[column.removeprefix("-")], return_inverse=True)[1]
    return np.argsort(-ranks if column.startswith("-") else ranks, kind="stable")[:top]


def _taken(block: Block, places: Any) -> Block:
    return Block({name: values[places] for name, values in block.columns.items()}, (len(places),), True, 0)
