"""`compile` of a training step as a transformation of its table: what torch.compile makes of forward and backward.

Nothing is typed in: the kernels of both passes are those of the table, merged by these rules.

* Products, fused attention and the gradients of embeddings are calls of libraries, or kernels of their own. Whatever
  lies between two of them, element-wise arithmetic, casts, copies, norms and losses, is one kernel: it reads what comes
  from outside once, and writes what is used outside.
* Sums over the tokens (gradients of biases; of the weights of a layer norm, which so has a second kernel) and what
  turns weights and their gradients from one dtype to another are kernels of their own.
* What a merged kernel of the backward pass needs of a merged one of the forward pass is computed anew from that one's
  operands; what a library's call needs is saved, and so are a norm's and a softmax's figures of each row. Masks of
  dropout are drawn anew.
* The end of a block and the beginning of the next are one kernel. Steps of the host are not run.
* What is launched at some sizes alone, as copies of several sequences are, is merged only with what reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import or_

from gpt2cost.table.formula import Formula, formula
from gpt2cost.table.fusion import common_module, compiled, fused_kind, joined_names
from gpt2cost.table.fusion_pieces import WEIGHT_GRADIENT, Piece, outputs_of, pieces_of, read_from_outside, reads_of
from gpt2cost.table.kernel import Kernel, Row, Tensor
from gpt2cost.table.symbols import f32
from gpt2cost.table.training import TrainingTable

_FIGURES = ("_log_softmax", "_softmax")
"""Ops of which two figures of each row are saved, from which their result is computed anew."""


def fuse_training(table: TrainingTable, a_bytes: int) -> TrainingTable:
    """The rows of both passes as compiled code launches them, each list numbered from 0.

    `a_bytes`: the size of an activation's element, which decides about casts.
    """
    forward, backward = (_kernels(rows, a_bytes) for rows in (table.forward, table.backward))
    ends = _ends(table.forward)
    first = _boundaries(pieces_of(forward), ends)
    second = _boundaries(pieces_of(backward), (f"{ends[1]}.grad", f"{ends[0]}.grad"))
    kept = {ends[1], f"{ends[0]}.grad"}
    first, second = _recompute(first, second, kept)
    rows = _rows([*first, *second], kept)
    return TrainingTable(compiled(rows[: len(first)]), compiled(rows[len(first) :]))


def _kernels(rows: Sequence[Row], a_bytes: int) -> list[Row]:
    """The rows of kernels that run where activations have elements of `a_bytes`."""
    known = {"a_bytes": formula(a_bytes), "stat_bytes": formula(4)}
    found = []
    for row in rows:
        if isinstance(row.step, Kernel):
            when = row.step.when.where(known)
            if when.any_of:
                found.append(replace(row, step=replace(row.step, when=when, in_module=False)))
    return found


def _ends(forward: Sequence[Row]) -> tuple[str, str]:
    """The names of what enters the repeated block and of what leaves it."""
    block = [row.step for row in forward if row.count != 1 and isinstance(row.step, Kernel)]
    return block[0].inputs[0].name, block[-1].outputs[0].name


# ---------------------------------------------------------------------------------------------- blocks


def _boundaries(parts: tuple[list[Piece], list[Piece], list[Piece]], ends: tuple[str, str]) -> list[Piece]:
    """One list of pieces, in which the runs at the end of a block and at the beginning of the next are one.

    Between the blocks there are as many of those as blocks, less one. `ends`: what enters a block and leaves it.
    """
    before, block, after = parts
    head, tail = _leading(block), _leading(block[::-1])
    if head is None or tail is None or head is tail:
        return [*before, *block, *after]
    inner = [piece for piece in block if piece is not head and piece is not tail]
    count = block[0].rows[0].count
    once = Piece(tuple(replace(row, count=formula(1)) for row in head.rows))
    end = Piece(tuple(replace(row, count=formula(1)) for row in tail.rows))
    entering = [_renamed(row, *ends) for row in head.rows]
    between = Piece(tuple(replace(row, count=count - 1) for row in (*tail.rows, *entering)))
    return [*_joined(before, once), *inner, between, *_joined([end], *after[:1]), *after[1:]]


def _leading(pieces: Sequence[Piece]) -> Piece | None:
    """The first run, if no library's call comes before it."""
    for piece in pieces:
        if piece.what != "own":
            return piece if piece.what == "run" else None
    return None


def _joined(pieces: Sequence[Piece], *following: Piece) -> list[Piece]:
    """The pieces, the last run among them in one with the run that follows it at once."""
    if not following:
        return list(pieces)
    (run,) = following
    last = next((piece for piece in reversed(pieces) if piece.what != "own"), None)
    if last is None or last.what != "run" or run.what != "run":
        return [*pieces, run]
    return [Piece((*piece.rows, *run.rows)) if piece is last else piece for piece in pieces]


def _renamed(row: Row, entry: str, leaving: str) -> Row:
    """A row of the next block, which reads what leaves this one."""
    assert isinstance(row.step, Kernel)
    inputs = tuple(
        replace(tensor, name=leaving, view_of="") if tensor.name == entry else tensor for tensor in row.step.inputs
    )
    return replace(row, step=replace(row.step, inputs=inputs))


# ---------------------------------------------------------------------------------------------- what is saved


def _recompute(forward: Sequence[Piece], backward: Sequence[Piece], kept: set[str]) -> tuple[list[Piece], list[Piece]]:
    """Both passes' pieces; those of the backward with what they compute anew of the forward's runs before their own
    kernels, and those of the forward with the figures that this needs.

    `kept`: what is there anyway.
    """
    makers = {
        tensor.name: row for piece in forward if piece.what == "run" for row in piece.rows for tensor in outputs_of(row)
    }
    made = {name for piece in (*forward, *backward) for name in piece.made}
    needed = [*forward, *(piece for piece in backward if piece.what == "library")]
    saved = {*kept, *(name for piece in needed for name in read_from_outside(piece, made))}
    saved |= {
        tensor.name for row in makers.values() for tensor in outputs_of(row)[1:] if not tensor.name.endswith(".mask")
    }
    result, figures = [], set()
    for piece in backward:
        anew: dict[int, Row] = {}
        for name in read_from_outside(piece, made) if piece.what != "library" else ():
            _ancestors(name, makers, saved, anew)
        rows = [_from_figures(row) for row in sorted(anew.values(), key=lambda row: row.index)]
        figures |= {row.index for row in anew.values()}
        masks = {tensor.name for row in makers.values() for tensor in outputs_of(row) if tensor.name.endswith(".mask")}
        own = [_without(row, masks) for row in piece.rows]
        result.append(replace(piece, rows=(*(replace(row, count=own[0].count) for row in rows), *own)))
    first = [replace(piece, rows=tuple(_with_figures(row, figures) for row in piece.rows)) for piece in forward]
    return first, result


def _ancestors(name: str, makers: dict[str, Row], saved: set[str], anew: dict[int, Row]) -> None:
    """Collect the forward rows of which `name` is computed anew, back to what is saved."""
    row = makers.get(name)
    if row is None or name in saved or row.index in anew or name.endswith(".mask"):
        return
    anew[row.index] = row
    for read in reads_of(row):
        _ancestors(read, makers, saved, anew)


def _from_figures(row: Row) -> Row:
    """A row of the forward pass in the backward one: a softmax reads its saved figures beside its operand."""
    kernel = row.step
    assert isinstance(kernel, Kernel)
    outputs, inputs = kernel.outputs, kernel.inputs
    if kernel.op in _FIGURES:
        inputs = (*inputs, _figures(kernel))
    elif kernel.op == "native_layer_norm":
        inputs, outputs = (*inputs, *outputs[1:]), outputs[:1]
    return replace(row, step=replace(kernel, inputs=inputs, outputs=outputs))


def _figures(softmax: Kernel) -> Tensor:
    made = softmax.outputs[0]
    return Tensor(f"{made.name}.figures", (formula(2), *made.shape[:-1]), f32)


def _with_figures(row: Row, computed_anew: set[int]) -> Row:
    """A softmax of the forward pass, which also writes its figures where its result is computed anew."""
    kernel = row.step
    assert isinstance(kernel, Kernel)
    if kernel.op not in _FIGURES or row.index not in computed_anew:
        return row
    return replace(row, step=replace(kernel, outputs=(*kernel.outputs, _figures(kernel))))


def _without(row: Row, names: set[str]) -> Row:
    """A row that does not read those tensors."""
    assert isinstance(row.step, Kernel)
    inputs = tuple(tensor for tensor in row.step.inputs if tensor.name not in names)
    return replace(row, step=replace(row.step, inputs=inputs))


# ---------------------------------------------------------------------------------------------- rows


def _rows(pieces: Sequence[Piece], kept: set[str]) -> list[Row]:
    """One row for each piece of both passes. `kept`: names of what is used in another block."""
    made = {name for piece in pieces for name in piece.made}
    uses: dict[str, set[int]] = {name: {-1} for name in kept}
    for number, piece in enumerate(pieces):
        for name in read_from_outside(piece, made):
            uses.setdefault(name, set()).add(number)
    rows = []
    for number, piece in enumerate(pieces):
        outside = {name for name, users in uses.items() if users - {number}}
        rows.append(piece.rows[0] if piece.what == "library" else _one(piece, outside))
    return rows


def _one(piece: Piece, outside: set[str]) -> Row:
    """The kernel that a run becomes. `outside`: names of what is used elsewhere; gradients of weights always are."""
    kernels, last = piece.kernels, piece.rows[-1]
    inputs: dict[str, Tensor] = {}
    made: set[str] = set()
    for kernel in kernels:
        for tensor in kernel.inputs:
            if tensor.name not in made and (tensor.view_of not in made or not tensor.view_of):
                inputs.setdefault(tensor.name, tensor)
        made |= {tensor.name for tensor in kernel.outputs}
    outputs = {
        tensor.name: tensor
        for kernel in kernels
        for tensor in kernel.outputs
        if tensor.name in outside or WEIGHT_GRADIENT.search(tensor.name) or tensor.name == "loss"
    }
    flops: Formula = sum((kernel.flops for kernel in kernels), formula(0))
    if len(kernels) == 1:
        return replace(last, step=replace(kernels[0], outputs=tuple(outputs.values()), fusion_group=""))
    module = common_module(row.module for row in piece.rows)
    names = [row.step.name or row.path.rpartition(".")[2] for row in piece.rows]
    if piece.what == "own":  # there are several of a kind in a block: of each layer norm, of each linear layer
        names = [row.path.removeprefix(f"{module}.") for row in piece.rows]
    kernel = replace(
        kernels[-1],
        name=joined_names(names),
        op="+".join(kernel.op for kernel in kernels),
        kind=fused_kind(kernel.kind for kernel in kernels),
        inputs=tuple(inputs.values()),
        outputs=tuple(outputs.values()),
        flops=flops,
        when=reduce(or_, (kernel.when for kernel in kernels)),
        columns=next((kernel.columns for kernel in kernels if kernel.columns is not None), None),
        fusion_group="",
        parts=piece.rows,
    )
    return replace(last, module=module, step=kernel)
