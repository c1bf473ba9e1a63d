"""A CPU's constants, fitted to measurements of its kernels.

Each kind of kernel is fitted on its own, minimising soft_l1(log(predicted / measured)) over logarithms of its
constants, so that a slow outlier weighs little. Curves rise by construction: their steps are what is fitted.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

import numpy as np
from scipy.optimize import nnls

from gpt2cost.calibration.forms import CPU_MEMORY_KINDS, Fit, Group, all_seconds, column, cpu_groups
from gpt2cost.calibration.search import least_soft_l1, with_value
from gpt2cost.device.cpu_constants import CpuConstants, CpuKind, CpuProducts, ProductCurve
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Compute, Hardware, Host, Launch, Memory
from gpt2cost.errors import InputError
from gpt2cost.measure.records import Measurement, grouped, machine, of_kind, seconds
from gpt2cost.prediction.one_pass import run_pass
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.schema import fields_of
from gpt2cost.table.config import model_from_config
from gpt2cost.timing.terms import Array

_PRIOR = 0.02
"""Weight of the prior: a constant that has moved by a factor of e counts like a record with this log error."""
_LEAST_S = 1e-10
"""What is 0 in effect, where a file needs a quantity."""

_NEVER = 1e12
"""Bytes, or bytes per second, beyond what any output has."""
Groups: TypeAlias = Mapping[tuple[str, str], Group]
"""(Kind, dtype) -> the records of it."""
Made = TypeVar("Made")


def fit_cpu(records: Sequence[Measurement], name: str) -> Fit:
    """Fit a CPU's constants to its kernels: one record per case, as `check_records` accepts them.

    Raises `InputError` where what no file can do without was not measured: products and element-wise kernels.
    """
    described, cases = machine(records), _in_fp32(records)
    if not of_kind(cases, "gemm") or not of_kind(cases, "elementwise"):
        raise InputError("calibrate: the measurements hold no products (gemm) or no element-wise kernels of a CPU")
    dtypes = [d for d in ELEMENT_BYTES if any(r["dtype"] == d for r in of_kind(cases, "gemm"))]
    if "fp32" not in dtypes:
        raise InputError("calibrate: the measurements hold no products (gemm) in fp32, which every CPU runs")
    cases = [r for r in cases if r["kind"] not in ("bmm", "sdpa") or r["dtype"] in dtypes]
    peaks = {dtype: max(_rate(r) for r in of_kind(cases, "gemm", "bmm") if r["dtype"] == dtype) for dtype in dtypes}
    groups = {(group.kind, group.dtype): group for group in cpu_groups(cases)}
    hw = _with_kinds(_unfitted(described, name, cases, peaks), groups)
    for dtype in dtypes:
        hw = _with_attention(_with_products(hw, groups, dtype), groups, dtype)
    hw = _with_mask(hw, [group for group in groups.values() if group.kind == "attention masked"])
    hw = _with_host(hw, cases)
    residuals = tuple(group.residual(hw) for group in groups.values())
    worst = max(residual.p90_error for residual in residuals if residual.kind.split()[0] in ("addmm", "mm"))
    model = replace(hw.cpu_model, residual=float(f"{max(worst, 0.01):.3g}"))
    return Fit(replace(hw, model=model, provenance=_provenance(hw, described)), residuals)


def _in_fp32(records: Sequence[Measurement]) -> list[Measurement]:
    """The records without memory-bound kernels in other dtypes than fp32, which serve every dtype."""
    return [r for r in records if r["kind"] not in ("elementwise", *CPU_MEMORY_KINDS) or r["dtype"] == "fp32"]


def _provenance(hw: Hardware, described: Measurement) -> dict[str, str]:
    measured = f"measured on {hw.description}, {described.get('date', 'date unknown')}"
    return {
        "memory": f"{measured}: copies; capacity: the operating system",
        "compute.peak": f"{measured}: the fastest product of its dtype",
        "launch": f"{measured}: the smallest ops",
        "host": f"{measured}: single calls, scaled to a layer of a tiny model",
        "model": f"fitted to kernels {measured}; kinds in fp32, which serve every dtype; fill as element-wise",
    }


def _rate(record: Measurement) -> float:
    """FLOP/s of a product."""
    flops = 2.0 * record.get("batch", 1) * record["m"] * record["n"] * record["k"]
    return float(flops / seconds(record))


# ---------------------------------------------------------------------------------------------- memory


def _unfitted(described: Measurement, name: str, records: list[Measurement], peaks: dict[str, float]) -> Hardware:
    """The machine with its memory, and constants from which the fits start."""
    threads = int(described.get("threads") or 1)
    bandwidth, cached, cache_bytes = _memory(records)
    fresh_from, fresh_rate = _fresh(records, bandwidth)
    curve = ProductCurve(rows=(1,), element_s=(1e-9,), launch_s=5e-6)
    kind = CpuKind(launch_s=2e-6, element_s=1e-9, fork_s=5e-6, parallel_element_s=1e-9 / threads)
    model = CpuConstants(
        products={dtype: CpuProducts(addmm=curve, mm=curve, scores=curve, context=curve) for dtype in peaks},
        attention=dict.fromkeys(peaks, curve),
        kinds={"elementwise": kind, "copy": kind},
        fresh_from_bytes=fresh_from,
        fresh_bytes_per_s=fresh_rate,
    )
    cpu = str(described.get("cpu_model") or described.get("cpu") or "CPU")
    costs = {field.name: _LEAST_S for field in fields_of(Host).values() if field.unit == "s"}
    return Hardware(
        name=name,
        description=f"{cpu}, {threads} threads",
        vendor="cpu",
        architecture=str(described.get("cpu_capability") or "cpu"),
        memory=Memory(float(described.get("memory_bytes") or 16e9), bandwidth, cache_bytes, cached),
        compute=Compute(threads, peaks),
        launch=Launch(_LEAST_S, _LEAST_S),
        host=Host(cpu=cpu, synchronous=True, **costs),
        model=model,
        provenance={},
    )


def _memory(records: list[Measurement]) -> tuple[float, float, float]:
    """DRAM's and the cache's bandwidth, and the footprint beyond which copies run at DRAM's: the knee between them."""
    copies = of_kind(records, "copy")
    copies = [r for r in copies if r["dtype"] == "fp32"] or copies  # older records have them in 16 bit
    if not copies:
        raise InputError("calibrate: the measurements hold no copies")
    timed = sorted((2.0 * ELEMENT_BYTES[r["dtype"]] * r["elements"], seconds(r)) for r in copies)
    moved, times_s = np.array(timed).T
    rates = moved / times_s
    bandwidth, cached = float(rates[-1]), float(max(rates))
    fast = moved[rates > np.sqrt(bandwidth * cached)] if cached > 1.5 * bandwidth else moved[:1]
    return bandwidth, cached, float(2.0 * fast[-1])


def _fresh(records: list[Measurement], bandwidth: float) -> tuple[float, float]:
    """From which size on an output's memory is handed out anew, and at which rate."""
    singles = sorted((r for r in of_kind(records, "fresh") if r["tensors"] == 1), key=lambda r: r["bytes"])
    sizes = column(singles, "bytes")
    extra_s = all_seconds(singles) - 2.0 * sizes / bandwidth
    is_dear = extra_s > 0.15e-9 * sizes
    if not np.any(is_dear):
        return _NEVER, _NEVER
    limits = [*np.sqrt(sizes[1:] * sizes[:-1]), sizes[-1]]
    fresh_from = float(min(reversed(limits), key=lambda limit: int(np.sum(is_dear != (sizes >= limit)))))
    dear_s = float(np.median((extra_s / sizes)[sizes >= fresh_from]))
    return (fresh_from, 1.0 / dear_s) if dear_s > 0 else (_NEVER, _NEVER)


# ---------------------------------------------------------------------------------------------- kernels


def _with_kinds(hw: Hardware, groups: Groups) -> Hardware:
    """The constants of memory-bound kernels; where copies were not measured, those of element-wise kernels."""
    path, start = ("model", "kinds"), hw.cpu_model.kinds["elementwise"]
    fitted: dict[str, CpuKind] = {}

    def rates(values: Array) -> CpuKind:
        launch_s, element_s, fork_s, parallel_s = map(float, values)
        return CpuKind(launch_s=launch_s, element_s=element_s, fork_s=fork_s, parallel_element_s=parallel_s)

    for kind, group in ((kind, group) for (kind, dtype), group in groups.items() if not dtype):
        launch_s = min(float(group.measured_s.min()), 2e-6)
        first = [launch_s, start.element_s, start.fork_s, start.parallel_element_s]
        fitted[kind] = _fitted(hw, (*path, kind), rates, first, group)
    fitted.setdefault("copy", fitted["elementwise"])
    return with_value(hw, path, {**fitted, "fill": fitted["elementwise"]})


def _with_products(hw: Hardware, groups: Groups, dtype: str) -> Hardware:
    """The curves of all products in a dtype; where one was not measured, that of the nearest."""
    path = ("model", "products", dtype)
    names = [field.name for field in fields_of(CpuProducts).values() if (field.name, dtype) in groups]
    curves = {name: _curve(hw, (*path, name), groups[name, dtype], "m") for name in names}
    if "addmm" not in curves:
        raise InputError(f"calibrate: the measurements hold no addmm in {dtype}")
    for name, nearest in (("mm", "addmm"), ("scores", "addmm"), ("context", "scores")):
        curves.setdefault(name, curves[nearest])
    return with_value(hw, path, CpuProducts(**curves))


def _with_attention(hw: Hardware, groups: Groups, dtype: str) -> Hardware:
    """The curve of fused attention in a dtype; where it was not measured, as two products of scores."""
    path, scores = ("model", "attention", dtype), hw.cpu_model.products[dtype].scores
    if plain := groups.get(("attention", dtype)):
        return with_value(hw, path, _curve(hw, path, plain, "new_tokens"))
    return with_value(hw, path, replace(scores, element_s=tuple(2.0 * element_s for element_s in scores.element_s)))


def _with_mask(hw: Hardware, masked: Sequence[Group]) -> Hardware:
    """The rate of attention with a mask over that without, which all dtypes share."""
    if not masked:
        return hw
    ratios = np.concatenate([group.form(hw) / group.measured_s for group in masked])
    rate = float(f"{np.clip(np.median(ratios), 0.05, 2.0):.3g}")
    return with_value(hw, ("model", "masked_attention"), rate)


def _curve(hw: Hardware, path: Sequence[str], group: Group, rows_name: str) -> ProductCurve:
    """The curve at `path` that reproduces a group, with a node at each size `rows_name` in it."""
    m = column(group.records, rows_name)
    rows = tuple(int(size) for size in np.unique(m))
    batched = bool(np.any(column(group.records, "batch") > 1))

    def curve(values: Array) -> ProductCurve:
        launch, start, *steps = map(float, values)
        elements = tuple(float(element) for element in np.cumsum(steps))
        return ProductCurve(rows=rows, element_s=elements, start_s=start if batched else 0.0, launch_s=launch)

    unit = replace(curve(np.ones(2 + len(rows))), element_s=(1.0,) * len(rows), start_s=0.0, launch_s=_LEAST_S)
    operand = group.form(with_value(hw, path, unit))  # elements of (k, n) operands: seconds at one second per element
    typical = np.array([np.median((group.measured_s / operand)[m == row]) for row in rows])
    steps = np.maximum(np.diff(typical, prepend=0.0), 0.02 * typical)
    first = np.concatenate([[4e-6, 1e-7], steps])
    fitted = _fitted(hw, path, curve, first, group)
    return fitted if batched else _with_totals(hw, path, _with_rows(fitted, group, path[-1]), group, m)


def _with_rows(curve: ProductCurve, group: Group, name: str) -> ProductCurve:
    """The curve with what a row of the stored operand costs a matrix-vector product, told from what its elements cost
    by operands of several widths."""
    n, k, m = (column(group.records, size) for size in ("n", "k", "m"))
    single = m == 1
    rows = (n if name == "mm" else k)[single]
    if curve.rows[0] != 1 or len(curve.rows) < 2 or len(set(rows / (n * k)[single])) < 2:
        return curve
    measured_s = group.measured_s[single]
    parts = np.stack([rows, (n * k)[single]], axis=1) / measured_s[:, None]  # relative errors count alike
    row_s, element_s = map(float, nnls(parts, 1.0 - curve.launch_s / measured_s)[0])
    if element_s == 0.0:  # products so small that their elements cannot be told from noise
        return curve
    return replace(curve, row_s=row_s, element_s=(min(element_s, curve.element_s[1]), *curve.element_s[1:]))


def _with_totals(hw: Hardware, path: Sequence[str], curve: ProductCurve, group: Group, m: Array) -> ProductCurve:
    """The curve with its elements scaled so that all products with the same rows together take what was measured.

    A fit in logarithms finds the typical shape; a pass is a sum over shapes, of which some, such as those with rows of
    a multiple of 4 KiB, are a quarter slower and none is a quarter faster.
    """
    predicted_s = group.form(with_value(hw, path, curve))
    factors = [np.sum(group.measured_s[m == row]) / np.sum(predicted_s[m == row]) for row in curve.rows]
    elements = np.array(curve.element_s) * factors
    rising = np.maximum.accumulate(elements) + np.minimum.accumulate(elements[::-1])[::-1]  # twice, each way
    return replace(curve, element_s=tuple(float(element) for element in 0.5 * rising))


def _fitted(
    hw: Hardware, path: Sequence[str], make: Callable[[Array], Made], first: Sequence[float] | Array, group: Group
) -> Made:
    """What `make` makes of positive values, where it fits best at `path`; each within a factor of e^5 of `first`."""
    start = np.log(np.asarray(first, float))

    def errors(x: Array) -> Array:
        return np.concatenate([group.errors(with_value(hw, path, make(np.exp(x)))), _PRIOR * (x - start)])

    return make(np.exp(least_soft_l1(errors, start, (start - 5.0, start + 5.0)).x))


# ---------------------------------------------------------------------------------------------- host


def _with_host(hw: Hardware, records: list[Measurement]) -> Hardware:
    """What the interpreter costs beside the ops: from single calls, scaled so that a layer of a tiny model fits."""
    cost = {record["op"]: seconds(record) for record in of_kind(records, "host")}
    call = cost.get("empty_python_call", 1e-7)

    def beyond(whole: str, *parts: str) -> float:
        return max(cost.get(whole, 5e-6) - sum(cost.get(part, 0.0) for part in parts), call)

    ops = [cost[op] for op in ("add", "tanh") if op in cost]
    launch_s = 0.8 * min(ops) if ops else 2e-6
    host = replace(
        hw.host,
        op_s=call,
        module_s=beyond("conv1d_module" if "conv1d_module" in cost else "linear_module", "addmm", "view"),
        view_s=max(cost.get("view", 1e-6), call),
        call_s=beyond("dropout_module"),
        compiled_op_s=call,
    )
    hw = replace(hw, host=host, launch=Launch(launch_s, launch_s))
    factors = [factor for factor in _layer_factors(hw, of_kind(records, "layers")) if factor > 0]
    return replace(hw, host=host.scaled(statistics.median(factors))) if factors else hw


def _layer_factors(hw: Hardware, records: list[Measurement]) -> Iterable[float]:
    """For each attention implementation the factor on the host's costs at which a tiny model's layer fits."""
    for rows in grouped(records, lambda r: r["attn"]).values():
        few, many = min(rows, key=lambda r: r["n_layer"]), max(rows, key=lambda r: r["n_layer"])
        if few is many:
            continue
        measured = seconds(many) - seconds(few)
        devices = replace(hw, host=hw.host.scaled(1e-6)), hw
        free, plain = (_layers_s(device, many) - _layers_s(device, few) for device in devices)
        yield (measured - free) / (plain - free)


def _layers_s(hw: Hardware, record: Measurement) -> float:
    """Predicted seconds of a step of a small model."""
    model = model_from_config(record, "layers", "layers")
    sizes = Sizes(record["batch"], 1, record["cache"])
    return float(run_pass(model, hw, How("fp32", record["attn"]), sizes).times.latency_s)
