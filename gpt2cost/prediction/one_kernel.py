"""One kernel on its own, by its shape: FLOPs, bytes, latency and bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.checks import check_broadcast, check_choice, check_flag, check_size
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.dtypes import DTYPES, ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.sdpa import check_attention_kernel, sdpa_kernel
from gpt2cost.errors import InputError, nearest
from gpt2cost.prediction.settings import How, check_device
from gpt2cost.prediction.trust import Trust, kernel_trust
from gpt2cost.result import Result
from gpt2cost.timing.kernel import Machine, bound_of, machine_of
from gpt2cost.timing.terms import Array, Terms, at_least

MAX_ELEMENTS = 10**15
"""The largest size of a kernel's shape; a larger one is more likely a slip."""


@dataclass(frozen=True, eq=False, repr=False)
class KernelLatency(Result):
    """One kernel on its own. `device_s` is its time in a busy stream: its launch overhead, but no host time.

    FLOPs and bytes are exact integers where the shape is of integers. `attention_kernel` is the name of the kernel that
    attention was timed as, or an array of names where `head_dim` decides; None for other kinds. `trust`: what its
    constants rest on, of several the least sure.
    """

    shown_by = "catalog"

    kind: str
    gpu: str
    dtype: str
    shape: dict[str, Any]
    flops: Array
    read_bytes: Array
    write_bytes: Array
    device_s: Array
    bound: Any
    terms: Terms
    trust: Trust
    attention_kernel: Any = None

    @property
    def grid_shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(*map(np.shape, self.shape.values()))


def kernel_latency(
    kind: str,
    gpu: str | Hardware,
    dtype: str = "fp16",
    *,
    kernel: str | None = None,
    reuse_bytes: Any = None,
    **shape: Any,
) -> KernelLatency:
    """Predict one kernel by its shape.

    `gemm` and `bmm` take `m`, `n`, `k` (and `batch`); `attention` takes `batch`, `heads`, `head_dim`, `new_tokens`,
    `cached_tokens`, `causal`, `masked` (an explicit mask), `write_cache`; `softmax`, `layer_norm` and `gather` (an
    embedding) take `rows`, `columns`; `elementwise`, `gelu` (in one kernel) and `copy` take `elements` (and `inputs`,
    the number of tensors read). Shapes are integers or integer arrays, which broadcast.

    Attention is timed with a write of the new keys and values into a cache; `write_cache=False` leaves that out, as
    where PyTorch concatenates the cache itself. For a kernel that a device has constants of from a serving framework's
    calls, as they were measured, the same call writes a paged cache, and all constants are that framework's; elsewhere
    the write is a copy of its own before attention. On a CPU `causal` saves no time: its blocks of keys are so long
    that every query meets every key. `kernel` names the attention kernel, such as `flash3`; by default it is the one
    that PyTorch's `scaled_dot_product_attention` runs on the device.

    `reuse_bytes`, an integer or integer array, is what was touched since the operands were last used, themselves
    included: of a product, its (k, n) operand; of attention, keys and values; of another kernel, all that it reads. A
    GPU's L2 serves what it still holds by then, so that 0 is warm and more than L2 is cold; on a CPU it changes
    nothing. By default it is as the public grids were measured: the kernel is repeated on its own operands, a product
    (but not `bmm`) on six weights in turn. Raises `InputError` for an unknown kind, shape, device or dtype.
    """
    if kind == "gelu_new":
        raise InputError(
            "kind: gelu_new runs as eight elementwise kernels in eager PyTorch: time them as elementwise (inputs 1 or"
            " 2), or gelu, which is one kernel"
        )
    check_choice("kind", kind, tuple(_KINDS))
    hardware = load_hardware(gpu)
    check_choice("dtype", dtype, DTYPES)
    check_device(hardware, How(dtype))
    sizes = _shape(kind, shape)
    real = {name: float(value) if type(value) is int else value for name, value in sizes.items()}
    reuse = None
    if reuse_bytes is not None:
        reuse = 1.0 * check_size("reuse_bytes", reuse_bytes, 0, MAX_ELEMENTS)
        check_broadcast({**sizes, "reuse_bytes": reuse})
    names = _attention_kernels(hardware, dtype, kernel, sizes) if kind == "attention" else None
    if kernel is not None and names is None:
        raise InputError(f"kernel: only attention has kernels to choose from, {kind} has none")
    flops, read, write = _KINDS[kind].counts(ELEMENT_BYTES[dtype], sizes)
    machine = machine_of(hardware)
    timed = _KINDS[kind].terms
    terms = timed(machine, dtype, real, reuse) if timed else _attention_terms(machine, dtype, names, real, reuse)
    terms = at_least(hardware.launch.stream_floor_s, terms)
    sizes |= {} if reuse_bytes is None else {"reuse_bytes": reuse_bytes}
    trust = kernel_trust(hardware, kind, dtype, sizes.get("m", 1), names, sizes.get("head_dim", 64))
    return KernelLatency(
        kind, hardware.name, dtype, sizes, flops, read, write, terms.device_s, bound_of(terms), terms, trust, names
    )


Shape: TypeAlias = dict[str, Any]
Counts: TypeAlias = tuple[Array, Array, Array]
"""FLOPs, bytes read, bytes written."""


@dataclass(frozen=True)
class _Kind:
    """A kind's parameters with the defaults of the optional ones, what it counts, and how it is timed.

    Attention is timed by the kernel that it runs as: `_attention_terms`.
    """

    required: tuple[str, ...]
    optional: dict[str, int | bool]
    counts: Callable[[int, Shape], Counts]
    terms: Callable[[Machine, str, Shape, Array | None], Terms] | None = None


def _shape(kind: str, given: Shape) -> Shape:
    takes = _KINDS[kind]
    names = (*takes.required, *takes.optional)
    for name in given:
        if name not in names:
            raise InputError(f"{name}: {kind} takes {', '.join(names)}; {nearest(name, names)}".rstrip("; "))
    if missing := [name for name in takes.required if name not in given]:
        raise InputError(f"{', '.join(missing)}: missing; {kind} takes {', '.join(names)}")
    sizes = {
        name: check_flag(name, value)
        if isinstance(takes.optional.get(name), bool)
        else check_size(name, value, 0 if name == "cached_tokens" else 1, MAX_ELEMENTS)
        for name, value in {**takes.optional, **given}.items()
    }
    check_broadcast(sizes)
    return sizes


def _product_counts(size: int, s: Shape) -> Counts:
    batch, m, n, k = s["batch"], s["m"], s["n"], s["k"]
    return 2 * batch * m * n * k, batch * (m * k + k * n) * size, batch * m * n * size


def _product(batched: bool) -> _Kind:
    """`batch` products of (m, k) and (k, n)."""

    def terms(machine: Machine, dtype: str, s: Shape, reuse: Array | None) -> Terms:
        return machine.product(dtype, s["batch"], s["m"], s["n"], s["k"], batched, reuse)

    return _Kind(("m", "n", "k"), {"batch": 1}, _product_counts, terms)


def _attention_counts(size: int, s: Shape) -> Counts:
    width, new, cached = s["batch"] * s["heads"] * s["head_dim"], s["new_tokens"], s["cached_tokens"]
    written = width * new * (3 if s["write_cache"] else 1)
    mask = s["batch"] * new * (new + cached) if s["masked"] else 0
    return 4 * width * new * (new + cached), (width * (3 * new + 2 * cached) + mask) * size, written * size


def _attention_kernels(hw: Hardware, dtype: str, kernel: str | None, s: Shape) -> Any:
    """The attention kernel's name: the one asked for, else what sdpa runs; an array where `head_dim` is one."""
    head_dim = s["head_dim"]
    if kernel is not None:
        check_attention_kernel(hw, kernel, dtype, head_dim, s["masked"])
        return kernel
    if np.ndim(head_dim) == 0:
        return sdpa_kernel(hw, dtype, int(head_dim), s["masked"])
    sizes, which = np.unique(head_dim, return_inverse=True)
    return np.array([sdpa_kernel(hw, dtype, int(size), s["masked"]) for size in sizes])[which].reshape(head_dim.shape)


def _attention_terms(machine: Machine, dtype: str, names: Any, s: Shape, reuse: Array | None) -> Terms:
    kv_reuse = None if reuse is None else (reuse, reuse)
    first, *others = np.unique(names)
    terms = machine.attention(dtype, str(first), **s, kv_reuse=kv_reuse)
    for name in others:
        terms = terms.where(names != name, machine.attention(dtype, str(name), **s, kv_reuse=kv_reuse))
    return terms


def _of_rows(kind: str, flops: int, index_bytes: int = 0) -> _Kind:
    """A kernel over the columns of each row, `flops` per element, which reads `index_bytes` a row besides."""

    def counts(size: int, s: Shape) -> Counts:
        elements = s["rows"] * s["columns"]
        return flops * elements, elements * size + index_bytes * s["rows"], elements * size

    def terms(machine: Machine, dtype: str, s: Shape, reuse: Array | None) -> Terms:
        _, read, write = counts(ELEMENT_BYTES[dtype], s)
        return machine.memory(kind, dtype, read, write, s["columns"], reuse)

    return _Kind(("rows", "columns"), {}, counts, terms)


def _of_elements(kind: str, flops: int) -> _Kind:
    """A kernel that reads `inputs` tensors and writes one, `flops` per element."""

    def counts(size: int, s: Shape) -> Counts:
        return flops * s["elements"], s["inputs"] * s["elements"] * size, s["elements"] * size

    def terms(machine: Machine, dtype: str, s: Shape, reuse: Array | None) -> Terms:
        _, read, write = counts(ELEMENT_BYTES[dtype], s)
        return machine.memory(kind, dtype, read, write, 1.0, reuse)

    return _Kind(("elements",), {"inputs": 1}, counts, terms)


_KINDS: dict[str, _Kind] = {
    "gemm": _product(batched=False),
    "bmm": _product(batched=True),
    "attention": _Kind(
        ("heads", "head_dim", "new_tokens"),
        {"batch": 1, "cached_tokens": 0, "causal": True, "masked": False, "write_cache": True},
        _attention_counts,
    ),
    "elementwise": _of_elements("elementwise", 1),
    "gelu": _of_elements("gelu", 1),
    "softmax": _of_rows("softmax", 5),
    "layer_norm": _of_rows("layer_norm", 8),
    "copy": _of_elements("copy", 0),
    "gather": _of_rows("gather", 0, index_bytes=8),
}
KERNEL_KINDS = tuple(_KINDS)
KERNEL_SIZES: dict[str, dict[str, int | bool | None]] = {
    kind: dict.fromkeys(takes.required) | takes.optional for kind, takes in _KINDS.items()
}
"""The sizes that each kind takes, with the default of those that have one."""
