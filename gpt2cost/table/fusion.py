"""`compile` as a transformation of the table: neighbours of one fusion group become one kernel.

What is merged is derived, not typed in. A tensor that is made and last used inside a fusion is never written, what
comes from outside is read once, and the FLOPs are the sum. The residual add at the end of a block and the layer norm
at the beginning of the next are neighbours too, so the repeated block is turned: its first kernels move to the end of
the block before it (the first block's to the rows before the loop), and the last turn takes the place of `ln_f`.
What is computed where it is read is no kernel of its own: see `table.inlining`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from gpt2cost.table.formula import formula
from gpt2cost.table.inlining import inlined
from gpt2cost.table.kernel import Free, Kernel, Kind, Row, Tensor, numbered

_KIND_OF_A_FUSION: tuple[Kind, ...] = ("reduction", "elementwise", "gather", "fill")


def fuse(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows of a table as a compiler launches them.

    `rows` are the rows before the repeated block, those of the block, and those after it. Rows keep their order, but
    for the embeddings, which come last before the first block; host-only steps stay, though compiled code does not run
    them. The result is numbered from 0.
    """
    rows = inlined(rows)
    repeated = [row for row in rows if row.count != 1]
    first = repeated[0].index
    before, block, after = list(rows[:first]), repeated, rows[first + len(repeated) :]
    lent = _leading_group(block)
    if not lent or _group(_kernels(block)[-1]) != _group(lent[-1]) != _group(_kernels(after)[0]):
        return compiled([*_merge(before, rows), *_merge(block, rows), *_merge(after, rows)])
    entry, exit_ = _boundary(lent, block)
    at_the_end = [replace(_renamed(row, entry, exit_), index=len(rows) + row.index) for row in lent]
    head = [replace(row, count=formula(1)) for row in lent]
    turned = [*(row for row in block if row not in lent), *at_the_end]
    rest = [row for row in after if row not in _leading_group(after)]
    before.sort(key=lambda row: _group(row) == _group(lent[0]))  # embeddings last
    scope = [*before, *turned, *rest, *block]
    return compiled([*_merge([*before, *head], scope), *_merge(turned, scope, keep={exit_.name}), *_merge(rest, scope)])


def compiled(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows numbered from 0, whose kernels are a compiler's."""
    return numbered(
        [replace(row, step=replace(row.step, compiled=True)) if isinstance(row.step, Kernel) else row for row in rows]
    )


def _group(row: Row) -> str:
    return row.step.fusion_group if isinstance(row.step, Kernel) else ""


def _kernels(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if isinstance(row.step, Kernel)]


def _leading_group(rows: Sequence[Row]) -> list[Row]:
    """The kernels of the first fusion group, if the rows begin with one."""
    kernels = _kernels(rows)
    run = next((list(run) for _, run in groupby(kernels, _group)), [])
    return run if run and _group(run[0]) else []


def _boundary(lent: list[Row], block: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """The tensor that enters the block, and the one that leaves it: the same one, a block later."""
    first, last = lent[0].step, _kernels(block)[-1].step
    assert isinstance(first, Kernel)
    assert isinstance(last, Kernel)
    return first.inputs[0], last.outputs[0]


def _renamed(row: Row, old: Tensor, new: Tensor) -> Row:
    assert isinstance(row.step, Kernel)
    return replace(row, step=replace(row.step, inputs=tuple(new if t == old else t for t in row.step.inputs)))


def _merge(rows: Sequence[Row], scope: Sequence[Row], keep: Iterable[str] = ()) -> list[Row]:
    """`rows` with each run of neighbours of one group merged; `scope` says which tensors are needed elsewhere."""
    merged: list[Row] = []
    run: list[Row] = []

    def flush() -> None:
        if run:
            merged.append(run[0] if len(run) == 1 else _fused(run, scope, set(keep)))
            run.clear()

    for row in rows:
        if isinstance(row.step, Free) and row.step.op != "sync":
            merged.append(row)
            continue
        if not _group(row) or (run and (_group(row), row.step.when) != (_group(run[-1]), run[-1].step.when)):
            flush()
        if _group(row):
            run.append(row)
        else:
            merged.append(row)
    flush()
    return merged


def _fused(run: list[Row], scope: Sequence[Row], keep: set[str]) -> Row:
    """One kernel for a run of them."""
    steps = [row.step for row in run if isinstance(row.step, Kernel)]
    made = {tensor.name for step in steps for tensor in step.outputs}
    inside = {row.index for row in run}
    needed = keep | {t.name for row in scope if row.index not in inside for t in _uses(row)}
    inputs = dict.fromkeys(t for step in steps for t in step.inputs if t.name not in made)
    outputs = dict.fromkeys(t for step in steps for t in step.outputs if t.name in needed)
    kernel = replace(
        steps[0],
        name=joined_names([row.step.name or row.path.rpartition(".")[2] for row in run]),
        op="+".join(step.op for step in steps),
        kind=fused_kind(step.kind for step in steps),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        flops=sum((step.flops for step in steps), formula(0)),
        columns=next((step.columns for step in steps if step.columns is not None), None),
        in_module=False,
        parts=tuple(part for row in run for part in parts_of(row)),
    )
    return replace(run[-1], module=common_module(row.module for row in run), step=kernel)


def fused_kind(kinds: Iterable[Kind]) -> Kind:
    """What the kernel is that kernels of these kinds become; "copy" where there is nothing but copies."""
    there = set(kinds)
    return next((kind for kind in _KIND_OF_A_FUSION if kind in there), "copy")


def parts_of(row: Row) -> tuple[Row, ...]:
    """The rows that a row is made of: itself, where a compiler has merged none in it."""
    return (isinstance(row.step, Kernel) and row.step.parts) or (row,)


def _uses(row: Row) -> tuple[Tensor, ...]:
    return row.step.inputs if isinstance(row.step, Kernel) else ()


def joined_names(names: list[str]) -> str:
    """The names of a run in one: `causal_mask.q_arange`, `causal_mask.le` are `causal_mask.q_arange+le`."""
    prefixes = {name.rpartition(".")[0] for name in names}
    shared = next(iter(prefixes)) + "." if len(prefixes) == 1 and "" not in prefixes else ""
    return shared + "+".join(name.removeprefix(shared) for name in names)


def common_module(modules: Iterable[str]) -> str:
    """The innermost module that all are in."""
    split = [module.split(".") for module in modules]
    shared = []
    for names in zip(*split, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)
