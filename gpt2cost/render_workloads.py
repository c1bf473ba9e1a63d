"""Comparisons and capacities as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2cost.page import Column, Page, first_fit, grid, scaled_column, short_number, text_column
from gpt2cost.records import Record
from gpt2cost.units import format_quantity, scale_for
from gpt2cost.workload_records import KINDS


def render_comparison(page: Page, document: Record) -> None:
    """A table a phase, where the time goes by kind, and where the ranking changes."""
    for phase in document["phases"]:
        rows = phase["candidates"]
        first = rows[0]
        sizes = f"{first['batch_size']} x {first['seq_len']} new tokens on {first['cache_len']} cached"
        same = [first[key] for key in ("model", "gpu", "dtype", "attn", "runtime") if len({r[key] for r in rows}) == 1]
        page.line(f"{phase['phase']}: {sizes}; {', '.join(same)}\n", style="bold")
        page.table(grid(_candidate_columns(page, rows), rows))
        page.line(f"\nwhere the time goes, and the difference from {first['label']}\n")
        _kinds(page, rows)
        page.line()
    for each in document["crossovers"]:
        axis = {"batch": "batch size", "seq": "sequence length", "cache": "cache length"}[each["axis"]]
        full = "" if each["fits"] else " (which does not fit the memory)"
        page.line(
            f"{each['phase']}: from {axis} {each['size']}{full} on {each['after']} is faster than {each['before']}"
        )
    if not document["crossovers"]:
        page.line("the ranking is the same at every batch size and sequence length")


def _candidate_columns(page: Page, rows: Sequence[Record]) -> list[Column]:
    label, latency = text_column("", "label"), scaled_column("latency", "s", rows, "latency_s")
    ratio = Column("ratio", lambda row: f"{row['latency_ratio']:.2f}x")
    ends = [scaled_column(end, "s", rows, f"latency_{end}_s") for end in ("low", "high")]
    rate = Column("tokens/s", lambda row: f"{row['tokens_per_s']:,.0f}")
    memory, bound = scaled_column("memory", "B", rows, "total_bytes"), text_column("bound", "bound")
    marks = Column("", lambda row: ("" if row["fits"] else "does not fit ") + ("" if row["valid"] else "*"), "left")
    basis = text_column("constants", "calibration")
    layouts = [
        [label, latency, ratio, *ends, rate, memory, bound, basis, marks],
        [label, latency, ratio, *ends, rate, memory, bound, marks],
        [label, latency, ratio, rate, bound, marks],
    ]
    return layouts[first_fit([grid(layout, rows) for layout in layouts], page.width)]


def _kinds(page: Page, candidates: Sequence[Record]) -> None:
    """A line a kernel kind: the first's seconds, and what each other adds or saves."""
    first, *others = (each["seconds_by_kind"] for each in candidates)
    kinds = [kind for kind in KINDS if any(each["seconds_by_kind"][kind] for each in candidates)]
    divisor, unit = scale_for([each["latency_s"] for each in candidates], "s")
    lines = [{"kind": kind, "seconds": [first[kind], *(each[kind] - first[kind] for each in others)]} for kind in kinds]
    whole = [candidates[0]["latency_s"], *(each["latency_s"] - candidates[0]["latency_s"] for each in candidates[1:])]
    lines.append({"kind": "latency", "seconds": whole})

    def column(number: int) -> Column:
        def cell(line: Record) -> str:
            value = line["seconds"][number] / divisor
            return short_number(value) if number == 0 else f"{'+' if value > 0 else ''}{short_number(value)}"

        return Column(f"{candidates[number]['label']} {unit}" if number == 0 else candidates[number]["label"], cell)

    page.table(grid([text_column("kind", "kind"), *map(column, range(len(candidates)))], lines))


def render_capacity(page: Page, document: Record) -> None:
    """The answers, a line each, and what limits them."""
    rows, limit = document["answers"], document["settings"]["max_latency_s"]
    first = rows[0]
    bound = "" if limit is None else f", latency up to {format_quantity(limit, 's')}"
    page.line(f"{first['model']} on {first['gpu']}, {first['dtype']}, {first['attn']}, {first['runtime']}{bound}\n")

    def figure(header: str, unit: str, key: str) -> Column:
        return Column(header, lambda row: "-" if row[key] is None else format_quantity(row[key], unit))

    columns = [
        text_column("phase", "phase"),
        text_column("goal", "goal"),
        Column("batch", lambda row: f"{row['batch_size']:,}"),
        Column("new tokens", lambda row: str(row["seq_len"])),
        Column("cached", lambda row: str(row["cache_len"])),
        figure("latency", "s", "latency_s"),
        Column("range", _range, "left"),
        Column("tokens/s", lambda row: "-" if row["tokens_per_s"] is None else f"{row['tokens_per_s']:,.0f}"),
        figure("memory", "B", "total_bytes"),
        text_column("limited by", "limited_by"),
    ]
    page.table(grid(columns, rows))
    if any(row["limited_by"] == "positions" for row in rows):
        page.line(f"\npositions: the model has {document['positions']} learned ones, and cannot run beyond them")


def _range(row: Record) -> str:
    if row["latency_s"] is None:
        return "-"
    return " to ".join(format_quantity(row[f"latency_{end}_s"], "s") for end in ("low", "high"))
