"""The kinds of files with measured kernels, by their columns: what a row measured, and how it is predicted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from gpt2cost.checks import check_choice
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.sdpa import check_attention_kernel, has_flash3
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.prediction.one_kernel import MAX_ELEMENTS, kernel_latency
from gpt2cost.timing.gpu_memory import memory_terms

Cells: TypeAlias = Mapping[str, str]
"""Column -> text of a row."""
Kernel: TypeAlias = Mapping[str, Any]
"""The `kind` that predicts a kernel, and what a row says of its operands, by name."""

BESIDE = ("note", "framework", "backend")
"""Columns that every file may have beside those of its format."""


class SkippedError(Exception):
    """A row, or a series of them, that cannot be predicted though nothing is wrong with it; the message says why."""


@dataclass(frozen=True)
class Format:
    """A kind of measurement file, known by its columns, which may come in any order.

    `columns` must be there, `optional` may. `read`: the operation that a row measured, and its kernel; raises
    `InputError` for a wrong cell, and `SkippedError`. `predict`: seconds of kernels of one device, dtype and operation.
    """

    name: str
    columns: frozenset[str]
    optional: frozenset[str]
    read: Callable[[Cells], tuple[str, Kernel]]
    predict: Callable[[Hardware, str, Sequence[Kernel]], np.ndarray]


def size(cells: Cells, name: str) -> int:
    """A size, from 1 to `MAX_ELEMENTS`, or from 0 of `cached_tokens`."""
    text, least = cells.get(name, "").strip(), 0 if name == "cached_tokens" else 1
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= MAX_ELEMENTS):
        raise InputError(f"{name}: expected a whole number from {least} to {MAX_ELEMENTS}, got {echo(text)}")
    return int(text)


def _size_or_1(cells: Cells, name: str) -> int:
    """A size that may be left out."""
    return size(cells, name) if cells.get(name, "").strip() else 1


def choice(cells: Cells, column: str, choices: Iterable[str]) -> str:
    """The text of a column, which has to be one of `choices`."""
    check_choice(column, cells[column], tuple(choices))
    return cells[column]


# ------------------------------------------------------------------------------------------------ by sizes


@dataclass(frozen=True)
class _Op:
    """How an op is predicted: by its `kind`, and what its sizes are. `inputs`: tensors read, by each of its kernels."""

    kind: str
    sizes: Literal["product", "rows", "elements"]
    inputs: tuple[int, ...] = (1,)


_PRODUCTS = dict.fromkeys(("gemm", "linear", "matmul", "linear_tn", "linear_nt", "linear_tt"), _Op("gemm", "product"))
_POINTWISE = dict.fromkeys(("relu", "scale", "tanh"), _Op("elementwise", "elements"))
OPS = {
    **_PRODUCTS, "bmm": _Op("bmm", "product"),
    "softmax": _Op("softmax", "rows"), "layer_norm": _Op("layer_norm", "rows"), "layernorm": _Op("layer_norm", "rows"),
    "embedding": _Op("gather", "rows"), "gather": _Op("gather", "rows"),
    **_POINTWISE, "gelu": _Op("gelu", "elements"), "add": _Op("elementwise", "elements", (2,)),
    "add_twice": _Op("elementwise", "elements", (2, 2)), "copy": _Op("copy", "elements"),
    "new_gelu_8_kernels": _Op("elementwise", "elements", (1, 1, 1, 2, 1, 1, 1, 2)),
}  # fmt: skip
"""The ops that a column `op` may name. Without that column every row is a `gemm`."""
_SHAPE = re.compile(r"[1-9][0-9]{0,14}(x[1-9][0-9]{0,14}){0,3}")


def _by_op(cells: Cells) -> tuple[str, Kernel]:
    """Sizes that an op does not need may be empty: rows m and columns n; elements m, or m x n."""
    op = choice({"op": cells.get("op", "gemm").strip()}, "op", OPS)
    takes = OPS[op]
    batch = _size_or_1(cells, "batch")
    if takes.sizes == "product":
        return op, {"op": op, "batch": batch, **{name: size(cells, name) for name in "mnk"}}
    if takes.sizes == "rows":
        return takes.kind, {"op": op, "rows": batch * size(cells, "m"), "columns": size(cells, "n")}
    elements = batch * size(cells, "m") * _size_or_1(cells, "n")
    return op, {"op": op, "elements": size({"elements": str(elements)}, "elements")}


def _by_shape(cells: Cells) -> tuple[str, Kernel]:
    """A row whose sizes are one text, `1024x4096x4096`: those of a product m x n x k, with the batch first if there
    are four; rows x columns; elements."""
    op, shape = cells["op"].strip(), cells["shape"].strip()
    if op not in OPS or not _SHAPE.fullmatch(shape):
        raise SkippedError("an op that is not predicted on its own, or a shape without sizes")
    sizes = shape.split("x")
    names = ["m", "n", "k"] if len(sizes) < 4 else ["batch", "m", "n", "k"]
    return _by_op({"op": op, **dict(zip(names, sizes, strict=False))})


def _ops_seconds(hw: Hardware, dtype: str, kernels: Sequence[Kernel]) -> np.ndarray:
    takes = OPS[kernels[0]["op"]]
    arrays: dict[str, Any] = {
        name: np.array([kernel[name] for kernel in kernels]) for name in kernels[0] if name != "op"
    }
    parts: list[dict[str, Any]] = [{"inputs": inputs} if takes.sizes == "elements" else {} for inputs in takes.inputs]
    seconds = [kernel_latency(takes.kind, hw, dtype, **arrays, **part).device_s for part in parts]
    return np.asarray(np.sum(seconds, axis=0))


# ------------------------------------------------------------------------------------------------ attention

_ATTENTION_SIZES = ("batch", "heads", "head_dim", "new_tokens", "cached_tokens")


def _attention_size(cells: Cells, name: str) -> int:
    return _size_or_1(cells, name) if name == "batch" else size(cells, name)


BACKENDS = {
    "fa2": "flash2", "flash2": "flash2", "fa3": "flash3", "flash3": "flash3", "cudnn": "cudnn", "mps": "mps",
    "efficient": "efficient", "xformers": "efficient", "math": "math", "standard": "math",
}  # fmt: skip
"""What a column `backend`, or a file's name, calls an attention kernel -> its name here."""
SERVED = "served"
"""Attention as a serving framework calls it: with a write into its cache, by FlashAttention-3 where there is one."""


def _attention(cells: Cells) -> tuple[str, Kernel]:
    """`encode` is a prefill without the causal rule. A kernel that is named is called alone; else, it is served."""
    phase = choice(cells, "phase", ("prefill", "decode", "encode"))
    backend = cells.get("backend", "").strip()
    kernel = BACKENDS.get(backend, backend) or SERVED
    operation = f"attention {phase}" + (f", {plain(kernel)}" if backend else "")
    sizes = {name: _attention_size(cells, name) for name in _ATTENTION_SIZES}
    return operation, {**sizes, "causal": phase != "encode", "kernel": kernel}


def backend_in(name: str) -> Cells:
    """The attention kernel that a file's name names, as `h100_fa2_causal_fp16.csv` does."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return {"backend": next((word for word in words if word in BACKENDS), "")}


def _by_attention_kernel(hw: Hardware, dtype: str, kernels: Sequence[Kernel]) -> np.ndarray:
    arrays: dict[str, Any] = {name: np.array([kernel[name] for kernel in kernels]) for name in _ATTENTION_SIZES}
    named, causal = kernels[0]["kernel"], kernels[0]["causal"]
    served = named == SERVED
    if served:
        named = "flash3" if hw.has_flash_attention(dtype) and has_flash3(hw) else None
    else:
        try:
            check_attention_kernel(hw, named, dtype, arrays["head_dim"], masked=False)
        except InputError as error:
            raise SkippedError(str(error)) from None
    latency = kernel_latency("attention", hw, dtype, kernel=named, causal=causal, write_cache=served, **arrays)
    return np.asarray(latency.device_s)


# ------------------------------------------------------------------------------------------------ by operands

_LAYER_KERNELS = {
    "addmm": ("linear", "gemm"), "lm_head": ("linear", "gemm"), "matmul": ("bmm", "bmm"),
    "softmax": ("softmax", "softmax"), "contiguous": ("copy", "copy"),
    **dict.fromkeys(("ln_1", "ln_2", "ln_f"), ("layer norm", "layer_norm")),
    **dict.fromkeys(("wte", "wpe"), ("gather", "gather")),
    "truediv": ("element-wise", "scalar_op"), "where": ("element-wise", "where"),
    **dict.fromkeys(("add", "mul", "pow", "tanh"), ("element-wise", "elementwise")),
}  # fmt: skip
"""The last part of a kernel's name in a trace -> its operation, and the kind that predicts it."""


def _traced(cells: Cells) -> tuple[str, Kernel]:
    kernel = cells["kernel"].rpartition(".")[2]
    operation, kind = _LAYER_KERNELS[choice({"kernel": kernel}, "kernel", _LAYER_KERNELS)]
    inputs, out = _shapes(cells, "input_shapes"), _shapes(cells, "output_shape")[0]
    if kind == "bmm" and [len(shape) for shape in inputs] != [4, 4]:
        raise InputError(f"input_shapes: expected 2 shapes of 4 sizes, got {echo(cells['input_shapes'])}")
    if kernel == "addmm":  # its first input is the bias
        if len(inputs) != 3:
            raise InputError(f"input_shapes: expected 3 shapes, got {echo(cells['input_shapes'])}")
        inputs = inputs[1:]
    return operation, {"kind": kind, "first": cells["node"] == "matmul", "inputs": inputs, "out": out}


def _shapes(cells: Cells, name: str) -> list[list[int]]:
    """A shape, or a list of shapes, as JSON."""
    try:
        shapes = json.loads(cells[name])
    except (ValueError, RecursionError):
        shapes = None
    if isinstance(shapes, list) and shapes and not isinstance(shapes[0], list):
        shapes = [shapes]
    if not isinstance(shapes, list) or not shapes or not all(map(_is_shape, shapes)):
        raise InputError(f"{name}: expected shapes such as [[4, 768]], got {echo(cells[name])}")
    return shapes


def _is_shape(shape: object) -> bool:
    sizes = shape if isinstance(shape, list) else []
    return bool(sizes) and all(type(size) is int and size > 0 for size in sizes) and math.prod(sizes) <= MAX_ELEMENTS


def _by_operands(hw: Hardware, dtype: str, kernels: Sequence[Kernel]) -> np.ndarray:
    return np.array([_layer_seconds(hw, dtype, **kernel) for kernel in kernels])


def _layer_seconds(hw: Hardware, dtype: str, kind: str, first: bool, inputs: list[list[int]], out: list[int]) -> float:
    """One kernel of a traced layer, by the shapes of its operands.

    `torch.matmul` copies permuted operands before the product: in the `first` one query and key, then the value.
    """

    def seconds(kind: str, **sizes: Any) -> float:
        return float(kernel_latency(kind, hw, dtype, **sizes).device_s)

    size, elements = ELEMENT_BYTES[dtype], math.prod(out)
    left, right = inputs[0], inputs[-1]
    match kind:
        case "gemm":
            return seconds("gemm", m=math.prod(left[:-1]), n=out[-1], k=left[-1])
        case "bmm":
            product_s = seconds("bmm", batch=left[0] * left[1], m=left[2], k=left[3], n=right[3])
            return product_s + sum(seconds("copy", elements=math.prod(x)) for x in (inputs if first else [right]))
        case "softmax" | "layer_norm":
            return seconds(kind, rows=elements // out[-1], columns=out[-1])
        case "copy":
            return seconds("copy", elements=elements)
        case "gather":
            read = elements * size
        case "where":
            read = elements * size + math.prod(left)  # a mask has a byte per element
        case _:
            read = sum(map(math.prod, inputs)) * size
    written, columns = float(elements * size), float(out[-1])
    terms = memory_terms(hw, kind, float(read), written, float(elements), columns, hw.launch.stream_floor_s)
    return float(terms.device_s)


PYTORCH = ("", "pytorch", "torch", "mps", "cuda")
"""What a column `framework` may say of kernels that are PyTorch's."""


def _format(name: str, columns: str, optional: str, read: Any, predict: Any) -> Format:
    return Format(name, frozenset(columns.split()), frozenset((*optional.split(), *BESIDE)), read, predict)


FORMATS = (
    _format("kernels", "gpu dtype m latency_us", "op batch n k", _by_op, _ops_seconds),
    _format("kernels by shape", "gpu dtype op shape latency_us", "", _by_shape, _ops_seconds),
    _format(
        "attention", "gpu dtype phase heads head_dim new_tokens cached_tokens latency_us", "batch",
        _attention, _by_attention_kernel,
    ),
    _format(
        "a traced layer", "gpu dtype kernel input_shapes output_shape node latency_us", "model batch seq scope",
        _traced, _by_operands,
    ),
)  # fmt: skip
"""The kinds of files that are known."""
