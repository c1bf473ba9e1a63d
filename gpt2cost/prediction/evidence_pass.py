"""What a measured case ran: the model, how it was run, and the rows of the table that were timed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from typing import Any

from gpt2cost.device.hardware import Evidence, Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.one_pass import Pass, run_rows, symbol_values, table_options, table_rows
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.table import generate_loop
from gpt2cost.table.config import Model, change_model, load_model
from gpt2cost.table.fusion import compiled, parts_of
from gpt2cost.table.kernel import Row, numbered

PARTS = {"model": "", "trunk": "transformer", "block": "transformer.h", "attention": "transformer.h.attn"}
"""A part of the model that was timed -> the module whose rows it is."""


def evidence_how(row: Evidence) -> How:
    """How a measured case was run."""
    return How(row.dtype, row.attn, row.runtime, "all", row.use_cache, tuple(sorted(row.kernels.items())))


def evidence_model(hw: Hardware, row: Evidence) -> Model:
    """The model that was measured. Raises `InputError` with the device's name for an unknown one."""
    try:
        return change_model(load_model(row.model), row.config)
    except InputError as error:
        raise InputError(f"{hw.name}: evidence: {error}") from None


def evidence_name(row: Evidence) -> str:
    """What was measured in short: the model, or `gpt2[n_head=8] block`, and the clock where that was no pass's."""
    changes = f"[{';'.join(f'{key}={value}' for key, value in row.config.items())}]" if row.config else ""
    part = "" if row.part == "model" else f" {row.part}"
    clock = {"pass": "", "kernels": " (kernels)", "turn": " (generate)"}[row.timed]
    return f"{row.model}{changes}{part}{clock}"


def alike(row: Evidence) -> tuple[Any, ...]:
    """What rows have in common that differ in their sizes alone: they are predicted together."""
    return row.model, str(sorted(row.config.items())), row.part, row.timed, *astuple(evidence_how(row))


def evidence_pass(hw: Hardware, row: Evidence, sizes: Sizes) -> Pass:
    """What was measured, at sizes that may be those of all rows that are `alike`.

    A sum of kernel times has no host in it: it is predicted on one that takes no time.
    """
    model, how = evidence_model(hw, row), evidence_how(row)
    device = replace(hw, host=hw.host.scaled(0.0)) if row.timed == "kernels" else hw
    return run_rows(_rows(row, model, how, hw), symbol_values(model, how.dtype, sizes), device, how.dtype, how.runtime)


def _rows(row: Evidence, model: Model, how: How, hw: Hardware) -> tuple[Row, ...]:
    """The rows of the table that were timed, numbered from 0."""
    if row.timed == "turn":
        options = replace(table_options(model, replace(how, logits="last"), hw), in_generate=True)
        *chosen, _ = generate_loop.after(options, sample=False)  # the pass's end is the last wait
        rows = (*generate_loop.before(options), *table_rows(options, how.runtime), *chosen)
    else:
        whole, module = table_rows(table_options(model, how, hw), how.runtime), PARTS[row.part]
        rows = tuple(_inside(whole, module)) if module else whole
    return numbered(rows)


def _inside(rows: Iterable[Row], module: str) -> Iterator[Row]:
    """The rows of a module that ran alone: what a compiler merges across its edge is then a kernel of its own."""

    def has(row: Row) -> bool:
        return f"{row.module}.".startswith(f"{module}.")

    for row in rows:
        if has(row):
            yield row
        else:
            yield from compiled(filter(has, parts_of(row)))
