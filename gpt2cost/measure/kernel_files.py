"""Kernel measurements in CSV files, predicted beside measured: as they are.

Measured times may contain what a prediction of a kernel does not: the dispatch of an isolated call, the floor of an
event pair, a synchronisation. Whoever asks for it gets one additive constant for each device and operation, fitted to
the very rows that are scored: the one of 0 or more with the least mean absolute error. It is reported.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from textwrap import shorten
from typing import TypeAlias

import numpy as np

from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.errors import InputError, InputWarning, echo, plain
from gpt2cost.files import is_folder
from gpt2cost.measure.kernel_formats import (
    FORMATS,
    PYTORCH,
    Cells,
    Format,
    Kernel,
    SkippedError,
    backend_in,
    choice,
)
from gpt2cost.measure.records import grouped, is_time, text_of
from gpt2cost.measure.training_rows import is_of_steps
from gpt2cost.measure.training_score import score_training


@dataclass(frozen=True)
class KernelResult:
    """Measured kernels of one file, device and operation.

    `constant_s`: what was fitted to them and added to each prediction; None where nothing was.
    """

    file: str
    gpu: str
    dtype: str
    operation: str
    count: int
    constant_s: float | None
    errors: np.ndarray  # predicted over measured, less one

    @property
    def mean_absolute_error(self) -> float:
        return float(np.mean(np.abs(self.errors)))


Series: TypeAlias = tuple[str, str, str]
"""Device as the file names it, dtype and operation."""


@dataclass(frozen=True)
class Row:
    """A measured kernel, and the file, line and format that it is from."""

    where: str
    series: Series
    kernel: Kernel
    measured_s: float


def score_measurements(path: Path, fit_constant: bool = False) -> list[KernelResult]:
    """Score a CSV file, or every one in a folder that is of one of `FORMATS`, and published training steps.

    Raises `InputError` if `path` cannot be read or has no such file, and for a wrong row, with file and line. Warns
    (`InputWarning`) of files that are of no format, of columns that are not read, and of rows that are skipped.
    """
    where = plain(str(path))
    if not is_folder(path):
        results = list(_score_file(path, fit_constant))
        if not results:
            raise InputError(f"{where}: expected a CSV file with measurements of kernels, or a folder of them")
        return results
    files = sorted(file for file in path.glob("*.csv") if file.is_file())
    results = [result for file in files for result in _score_file(file, fit_constant)]
    results += _score_steps(path)
    if not results:
        raise InputError(f"{where}: no kernel measurement in any CSV file of it")
    return results


def _score_steps(folder: Path) -> Iterator[KernelResult]:
    """The published training steps of the folder, by file, device, precision and what was timed."""
    scores, skipped = score_training(folder)
    series = grouped(scores, lambda one: (one.row.file, one.row.gpu, one.row.precision, one.operation))
    for named, members in series.items():
        yield KernelResult(*named, len(members), None, np.array([one.error for one in members]))
    for why, count in skipped.items():
        warnings.warn(f"training steps: skipped {_rows(count)}: {why}", InputWarning, stacklevel=3)


def _rows(count: int) -> str:
    return f"{count} {'row' if count == 1 else 'rows'}"


def _score_file(path: Path, fit_constant: bool) -> Iterator[KernelResult]:
    """The results of a file; none of a file of something else."""
    skipped: Counter[str] = Counter()
    for series, rows, predicted in _predicted_file(path, skipped):
        measured = np.array([row.measured_s for row in rows])
        constant_s = additive_constant(measured, predicted) if fit_constant else None
        errors = (predicted + (constant_s or 0.0)) / measured - 1.0
        gpu, dtype, operation = series
        yield KernelResult(path.name, load_hardware(gpu).name, dtype, operation, len(errors), constant_s, errors)
    for why, count in skipped.items():
        _warn(path, f"skipped {_rows(count)}: {why}")


def _warn(path: Path, text: str) -> None:
    warnings.warn(f"{plain(path.name)}: {text}", InputWarning, stacklevel=3)


def _predicted_file(path: Path, skipped: Counter[str]) -> Iterator[tuple[Series, list[Row], np.ndarray]]:
    """The series of a file with their predictions, in seconds. Counts in `skipped` why rows were left out."""
    try:
        reader = csv.reader(io.StringIO(text_of(path, "replace"), newline=""))
        columns = next(reader, [])
        format = _format_of(path, columns)
        if format is None:
            return
        read = (_row(path, reader.line_num, format, columns, cells, skipped) for cells in reader if cells)
        rows = [row for row in read if row]
    except csv.Error as error:
        raise InputError(f"{plain(str(path))}: cannot read: {error}") from None
    for series, members in grouped(rows, lambda row: row.series).items():
        gpu, dtype, _ = series
        try:
            hw = load_hardware(gpu)
        except InputError as error:
            skipped[str(error)] += len(members)
            continue
        try:
            yield series, members, format.predict(hw, dtype, [row.kernel for row in members])
        except SkippedError as reason:
            skipped[f"{plain(gpu)}: {reason}"] += len(members)
        except InputError as error:
            raise InputError(f"{members[0].where}: {error}") from None


def _format_of(path: Path, columns: Sequence[str]) -> Format | None:
    """The format that a file's columns fit: of several, the one that reads most of them.

    Raises `InputError` for a file of a format that has a column twice.
    """

    def reads(format: Format) -> int:
        return len({*columns} & (format.columns | format.optional))

    fitting = [format for format in FORMATS if format.columns <= {*columns}]
    nearest = max(fitting or FORMATS, key=reads)
    too_many = [name for name in columns if name not in nearest.columns | nearest.optional]
    missing = [name for name in sorted(nearest.columns) if name not in columns]
    if missing and is_of_steps(columns):
        return None
    if missing:
        lists = starmap(_listed, (("missing", missing), ("too many", too_many)))
        _warn(path, f"passed over: its columns are of no format; of the nearest, {nearest.name}: {'; '.join(lists)}")
        return None
    if twice := [name for name in dict.fromkeys(columns) if columns.count(name) > 1 and name not in too_many]:
        raise InputError(f"{plain(str(path))}:1: column {plain(twice[0])} stands there twice; expected each once")
    if too_many:
        _warn(path, _listed("columns that are not read", too_many))
    return nearest


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}: {shorten(', '.join(map(plain, names)), 120, placeholder=' ...') or 'none'}"


def _row(
    path: Path, line: int, format: Format, columns: Sequence[str], texts: Sequence[str], skipped: Counter[str]
) -> Row | None:
    """A row of a file; None for one that cannot be predicted."""
    where = f"{plain(str(path))}:{line}"
    try:
        if len(texts) != len(columns):
            raise InputError(f"expected {len(columns)} cells, got {len(texts)}")
        cells = {**backend_in(path.name), **dict(zip(columns, texts, strict=True))}
        time_s, dtype = _seconds(cells), choice(cells, "dtype", ELEMENT_BYTES)
        _check_framework(cells)
        operation, kernel = format.read(cells)
        return Row(where, (cells["gpu"], dtype, operation), kernel, time_s)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except SkippedError as reason:
        skipped[str(reason)] += 1
        return None


def _check_framework(cells: Cells) -> None:
    framework = cells.get("framework", "").strip()
    if framework.lower() not in PYTORCH:
        raise SkippedError(f"framework {plain(framework)}: its kernels are not PyTorch's")


def _seconds(cells: Cells) -> float:
    try:
        text = cells["latency_us"]
        time_us = math.nan if "_" in text else float(text)  # Python reads 1_0 as 10
    except ValueError:
        time_us = math.nan
    if not is_time(time_us):
        raise InputError(f"latency_us: expected a time above 0, got {echo(cells['latency_us'])}")
    return time_us * 1e-6


def additive_constant(measured: np.ndarray, predicted: np.ndarray) -> float:
    """The constant of 0 or more that brings predicted nearest to measured in the mean absolute relative error."""
    gaps = np.unique(np.maximum(measured - predicted, 0.0))
    candidates = np.append(gaps[:: max(1, len(gaps) // 400)], 0.0)
    errors = [float(np.mean(np.abs((predicted + constant) / measured - 1.0))) for constant in candidates]
    return float(candidates[int(np.argmin(errors))])
