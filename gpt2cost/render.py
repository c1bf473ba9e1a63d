"""Records as text for people: tables that read well at 80 and at 120 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import shorten
from typing import Any

from gpt2cost.page import Column, Page, first_fit, grid, scaled_column, short_number, text_column
from gpt2cost.records import Record
from gpt2cost.units import format_quantity, scale_for

# ---------------------------------------------------------------------------------------------- predict


def render_prediction(page: Page, document: Record) -> None:
    """A prediction: the settings, a table a phase, and a summary to act on."""
    model, hardware, settings = document["model"], document["hardware"], document["settings"]
    cached = "" if settings["use_cache"] else ", no KV cache"
    page.line(
        f"{model['name']} ({format_quantity(model['parameters'], '')} parameters) on {hardware['name']}",
        f", {settings['dtype']}, {settings['attn']} attention, {settings['runtime']} runtime{cached}",
        f"; logits of {settings['logits']} positions; {document['flops_convention']}",
    )
    page.line(_memory_summary(document["memory"]))
    pairs = [
        (phase, [grid(columns, phase["kernels"]) for columns in _cost_layouts(phase["kernels"])])
        for phase in document["phases"]
    ]
    fits = max(first_fit(layouts, page.width) for _, layouts in pairs)  # one for all phases
    for phase, layouts in pairs:
        totals = phase["totals"]
        sizes = f"{settings['batch_size']} x {phase['seq_len']} new tokens on {phase['cache_len']} cached"
        page.line(f"\n{phase['phase']}: {sizes}, {totals['launches']} launches\n", style="bold")
        page.table(layouts[fits])
        if "explanation" in phase:
            _render_explanation(page, phase["explanation"])
    page.line()
    for phase in document["phases"]:
        page.line(_phase_summary(phase, hardware["calibration"]))


def _render_explanation(page: Page, explanation: Record) -> None:
    slowest, sensitivity = explanation["slowest"], explanation["sensitivity"]
    divisor, unit = scale_for([float(record["device_s"]) for record in slowest], "s")

    def seconds(label: str, key: str) -> Column:
        return Column(label, lambda record: short_number(float(record[key]) / divisor))

    columns = [
        Column("slowest kernels", lambda record: record["name"].removeprefix("transformer."), "left"),
        seconds("total", "device_s"),
        seconds("least", "speed_of_light_s"),
        Column("gap", lambda record: f"{short_number(record['gap'])}x"),
        seconds("compute", "compute_s"),
        seconds("waves", "wave_s"),
        seconds("memory", "memory_s"),
        seconds("launch", "launch_s"),
        seconds("host", "host_s"),
    ]
    page.line(f"\nwhere the time goes, in {unit}; terms overlap; least: speed of light; gap: total over least\n")
    page.table(grid(columns, slowest))
    page.line()
    for change in sensitivity:
        faster = f"{change['speedup']:.2f}x as fast" if change["speedup"] >= 1.005 else "no faster"
        page.line(f"with {change['change']}: {format_quantity(change['latency_s'], 's')}, {faster}")


def _cost_layouts(records: list[Record]) -> list[list[Column]]:
    """The columns of a cost table, the fullest layout first."""
    name = Column("kernel", lambda record: record["name"].removeprefix("transformer."), "left")
    share = Column("share", lambda record: f"{100 * record['share']:.1f}%")
    head = [name, Column("count", lambda record: f"{record['count']}"), scaled_column("", "FLOP", records, "flops")]
    tail = [scaled_column("", "s", records, "device_s"), share, text_column("bound", "bound")]
    intensity = Column("FLOP/B", lambda record: short_number(record["arithmetic_intensity"]))
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


def render_cost_table(page: Page, records: Iterable[Record]) -> None:
    """The cost table, a block a kernel, with formulas that can be copied."""
    for record in records:
        count = "" if record["count_formula"] == "1" else f" x {record['count_formula']}"
        condition = f" when {record['when']}" if record["when"] else ""
        page.line(f"{record['name']}: {record['op']}{count}{condition}  [{record['source']}]")
        for label, key in (("FLOPs", "flops"), ("reads", "read"), ("writes", "write")):
            number = record.get(key if key == "flops" else f"{key}_bytes")
            value = "" if number is None else f" = {number}"
            if record[f"{key}_formula"] != "0":
                page.line(f"    {label:<6} {record[f'{key}_formula']}{value}")


def render_models(page: Page, records: Sequence[Record]) -> None:
    """The presets."""
    names = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions")
    parameters = Column("parameters", lambda record: f"{record['parameters']:,}")
    numbers = [Column(name, lambda record, name=name: str(record[name])) for name in names]  # type: ignore[misc]
    columns = [text_column("model", "name"), *numbers, parameters]
    page.table(grid(columns, records))


def render_hardware_list(page: Page, records: Sequence[Record]) -> None:
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
    aliases = Column("aliases", lambda record: shorten(", ".join(record["aliases"]), 36, placeholder=" ..."), "left")
    layouts = [grid(chosen, records) for chosen in ([*columns, calibration, aliases], [*columns, aliases], columns)]
    page.table(layouts[first_fit(layouts, page.width)])


def render_mapping(page: Page, record: Record, indent: int = 0, unit: str | None = None) -> None:
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
                page.line(label)
                render_mapping(page, value, indent + 2, own_unit)
            case [dict(), *_]:
                page.line(label)
                for item in value:
                    pairs = [
                        f"{inner} {_value(each, own)}"
                        for key, each in item.items()
                        if each not in ("", {}, None)
                        for inner, own in [_unit_of(key, None)]
                    ]
                    page.line(f"{' ' * (indent + 2)}- {', '.join(pairs)}")
            case list() | tuple():
                page.line(f"{label} {', '.join(map(str, value))}")
            case _:
                page.line(f"{label} {_value(value, own_unit)}")


def _value(value: Any, unit: str | None) -> str:
    return format_quantity(value, unit) if unit and isinstance(value, float) else str(value)


def _unit_of(key: str, default: str | None) -> tuple[str, str | None]:
    """A key as a hardware file writes it, and its unit: `bandwidth_bytes_per_s` is `bandwidth`, in B/s."""
    suffixes = {"_bytes_per_s": "B/s", "_flop_per_s": "FLOP/s", "_bytes": "B", "_s": "s"}
    found = next(((key.removesuffix(suffix), unit) for suffix, unit in suffixes.items() if key.endswith(suffix)), None)
    return found or (key, default)
