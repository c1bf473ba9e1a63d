"""Predicted beside measured: the evidence of the hardware files, and kernel measurements in CSV files.

Measured times contain what a prediction of a kernel does not: the dispatch of an isolated call, the floor of an event
pair, a cache write, a synchronisation. Where a file's timing does, one additive constant a device (and operation) is
fitted before scoring, as the median of measured minus predicted, and reported.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo
from gpt2cost.prediction.one_kernel import kernel_latency
from gpt2cost.timing.gpu_memory import memory_terms

# ---------------------------------------------------------------------------------------------- kernel measurements


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


Rows: TypeAlias = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class _File:
    """How the rows of a measurement file are grouped, predicted, and whether an additive constant is fitted.

    `constant_over`: the columns over which one constant holds.
    """

    columns: frozenset[str]
    operation: Callable[[Mapping[str, str]], str]
    predict: Callable[[Hardware, str, str, Rows], np.ndarray]
    constant_over: tuple[str, ...] | None = None


def score_measurements(folder: Path) -> list[KernelResult]:
    """Score every CSV file in `folder` whose columns are those of a known kind of measurement.

    Raises `InputError` if the folder cannot be read, has no such file, or a row has a bad number.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with CSV files of measurements")
    results: list[KernelResult] = []
    for path in sorted(folder.glob("*.csv")):
        rows, kind = _read(path)
        if kind is not None:
            results += _score_file(path.name, rows, kind)
    if not results:
        raise InputError(f"{folder}: no CSV file with the columns of a kernel measurement in it")
    return results


def _read(path: Path) -> tuple[list[dict[str, str]], _File | None]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = frozenset(reader.fieldnames or ())
            kind = next((kind for kind in _FILES if kind.columns == columns), None)
            return (list(reader) if kind else []), kind
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read: {error}") from None


def _score_file(name: str, rows: list[dict[str, str]], kind: _File) -> Iterator[KernelResult]:
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["gpu"], row["dtype"], kind.operation(row)), []).append(row)
    scored = []
    for (gpu, dtype, operation), members in groups.items():
        try:
            hardware = load_hardware(gpu)
            measured = np.array([float(row["latency_us"]) for row in members]) * 1e-6
            predicted = kind.predict(hardware, dtype, operation, members)
        except (ValueError, KeyError) as error:
            raise InputError(f"{name}: {gpu} {operation}: {error}") from None
        scored.append((gpu, dtype, operation, measured, predicted))
    constants: dict[tuple[str, ...], float] = {}
    if kind.constant_over is not None:
        for key in {_constant_key(kind, gpu, operation) for gpu, _, operation, _, _ in scored}:
            parts = [(m, p) for g, _, o, m, p in scored if _constant_key(kind, g, o) == key]
            constants[key] = additive_constant(*(np.concatenate(side) for side in zip(*parts, strict=True)))
    for gpu, dtype, operation, measured, predicted in scored:
        constant = constants.get(_constant_key(kind, gpu, operation), 0.0)
        errors = (predicted + constant) / measured - 1.0
        yield KernelResult(name, load_hardware(gpu).name, dtype, operation, len(measured), constant, errors)


def _constant_key(kind: _File, gpu: str, operation: str) -> tuple[str, ...]:
    values = {"gpu": gpu, "operation": operation}
    return tuple(values[name] for name in kind.constant_over or ())


def additive_constant(measured: np.ndarray, predicted: np.ndarray) -> float:
    """The constant of 0 or more that brings predicted nearest to measured in the mean absolute relative error."""
    gaps = np.unique(np.maximum(measured - predicted, 0.0))
    candidates = np.append(gaps[:: max(1, len(gaps) // 400)], 0.0)
    errors = [float(np.mean(np.abs((predicted + constant) / measured - 1.0))) for constant in candidates]
    return float(candidates[int(np.argmin(errors))])


def _numbers(rows: Rows, *names: str) -> list[np.ndarray]:
    return [np.array([int(row[name] or 1) for row in rows]) for name in names]


def _gemm_bf16(hw: Hardware, dtype: str, operation: str, rows: Rows) -> np.ndarray:
    m, n, k = _numbers(rows, "m", "n", "k")
    return np.asarray(kernel_latency("gemm", hw, dtype, m=m, n=n, k=k).device_s)


def _gemm_fp32(hw: Hardware, dtype: str, operation: str, rows: Rows) -> np.ndarray:
    batch, m, n, k = _numbers(rows, "batch", "m", "n", "k")
    kind = "bmm" if operation == "bmm" else "gemm"
    return np.asarray(kernel_latency(kind, hw, dtype, batch=batch, m=m, n=n, k=k).device_s)


def _flash(hw: Hardware, dtype: str, operation: str, rows: Rows) -> np.ndarray:
    names = ("batch", "heads", "head_dim", "new_tokens", "cached_tokens")
    shape = dict(zip(names, _numbers(rows, *names), strict=True))
    return np.asarray(kernel_latency("attention", hw, dtype, **shape).device_s)


def _synced(hw: Hardware, dtype: str, operation: str, rows: Rows) -> np.ndarray:
    if operation == "matmul":
        m, n, k = _numbers(rows, "m", "n", "k")
        return np.asarray(kernel_latency("gemm", hw, dtype, m=m, n=n, k=k).device_s)
    m, n = _numbers(rows, "m", "n")
    if operation == "gelu":
        return np.asarray(kernel_latency("elementwise", hw, dtype, elements=m * n).device_s)
    return np.asarray(kernel_latency(operation, hw, dtype, rows=m, columns=n).device_s)


_LAYER_KERNELS = {
    "addmm": "linear", "lm_head": "linear", "matmul": "bmm", "truediv": "element-wise", "where": "element-wise",
    "softmax": "softmax", "ln_1": "layer norm", "ln_2": "layer norm", "ln_f": "layer norm", "wte": "gather",
    "wpe": "gather", "contiguous": "copy",
}  # fmt: skip


def _layer_operation(row: Mapping[str, str]) -> str:
    return _LAYER_KERNELS.get(row["kernel"].rpartition(".")[2], "element-wise")


def _layer(hw: Hardware, dtype: str, operation: str, rows: Rows) -> np.ndarray:
    return np.array([_layer_kernel(hw, dtype, operation, row) for row in rows])


def _layer_kernel(hw: Hardware, dtype: str, operation: str, row: Mapping[str, str]) -> float:
    """One kernel of a traced layer, by the shapes of its operands.

    `torch.matmul` copies permuted operands before the product: query and key for the scores, the value for the context.
    """
    inputs, out = _shapes(row["input_shapes"]), _shapes(row["output_shape"])[0]
    size = ELEMENT_BYTES[dtype]
    elements = math.prod(out)
    if operation == "linear":
        x, n = (inputs[1], out[-1]) if row["kernel"] == "addmm" else (inputs[0], out[-1])
        latency = kernel_latency("gemm", hw, dtype, m=math.prod(x[:-1]), n=n, k=x[-1])
        return float(latency.device_s)
    if operation == "bmm":
        left, right = inputs
        sizes = {"batch": left[0] * left[1], "m": left[2], "k": left[3], "n": right[3]}
        product = float(kernel_latency("bmm", hw, dtype, **sizes).device_s)
        copied = [math.prod(left), math.prod(right)] if row["node"] == "matmul" else [math.prod(right)]
        return product + sum(float(kernel_latency("copy", hw, dtype, elements=n).device_s) for n in copied)
    if operation in ("softmax", "layer norm"):
        kind = operation.replace(" ", "_")
        return float(kernel_latency(kind, hw, dtype, rows=elements // out[-1], columns=out[-1]).device_s)
    if operation == "copy":
        return float(kernel_latency("copy", hw, dtype, elements=elements).device_s)
    kind = {"truediv": "scalar_op", "where": "where"}.get(
        row["kernel"], "gather" if operation == "gather" else "elementwise"
    )
    read = sum(math.prod(shape) for shape in inputs) * size
    if kind == "where":
        read = elements * size + math.prod(inputs[0])
    if kind == "gather":
        read = elements * size
    terms = memory_terms(hw, kind, float(read), float(elements * size), size, float(out[-1]), hw.launch.stream_floor_s)
    return float(terms.device_s)


def _shapes(text: str) -> list[list[int]]:
    try:
        shapes = json.loads(text)
    except ValueError:
        raise InputError(f"expected a list of shapes, got {echo(text)}") from None
    return shapes if shapes and isinstance(shapes[0], list) else [shapes]


_FILES = (
    _File(frozenset({"gpu", "dtype", "m", "n", "k", "latency_us"}), lambda row: "gemm", _gemm_bf16),
    _File(
        frozenset({"gpu", "dtype", "op", "batch", "m", "n", "k", "latency_us"}),
        lambda row: row["op"],
        _gemm_fp32,
        ("gpu", "operation"),
    ),
    _File(
        frozenset({"gpu", "dtype", "phase", "batch", "heads", "head_dim", "new_tokens", "cached_tokens", "latency_us"}),
        lambda row: f"attention {row['phase']}",
        _flash,
        ("gpu", "operation"),
    ),
    _File(
        frozenset({"op", "m", "n", "k", "latency_us", "gpu", "dtype"}),
        lambda row: row["op"].replace("layernorm", "layer_norm"),
        _synced,
        ("gpu", "operation"),
    ),
    _File(
        frozenset(
            {
                "gpu",
                "model",
                "batch",
                "seq",
                "dtype",
                "kernel",
                "node",
                "scope",
                "input_shapes",
                "output_shape",
                "latency_us",
            }
        ),
        _layer_operation,
        _layer,
        ("gpu",),
    ),
)
