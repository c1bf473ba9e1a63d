"""One forward pass: every kernel of the table with its numbers, and the pass's time on the host queue and the device.

Sizes are integers or numpy arrays, which broadcast. At a single point FLOPs and bytes are exact Python integers; on a
grid they are float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gpt2cost.checks import Size
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.settings import Number, Settings
from gpt2cost.table.config import Model
from gpt2cost.table.fusion import fuse
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, Row, walk
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import CONSTANT_BYTES
from gpt2cost.timing.kernel import bound_of, kernel_terms
from gpt2cost.timing.queue import PassTimes, pass_times
from gpt2cost.timing.terms import Terms


@dataclass(frozen=True)
class KernelCost:
    """One row of the table with numbers: totals over its `count` launches. `terms` are those of one launch."""

    row: Row
    count: Number
    flops: Number
    read_bytes: Number
    write_bytes: Number
    device_s: Number
    terms: Terms

    @property
    def kernel(self) -> Kernel:
        assert isinstance(self.row.step, Kernel)
        return self.row.step

    @property
    def bound(self) -> Any:
        """What most of the time goes to: `compute`, `memory` or `launch`."""
        return bound_of(self.terms)


@dataclass(frozen=True)
class Pass:
    """A forward pass of `seq_len` new tokens on top of `cache_len` cached ones.

    `symbols` are the values with which the row formulas evaluate to the rows' figures. `launch_s` are the device
    seconds of one launch of each row, free steps included (0). `kernels` leaves out what is not launched at a point.
    """

    symbols: Mapping[str, Number]
    rows: tuple[Row, ...]
    launch_s: tuple[Number, ...]
    kernels: tuple[KernelCost, ...]
    times: PassTimes

    def scaled(self, hw: Hardware, runtime: str, device: float, host: float) -> PassTimes:
        """The pass's times if the device took `device` times as long for every kernel, the host `host` times."""
        launch_s = [device * seconds for seconds in self.launch_s]
        return pass_times(self.rows, launch_s, self.symbols, hw.host.scaled(host), runtime)


@lru_cache(maxsize=128)
def table_rows(options: TableOptions, runtime: str) -> tuple[Row, ...]:
    """The table's rows as `runtime` launches them."""
    rows = list(walk(cost_table(options)))
    return tuple(fuse(rows) if runtime == "compile" else rows)


def table_options(
    model: Model,
    attn: str,
    logits: str,
    use_cache: bool,
    variants: tuple[tuple[str, str], ...] = (),
    runtime: str = "eager",
) -> TableOptions:
    """What selects the list of kernels, from the model's switches and the settings."""
    return TableOptions(
        attn=attn,  # type: ignore[arg-type]
        activation_function=model.activation_function,
        reorder_and_upcast_attn=model.reorder_and_upcast_attn,
        use_cache=use_cache,
        logits=logits,  # type: ignore[arg-type]
        variants=variants,
        traced=runtime == "compile" and not use_cache,
    )


def symbol_values(model: Model, dtype: str, batch: Size, seq: Size, cache: Size) -> dict[str, Number]:
    """The values of every symbol of the cost table."""
    size = ELEMENT_BYTES[dtype]
    sizes = {"batch_size": batch, "seq_len": seq, "cache_len": cache, "kv_len": cache + seq}
    return {**sizes, **model.symbols(), "w_bytes": size, "a_bytes": size, **CONSTANT_BYTES}


def run_pass(model: Model, hw: Hardware, settings: Settings, seq: Size, cache: Size) -> Pass:
    """Evaluate the cost table and the machine model for one pass."""
    options = table_options(
        model, settings.attn, settings.logits, settings.use_cache, settings.variants, settings.runtime
    )
    values = symbol_values(model, settings.dtype, settings.batch_size, seq, cache)
    return run_rows(table_rows(options, settings.runtime), values, hw, settings)


def run_rows(rows: tuple[Row, ...], exact: Mapping[str, Number], hw: Hardware, settings: Settings) -> Pass:
    """Evaluate rows at the values of their symbols: a whole pass, or what runs around it."""
    real = {name: float(value) if isinstance(value, int) else value for name, value in exact.items()}
    is_point = all(isinstance(value, int) for value in exact.values())
    launch_s: list[Number] = []
    kernels: list[KernelCost] = []
    for row in rows:
        launch_s.append(0.0)
        if isinstance(row.step, Kernel):
            cost = _kernel_cost(row, row.step, exact, real, hw, settings)
            launch_s[-1] = cost.terms.device_s
            if not is_point or cost.count:
                kernels.append(cost)
    times = pass_times(rows, launch_s, exact, hw.host, settings.runtime)
    return Pass(exact, rows, tuple(launch_s), tuple(kernels), times)


def _kernel_cost(
    row: Row, kernel: Kernel, exact: Mapping[str, Number], real: Mapping[str, Number], hw: Hardware, settings: Settings
) -> KernelCost:
    count = row.count.evaluate(exact) * kernel.when.evaluate(exact)
    terms = kernel_terms(kernel, real, hw, settings.dtype, settings.runtime == "cuda-graph")
    flops, reads, writes = (cost.evaluate(exact) for cost in (kernel.flops, kernel.reads, kernel.writes))
    return KernelCost(row, count, count * flops, count * reads, count * writes, plain(count * terms.device_s), terms)


def plain(value: Number) -> Number:
    """A numpy scalar as the Python number it is; arrays as they are."""
    return (
        value.item() if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim) else value
    )
