"""Records as text for people: rich tables that read well at 80 and at 120 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gpt2cost.records import Record
from gpt2cost.units import format_quantity, scale_for

WIDE = 100
"""From this many columns on, a table shows reads and writes apart, the intensity and the source."""

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


def table(columns: Sequence[Column], records: Iterable[Record], title: str | None = None) -> Table:
    """A plain table: one line a record, never wrapped."""
    grid = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        grid.add_column(column.header, justify=column.justify, no_wrap=True, overflow="ellipsis")
    for record in records:
        grid.add_row(*(column.cell(record) for column in columns))
    return grid


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
    for phase in document["phases"]:
        records = phase["kernels"]
        title = (
            f"{phase['phase']}: {settings['batch_size']} x {phase['seq_len']} new tokens on {phase['cache_len']} cached,"
            f" {phase['totals']['launches']} launches"
        )
        console.print(table(_cost_columns(records, wide=console.width >= WIDE), records, title), highlight=False)
    for phase in document["phases"]:
        _line(console, _phase_summary(phase, hardware["calibration"]))
    _line(console, _memory_summary(document["memory"]))


def _line(console: Console, *parts: str) -> None:
    console.print("".join(parts), highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _cost_columns(records: list[Record], wide: bool) -> list[Column]:
    name = Column("kernel", lambda record: record["name"].removeprefix("transformer."), "left")
    share = Column("share", lambda record: f"{100 * record['share']:.1f}%")
    head = [name, Column("count", lambda record: f"{record['count']}"), scaled_column("", "FLOP", records, "flops")]
    tail = [scaled_column("", "s", records, "device_s"), share, text_column("bound", "bound")]
    if not wide:
        return [
            *head,
            scaled_column("", "B", records, lambda record: record["read_bytes"] + record["write_bytes"]),
            *tail,
        ]
    intensity = Column("FLOP/B", lambda record: _number(record["arithmetic_intensity"]))
    moved = [scaled_column("read", "B", records, "read_bytes"), scaled_column("written", "B", records, "write_bytes")]
    source = [text_column("source", "source")] if records and "source" in records[0] else []
    return [*head, *moved, intensity, *tail, *source]


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
    console.print(table([text_column("model", "name"), *numbers, parameters], records), highlight=False)


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
    if console.width >= WIDE:
        aliases = Column("aliases", lambda record: ", ".join(record["aliases"]), "left")
        columns += [text_column("constants", "calibration"), aliases]
    console.print(table(columns, records), highlight=False)


def render_mapping(console: Console, record: Record, indent: int = 0) -> None:
    """A nested record as indented `key: value` lines."""
    for key, value in record.items():
        match value:
            case dict() if value:
                _line(console, f"{' ' * indent}{key}:")
                render_mapping(console, value, indent + 2)
            case list() | tuple() if value and isinstance(value[0], dict):
                _line(console, f"{' ' * indent}{key}:")
                for item in value:
                    pairs = ", ".join(f"{name} {inner}" for name, inner in item.items() if inner not in ("", {}, None))
                    _line(console, f"{' ' * (indent + 2)}- {pairs}")
            case list() | tuple():
                _line(console, f"{' ' * indent}{key}: {', '.join(map(str, value))}")
            case None | {}:
                continue
            case float() if (unit := _unit_of(key)) is not None:
                _line(console, f"{' ' * indent}{key}: {format_quantity(value, unit)}")
            case _:
                _line(console, f"{' ' * indent}{key}: {value}")


def _unit_of(key: str) -> str | None:
    suffixes = {"_bytes_per_s": "B/s", "_flop_per_s": "FLOP/s", "_bytes": "B", "_s": "s"}
    return next((unit for suffix, unit in suffixes.items() if key.endswith(suffix)), None)
