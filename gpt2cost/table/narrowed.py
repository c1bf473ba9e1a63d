"""The rows of a table where some of its symbols are known: those of a phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from gpt2cost.table.formula import Condition, Formula
from gpt2cost.table.kernel import Free, FusedAttention, Gemm, Kernel, Row, Tensor
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import C, T

Known: TypeAlias = Mapping[str, Formula | int]
"""Symbols -> what they are."""
NO_PAST: Known = {"cache_len": 0, "kv_len": T}
"""There are no tokens before a pass's own, and it attends to those."""


def of_phase(rows: Iterable[Row], phase: str, options: TableOptions) -> tuple[Row, ...]:
    """The rows of a prefill on an empty cache, or of a step of one token on a cache whose length stays a symbol.

    A static cache has a length of its own, kv_len. Without a cache every step is a prefill.
    """
    is_static = options.cache_type == "static"
    if phase == "prefill" or not options.use_cache:
        return narrowed(rows, {"cache_len": 0} if is_static else NO_PAST)
    step: Known = {"seq_len": 1} if is_static else {"seq_len": 1, "kv_len": C + 1}
    return narrowed(rows, step, {"cache_len": 1})


def narrowed(rows: Iterable[Row], known: Known, least: Mapping[str, int] | None = None) -> tuple[Row, ...]:
    """The rows where some symbols are known, without those that are never launched there; numbered from 0.

    `least`: what other symbols are at least.
    """
    kept: list[Row] = []
    for row in rows:
        when = row.step.when.where(known)
        if least is not None:
            when = when.given(least)
        if when.any_of:
            kept.append(replace(row, step=_step(row.step, when, known), index=len(kept)))
    return tuple(kept)


def _step(step: Kernel | Free, when: Condition, known: Known) -> Kernel | Free:
    def at(size: Formula) -> Formula:
        return size.where(known)

    def tensors(listed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Those of them that are not empty."""
        sized = (replace(tensor, shape=tuple(map(at, tensor.shape))) for tensor in listed)
        return tuple(tensor for tensor in sized if tensor.bytes)

    if isinstance(step, Free):
        keeps, inputs, outputs = map(tensors, (step.keeps, step.inputs, step.outputs))
        return replace(step, when=when, keeps=keeps, inputs=inputs, outputs=outputs)
    shape = step.shape
    if isinstance(shape, Gemm):
        shape = replace(shape, m=at(shape.m), n=at(shape.n), k=at(shape.k))
    elif isinstance(shape, FusedAttention):
        shape = replace(shape, new_tokens=at(shape.new_tokens), kv_len=at(shape.kv_len))
    return replace(
        step, inputs=tensors(step.inputs), outputs=tensors(step.outputs), flops=at(step.flops), when=when,
        shape=shape, columns=at(step.columns) if step.columns is not None else None,
    )  # fmt: skip
