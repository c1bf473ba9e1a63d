"""Seconds of one kernel on one device: which form times which kernel.

`kernel_terms` times a kernel of the cost table inside a pass; `kernel_latency` is the same for a kernel on its own, by
its shape. Sizes are floats or numpy arrays, which broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.attention_time import attention_terms
from gpt2cost.errors import InputError, nearest
from gpt2cost.gemm import gemm_constants, gemm_terms
from gpt2cost.hardware import Hardware, load_hardware
from gpt2cost.kernels import FusedAttention, Gemm, Kernel
from gpt2cost.memory_bound import memory_terms
from gpt2cost.settings import ELEMENT_BYTES, check_choice, check_device, check_size
from gpt2cost.terms import Array, Terms

BOUNDS = ("compute", "memory", "launch")


def floor_s(hw: Hardware, graph: bool) -> float:
    """The shortest time of one kernel, in a busy stream or as a node of a CUDA graph."""
    return hw.launch.graph_floor_s if graph else hw.launch.stream_floor_s


def kernel_terms(kernel: Kernel, values: Mapping[str, Array], hw: Hardware, dtype: str, graph: bool) -> Terms:
    """The terms of one launch of `kernel` at the sizes in `values`, in a pass.

    Weights are cold: between two passes over one weight lies the whole model. Products run at the clock of a pass.
    """
    element_bytes = ELEMENT_BYTES[dtype]
    match kernel.shape:
        case Gemm(batch, m, n, k):
            count, rows, columns, depth = (size.evaluate(values) for size in (batch, m, n, k))
            engine = "fp32" if kernel.op == "baddbmm" else dtype
            terms = gemm_terms(
                hw, engine, count, rows, columns, depth, ELEMENT_BYTES[engine],
                batched=kernel.kind == "bmm", slowdown=1.0 / gemm_constants(hw, engine).pass_clock,
            )  # fmt: skip
        case FusedAttention(batch, heads, head_dim, new_tokens, kv_len, masked):
            new, kv = new_tokens.evaluate(values), kv_len.evaluate(values)
            count, per_row, width = (size.evaluate(values) for size in (batch, heads, head_dim))
            terms = attention_terms(hw, dtype, count, per_row, width, new, kv - new, element_bytes, masked=masked)
        case None:
            read, write = kernel.reads.evaluate(values), kernel.writes.evaluate(values)
            columns = 1.0 if kernel.columns is None else kernel.columns.evaluate(values)
            return memory_terms(hw, memory_kind(kernel), read, write, element_bytes, columns, floor_s(hw, graph))
    return _at_least(floor_s(hw, graph), terms)


def _at_least(floor: float, terms: Terms) -> Terms:
    launch_s = np.maximum(floor, terms.launch_s)
    return Terms(np.maximum(floor, terms.device_s), terms.compute_s, terms.memory_s, terms.wave_s, launch_s)


def memory_kind(kernel: Kernel) -> str:
    """Which of the memory-bound kinds times `kernel`; a fusion is timed as its reduction."""
    ops = kernel.op.split("+")
    if "_softmax" in ops:
        return "softmax"
    if "native_layer_norm" in ops:
        return "layer_norm"
    if kernel.kind in ("copy", "gather", "fill"):
        return kernel.kind
    return {"where": "where", "div": "scalar_op"}.get(kernel.op, "elementwise")


def bound_of(terms: Terms) -> Any:
    """What most of the time goes to: `compute`, `memory` or `launch`."""
    return largest(BOUNDS, bound_seconds(terms))


def bound_seconds(terms: Terms) -> tuple[Array, ...]:
    """The seconds that speak for each of `BOUNDS`."""
    return terms.compute_s + terms.wave_s, terms.memory_s, terms.launch_s


def largest(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    """The name of the largest value: a string, or an array of them."""
    index = index_of_largest(values)
    return names[int(index)] if index.ndim == 0 else np.asarray(names)[index]


def index_of_largest(values: Sequence[Any]) -> Any:
    """Where the largest of `values` stands, the first of equals: an integer array of their joint shape."""
    top, index = np.asarray(values[0]), np.asarray(0, np.int8)
    for number, value in enumerate(values[1:], 1):
        index = np.where(value > top, np.int8(number), index)
        top = np.maximum(top, value)
    return index


# ---------------------------------------------------------------------------------------------- single kernels


@dataclass(frozen=True)
class KernelLatency:
    """One kernel on its own. `device_s` is its time in a busy stream: its launch overhead, but no host time."""

    kind: str
    hardware: str
    dtype: str
    shape: dict[str, Any]
    flops: Array
    read_bytes: Array
    write_bytes: Array
    device_s: Array
    bound: Any
    terms: Terms


def kernel_latency(kind: str, gpu: str | Hardware, dtype: str = "fp16", **shape: Any) -> KernelLatency:
    """Predict one kernel by its shape.

    `gemm` and `bmm` take `m`, `n`, `k` (and `batch`); `attention` takes `batch`, `heads`, `head_dim`, `new_tokens`,
    `cached_tokens`, `causal`, `write_cache`; `softmax` and `layer_norm` take `rows`, `columns`; `elementwise` and
    `copy` take `elements` (and `inputs`, the number of tensors read). Shapes are integers or integer arrays that broadcast.

    Attention is timed as inference frameworks call it, and as it was measured: the new keys and values are written into
    a cache by the same call. `write_cache=False` leaves that out, as where PyTorch concatenates the cache itself.

    A product's (k, n) operand is re-read after six times its size, as where a layer's weights are; what exceeds L2 by
    then is cold. Raises `InputError` for an unknown kind, shape, device or dtype.
    """
    check_choice("kind", kind, tuple(_SHAPES))
    hardware = gpu if isinstance(gpu, Hardware) else load_hardware(gpu)
    check_choice("dtype", dtype, tuple(ELEMENT_BYTES))
    check_device(hardware, dtype, "sdpa")
    sizes = _shape(kind, shape)
    real = {
        name: value if isinstance(value, bool) else np.asarray(value, np.float64)[()] for name, value in sizes.items()
    }
    flops, read, write, terms = _SHAPES[kind].timed(hardware, dtype, ELEMENT_BYTES[dtype], real)
    terms = _at_least(hardware.launch.stream_floor_s, terms)
    return KernelLatency(kind, hardware.name, dtype, sizes, flops, read, write, terms.device_s, bound_of(terms), terms)


Timed: TypeAlias = Callable[[Hardware, str, int, dict[str, Any]], tuple[Array, Array, Array, Terms]]


@dataclass(frozen=True)
class _Shape:
    """A kind's parameters with the defaults of the optional ones, and how it is timed."""

    required: tuple[str, ...]
    optional: dict[str, int | bool]
    timed: Timed


def _shape(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    known = _SHAPES[kind]
    names = (*known.required, *known.optional)
    for name in given:
        if name not in names:
            raise InputError(f"{name}: {kind} takes {', '.join(names)}; {nearest(name, names)}".rstrip("; "))
    if missing := [name for name in known.required if name not in given]:
        raise InputError(f"{', '.join(missing)}: missing; {kind} takes {', '.join(names)}")
    sizes = {**known.optional, **given}
    return {
        name: bool(value)
        if name in ("causal", "write_cache")
        else check_size(name, value, 0 if name == "cached_tokens" else 1)
        for name, value in sizes.items()
    }


def _timed_gemm(hw: Hardware, dtype: str, size: int, s: dict[str, Any]) -> tuple[Array, Array, Array, Terms]:
    batch, m, n, k = s["batch"], s["m"], s["n"], s["k"]
    terms = gemm_terms(hw, dtype, batch, m, n, k, size, reuse_bytes=6.0 * batch * k * n * size)
    return 2 * batch * m * n * k, batch * (m * k + k * n) * size, batch * m * n * size, terms


def _timed_bmm(hw: Hardware, dtype: str, size: int, s: dict[str, Any]) -> tuple[Array, Array, Array, Terms]:
    batch, m, n, k = s["batch"], s["m"], s["n"], s["k"]
    terms = gemm_terms(hw, dtype, batch, m, n, k, size, batched=True)
    return 2 * batch * m * n * k, batch * (m * k + k * n) * size, batch * m * n * size, terms


def _timed_attention(hw: Hardware, dtype: str, size: int, s: dict[str, Any]) -> tuple[Array, Array, Array, Terms]:
    batch, heads, head_dim, new, cached = (
        s[name] for name in ("batch", "heads", "head_dim", "new_tokens", "cached_tokens")
    )
    writes = s["write_cache"]
    terms = attention_terms(
        hw, dtype, batch, heads, head_dim, new, cached, size, causal=s["causal"], write_cache=writes
    )
    row = batch * heads * head_dim * size
    written = row * new * (3 if writes else 1)
    return 4 * batch * heads * head_dim * new * (new + cached), row * (3 * new + 2 * cached), written, terms


def _timed_rows(kind: str, flops: int) -> Timed:
    def timed(hw: Hardware, dtype: str, size: int, s: dict[str, Any]) -> tuple[Array, Array, Array, Terms]:
        moved = s["rows"] * s["columns"] * size
        terms = memory_terms(hw, kind, moved, moved, size, s["columns"], hw.launch.stream_floor_s)
        return flops * s["rows"] * s["columns"], moved, moved, terms

    return timed


def _timed_elements(kind: str, flops: int) -> Timed:
    def timed(hw: Hardware, dtype: str, size: int, s: dict[str, Any]) -> tuple[Array, Array, Array, Terms]:
        read, write = s["inputs"] * s["elements"] * size, s["elements"] * size
        terms = memory_terms(hw, kind, read, write, size, 1.0, hw.launch.stream_floor_s)
        return flops * s["elements"], read, write, terms

    return timed


_SHAPES: dict[str, _Shape] = {
    "gemm": _Shape(("m", "n", "k"), {"batch": 1}, _timed_gemm),
    "bmm": _Shape(("m", "n", "k"), {"batch": 1}, _timed_bmm),
    "attention": _Shape(
        ("heads", "head_dim", "new_tokens"),
        {"batch": 1, "cached_tokens": 0, "causal": True, "write_cache": True},
        _timed_attention,
    ),
    "elementwise": _Shape(("elements",), {"inputs": 1}, _timed_elements("elementwise", 1)),
    "softmax": _Shape(("rows", "columns"), {}, _timed_rows("softmax", 5)),
    "layer_norm": _Shape(("rows", "columns"), {}, _timed_rows("layer_norm", 8)),
    "copy": _Shape(("elements",), {"inputs": 1}, _timed_elements("copy", 0)),
}
KERNEL_KINDS = tuple(_SHAPES)
