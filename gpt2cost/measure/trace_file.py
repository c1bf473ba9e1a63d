"""A Chrome trace as torch.profiler exports it, read once: its slices under today's names, and what stands beside them.

Torch before 1.12 or so wrote other categories (`Operator`, `Runtime`, `Kernel`) and `Input dims`. A trace of
`gpt2cost trace` has the same layout, and says in `gpt2cost` that it is predicted, of what and how.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw, Struct

from gpt2cost.errors import InputError, echo, plain
from gpt2cost.measure.records import bytes_of, is_microseconds

Track: TypeAlias = tuple[str, str]
"""A process and a thread of it."""

OLD_CATEGORIES = {
    "Operator": "cpu_op", "Runtime": "cuda_runtime", "Kernel": "kernel", "Memcpy": "gpu_memcpy", "Memset": "gpu_memset",
}  # fmt: skip
"""What torch before 1.12 or so called a category -> its name since."""
ON_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
"""The categories of what runs on a device."""
_USED = frozenset({"cpu_op", "user_annotation", *ON_DEVICE, *OLD_CATEGORIES})

MOST_EVENTS = 2_000_000
"""The most events of a trace that are read; one of 256 MB has about a million."""
MOST_SLICES = 500_000
"""The most slices among them that are ops, launches or kernels: fifty decode steps of gpt2-xl have as many."""
MOST_EVENT_BYTES = 1_000_000
"""The most that one event may hold, and all that stands beside the events; real ones hold some hundred bytes."""


class Event(Struct, gc=False):
    """A slice. `ts` and `dur` are in microseconds; `args` is what is said of it beside its time, as it stands."""

    cat: str
    name: str
    ts: float
    dur: float
    pid: Any = None
    tid: Any = None
    args: Raw = Raw(b"{}")

    @property
    def end(self) -> float:
        """When it ends, in microseconds."""
        return self.ts + self.dur

    @property
    def track(self) -> Track:
        """Its process and its thread."""
        return str(self.pid)[:40], str(self.tid)[:40]


@dataclass(frozen=True)
class TraceFile:
    """The slices of a trace that are ops, launches, kernels or marks, and the document without its events.

    `is_old`: its categories are those of torch before 1.12 or so.
    """

    head: Mapping[str, Any]
    slices: Sequence[Event]
    is_old: bool

    @property
    def prediction(self) -> Mapping[str, Any] | None:
        """What `gpt2cost trace` says of a run that it predicted; None of a recorded one."""
        own = self.head.get("gpt2cost")
        return own if isinstance(own, dict) and own.get("predicted") is True else None


# ------------------------------------------------------------------------------------------------ the document


class _Document(Struct):
    traceEvents: Raw  # noqa: N815


class _Phased(Struct, gc=False):
    """An event of which nothing is kept."""

    ph: str


class _Kind(Struct, gc=False):
    ph: str
    cat: str | None = None


_document = msgspec.json.Decoder(_Document).decode
_head = msgspec.json.Decoder(dict[str, Raw]).decode
_phased = msgspec.json.Decoder(list[_Phased]).decode
_events = msgspec.json.Decoder(list[Raw]).decode
_kind = msgspec.json.Decoder(_Kind).decode
_slice = msgspec.json.Decoder(Event).decode


def read_trace_file(path: Path) -> TraceFile:
    """The trace at `path`. Raises `InputError` for a file that is none, or has too much in it."""
    where = plain(str(path))
    raw = bytes_of(path).removeprefix(codecs.BOM_UTF8)
    try:
        _check_count(raw.count(b'"ph"'), where)  # before anything is made of them
        head, events = _parted(raw, where)
        slices = _slices(events, where)
    except msgspec.ValidationError as error:
        what = "traceEvents of objects with a 'ph', as torch.profiler's export_chrome_trace writes them"
        raise InputError(f"{where}: expected {what}: {_reason(error)}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        what = f"JSON as torch.profiler's export_chrome_trace writes it: {_reason(error)}"
        raise InputError(f"{where}: expected {what}") from None
    is_old = any(event.cat in OLD_CATEGORIES for event in slices)
    for event in slices if is_old else ():
        event.cat = OLD_CATEGORIES.get(event.cat, event.cat)
    return TraceFile(head, slices, is_old)


def _reason(error: Exception) -> str:
    """A decoder's message on one line."""
    return "nested too deep" if isinstance(error, RecursionError) else plain(str(error).replace("`", ""))


def _parted(raw: bytes, where: str) -> tuple[dict[str, Any], Raw | bytes]:
    """What stands beside the events, and their list as it stands; a list alone is a trace too."""
    if raw.lstrip()[:1] == b"[":
        return {}, raw
    events = _document(raw).traceEvents
    if len(raw) - memoryview(events).nbytes > MOST_EVENT_BYTES:
        raise InputError(f"{where}: more than {MOST_EVENT_BYTES // 10**6} MB beside traceEvents; it is no such trace")
    members = _head(raw)
    return {name: json.loads(bytes(member)) for name, member in members.items() if name != "traceEvents"}, events


def _check_count(count: int, where: str) -> None:
    if count > MOST_EVENTS:
        raise InputError(f"{where}: traceEvents: more than {MOST_EVENTS:,} events; record fewer passes")


def _slices(events: Raw | bytes, where: str) -> list[Event]:
    """The events that are used. Nine of ten may be calls of Python and arrows, of which only their kind is read."""
    _check_count(len(_phased(events)), where)
    names: dict[str, str] = {}
    slices: list[Event] = []
    for place, event in enumerate(_events(events)):
        kind = _kind(event)
        if kind.ph != "X" or not _is_used(kind.cat):
            continue
        what = f"{where}: traceEvents[{place}]"
        if memoryview(event).nbytes > MOST_EVENT_BYTES:
            raise InputError(f"{what}: more than {MOST_EVENT_BYTES // 10**6} MB in one event; no op or kernel has it")
        expected = "expected a name, and ts and dur in us, of every slice (ph X)"
        try:
            found = _slice(event)
        except msgspec.ValidationError as error:
            raise InputError(f"{what}: {expected}: {_reason(error)}") from None
        if not (is_microseconds(found.ts) and is_microseconds(found.dur)):
            raise InputError(f"{what}: {expected}, got {echo(found.ts)} and {echo(found.dur)}")
        found.name, found.cat = (names.setdefault(text, text) for text in (found.name, found.cat))
        slices.append(found)
        if len(slices) > MOST_SLICES:
            raise InputError(f"{where}: more than {MOST_SLICES:,} ops, launches and kernels; record fewer passes")
    return slices


@lru_cache(1000)
def _is_used(category: str | None) -> bool:
    return category is not None and (category in _USED or category.endswith(("_runtime", "_driver")))


# ------------------------------------------------------------------------------------------------ what a slice says


class Args(Struct, gc=False, rename={
    "dims": "Input Dims", "old_dims": "Input dims", "types": "Input type", "old_types": "Input Types",
}):  # fmt: skip
    """What is read of what is said of a slice beside its time; the last four are of `gpt2cost trace`."""

    dims: Any = None
    old_dims: Any = None
    types: Any = None
    old_types: Any = None
    correlation: Any = ""
    device: Any = None
    stream: Any = None
    op: Any = ""
    batch_size: Any = None
    seq_len: Any = None
    cache_len: Any = None

    @property
    def is_empty(self) -> bool:
        """Whether the first input is a tensor without elements."""
        dims = self.old_dims if self.dims is None else self.dims
        return isinstance(dims, list) and dims[:1] == [[0]]

    @property
    def shapes(self) -> list[list[Any]]:
        """The shapes of an op's inputs, if they were recorded; of an input that is a list of tensors, their shapes."""
        dims = self.old_dims if self.dims is None else self.dims
        return [dim if isinstance(dim, list) else [] for dim in dims] if isinstance(dims, list) else []

    @property
    def type_names(self) -> list[str]:
        """The types of an op's inputs in C++, such as `c10::Half`, if they were recorded."""
        types = self.old_types if self.types is None else self.types
        return [name if isinstance(name, str) else "" for name in types] if isinstance(types, list) else []

    @property
    def number(self) -> str:
        """What a kernel and its launch have in common; empty if there is nothing."""
        return str(self.correlation)[:40]


_args = msgspec.json.Decoder(Args).decode


def args_of(event: Event) -> Args:
    """What is said of a slice beside its time; nothing where that is no mapping."""
    try:
        return _args(event.args)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Args()


def shape_of_dims(value: Any) -> tuple[int, ...]:
    """A shape; empty for what is none."""
    whole = isinstance(value, list) and all(isinstance(size, int) and not isinstance(size, bool) for size in value)
    return tuple(value) if whole else ()
