"""Kernels measured on a device, grouped by what shapes their time, and how the machine model predicts each group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, plain
from gpt2cost.measure.records import Measurement, is_time, keys_of, of_kind, seconds
from gpt2cost.timing import cpu
from gpt2cost.timing.gpu_attention import SMALL_HEAD, attention_terms
from gpt2cost.timing.gpu_gemm import gemm_terms
from gpt2cost.timing.gpu_memory import memory_terms
from gpt2cost.timing.terms import Array

HOST_BOUND = 1.2
"""A kernel in a stream whose time is below this many times its issue time measures the host."""


REDUCTIONS = ("softmax", "layer_norm")
"""Memory-bound kinds that work on rows."""


MEMORY_KINDS = {
    "copy": "copy", "elementwise": "elementwise", "softmax": "softmax", "layer_norm": "layer_norm",
    "permuted_copy": "copy", "cat": "copy", "gather": "gather",
}  # fmt: skip
"""A record's kind -> which of the machine model's memory-bound kinds times it."""


ATTENTION = ("attention prefill", "attention decode", "attention chunk", "attention masked")
"""What groups of sdpa records are called."""


Form: TypeAlias = Callable[[Hardware], Array]
"""Predicted seconds of a group's records, without the floor of a launch."""


@dataclass(frozen=True)
class Group:
    """The records of one kind in one dtype. `in_graph`: which of them were timed as nodes of a CUDA graph."""

    kind: str
    dtype: str
    measured_s: Array
    in_graph: Array
    form: Form

    def errors(self, hw: Hardware) -> Array:
        """log(predicted / measured) of each record."""
        floor_s = np.where(self.in_graph, hw.launch.graph_floor_s, hw.launch.stream_floor_s)
        return np.log(np.maximum(floor_s, self.form(hw)) / self.measured_s)


def gpu_groups(records: Iterable[Measurement], hw: Hardware) -> tuple[Group, ...]:
    """The kernels among the records that `hw` can time, by kind and dtype."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for record in of_kind(records, *_FORMS):
        kind, dtype = record["kind"], record.get("dtype")
        if dtype not in hw.compute.peak_flop_per_s or _waits_for_host(record):
            continue
        if kind == "sdpa":
            if _sizes([record], "head_dim")[0][0] > SMALL_HEAD:
                continue
            kind = _attention_kind(record)
        found.setdefault((kind, dtype), []).append(record)
    return tuple(_group(kind, dtype, same) for (kind, dtype), same in sorted(found.items()))


def _attention_kind(record: Measurement) -> str:
    """Which of `ATTENTION` a record is of. A chunk without a mask is what `flash_attention_2` runs."""
    if record["mask"] == "none":
        return "attention decode" if record["new_tokens"] == 1 else "attention chunk"
    return "attention masked" if record["mask"] == "explicit" else "attention prefill"


def _group(kind: str, dtype: str, records: Sequence[Measurement]) -> Group:
    in_graph = np.array([is_time(record.get("graph_us")) for record in records])
    form = _FORMS[records[0]["kind"]](records)
    return Group(kind, dtype, np.array([seconds(record) for record in records]), in_graph, form)


def _waits_for_host(record: Measurement) -> bool:
    if is_time(record.get("graph_us")) or is_time(record.get("device_us")):
        return False
    issue_us = record.get("issue_us")
    return isinstance(issue_us, int | float) and 1e6 * seconds(record) < HOST_BOUND * issue_us


def _sizes(records: Sequence[Measurement], *names: str) -> tuple[Array, ...]:
    """Sizes of records, an array of floats for each name. Raises InputError for one that is no whole number."""
    for record in records:
        for name in names:
            if not isinstance(record.get(name), int) or record[name] < 0:
                raise InputError(f"measurement of kind {plain(record['kind'])}: expected a whole number {name}")
    return tuple(np.array([float(record[name]) for record in records]) for name in names)


def _product_form(records: Sequence[Measurement]) -> Form:
    """Products whose (k, n) operand is cold: weights are rotated over copies larger than L2."""
    dtype, batched = records[0]["dtype"], records[0]["kind"] == "bmm"
    m, n, k = _sizes(records, "m", "n", "k")
    batch = _sizes(records, "batch")[0] if batched else np.ones(len(records))
    size = ELEMENT_BYTES[dtype]
    return lambda hw: gemm_terms(hw, dtype, batch, m, n, k, size, batched=batched).device_s


def _attention_form(records: Sequence[Measurement]) -> Form:
    """A call without a cache write."""
    dtype, mask = records[0]["dtype"], records[0]["mask"]
    batch, heads, head_dim, new = _sizes(records, "batch", "heads", "head_dim", "new_tokens")
    cached = np.maximum(np.array([float(keys_of(record)) for record in records]) - new, 0.0)
    size, causal, masked = ELEMENT_BYTES[dtype], mask == "causal", mask == "explicit"
    return lambda hw: (
        attention_terms(hw, dtype, batch, heads, head_dim, new, cached, size, causal=causal, masked=masked).device_s
    )


def _memory_form(records: Sequence[Measurement]) -> Form:
    """A kernel that reads as much as it writes, and an addition twice as much."""
    record_kind, size = records[0]["kind"], ELEMENT_BYTES[records[0]["dtype"]]
    columns: Array = 1.0
    if record_kind == "copy":
        (elements,) = _sizes(records, "elements")
    elif record_kind == "cat":
        batch, heads, head_dim, new, cached = _sizes(
            records, "batch", "heads", "head_dim", "new_tokens", "cached_tokens"
        )
        elements = batch * heads * head_dim * (new + cached)
    else:
        rows, columns = _sizes(records, "rows", "columns")
        elements = rows * columns
    kind = MEMORY_KINDS[record_kind]
    reads = np.array([2.0 if record.get("op") == "add" else 1.0 for record in records])
    row = columns if kind in REDUCTIONS else 1.0
    return lambda hw: memory_terms(hw, kind, reads * elements * size, elements * size, size, row, 0.0).device_s


_FORMS: dict[str, Callable[[Sequence[Measurement]], Form]] = {
    "gemm": _product_form,
    "bmm": _product_form,
    "sdpa": _attention_form,
    **dict.fromkeys(MEMORY_KINDS, _memory_form),
}
"""A record's kind -> how records of it, of one dtype and one mask, are predicted."""


Key = TypeVar("Key")


KINDS = {
    "softmax": "softmax", "layer_norm": "layer_norm", "permuted_copy": "copy", "cat": "cat", "where": "where",
    "gather": "gather",
}  # fmt: skip
"""A record's kind -> which of `CPU_KINDS` times it; an element-wise op goes by its name."""


PRODUCTS = {"addmm": "addmm", "linear": "mm", "scores": "scores", "context": "context"}
"""A record's op -> which product it is."""


def kind_of(record: Measurement) -> str:
    """Which of `CPU_KINDS` a record is of."""
    if record["kind"] == "elementwise":
        return {"tanh": "tanh", "gelu": "gelu", "gelu_tanh": "gelu"}.get(record["op"], "elementwise")
    return KINDS[record["kind"]]


def column(records: Sequence[Measurement], key: str) -> Array:
    """A size of every record; 1 where a record has none."""
    return np.array([float(record.get(key, 1)) for record in records])


def memory_form(kind: str, records: Sequence[Measurement]) -> Form:
    """Predicted seconds of memory-bound kernels."""
    if kind == "cat":
        elements = column(records, "batch") * column(records, "heads") * column(records, "head_dim")
        elements = elements * (column(records, "cached_tokens") + column(records, "new_tokens"))
    else:
        elements = column(records, "rows") * column(records, "columns")
    inputs = np.array([2.0 if record.get("op") == "add" else 1.0 for record in records])
    return lambda hw: np.asarray(cpu.memory_terms(hw, kind, 4.0 * inputs * elements, 4.0 * elements, 4.0).device_s)


def product_form(name: str, dtype: str, records: Sequence[Measurement]) -> Form:
    """Predicted seconds of products, `name` being a field of `CpuProducts`."""
    batch, m, n, k = (column(records, key) for key in ("batch", "m", "n", "k"))
    size = ELEMENT_BYTES[dtype]
    return lambda hw: np.asarray(cpu.product_terms(hw, dtype, name, batch, m, n, k, size).device_s)


def attention_form(dtype: str, records: Sequence[Measurement]) -> Form:
    """Predicted seconds of fused attention, all with a mask or all without."""
    pairs = column(records, "batch") * column(records, "heads")
    head_dim, new = (column(records, key) for key in ("head_dim", "new_tokens"))
    cached = np.array([float(keys_of(record)) for record in records]) - new
    masked = bool(records[0]["mask"] == "explicit")
    size = ELEMENT_BYTES[dtype]
    return lambda hw: np.asarray(
        cpu.attention_terms(hw, dtype, pairs, head_dim, new, cached, size, masked=masked).device_s
    )


def grouped(records: Iterable[Measurement], key: Callable[[Measurement], Key]) -> dict[Key, list[Measurement]]:
    """The records with the same key, for every key."""
    found: dict[Key, list[Measurement]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return found


def all_seconds(records: Sequence[Measurement]) -> Array:
    """What was measured, in seconds."""
    return np.array([seconds(record) for record in records])


def cpu_groups(records: list[Measurement]) -> dict[str, tuple[Form, Array]]:
    """Kind of kernel -> how its records are predicted, and their seconds."""
    groups: dict[str, tuple[Form, Array]] = {}
    products, attention = of_kind(records, "gemm", "bmm"), of_kind(records, "sdpa")
    for (dtype, name), rows in grouped(products, lambda r: (r["dtype"], PRODUCTS[r["op"]])).items():
        groups[f"{name} {dtype}"] = (product_form(name, dtype, rows), all_seconds(rows))
    for (dtype, masked), rows in grouped(attention, lambda r: (r["dtype"], r["mask"] == "explicit")).items():
        kind = f"attention{' masked' if masked else ''} {dtype}"
        groups[kind] = (attention_form(dtype, rows), all_seconds(rows))
    for kind, rows in grouped(of_kind(records, "elementwise", *KINDS), kind_of).items():
        groups[kind] = (memory_form(kind, rows), all_seconds(rows))
    return groups


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


def residual(kind: str, errors: Array) -> FitResidual:
    """The summary of log(predicted / measured) of one kind's records."""
    size = np.abs(errors)
    return FitResidual(
        kind, len(errors), float(np.median(size)), float(np.quantile(size, 0.9)), float(np.median(errors))
    )
