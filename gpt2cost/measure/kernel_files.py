"""Kernel measurements in CSV files, predicted beside measured.

Measured times contain what a prediction of a kernel does not: the dispatch of an isolated call, the floor of an event
pair, a cache write, a synchronisation. Where a format's timing does, one additive constant per device (and operation)
is fitted before scoring, as the one of 0 or more with the least mean absolute error, and reported.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.checks import check_choice
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.measure.records import is_time
from gpt2cost.prediction.one_kernel import MAX_ELEMENTS, kernel_latency
from gpt2cost.timing.gpu_memory import memory_terms


@dataclass(frozen=True)
class KernelResult:
    """Measured kernels of one file, device and operation, with the additive constant that scoring them needed."""

    file: str
    hardware: str
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


Shape: TypeAlias = Mapping[str, Any]
"""What a row says of a kernel's operands, by name."""


@dataclass(frozen=True)
class Format:
    """A kind of measurement file, known by its columns, which may come in any order.

    `operation`: what a row measured. `shape`: its operands. Both raise `InputError` for a wrong cell. `predict`:
    seconds of kernels of one device, dtype and operation. `constant_over`: within what one additive constant holds.
    """

    name: str
    columns: tuple[str, ...]
    operation: Callable[[Cells], str]
    shape: Callable[[str, Cells], Shape]
    predict: Callable[[Hardware, str, str, Sequence[Shape]], np.ndarray]
    constant_over: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Row:
    """A measured kernel and the line of the file that it is from."""

    line: int
    gpu: str
    dtype: str
    operation: str
    shape: Shape
    measured_s: float


def score_measurements(folder: Path) -> list[KernelResult]:
    """Score every CSV file in `folder` that is of one of `FORMATS`.

    Raises `InputError` if the folder cannot be read or has no such file, and for a wrong row, with file and line.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with CSV files of measurements")
    results: list[KernelResult] = []
    for path in sorted(path for path in folder.glob("*.csv") if path.is_file()):
        format, rows = _read(path)
        if format is not None:
            results += _score_file(path, format, rows)
    if not results:
        raise InputError(f"{folder}: no CSV file with the columns of a kernel measurement in it")
    return results


def _read(path: Path) -> tuple[Format | None, list[Row]]:
    """The format of a file, None for a file of something else, and its rows."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            format = next((format for format in FORMATS if sorted(format.columns) == sorted(columns)), None)
            if format is None:
                return None, []
            return format, [_row(path, reader.line_num, format, columns, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read: {error}") from None


def _row(path: Path, line: int, format: Format, columns: Sequence[str], texts: Sequence[str]) -> Row:
    try:
        if len(texts) != len(columns):
            raise InputError(f"expected {len(columns)} cells, got {len(texts)}")
        cells = dict(zip(columns, texts, strict=True))
        check_choice("dtype", cells["dtype"], tuple(ELEMENT_BYTES))
        operation = format.operation(cells)
        shape = format.shape(operation, cells)
        return Row(line, cells["gpu"], cells["dtype"], operation, shape, _seconds(cells))
    except InputError as error:
        raise InputError(_where(path, line, format, error)) from None


def _where(path: Path, line: int, format: Format, error: InputError) -> str:
    return f"{plain(path.name)}: line {line} of {format.name}: {error}"


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


def _score_file(path: Path, format: Format, rows: Sequence[Row]) -> Iterator[KernelResult]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.gpu, row.dtype, row.operation), []).append(row)
    scored = []
    for (gpu, dtype, operation), members in groups.items():
        try:
            predicted = format.predict(load_hardware(gpu), dtype, operation, [row.shape for row in members])
        except InputError as error:
            raise InputError(_where(path, members[0].line, format, error)) from None
        scored.append((gpu, dtype, operation, np.array([row.measured_s for row in members]), predicted))
    constants: dict[tuple[str, ...], float] = {}
    if format.constant_over is not None:
        for key in {_constant_key(format, gpu, operation) for gpu, _, operation, _, _ in scored}:
            parts = [(m, p) for g, _, o, m, p in scored if _constant_key(format, g, o) == key]
            constants[key] = additive_constant(*(np.concatenate(side) for side in zip(*parts, strict=True)))
    for gpu, dtype, operation, measured, predicted in scored:
        constant = constants.get(_constant_key(format, gpu, operation), 0.0)
        errors = (predicted + constant) / measured - 1.0
        yield KernelResult(path.name, load_hardware(gpu).name, dtype, operation, len(measured), constant, errors)


def _constant_key(format: Format, gpu: str, operation: str) -> tuple[str, ...]:
    values = {"gpu": gpu, "operation": operation}
    return tuple(values[name] for name in format.constant_over or ())


def additive_constant(measured: np.ndarray, predicted: np.ndarray) -> float:
    """The constant of 0 or more that brings predicted nearest to measured in the mean absolute relative error."""
    gaps = np.unique(np.maximum(measured - predicted, 0.0))
    candidates = np.append(gaps[:: max(1, len(gaps) // 400)], 0.0)
    errors = [float(np.mean(np.abs((predicted + constant) / measured - 1.0))) for constant in candidates]
    return float(candidates[int(np.argmin(errors))])


# ------------------------------------------------------------------------------------------------ by sizes

_KINDS = {
    "gemm": "gemm", "linear": "gemm", "linear_tn": "gemm", "linear_nt": "gemm", "linear_tt": "gemm", "matmul": "gemm",
    "bmm": "bmm", "attention prefill": "attention", "attention decode": "attention", "softmax": "softmax",
    "layer_norm": "layer_norm", "gelu": "elementwise",
}  # fmt: skip
"""Operation -> the kind of `kernel_latency` that predicts it."""


def _one_of(column: str, *choices: str) -> Callable[[Cells], str]:
    """The text of a column, which has to be one of `choices`."""

    def operation(cells: Cells) -> str:
        check_choice(column, cells[column], choices)
        return cells[column]

    return operation


def _sizes(*names: str) -> Callable[[str, Cells], Shape]:
    return lambda operation, cells: {name: _size(cells, name) for name in names}


def _op_shape(operation: str, cells: Cells) -> Shape:
    """Of an op with two sizes m is the rows and n the columns; of an element-wise one n may be left out."""
    if operation == "matmul":
        return {name: _size(cells, name) for name in ("m", "n", "k")}
    if operation != "gelu":
        return {"rows": _size(cells, "m"), "columns": _size(cells, "n")}
    elements = _size(cells, "m") * (_size(cells, "n") if cells["n"] else 1)
    return {"elements": _size({"elements": str(elements)}, "elements")}


def _by_sizes(hw: Hardware, dtype: str, operation: str, shapes: Sequence[Shape]) -> np.ndarray:
    arrays = {name: np.array([shape[name] for shape in shapes]) for name in shapes[0]}
    return np.asarray(kernel_latency(_KINDS[operation], hw, dtype, **arrays).device_s)


# ------------------------------------------------------------------------------------------------ by operands

_LAYER_OPERATIONS = {
    "addmm": "linear", "lm_head": "linear", "matmul": "bmm", "softmax": "softmax", "ln_1": "layer norm",
    "ln_2": "layer norm", "ln_f": "layer norm", "wte": "gather", "wpe": "gather", "contiguous": "copy",
    **dict.fromkeys(("truediv", "where", "add", "mul", "pow", "tanh"), "element-wise"),
}  # fmt: skip
"""The last part of a kernel's name in a trace -> its operation."""


def _layer_kernel(cells: Cells) -> str:
    return cells["kernel"].rpartition(".")[2]


def _layer_operation(cells: Cells) -> str:
    check_choice("kernel", _layer_kernel(cells), tuple(_LAYER_OPERATIONS))
    return _LAYER_OPERATIONS[_layer_kernel(cells)]


def _layer_shape(operation: str, cells: Cells) -> Shape:
    inputs, out = _shapes(cells, "input_shapes"), _shapes(cells, "output_shape")[0]
    kernel = _layer_kernel(cells)
    if operation == "bmm" and [len(shape) for shape in inputs] != [4, 4]:
        raise InputError(f"input_shapes: expected 2 shapes of 4 sizes, got {echo(cells['input_shapes'])}")
    if kernel == "addmm" and len(inputs) != 3:
        raise InputError(f"input_shapes: expected 3 shapes, got {echo(cells['input_shapes'])}")
    return {"kernel": kernel, "first": cells["node"] == "matmul", "inputs": inputs, "out": out}


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


def _by_operands(hw: Hardware, dtype: str, operation: str, shapes: Sequence[Shape]) -> np.ndarray:
    return np.array([_layer_seconds(hw, dtype, operation, **shape) for shape in shapes])


def _layer_seconds(
    hw: Hardware, dtype: str, operation: str, kernel: str, first: bool, inputs: list[list[int]], out: list[int]
) -> float:
    """One kernel of a traced layer, by the shapes of its operands.

    `torch.matmul` copies permuted operands before the product: in the `first` one query and key, then the value.
    """

    def seconds(kind: str, **sizes: int) -> float:
        return float(kernel_latency(kind, hw, dtype, **sizes).device_s)

    size, elements = ELEMENT_BYTES[dtype], math.prod(out)
    if operation == "linear":
        x = inputs[1] if kernel == "addmm" else inputs[0]
        return seconds("gemm", m=math.prod(x[:-1]), n=out[-1], k=x[-1])
    if operation == "bmm":
        left, right = inputs
        product_s = seconds("bmm", batch=left[0] * left[1], m=left[2], k=left[3], n=right[3])
        return product_s + sum(seconds("copy", elements=math.prod(x)) for x in (inputs if first else [right]))
    if operation in ("softmax", "layer norm"):
        return seconds(operation.replace(" ", "_"), rows=elements // out[-1], columns=out[-1])
    if operation == "copy":
        return seconds("copy", elements=elements)
    kind = {"truediv": "scalar_op", "where": "where"}.get(kernel, "gather" if operation == "gather" else "elementwise")
    read = sum(math.prod(shape) for shape in inputs) * size
    if kind == "where":
        read = elements * size + math.prod(inputs[0])
    if kind == "gather":
        read = elements * size
    terms = memory_terms(hw, kind, float(read), float(elements * size), size, float(out[-1]), hw.launch.stream_floor_s)
    return float(terms.device_s)


_CALL = ("gpu", "operation")


FORMATS = (
    Format(
        "products", ("gpu", "dtype", "m", "n", "k", "latency_us"),
        lambda cells: "gemm", _sizes("m", "n", "k"), _by_sizes,
    ),
    Format(
        "single products", ("gpu", "dtype", "op", "batch", "m", "n", "k", "latency_us"),
        _one_of("op", "linear", "bmm", "linear_tn", "linear_nt", "linear_tt"),
        _sizes("batch", "m", "n", "k"), _by_sizes, _CALL,
    ),
    Format(
        "attention",
        ("gpu", "dtype", "phase", "batch", "heads", "head_dim", "new_tokens", "cached_tokens", "latency_us"),
        lambda cells: f"attention {_one_of('phase', 'prefill', 'decode')(cells)}",
        _sizes("batch", "heads", "head_dim", "new_tokens", "cached_tokens"), _by_sizes, _CALL,
    ),
    Format(
        "synchronised ops", ("op", "m", "n", "k", "latency_us", "gpu", "dtype"),
        lambda cells: _one_of("op", "matmul", "softmax", "layernorm", "gelu")(cells).replace("layernorm", "layer_norm"),
        _op_shape, _by_sizes, _CALL,
    ),
    Format(
        "a traced layer",
        ("gpu", "model", "batch", "seq", "dtype", "kernel", "node", "scope", "input_shapes", "output_shape",
         "latency_us"),
        _layer_operation, _layer_shape, _by_operands, ("gpu",),
    ),
)  # fmt: skip
