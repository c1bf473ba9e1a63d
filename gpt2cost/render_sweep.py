"""A sweep as text for people: what stays the same in a line, what varies in a table."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2cost.page import Column, Page, first_fit, grid, scaled_column, short_number, text_column
from gpt2cost.records import Record
from gpt2cost.sweeps import INPUTS
from gpt2cost.units import scale_for

_HEADERS = {"batch_size": "batch", "seq_len": "seq", "cache_len": "cache"}


def render_sweep(page: Page, rows: Sequence[Record], kernels: bool) -> None:
    """The rows of a sweep. Marks: `!` does not fit the memory, `*` passes the model's positions."""
    if not rows:
        page.line("no rows")
        return
    varying = [name for name in (*INPUTS, "phase") if any(row[name] != rows[0][name] for row in rows)]
    same = [f"{_HEADERS.get(name, name)} {rows[0][name]}" for name in (*INPUTS, "phase") if name not in varying]
    page.line(", ".join(same))
    page.line()
    inputs = [_input(name, rows) for name in varying]
    page.table(grid([*inputs, *(_kernel_columns(rows) if kernels else _columns(page, inputs, rows)), _marks()], rows))
    notes = [("fits", "! does not fit into the device's memory"), ("valid", "* beyond the model's positions")]
    if shown := [text for name, text in notes if not all(row[name] for row in rows)]:
        page.line()
        page.line("; ".join(shown))


def _input(name: str, rows: Sequence[Record]) -> Column:
    header = _HEADERS.get(name, name)
    return text_column(header, name) if isinstance(rows[0][name], str) else Column(header, lambda row: str(row[name]))


def _marks() -> Column:
    return Column("", lambda row: ("" if row["fits"] else "!") + ("" if row["valid"] else "*"), "left")


def _columns(page: Page, inputs: list[Column], rows: Sequence[Record]) -> list[Column]:
    latency = _fine_column("latency", "s", rows, "latency_s", "latency_s")
    ends = [_fine_column(end, "s", rows, f"latency_{end}_s", "latency_s") for end in ("low", "high")]
    parts = [_fine_column(name, "s", rows, f"{name}_s", "latency_s") for name in ("device", "host")]
    rate = Column("tokens/s", lambda row: f"{row['tokens_per_s']:,.0f}")
    memory = _fine_column("memory", "B", rows, "total_bytes", "total_bytes")
    bound = text_column("bound", "bound")
    work = [
        scaled_column("", "FLOP", rows, "flops"),
        scaled_column("moved", "B", rows, lambda row: row["read_bytes"] + row["write_bytes"]),
    ]
    layouts = [
        [latency, *ends, *parts, *work, rate, memory, bound],
        [latency, *ends, *parts, rate, memory, bound],
        [latency, *ends, rate, memory, bound],
        [latency, rate, memory, bound],
    ]
    return layouts[first_fit([grid([*inputs, *layout], rows) for layout in layouts], page.width - 4)]


def _fine_column(header: str, unit: str, rows: Sequence[Record], key: str, scale: str) -> Column:
    """Numbers of one unit, in which the smallest of the column `scale` can still be read: a sweep spans decades."""
    divisor, label = scale_for([min(row[scale] for row in rows)], unit)
    return Column(f"{header} {label}", lambda row: short_number(row[key] / divisor))


def _kernel_columns(rows: Sequence[Record]) -> list[Column]:
    return [
        Column("kernel", lambda row: row["name"].removeprefix("transformer."), "left"),
        Column("count", lambda row: str(row["count"])),
        scaled_column("", "FLOP", rows, "flops"),
        scaled_column("", "B", rows, lambda row: row["read_bytes"] + row["write_bytes"]),
        Column("FLOP/B", lambda row: short_number(row["arithmetic_intensity"])),
        scaled_column("", "s", rows, "device_s"),
        Column("share", lambda row: f"{100 * row['share']:.1f}%"),
        text_column("bound", "bound"),
    ]
