"""One forward pass: every kernel of the table with its numbers, and the pass's time on the host queue and the device.

Sizes are integers or numpy arrays, which broadcast. At a single point FLOPs and bytes are exact Python integers; on a
grid they are float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gpt2cost.checks import Size
from gpt2cost.device.dtypes import ELEMENT_BYTES, precision_of
from gpt2cost.device.hardware import Hardware, Host
from gpt2cost.device.sdpa import sdpa_kernel
from gpt2cost.prediction.settings import How, Number, Sizes, computes_in, stored_dtype
from gpt2cost.table import nanogpt
from gpt2cost.table.config import Model
from gpt2cost.table.formula import Values
from gpt2cost.table.fusion import fuse
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, Row, walk
from gpt2cost.table.options import COMPILED, GRAPHED, Quantization, TableOptions
from gpt2cost.table.quantization import saved_bytes
from gpt2cost.table.symbols import CONSTANT_BYTES
from gpt2cost.timing.gpu_attention import attention_kernel
from gpt2cost.timing.kernel import BOUNDS, bound_of, bound_seconds, kernel_terms, largest, machine_of
from gpt2cost.timing.queue import PassTimes, Steps, pass_steps, pass_times, waits_inside
from gpt2cost.timing.reuse import reuse_bytes
from gpt2cost.timing.terms import Terms


@dataclass(frozen=True, eq=False)
class KernelCost:
    """One row of the table with numbers: totals over its `count` launches. `terms` are those of one launch.

    `attention_kernel`: which kernel fused attention is on the device, such as `flash2`; None for other rows.
    """

    row: Row
    count: Number
    flops: Number
    read_bytes: Number
    write_bytes: Number
    device_s: Number
    terms: Terms
    attention_kernel: str | None = None

    @property
    def kernel(self) -> Kernel:
        assert isinstance(self.row.step, Kernel)
        return self.row.step

    @property
    def moved_bytes(self) -> Number:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes

    @property
    def bound(self) -> Any:
        """What most of the time goes to: one of `BOUNDS`."""
        return bound_of(self.terms)


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass as one runtime launches it, on a host.

    `symbols` are the values with which the row formulas evaluate to the rows' figures. `launch_s` are the device
    seconds of one launch of each row, free steps included (0). `kernels` leaves out what is not launched at a point.
    """

    symbols: Mapping[str, Number]
    rows: tuple[Row, ...]
    launch_s: tuple[Number, ...]
    kernels: tuple[KernelCost, ...]
    times: PassTimes
    host: Host
    runtime: str

    @property
    def device_s(self) -> Number:
        """Busy seconds of the device: added one by one, so that a point of a grid is the same to the last digit."""
        return sum(kernel.device_s for kernel in self.kernels)

    def latency_at(self, device: Number, host: Number) -> Number:
        """The pass's latency if the device took `device` times as long for every kernel, and the host `host` times."""
        launch_s = [device * seconds for seconds in self.launch_s]
        return pass_times(self.rows, launch_s, self.symbols, self.host.scaled(host), self.runtime).latency_s

    def steps_at(self, device: Number = 1.0, host: Number = 1.0) -> Steps:
        """The same as a map of the queue's state, which other passes may follow."""
        launch_s = [device * seconds for seconds in self.launch_s]
        return pass_steps(self.rows, launch_s, self.symbols, self.host.scaled(host), self.runtime)[1]


def host_sets_pace(host_s: Number, device_s: Number) -> Any:
    """Whether a pass waits for its host, which issues it for longer than the device is busy; of a grid an array."""
    return host_s > device_s


CLEARLY = 1.1
"""A pass is bound by `latency` or `launch` where that takes so many times as long as any resource: from one batch to
the next they rise and fall by as much."""


def bound_of_pass(kernels: Sequence[KernelCost], host_s: Number, device_s: Number) -> Any:
    """What doubling would help a pass most: see `bound_of_times`."""
    return bound_of_times(seconds_of_bounds(kernels), host_s, device_s)


def seconds_of_bounds(kernels: Sequence[KernelCost]) -> dict[str, Number]:
    """What seconds of a pass's kernels shrink with, by name: one of `BOUNDS`."""
    sums = {name: Sum() for name in BOUNDS}
    for kernel in kernels:  # one at a time: those of all of a large grid take as much memory as all else
        for own, seconds in zip(sums.values(), bound_seconds(kernel.terms), strict=True):
            own.add(kernel.count * seconds)
    return {name: own.total for name, own in sums.items()}


def bound_of_times(seconds: Mapping[str, Number], host_s: Number, device_s: Number) -> Any:
    """The `host` where it issues longer than the device is busy, else what most `seconds` shrink with; `latency` and
    `launch` only where they do so clearly."""
    clearly = {name: seconds[name] / CLEARLY for name in ("latency", "launch")}
    waits_for_host = np.where(host_sets_pace(host_s, device_s), np.inf, 0.0)
    every = {"host": waits_for_host, **seconds, **clearly}
    return largest(tuple(every), tuple(every.values()))


@lru_cache(maxsize=128)
def table_rows(options: TableOptions, runtime: str) -> tuple[Row, ...]:
    """The table's rows as `runtime` launches them."""
    rows = tuple(walk(cost_table(options)))
    return fuse(rows) if runtime in COMPILED else rows


def table_options(model: Model, how: How, hw: Hardware | None = None) -> TableOptions:
    """What selects the list of kernels, from the model's switches, the settings and the device that they run on.

    Compiled code lays out a mask with aligned rows, so that it need not be copied. Raises `InputError` where the
    implementation cannot run the model.
    """
    how = how.on(model)
    kernel = "" if hw is None else sdpa_kernel(hw, how.dtype, model.head_dim, masked=True)
    return TableOptions(
        attn=how.attn,  # type: ignore[arg-type]
        activation_function=model.activation_function,
        reorder_and_upcast_attn=model.reorder_and_upcast_attn,
        scale_attn_weights=model.scale_attn_weights or model.scale_attn_by_inverse_layer_idx,
        use_cache=how.use_cache,
        logits=how.logits,  # type: ignore[arg-type]
        variants=how.variants,
        pads_mask=kernel == "efficient" and how.runtime not in COMPILED,
        traced=how.runtime in COMPILED if how.impl == "nanogpt" else how.runtime != "eager",
        cache_type=how.cache_type,  # type: ignore[arg-type]
        impl=how.impl or model.impl,
        bias=model.bias,
        head=model.head,
        encoder=model.encoder_len > 0,
        has_pad_token=model.pad_token_id is not None,
        quantization=quantization(model, how.dtype, hw),
    )


def quantization(model: Model, dtype: str, hw: Hardware | None = None) -> Quantization | None:
    """How a model's weights are quantised, if they are, where the rest of it is in a dtype."""
    if model.weights == "dtype":
        return None
    return Quantization(
        model.weights,
        dtype=stored_dtype(dtype),
        computes_in=computes_in(model, dtype),
        finds_outliers=model.llm_int8_threshold > 0,
        double=model.bnb_4bit_use_double_quant,
        kept=model.kept,
        numbers=tuple(model.symbols().items()),
        device=None if hw is None else (hw.compute.units, hw.compute_capability or 0.0),
    )


def weights_bytes(model: Model, dtype: str) -> int:
    """The model's parameters, and what is stored beside quantised ones."""
    size = ELEMENT_BYTES[dtype]
    own = quantization(model, dtype)
    saved = saved_bytes(own, model.head, model.add_cross_attention, model.n_layer, size) if own else 0
    return model.parameters * size - saved


def symbol_values(model: Model, stored_in: str, sizes: Sizes) -> dict[str, Number]:
    """The values of every symbol of the cost table. `stored_in`: a dtype, or a precision of training."""
    precision = precision_of(stored_in)
    own = {"batch_size": sizes.batch_size, "seq_len": sizes.seq_len, "cache_len": sizes.cache_len}
    elements = {"w_bytes": precision.w_bytes, "a_bytes": precision.a_bytes, **CONSTANT_BYTES}
    return {**own, "kv_len": sizes.kv_len, **model.symbols(), **elements}


def run_pass(model: Model, hw: Hardware, how: How, sizes: Sizes, rows: tuple[Row, ...] | None = None) -> Pass:
    """Evaluate the cost table and the machine model for one pass. `rows`: if it is others than the model's own."""
    rows = table_rows(table_options(model, how, hw), how.runtime) if rows is None else rows
    return run_rows(rows, symbol_values(model, how.dtype, sizes), hw, how.dtype, how.runtime)


def uncapturable(model: Model, how: How, sizes: Sizes) -> tuple[Any, str]:
    """Where no CUDA graph can be captured of a pass, a truth value or an array of them, and why.

    The host waits for the device inside the pass. Compiled code breaks in two there, and goes on.
    """
    if how.runtime != "cuda-graph":
        return False, ""
    how = how.on(model)
    rows, values = table_rows(table_options(model, how), how.runtime), symbol_values(model, how.dtype, sizes)
    asked, source = waits_inside(rows, values)
    what = "logits of the last position alone make it" if how.impl == "nanogpt" else f"{how.attn} attention does"
    return asked, (
        f"runtime: {how.runtime} cannot capture a pass in which the host waits for the device, as {what}"
        f" here ({source}); eager, compile and reduce-overhead run it"
    )


def run_rows(rows: tuple[Row, ...], exact: Mapping[str, Number], hw: Hardware, dtype: str, runtime: str) -> Pass:
    """Evaluate rows at the values of their symbols: a whole pass, or what runs around it."""
    exact = Values(exact)
    real = Values({name: float(value) if isinstance(value, int) else value for name, value in exact.items()})
    is_point = all(isinstance(value, int) for value in exact.values())
    launch_s: list[Number] = []
    kernels: list[KernelCost] = []
    machine = machine_of(hw)
    distances = reuse_bytes(rows, real, lambda kernel: machine.fade(kernel, dtype))
    for row, reuse in zip(rows, distances, strict=True):
        launch_s.append(0.0)
        if isinstance(row.step, Kernel):
            terms = kernel_terms(row.step, real, hw, dtype, runtime in GRAPHED, reuse)
            launch_s[-1] = terms.device_s
            cost = _kernel_cost(row, row.step, exact, terms, attention_kernel(row.step, real, hw, dtype))
            if not is_point or cost.count:
                kernels.append(cost)
    times = pass_times(rows, launch_s, exact, hw.host, runtime)
    return Pass(exact, rows, tuple(launch_s), tuple(kernels), times, hw.host, runtime)


def _kernel_cost(
    row: Row, kernel: Kernel, exact: Mapping[str, Number], terms: Terms, attention_kernel: str | None
) -> KernelCost:
    count = row.count.evaluate(exact) * kernel.when.evaluate(exact)
    flops, reads, writes = (cost.evaluate(exact) for cost in (kernel.flops, kernel.reads, kernel.writes))
    totals = (count * flops, count * reads, count * writes, as_python(count * terms.device_s))
    return KernelCost(row, count, *totals, terms, attention_kernel)


def kv_cache_bytes(model: Model, dtype: str, batch_size: Size, kv_len: Size) -> Number:
    """Keys and values of all layers."""
    return 2 * model.n_layer * model.n_embd * ELEMENT_BYTES[dtype] * batch_size * kv_len


def cache_bytes(model: Model, how: How, batch_size: Size, kv_len: Size) -> Number:
    """What a KV cache holds, where there is one: keys and values of the tokens, and of the encoder's states."""
    return how.use_cache * kv_cache_bytes(model, how.dtype, batch_size, kv_len + model.encoder_len)


def buffers_bytes(model: Model, how: How, values: Mapping[str, Number]) -> Number:
    """What a model keeps on the device beside its parameters: nanoGPT's masks, where it has attention by hand."""
    by_hand = (how.impl or model.impl) == "nanogpt" and how.attn == "eager"
    return nanogpt.MASKS.evaluate(values) if by_hand else 0


class Sum:
    """A sum of integers, floats or arrays. Arrays of one shape are added first, so that small shapes stay small."""

    def __init__(self) -> None:
        self._of_shape: dict[tuple[int, ...], Number] = {}

    def add(self, value: Number) -> None:
        shape = np.shape(value)
        self._of_shape[shape] = self._of_shape[shape] + value if shape in self._of_shape else value

    @property
    def total(self) -> Number:
        return sum(self._of_shape[shape] for shape in sorted(self._of_shape, key=math.prod))


def total(values: Iterable[Number]) -> Number:
    """The sum of some values."""
    own = Sum()
    for value in values:
        own.add(value)
    return own.total


def as_python(value: Number) -> Number:
    """A numpy scalar as the Python number it is; arrays as they are."""
    is_scalar = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim)
    return value.item() if is_scalar else value
