"""What bounds a pass and what would help: the terms of the slowest kernels, and the pass run otherwise or elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from gpt2cost.device.dtypes import HALF_DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.one_pass import KernelCost, Pass, run_pass, uncapturable
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.prediction.settings import How, Number, Sizes, check_device
from gpt2cost.table.config import Model, change_model
from gpt2cost.table.kernel import FusedAttention, Gemm
from gpt2cost.table.options import RUNTIMES
from gpt2cost.timing.kernel import improvements
from gpt2cost.timing.queue import host_cost
from gpt2cost.timing.terms import product_dtype

LEAST_GAIN, WORTH_SAYING = 1.005, 1.01
"""The least speed-up of a setting that is listed, and of a padding that every prediction names."""
WORTH_SETTING = 0.05
"""What another setting has to save of a pass for every prediction to name it, and its kernels to take of the pass."""
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
    """The pass's latency if one thing were otherwise, and how much faster that is. `kind`: what changes."""

    kind: Literal["software", "hardware"]
    change: str
    latency_s: float
    speedup: float


@dataclass(frozen=True)
class Advice:
    """A setting that makes a pass faster, and of which of its kernels the saved seconds are most.

    `saves`: share of the pass's latency. `kernels`: paths of one module's, which take `share` of the latency today;
    none where it is mostly the host's time that is saved, or many modules'.
    """

    change: str
    latency_s: float
    saves: float
    module: str
    kernels: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class Explanation:
    """The slowest kernels of a phase, and what would help the whole."""

    slowest: tuple[KernelExplanation, ...]
    sensitivity: tuple[Sensitivity, ...]


def explain(prediction: Prediction, phase: Phase, top: int = 5) -> Explanation:
    """Explain one phase of a single-point prediction by its `top` slowest kernels."""
    slowest = sorted(phase.kernels, key=lambda cost: -float(cost.device_s))[:top]
    software = [_changed(phase, change, run) for change, run in _software(prediction, phase)]
    helps = sorted((change for change in software if change.speedup >= LEAST_GAIN), key=lambda it: -it.speedup)
    own = _Run.of(prediction, phase)
    hardware = [
        _changed(phase, change, replace(own, hw=hw), "hardware") for change, hw in improvements(prediction.hardware)
    ]
    return Explanation(tuple(explained(own.hw, own.how, cost, phase.symbols) for cost in slowest), (*helps, *hardware))


# ---------------------------------------------------------------------------------------------- what-ifs


@dataclass(frozen=True)
class _Run:
    """One pass on a device."""

    model: Model
    hw: Hardware
    how: How
    sizes: Sizes

    @classmethod
    def of(cls, prediction: Prediction, phase: Phase) -> _Run:
        """The pass that was predicted."""
        return cls(prediction.model, prediction.hardware, prediction.how, phase.sizes)

    @property
    def runs(self) -> bool:
        """Whether the device can follow."""
        try:
            check_device(self.hw, self.how, self.model.head_dim)
        except InputError:
            return False
        return not uncapturable(self.model, self.how, self.sizes)[0]


def _software(prediction: Prediction, phase: Phase) -> Iterator[tuple[str, _Run]]:
    """What could be set otherwise where the device can follow: each with the run that it makes."""
    own = _Run.of(prediction, phase)
    how, peaks = own.how, prediction.hardware.compute.peak_flop_per_s
    narrower = {"fp32": ("tf32", *HALF_DTYPES), "tf32": HALF_DTYPES}.get(how.dtype, ())
    hows = [(f"runtime {name}", replace(how, runtime=name)) for name in RUNTIMES[1:] if name != how.runtime]
    attns: dict[str, tuple[str, ...]] = {"eager": ("sdpa", "flash_attention_2"), "sdpa": ("flash_attention_2",)}
    hows += [(f"attn {name}", replace(how, attn=name)) for name in attns.get(how.attn, ("sdpa",))]
    hows += [(f"dtype {name}", replace(how, dtype=name)) for name in narrower if name in peaks]
    if how.logits == "all" and own.model.head == "lm" and phase.seq_len > 1:
        hows.append(("logits last", replace(how, logits="last")))
    if how.use_cache and how.cache_type == "dynamic":
        hows.append(("cache_type static", replace(how, cache_type="static")))
    for change, other in hows:
        if (run := replace(own, how=other)).runs:
            yield change, run
    yield from _padded(own)


def _padded(own: _Run) -> Iterator[tuple[str, _Run]]:
    """The vocabulary, and what eager attention attends to, padded so that rows are aligned."""
    vocabulary = padded(own.model.vocab_size, 64)
    if vocabulary != own.model.vocab_size:
        changed = change_model(own.model, {"vocab_size": vocabulary})
        yield f"vocab_size padded to {vocabulary}", replace(own, model=changed)
    kv_len, sizes = padded(own.sizes.kv_len, 8), own.sizes
    if own.how.attn == "eager" and kv_len != sizes.kv_len:
        grown = "cache_len" if sizes.cache_len else "seq_len"
        longer = {grown: getattr(sizes, grown) + kv_len - sizes.kv_len}
        yield f"kv_len padded to {kv_len}", replace(own, sizes=replace(sizes, **longer))


def paddings_that_help(prediction: Prediction, phase: Phase) -> list[Sensitivity]:
    """What of `_padded` would help one phase of a single-point prediction. 32-bit products need no alignment."""
    if prediction.how.dtype not in HALF_DTYPES or phase.totals.bound == "host":
        return []
    own = _Run.of(prediction, phase)
    changes = [_changed(phase, change, run) for change, run in _padded(own)]
    return [change for change in changes if change.speedup >= WORTH_SAYING]


def advice(prediction: Prediction, phase: Phase) -> list[Advice]:
    """What every prediction says would help one phase, without another dtype: the most saving setting first.

    Only settings are tried whose kernels take enough of the pass.
    """
    own = _Run.of(prediction, phase)
    found = (
        _advised(phase, change, run_pass(run.model, run.hw, run.how, run.sizes))
        for change, run in _promising(own, prediction, phase)
    )
    worth = [found for found in found if found.saves >= WORTH_SETTING]
    paddings = [
        Advice(padding.change, padding.latency_s, 1.0 - 1.0 / padding.speedup, "", (), 0.0)
        for padding in paddings_that_help(prediction, phase)
    ]
    return [*sorted(worth, key=lambda advice: -advice.saves), *paddings]


def _promising(own: _Run, prediction: Prediction, phase: Phase) -> Iterator[tuple[str, _Run]]:
    """Settings that may save enough of a pass, where the device can follow."""
    how, latency_s = own.how, phase.totals.latency_s

    def take(*names: str) -> bool:
        """Whether kernels of such names take enough, and the host would let the pass be as much faster."""
        if phase.totals.host_s > (1.0 - WORTH_SETTING) * latency_s:
            return False
        rows = (cost for cost in phase.kernels if cost.row.path.rpartition(".")[2] in names)
        return bool(sum(float(cost.device_s) for cost in rows) >= WORTH_SETTING * latency_s)

    fewer_kernels_do = phase.totals.bound not in ("host", "launch") and how.runtime == "eager"
    runtime = "compile" if fewer_kernels_do else runtime_that_helps(prediction, phase)
    hows = [(f"runtime {runtime}", replace(how, runtime=runtime))] if runtime else []
    if how.attn == "eager":
        hows.append(("attn sdpa", replace(how, attn="sdpa")))
    if how.logits == "all" and own.model.head == "lm" and phase.seq_len > 1 and take("lm_head"):
        hows.append(("logits last", replace(how, logits="last")))
    if how.use_cache and how.cache_type == "dynamic" and take("cat_key", "cat_value"):
        hows.append(("cache_type static", replace(how, cache_type="static")))
    for change, other in hows:
        if (run := replace(own, how=other)).runs:
            yield change, run


def _advised(phase: Phase, change: str, other: Pass) -> Advice:
    """A change, with the kernels of the module that most of the saved seconds are of, if one has half of them."""
    latency_s, now_s = float(other.times.latency_s), float(phase.totals.latency_s)
    saved = _seconds_by_kind(phase.kernels)
    for key, seconds in _seconds_by_kind(other.kernels).items():
        saved[key] = saved.get(key, 0.0) - seconds
    by_module: dict[str, float] = {}
    for (module, _), seconds in saved.items():
        by_module[module] = by_module.get(module, 0.0) + seconds
    module = max(by_module, key=lambda name: by_module[name])
    after = {cost.row.path: float(cost.device_s) for cost in other.kernels}
    own = [
        cost
        for cost in phase.kernels
        if cost.row.module == module
        and saved[module, cost.kernel.kind] > 0
        and after.get(cost.row.path, 0.0) < cost.device_s / WORTH_SAYING
    ]
    if by_module[module] < 0.5 * (now_s - latency_s):
        own, module = [], ""
    share = sum(float(cost.device_s) for cost in own) / now_s
    return Advice(change, latency_s, 1.0 - latency_s / now_s, module, tuple(cost.row.path for cost in own), share)


def _seconds_by_kind(kernels: Iterable[KernelCost]) -> dict[tuple[str, str], float]:
    """Seconds by module and kind of kernel."""
    seconds: dict[tuple[str, str], float] = {}
    for cost in kernels:
        key = cost.row.module, cost.kernel.kind
        seconds[key] = seconds.get(key, 0.0) + float(cost.device_s)
    return seconds


def padded(size: int, step: int) -> int:
    """The next multiple of `step` from `size` on."""
    return -(-size // step) * step


def _changed(phase: Phase, change: str, run: _Run, kind: Literal["software", "hardware"] = "software") -> Sensitivity:
    latency_s = float(run_pass(run.model, run.hw, run.how, run.sizes).times.latency_s)
    return Sensitivity(kind, change, latency_s, phase.totals.latency_s / latency_s)


def runtime_that_helps(prediction: Prediction, phase: Phase) -> str | None:
    """The runtime with less host time and fewer launches that the device can follow with; None if there is none.

    Compiled code has fewer kernels, and a CUDA graph of it no host between them: it is the fastest wherever it runs.
    """
    how = prediction.how
    better: dict[str, tuple[str, ...]] = {"eager": ("reduce-overhead", "compile"), "compile": ("reduce-overhead",)}
    if phase.totals.bound == "launch":
        better["cuda-graph"] = ("reduce-overhead",)
    own = _Run.of(prediction, phase)
    names = better.get(how.runtime, ())
    return next((name for name in names if replace(own, how=replace(how, runtime=name)).runs), None)


# ---------------------------------------------------------------------------------------------- kernels


def explained(hw: Hardware, how: How, cost: KernelCost, values: Mapping[str, Number]) -> KernelExplanation:
    """Where the time of a kernel goes on a device."""
    terms = cost.terms
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
        host_s=cost.count * host_cost(cost.kernel, hw.host, how.runtime, values),
        speed_of_light_s=light_s,
        gap=cost.device_s / light_s if light_s else float("inf"),
    )
