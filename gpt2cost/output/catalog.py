"""Presets, devices and single kernels as rows and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.page import Column, Page, first_fit, grid, text_column
from gpt2cost.output.record import Record, calibration
from gpt2cost.prediction.one_kernel import KernelLatency
from gpt2cost.table.config import Model
from gpt2cost.units import format_quantity, unit_of


def model_record(model: Model) -> Record:
    """A model's dimensions under GPT2Config's names, and its parameters."""
    fields = ("name", "n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions", "activation_function")
    switches = ("tie_word_embeddings", "reorder_and_upcast_attn")
    return {name: getattr(model, name) for name in (*fields, *switches)} | {"parameters": model.parameters}


# ---------------------------------------------------------------------------------------------- single kernels


def kernel_record(latency: KernelLatency) -> Record:
    """One kernel on its own."""
    terms = dataclasses.asdict(latency.terms)
    del terms["device_s"]
    return {
        "kind": latency.kind,
        "hardware": latency.hardware,
        "dtype": latency.dtype,
        **latency.shape,
        "flops": int(latency.flops),
        "read_bytes": int(latency.read_bytes),
        "write_bytes": int(latency.write_bytes),
        "device_s": float(latency.device_s),
        **{name: float(seconds) for name, seconds in terms.items()},
        "bound": latency.bound,
    }


# ---------------------------------------------------------------------------------------------- devices


def hardware_summary(hardware: Hardware) -> Record:
    """A device's main rates: one row of `hardware list`."""
    peaks = hardware.compute.peak_flop_per_s
    return {
        "name": hardware.name,
        "aliases": list(hardware.aliases),
        "vendor": hardware.vendor,
        "architecture": hardware.architecture,
        "memory_bytes": hardware.memory.capacity_bytes,
        "bandwidth_bytes_per_s": hardware.memory.bandwidth_bytes_per_s,
        **{f"{dtype}_flop_per_s": peaks.get(dtype) for dtype in ("fp32", "tf32", "fp16", "bf16")},
        "calibration": calibration(hardware),
    }


def hardware_record(hardware: Hardware) -> Record:
    """Everything that a device's file says, in SI units."""
    record = dataclasses.asdict(hardware)
    return {**record, "calibration": calibration(hardware), "calibration_run": record["calibration"]}


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
        name, named_unit = unit_of(key)
        own_unit = named_unit or unit
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
                        for inner, own in [unit_of(key)]
                    ]
                    page.line(f"{' ' * (indent + 2)}- {', '.join(pairs)}")
            case list() | tuple():
                page.line(f"{label} {', '.join(map(str, value))}")
            case _:
                page.line(f"{label} {_value(value, own_unit)}")


def _value(value: Any, unit: str | None) -> str:
    return format_quantity(value, unit) if unit and isinstance(value, float) else str(value)
