"""The cost table as text: a block per kernel, with formulas that can be copied, and sums of modules."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap

from gpt2cost.output.launch import evaluated, flops_text, product_of
from gpt2cost.output.page import Page
from gpt2cost.output.record import View
from gpt2cost.output.shapes import tensors_of
from gpt2cost.output.shared import source_text
from gpt2cost.output.table import LABELS, SOURCE, CostTable, document, of_module, records
from gpt2cost.table.citations import transformers_version
from gpt2cost.table.formula import Formula
from gpt2cost.table.kernel import Free, Kernel, Row
from gpt2cost.table.module_sums import ModuleSum
from gpt2cost.table.why.reasons import why


def _text(page: Page, table: CostTable) -> None:
    """A block per kernel, and what it takes and gives; of single launches, then a block per module."""
    nanogpt = f"sources: {source_text(table.impl)}\n"
    page.line(nanogpt if table.impl == "nanogpt" else f"source lines: transformers {transformers_version()}\n")
    for number, (phase, rows) in enumerate(table.rows.items()):
        if phase:
            page.line(f"\n{phase}\n" if number else f"{phase}\n", style="bold")
        sums = list(table.sums(phase)) if table.per_launch else []
        shown = {row.index for own, row in table.shown if own == phase}
        for row in rows:
            if row.index in shown:
                _step(page, table, row)
            while sums and sums[0].last <= row.index and (sums[0].module or row is rows[-1]):
                _module(page, table, sums.pop(0))


def _step(page: Page, table: CostTable, row: Row) -> None:
    """A kernel, or what launches none."""
    step = row.step
    times = "" if row.count == 1 else f" x {row.count}"
    condition = f" when {step.when}" if str(step.when) else ""
    if not isinstance(step, Kernel):
        several = "" if step.count == 1 else f" ({step.count} of them)"
        page.line(f"{row.path}: {step.op}{several}{times}{condition}  [no kernel]")
        for line in wrap(why(row).does, page.width - 4):
            page.line(f"    {line}")
        if step.outputs:
            _shapes(page, table, step)
        return
    page.line(f"{row.path}: {step.op}{times}{condition}  [{SOURCE.get(row)}]")
    figures = table.figures(row)
    for name, formula in table.formulas(row).items():
        value = "" if not figures else f" = {figures[name]}" if figures["count"] else " (not launched)"
        if not formula:
            continue
        if name == "flops" and table.per_launch and product_of(step):
            page.line(f"    {LABELS[name]:<6} {flops_text(step)}{value}")
            _sizes(page, product_of(step), table)
        else:
            page.line(f"    {LABELS[name]:<6} {formula}{value}")
    _shapes(page, table, step)


def _shapes(page: Page, table: CostTable, step: Kernel | Free) -> None:
    """What a step takes and gives."""
    tensors = tensors_of(step, table.symbols, flat=True)
    page.line(f"    shapes {tensors['inputs']} -> {tensors['outputs']}".replace("  ->", " ->"))


def _sizes(page: Page, sizes: Mapping[str, Formula], table: CostTable) -> None:
    """The sizes of a product by name."""
    values = {} if table.symbols is None else evaluated(sizes, table.symbols)
    for name, size in sizes.items():
        page.line(f"           {name} = {size}{f' = {values[name]}' if values else ''}")


def _module(page: Page, table: CostTable, own: ModuleSum) -> None:
    """What a module costs with all that is in it."""
    name = own.module or "the whole model"
    one = name if own.calls == 1 else f"one {name}, of {own.calls}"
    launches = own.launches if table.symbols is None else own.launches.evaluate(table.symbols)
    page.line(f"sum of {one}: {launches} launches", style="bold")
    for key, formula in of_module(table, own).items():
        value = "" if table.symbols is None else f" = {formula.evaluate(table.symbols)}"
        if formula:
            page.line(f"    {LABELS[key]:<6} {formula}{value}")
    if own.open:
        names = ", ".join(dict.fromkeys(row.path.removeprefix(f"{own.module}.") for row in own.open))
        for line in wrap(f"without what runs at some sizes alone: {names}", page.width - 4):
            page.line(f"    {line}")


TABLE: View[CostTable] = View(records, document, _text)
