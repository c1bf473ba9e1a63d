"""What bounds a pass and what would help: the terms of the slowest kernels, and the pass under changed hardware."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.one_pass import KernelCost, run_pass
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.table.kernel import FusedAttention, Gemm
from gpt2cost.timing.kernel import improvements
from gpt2cost.timing.queue import host_cost
from gpt2cost.timing.terms import product_dtype

TERMS = ("compute_s", "memory_s", "l2_s", "serial_s", "launch_s")


@dataclass(frozen=True)
class KernelExplanation:
    """Where a kernel's time goes, in seconds over its `count` launches.

    The terms are what each resource alone would take, so they overlap and need not sum to `device_s`.
    `speed_of_light_s` is the longest of FLOPs / peak, bytes / L2 bandwidth, and the bytes that L2 does not hold from
    before / DRAM bandwidth; `gap` is `device_s` over it.
    """

    name: str
    count: int
    device_s: float
    compute_s: float
    memory_s: float
    l2_s: float
    serial_s: float
    launch_s: float
    host_s: float
    speed_of_light_s: float
    gap: float


@dataclass(frozen=True)
class Sensitivity:
    """The pass's latency if one thing were better, and how much faster that is."""

    change: str
    latency_s: float
    speedup: float


@dataclass(frozen=True)
class Explanation:
    """The slowest kernels of a phase, and what would help the whole."""

    slowest: tuple[KernelExplanation, ...]
    sensitivity: tuple[Sensitivity, ...]


def explain(prediction: Prediction, phase: Phase, top: int = 5) -> Explanation:
    """Explain one phase of a single-point prediction by its `top` slowest kernels."""
    slowest = sorted(phase.kernels, key=lambda cost: -float(cost.device_s))[:top]
    return Explanation(
        tuple(_kernel(prediction, cost) for cost in slowest),
        tuple(_sensitivity(prediction, phase, change, hw) for change, hw in improvements(prediction.hardware)),
    )


def _kernel(prediction: Prediction, cost: KernelCost) -> KernelExplanation:
    hw, how, terms = prediction.hardware, prediction.how, cost.terms
    moved, memory = cost.moved_bytes, hw.memory
    cold = min(moved, float(cost.count * terms.dram_bytes))
    light_s = max(moved / memory.l2_bandwidth_bytes_per_s, cold / memory.bandwidth_bytes_per_s)
    if isinstance(cost.kernel.shape, Gemm | FusedAttention):
        light_s = max(light_s, cost.flops / hw.compute.peak_flop_per_s[product_dtype(cost.kernel, how.dtype)])
    total = {name: float(cost.count * getattr(terms, name)) for name in TERMS}
    return KernelExplanation(
        name=cost.row.path,
        count=cost.count,
        device_s=cost.device_s,
        **total,
        host_s=cost.count * host_cost(cost.kernel, hw.host, how.runtime),
        speed_of_light_s=light_s,
        gap=cost.device_s / light_s if light_s else float("inf"),
    )


def _sensitivity(prediction: Prediction, phase: Phase, change: str, hw: Hardware) -> Sensitivity:
    better = run_pass(prediction.model, hw, prediction.how, phase.sizes)
    latency_s = float(better.times.latency_s)
    return Sensitivity(change, latency_s, phase.totals.latency_s / latency_s)
