"""Presets, devices and single kernels as rows and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any, TypeVar

from gpt2cost.device.dtypes import DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.output.field import Field, Record, attribute, attributes, record_of, titled
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope, listing
from gpt2cost.output.shared import MODEL, trust_text
from gpt2cost.prediction.one_kernel import KernelLatency
from gpt2cost.prediction.trust import trust_at_best
from gpt2cost.table.config import Model
from gpt2cost.units import format_quantity, unit_of

T = TypeVar("T")

MODELS: View[Sequence[Model]] = listing("models", MODEL)
"""The presets."""


# ---------------------------------------------------------------------------------------------- devices


def _peak(dtype: str) -> Field[Hardware]:
    header = dtype if dtype in ("fp32", "fp16") else ""
    return Field(f"{dtype}_flop_per_s", header, "own FLOP/s", lambda device: device.compute.peak_flop_per_s.get(dtype))


NAME = attribute("name", "device")
MEMORY: Field[Hardware] = Field("memory_bytes", "memory", "own B", lambda device: round(device.memory.capacity_bytes))
BANDWIDTH = attribute("bandwidth_bytes_per_s", "bandwidth", "own B/s", of="memory")
TRUST: tuple[Field[Hardware], ...] = (
    Field("trust_at_best", "at best", "", lambda device: trust_at_best(device).word),
    Field("trust_at_best_from", "", "", lambda device: trust_at_best(device).source),
)
"""The most that a prediction on the device can be trusted; its own word depends on the regime."""
ALIASES: Field[Hardware] = Field("aliases", "", "", lambda device: list(device.aliases))
SOME_ALIASES: Field[Hardware] = Field(
    "aliases", "aliases", "", lambda device: shorten(", ".join(device.aliases), 36, placeholder=" ...")
)
PEAKS = tuple(map(_peak, DTYPES))
HARDWARE = (
    NAME, ALIASES, *attributes("vendor", "architecture"), MEMORY, BANDWIDTH, *PEAKS, *TRUST, attribute("board_power_w"),
)  # fmt: skip
"""A device's main rates: one row of `hardware list`."""


def _devices(page: Page, devices: Sequence[Hardware]) -> None:
    rates = [NAME, MEMORY, BANDWIDTH, *titled(PEAKS)]
    page.fields(devices, [*rates, TRUST[0], SOME_ALIASES], [*rates, SOME_ALIASES], rates)


DEVICES: View[Sequence[Hardware]] = listing("hardware", HARDWARE, _devices)
"""The devices, a line each."""


def hardware_record(hardware: Hardware) -> Record:
    """Everything that a device's file says, in SI units."""
    record = dataclasses.asdict(dataclasses.replace(hardware, unchanged=None))
    del record["unchanged"]
    ridge = {dtype: hardware.ridge_flop_per_byte(dtype) for dtype in hardware.compute.peak_flop_per_s}
    more = {**record_of(TRUST, hardware), "calibration_run": record.pop("calibration"), "ridge_flop_per_byte": ridge}
    return {**record, **more}


def _hardware_summary(hardware: Hardware) -> tuple[str, str]:
    memory = format_quantity(hardware.memory.capacity_bytes, "B")
    bandwidth = format_quantity(hardware.memory.bandwidth_bytes_per_s, "B/s")
    peaks = (f"{dtype} {format_quantity(x, 'FLOP/s')}" for dtype, x in hardware.compute.peak_flop_per_s.items())
    best = trust_at_best(hardware)
    trust = trust_text(best.word, best.source, hardware)
    return f"<Hardware {hardware.name}: {memory} at {bandwidth},", f" {', '.join(peaks)}, at best {trust}>"


def _single(name: str, record: Callable[[T], Record], summary: Callable[[T], tuple[str, str]], **more: Any) -> View[T]:
    """The view of one thing that is a nested record."""
    return View(
        rows=lambda item: [record(item)],
        document=lambda item: {**envelope(), name: [record(item)]},
        text=lambda page, item: mapping(page, record(item)),
        summary=summary,
        **more,
    )


ONE_DEVICE = _single(
    "hardware", hardware_record, _hardware_summary, notebook=lambda page, hardware: _devices(page, [hardware])
)
"""All that is known of one device; in a notebook, its main rates."""


# ---------------------------------------------------------------------------------------------- single kernels


def kernel_record(latency: KernelLatency) -> Record:
    """One kernel on its own."""
    counts = {name: int(getattr(latency, name)) for name in ("flops", "read_bytes", "write_bytes")}
    seconds = {name: float(value) for name, value in dataclasses.asdict(latency.terms).items()}
    named = {name: getattr(latency, name) for name in ("kind", "gpu", "dtype")}
    if latency.attention_kernel is not None:
        named["attention_kernel"] = latency.attention_kernel
    shape = {"input_tensors" if name == "inputs" else name: size for name, size in latency.shape.items()}
    trust = {"trust": latency.trust.word, "trust_from": latency.trust.source}
    intensity = {"arithmetic_intensity": counts["flops"] / (counts["read_bytes"] + counts["write_bytes"])}
    return {**named, **shape, **counts, **intensity, **seconds, "bound": latency.bound, **trust}


def _kernel_summary(latency: KernelLatency) -> tuple[str, str]:
    what = f"{latency.kind} on {latency.gpu}, {latency.dtype}: {latency.shape}"
    return f"<KernelLatency {what}", f" {latency.device_s} s, bound: {latency.bound}>"


def _kernel_text(page: Page, latency: KernelLatency) -> None:
    mapping(page, kernel_record(latency))
    if latency.kind == "gelu":
        page.line("gelu_new in eager PyTorch is not this one kernel but eight: see gpt2cost kernel elementwise")


KERNEL = dataclasses.replace(_single("kernels", kernel_record, _kernel_summary), text=_kernel_text)

VIEWS: dict[type, View[Any]] = {Hardware: ONE_DEVICE, KernelLatency: KERNEL}


# ---------------------------------------------------------------------------------------------- nested records


COUNTED_UNITS = {"flops": "FLOP", "arithmetic_intensity": "FLOP/B", "ridge_flop_per_byte": "FLOP/B"}
"""Of keys whose names say no unit."""


def mapping(page: Page, record: Mapping[str, Any], indent: int = 0, unit: str | None = None) -> None:
    """A nested record as indented `key: value` lines, quantities with their unit.

    `unit` is that of the record's numbers whose key does not name one, as in `peak_flop_per_s: {fp16: 3.12e14}`.
    """
    for key, value in record.items():
        name, named_unit = unit_of(key)
        own_unit = named_unit or COUNTED_UNITS.get(key) or unit
        label = f"{' ' * indent}{name}:"
        match value:
            case _ if value in (None, [], (), {}):
                continue
            case dict():
                page.line(label)
                mapping(page, value, indent + 2, own_unit)
            case [dict(), *_]:
                page.line(label)
                for item in value:
                    page.line(f"{' ' * (indent + 2)}- {', '.join(_pairs(item))}")
            case list() | tuple():
                page.line(f"{label} {', '.join(_value(item, own_unit) for item in value)}")
            case _:
                page.line(f"{label} {_value(value, own_unit)}")


def _pairs(item: Mapping[str, Any]) -> list[str]:
    named = ((*unit_of(key), value) for key, value in item.items() if value not in ("", {}, None))
    return [f"{name} {_value(value, unit)}" for name, unit, value in named]


def _value(value: Any, unit: str | None) -> str:
    is_quantity = isinstance(value, float) or (unit in ("B", "FLOP") and type(value) is int)
    return format_quantity(value, unit) if unit and is_quantity else str(value)
