"""Measurements of a machine as JSON lines: what `calibrate` and `measure` write and `validate` reads.

One object a line, in files `*.jsonl` or `*.jsonl.gz`. `kind` says what it is: `machine` (versions, clocks, threads),
`host` and `floor` (costs of issuing work), kernels (`gemm`, `bmm`, `sdpa`, `softmax`, `elementwise`, ...), `pass` (a
whole forward pass) and `profile` (the ops of one). Times are in microseconds: `wall_us` is that of synchronised
single runs, `stream_us` the mean of runs queued back to back, `graph_us` a CUDA-graph replay. A case that could not
run has `error` instead.
"""

from __future__ import annotations

import gzip
import json
import statistics
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from gpt2cost.errors import InputError, echo, plain

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
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{plain(str(file))}: cannot read: {getattr(error, 'strerror', None) or error}") from None
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
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
    apart = ("runs", "sweep", "weight_copies")
    return {key: value for key, value in record.items() if not key.endswith("_us") and key not in apart}


def keys_of(record: Measurement) -> int:
    """The keys that each query of an `sdpa` record meets. Without `kv_len`, a campaign's decode step has them all in
    `cached_tokens`."""
    both = int(record["cached_tokens"]) + (0 if record["mask"] == "none" else int(record["new_tokens"]))
    return int(record.get("kv_len", both))


def repeat_difference(record: Measurement) -> float | None:
    """By how much the even and the odd rounds of a measurement differ, the slower over the faster less one.

    None for a single round, or where no rounds are recorded. Raises `InputError` for rounds that are no times.
    """
    rounds = _times_of(record, "rounds_us")
    return halves_difference(rounds) if len(rounds) > 1 else None


def halves_difference(times: Sequence[float]) -> float:
    """By how much the even and the odd ones of at least two times differ, the slower over the faster less one."""
    halves = trimmed_mean(times[::2]), trimmed_mean(times[1::2])
    return max(halves) / min(halves) - 1.0


def reference_seconds(records: Iterable[Measurement]) -> list[float]:
    """What the reference product took: in records of its own, or beside passes."""
    found: list[float] = []
    for record in records:
        if record["kind"] == "reference":
            found.append(seconds(record))
        found += [1e-6 * one for one in _times_of(record, "reference_us")]
    return found


def _times_of(record: Measurement, name: str) -> list[float]:
    """A list of times in a record; empty where it has none. Raises `InputError` for what is no such list."""
    times = record.get(name, [])
    if not isinstance(times, list) or not all(is_time(one) for one in times):
        raise InputError(f"measurement of kind {plain(record['kind'])}: {name}: expected a list of times above 0")
    return times


def trimmed_mean(times: Sequence[float]) -> float:
    """The mean without the fastest and the slowest fifth.

    Outliers hardly move it. Where a machine has two speeds it is steadier than a median, and like the kernels' times,
    but unlike their medians, it adds up to that of a pass.
    """
    cut = len(times) // 5
    return statistics.fmean(sorted(times)[cut : len(times) - cut])


def of_all_sweeps(records: Iterable[Measurement]) -> list[Measurement]:
    """One record a case, with the trimmed means of its times over the sweeps."""
    cases: dict[str, list[Measurement]] = {}
    for record in records:
        cases.setdefault(json.dumps(shape_of(record), sort_keys=True), []).append(record)
    return [{**found[0], **_times(found)} for found in cases.values()]


def _times(records: list[Measurement]) -> dict[str, float]:
    names = dict.fromkeys(name for record in records for name in record if name.endswith("_us"))
    found = {name: [r[name] for r in records if is_time(r.get(name))] for name in names}
    return {name: trimmed_mean(times) for name, times in found.items() if times}


_COUNTS = ("threads", "cpus", "sms", "memory_bytes", "l2_bytes")


_NUMBERS = (*_COUNTS, "mhz", "compute_capability")


_NAMES = (
    "device",
    "gpu",
    "cpu",
    "cpu_model",
    "cpu_capability",
    "date",
    "torch",
    "transformers",
    "python",
    "nvidia_smi",
)


def check_machines(machines: Iterable[Measurement]) -> None:
    """Raise `InputError` for what a record of a machine says wrongly, and for records of more than one machine."""
    known: dict[str, object] = {}
    for record in machines:
        for name in (*_NUMBERS, *_NAMES):
            value = record.get(name)
            if value is None or value == "":
                continue
            fits = isinstance(value, str) if name in _NAMES else is_time(value)
            if not fits or (name in _COUNTS and not isinstance(value, int)):
                expected = "a name" if name in _NAMES else f"a {'whole ' if name in _COUNTS else ''}number above 0"
                raise InputError(f"measurement of kind machine: {name}: expected {expected}, got {echo(value)}")
            if name in ("device", "gpu", "cpu_model", "threads") and known.setdefault(name, value) != value:
                raise InputError(
                    f"measurements of more than one machine: {name} is {echo(known[name])} and {echo(value)}"
                )


_TOKENS = ("batch", "heads", "head_dim", "new_tokens")


_SIZES = {
    "gemm": ("m", "n", "k"), "bmm": ("batch", "m", "n", "k"), "sdpa": _TOKENS, "cat": _TOKENS, "copy": ("elements",),
    "fresh": ("bytes", "tensors"), **dict.fromkeys(("layers", "cached_layers"), ("n_layer", "cache", "batch")),
} | dict.fromkeys(
    ("softmax", "layer_norm", "elementwise", "permuted_copy", "gather", "where"), ("rows", "columns")
)  # fmt: skip
"""Kind -> the sizes, above 0, that a record of it has."""


_WORDS = {
    ("gemm", "op"): ("addmm", "linear"), ("bmm", "op"): ("scores", "context"),
    ("sdpa", "mask"): ("causal", "explicit", "none"), ("layers", "attn"): ("sdpa", "eager"),
    ("cached_layers", "attn"): ("sdpa", "eager"),
}  # fmt: skip


_DTYPES = ("fp32", "tf32", "fp16", "bf16")


def check_kernels(records: Iterable[Measurement]) -> None:
    """Raise `InputError` for a record of a kernel that lacks a size, a dtype, a name or a time, with what it lacks."""
    for record in records:
        kind = record["kind"]
        if kind not in _SIZES and kind not in ("host", "reference"):
            continue
        where = f"measurement of kind {kind}"
        least = {"cached_tokens": 0} if kind in ("sdpa", "cat") else {}
        for name, smallest in {**dict.fromkeys(_SIZES.get(kind, ()), 1), **least}.items():
            if type(record.get(name)) is not int or record[name] < smallest:
                raise InputError(
                    f"{where}: {name}: expected a whole number from {smallest}, got {echo(record.get(name))}"
                )
        for (of, name), words in _WORDS.items():
            if of == kind and record.get(name) not in words:
                raise InputError(f"{where}: {name}: expected one of {', '.join(words)}, got {echo(record.get(name))}")
        if kind in _SIZES and not kind.endswith("layers") and record.get("dtype") not in _DTYPES:
            raise InputError(f"{where}: dtype: expected one of {', '.join(_DTYPES)}, got {echo(record.get('dtype'))}")
        if kind in ("host", "elementwise") and not isinstance(record.get("op"), str):
            raise InputError(f"{where}: op: expected a name, got {echo(record.get('op'))}")
        if kind != "host" or "issue_us" not in record:
            seconds(record)


LEAST_US, MOST_US = 1e-6, 1e18


def is_time(value: object) -> TypeGuard[int | float]:
    """Whether a value of a record is a time in microseconds: within what a measurement can reach."""
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST_US <= value < MOST_US


def seconds(record: Measurement) -> float:
    """The time of one kernel, pass or op of the host, with the least of the host in it.

    Raises `InputError` for a record without a time above 0.
    """
    for name in ("graph_us", "device_us", "stream_us", "wall_us", "issue_us"):
        value = record.get(name)
        if is_time(value):
            return 1e-6 * value
    raise InputError(f"measurement of kind {plain(record['kind'])}: expected a time such as wall_us above 0")
