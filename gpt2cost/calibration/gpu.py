"""A GPU's constants, fitted to measurements of its kernels.

Every stage fits some constants of the machine model to the records of the kernels that they shape, with what earlier
stages found in place: floors, copies, all memory-bound kinds, products by dtype, attention. It minimises

    sum soft_l1(log(predicted / measured)) + weak prior that pulls each constant to the base device's

over logarithms of the constants (over multiples of a scale for those that are 0 on the base device). Discrete choices
such as tiles, splits and blocks are the base device's, and so is whatever no record speaks of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2cost.calibration.forms import (
    ATTENTION,
    GPU_MEMORY_KINDS,
    HOST_BOUND,
    REDUCTIONS,
    Fit,
    Group,
    attention_kernel_of,
    gpu_groups,
)
from gpt2cost.calibration.search import FreeConstant, fitted_to, free_constants, with_value
from gpt2cost.device.catalog import list_hardware
from gpt2cost.device.dtypes import DTYPES
from gpt2cost.device.gpu_constants import HEAD_DIMS
from gpt2cost.device.hardware import BOARD_POWER, Hardware
from gpt2cost.device.to_yaml import hardware_tree
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.measure.records import Measurement, grouped, is_time, machine, of_kind
from gpt2cost.units import parse_quantity, unit_of

LEAST_RECORDS = 5
"""With fewer records the constants stay the base device's."""

_GEMM = (
    "efficiency", "edge", "prologue_k", "step_s", "wave_power", "overlap", "dram_efficiency", "l2_efficiency",
    "launch_s", "split_s", "split_efficiency", "split_rate", "epilogue_rate", "droop", "gemv_s",
    "gemv_dram_efficiency", "gemv_k_s", "gemv_rows_s", "gemv_efficiency", "unaligned_efficiency",
    "unaligned_traffic", "unaligned_step",
)  # fmt: skip
_ATTENTION = (
    "launch_s", "multi_token_s", "multi_block_s", "block_s", "stream_bytes_per_s", "efficiency", "unit_rate_flop_per_s",
    "fp32_unit_rate_flop_per_s", "masked_step_s", "tail", "dram_efficiency", "l2_efficiency", "resident_from",
)  # fmt: skip
_KIND = ("dram_efficiency", "elements_per_s_per_unit", "per_unit_bytes_per_s", "latency_s")
_HOST_OPS = {
    "op_s": ("add", "mul_scalar", "pow", "tanh", "addmm", "softmax", "cat", "contiguous", "matmul", "sdpa"),
    "module_s": ("linear_module", "conv1d_module", "layer_norm_module"),
    "view_s": ("view", "transpose"),
    "call_s": ("dropout_module",),
}
"""A host cost -> the ops of host records whose median it is."""
_STATED = {
    "sms": ("compute", "units"), "memory_bytes": ("memory", "capacity_bytes"), "l2_bytes": ("memory", "l2_bytes"),
}  # fmt: skip
"""What a machine's record may state -> where the device has it."""


def fit_gpu(records: Sequence[Measurement], base: Hardware) -> Fit:
    """Fit the constants of `base`, a device of the same or a similar architecture, to kernels measured on a GPU.

    `records`: one per case, as `check_records` accepts them. Of other kinds, in dtypes that `base` lacks, and of
    kernels that waited for the host they are left out. The result's device keeps the name of `base` but not its
    aliases and evidence; it has the SMs, the memory and the L2 cache that the records state. Where SMs differ, peak
    rates follow their number. Peak bandwidths stay. Raises InputError for a `base` that is a CPU.
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
    hw = replace(fitter.hw, provenance=_provenance(fitter.hw, base, fitter.sources))
    return Fit(hw, tuple(group.residual(hw) for group in fitter.groups))


class _Fitter:
    """The device as it is so far, and where its new constants are from: path in a hardware file -> source."""

    def __init__(self, records: Sequence[Measurement], base: Hardware) -> None:
        self.records = records
        self.machine = machine(records)
        self.sources: dict[str, str] = {}
        self.hw = self._stated(replace(base, aliases=(), evidence=(), borrowed={}, variants=()))
        self.groups = gpu_groups(records, self.hw)

    def _stated(self, hw: Hardware) -> Hardware:
        """`hw` with the SMs and sizes that the machine's record states."""
        units = hw.compute.units
        for name, path in _STATED.items():
            if isinstance(value := self.machine.get(name), int) and value > 0:
                hw = with_value(hw, path, value if name == "sms" else float(value))
                self.sources[_in_file(path)] = f"measured: stated by {self._gpu()}"
        if hw.compute.units != units:
            peaks = {dtype: rate * hw.compute.units / units for dtype, rate in hw.compute.peak_flop_per_s.items()}
            hw = with_value(hw, ("compute", "peak_flop_per_s"), peaks)
            self.sources["compute.peak"] = f"that of {hw.name}, by the number of SMs"
        description = self._gpu() if "gpu" in self.machine else hw.description
        capability = self.machine.get("compute_capability") or hw.compute_capability
        if (limit_w := _power_limit(self.machine)) is not None:
            self.sources[BOARD_POWER] = f"measured: power.limit of nvidia-smi, stated by {self._gpu()}"
        return replace(hw, description=description, compute_capability=capability, board_power_w=limit_w)

    def _gpu(self) -> str:
        gpu = self.machine.get("gpu")
        return plain(gpu) if isinstance(gpu, str) else "the GPU"

    def _note(self, path: Sequence[str], count: int, what: str, how: str = "fitted on") -> None:
        """Say that what lies at `path` is from `count` measurements."""
        self.sources[_in_file(path)] = f"{how} {count} measurements of {what} on {self._gpu()}"

    def floors(self) -> None:
        """The shortest kernels. In a stream they may wait for the host: then the base's ratio of both floors holds."""
        launch = self.hw.launch
        kernels = of_kind(self.records, "floor", *GPU_MEMORY_KINDS)
        in_graph = [record for record in kernels if is_time(record.get("graph_us"))]
        graph = [1e-6 * record["graph_us"] for record in in_graph]
        if len(graph) >= LEAST_RECORDS or (graph and of_kind(self.records, "floor")):
            shortest = _shortest(graph)
            graph_s = float(np.median(shortest))
            short = [record for record in in_graph if 1e-6 * record["graph_us"] <= HOST_BOUND * graph_s]
            stream = [1e-6 * record["stream_us"] for record in short if is_time(record.get("stream_us"))]
            stream_s = launch.stream_floor_s / launch.graph_floor_s * graph_s
            if len(stream) >= LEAST_RECORDS:  # what waits for the host still bounds the floor from above
                stream_s = min(stream_s, float(np.median(_shortest(stream))))
            launch = replace(launch, graph_floor_s=graph_s, stream_floor_s=max(stream_s, graph_s))
            self._note(("launch",), len(shortest), "the shortest kernels", "median of")
        self.hw = replace(self.hw, launch=launch)

    def host(self) -> None:
        """What the host takes to issue an op, a module's call, a view."""
        costs: dict[str, Any] = {}
        issued = [record for record in of_kind(self.records, "host") if is_time(record.get("issue_us"))]
        for name, ops in _HOST_OPS.items():
            if times := [record["issue_us"] for record in issued if record.get("op") in ops]:
                costs[name] = 1e-6 * float(np.median(times))
                self._note(("host", name), len(times), "ops issued to an idle stream", "median of")
        if costs and isinstance(cpu := self.machine.get("cpu_model") or self.machine.get("cpu"), str):
            costs["cpu"] = cpu.strip()
            self.sources["host.cpu"] = "measured: stated by the machine"
        self.hw = replace(self.hw, host=replace(self.hw.host, **costs))

    def memory(self) -> None:
        """Plain copies, over all sizes, for the rates of DRAM and L2 and where L2 ends; then all kinds together.

        GPT-2's copies permute: where such were measured, plain ones only serve as a start.
        """
        copies = self._of("copy")
        self._fit(copies, [*self._kind("copy"), *self._shared()], "copies")
        groups: list[Group] = []
        free = self._shared()
        for kind in dict.fromkeys(GPU_MEMORY_KINDS.values()):
            names = [name for name, timed_as in GPU_MEMORY_KINDS.items() if timed_as == kind and name != "copy"]
            own = self._of(*names)
            if kind == "copy" and _count(own) < LEAST_RECORDS:
                own = copies
            if _count(own) >= LEAST_RECORDS:
                groups += own
                free += self._kind(kind)
                what = " and ".join(sorted({group.kind for group in own}))
                self._note(("model", "memory", "kinds", kind), _count(own), what)
        self._fit(groups, free, "memory-bound kernels", *(constant.path for constant in self._shared()))

    def _kind(self, kind: str) -> list[FreeConstant]:
        names = (*_KIND, "column_s") if kind in REDUCTIONS else _KIND
        return free_constants(self.hw, ("model", "memory", "kinds", kind), names)

    def _shared(self) -> list[FreeConstant]:
        """What all memory-bound kinds share. The limits keep where residency fades below where it is gone."""
        memory, path = self.hw.gpu_model.memory, ("model", "memory")
        knee = (memory.resident_from * memory.resident_to) ** 0.5
        return [
            *free_constants(
                self.hw, path, ("l2_copy_bytes_per_s", "write_weight", "carry_over", "indexed_per_s_per_unit")
            ),
            *free_constants(self.hw, path, ("resident_from",), high=0.99 * knee),
            *free_constants(self.hw, path, ("resident_to",), low=knee),
        ]

    def products(self, dtype: str) -> None:
        """Products of one dtype, and how far from them the fit stays."""
        groups = [group for group in self._of("gemm", "bmm") if group.dtype == dtype]
        if _count(groups) < LEAST_RECORDS:
            return
        path = ("model", "gemm", dtype)
        self.hw = with_value(self.hw, path, self.hw.gpu_model.products(dtype))
        self._fit(groups, free_constants(self.hw, path, _GEMM), f"products in {dtype}", path)
        errors = np.abs(np.concatenate([group.errors(self.hw) for group in groups]))
        self.hw = with_value(self.hw, (*path, "residual"), max(1e-3, round(float(np.percentile(errors, 95)), 4)))

    def attention(self) -> None:
        """Each kernel that ran, whether the base has constants of it or not."""
        by_kernel = grouped(self._of(*ATTENTION), lambda group: attention_kernel_of(group, self.hw))
        for kernel, ran in by_kernel.items():
            path = ("model", "attention", kernel, HEAD_DIMS[0])
            if _count(ran) < LEAST_RECORDS:
                continue
            if kernel not in (built := self.hw.gpu_model.attention):  # the base's first kernel timed it so far
                self.hw = with_value(self.hw, path[:3], self.hw.gpu_model.attention_by(kernel))
                self.sources[_in_file(path[:3])] = f"borrowed from {self.hw.name}: its {next(iter(built))}"
            self._fit(ran, free_constants(self.hw, path, _ATTENTION), f"attention by {kernel}", path)

    def _of(self, *kinds: str) -> list[Group]:
        return [group for group in self.groups if group.kind in kinds]

    def _fit(self, groups: Sequence[Group], free: Sequence[FreeConstant], what: str, *paths: Sequence[str]) -> None:
        """Move the free constants of the device to what fits the groups best, and note that `paths` are fitted on
        `what`. With fewer than `LEAST_RECORDS` nothing moves."""
        if (count := _count(groups)) >= LEAST_RECORDS:
            self.hw = fitted_to(groups, self.hw, free)
            for path in paths:
                self._note(path, count, what)


def _in_file(path: Sequence[str]) -> str:
    """A path as a hardware file has it: `host.op` for (`host`, `op_s`)."""
    return ".".join(unit_of(name)[0] for name in path)


def _power_limit(machine: Measurement) -> float | None:
    """What the driver lets the board draw, None where nvidia-smi did not say: see `measure.bench`."""
    said = machine.get("nvidia_smi")
    parts = said.split(",") if isinstance(said, str) else []
    try:
        return parse_quantity(parts[3], "W") if len(parts) > 3 else None
    except InputError:  # [N/A]
        return None


def _count(groups: Iterable[Group]) -> int:
    return sum(len(group.measured_s) for group in groups)


def _shortest(times: Sequence[float]) -> list[float]:
    """The shortest of some times: those near the fifth shortest."""
    rising = sorted(times)
    near = rising[min(LEAST_RECORDS, len(rising)) - 1]
    return [time for time in rising if near / 1.2 <= time <= 1.2 * near]


def _provenance(hw: Hardware, base: Hardware, sources: Mapping[str, str]) -> dict[str, str]:
    """`sources`, and where the base device has the rest from: what lies below a section with a source has changed."""
    new, old = hardware_tree(hw), hardware_tree(base)
    kept = {
        path: text if text.startswith("borrowed from ") else f"borrowed from {base.name}: {text}"
        for path, text in base.provenance.items()
        if _at(new, path) == _at(old, path)
        or not (path == BOARD_POWER or any(f"{path}.".startswith(f"{section}.") for section in sources))
    }
    return {**kept, **sources}


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


# ---------------------------------------------------------------------------------------------- the base device


def base_for(machine: Measurement) -> str:
    """The name of the device in reach that is nearest to the GPU that a machine record names.

    Raises InputError, which asks for `--like`, where the record names none or none is near.
    """
    gpu = machine.get("gpu")
    if not isinstance(gpu, str):
        raise InputError("the measurements name no GPU: name the most similar device with --like")
    wanted = _tokens(gpu)
    chips = set(map(_chip, wanted)) - {""}

    def nearness(device: Hardware) -> tuple[float, ...]:
        """Larger is nearer: the exact chip, common words, words too many, the chip's main device, the memory's size."""
        names = _names(device)
        size = machine.get("memory_bytes") or device.memory.capacity_bytes
        away = abs(float(np.log(size / device.memory.capacity_bytes)))
        main = not wanted.isdisjoint(device.names)
        return (any(map(_chip, wanted & names)), len(wanted & names), -len(names - wanted), main, -away)

    gpus = [device for device in list_hardware() if device.vendor != "cpu"]
    near = [device for device in gpus if chips & set(map(_chip, _names(device)))]
    if not near:
        raise InputError(f"no known device is near to {echo(gpu)}: name the most similar one with --like")
    return max(near, key=nearness).name


def _names(device: Hardware) -> set[str]:
    return set().union(*map(_tokens, device.names))


def _tokens(text: str) -> set[str]:
    """The words of a name in lower case; `SXM4` is `sxm`."""
    return {re.sub(r"^sxm[0-9]$", "sxm", word) for word in re.split(r"[^a-z0-9]+", text.lower()) if word}


def _chip(token: str) -> str:
    """What names a chip in a word, such as `a10` in `a10g` and `4090`; empty for a word that names none."""
    match = re.fullmatch(r"([a-z]{0,3}[0-9]{1,4})[a-z]?", token)
    return match[1] if match and not re.fullmatch(r"[0-9]{1,3}[a-z]?|hbm[0-9][a-z]?", token) else ""
