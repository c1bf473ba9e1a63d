"""Accuracy records as text for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpt2cost.page import Column, Page, first_fit, grid, scaled_column, text_column
from gpt2cost.records import Record
from gpt2cost.units import format_quantity


def render_rows(page: Page, records: Sequence[Record]) -> None:
    """Flat records as a table: errors as percentages, seconds in one unit a column."""
    page.table(grid([_result_column(key, records) for key in records[0]], records))


def _result_column(key: str, records: Sequence[Record]) -> Column:
    header = key.removesuffix("_s").replace("_absolute_error", "").replace("_error", "").replace("_", " ")
    if key.endswith("_error"):
        return Column(f"{header} %", lambda record: f"{100 * record[key]:.1f}")
    if key.endswith("_s"):
        return scaled_column(header, "s", records, key)
    if isinstance(records[0][key], str):
        return text_column(header, key)
    return Column(header, lambda record: str(record[key]))


def render_accuracy(page: Page, document: Record) -> None:
    """The evidence: a line a measured pass, then a line a device."""

    def seconds(key: str) -> Callable[[Record], str]:
        return lambda record: format_quantity(record[key], "s")

    def percent(key: str) -> Callable[[Record], str]:
        return lambda record: f"{100 * record[key]:+.1f}%"

    def sizes(record: Record) -> str:
        return f"{record['batch_size']}x{record['seq_len']}" + (
            f"+{record['cache_len']}" if record["cache_len"] else ""
        )

    cases = [
        text_column("device", "hardware"),
        text_column("model", "model"),
        text_column("dtype", "dtype"),
        text_column("attention", "attn"),
        text_column("runtime", "runtime"),
        Column("size", sizes),
        Column("measured", seconds("measured_s")),
        Column("predicted", seconds("predicted_s")),
        Column("error", percent("error")),
        Column("from", seconds("low_s")),
        Column("to", seconds("high_s")),
        Column("inside", lambda record: "yes" if record["inside"] else "NO"),
        Column("roofline", percent("roofline_error")),
        Column("host", lambda record: f"{record['host_factor']:.2f}x" if record["host_factor"] else ""),
    ]
    headers = {column.header: column for column in cases}
    medium = [column for column in cases if column.header not in ("dtype", "attention")]
    narrow = [headers[name] for name in ("device", "model", "size", "measured", "predicted", "error", "inside")]
    layouts = [grid(columns, document["evidence"]) for columns in (cases, medium, narrow)]
    page.table(layouts[first_fit(layouts, page.width)])
    page.line()
    devices = [
        text_column("device", "hardware"),
        Column("cases", lambda record: str(record["cases"])),
        Column("mean", lambda record: f"{100 * record['mean_absolute_error']:.1f}%"),
        Column("median", lambda record: f"{100 * record['median_absolute_error']:.1f}%"),
        Column("worst", lambda record: f"{100 * record['worst_absolute_error']:.1f}%"),
        Column("signed", percent("signed_mean_error")),
        Column("inside", lambda record: str(record["inside"])),
        Column("roofline", lambda record: f"{100 * record['roofline_mean_absolute_error']:.1f}%"),
    ]
    page.table(grid(devices, document["devices"]))
    page.line("\nerror: predicted / measured - 1; host: the factor on the host's constants at which they would meet")
