"""Table x model x hardware to a `Prediction`.

Sizes are integers or numpy arrays, which broadcast: a single point is a grid of size one. At a single point FLOPs and
bytes are exact Python integers; on a grid they are float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2cost.checks import Size
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.energy import EnergyBound, energy_bound
from gpt2cost.prediction.one_pass import (
    KernelCost,
    Pass,
    as_python,
    bound_of_pass,
    buffers_bytes,
    cache_bytes,
    host_sets_pace,
    kv_cache_bytes,
    run_pass,
    total,
    uncapturable,
    weights_bytes,
)
from gpt2cost.prediction.ranges import range_of
from gpt2cost.prediction.settings import (
    How,
    Number,
    Sizes,
    beyond_positions,
    check_cached,
    check_device,
    check_how,
    check_phase,
    check_sizes,
    does_not_fit,
    is_decode,
    one_at_a_time,
    slow_weights,
    unused_changes,
)
from gpt2cost.result import Result
from gpt2cost.table.config import Model, load_model
from gpt2cost.table.kernel import FusedAttention, Gemm
from gpt2cost.table.liveness import peak_bytes

MOST_POINTS = 100_000
"""The most points of a grid in arrays: about half a gigabyte."""


@dataclass(frozen=True, eq=False)
class Totals:
    """A pass, in seconds, bytes and FLOPs.

    `device_s`: busy time of the device. `host_s`: time to issue the pass. `latency_s`: from an idle device to the end
    of one synchronisation. `trust`: `measured`, `calibrated`, `borrowed` or `changed` (see `prediction.trust`), and
    `trust_from`: whose constants or measurements that rests on. `bound`: what doubling would help most: `host`,
    `compute`, `memory` (DRAM), `l2`, `latency` or `launch`. `flops_utilization`: FLOPs of products per second over the
    dtype's peak. `bandwidth_utilization`: bytes that DRAM moves per second over its peak; never above 1.
    `arithmetic_intensity`: FLOPs per byte read or written, of which L2 may serve a part.
    """

    launches: Number
    flops: Number
    read_bytes: Number
    write_bytes: Number
    device_s: Number
    host_s: Number
    latency_s: Number
    latency_low_s: Number
    latency_high_s: Number
    trust: Any
    trust_from: Any
    bound: Any
    tokens_per_s: Number
    flops_utilization: Number
    bandwidth_utilization: Number
    arithmetic_intensity: Number

    @property
    def waiting_s(self) -> Number:
        """Seconds in which no kernel runs: the device waits for the host, or the host for the device."""
        return self.latency_s - self.device_s


@dataclass(frozen=True, eq=False, repr=False)
class Phase(Result):
    """One forward pass of a prediction. `phase` is `prefill` or `decode`."""

    shown_by = "prediction"

    phase: str
    sizes: Sizes
    pass_: Pass
    totals: Totals
    activations_bytes: Number

    @property
    def grid_shape(self) -> tuple[int, ...]:
        return self.sizes.shape

    @property
    def batch_size(self) -> Size:
        return self.sizes.batch_size

    @property
    def seq_len(self) -> Size:
        """New tokens per sequence in this pass."""
        return self.sizes.seq_len

    @property
    def cache_len(self) -> Size:
        """Tokens per sequence in the KV cache before this pass."""
        return self.sizes.cache_len

    @property
    def kv_len(self) -> Size:
        return self.sizes.kv_len

    @property
    def tokens(self) -> Size:
        """Tokens per sequence that the pass brings: without a KV cache a decode step runs more."""
        return 1 if self.phase == "decode" else self.seq_len

    @property
    def flops_per_token(self) -> Number:
        return self.totals.flops / (self.batch_size * self.tokens)

    @property
    def symbols(self) -> Mapping[str, Number]:
        """The values with which the row formulas evaluate to the rows' figures."""
        return self.pass_.symbols

    @property
    def kernels(self) -> tuple[KernelCost, ...]:
        """The rows of the cost table that are launched, in order."""
        return self.pass_.kernels


@dataclass(frozen=True, eq=False)
class MemoryUse:
    """What the run holds at its fullest moment, in bytes; the parts sum to the total.

    `capacity_bytes`: what a model may take of the device's memory (`Memory.usable_bytes`). `kv_bytes_per_token`: by
    how much the KV cache grows with each token of each sequence; 0 without one.
    """

    weights_bytes: Number
    kv_cache_bytes: Number
    activations_bytes: Number
    total_bytes: Number
    capacity_bytes: Number
    fits: Any
    kv_bytes_per_token: int


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Result):
    """What `predict` returns. `sizes` are those asked for; each phase has its own."""

    shown_by = "prediction"

    model: Model
    hardware: Hardware
    how: How
    sizes: Sizes
    phases: tuple[Phase, ...]
    memory: MemoryUse
    warnings: tuple[str, ...]

    @property
    def grid_shape(self) -> tuple[int, ...]:
        return self.sizes.shape

    @property
    def prefill(self) -> Phase | None:
        """The pass of `seq` new tokens; None where it was not asked for, or is itself a decode step."""
        return self._phase("prefill")

    @property
    def decode(self) -> Phase | None:
        """The single-token step; None where it was not asked for."""
        return self._phase("decode")

    @property
    def valid(self) -> bool:
        """Whether all phases are within the model's positions."""
        return all(np.all(phase.kv_len <= self.model.n_positions) for phase in self.phases)

    def energy_bounds(self) -> tuple[EnergyBound, ...]:
        """The energy of each phase. Raises `InputError` for a device without a board power."""
        return tuple(
            energy_bound(self.hardware, phase.totals.latency_high_s, phase.batch_size * phase.tokens, phase=phase.phase)
            for phase in self.phases
        )

    def _phase(self, name: str) -> Phase | None:
        return next((phase for phase in self.phases if phase.phase == name), None)


def predict(
    model: object,
    gpu: str | Hardware,
    *,
    batch: Size = 1,
    seq: Size = 128,
    cache: Size = 0,
    dtype: str | None = None,
    attn: str | None = None,
    runtime: str = "eager",
    phase: str = "both",
    logits: str = "all",
    use_cache: bool = True,
    cache_type: str = "dynamic",
    impl: str | None = None,
) -> Prediction:
    """Predict FLOPs, bytes and latency of a GPT-2 model on a device.

    `model` is a preset, a folder, a config.json, a hub id, a `GPT2Config` or a `Model`; `gpu` a device's name or
    file, or a `Hardware`. `batch`, `seq` (new tokens) and `cache` (tokens already cached) are integers or integer
    arrays that broadcast together. `phase` is `prefill` (the pass of `seq` tokens), `decode` (the next single-token
    step, on `cache + seq` tokens) or `both`; where `seq` is 1 and `cache` is not 0 the pass itself is the decode step.
    A `static` cache is as long as what it holds after the pass. `impl`: whose code runs the model, `hf` or `nanogpt`,
    which has no KV cache; the default is `hf`, but for a `model` that is nanoGPT's.

    Raises `InputError` for anything unknown or impossible, with what would be right.
    """
    how = check_how(dtype, attn, runtime, logits, use_cache, cache_type, impl)
    sizes = check_sizes(batch, seq, cache, how.use_cache)
    points = math.prod(np.broadcast_shapes(*map(np.shape, dataclasses.astuple(sizes))))
    if points > MOST_POINTS:
        raise InputError(
            f"batch, seq, cache: {points:,} points, of each of which all kernels' figures would be held in memory, for"
            f" which {MOST_POINTS:,} are the most; use sweep, which takes any number"
        )
    return predict_run(load_model(model), load_hardware(gpu), how, sizes, phase)


def predict_run(
    model: Model, hardware: Hardware, how: How, sizes: Sizes, phase: str = "both", partly: bool = False
) -> Prediction:
    """`predict` for settings that have been checked. Raises `InputError` where model or device cannot run them.

    With `partly`, sizes may be among others at which no CUDA graph can be captured: their figures mean nothing.
    """
    check_phase(phase)
    how = how.on(model)
    check_cached(model, how, sizes)
    if partly:
        check_device(hardware, how, model.head_dim)
    else:
        check_runs(model, hardware, how, sizes, phase)
    phases = tuple(_phase(model, hardware, how, *named) for named in passes_of(sizes, phase, how.use_cache))
    memory = _memory(model, hardware, how, phases)
    return Prediction(model, hardware, how, sizes, phases, memory, tuple(_warnings(model, how, phases, memory)))


def check_runs(model: Model, hardware: Hardware, how: How, sizes: Sizes, phase: str) -> None:
    """Raise `InputError` where the device cannot run the settings, or no CUDA graph can be captured of a pass."""
    check_device(hardware, how, model.head_dim)
    for _, own in passes_of(sizes, phase, how.use_cache):
        fails, why = uncapturable(model, how, own)
        if np.any(fails):
            raise InputError(why)


# ---------------------------------------------------------------------------------------------- one pass


def passes_of(sizes: Sizes, phase: str, use_cache: bool) -> list[tuple[str, Sizes]]:
    """The forward passes that `phase` asks for, each with its name and sizes. A decode step is a pass of its own."""
    decoding = is_decode(sizes)
    if np.all(decoding):
        return [("decode", sizes)]
    if not use_cache:
        step = dataclasses.replace(sizes, seq_len=sizes.seq_len + 1)
    else:
        cached = np.where(decoding, sizes.cache_len, sizes.kv_len) if np.any(decoding) else sizes.kv_len
        step = dataclasses.replace(sizes, seq_len=1, cache_len=cached)
    return [named for named in (("prefill", sizes), ("decode", step)) if phase in (named[0], "both")]


def _phase(model: Model, hw: Hardware, how: How, phase: str, sizes: Sizes) -> Phase:
    pass_ = run_pass(model, hw, how, sizes)
    tokens = 1 if phase == "decode" else sizes.seq_len  # without a KV cache a decode step runs more than it brings
    live = peak_bytes(pass_.rows, pass_.symbols, how.use_cache) + buffers_bytes(model, how, pass_.symbols)
    return Phase(phase, sizes, pass_, totals_of(pass_, hw, how, sizes, sizes.batch_size * tokens), live)


def totals_of(pass_: Pass, hw: Hardware, how: How, sizes: Sizes, tokens: Size) -> Totals:
    """A pass in figures. `tokens`: that it brings, of the whole batch."""
    kernels = pass_.kernels
    launches, flops, reads, writes = (
        total(getattr(kernel, name) for kernel in kernels) for name in ("count", "flops", "read_bytes", "write_bytes")
    )
    products = total(kernel.flops for kernel in kernels if isinstance(kernel.kernel.shape, Gemm | FusedAttention))
    dram_bytes = as_python(total(kernel.count * kernel.terms.dram_bytes for kernel in kernels))
    device_s, host_s, latency_s = pass_.device_s, as_python(pass_.times.host_s), as_python(pass_.times.latency_s)
    range_ = range_of(pass_.latency_at, hw, how, sizes, host_sets_pace(host_s, device_s))
    return Totals(
        launches=launches,
        flops=flops,
        read_bytes=reads,
        write_bytes=writes,
        device_s=device_s,
        host_s=host_s,
        latency_s=latency_s,
        latency_low_s=as_python(range_.low_s),
        latency_high_s=as_python(range_.high_s),
        trust=range_.trust,
        trust_from=range_.trust_from,
        bound=bound_of_pass(kernels, host_s, device_s),
        tokens_per_s=tokens / latency_s,
        flops_utilization=products / (latency_s * hw.compute.peak_flop_per_s[how.dtype]),
        bandwidth_utilization=dram_bytes / (latency_s * hw.memory.bandwidth_bytes_per_s),
        arithmetic_intensity=flops / (reads + writes),
    )


# ---------------------------------------------------------------------------------------------- the whole run


def _memory(model: Model, hw: Hardware, how: How, phases: tuple[Phase, ...]) -> MemoryUse:
    """Memory in the phase that needs most: a phase's cache and activations, beside the weights."""
    weights = weights_bytes(model, how.dtype)
    cache: Number = 0
    live: Number = 0
    for phase in phases:
        own_cache = cache_bytes(model, how, phase.batch_size, phase.kv_len)
        fuller = own_cache + phase.activations_bytes > cache + live
        cache, live = _where(fuller, own_cache, cache), _where(fuller, phase.activations_bytes, live)
    whole, capacity = weights + cache + live, round(hw.memory.usable_bytes)
    per_token = kv_cache_bytes(model, how.dtype, 1, 1) * how.use_cache
    return MemoryUse(weights, cache, live, whole, capacity, whole <= capacity, per_token)


def _where(condition: Any, yes: Number, no: Number) -> Number:
    """`yes` where the condition holds, else `no`; exact at a single point."""
    return np.where(condition, yes, no) if isinstance(condition, np.ndarray) else yes if condition else no


def _warnings(model: Model, how: How, phases: tuple[Phase, ...], memory: MemoryUse) -> Iterator[str]:
    yield from model.notes
    yield from unused_changes(model)
    yield from slow_weights(model, how)
    if model.add_cross_attention and not model.encoder_len:
        yield "add_cross_attention: predicted without an encoder's states; --encoder-len says how many are passed"
    yield from one_at_a_time(model, phases[0].batch_size)
    for phase in phases:
        yield from beyond_positions(model, f"{phase.phase}: kv_len", phase.kv_len)
    if not np.all(memory.fits):
        yield does_not_fit(memory.total_bytes, memory.capacity_bytes)
