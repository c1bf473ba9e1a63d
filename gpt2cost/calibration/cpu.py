"""A CPU's constants, fitted to measurements of its kernels.

Each kind of kernel is fitted on its own, minimising soft_l1(log(predicted / measured)) over logarithms of its
constants, so that a slow outlier weighs little. Curves rise by construction: their steps are what is fitted.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.optimize import least_squares

from gpt2cost.calibration.forms import (
    KINDS,
    PRODUCTS,
    FitResidual,
    Form,
    all_seconds,
    attention_form,
    column,
    cpu_groups,
    grouped,
    kind_of,
    memory_form,
    product_form,
    residual,
)
from gpt2cost.device.cpu_constants import CpuConstants, CpuKind, CpuProducts, ProductCurve
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Compute, Hardware, Host, Launch, Memory
from gpt2cost.errors import InputError
from gpt2cost.measure.records import Measurement, machine, of_kind, seconds
from gpt2cost.prediction.one_pass import run_pass
from gpt2cost.prediction.settings import Settings
from gpt2cost.table.config import model_from_config
from gpt2cost.timing.terms import Array

_F_SCALE = 0.1
"""Log error from which a record counts as an outlier."""


_PRIOR = 0.02
"""Log error that is worth as much as a constant's distance of e from where it starts."""


_LEAST_S = 1e-10
"""What is 0 in effect, where a file needs a quantity."""


_NEVER = 1e12
"""Bytes, or bytes a second, beyond what any output has."""


@dataclass(frozen=True)
class CpuFit:
    """A CPU as a device, and how well it reproduces what it was fitted on."""

    hardware: Hardware
    residuals: tuple[FitResidual, ...]


def fit_cpu(records: Sequence[Measurement], name: str) -> CpuFit:
    """Fit a CPU's constants to its kernels, a record a case.

    Raises `InputError` where what no file can do without was not measured: products and element-wise kernels.
    """
    known, cases = machine(records), _in_fp32(records)
    if not of_kind(cases, "gemm") or not of_kind(cases, "elementwise"):
        raise InputError("calibrate: the measurements hold no products (gemm) or no element-wise kernels of a CPU")
    if not any(record["dtype"] == "fp32" for record in of_kind(cases, "gemm")):
        raise InputError("calibrate: the measurements hold no products (gemm) in fp32, which every CPU runs")
    dtypes = [d for d in ELEMENT_BYTES if any(r["dtype"] == d for r in of_kind(cases, "gemm"))]
    cases = [r for r in cases if r["kind"] not in ("bmm", "sdpa") or r["dtype"] in dtypes]
    peaks = {dtype: max(_rate(r) for r in of_kind(cases, "gemm", "bmm") if r["dtype"] == dtype) for dtype in dtypes}
    start = _unfitted(known, name, cases, peaks)
    start = _with_kinds(start, cases)
    start = _with_products(start, cases, dtypes)
    start = _with_kept(_with_host(start, cases), of_kind(cases, "cached_layers"))
    groups = cpu_groups(cases)
    residuals = tuple(residual(kind, np.log(form(start) / measured)) for kind, (form, measured) in groups.items())
    worst = max(each.p90_error for each in residuals if each.kind.split()[0] in ("addmm", "mm"))
    model = replace(start.cpu_model, residual=float(f"{max(worst, 0.01):.3g}"))
    return CpuFit(replace(start, model=model), residuals)


def _in_fp32(records: Sequence[Measurement]) -> list[Measurement]:
    """The records without memory-bound kernels in other dtypes than fp32, which serve every dtype."""
    return [r for r in records if r["kind"] not in ("elementwise", *KINDS) or r["dtype"] == "fp32"]


def _rate(record: Measurement) -> float:
    """FLOP/s of a product."""
    flops = 2.0 * record.get("batch", 1) * record["m"] * record["n"] * record["k"]
    return float(flops / seconds(record))


# ---------------------------------------------------------------------------------------------- memory


def _unfitted(known: Measurement, name: str, records: list[Measurement], peaks: dict[str, float]) -> Hardware:
    """The machine with its memory, and constants from which the fits start."""
    threads = int(known.get("threads") or 1)
    bandwidth, cached, cache_bytes = _memory(records)
    fresh_from, fresh_rate, kept_rate = _fresh(records, bandwidth)
    curve = ProductCurve(rows=(1,), element_s=(1e-9,), launch_s=5e-6)
    kind = CpuKind(launch_s=2e-6, element_s=1e-9, fork_s=5e-6, parallel_element_s=1e-9 / threads)
    model = CpuConstants(
        products={dtype: CpuProducts(addmm=curve, mm=curve, scores=curve, context=curve) for dtype in peaks},
        attention=dict.fromkeys(peaks, curve),
        kinds={"elementwise": kind, "copy": kind},
        fresh_from_bytes=fresh_from,
        fresh_bytes_per_s=fresh_rate,
        kept_bytes_per_s=kept_rate,
    )
    cpu = str(known.get("cpu_model") or known.get("cpu") or "CPU")
    costs = dict.fromkeys([f.name for f in dataclasses.fields(Host) if f.name.endswith("_s")], _LEAST_S)
    return Hardware(
        name=name,
        description=f"{cpu}, {threads} threads",
        vendor="cpu",
        architecture=str(known.get("cpu_capability") or "cpu"),
        memory=Memory(float(known.get("memory_bytes") or 16e9), bandwidth, cache_bytes, cached),
        compute=Compute(threads, peaks),
        launch=Launch(_LEAST_S, _LEAST_S),
        host=Host(cpu=cpu, synchronous=True, **costs),
        model=model,
        provenance={},
    )


def _memory(records: list[Measurement]) -> tuple[float, float, float]:
    """DRAM's and the cache's bandwidth, and the footprint beyond which copies run at DRAM's: the knee between them."""
    copies = sorted((8.0 * r["elements"], seconds(r)) for r in of_kind(records, "copy") if r["dtype"] == "fp32")
    if not copies:  # a campaign's copies are in 16 bit
        copies = sorted((4.0 * r["elements"], seconds(r)) for r in of_kind(records, "copy"))
    if not copies:
        raise InputError("calibrate: the measurements hold no copies")
    moved = np.array([size for size, _ in copies])
    rates = moved / np.array([time for _, time in copies])
    bandwidth, cached = float(rates[-1]), float(max(rates))
    fast = moved[rates > np.sqrt(bandwidth * cached)] if cached > 1.5 * bandwidth else moved[:1]
    return bandwidth, cached, float(2.0 * fast[-1])


def _fresh(records: list[Measurement], bandwidth: float) -> tuple[float, float, float]:
    """From which size on an output's memory is handed out anew, and at which rates: of one output, and of many kept."""
    found = of_kind(records, "fresh")
    singles = sorted((r["bytes"], seconds(r)) for r in found if r["tensors"] == 1)
    extra = [(size, time - 2.0 * size / bandwidth) for size, time in singles]
    is_dear = [(size, time > 0.15e-9 * size) for size, time in extra]
    if not any(dear for _, dear in is_dear):
        return _NEVER, _NEVER, _NEVER

    def wrong(limit: float) -> int:
        return sum(dear != (size >= limit) for size, dear in is_dear)

    sizes = [size for size, _ in singles]
    limits = [*map(float, np.sqrt(np.multiply(sizes[1:], sizes[:-1]))), float(sizes[-1])]
    fresh_from = min(reversed(limits), key=wrong)
    dear_s = statistics.median(time / size for size, time in extra if size >= fresh_from)
    if dear_s <= 0:
        return _NEVER, _NEVER, _NEVER
    rate = 1.0 / dear_s
    many = [seconds(r) / (r["bytes"] * r["tensors"]) for r in found if r["bytes"] * (r["tensors"] - 1) > 1e8]
    kept = statistics.median(many) - 2.0 / bandwidth if many else 1.0 / rate
    return fresh_from, rate, 1.0 / max(kept, 1.0 / _NEVER)


# ---------------------------------------------------------------------------------------------- kernels


def _with_kinds(hw: Hardware, records: list[Measurement]) -> Hardware:
    start = hw.cpu_model.kinds["elementwise"]
    names = [field.name for field in dataclasses.fields(CpuKind)]
    kinds: dict[str, CpuKind] = {}
    for kind, found in grouped(of_kind(records, "elementwise", *KINDS), kind_of).items():
        form, measured = memory_form(kind, found), all_seconds(found)

        def changed(values: Array, kind: str = kind) -> Hardware:
            rates = CpuKind(**dict(zip(names, map(float, values), strict=True)))
            return replace(hw, model=replace(hw.cpu_model, kinds={**hw.cpu_model.kinds, kind: rates}))

        first = [min(float(measured.min()), 2e-6), start.element_s, start.fork_s, start.parallel_element_s]
        values = _fit(partial(_through, changed, form), first, measured)
        kinds[kind] = changed(values).cpu_model.kinds[kind]
    kinds.setdefault("copy", kinds["elementwise"])
    kinds["fill"] = kinds["elementwise"]
    return replace(hw, model=replace(hw.cpu_model, kinds=kinds))


def _through(put: Callable[[Array], Hardware], form: Form, values: Array) -> Array:
    return form(put(values))


def _with_products(hw: Hardware, records: list[Measurement], dtypes: list[str]) -> Hardware:
    """The curves of all products and of attention, and the rate of attention with a mask."""
    model = hw.cpu_model
    for dtype in dtypes:
        found = grouped(
            [r for r in of_kind(records, "gemm", "bmm") if r["dtype"] == dtype], lambda r: PRODUCTS[r["op"]]
        )
        curves: dict[str, ProductCurve] = {}
        for name, rows in found.items():

            def put(curve: ProductCurve, name: str = name, dtype: str = dtype, model: CpuConstants = model) -> Hardware:
                one = replace(model.products[dtype], **{name: curve})
                return replace(hw, model=replace(model, products={**model.products, dtype: one}))

            curves[name] = _curve(put, product_form(name, dtype, rows), column(rows, "m"), rows)
        if "addmm" not in curves:
            raise InputError(f"calibrate: the measurements hold no addmm in {dtype}")
        spare = {"mm": "addmm", "scores": "addmm", "context": "scores"}
        for name, other in spare.items():
            curves.setdefault(name, curves[other])
        products = CpuProducts(**curves)
        model = replace(model, products={**model.products, dtype: products})
        attention = [r for r in of_kind(records, "sdpa") if r["dtype"] == dtype]
        plain = [r for r in attention if r["mask"] != "explicit"]
        # where attention was not measured: as two products of scores
        fused = replace(curves["scores"], element_s=tuple(2.0 * one for one in curves["scores"].element_s))
        if plain:

            def put_attention(curve: ProductCurve, dtype: str = dtype, model: CpuConstants = model) -> Hardware:
                return replace(hw, model=replace(model, attention={**model.attention, dtype: curve}))

            fused = _curve(put_attention, attention_form(dtype, plain), column(plain, "new_tokens"), plain)
        model = replace(model, attention={**model.attention, dtype: fused})
        if masked := [r for r in attention if r["mask"] == "explicit"]:
            ratio = attention_form(dtype, masked)(replace(hw, model=model)) / all_seconds(masked)
            model = replace(model, masked_attention=float(f"{np.clip(np.median(ratio), 0.05, 2.0):.3g}"))
    return replace(hw, model=model)


def _curve(
    put: Callable[[ProductCurve], Hardware], form: Form, m: Array, records: Sequence[Measurement]
) -> ProductCurve:
    """The curve that reproduces `records`, with a node at each m among them. `put` sets it on the device."""
    rows = tuple(int(one) for one in np.unique(m))
    measured = all_seconds(records)
    batched = bool(np.any(column(records, "batch") > 1))

    def curve(values: Array) -> ProductCurve:
        launch, start, *steps = map(float, values)
        elements = tuple(float(one) for one in np.cumsum(steps))
        return ProductCurve(rows=rows, element_s=elements, start_s=start if batched else 0.0, launch_s=launch)

    unit = replace(curve(np.ones(2 + len(rows))), element_s=(1.0,) * len(rows), start_s=0.0, launch_s=_LEAST_S)
    operand = form(put(unit))  # elements of (k, n) operands: seconds at one second an element
    typical = np.array([np.median((measured / operand)[m == row]) for row in rows])
    steps = np.maximum(np.diff(typical, prepend=0.0), 0.02 * typical)
    first = np.concatenate([[4e-6, 1e-7], steps])
    return curve(_fit(lambda x: form(put(curve(x))), first, measured))


def _fit(predict: Callable[[Array], Array], first: Sequence[float] | Array, measured: Array) -> Array:
    """The positive values near `first` at which `predict` is nearest to `measured`, within a factor of e^5."""
    start = np.log(np.asarray(first, float))

    def errors(x: Array) -> Array:
        return np.concatenate([np.log(predict(np.exp(x)) / measured), _PRIOR * (x - start)])

    found = least_squares(errors, start, bounds=(start - 5.0, start + 5.0), loss="soft_l1", f_scale=_F_SCALE)
    return np.exp(found.x)


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
        free, plain = (
            _layers_s(device, many) - _layers_s(device, few) for device in (replace(hw, host=hw.host.scaled(1e-6)), hw)
        )
        yield (measured - free) / (plain - free)


def _with_kept(hw: Hardware, records: list[Measurement]) -> Hardware:
    """What a cache's fresh memory costs in a pass, where other outputs lie between: from a small model's steps."""
    if not records:
        return hw

    def at(rate: float) -> Array:
        device = replace(hw, model=replace(hw.cpu_model, kept_bytes_per_s=rate))
        return np.array([_layers_s(device, record) for record in records])

    free = at(_NEVER)  # seconds are linear in the rate's reciprocal
    rates = (at(1e9) - free) / np.maximum(all_seconds(records) - free, 1e-12) * 1e9
    return replace(hw, model=replace(hw.cpu_model, kept_bytes_per_s=float(np.clip(np.median(rates), 1e8, _NEVER))))


def _layers_s(hw: Hardware, record: Measurement) -> float:
    """Predicted seconds of a step of a small model."""
    model = model_from_config(record, "layers", "layers")
    settings = Settings(record["batch"], 1, record["cache"], "fp32", record["attn"], "eager", "all", True)
    return float(run_pass(model, hw, settings, 1, record["cache"]).times.latency_s)
