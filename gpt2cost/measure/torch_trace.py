"""What torch.profiler recorded, as a list of the ops or kernels that took time. Needs no torch.

An exported Chrome trace nests ops: `linear` contains `matmul`, which contains `mm`, which launches kernels. The cost
table names one level of that tree. `WRAPPERS` are above it and views beside it; the first op from the top that is
neither is taken whole, with everything inside it.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from gpt2cost.errors import InputError, plain
from gpt2cost.measure.records import Measurement

Event: TypeAlias = Mapping[str, Any]


WRAPPERS = {
    "alias", "as_strided", "chunk", "contiguous", "detach", "detach_", "dropout", "empty", "empty_like",
    "empty_strided", "expand", "expand_as", "flatten", "_fused_sdp_choice", "item", "layer_norm", "lift_fresh",
    "linear", "_local_scalar_dense", "matmul", "movedim", "narrow", "new_empty", "numpy_T", "pad", "permute",
    "reshape", "_reshape_alias", "resize_", "resolve_conj", "resolve_neg", "result_type",
    "scaled_dot_product_attention", "select", "set_", "slice", "softmax", "split", "split_with_sizes", "squeeze", "t",
    "to", "transpose", "type_as", "unbind", "unflatten", "unsafe_split", "_unsafe_view", "unsqueeze", "view",
    "view_as",
}  # fmt: skip
"""Ops that compute nothing themselves: what they contain does. Views and allocations contain nothing that counts."""


ATTENTION = "scaled_dot_product_attention"


_ATTENTION_BACKEND = re.compile(
    r"_?(scaled_dot_product|flash|efficient|cudnn)_\w*(attention|attn)\w*|flash_attn\w*::\w+"
)


_PRIMITIVES = frozenset({"clamp_min", "copy_", "fill_", "index_select", "zero_"})
"""What `relu`, `clone`, `zeros` or `embedding` do their work with."""


_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})


_NANOSECOND_US = 1e-3  # the resolution of a trace; sums of start and duration are off by less than two


@dataclass(frozen=True)
class Observed:
    """One op that took time, or one kernel of which no op is known.

    `op` is the aten op without `aten::`, of any backend of fused attention `scaled_dot_product_attention`, "" if only
    the kernel is known. `kernels` are names on the device. `seconds` are those of the kernels; where there is no
    device, the op's own. `start_s` counts from the first of a trace; of a record without times, it adds up `seconds`.
    """

    op: str
    kernels: tuple[str, ...]
    seconds: float
    start_s: float


def read_trace(path: Path) -> list[Observed]:
    """The ops of a Chrome trace (`export_chrome_trace`; `*.gz` too) in order: on the device if there is one.

    Raises `InputError` for a file that is no such trace, or has neither ops nor kernels.
    """
    events = _events(path)
    taken = _taken(events)
    on_device = any(event["cat"] in _DEVICE for event in events)
    observed = _on_device(events, taken) if on_device else [_on_host(event) for event in taken]
    if not observed:
        what = "ops or kernels of torch.profiler (cat cpu_op or kernel)"
        raise InputError(f"{plain(str(path))}: traceEvents: expected {what}, found none")
    observed.sort(key=lambda op: op.start_s)
    return [replace(op, start_s=op.start_s - observed[0].start_s) for op in observed]


def trace_sizes(path: Path) -> tuple[int, int, int] | None:
    """(batch, new tokens, cached tokens) of the first pass of a trace; None unless it recorded shapes.

    Cached tokens are what the first `cat` appends to; without one (a static cache, or none) 0.
    """
    taken = [(_table_op(event["name"]), _dims(event)) for event in _taken(_events(path))]
    index = next((_shape(dims[1]) for op, dims in taken if op == "embedding" and len(dims) > 1), ())
    past = next((_shape(part) for op, dims in taken if op == "cat" for parts in dims[:1] for part in parts[:1]), ())
    return (index[0], index[1], past[2] if len(past) == 4 else 0) if len(index) == 2 else None


def observed_of_profile(record: Measurement) -> list[Observed]:
    """The same from a `profile` measurement. Its ops are flat, in order of their start.

    `ops` are [op, input shapes as text, host us, [[kernel, us], ...]]. On a device they are those that launched
    kernels themselves, such as the `copy_` of a `clone`; where none is known there is `kernels`: [kernel, start us,
    us]. On a CPU they are all ops that are no views, the inner after the outer. Raises `InputError` for another form.
    """
    try:
        names, ops = record["kernel_names"], record["ops"]
        if not any(kernels for *_, kernels in ops) and record.get("kernels"):
            return [Observed("", (names[i],), 1e-6 * us, 1e-6 * start_us) for i, start_us, us in record["kernels"]]
        observed: list[Observed] = []
        start_s = 0.0
        for name, us, kernels in _outer(ops) if not record.get("kernels") else _launching(ops):
            seconds = 1e-6 * (sum(kernel_us for _, kernel_us in kernels) if kernels else us)
            observed.append(Observed(_table_op(name), tuple(names[i] for i, _ in kernels), seconds, start_s))
            start_s += seconds
        return observed
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise InputError("measurement of kind profile: expected 'ops' and 'kernel_names' as measured") from None


def profile_record(head: Mapping[str, Any], passes: Iterable[Sequence[Observed]]) -> dict[str, Any]:
    """A `profile` measurement: what was run, and [op, us, [kernel names]] of every op of every recorded pass."""
    written = [[[one.op, round(1e6 * one.seconds, 3), list(one.kernels)] for one in each] for each in passes]
    return {"kind": "profile", **head, "observed": written}


def observed_passes(record: Measurement) -> list[list[Observed]]:
    """The recordings of a `profile` measurement, ours or a flat one. Raises `InputError` for another form."""
    if "observed" not in record:
        return [observed_of_profile(record)]
    try:
        found: list[list[Observed]] = []
        for ops in record["observed"]:
            found.append([])
            start_s = 0.0
            for op, us, kernels in ops:
                if not isinstance(op, str) or not all(isinstance(name, str) for name in kernels) or not (op or kernels):
                    raise ValueError
                found[-1].append(Observed(op, tuple(kernels), 1e-6 * us, start_s))
                start_s += 1e-6 * us
        return found
    except (TypeError, ValueError, OverflowError):
        raise InputError("measurement of kind profile: expected lists of [op, us, [kernels]] in 'observed'") from None


# ------------------------------------------------------------------------------------------------ ops


def _table_op(name: str) -> str:
    """An op's name as the cost table has it."""
    op = name.removeprefix("aten::")
    return ATTENTION if _ATTENTION_BACKEND.fullmatch(op) and op != ATTENTION else op


def _counts(name: str) -> bool:
    """Whether an op is at the table's level. What is no `namespace::op` is an annotation or a compiled region."""
    namespace, colons, op = name.partition("::")
    return (
        bool(colons) and op.isidentifier() and namespace != "profiler" and name.removeprefix("aten::") not in WRAPPERS
    )


def _launching(ops: Iterable[Any]) -> Iterator[tuple[str, float, Any]]:
    return ((name, us, kernels) for name, _, us, kernels in ops if kernels)


def _outer(ops: Sequence[Any]) -> Iterator[tuple[str, float, Any]]:
    """A flat list of a CPU's ops without those that run inside another one."""
    for i, (name, shapes, us, kernels) in enumerate(ops):
        op = name.removeprefix("aten::")
        inside = (
            op in _PRIMITIVES
            or (op == "arange" and "[0]" in shapes)  # writes what the outer one made
            or (op == "_to_copy" and shapes.startswith("[[],"))  # a Python number that becomes a tensor
            or (op == "where" and _wraps([inner for inner, *_ in ops[i + 1 : i + 4]]))
        )
        if _counts(name) and not inside and not shapes.startswith("[[0]"):
            yield name, us, kernels


def _wraps(following: Sequence[str]) -> bool:
    """Whether a `where` only makes a tensor of a Python number and calls `where` again, as what follows it shows."""
    return following[:1] == ["aten::scalar_tensor"] and "aten::where" in following


# ------------------------------------------------------------------------------------------------ traces


def _events(path: Path) -> list[Event]:
    """The slices of a trace, with a category, a start and a duration."""
    where = plain(str(path))
    try:
        raw = path.read_bytes()
        document = json.loads((gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8"))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{where}: cannot read: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{where}: expected JSON as torch.profiler's export_chrome_trace writes it") from None
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list):
        raise InputError(f"{where}: expected an object with a list 'traceEvents', as export_chrome_trace writes it")
    slices: list[Event] = [
        e for e in events if isinstance(e, dict) and e.get("ph") == "X" and isinstance(e.get("cat"), str)
    ]
    for event in slices:
        if not (isinstance(event.get("name"), str) and _is_time(event.get("ts")) and _is_time(event.get("dur"))):
            raise InputError(f"{where}: traceEvents: expected a name, and ts and dur in us, of every slice (ph X)")
    return slices


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _args(event: Event) -> Mapping[str, Any]:
    args = event.get("args")
    return args if isinstance(args, dict) else {}


def _dims(event: Event) -> list[list[Any]]:
    """The shapes of an op's inputs, if they were recorded; of an input that is a list of tensors, their shapes."""
    dims = _args(event).get("Input Dims")
    return [dim if isinstance(dim, list) else [] for dim in dims] if isinstance(dims, list) else []


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list) and all(isinstance(size, int) for size in value) else ()


def _correlation(event: Event) -> str:
    """What a kernel and its launch have in common; empty if there is nothing."""
    return str(_args(event).get("correlation", ""))


def _track(event: Event) -> tuple[str, str]:
    return str(event.get("pid")), str(event.get("tid"))


def _end(event: Event) -> float:
    return float(event["ts"] + event["dur"])


def _taken(events: Iterable[Event]) -> list[Event]:
    """The ops at the table's level, none inside another, by track and start. Ops on an empty tensor do nothing."""
    tracks: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        if event["cat"] == "cpu_op":
            tracks[_track(event)].append(event)
    taken: list[Event] = []
    for ops in tracks.values():
        ops.sort(key=lambda event: (event["ts"], -event["dur"]))
        until = -math.inf
        for i, event in enumerate(ops):
            inside = _end(event) <= until + 2 * _NANOSECOND_US
            if inside or not _counts(event["name"]) or _dims(event)[:1] == [[0]]:
                continue
            children = [op["name"] for op in ops[i + 1 : i + 4] if _end(op) <= _end(event) + 2 * _NANOSECOND_US]
            if event["name"] == "aten::where" and _wraps(children):
                continue
            until = _end(event)
            taken.append(event)
    return taken


def _on_host(event: Event) -> Observed:
    return Observed(_table_op(event["name"]), (), 1e-6 * event["dur"], 1e-6 * event["ts"])


def _on_device(events: Iterable[Event], taken: Sequence[Event]) -> list[Observed]:
    """Kernels gathered under the ops that launched them; those without an op, such as a graph's, one by one."""
    tracks: dict[tuple[str, str], list[int]] = defaultdict(list)  # places in `taken`
    for index, op in enumerate(taken):
        tracks[_track(op)].append(index)
    starts = {track: [taken[index]["ts"] for index in indices] for track, indices in tracks.items()}
    launches = {_correlation(e): e for e in events if e["cat"].endswith(("_runtime", "_driver"))}

    def launched_by(kernel: Event) -> int | None:
        """The place in `taken` of the op that launched a kernel."""
        launch = launches.get(_correlation(kernel)) if _correlation(kernel) else None
        if launch is None or "GraphLaunch" in launch["name"]:
            return None
        at = bisect_right(starts.get(_track(launch), []), launch["ts"]) - 1
        place = tracks[_track(launch)][at] if at >= 0 else None
        return place if place is not None and launch["ts"] <= _end(taken[place]) else None

    kernels = sorted((e for e in events if e["cat"] in _DEVICE), key=lambda e: float(e["ts"]))
    gathered: dict[tuple[int | None, int], list[Event]] = {}  # by launching op, or each kernel on its own
    for number, kernel in enumerate(kernels):
        place = launched_by(kernel)
        gathered.setdefault((place, number if place is None else 0), []).append(kernel)
    return [
        Observed(
            "" if place is None else _table_op(taken[place]["name"]),
            tuple(kernel["name"] for kernel in together),
            1e-6 * sum(kernel["dur"] for kernel in together),
            1e-6 * together[0]["ts"],
        )
        for (place, _), together in gathered.items()
    ]
