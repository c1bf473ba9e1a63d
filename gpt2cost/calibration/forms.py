"""Measured kernels in groups that one formula predicts, and how far a device's constants are from each group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.sdpa import sdpa_kernel
from gpt2cost.measure.records import Measurement, grouped, is_time, keys_of, of_kind, seconds
from gpt2cost.result import Result
from gpt2cost.timing import cpu
from gpt2cost.timing.gpu_attention import SMALL_HEAD, attention_terms
from gpt2cost.timing.gpu_gemm import gemm_terms
from gpt2cost.timing.gpu_memory import memory_terms
from gpt2cost.timing.terms import Array

HOST_BOUND = 1.2
"""A kernel in a stream whose time is below this many times its issue time measures the host."""
REDUCTIONS = ("softmax", "layer_norm")
"""Memory-bound kinds that work on rows."""
BUILT_FOR = 64
"""The head size whose constants are fitted."""
ATTENTION = ("attention prefill", "attention decode", "attention chunk", "attention masked")
"""Kinds of groups of sdpa records of a GPU."""
GPU_MEMORY_KINDS = {
    "copy": "copy", "elementwise": "elementwise", "softmax": "softmax", "layer_norm": "layer_norm",
    "permuted_copy": "copy", "cat": "cat", "gather": "gather", "gelu": "gelu",
}  # fmt: skip
"""A record's kind, `gelu` of element-wise ones -> which of the memory-bound kinds of a GPU times it."""
CPU_MEMORY_KINDS = {
    "softmax": "softmax", "layer_norm": "layer_norm", "permuted_copy": "copy", "cat": "cat", "where": "where",
    "gather": "gather",
}  # fmt: skip
"""A record's kind -> which of `CPU_KINDS` times it; an element-wise op goes by its name."""
CPU_FUNCTIONS = {"tanh": "tanh", "gelu": "gelu", "gelu_tanh": "gelu"}
"""An element-wise op that evaluates a function -> which of `CPU_KINDS` times it."""
CPU_PRODUCTS = {"addmm": "addmm", "linear": "mm", "scores": "scores", "context": "context"}
"""A product's op -> which field of `CpuProducts` times it."""

Form: TypeAlias = Callable[[Hardware], Array]
"""Predicted seconds of some records."""


@dataclass(frozen=True)
class FitResidual:
    """How far the fitted device is from the records of one kind, such as `gemm fp16`, in log(predicted / measured).

    `median_error` and `p90_error` are of its absolute value; `bias` is its median: above 0 is predicted too slow.
    """

    kind: str
    count: int
    median_error: float
    p90_error: float
    bias: float


@dataclass(frozen=True, eq=False, repr=False)
class Calibrated(Result):
    """A fitted device, how well it reproduces each kind of kernel, and what went wrong in measuring."""

    shown_by = "accuracy"

    hardware: Hardware
    residuals: tuple[FitResidual, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Group:
    """The records of one kind in one dtype, "" where it serves every dtype."""

    kind: str
    dtype: str
    records: tuple[Measurement, ...]
    form: Form

    @cached_property
    def measured_s(self) -> Array:
        return all_seconds(self.records)

    def errors(self, hw: Hardware) -> Array:
        """log(predicted / measured) of each record."""
        return np.log(self.form(hw) / self.measured_s)

    def residual(self, hw: Hardware) -> FitResidual:
        """The summary of `errors`."""
        errors = self.errors(hw)
        size = np.abs(errors)
        figures = (np.median(size), np.quantile(size, 0.9), np.median(errors))
        return FitResidual(f"{self.kind} {self.dtype}".strip(), len(errors), *map(float, figures))


@dataclass(frozen=True)
class Fit:
    """A fitted device, with its provenance, and how well it reproduces what it was fitted on."""

    hardware: Hardware
    residuals: tuple[FitResidual, ...]


def column(records: Sequence[Measurement], name: str) -> Array:
    """A size of every record; 1 where a record has none."""
    return np.array([float(record.get(name, 1)) for record in records])


def all_seconds(records: Sequence[Measurement]) -> Array:
    """What was measured, in seconds."""
    return np.array([seconds(record) for record in records])


def _products(records: Sequence[Measurement]) -> tuple[Array, Array, Array, Array]:
    batch, m, n, k = (column(records, name) for name in ("batch", "m", "n", "k"))
    return batch, m, n, k


def _attention(records: Sequence[Measurement]) -> tuple[Array, Array, Array, Array, Array]:
    """Batch, heads, head_dim, new tokens, cached tokens."""
    batch, heads, head_dim, new = (column(records, name) for name in ("batch", "heads", "head_dim", "new_tokens"))
    keys = np.array([float(keys_of(record)) for record in records])
    return batch, heads, head_dim, new, np.maximum(keys - new, 0.0)


def _moved(records: Sequence[Measurement], element_bytes: float) -> tuple[Array, Array]:
    """Bytes read and written: a kernel reads as much as it writes, and an addition twice as much."""
    written = np.array([_elements(record) for record in records]) * element_bytes
    return written * np.array([2.0 if record.get("op") == "add" else 1.0 for record in records]), written


def _elements(record: Measurement) -> float:
    """Elements that a memory-bound kernel writes."""
    if record["kind"] == "cat":
        tokens = record["cached_tokens"] + record["new_tokens"]
        return float(record["batch"] * record["heads"] * record["head_dim"] * tokens)
    return float(record["elements"] if record["kind"] == "copy" else record["rows"] * record["columns"])


# ------------------------------------------------------------------------------------------------ GPUs


def gpu_groups(records: Iterable[Measurement], hw: Hardware) -> tuple[Group, ...]:
    """The kernels among the records that `hw` can time, by kind and dtype."""
    timed = [
        record
        for record in of_kind(records, "gemm", "bmm", "sdpa", *GPU_MEMORY_KINDS)
        if record["dtype"] in hw.compute.peak_flop_per_s
        and not _waits_for_host(record)
        and not (record["kind"] == "sdpa" and (record["head_dim"] > SMALL_HEAD or record["head_dim"] % 8))
    ]
    groups = grouped(timed, lambda record: (_gpu_kind(record), str(record["dtype"])))
    return tuple(Group(*key, tuple(groups[key]), _gpu_form(key[1], groups[key])) for key in sorted(groups))


def _waits_for_host(record: Measurement) -> bool:
    if is_time(record.get("graph_us")) or is_time(record.get("device_us")):
        return False
    issue_us = record.get("issue_us")
    return isinstance(issue_us, int | float) and 1e6 * seconds(record) < HOST_BOUND * issue_us


def _gpu_kind(record: Measurement) -> str:
    """A record's kind; of sdpa one of `ATTENTION`. A chunk without a mask is what `flash_attention_2` runs."""
    if record["kind"] == "elementwise" and record.get("op") in ("gelu", "gelu_tanh"):
        return "gelu"
    if record["kind"] != "sdpa":
        return str(record["kind"])
    if record["mask"] == "none":
        return "attention decode" if record["new_tokens"] == 1 else "attention chunk"
    return "attention masked" if record["mask"] == "explicit" else "attention prefill"


def _gpu_form(dtype: str, records: Sequence[Measurement]) -> Form:
    """The kernel's own time or the floor of a launch: that of a graph's node where one was timed."""
    in_graph = np.array([is_time(record.get("graph_us")) for record in records])
    kernel_s = _gpu_kernel_form(dtype, records)
    return lambda hw: np.maximum(np.where(in_graph, hw.launch.graph_floor_s, hw.launch.stream_floor_s), kernel_s(hw))


def attention_kernel_of(group: Group, hw: Hardware) -> str:
    """The kernel that a group of `ATTENTION` ran."""
    return sdpa_kernel(hw, group.dtype, BUILT_FOR, group.kind == "attention masked")


def _gpu_kernel_form(dtype: str, records: Sequence[Measurement]) -> Form:
    """Records of one kind, dtype and mask. A product's (k, n) operand is cold, and attention writes no cache."""
    record_kind, size = records[0]["kind"], ELEMENT_BYTES[dtype]
    if record_kind in ("gemm", "bmm"):
        batched, sizes = record_kind == "bmm", _products(records)
        return lambda hw: gemm_terms(hw, dtype, *sizes, size, batched=batched, weight_reuse=np.inf).device_s
    if record_kind == "sdpa":
        mask, shape = records[0]["mask"], _attention(records)
        causal, masked = mask == "causal", mask == "explicit"

        def attention_s(hw: Hardware) -> Array:
            kernel = sdpa_kernel(hw, dtype, BUILT_FOR, masked)
            kernel_s = attention_terms(hw, dtype, kernel, *shape, size, causal=causal, masked=masked).device_s
            return kernel_s + _mask_s(hw, size, *shape) if masked else kernel_s

        return attention_s
    kind, (read, written) = GPU_MEMORY_KINDS[_gpu_kind(records[0])], _moved(records, size)
    columns = column(records, "columns") if kind in REDUCTIONS else 1.0
    elements = 0.0 * written if kind == "cat" else written / size  # keys in a row, which are copied by the word
    indexed = record_kind == "permuted_copy"
    return lambda hw: memory_terms(hw, kind, read, written, elements, columns, 0.0, indexed=indexed).device_s


def _mask_s(
    hw: Hardware, element_bytes: float, batch: Array, heads: Array, head_dim: Array, new: Array, cached: Array
) -> Array:
    """What a call takes that is given a Boolean mask, as those on a GPU are: two numbers filled, the mask chosen from
    them, and a workspace set to zero."""
    elements = batch * new * (new + cached)
    chosen = memory_terms(hw, "where", elements, elements * element_bytes, elements, 1.0, 0.0, indexed=True)
    return 3.0 * hw.launch.graph_floor_s + chosen.device_s


# ------------------------------------------------------------------------------------------------ CPUs


def cpu_groups(records: Sequence[Measurement]) -> tuple[Group, ...]:
    """Products and attention by dtype, and memory-bound kernels, whose constants serve every dtype."""
    kinds = (("gemm", "bmm"), ("sdpa",), ("elementwise", *CPU_MEMORY_KINDS))
    groups = grouped((record for names in kinds for record in of_kind(records, *names)), _cpu_key)
    return tuple(Group(*key, tuple(same), _cpu_form(*key, same)) for key, same in groups.items())


def _cpu_key(record: Measurement) -> tuple[str, str]:
    """The kind and the dtype of a record's group: a field of `CpuProducts`, attention, or one of `CPU_KINDS`."""
    match record["kind"]:
        case "gemm" | "bmm":
            return CPU_PRODUCTS[record["op"]], record["dtype"]
        case "sdpa":
            return "attention masked" if record["mask"] == "explicit" else "attention", record["dtype"]
        case "elementwise":
            return CPU_FUNCTIONS.get(record["op"], "elementwise"), ""
        case kind:
            return CPU_MEMORY_KINDS[kind], ""


def _cpu_form(kind: str, dtype: str, records: Sequence[Measurement]) -> Form:
    """Records of one kind and dtype."""
    if not dtype:
        read, written = _moved(records, 4.0)
        return lambda hw: np.asarray(cpu.memory_terms(hw, kind, read, written, written / 4.0).device_s)
    size = ELEMENT_BYTES[dtype]
    if kind in CPU_PRODUCTS.values():
        sizes = _products(records)
        return lambda hw: np.asarray(cpu.product_terms(hw, dtype, kind, *sizes, size).device_s)
    batch, heads, head_dim, new, cached = _attention(records)
    shape, masked = (batch * heads, head_dim, new, cached), kind == "attention masked"
    return lambda hw: np.asarray(cpu.attention_terms(hw, dtype, *shape, size, masked=masked).device_s)
