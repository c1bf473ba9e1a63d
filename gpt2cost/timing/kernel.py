"""Seconds of one kernel on one device: which form times which kernel.

`kernel_terms` times a kernel of the cost table inside a pass. Sizes are floats or numpy arrays, which broadcast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.table.kernel import FusedAttention, Gemm, Kernel
from gpt2cost.timing.cpu import cpu_kernel_terms
from gpt2cost.timing.gpu_attention import attention_terms
from gpt2cost.timing.gpu_gemm import gemm_terms
from gpt2cost.timing.gpu_memory import memory_terms
from gpt2cost.timing.terms import Array, Terms

BOUNDS = ("compute", "memory", "launch")


def floor_s(hw: Hardware, graph: bool) -> float:
    """The shortest time of one kernel, in a busy stream or as a node of a CUDA graph."""
    return hw.launch.graph_floor_s if graph else hw.launch.stream_floor_s


def kernel_terms(kernel: Kernel, values: Mapping[str, Array], hw: Hardware, dtype: str, graph: bool) -> Terms:
    """The terms of one launch of `kernel` at the sizes in `values`, in a pass.

    Weights are cold: between two passes over one weight lies the whole model. Products run at the clock of a pass.
    """
    element_bytes = ELEMENT_BYTES[dtype]
    if hw.vendor == "cpu":
        return at_least(floor_s(hw, graph), cpu_kernel_terms(kernel, values, hw, dtype, element_bytes))
    match kernel.shape:
        case Gemm(batch, m, n, k):
            count, rows, columns, depth = (size.evaluate(values) for size in (batch, m, n, k))
            kind = engine(kernel, dtype)
            terms = gemm_terms(
                hw, kind, count, rows, columns, depth, ELEMENT_BYTES[kind],
                batched=kernel.kind == "bmm", slowdown=1.0 / hw.gpu_model.products(kind).pass_clock,
            )  # fmt: skip
        case FusedAttention(batch, heads, head_dim, new_tokens, kv_len, masked):
            new, kv = new_tokens.evaluate(values), kv_len.evaluate(values)
            count, per_row, width = (size.evaluate(values) for size in (batch, heads, head_dim))
            terms = attention_terms(hw, dtype, count, per_row, width, new, kv - new, element_bytes, masked=masked)
        case None:
            read, write = kernel.reads.evaluate(values), kernel.writes.evaluate(values)
            columns = 1.0 if kernel.columns is None else kernel.columns.evaluate(values)
            return memory_terms(hw, memory_kind(kernel), read, write, element_bytes, columns, floor_s(hw, graph))
    return at_least(floor_s(hw, graph), terms)


def engine(kernel: Kernel, dtype: str) -> str:
    """The dtype in which a kernel multiplies: upcast attention's scores are float32 whatever the model's is."""
    return "fp32" if kernel.op == "baddbmm" else dtype


def at_least(floor: float, terms: Terms) -> Terms:
    """`terms`, of a kernel that cannot take less than `floor` seconds."""
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
