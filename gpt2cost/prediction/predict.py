"""Table x model x hardware to a `Prediction`.

Sizes are integers or numpy arrays, which broadcast: a single point is a grid of size one. At a single point FLOPs and
bytes are exact Python integers; on a grid they are float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from gpt2cost.checks import Size, check_flag
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.one_pass import KernelCost, Pass, plain, run_pass
from gpt2cost.prediction.ranges import spread
from gpt2cost.prediction.settings import Number, Settings, check_device, check_settings
from gpt2cost.table.config import Model, load_model
from gpt2cost.table.kernel import FusedAttention, Gemm
from gpt2cost.table.liveness import peak_bytes
from gpt2cost.timing.kernel import BOUNDS, bound_seconds, index_of_largest, largest
from gpt2cost.units import format_quantity


@dataclass(frozen=True)
class Totals:
    """A pass. Seconds, bytes and FLOPs; see the properties of `Phase` for what each means."""

    launches: Number
    flops: Number
    read_bytes: Number
    write_bytes: Number
    device_s: Number
    host_s: Number
    latency_s: Number
    latency_low_s: Number
    latency_high_s: Number
    bound: Any
    tokens_per_s: Number
    flops_utilization: Number
    bandwidth_utilization: Number


@dataclass(frozen=True)
class Phase:
    """One forward pass: `seq_len` new tokens on top of `cache_len` cached ones.

    `symbols` are the values with which the row formulas evaluate to the rows' figures.
    """

    phase: str
    batch_size: Size
    seq_len: Size
    cache_len: Size
    kv_len: Size
    symbols: Mapping[str, Number]
    kernels: tuple[KernelCost, ...]
    totals: Totals
    activations_bytes: Number


@dataclass(frozen=True)
class MemoryUse:
    """What the run holds at its fullest moment, in bytes, beside the device's capacity."""

    weights_bytes: Number
    kv_cache_bytes: Number
    activations_bytes: Number
    total_bytes: Number
    capacity_bytes: Number
    fits: Any


@dataclass(frozen=True)
class Prediction:
    """What `predict` returns."""

    model: Model
    hardware: Hardware
    settings: Settings
    phases: tuple[Phase, ...]
    memory: MemoryUse
    warnings: tuple[str, ...]


def predict(
    model: object,
    gpu: str | Hardware,
    batch: Size = 1,
    seq: Size = 128,
    cache: Size = 0,
    dtype: str = "fp16",
    attn: str = "sdpa",
    runtime: str = "eager",
    phase: str = "both",
    logits: str = "all",
    use_cache: bool = True,
) -> Prediction:
    """Predict FLOPs, bytes and latency of a GPT-2 model on a device.

    `model` is a preset, a folder, a config.json, a hub id, a `GPT2Config` or a `Model`; `gpu` a device's name or
    file, or a `Hardware`. `batch`, `seq` (new tokens) and `cache` (tokens already cached) are integers or integer
    arrays that broadcast together. `phase` is `prefill` (the pass of `seq` tokens), `decode` (the next single-token
    step, on `cache + seq` tokens) or `both`; where `seq` is 1 and `cache` is not 0 the pass itself is the decode step.

    Raises `InputError` for anything unknown or impossible, with what would be right.
    """
    loaded, hardware = load_model(model), load_hardware(gpu)
    use_cache = check_flag("use_cache", use_cache)
    settings = check_settings(batch, seq, cache, dtype, attn, runtime, phase, logits, use_cache)
    return predict_run(loaded, hardware, settings, phase)


def predict_run(model: Model, hardware: Hardware, settings: Settings, phase: str = "both") -> Prediction:
    """`predict` for settings that have been checked. Raises `InputError` where model or device cannot run them."""
    if settings.use_cache and not model.use_cache:
        settings = dataclasses.replace(settings, use_cache=False)
        if np.any(np.asarray(settings.cache_len) != 0):
            raise InputError(f"cache: expected 0, because use_cache is false in the config of {model.name}")
    check_device(hardware, settings.dtype, settings.attn, settings.runtime)
    passes = _passes(phase, settings.seq_len, settings.cache_len, settings.use_cache)
    phases = tuple(_phase(model, hardware, settings, *one) for one in passes)
    memory = _memory(model, hardware, settings, phases)
    return Prediction(model, hardware, settings, phases, memory, tuple(_warnings(model, phases, memory)))


# ---------------------------------------------------------------------------------------------- one pass


def _passes(phase: str, seq: Size, cache: Size, use_cache: bool) -> list[tuple[str, Size, Size]]:
    """The forward passes to predict: (phase, seq_len, cache_len)."""
    is_decode = (np.asarray(seq) == 1) & (np.asarray(cache) > 0)
    if np.all(is_decode):
        return [("decode", seq, cache)]
    if not use_cache:
        step = ("decode", seq + 1, cache)
    elif np.any(is_decode):
        step = ("decode", 1, np.where(is_decode, cache, cache + seq))
    else:
        step = ("decode", 1, cache + seq)
    return [p for p in (("prefill", seq, cache), step) if phase in (p[0], "both")]


def _phase(model: Model, hw: Hardware, settings: Settings, phase: str, seq: Size, cache: Size) -> Phase:
    one = run_pass(model, hw, settings, seq, cache)
    totals = _totals(one, hw, settings, 1 if phase == "decode" else seq)
    live = peak_bytes(one.rows, one.symbols, settings.use_cache)
    return Phase(phase, settings.batch_size, seq, cache, cache + seq, one.symbols, one.kernels, totals, live)


def _totals(one: Pass, hw: Hardware, settings: Settings, tokens: Size) -> Totals:
    """`tokens` are those that the pass brings a sequence: without a KV cache a decode step runs more."""
    kernels, symbols = one.kernels, one.symbols
    launches, flops, reads, writes, device_s = (
        total(getattr(kernel, name) for kernel in kernels)
        for name in ("count", "flops", "read_bytes", "write_bytes", "device_s")
    )
    bounds = [index_of_largest(bound_seconds(kernel.terms)) for kernel in kernels]
    seconds = [
        total(np.where(bound == number, kernel.device_s, 0.0) for bound, kernel in zip(bounds, kernels, strict=True))
        for number in range(len(BOUNDS))
    ]
    waits_for_host = np.where(one.times.host_s > device_s, np.inf, 0.0)
    product_flops = total(kernel.flops for kernel in kernels if isinstance(kernel.kernel.shape, Gemm | FusedAttention))
    latency_s = plain(one.times.latency_s)
    known = spread(hw, settings.dtype)
    low, high = (
        plain(one.scaled(hw, settings.runtime, device, host).latency_s)
        for device, host in ((known.device_low, known.host_low), (known.device_high, known.host_high))
    )
    return Totals(
        launches=launches,
        flops=flops,
        read_bytes=reads,
        write_bytes=writes,
        device_s=device_s,
        host_s=plain(one.times.host_s),
        latency_s=latency_s,
        latency_low_s=low,
        latency_high_s=high,
        bound=largest(("host", *BOUNDS), (waits_for_host, *seconds)),
        tokens_per_s=symbols["batch_size"] * tokens / latency_s,
        flops_utilization=product_flops / (latency_s * hw.compute.peak_flop_per_s[settings.dtype]),
        bandwidth_utilization=(reads + writes) / (latency_s * hw.memory.bandwidth_bytes_per_s),
    )


def total(values: Iterable[Number]) -> Number:
    """The sum of integers, floats or arrays. Arrays of one shape are added first, so that small shapes stay small."""
    sums: dict[tuple[int, ...], Number] = {}
    for value in values:
        shape = np.shape(value)
        sums[shape] = sums[shape] + value if shape in sums else value
    return sum(sums[shape] for shape in sorted(sums, key=math.prod))


# ---------------------------------------------------------------------------------------------- the whole run


def _memory(model: Model, hw: Hardware, settings: Settings, phases: tuple[Phase, ...]) -> MemoryUse:
    size = ELEMENT_BYTES[settings.dtype]
    weights = model.parameters * size
    totals, caches, activations = [], [], []
    for phase in phases:
        rows = 2 * model.n_layer * model.n_embd * size * phase.batch_size * phase.kv_len
        caches.append(rows if settings.use_cache else 0 * rows)
        activations.append(phase.activations_bytes)
        totals.append(weights + caches[-1] + activations[-1])
    cache, live, total = (reduce(maximum, values) for values in (caches, activations, totals))
    capacity = round(hw.memory.capacity_bytes)
    return MemoryUse(weights, cache, live, total, capacity, total <= capacity)


def maximum(left: Number, right: Number) -> Number:
    """The larger; exact where both are integers."""
    return max(left, right) if isinstance(left, int) and isinstance(right, int) else np.maximum(left, right)


def _warnings(model: Model, phases: tuple[Phase, ...], memory: MemoryUse) -> Iterator[str]:
    yield from model.notes
    for phase in phases:
        longest = int(np.max(phase.kv_len))
        if longest > model.n_positions:
            yield (
                f"{phase.phase}: kv_len {longest} exceeds n_positions {model.n_positions} of {model.name}:"
                " the real model cannot run it"
            )
    if not np.all(memory.fits):
        most = format_quantity(float(np.max(memory.total_bytes)), "B")
        yield f"memory: {most} are needed, the device has {format_quantity(memory.capacity_bytes, 'B')}"
