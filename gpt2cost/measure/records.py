"""Measurements of a machine as JSON lines: what `calibrate` and `measure` write and `validate` reads.

One object per line, in files `*.jsonl` or `*.jsonl.gz`. `kind` says what it is: `machine` (versions, clocks, threads),
`host` and `floor` (costs of issuing work), kernels (`gemm`, `bmm`, `sdpa`, `softmax`, `elementwise`, ...), `pass` (a
whole forward pass), `profile` (the ops of one) and `train_step` (an optimiser step: see `train_records`). Times are in
microseconds: `wall_us` is the median of synchronised samples, of many runs each where one is short, `stream_us` the
same on a device, `graph_us` a CUDA-graph replay, `issue_us` the host's part. A case that could not run has `error`
instead.
"""

from __future__ import annotations

import gzip
import json
import statistics
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard, TypeVar

from gpt2cost.device.dtypes import Dtype
from gpt2cost.device.gpu_constants import NATURAL, POSITIVE
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.files import is_folder, opened
from gpt2cost.schema import build

Measurement: TypeAlias = Mapping[str, Any]
"""One line."""


class Record(dict[str, Any]):
    """A measurement that was read. `where`: its file and line, as `FILE:LINE`; empty for one that is of no file."""

    where = ""


def placed(record: Measurement, where: str) -> Record:
    """A measurement with the place that it is from."""
    own = Record(record)
    own.where = where
    return own


def named(record: Measurement) -> str:
    """What a message calls a measurement: `FILE:LINE: measurement of kind gemm`."""
    where = getattr(record, "where", "")
    return f"{where}{where and ': '}measurement of kind {plain(str(record['kind']))}"


T = TypeVar("T")
Key = TypeVar("Key")

MOST_BYTES = 256_000_000
"""The most that is read of a file of measurements or of a trace, decompressed: a small gzip file may hold gigabytes."""
GZIP = b"\x1f\x8b"
"""How a gzip file begins."""


def read_records(path: Path) -> list[Measurement]:
    """The measurements of a file, or of all files of a folder in order of their names, without those that failed.

    Raises `InputError` where there are none, or a line is no JSON object with a `kind`. A last line that was cut off
    in writing is left out.
    """
    files = sorted({*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")}) if is_folder(path) else [path]
    records = [record for file in files for record in _lines(file) if "error" not in record]
    if not records:
        raise InputError(f"{plain(str(path))}: expected measurements in *.jsonl or *.jsonl.gz, found none")
    return records


def text_of(path: Path, errors: str = "strict") -> str:
    """The text of what `bytes_of` reads. Raises `InputError` as it does, and for what is no UTF-8, unless `errors` says
    what becomes of it.
    """
    try:
        return bytes_of(path).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise InputError(f"{plain(str(path))}: cannot read: {error}") from None


def bytes_of(path: Path) -> bytes:
    """What is in a file or comes through a pipe, decompressed if it begins as gzip does.

    Raises `InputError` where it cannot be read, where nothing comes, and for more than `MOST_BYTES`.
    """
    where = plain(str(path))
    try:
        with opened(path) as file:
            packed = file.peek(len(GZIP))[: len(GZIP)] == GZIP
            raw = (gzip.GzipFile(fileobj=file) if packed else file).read(MOST_BYTES + 1)
    except InputError:  # which is a ValueError
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{where}: cannot read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MOST_BYTES:
        raise InputError(f"{where}: cannot read: more than {MOST_BYTES // 10**6} MB; record less in one file")
    return raw


def _lines(file: Path) -> Iterator[Measurement]:
    lines = text_of(file).split("\n")
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
            raise InputError(f"{plain(str(file))}:{number}: expected a JSON object with a 'kind'")
        yield placed(record, f"{plain(str(file))}:{number}")


def of_kind(records: Iterable[Measurement], *kinds: str) -> list[Measurement]:
    """The measurements of some kinds."""
    return [record for record in records if record["kind"] in kinds]


def machine(records: Iterable[Measurement]) -> Measurement:
    """What is said of the machine; of several statements the last. Empty if there is none."""
    return next((record for record in reversed(list(records)) if record["kind"] == "machine"), {})


def shape_of(record: Measurement) -> dict[str, Any]:
    """What a record says beside its times and which sweep it is of: the case that was measured."""
    apart = ("runs", "sweep", "weight_copies", "peak_allocated_bytes")
    return {key: value for key, value in record.items() if not key.endswith("_us") and key not in apart}


def case_of(record: Measurement) -> str:
    """`shape_of` as text: the same for the same case."""
    return json.dumps(shape_of(record), sort_keys=True)


def grouped(items: Iterable[T], key: Callable[[T], Key]) -> dict[Key, list[T]]:
    """The items with the same key, for every key in order of its first."""
    groups: dict[Key, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def keys_of(record: Measurement) -> int:
    """The keys that each query of an `sdpa` record meets. In older records, without `kv_len`, a decode step has
    them all in `cached_tokens`."""
    both = int(record["cached_tokens"]) + (0 if record["mask"] == "none" else int(record["new_tokens"]))
    return int(record.get("kv_len", both))


def repeat_difference(record: Measurement) -> float | None:
    """By how much the even and the odd rounds of a measurement differ, the slower over the faster less one.

    None for a single round, or where no rounds are recorded. Raises `InputError` for rounds that are no times.
    """
    rounds = times_of(record, "rounds_us")
    return halves_difference(rounds) if len(rounds) > 1 else None


def halves_difference(times: Sequence[float]) -> float:
    """By how much the even and the odd ones of at least two times differ, the slower over the faster less one."""
    halves = trimmed_mean(times[::2]), trimmed_mean(times[1::2])
    return max(halves) / min(halves) - 1.0


def reference_seconds(records: Iterable[Measurement]) -> list[float]:
    """What the reference product took: in records of its own, or beside passes."""
    times_s: list[float] = []
    for record in records:
        if record["kind"] == "reference":
            times_s.append(seconds(record))
        times_s += [1e-6 * time_us for time_us in times_of(record, "reference_us")]
    return times_s


def times_of(record: Measurement, name: str) -> list[float]:
    """A list of times in a record; empty where it has none. Raises `InputError` for what is no such list."""
    times = record.get(name, [])
    if not isinstance(times, list) or not all(map(is_time, times)):
        raise InputError(f"{named(record)}: {name}: expected a list of times above 0")
    return times


def trimmed_mean(times: Sequence[float]) -> float:
    """The mean without the fastest and the slowest fifth.

    Outliers hardly move it. Where a machine has two speeds it is steadier than a median, and like the kernels' times,
    but unlike their medians, it adds up to that of a pass.
    """
    cut = len(times) // 5
    return statistics.fmean(sorted(times)[cut : len(times) - cut])


def of_all_sweeps(records: Iterable[Measurement]) -> list[Measurement]:
    """One record per case, with the trimmed means of its times over the sweeps."""
    return [
        placed({**same[0], **_times(same)}, getattr(same[0], "where", ""))
        for same in grouped(records, case_of).values()
    ]


def _times(records: list[Measurement]) -> dict[str, float]:
    names = dict.fromkeys(name for record in records for name in record if name.endswith("_us"))
    times_us = {name: [r[name] for r in records if is_time(r.get(name))] for name in names}
    return {name: trimmed_mean(times) for name, times in times_us.items() if times}


def _record(sizes: str = "", optional: str = "", /, **others: Any) -> type:
    """A dataclass of `sizes`, which are whole numbers above 0 (cached tokens from 0), and of fields of other types.

    The sizes in `optional` may be absent; so may the others of a record that has only such sizes.
    """
    rules = {name: NATURAL if name == "cached_tokens" else POSITIVE for name in sizes.split()}
    needed = [(name, int, field(metadata=rule)) for name, rule in rules.items()]
    absent: Any = MISSING if sizes or not optional else None
    others_of = [(name, kind, field(default=absent, metadata=POSITIVE)) for name, kind in others.items()]
    rest = [(name, int, field(default=None, metadata=POSITIVE)) for name in optional.split()]
    return make_dataclass("_Record", [*needed, *others_of, *rest])


_TEXTS = (
    "device", "gpu", "cpu", "cpu_model", "cpu_capability", "date", "torch", "transformers", "python", "nvidia_smi",
)  # fmt: skip
_MACHINE = _record(
    "", "threads cpus sms memory_bytes l2_bytes", mhz=float, compute_capability=float,
    **dict.fromkeys(_TEXTS, str),
)  # fmt: skip
"""What a record of a machine may say; what is absent, null or empty is unknown."""


def _check_machines(machines: Iterable[Measurement]) -> None:
    first: dict[str, object] = {}
    for record in machines:
        said = {name: value for name, value in record.items() if value is not None and value != ""}
        build(_MACHINE, said, named(record), unknown_keys="ignore")
        for name in ("device", "gpu", "cpu_model", "threads"):
            if name in said and first.setdefault(name, said[name]) != said[name]:
                two = f"{name} is {echo(first[name])} and {echo(said[name])}"
                raise InputError(f"{named(record)}: measurements of more than one machine: {two}; give those of one")


_KERNELS = {
    "gemm": _record("m n k", "batch", op=Literal["addmm", "linear"], dtype=Dtype),
    "bmm": _record("batch m n k", op=Literal["scores", "context"], dtype=Dtype),
    "sdpa": _record(
        "batch heads head_dim new_tokens cached_tokens",
        "kv_len",
        mask=Literal["causal", "explicit", "none"],
        dtype=Dtype,
    ),
    "cat": _record("batch heads head_dim new_tokens cached_tokens", dtype=Dtype),
    "elementwise": _record("rows columns", op=str, dtype=Dtype),
    "copy": _record("elements", dtype=Dtype),
    "fresh": _record("bytes tensors", dtype=Dtype),
    **dict.fromkeys(
        ("softmax", "layer_norm", "permuted_copy", "gather", "where"), _record("rows columns", dtype=Dtype)
    ),
    **dict.fromkeys(("layers", "cached_layers"), _record("n_layer cache batch", attn=Literal["sdpa", "eager"])),
    "host": _record(op=str),
    "reference": _record(),
}
"""Kind of a record -> what it has to say, beside its times and whatever else it says."""


def check_records(records: Sequence[Measurement]) -> None:
    """Raise `InputError` for a record of a kernel that lacks a size, a dtype, a name or a time, with what it lacks; for
    what a record of a machine says wrongly, and for records of more than one machine."""
    _check_machines(of_kind(records, "machine"))
    for record in records:
        if record["kind"] in _KERNELS:
            build(_KERNELS[record["kind"]], dict(record), named(record), "ignore")
            if record["kind"] != "host" or "issue_us" not in record:
                seconds(record)


LEAST_US, MOST_US = 1e-6, 1e18


def is_time(value: object) -> TypeGuard[int | float]:
    """Whether a value of a record is a time in microseconds: within what a measurement can reach."""
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST_US <= value < MOST_US


def is_microseconds(value: Any) -> bool:
    """Whether a value is a time that a trace can have, or the profile of a pass: 0 for what is too short."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST_US


def seconds(record: Measurement) -> float:
    """The time of one kernel, pass or op of the host: of several the one that holds least of the host's part.

    Raises `InputError` for a record without a time above 0.
    """
    for name in ("graph_us", "device_us", "stream_us", "wall_us", "issue_us"):
        value = record.get(name)
        if is_time(value):
            return 1e-6 * value
    raise InputError(f"{named(record)}: expected a time such as wall_us above 0")
