"""Kernel measurements in CSV files, predicted beside measured.

Measured times contain what a prediction of a kernel does not: the dispatch of an isolated call, the floor of an event
pair, a cache write, a synchronisation. Where a format's timing does, one additive constant per device (and operation)
is fitted before scoring, as the one of 0 or more with the least mean absolute error, and reported.
"""

from __future__ import annotations

import csv
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.checks import check_choice
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.sdpa import check_attention_kernel
from gpt2cost.errors import InputError, InputWarning, echo, plain
from gpt2cost.files import is_folder
from gpt2cost.measure.records import grouped, is_time
from gpt2cost.prediction.one_kernel import MAX_ELEMENTS, kernel_latency
from gpt2cost.timing.gpu_memory import memory_terms


@dataclass(frozen=True)
class KernelResult:
    """Measured kernels of one file, device and operation, with the additive constant that scoring them needed."""

    file: str
    gpu: str
    dtype: str
    operation: str
    count: int
    constant_s: float
    errors: np.ndarray  # predicted over measured, less one

    @property
    def mean_absolute_error(self) -> float:
        return float(np.mean(np.abs(self.errors)))


Cells: TypeAlias = Mapping[str, str]
"""Column -> text of a row."""
Kernel: TypeAlias = Mapping[str, Any]
"""The `kind` that predicts a kernel, and what a row says of its operands, by name."""
Series: TypeAlias = tuple[str, str, str]
"""Device as the file names it, dtype and operation."""


class SkippedSeriesError(Exception):
    """Rows of one series that cannot be predicted, though nothing is wrong with them; the message says why."""


@dataclass(frozen=True)
class Format:
    """A kind of measurement file, known by its columns, which may come in any order.

    `read`: the operation that a row measured, and its kernel; raises `InputError` for a wrong cell. `predict`: seconds
    of kernels of one device, dtype and operation. `constant_over`: what the series that share one additive constant
    have in common; None where the timing needs no constant.
    """

    name: str
    columns: str
    read: Callable[[Cells], tuple[str, Kernel]]
    predict: Callable[[Hardware, str, Sequence[Kernel]], np.ndarray]
    constant_over: Callable[[Series], object] | None = None


@dataclass(frozen=True)
class Row:
    """A measured kernel, and the file, line and format that it is from."""

    where: str
    series: Series
    kernel: Kernel
    measured_s: float


def score_measurements(folder: Path) -> list[KernelResult]:
    """Score every CSV file in `folder` that is of one of `FORMATS`.

    Raises `InputError` if the folder cannot be read or has no such file, and for a wrong row, with file and line.
    """
    where = plain(str(folder))
    if not is_folder(folder):
        raise InputError(f"{where}: expected a folder with CSV files of measurements")
    files = sorted(path for path in folder.glob("*.csv") if path.is_file())
    results = [result for path in files for result in _score_file(path)]
    if not results:
        raise InputError(f"{where}: no kernel measurement in any CSV file of it")
    return results


def _row(path: Path, line: int, format: Format, columns: Sequence[str], texts: Sequence[str]) -> Row:
    where = f"{plain(path.name)}: line {line} of {format.name}"
    try:
        if len(texts) != len(columns):
            raise InputError(f"expected {len(columns)} cells, got {len(texts)}")
        cells = {**_backend_in(path.name), **dict(zip(columns, texts, strict=True))}
        dtype = _choice(cells, "dtype", ELEMENT_BYTES)
        operation, kernel = format.read(cells)
        return Row(where, (cells["gpu"], dtype, operation), kernel, _seconds(cells))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _seconds(cells: Cells) -> float:
    try:
        time_us = float(cells["latency_us"])
    except ValueError:
        time_us = math.nan
    if not is_time(time_us):
        raise InputError(f"latency_us: expected a time above 0, got {echo(cells['latency_us'])}")
    return time_us * 1e-6


def _size(cells: Cells, name: str) -> int:
    """A size, from 1 to `MAX_ELEMENTS`, or from 0 of `cached_tokens`."""
    text, least = cells[name].strip(), 0 if name == "cached_tokens" else 1
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= MAX_ELEMENTS):
        raise InputError(f"{name}: expected a whole number from {least} to {MAX_ELEMENTS}, got {echo(cells[name])}")
    return int(text)


def _choice(cells: Cells, column: str, choices: Iterable[str]) -> str:
    """The text of a column, which has to be one of `choices`."""
    check_choice(column, cells[column], tuple(choices))
    return cells[column]


def _score_file(path: Path) -> Iterator[KernelResult]:
    """The results of a file; none of a file of something else."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            format = next((format for format in FORMATS if sorted(format.columns.split()) == sorted(columns)), None)
            if format is None:
                return
            rows = [_row(path, reader.line_num, format, columns, cells) for cells in reader if cells]
    except (OSError, csv.Error) as error:
        raise InputError(f"{plain(str(path))}: cannot read: {error}") from None
    groups = grouped(rows, lambda row: row.series)
    measured = {series: np.array([row.measured_s for row in members]) for series, members in groups.items()}
    predicted: dict[Series, np.ndarray] = {}
    for series, members in list(groups.items()):
        try:
            predicted[series] = _predicted(format, series, members)
        except SkippedSeriesError as reason:
            del groups[series]
            what = f"{plain(path.name)}: skipped {len(members)} rows of {plain(series[0])}"
            warnings.warn(f"{what}: {reason}", InputWarning, stacklevel=2)
    constants = dict.fromkeys(groups, 0.0)
    if format.constant_over is not None:
        for together in grouped(groups, format.constant_over).values():
            sides = (np.concatenate([side[series] for series in together]) for side in (measured, predicted))
            constants |= dict.fromkeys(together, additive_constant(*sides))
    for series, constant_s in constants.items():
        gpu, dtype, operation = series
        errors = (predicted[series] + constant_s) / measured[series] - 1.0
        yield KernelResult(path.name, load_hardware(gpu).name, dtype, operation, len(errors), constant_s, errors)


def _predicted(format: Format, series: Series, rows: Sequence[Row]) -> np.ndarray:
    gpu, dtype, _ = series
    try:
        return format.predict(load_hardware(gpu), dtype, [row.kernel for row in rows])
    except InputError as error:
        raise InputError(f"{rows[0].where}: {error}") from None


def additive_constant(measured: np.ndarray, predicted: np.ndarray) -> float:
    """The constant of 0 or more that brings predicted nearest to measured in the mean absolute relative error."""
    gaps = np.unique(np.maximum(measured - predicted, 0.0))
    candidates = np.append(gaps[:: max(1, len(gaps) // 400)], 0.0)
    errors = [float(np.mean(np.abs((predicted + constant) / measured - 1.0))) for constant in candidates]
    return float(candidates[int(np.argmin(errors))])


# ------------------------------------------------------------------------------------------------ by sizes

_SIZES = ("batch", "m", "n", "k", "heads", "head_dim", "new_tokens", "cached_tokens")
"""Columns of sizes."""


def _sized(kind: str, cells: Cells) -> Kernel:
    """A kernel that takes all sizes of a row, as the columns name them."""
    return {"kind": kind, **{name: _size(cells, name) for name in cells if name in _SIZES}}


def _product(cells: Cells) -> tuple[str, Kernel]:
    op = _choice(cells, "op", ("linear", "bmm", "linear_tn", "linear_nt", "linear_tt"))
    return op, _sized("bmm" if op == "bmm" else "gemm", cells)


BACKENDS = {
    "fa2": "flash2", "flash2": "flash2", "fa3": "flash3", "flash3": "flash3", "cudnn": "cudnn", "mps": "mps",
    "efficient": "efficient", "xformers": "efficient", "math": "math", "standard": "math",
}  # fmt: skip
"""What a column `backend`, or a file's name, calls an attention kernel -> its name here."""
SERVED = "served"
"""Attention as a serving framework calls it: with a write into its cache, by FlashAttention-3 where there is one."""


def _attention(cells: Cells) -> tuple[str, Kernel]:
    """`encode` is a prefill without the causal rule. A kernel that is named is called alone; else, it is served."""
    phase = _choice(cells, "phase", ("prefill", "decode", "encode"))
    backend = cells.get("backend", "").strip()
    kernel = BACKENDS.get(backend, backend) or SERVED
    operation = f"attention {phase}" + (f", {plain(kernel)}" if backend else "")
    return operation, {**_sized("attention", cells), "causal": phase != "encode", "kernel": kernel}


def _backend_in(name: str) -> Cells:
    """The attention kernel that a file's name names, as `h100_fa2_causal_fp16.csv` does."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return {"backend": next((word for word in words if word in BACKENDS), "")}


def _by_attention_kernel(hw: Hardware, dtype: str, kernels: Sequence[Kernel]) -> np.ndarray:
    arrays: dict[str, Any] = {
        name: np.array([kernel[name] for kernel in kernels]) for name in kernels[0] if name in _SIZES
    }
    named, causal = kernels[0]["kernel"], kernels[0]["causal"]
    served = named == SERVED
    if served:
        named = "flash3" if hw.vendor != "cpu" and "flash3" in hw.gpu_model.attention else None
    else:
        try:
            check_attention_kernel(hw, named, dtype, int(np.max(arrays["head_dim"])), masked=False)
        except InputError as error:
            raise SkippedSeriesError(str(error)) from None
    latency = kernel_latency("attention", hw, dtype, kernel=named, causal=causal, write_cache=served, **arrays)
    return np.asarray(latency.device_s)


def _synchronised(cells: Cells) -> tuple[str, Kernel]:
    """Of an op with two sizes m is the rows and n the columns; of an element-wise one n may be left out."""
    op = _choice(cells, "op", ("matmul", "softmax", "layernorm", "gelu"))
    if op == "matmul":
        return op, _sized("gemm", cells)
    if op == "gelu":
        elements = _size(cells, "m") * (_size(cells, "n") if cells["n"] else 1)
        return op, {"kind": "gelu", "elements": _size({"elements": str(elements)}, "elements")}
    kind = op.replace("layernorm", "layer_norm")
    return kind, {"kind": kind, "rows": _size(cells, "m"), "columns": _size(cells, "n")}


def _by_sizes(hw: Hardware, dtype: str, kernels: Sequence[Kernel]) -> np.ndarray:
    arrays: dict[str, Any] = {
        name: np.array([kernel[name] for kernel in kernels]) for name in kernels[0] if name != "kind"
    }
    return np.asarray(kernel_latency(kernels[0]["kind"], hw, dtype, **arrays).device_s)


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
    operation, kind = _LAYER_KERNELS[_choice({"kernel": kernel}, "kernel", _LAYER_KERNELS)]
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
    terms = memory_terms(hw, kind, float(read), float(elements * size), size, float(out[-1]), hw.launch.stream_floor_s)
    return float(terms.device_s)


_PER_DEVICE, _PER_OPERATION = itemgetter(0), itemgetter(0, 2)
FORMATS = (
    Format("products", "gpu dtype m n k latency_us", lambda cells: ("gemm", _sized("gemm", cells)), _by_sizes),
    Format("single products", "gpu dtype op batch m n k latency_us", _product, _by_sizes, _PER_OPERATION),
    *(
        Format(
            "attention", f"gpu dtype phase batch heads head_dim new_tokens cached_tokens latency_us {more}",
            _attention, _by_attention_kernel, _PER_OPERATION,
        )
        for more in ("", "note", "backend", "backend note")
    ),
    Format("synchronised ops", "op m n k latency_us gpu dtype", _synchronised, _by_sizes, _PER_OPERATION),
    Format(
        "a traced layer", "gpu model batch seq dtype kernel node scope input_shapes output_shape latency_us",
        _traced, _by_operands, _PER_DEVICE,
    ),
)  # fmt: skip
