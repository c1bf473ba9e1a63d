"""A pass as text: its kernels with their shares of its latency, what of that no kernel takes, and its sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.field import Field, Record, column
from gpt2cost.output.kernel_rows import folded_records, kernel_records
from gpt2cost.output.page import Page, Table, table_of
from gpt2cost.output.shared import BOUND, COUNT, DEVICE_S, FLOPS, INTENSITY, NAME, short_name
from gpt2cost.prediction.one_pass import Pass
from gpt2cost.prediction.predict import Totals
from gpt2cost.units import format_quantity

COLORS = {
    "compute": "green", "memory": "blue", "l2": "cyan", "latency": "yellow", "launch": "magenta", "host": "red",
}  # fmt: skip
"""Of a bound, on a terminal."""
BAR = 8
"""Cells of the bar of the largest share."""
WHOLE = "the pass"
EIGHTHS = " ▏▎▍▌▋▊▉█"

READ, WRITTEN = column("read_bytes", "read", "B"), column("write_bytes", "written", "B")
MOVED = column("moved_bytes", "", "B")
OF_PASS = column("of_pass", "of pass", "%")
SHARE_BAR, SOURCE = column("bar"), column("source", "source")
SHORT_NAME: Field[Record] = dataclasses.replace(NAME, get=lambda row: short_name(row["name"]))


@dataclass(frozen=True)
class PassRows:
    """The rows of a pass, and below them the seconds without a kernel and the whole pass; shares add up to 100 %."""

    kernels: list[Record]
    below: list[Record]


def pass_rows(pass_: Pass, totals: Totals, group: str = "kernel", unfolded: bool = False) -> PassRows:
    """A row per kernel, module or layer; kernels are folded unless `unfolded`."""
    latency_s = float(totals.latency_s)
    if group == "kernel" and not unfolded:
        rows = folded_records(pass_.kernels, latency_s)
    else:
        rows = kernel_records(pass_.kernels, latency_s, group)
    below = beside_kernels(pass_, totals)
    shown = shown_rows([*rows, *below], latency_s)
    return PassRows(shown[: len(rows)], shown[len(rows) :])


def beside_kernels(pass_: Pass, totals: Totals) -> list[Record]:
    """The seconds in which no kernel runs, and the whole pass, as rows."""
    empty = dict.fromkeys(("count", "flops", "read_bytes", "write_bytes", "arithmetic_intensity"))
    whole = {
        "count": totals.launches, "flops": totals.flops, "read_bytes": totals.read_bytes,
        "write_bytes": totals.write_bytes, "arithmetic_intensity": totals.arithmetic_intensity,
    }  # fmt: skip
    return [
        {"name": waiting_name(pass_), **empty, "device_s": totals.waiting_s, "bound": "host"},
        {"name": WHOLE, **whole, "device_s": totals.latency_s, "bound": totals.bound},
    ]


def shown_rows(rows: Sequence[Record], latency_s: Any) -> list[Record]:
    """Rows of a pass with what only people see: bytes together, shares of its latency, bars."""
    most_s = max(float(row["device_s"]) for row in rows if row["name"] != WHOLE)
    return [_shown(row, float(latency_s), most_s if row["name"] != WHOLE else 0.0) for row in rows]


def waiting_name(pass_: Pass) -> str:
    """What a pass does while no kernel runs: a CPU is its own host."""
    return "Python and dispatch" if pass_.host.synchronous else "waiting (no kernel)"


def _shown(row: Record, latency_s: float, most_s: float) -> Record:
    """A row with what only people see. `most_s`: of the row with the longest bar, 0 for none."""
    moved = None if row["read_bytes"] is None else row["read_bytes"] + row["write_bytes"]
    eighths = round(8 * BAR * row["device_s"] / most_s) if most_s else 0
    bar = EIGHTHS[-1] * (eighths // 8) + EIGHTHS[eighths % 8].strip()
    own = {"moved_bytes": moved, "of_pass": row["device_s"] / latency_s, "bar": bar}
    return {"source": "", **row, **own}


def pass_layouts(group: str, terminal: bool) -> list[tuple[Field[Record], ...]]:
    """The columns of a pass, the fullest layout first. On a terminal with a bar."""
    bar = (SHARE_BAR,) * terminal
    full = (COUNT, FLOPS, READ, WRITTEN, INTENSITY, DEVICE_S, OF_PASS, *bar, BOUND)
    short = (COUNT, FLOPS, MOVED, DEVICE_S, OF_PASS, *bar, BOUND)
    if group == "kernel":
        others = [(*columns, *source) for source, columns in product(((SOURCE,), ()), (full, short))]
        named = [(name, *columns) for columns in (*others[:2], others[3]) for name in (NAME, SHORT_NAME)]
        return [*named, tuple(field for field in named[-1] if field is not COUNT)]
    without = tuple(field for field in full if field is not INTENSITY)
    return [(NAME, *columns) for columns in (full, without, short)]


def pass_tables(page: Page, passes: Sequence[PassRows], group: str) -> tuple[list[Table], bool]:
    """The tables of several passes, all in the first layout that fits the page; and whether it names sources."""
    layouts = pass_layouts(group, page.terminal)
    tables = [[_table(layout, rows, group) for layout in layouts] for rows in passes]
    fits = max((page.first_fit(*own) for own in tables), default=0)
    return [own[fits] for own in tables], SOURCE in layouts[fits]


def _table(layout: Sequence[Field[Record]], rows: PassRows, group: str) -> Table:
    """Prefixes are those of the largest kernel, beside which a folded row or the pass may have many digits.

    Of modules and layers they are those of the largest.
    """
    every = [*rows.kernels, *rows.below]
    alone = [row for row in rows.kernels if row["op"]] if group == "kernel" else []
    table = table_of(layout, every, alone or rows.kernels)
    styled = [field in (SHARE_BAR, BOUND) for field in layout]
    return dataclasses.replace(table, styles=[COLORS.get(row["bound"], "") for row in every], styled=styled)


def sums_text(totals: Totals, hardware: Hardware, dtype: str) -> str:
    """The FLOPs and bytes of a pass, and on which side of the device's ridge point it is as a whole."""
    work = f"{format_quantity(totals.flops, 'FLOP')}, {format_quantity(totals.read_bytes + totals.write_bytes, 'B')}"
    own, ridge = totals.arithmetic_intensity, hardware.ridge_flop_per_byte(dtype)
    side = "above the ridge of {}: compute's side" if own > ridge else "below the ridge of {}: DRAM's side"
    return f"{work} moved: {_three(own)} FLOP/B, {side.format(_three(ridge))}"


def _three(value: Any) -> str:
    return format_quantity(float(value), "").strip()
