"""Kernels measured on a CPU, grouped by what times them, and how the machine model predicts each group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from gpt2cost.cpu_time import attention_terms, memory_terms, product_terms
from gpt2cost.hardware import Hardware
from gpt2cost.measurement_records import Measurement, keys_of, of_kind, seconds
from gpt2cost.settings import ELEMENT_BYTES
from gpt2cost.terms import Array

Form: TypeAlias = Callable[[Hardware], Array]
"""Predicted seconds of a group's records."""
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
    return lambda hw: np.asarray(memory_terms(hw, kind, 4.0 * inputs * elements, 4.0 * elements, 4.0).device_s)


def product_form(name: str, dtype: str, records: Sequence[Measurement]) -> Form:
    """Predicted seconds of products, `name` being a field of `CpuProducts`."""
    batch, m, n, k = (column(records, key) for key in ("batch", "m", "n", "k"))
    size = ELEMENT_BYTES[dtype]
    return lambda hw: np.asarray(product_terms(hw, dtype, name, batch, m, n, k, size).device_s)


def attention_form(dtype: str, records: Sequence[Measurement]) -> Form:
    """Predicted seconds of fused attention, all with a mask or all without."""
    pairs = column(records, "batch") * column(records, "heads")
    head_dim, new = (column(records, key) for key in ("head_dim", "new_tokens"))
    cached = np.array([float(keys_of(record)) for record in records]) - new
    masked = bool(records[0]["mask"] == "explicit")
    size = ELEMENT_BYTES[dtype]
    return lambda hw: np.asarray(attention_terms(hw, dtype, pairs, head_dim, new, cached, size, masked=masked).device_s)


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
