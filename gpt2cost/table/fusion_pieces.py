"""Where compiled code of a training step is cut: into calls of libraries, merged kernels between them, and others.

Products, fused attention and the gradients of embeddings are calls of libraries, or kernels of their own. Whatever lies
between two of them is a run, which becomes one kernel. Sums over the tokens, and what turns weights and their gradients
from one dtype to another, are kernels of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from gpt2cost.table.formula import ALWAYS, Condition
from gpt2cost.table.kernel import Kernel, Row, Tensor

SCATTER = "index_put_"
"""The op of an embedding's gradient in compiled code: zeros, to whose rows those of the tokens are added."""
_LIBRARY = ("gemm", "bmm", "attention")
WEIGHT_GRADIENT = re.compile(r"\.(weight|bias)\.grad(\.\d+)?")


@dataclass(frozen=True)
class Piece:
    """Kernels that become one: a library's call, a run between two of them, or a kernel of its own."""

    rows: tuple[Row, ...]
    what: Literal["library", "run", "own"] = "run"

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(row.step for row in self.rows if isinstance(row.step, Kernel))

    @property
    def made(self) -> set[str]:
        return {tensor.name for kernel in self.kernels for tensor in kernel.outputs}


def pieces_of(rows: Sequence[Row]) -> tuple[list[Piece], list[Piece], list[Piece]]:
    """The pieces before the repeated block, in it, and after it."""
    repeated = [number for number, row in enumerate(rows) if row.count != 1]
    first, last = repeated[0], repeated[-1] + 1
    before, block, after = (_pieces(part) for part in (rows[:first], rows[first:last], rows[last:]))
    return before, block, after


def _pieces(rows: Sequence[Row]) -> list[Piece]:
    """The pieces of some rows, in order. A kernel of its own that needs a run comes after it."""
    pieces: list[Piece] = []
    run: list[Row] = []
    later: list[Row] = []

    def flush() -> None:
        read = {name for row in run for name in reads_of(row)}
        apart = [row for row in run if _when(row) != ALWAYS and read.isdisjoint(t.name for t in outputs_of(row))]
        if joined := tuple(row for row in run if row not in apart):
            pieces.append(Piece(joined))
        pieces.extend(Piece(tuple(same)) for _, same in groupby(apart, _when))
        pieces.extend(_alone(later))
        run.clear()
        later.clear()

    for row in rows:
        kernel = row.step
        assert isinstance(kernel, Kernel)
        if kernel.kind in _LIBRARY or kernel.op in ("embedding_dense_backward", "index_put"):
            flush()
            pieces.append(Piece((_library(row),), "library"))
        elif kernel.op == "native_layer_norm_backward":
            run.append(replace(row, step=_of_input(kernel)))
            casts = [other for other in run if _is_cast(other) and outputs_of(other)[0].name == kernel.inputs[0].name]
            later.extend((*casts, replace(row, step=_of_weights(kernel))))
        elif kernel.op == "sum" or _is_of_weights(kernel):
            later.append(row)
        else:
            run.append(row)
    flush()
    return pieces


def _when(row: Row) -> Condition:
    assert isinstance(row.step, Kernel)
    return row.step.when


def _library(row: Row) -> Row:
    """A library's call; or the scatter of an embedding's gradient."""
    kernel = row.step
    assert isinstance(kernel, Kernel)
    return replace(row, step=replace(kernel, op=SCATTER)) if kernel.op == "embedding_dense_backward" else row


def _alone(rows: Sequence[Row]) -> list[Piece]:
    """Kernels of their own; a cast of what one of them makes or needs is part of it."""
    groups: list[list[Row]] = []
    for row in rows:
        reads = reads_of(row)
        home = next((group for group in groups if reads & {t.name for made in group for t in outputs_of(made)}), None)
        if home is not None and (_is_cast(row) or _is_cast(home[-1])):
            home.append(row)
        else:
            groups.append([row])
    return [Piece(tuple(group), "own") for group in groups]


def _is_of_weights(kernel: Kernel) -> bool:
    """Whether it casts weights, or casts or adds their gradients."""
    if all(tensor.is_weight for tensor in kernel.inputs) and kernel.op == "_to_copy":
        return True
    return any(WEIGHT_GRADIENT.search(tensor.name) for tensor in kernel.outputs)


def _is_cast(row: Row) -> bool:
    return isinstance(row.step, Kernel) and row.step.op == "_to_copy"


def _of_input(kernel: Kernel) -> Kernel:
    """The part of a layer norm's backward that makes the gradient of its input, row by row."""
    return replace(kernel, outputs=kernel.outputs[:1])


def _of_weights(kernel: Kernel) -> Kernel:
    """Its other part: sums over the tokens, from the same operands."""
    name = ".".join(filter(None, (kernel.name, "weights")))
    inputs = tuple(tensor for tensor in kernel.inputs if not tensor.is_weight)
    return replace(kernel, name=name, op="sum", inputs=inputs, outputs=kernel.outputs[1:], columns=None)


def outputs_of(row: Row) -> tuple[Tensor, ...]:
    return row.step.outputs if isinstance(row.step, Kernel) else ()


def reads_of(row: Row) -> set[str]:
    """The names of what a row reads; of a view that no kernel makes here, the tensor that it lies in too."""
    inputs = row.step.inputs if isinstance(row.step, Kernel) else ()
    return {name for tensor in inputs for name in (tensor.name, tensor.view_of) if name}


def read_from_outside(piece: Piece, made: set[str]) -> set[str]:
    """What a piece reads that it does not make. `made`: by any kernel; what is not is a view of what is."""
    own: set[str] = set()
    found: set[str] = set()
    for kernel in piece.kernels:
        names = {t.name if t.name in made else t.view_of or t.name for t in kernel.inputs if not t.is_weight}
        found |= names - own
        own |= {tensor.name for tensor in kernel.outputs}
    return found
