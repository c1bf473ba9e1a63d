"""Measurements of a machine as JSON lines: what `calibrate` and `measure` write and `validate` reads.

One object a line, in files `*.jsonl` or `*.jsonl.gz`. `kind` says what it is: `machine` (versions, clocks, threads),
`host` and `floor` (costs of issuing work), kernels (`gemm`, `bmm`, `sdpa`, `softmax`, `elementwise`, ...), `pass` (a
whole forward pass) and `profile` (the ops of one). Times are in microseconds: `wall_us` is the median of synchronised
single runs, `stream_us` the mean of runs queued back to back, `graph_us` a CUDA-graph replay. A case that could not
run has `error` instead.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from gpt2cost.errors import InputError, plain

Measurement: TypeAlias = Mapping[str, Any]
"""One line."""


def read_records(path: Path) -> list[Measurement]:
    """The measurements of a file, or of all files of a folder in order of their names, without those that failed.

    Raises `InputError` where there are none, or a line is no JSON object with a `kind`. A last line that was cut off
    in writing is left out.
    """
    files = sorted(file for file in path.glob("*.jsonl*") if _is_records(file)) if path.is_dir() else [path]
    found = [record for file in files for record in _lines(file) if "error" not in record]
    if not found:
        raise InputError(f"{plain(str(path))}: expected measurements in *.jsonl or *.jsonl.gz, found none")
    return found


def _is_records(file: Path) -> bool:
    return file.name.endswith((".jsonl", ".jsonl.gz"))


def _lines(file: Path) -> Iterator[Measurement]:
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{plain(str(file))}: cannot read: {getattr(error, 'strerror', None) or error}") from None
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):  # no newline after it: the writer was stopped here
                return
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
            raise InputError(f"{plain(str(file))}: line {number}: expected a JSON object with a 'kind'")
        yield record


def of_kind(records: Iterable[Measurement], *kinds: str) -> list[Measurement]:
    """The measurements of some kinds."""
    return [record for record in records if record["kind"] in kinds]


def machine(records: Iterable[Measurement]) -> Measurement:
    """What is said of the machine; of several statements the last. Empty if there is none."""
    return next((record for record in reversed(list(records)) if record["kind"] == "machine"), {})


def shape_of(record: Measurement) -> dict[str, Any]:
    """What a record says beside its times and which sweep it is of: the case that was measured."""
    apart = ("runs", "sweep", "weight_copies", "repeat")
    return {key: value for key, value in record.items() if not key.endswith("_us") and key not in apart}


def seconds(record: Measurement) -> float:
    """The time of one kernel or pass with the least of the host in it.

    Raises `InputError` for a record without a time above 0.
    """
    for name in ("graph_us", "device_us", "stream_us", "wall_us"):
        value = record.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
            return 1e-6 * float(value)
    raise InputError(f"measurement of kind {plain(record['kind'])}: expected a time such as wall_us above 0")
