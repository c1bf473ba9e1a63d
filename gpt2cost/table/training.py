"""The training table: the kernels of one micro-step, forward with its loss and backward, as rows of the cost table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from gpt2cost.table.autocast import autocast
from gpt2cost.table.backward import backward
from gpt2cost.table.checkpointing import checkpointed
from gpt2cost.table.derivatives import DERIVATIVES
from gpt2cost.table.formula import NEVER, Condition, Formula, formula
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, Row, Tensor, walk
from gpt2cost.table.narrowed import NO_PAST, narrowed
from gpt2cost.table.options import Checkpointing, TableOptions


@dataclass(frozen=True, eq=False)
class TrainingTable:
    """The rows of one micro-step, each list numbered from 0. Rows of the repeated block have the count num_layers."""

    forward: tuple[Row, ...]
    backward: tuple[Row, ...]


@lru_cache(maxsize=64)
def training_table(options: TableOptions, checkpointing: Checkpointing = "none") -> TrainingTable:
    """The kernels of one micro-step of what `options` describe, in the order in which they run.

    With checkpointing, transformers uses no cache. Raises `InputError` for what is not modelled.
    """
    checkpoints = checkpointing == "block"
    model = cost_table(replace(options, train=True, use_cache=options.use_cache and not checkpoints))
    forward = narrowed(walk(autocast(model) if options.autocast else model), NO_PAST)
    gradients = backward(forward, DERIVATIVES, options.autocast, options.tied)
    return TrainingTable(forward, checkpointed(forward, gradients) if checkpoints else gradients)


@dataclass(frozen=True)
class Saved:
    """A forward tensor that lives until its backward: the bytes of its storage, in which layers, and when."""

    tensor: Tensor
    count: Formula
    when: Condition


def saved(table: TrainingTable) -> tuple[Saved, ...]:
    """What autograd saves beyond the parameters, each storage once: what the backward's kernels read of the forward.

    A view keeps the whole storage that it lies in. A tensor that is copied at some sizes only lies, at the others, in
    what it is a view of: then the two come with conditions of which one holds. A block's own input is saved once in
    each layer, so `hidden_states` counts as many storages as there are layers; the last block's output is another.
    Checkpointing keeps what a block is called with; the rest its second forward makes anew.
    """
    kernels = [row.step for row in table.forward if isinstance(row.step, Kernel)]
    known = {tensor.name: tensor for kernel in kernels for tensor in kernel.inputs if not tensor.is_weight}
    made: dict[str, Condition] = {}
    for kernel in kernels:
        for tensor in kernel.outputs:
            known[tensor.name] = tensor
            made[tensor.name] = made[tensor.name] | kernel.when if tensor.name in made else kernel.when
    found: dict[str, Saved] = {}

    def keep(tensor: Tensor, count: Formula, when: Condition) -> None:
        own, base = made.get(tensor.name, NEVER), known.get(tensor.view_of)
        if base is not None:
            if not when.excludes(~own):
                keep(base, count, when & ~own)
            when = when & own
        if when.any_of:
            there = found.get(tensor.name)
            found[tensor.name] = replace(there, when=there.when | when) if there else Saved(tensor, count, when)

    in_block = {tensor.name for row in table.forward if row.count != 1 for tensor in _outputs(row)}
    again = {tensor.name for row in table.backward for tensor in _outputs(row)}
    for row in table.backward:
        for tensor in row.step.inputs if isinstance(row.step, Kernel) else ():
            stored = tensor.name if tensor.name in made else tensor.view_of or tensor.name
            if tensor.name in known and stored not in again:
                each = {tensor.name, tensor.view_of} & in_block
                keep(known[tensor.name], row.count if each else formula(1), row.step.when)
    return tuple(found.values())


def _outputs(row: Row) -> tuple[Tensor, ...]:
    return row.step.outputs if isinstance(row.step, Kernel) else ()
