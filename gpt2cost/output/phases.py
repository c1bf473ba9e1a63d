"""Prefill beside decode, a row per module: what the same weights are for many tokens at once, and for one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from gpt2cost.output import shared
from gpt2cost.output.field import Field, Record, attributes, record_of
from gpt2cost.output.formats import figures, sections
from gpt2cost.output.kernel_rows import module_records, modules_beside
from gpt2cost.output.page import COLUMN_GAP, Page, Table, table_of
from gpt2cost.output.pass_text import MOVED, OF_PASS, beside_kernels, shown_rows, sums_text
from gpt2cost.output.prediction import INPUTS
from gpt2cost.output.record import FLOPS_CONVENTION, View, envelope
from gpt2cost.output.shared import DEVICE_S, FLOPS, INTENSITY
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.table.kernel import short_path

FIGURES = ("count", "flops", "read_bytes", "write_bytes", "arithmetic_intensity", "device_s", "share", "bound")
"""What is said of a module in each phase."""
LAYOUTS: tuple[tuple[Field[Record], ...], ...] = (
    (FLOPS, MOVED, INTENSITY, DEVICE_S, OF_PASS), (FLOPS, INTENSITY, DEVICE_S, OF_PASS),
    (INTENSITY, DEVICE_S, OF_PASS),
)  # fmt: skip
"""The columns of a phase, the fullest layout first."""


def _modules(phase: Phase) -> list[Record]:
    return module_records(phase.kernels, phase.totals.device_s)


def _figures(row: Record) -> Record:
    return {key: row[key] for key in FIGURES}


# ---------------------------------------------------------------------------------------------- records


def _rows(prediction: Prediction) -> Iterator[Record]:
    """One flat row per phase and module, with every input."""
    inputs = record_of((*INPUTS, shared.IMPL), prediction)
    memory = record_of(shared.MEMORY, prediction.memory)
    for phase in prediction.phases:
        results = {**memory, "valid": phase.kv_len <= prediction.model.n_positions}
        for row in _modules(phase):
            yield {**inputs, "phase": phase.phase, "module": row["name"], **_figures(row), **results}


def _document(prediction: Prediction) -> Record:
    """The modules, each with its figures in both phases (null where it launches nothing), and the phases' totals."""
    names = [phase.phase for phase in prediction.phases]
    return {
        **envelope(prediction.model, prediction.hardware),
        "model": shared.model_record(prediction.model, prediction.how),
        "hardware": shared.hardware_head(prediction.hardware, prediction.how.dtype),
        "settings": record_of((*INPUTS[2:], shared.IMPL), prediction),
        "modules": [
            {"module": module, **{name: row and _figures(row) for name, row in zip(names, rows, strict=True)}}
            for module, rows in modules_beside(prediction.phases).items()
        ],
        "phases": [
            {
                **record_of(attributes("phase", *shared.SIZES, "kv_len"), phase),
                "totals": dataclasses.asdict(phase.totals),
            }
            for phase in prediction.phases
        ],
        "memory": dataclasses.asdict(prediction.memory),
        "warnings": list(prediction.warnings),
    }


def _markdown(prediction: Prediction) -> str:
    parts = [
        part
        for phase in prediction.phases
        for part in (
            (f"## {phase.phase}", [{"module": row["name"], **_figures(row)} for row in _modules(phase)]),
            ("", figures(dataclasses.asdict(phase.totals))),
        )
    ]
    return sections(*parts)


# ---------------------------------------------------------------------------------------------- text


def _text(page: Page, prediction: Prediction) -> None:
    """A table with a row per module and the same columns for each phase, and below it each phase's sums."""
    page.line(f"{shared.run_text(prediction.model, prediction.hardware, prediction.how)}; {FLOPS_CONVENTION}\n")
    tables = [_table(prediction, layout) for layout in LAYOUTS]
    fits = page.first_fit(*tables)
    page.line(_above(tables[fits], prediction, len(LAYOUTS[fits])), style="bold")
    page.table(tables[fits])
    page.line()
    for phase in prediction.phases:
        page.line(f"{phase.phase}: {sums_text(phase.totals, prediction.hardware, prediction.how.dtype)}")
    page.line(shared.size_text(prediction.model, prediction.how))
    shared.repeat_warnings(page, prediction.warnings)


def _table(prediction: Prediction, layout: tuple[Field[Record], ...]) -> Table:
    found = [_by_name(phase) for phase in prediction.phases]
    modules = list(modules_beside(prediction.phases))
    below = [name for name in found[0] if name not in modules]
    name: Field[str] = Field("module", "module", "", short_path)

    def of(rows: dict[str, Record], field: Field[Record]) -> Field[str]:
        get: Callable[[str], Any] = lambda name: field.get(rows[name]) if name in rows else None  # noqa: E731
        return Field(field.key, field.header, field.unit, get)

    return table_of([name, *(of(rows, field) for rows in found for field in layout)], [*modules, *below], modules)


def _by_name(phase: Phase) -> dict[str, Record]:
    """The rows of a phase, those below them too, by their names."""
    rows = [*_modules(phase), *beside_kernels(phase.pass_, phase.totals)]
    return {row["name"]: row for row in shown_rows(rows, phase.totals.latency_s)}


def _above(table: Table, prediction: Prediction, columns: int) -> str:
    """The phases' names and sizes, each above its columns."""
    line = ""
    for number, phase in enumerate(prediction.phases):
        before = 1 + number * columns
        start = sum(table.widths[:before]) + COLUMN_GAP * before
        line = f"{line.ljust(start)}{phase.phase} {phase.sizes.text}"
    return line


SIDE_BY_SIDE: View[Prediction] = View(_rows, _document, _text, markdown=_markdown)
"""A prediction of two phases, side by side."""
