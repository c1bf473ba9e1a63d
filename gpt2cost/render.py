"""Records as text for people: rich tables that read well at 80 and at 120 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt2cost.records import Record
from gpt2cost.units import format_quantity, scale_for

COLUMN_GAP = 2
"""What stands between two columns: a column's padding and the box's own space."""

FIRST_COLUMN = 20
"""A table's first column is never cut shorter than this."""

Cell = Callable[[Record], str]


@dataclass(frozen=True)
class Column:
    """A column of a table: its header, how a record's cell is written, and its justification."""

    header: str
    cell: Cell
    justify: Any = "right"


def text_column(header: str, key: str) -> Column:
    return Column(header, lambda record: "" if record[key] is None else str(record[key]), "left")


def scaled_column(header: str, unit: str, records: Sequence[Record], key: str | Callable[[Record], float]) -> Column:
    """Numbers of one unit, chosen by the largest and named in the header: `FLOP` becomes `GFLOP`."""
    value: Callable[[Record], float] = key if callable(key) else lambda record: record[key]
    divisor, label = scale_for([float(value(record)) for record in records], unit)
    return Column(f"{header} {label}".strip(), lambda record: _number(float(value(record)) / divisor))


def _number(value: float) -> str:
    """At most four characters of digits, a thousand with a comma: 0.12, 1.23, 12.3, 123, 1,234."""
    size = abs(value)
    if value == 0:
        return "0"
    return f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


@dataclass(frozen=True)
class Grid:
    """The text of a table, and how wide each column is: fixed widths spare rich the measuring of every cell."""

    columns: Sequence[Column]
    rows: list[list[str]]
    widths: list[int]

    @property
    def width(self) -> int:
        return sum(self.widths) + COLUMN_GAP * (len(self.widths) - 1)


def grid(columns: Sequence[Column], records: Iterable[Record]) -> Grid:
    """The cells of a table: one line a record."""
    rows = [[column.cell(record) for column in columns] for record in records]
    texts = zip([column.header for column in columns], *rows, strict=True)
    return Grid(columns, rows, [max(map(cell_len, cells)) for cells in texts])


def table(cells: Grid, width: int) -> Table:
    """A plain table: one line a record, never wrapped. The first column is cut short where `width` is too small."""
    first, *others = cells.widths
    room = max(FIRST_COLUMN, width - (cells.width - first))
    drawn = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column, size in zip(cells.columns, (min(first, room), *others), strict=True):
        drawn.add_column(column.header, justify=column.justify, no_wrap=True, overflow="ellipsis", width=size)
    for row in cells.rows:
        drawn.add_row(*map(Text, row))
    return drawn


def first_fit(layouts: Sequence[Grid], width: int) -> int:
    """The index of the first of the layouts that fits into `width`, else of the last."""
    return next((index for index, cells in enumerate(layouts) if cells.width <= width), len(layouts) - 1)


# ---------------------------------------------------------------------------------------------- predict


def render_prediction(console: Console, document: Record) -> None:
    """A prediction: the settings, a table a phase, and a summary to act on."""
    model, hardware, settings = document["model"], document["hardware"], document["settings"]
    cached = "" if settings["use_cache"] else ", no KV cache"
    _line(
        console,
        f"{model['name']} ({format_quantity(model['parameters'], '')} parameters) on {hardware['name']}",
        f", {settings['dtype']}, {settings['attn']} attention, {settings['runtime']} runtime{cached}",
        f"; logits of {settings['logits']} positions; {document['flops_convention']}",
    )
    pairs = [
        (phase, [grid(columns, phase["kernels"]) for columns in _cost_layouts(phase["kernels"])])
        for phase in document["phases"]
    ]
    fits = max(first_fit(layouts, console.width) for _, layouts in pairs)  # one for all phases
    for phase, layouts in pairs:
        totals = phase["totals"]
        sizes = f"{settings['batch_size']} x {phase['seq_len']} new tokens on {phase['cache_len']} cached"
        _line(console, f"\n{phase['phase']}: {sizes}, {totals['launches']} launches\n", style="bold")
        console.print(table(layouts[fits], console.width), highlight=False)
    _line(console)
    for phase in document["phases"]:
        _line(console, _phase_summary(phase, hardware["calibration"]))
    _line(console, _memory_summary(document["memory"]))


def _line(console: Console, *parts: str, style: str | None = None) -> None:
    console.print(
        "".join(parts), style=style, highlight=False, markup=False, soft_wrap=not console.is_terminal, emoji=False
    )


def _cost_layouts(records: list[Record]) -> list[list[Column]]:
    """The columns of a cost table, the fullest layout first."""
    name = Column("kernel", lambda record: record["name"].removeprefix("transformer."), "left")
    share = Column("share", lambda record: f"{100 * record['share']:.1f}%")
    head = [name, Column("count", lambda record: f"{record['count']}"), scaled_column("", "FLOP", records, "flops")]
    tail = [scaled_column("", "s", records, "device_s"), share, text_column("bound", "bound")]
    intensity = Column("FLOP/B", lambda record: _number(record["arithmetic_intensity"]))
    apart = [scaled_column("read", "B", records, "read_bytes"), scaled_column("written", "B", records, "write_bytes")]
    moved = scaled_column("", "B", records, lambda record: record["read_bytes"] + record["write_bytes"])
    source = [text_column("source", "source")] if records and "source" in records[0] else []
    return [
        [*head, *apart, intensity, *tail, *source],
        [*head, moved, *tail, *source],
        [*head, moved, *tail],
    ]


def _phase_summary(phase: Record, calibration: str) -> str:
    totals = phase["totals"]
    low, high = (format_quantity(totals[f"latency_{end}_s"], "s") for end in ("low", "high"))
    slowest = max(phase["kernels"], key=lambda record: float(record["device_s"]))
    name = slowest["name"].removeprefix("transformer.")
    busy = min(1.0, totals["device_s"] / totals["latency_s"])
    advice = {
        "host": f"the GPU is busy {busy:.0%} of the time; a larger batch or cuda-graph uses it",
        "compute": f"{totals['flops_utilization']:.0%} of peak FLOP/s; {slowest['share']:.0%} of it in {name}",
        "memory": f"{totals['bandwidth_utilization']:.0%} of peak bandwidth; {slowest['share']:.0%} of it in {name}",
        "launch": f"{totals['launches']} short kernels; fusing them (compile) or a larger batch helps",
    }[totals["bound"]]
    return (
        f"{phase['phase']}: {format_quantity(totals['latency_s'], 's')} ({low} to {high}, {calibration}),"
        f" {format_quantity(totals['tokens_per_s'], '')} tokens/s, {totals['bound']}-bound: {advice}"
    )


def _memory_summary(memory: Record) -> str:
    parts = {name: format_quantity(memory[f"{name}_bytes"], "B") for name in ("weights", "kv_cache", "activations")}
    fits = "fits" if memory["fits"] else "does NOT fit"
    total, capacity = (format_quantity(memory[f"{name}_bytes"], "B") for name in ("total", "capacity"))
    return (
        f"memory: {total} of {capacity}, {fits} (weights {parts['weights']}, KV cache {parts['kv_cache']},"
        f" activations {parts['activations']})"
    )


# ---------------------------------------------------------------------------------------------- the other commands


def render_cost_table(console: Console, records: Iterable[Record]) -> None:
    """The cost table, a block a kernel, with formulas that can be copied."""
    for record in records:
        count = "" if record["count_formula"] == "1" else f" x {record['count_formula']}"
        condition = f" when {record['when']}" if record["when"] else ""
        _line(console, f"{record['name']}: {record['op']}{count}{condition}  [{record['source']}]")
        for label, key in (("FLOPs", "flops"), ("reads", "read"), ("writes", "write")):
            number = record.get(key if key == "flops" else f"{key}_bytes")
            value = "" if number is None else f" = {number}"
            if record[f"{key}_formula"] != "0":
                _line(console, f"    {label:<6} {record[f'{key}_formula']}{value}")


def render_models(console: Console, records: Sequence[Record]) -> None:
    """The presets."""
    names = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions")
    parameters = Column("parameters", lambda record: f"{record['parameters']:,}")
    numbers = [Column(name, lambda record, name=name: str(record[name])) for name in names]  # type: ignore[misc]
    columns = [text_column("model", "name"), *numbers, parameters]
    console.print(table(grid(columns, records), console.width), highlight=False)


def render_hardware_list(console: Console, records: Sequence[Record]) -> None:
    """The devices, a line each."""

    def rate(header: str, key: str, unit: str) -> Column:
        return Column(header, lambda record: format_quantity(record[key], unit) if record[key] else "-")

    columns = [
        text_column("device", "name"),
        rate("memory", "memory_bytes", "B"),
        rate("bandwidth", "bandwidth_bytes_per_s", "B/s"),
        rate("fp32", "fp32_flop_per_s", "FLOP/s"),
        rate("fp16", "fp16_flop_per_s", "FLOP/s"),
    ]
    calibration = text_column("constants", "calibration")
    aliases = Column("aliases", lambda record: shorten(", ".join(record["aliases"]), 36, placeholder=" …"), "left")
    layouts = [grid(chosen, records) for chosen in ([*columns, calibration, aliases], [*columns, aliases], columns)]
    console.print(table(layouts[first_fit(layouts, console.width)], console.width), highlight=False)


def render_mapping(console: Console, record: Record, indent: int = 0, unit: str | None = None) -> None:
    """A nested record as indented `key: value` lines, quantities with their unit.

    `unit` is that of the record's numbers whose key does not name one, as in `peak_flop_per_s: {fp16: 3.12e14}`.
    """
    for key, value in record.items():
        name, own_unit = _unit_of(key, unit)
        label = f"{' ' * indent}{name}:"
        match value:
            case None | []:
                continue
            case dict() if not value:
                continue
            case dict():
                _line(console, label)
                render_mapping(console, value, indent + 2, own_unit)
            case [dict(), *_]:
                _line(console, label)
                for item in value:
                    pairs = [
                        f"{inner} {_value(each, own)}"
                        for key, each in item.items()
                        if each not in ("", {}, None)
                        for inner, own in [_unit_of(key, None)]
                    ]
                    _line(console, f"{' ' * (indent + 2)}- {', '.join(pairs)}")
            case list() | tuple():
                _line(console, f"{label} {', '.join(map(str, value))}")
            case _:
                _line(console, f"{label} {_value(value, own_unit)}")


def _value(value: Any, unit: str | None) -> str:
    return format_quantity(value, unit) if unit and isinstance(value, float) else str(value)


def _unit_of(key: str, default: str | None) -> tuple[str, str | None]:
    """A key as a hardware file writes it, and its unit: `bandwidth_bytes_per_s` is `bandwidth`, in B/s."""
    suffixes = {"_bytes_per_s": "B/s", "_flop_per_s": "FLOP/s", "_bytes": "B", "_s": "s"}
    found = next(((key.removesuffix(suffix), unit) for suffix, unit in suffixes.items() if key.endswith(suffix)), None)
    return found or (key, default)
