"""Presets, devices and single kernels as rows and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from gpt2cost.device.dtypes import DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.output.page import Page
from gpt2cost.output.record import MODEL, Field, Record, View, attribute, calibration, envelope, listing
from gpt2cost.prediction.one_kernel import KernelLatency
from gpt2cost.table.config import Model
from gpt2cost.units import format_quantity, unit_of

MODELS: View[Sequence[Model]] = listing("models", MODEL)
"""The presets."""


# ---------------------------------------------------------------------------------------------- devices


def _peak(dtype: str) -> Field[Hardware]:
    header = dtype if dtype in ("fp32", "fp16") else ""
    return Field(f"{dtype}_flop_per_s", header, "own FLOP/s", lambda device: device.compute.peak_flop_per_s.get(dtype))


NAME = attribute("name", "device")
MEMORY: Field[Hardware] = Field("memory_bytes", "memory", "own B", lambda device: device.memory.capacity_bytes)
BANDWIDTH: Field[Hardware] = Field(
    "bandwidth_bytes_per_s", "bandwidth", "own B/s", lambda device: device.memory.bandwidth_bytes_per_s
)
CALIBRATION: Field[Hardware] = Field("calibration", "constants", "", calibration)
ALIASES: Field[Hardware] = Field(
    "aliases", "aliases", "", lambda device: shorten(", ".join(device.aliases), 36, placeholder=" ...")
)
HARDWARE: tuple[Field[Hardware], ...] = (
    NAME,
    Field("aliases", "", "", lambda device: list(device.aliases)),
    attribute("vendor"),
    attribute("architecture"),
    MEMORY,
    BANDWIDTH,
    *map(_peak, DTYPES),
    CALIBRATION,
)
"""A device's main rates: one row of `hardware list`."""


def _devices(page: Page, devices: Sequence[Hardware]) -> None:
    rates = [NAME, MEMORY, BANDWIDTH, *(field for field in map(_peak, DTYPES) if field.header)]
    page.fields(devices, [*rates, CALIBRATION, ALIASES], [*rates, ALIASES], rates)


DEVICES: View[Sequence[Hardware]] = listing("hardware", HARDWARE, _devices)
"""The devices, a line each."""


def hardware_record(hardware: Hardware) -> Record:
    """Everything that a device's file says, in SI units."""
    record = dataclasses.asdict(hardware)
    return {**record, "calibration": calibration(hardware), "calibration_run": record["calibration"]}


def _hardware_summary(hardware: Hardware) -> tuple[str, ...]:
    memory = format_quantity(hardware.memory.capacity_bytes, "B")
    bandwidth = format_quantity(hardware.memory.bandwidth_bytes_per_s, "B/s")
    peaks = (f"{dtype} {format_quantity(x, 'FLOP/s')}" for dtype, x in hardware.compute.peak_flop_per_s.items())
    return f"<Hardware {hardware.name}: {memory} at {bandwidth},", f" {', '.join(peaks)}, {calibration(hardware)}>"


ONE_DEVICE: View[Hardware] = View(
    rows=lambda hardware: [hardware_record(hardware)],
    document=lambda hardware: {**envelope(), "hardware": [hardware_record(hardware)]},
    text=lambda page, hardware: mapping(page, hardware_record(hardware)),
    summary=_hardware_summary,
    notebook=lambda page, hardware: _devices(page, [hardware]),
)
"""All that is known of one device; in a notebook, its main rates."""


# ---------------------------------------------------------------------------------------------- single kernels


def kernel_record(latency: KernelLatency) -> Record:
    """One kernel on its own."""
    terms = dataclasses.asdict(latency.terms)
    del terms["device_s"]
    return {
        "kind": latency.kind,
        "gpu": latency.gpu,
        "dtype": latency.dtype,
        **latency.shape,
        "flops": int(latency.flops),
        "read_bytes": int(latency.read_bytes),
        "write_bytes": int(latency.write_bytes),
        "device_s": float(latency.device_s),
        **{name: float(seconds) for name, seconds in terms.items()},
        "bound": latency.bound,
    }


KERNEL: View[KernelLatency] = View(
    rows=lambda latency: [kernel_record(latency)],
    document=lambda latency: {**envelope(), "kernels": [kernel_record(latency)]},
    text=lambda page, latency: mapping(page, kernel_record(latency)),
    summary=lambda latency: (
        f"<KernelLatency {latency.kind} on {latency.gpu}, {latency.dtype}: {latency.shape}",
        f" {latency.device_s} s, bound: {latency.bound}>",
    ),
)

VIEWS: dict[type, View[Any]] = {Hardware: ONE_DEVICE, KernelLatency: KERNEL}


# ---------------------------------------------------------------------------------------------- nested records


def mapping(page: Page, record: Mapping[str, Any], indent: int = 0, unit: str | None = None) -> None:
    """A nested record as indented `key: value` lines, quantities with their unit.

    `unit` is that of the record's numbers whose key does not name one, as in `peak_flop_per_s: {fp16: 3.12e14}`.
    """
    for key, value in record.items():
        name, named_unit = unit_of(key)
        own_unit = named_unit or unit
        label = f"{' ' * indent}{name}:"
        match value:
            case None | [] | ():
                continue
            case dict() if not value:
                continue
            case dict():
                page.line(label)
                mapping(page, value, indent + 2, own_unit)
            case [dict(), *_]:
                page.line(label)
                for item in value:
                    page.line(f"{' ' * (indent + 2)}- {', '.join(_pairs(item))}")
            case list() | tuple():
                page.line(f"{label} {', '.join(map(str, value))}")
            case _:
                page.line(f"{label} {_value(value, own_unit)}")


def _pairs(item: Mapping[str, Any]) -> list[str]:
    named = ((*unit_of(key), value) for key, value in item.items() if value not in ("", {}, None))
    return [f"{name} {_value(value, unit)}" for name, unit, value in named]


def _value(value: Any, unit: str | None) -> str:
    return format_quantity(value, unit) if unit and isinstance(value, float) else str(value)
