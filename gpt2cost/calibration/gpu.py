"""A GPU's constants, fitted to measurements of its kernels.

Every stage fits some constants of the machine model to the records of the kernels that they shape, with what earlier
stages found in place: floors, copies, all memory-bound kinds, products by dtype, attention. It minimises

    sum soft_l1(log(predicted / measured)) + weak prior that pulls each constant to the base device's

over logarithms of the constants (over multiples of a scale for those that are 0 on the base device). Discrete choices
such as tiles, splits and blocks are the base device's, and so is whatever no record speaks of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from gpt2cost.calibration.forms import (
    ATTENTION,
    HOST_BOUND,
    MEMORY_KINDS,
    REDUCTIONS,
    FitResidual,
    Group,
    gpu_groups,
    residual,
)
from gpt2cost.device.dtypes import DTYPES
from gpt2cost.device.gpu_constants import HEAD_DIMS
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.to_yaml import hardware_tree
from gpt2cost.errors import InputError, plain
from gpt2cost.measure.records import Measurement, is_time, machine, of_kind
from gpt2cost.timing.terms import Array

LEAST_RECORDS = 5
"""With fewer records the constants stay the base device's."""


_F_SCALE = 0.1
"""Log error from which a record counts as an outlier."""


_PRIOR = 0.05
"""Log error that is worth as much as a constant's distance of one from the base device's, in its logarithm or scale."""


_REACH = 8.0
"""A constant stays within this factor of the base device's."""


_MOST_SCALES = 100.0
"""And one that is 0 there below this many of its scale."""


_STARTS = 3
"""From how many points each fit starts, the base device being one."""


_MOST_STEPS = 50
"""Of a fit from one start."""


_KEPT = 1e-3
"""A constant that moved by less has not moved."""


_LIMITS = {"efficiency": (0.05, 1.2), "wave_power": (0.01, 1.0), "overlap": (1.0, 16.0), "write_weight": (0.5, 2.5)}
"""Narrower limits than `_REACH` and the schema set."""


_ZERO_SCALES = {"fill_s": 1e-6, "column_s": 1e-9, "prologue_k": 16.0, "multi_token_s": 1e-6, "multi_block_s": 1e-6}
"""Constants that may leave 0, with the scale on which they do."""


_GEMM = (
    "efficiency", "edge", "prologue_k", "step_s", "wave_power", "overlap", "dram_efficiency", "activation_traffic",
    "l2_efficiency", "launch_s", "split_s", "split_rate", "epilogue_rate", "droop", "gemv_s", "gemv_dram_efficiency",
    "gemv_k_s",
)  # fmt: skip


_ATTENTION = (
    "launch_s", "multi_token_s", "multi_block_s", "block_s", "stream_bytes_per_s", "efficiency", "tail",
    "dram_efficiency", "l2_efficiency", "resident_from",
)  # fmt: skip


_KIND = ("dram_efficiency", "elements_per_s_per_unit", "fill_s")


_HOST_OPS = {
    "op_s": ("add", "mul_scalar", "pow", "tanh", "addmm", "softmax", "cat", "contiguous", "matmul", "sdpa"),
    "module_s": ("linear_module", "conv1d_module", "layer_norm_module"),
    "view_s": ("view", "transpose"),
    "call_s": ("dropout_module",),
}
"""A host cost -> the ops of host records whose median it is."""


@dataclass(frozen=True)
class GpuFit:
    """`fitted`: path of a constant or section, as hardware files have it -> what it was fitted on."""

    hardware: Hardware
    residuals: tuple[FitResidual, ...]
    fitted: dict[str, str]


@dataclass(frozen=True)
class _Free:
    """A constant that a stage may move: `base * exp(x)`, or `scale * x` where it is 0 on the base device."""

    path: tuple[str, ...]
    base: float
    scale: float
    low: float
    high: float

    def value(self, x: float) -> float:
        if abs(x) < _KEPT:
            return self.base
        return float(self.base * np.exp(x) if self.base else self.scale * x)


def fit_gpu(records: Sequence[Measurement], base: Hardware) -> GpuFit:
    """Fit the constants of `base`, a device of the same or a similar architecture, to kernels measured on a GPU.

    The result's device keeps the name of `base` but not its aliases and evidence; it has the SMs, the memory and the
    L2 cache that the records state. Where SMs differ, peak rates follow their number. Peak bandwidths stay. Records of
    other kinds, in dtypes that `base` lacks, and of kernels that waited for the host are left out.
    Raises InputError for a record without its sizes or time, and for a `base` that is a CPU.
    """
    if base.vendor == "cpu":
        raise InputError(f"{plain(base.name)}: expected a GPU to fit a GPU's constants from")
    fitter = _Fitter(records, base)
    fitter.floors()
    fitter.host()
    fitter.memory()
    for dtype in DTYPES:
        fitter.products(dtype)
    fitter.attention()
    hw = fitter.hw
    residuals = tuple(residual(f"{group.kind} {group.dtype}", group.errors(hw)) for group in fitter.groups)
    return GpuFit(replace(hw, provenance=_provenance(hw, base, fitter.fitted)), residuals, fitter.fitted)


class _Fitter:
    """The device as fitted so far, and what was fitted on what."""

    def __init__(self, records: Sequence[Measurement], base: Hardware) -> None:
        self.records = [record for record in records if "error" not in record]
        self.machine = machine(self.records)
        self.fitted: dict[str, str] = {}
        self.hw = self._stated(replace(base, aliases=(), evidence=(), borrowed={}, variants=()))
        self.groups = gpu_groups(self.records, self.hw)

    def _stated(self, hw: Hardware) -> Hardware:
        """`hw` with the SMs and sizes that the machine's record states."""
        said = {"sms": "compute.units", "memory_bytes": "memory.capacity", "l2_bytes": "memory.l2"}
        stated = {name: value for name in said if isinstance(value := self.machine.get(name), int) and value > 0}
        self.fitted.update({said[name]: f"measured: stated by {self._gpu()}" for name in stated})
        units = stated.get("sms", hw.compute.units)
        peaks = {dtype: rate * units / hw.compute.units for dtype, rate in hw.compute.peak_flop_per_s.items()}
        capacity = float(stated.get("memory_bytes", hw.memory.capacity_bytes))
        l2 = float(stated.get("l2_bytes", hw.memory.l2_bytes))
        if units != hw.compute.units:
            self.fitted["compute.peak"] = f"that of {hw.name}, by the number of SMs"
        capability = self.machine.get("compute_capability") or hw.compute_capability
        return replace(
            hw,
            description=self._gpu() if "gpu" in self.machine else hw.description,
            compute_capability=capability,
            compute=replace(hw.compute, units=units, peak_flop_per_s=peaks),
            memory=replace(hw.memory, capacity_bytes=capacity, l2_bytes=l2),
        )

    def _gpu(self) -> str:
        gpu = self.machine.get("gpu")
        return plain(gpu) if isinstance(gpu, str) else "the GPU"

    def _note(self, path: str, count: int, what: str) -> None:
        self.fitted[path] = f"fitted on {count} measurements of {what} on {self._gpu()}"

    def floors(self) -> None:
        """The shortest kernels. In a stream they may wait for the host: then the base's ratio of both floors holds."""
        launch = self.hw.launch
        kernels = of_kind(self.records, "floor", *MEMORY_KINDS)
        graph = [1e-6 * record["graph_us"] for record in kernels if is_time(record.get("graph_us"))]
        if len(graph) >= LEAST_RECORDS or (graph and of_kind(self.records, "floor")):
            shortest = _shortest(graph)
            found_s = float(np.median(shortest))
            stream = [
                1e-6 * record["stream_us"]
                for record in kernels
                if all(is_time(record.get(name)) for name in ("stream_us", "graph_us"))
                and 1e-6 * record["graph_us"] <= HOST_BOUND * found_s
            ]
            ratio_s = launch.stream_floor_s / launch.graph_floor_s * found_s
            # what waits for the host still bounds the floor from above
            stream_s = min(ratio_s, float(np.median(_shortest(stream)))) if len(stream) >= LEAST_RECORDS else ratio_s
            launch = replace(launch, graph_floor_s=found_s, stream_floor_s=max(stream_s, found_s))
            self._note("launch", len(shortest), "the shortest kernels")
        self.hw = replace(self.hw, launch=launch)

    def host(self) -> None:
        costs: dict[str, Any] = {}
        for name, ops in _HOST_OPS.items():
            times = [record["issue_us"] for record in of_kind(self.records, "host") if record.get("op") in ops]
            if times := [time for time in times if is_time(time)]:
                costs[name] = 1e-6 * float(np.median(times))
                self._note(f"host.{name.removesuffix('_s')}", len(times), "ops issued to an idle stream")
        if costs and isinstance(cpu := self.machine.get("cpu_model") or self.machine.get("cpu"), str):
            costs["cpu"] = cpu.strip()
            self.fitted["host.cpu"] = "measured: stated by the machine"
        self.hw = replace(self.hw, host=replace(self.hw.host, **costs))

    def memory(self) -> None:
        """Plain copies, over all sizes, for the rates of DRAM and L2 and where L2 ends; then all kinds together.

        GPT-2's copies permute or concatenate: where those were measured, plain ones only serve as a start.
        """
        copies = self._of("copy")
        self._fit(copies, [*self._kind("copy"), *self._shared()])
        groups: list[Group] = []
        free = self._shared()
        for kind in dict.fromkeys(MEMORY_KINDS.values()):
            own = self._of(*(name for name, timed_as in MEMORY_KINDS.items() if timed_as == kind and name != "copy"))
            if kind == "copy" and _count(own) < LEAST_RECORDS:
                own = copies
            if _count(own) >= LEAST_RECORDS:
                groups += own
                free += self._kind(kind)
                names = " and ".join(sorted({group.kind for group in own}))
                self._note(f"model.memory.kinds.{kind}", _count(own), names)
        if count := self._fit(groups, free):
            for constant in self._shared():
                name = constant.path[-1].removesuffix("_bytes_per_s")
                self._note(f"model.memory.{name}", count, "memory-bound kernels")

    def _kind(self, kind: str) -> list[_Free]:
        names = (*_KIND, "column_s") if kind in REDUCTIONS else _KIND
        return self._free(("model", "memory", "kinds", kind), names)

    def _shared(self) -> list[_Free]:
        """What all memory-bound kinds share. The limits keep where residency fades below where it is gone."""
        memory, path = self.hw.gpu_model.memory, ("model", "memory")
        knee = (memory.resident_from * memory.resident_to) ** 0.5
        return [
            *self._free(path, ("l2_copy_bytes_per_s", "write_weight", "carry_over")),
            *self._free(path, ("resident_from",), high=0.99 * knee),
            *self._free(path, ("resident_to",), low=knee),
        ]

    def products(self, dtype: str) -> None:
        groups = [group for group in self._of("gemm", "bmm") if group.dtype == dtype]
        if _count(groups) < LEAST_RECORDS:
            return
        path = ("model", "gemm", dtype)
        self.hw = _put(self.hw, path, self.hw.gpu_model.products(dtype))
        count = self._fit(groups, self._free(path, _GEMM))
        errors = np.abs(np.concatenate([group.errors(self.hw) for group in groups]))
        self.hw = _put(self.hw, (*path, "residual"), max(1e-3, round(float(np.percentile(errors, 95)), 4)))
        self._note(f"model.gemm.{dtype}", count, f"products in {dtype}")

    def attention(self) -> None:
        """Flash attention, then the other kernel's rate; where there is no flash kernel, the other one's constants."""
        groups = self._of(*ATTENTION)
        flash = [g for g in groups if g.kind != "attention masked" and self.hw.has_flash_attention(g.dtype)]
        slow = [group for group in groups if group not in flash]
        free = self._free(("model", "attention", HEAD_DIMS[0]), _ATTENTION)
        has_flash = any(map(self.hw.has_flash_attention, self.hw.compute.peak_flop_per_s))
        if count := self._fit(flash if has_flash else slow, free):
            self._note(f"model.attention.{HEAD_DIMS[0]}", count, "attention")
        if has_flash and (count := self._fit(slow, self._free(("model",), ("masked_attention",)))):
            self._note("model.masked_attention", count, "attention with a mask or in fp32")

    def _of(self, *kinds: str) -> list[Group]:
        return [group for group in self.groups if group.kind in kinds]

    def _free(self, path: tuple[str, ...], names: Iterable[str], low: float = 0.0, high: float = np.inf) -> list[_Free]:
        """The constants at `path` that can move: those that are set, or may leave 0."""
        section = _get(self.hw, path)
        rules = {field.name: field.metadata for field in dataclasses.fields(section)}
        free = []
        for name in names:
            base = getattr(section, name)
            if base is None or (base == 0 and name not in _ZERO_SCALES):
                continue
            least, most = _LIMITS.get(name, (0.0, 1.0 if rules[name].get("bound") == "fraction" else np.inf))
            if base == 0:
                free.append(_Free((*path, name), 0.0, _ZERO_SCALES[name], 0.0, _MOST_SCALES))
                continue
            bottom, top = max(least, low, base / _REACH), min(most, high, base * _REACH)
            free.append(_Free((*path, name), base, 1.0, min(0.0, log(bottom / base)), max(0.0, log(top / base))))
        return free

    def _fit(self, groups: Sequence[Group], free: Sequence[_Free]) -> int:
        """Move the `free` constants of the device to what fits the groups best. Returns the number of records.

        With fewer than `LEAST_RECORDS` nothing moves, and it returns 0.
        """
        count = _count(groups)
        if count < LEAST_RECORDS:
            return 0

        def device(xs: Array) -> Hardware:
            hw = self.hw
            for constant, x in zip(free, xs, strict=True):
                hw = _put(hw, constant.path, constant.base * np.exp(x) if constant.base else constant.scale * x)
            return hw

        def errors(xs: Array) -> Array:
            hw = device(xs)
            return np.concatenate([*(group.errors(hw) for group in groups), _PRIOR * xs])

        low, high = np.array([(constant.low, constant.high + 1e-9) for constant in free]).T
        jitter = np.random.default_rng(0).normal(0.0, 0.3, (_STARTS, len(free)))
        jitter[0] = 0.0  # the first start is the base device
        tries = [
            least_squares(
                errors,
                np.clip(start, low, high),
                bounds=(low, high),
                method="dogbox",
                loss="soft_l1",
                f_scale=_F_SCALE,
                max_nfev=_MOST_STEPS,
            )
            for start in jitter
        ]
        found = min(tries, key=lambda one: float(one.cost))
        for constant, x in zip(free, found.x, strict=True):
            self.hw = _put(self.hw, constant.path, constant.value(min(x, constant.high)))
        return count


def _count(groups: Iterable[Group]) -> int:
    return sum(len(group.measured_s) for group in groups)


def _get(node: Any, path: Sequence[str]) -> Any:
    for key in path:
        node = node[key] if isinstance(node, Mapping) else getattr(node, key)
    return node


def _put(node: Any, path: Sequence[str], value: Any) -> Any:
    """`node`, nested dataclasses and mappings, with `value` at `path`."""
    if not path:
        return value
    key, *rest = path
    inner = _put(_get(node, (key,)) if rest else None, rest, value)
    return {**node, key: inner} if isinstance(node, Mapping) else replace(node, **{key: inner})


def _shortest(times: Sequence[float]) -> list[float]:
    """The shortest of some times: those near the fifth shortest."""
    rising = sorted(times)
    near = rising[min(LEAST_RECORDS, len(rising)) - 1]
    return [time for time in rising if near / 1.2 <= time <= 1.2 * near]


def _provenance(hw: Hardware, base: Hardware, fitted: Mapping[str, str]) -> dict[str, str]:
    """What was fitted, and where the base device has the rest from: what lies below a fitted section has changed."""
    new, old = hardware_tree(hw), hardware_tree(base)
    kept = {
        path: text if text.startswith("borrowed from ") else f"borrowed from {base.name}: {text}"
        for path, text in base.provenance.items()
        if _at(new, path) == _at(old, path) or not any(f"{path}.".startswith(f"{known}.") for known in fitted)
    }
    return {**kept, **fitted}


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
