"""A Chrome trace as torch.profiler exports it, read once: its slices under today's names, and what stands beside them.

Torch before 1.12 or so wrote other categories (`Operator`, `Runtime`, `Kernel`) and `Input dims`. A trace of
`gpt2cost trace` has the same layout, and says in `gpt2cost` that it is predicted, of what and how.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gpt2cost.errors import InputError, plain
from gpt2cost.measure.records import MOST_US, text_of

Event: TypeAlias = Mapping[str, Any]
Track: TypeAlias = tuple[str, str]
"""A process and a thread of it."""

OLD_CATEGORIES = {
    "Operator": "cpu_op", "Runtime": "cuda_runtime", "Kernel": "kernel", "Memcpy": "gpu_memcpy", "Memset": "gpu_memset",
}  # fmt: skip
"""What torch before 1.12 or so called a category -> its name since."""


_USED = frozenset({"cpu_op", "kernel", "gpu_memcpy", "gpu_memset", "user_annotation", *OLD_CATEGORIES})
_EVENTS = re.compile(r'\A\s*\[|"traceEvents"\s*:\s*\[')
"""Where the list of events begins: it is the whole document, or a member of an object."""
_SPACE = re.compile(r"\s*")
_SEPARATOR = re.compile(r"\s*(?:,\s*(?!\])|(?=\]))")
"""What stands behind an event: a comma and another one, or the end of the list."""
MOST_EVENTS = 2_000_000
"""The most events of a trace that are read; one of 256 MB has about a million."""


@dataclass(frozen=True)
class TraceFile:
    """The slices of a trace, each with a category, a start and a duration, and the document without its events.

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


def read_trace_file(path: Path) -> TraceFile:
    """The trace at `path`. Raises `InputError` for a file that is none, or has too much in it."""
    where = plain(str(path))
    head, found = _parsed(text_of(path), where)
    for event in found:
        timed = is_microseconds(event.get("ts")) and is_microseconds(event.get("dur"))
        if not (timed and isinstance(event.get("name"), str)):
            raise InputError(f"{where}: traceEvents: expected a name, and ts and dur in us, of every slice (ph X)")
    slices = [{**e, "cat": OLD_CATEGORIES[e["cat"]]} if e["cat"] in OLD_CATEGORIES else e for e in found]
    return TraceFile(head, slices, any(e["cat"] in OLD_CATEGORIES for e in found))


def _parsed(text: str, where: str) -> tuple[dict[str, Any], list[Event]]:
    """The document without its events, and the events that are used.

    One event after the other is read, because nine of ten may be calls of Python and arrows, which are not kept.
    """
    begins = _EVENTS.search(text)
    slices: list[Event] = []
    count = 0
    decode = json.JSONDecoder().raw_decode
    try:
        if begins is None:
            json.loads(text)
            what = "an object with a list 'traceEvents', as export_chrome_trace writes it"
            raise InputError(f"{where}: expected {what}")
        at = _SPACE.match(text, begins.end()).end()  # type: ignore[union-attr]
        while not text.startswith("]", at):
            event, at = decode(text, at)
            if isinstance(event, dict) and event.get("ph") == "X" and _is_used(event.get("cat")):
                slices.append(event)
            count += 1
            if count > MOST_EVENTS:
                raise InputError(f"{where}: traceEvents: more than {MOST_EVENTS:,} events; record fewer passes")
            separator = _SEPARATOR.match(text, at)
            if separator is None:
                raise ValueError
            at = separator.end()
        rest = json.loads(f"{text[: begins.end()]}{text[at:]}")
    except InputError:  # which is a ValueError
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{where}: expected JSON as torch.profiler's export_chrome_trace writes it") from None
    head = rest if isinstance(rest, dict) else {}
    return {key: value for key, value in head.items() if key != "traceEvents"}, slices


def _is_used(category: Any) -> bool:
    return isinstance(category, str) and (category in _USED or category.endswith(("_runtime", "_driver")))


def is_microseconds(value: Any) -> bool:
    """Whether a value is a time that a trace can have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST_US


def args_of(event: Event) -> Mapping[str, Any]:
    """What is said of a slice beside its time."""
    args = event.get("args")
    return args if isinstance(args, dict) else {}


def dims_of(event: Event) -> list[list[Any]]:
    """The shapes of an op's inputs, if they were recorded; of an input that is a list of tensors, their shapes."""
    args = args_of(event)
    dims = args.get("Input Dims", args.get("Input dims"))
    return [dim if isinstance(dim, list) else [] for dim in dims] if isinstance(dims, list) else []


def types_of(event: Event) -> list[str]:
    """The types of an op's inputs in C++, such as `c10::Half`, if they were recorded."""
    args = args_of(event)
    types = args.get("Input type", args.get("Input Types"))
    return [name if isinstance(name, str) else "" for name in types] if isinstance(types, list) else []


def shape_of_dims(value: Any) -> tuple[int, ...]:
    """A shape; empty for what is none."""
    whole = isinstance(value, list) and all(isinstance(size, int) and not isinstance(size, bool) for size in value)
    return tuple(value) if whole else ()


def correlation(event: Event) -> str:
    """What a kernel and its launch have in common; empty if there is nothing."""
    return str(args_of(event).get("correlation", ""))[:40]


def track_of(event: Event) -> Track:
    """The process and the thread of a slice."""
    return str(event.get("pid"))[:40], str(event.get("tid"))[:40]


def end_of(event: Event) -> float:
    """When a slice ends, in microseconds."""
    return float(event["ts"] + event["dur"])
