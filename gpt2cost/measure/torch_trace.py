"""What torch.profiler recorded, as a list of the ops or kernels that took time. Needs no torch.

An exported Chrome trace nests ops: `linear` contains `matmul`, which contains `mm`, which launches kernels. The cost
table names one level of that tree. `WRAPPERS` are above it and views beside it; the first op from the top that is
neither is taken whole, with everything inside it.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from gpt2cost.errors import InputError, plain
from gpt2cost.measure.records import MOST_US, Measurement, grouped, text_of
from gpt2cost.prediction.settings import SIZE_FIELDS, Sizes, check_single_sizes

Event: TypeAlias = Mapping[str, Any]
Track: TypeAlias = tuple[str, str]
"""A process and a thread of it."""

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
    return read_sized_trace(path)[0]


def read_sized_trace(path: Path) -> tuple[list[Observed], tuple[int, int, int] | None]:
    """The same, and the (batch, new tokens, cached tokens) of its first pass: None unless shapes were recorded."""
    events = _events(path)
    tracks = _taken(events)
    if any(event["cat"] in _DEVICE for event in events):
        observed = _on_device(events, tracks)
    else:
        observed = [_observed(_table_op(op["name"]), (), [op]) for ops in tracks.values() for op in ops]
    if not observed:
        what = "ops or kernels of torch.profiler (cat cpu_op or kernel)"
        raise InputError(f"{plain(str(path))}: traceEvents: expected {what}, found none")
    observed.sort(key=lambda op: op.start_s)
    sizes = _first_sizes(op for ops in tracks.values() for op in ops)
    return [replace(op, start_s=op.start_s - observed[0].start_s) for op in observed], sizes


def _first_sizes(ops: Iterable[Event]) -> tuple[int, int, int] | None:
    """Cached tokens are what the first `cat` appends to; without one (a static cache, or none) 0."""
    taken = [(_table_op(op["name"]), _dims(op)) for op in ops]
    index = next((_shape(dims[1]) for op, dims in taken if op == "embedding" and len(dims) > 1), ())
    past = next((_shape(part) for op, dims in taken if op == "cat" for parts in dims[:1] for part in parts[:1]), ())
    return (index[0], index[1], past[2] if len(past) == 4 else 0) if len(index) == 2 else None


def size_of_trace(
    path: Path, recorded: tuple[int, int, int] | None, sizes: Sequence[tuple[int, int, int]] | None
) -> Sizes:
    """The size of the passes in the trace at `path`: the one of `sizes`, else the one that was recorded.

    Raises `InputError` where there is none, or several, and where they are not the recorded one.
    """
    where = plain(str(path))
    chosen = sizes or ([recorded] if recorded else None)
    if chosen is None:
        raise InputError(f"{where}: no shapes were recorded; give --batch, --seq and --cache")
    if len(chosen) != 1:
        raise InputError(f"{where}: expected one size for a trace, got {len(chosen)}")
    certain = 3 if recorded and recorded[2] else 2  # a static cache leaves no trace of how full it is
    if recorded is not None and recorded[:certain] != chosen[0][:certain]:
        names = ", ".join(list(SIZE_FIELDS)[:certain])
        raise InputError(f"{where}: its {names} are {recorded[:certain]}, got {chosen[0][:certain]}")
    return check_single_sizes(*chosen[0])


def observed_of_profile(record: Measurement) -> list[Observed]:
    """The same from a `profile` measurement. Its ops are flat, in order of their start.

    `ops` are [op, input shapes as text, host us, [[kernel, us], ...]]. On a device they are those that launched
    kernels themselves, such as the `copy_` of a `clone`; where none is known there is `kernels`: [kernel, start us,
    us]. On a CPU they are all ops that are no views, the inner after the outer. Raises `InputError` for another form.
    """
    try:
        names, ops = record["kernel_names"], record["ops"]
        launching = [(name, us, kernels) for name, _, us, kernels in ops if kernels]
        if not launching and record.get("kernels"):
            return [Observed("", (names[i],), 1e-6 * us, 1e-6 * start_us) for i, start_us, us in record["kernels"]]
        return _in_sequence(
            (_table_op(name), [names[i] for i, _ in kernels], sum(us for _, us in kernels) if kernels else op_us)
            for name, op_us, kernels in (launching if record.get("kernels") else _outer(ops))
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise InputError("measurement of kind profile: expected 'ops' and 'kernel_names' as measured") from None


def profile_record(head: Mapping[str, Any], passes: Iterable[Sequence[Observed]]) -> dict[str, Any]:
    """A `profile` measurement: what was run, and [op, us, [kernel names]] of every op of every recorded pass."""
    written = [[[op.op, round(1e6 * op.seconds, 3), list(op.kernels)] for op in observed] for observed in passes]
    return {"kind": "profile", **head, "observed": written}


def observed_passes(record: Measurement) -> list[list[Observed]]:
    """The recordings of a `profile` measurement, ours or a flat one. Raises `InputError` for another form."""
    if "observed" not in record:
        return [observed_of_profile(record)]
    try:
        return [_in_sequence((op, kernels, us) for op, us, kernels in ops) for ops in record["observed"]]
    except (TypeError, ValueError, OverflowError):
        raise InputError("measurement of kind profile: expected lists of [op, us, [kernels]] in 'observed'") from None


def _in_sequence(ops: Iterable[tuple[str, Sequence[str], float]]) -> list[Observed]:
    """Ops, each with its kernels and its microseconds, as if one began where the one before ended.

    Raises `ValueError` for names that are no text, where there are none, and for what is no time.
    """
    observed: list[Observed] = []
    start_s = 0.0
    for op, kernels, us in ops:
        if not isinstance(op, str) or isinstance(kernels, str) or not all(isinstance(name, str) for name in kernels):
            raise ValueError
        if not (op or kernels) or not _is_microseconds(us):
            raise ValueError
        observed.append(Observed(op, tuple(kernels), 1e-6 * us, start_s))
        start_s += 1e-6 * us
    return observed


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
    text = text_of(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: expected JSON as torch.profiler's export_chrome_trace writes it") from None
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list):
        raise InputError(f"{where}: expected an object with a list 'traceEvents', as export_chrome_trace writes it")
    slices: list[Event] = [
        e for e in events if isinstance(e, dict) and e.get("ph") == "X" and isinstance(e.get("cat"), str)
    ]
    for event in slices:
        timed = _is_microseconds(event.get("ts")) and _is_microseconds(event.get("dur"))
        if not (timed and isinstance(event.get("name"), str)):
            raise InputError(f"{where}: traceEvents: expected a name, and ts and dur in us, of every slice (ph X)")
    return slices


def _is_microseconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST_US


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


def _track(event: Event) -> Track:
    return str(event.get("pid")), str(event.get("tid"))


def _end(event: Event) -> float:
    return float(event["ts"] + event["dur"])


def _taken(events: Iterable[Event]) -> dict[Track, list[Event]]:
    """The ops at the table's level, none inside another, by track and start. Ops on an empty tensor do nothing."""
    tracks = grouped((event for event in events if event["cat"] == "cpu_op"), _track)
    return {track: _outermost(sorted(ops, key=lambda op: (op["ts"], -op["dur"]))) for track, ops in tracks.items()}


def _outermost(ops: Sequence[Event]) -> list[Event]:
    """Of a track's ops, which nest, those that are taken."""
    taken: list[Event] = []
    until = -math.inf
    for i, op in enumerate(ops):
        inside = _end(op) <= until + 2 * _NANOSECOND_US
        if inside or not _counts(op["name"]) or _dims(op)[:1] == [[0]]:
            continue
        children = [child["name"] for child in ops[i + 1 : i + 4] if _end(child) <= _end(op) + 2 * _NANOSECOND_US]
        if op["name"] == "aten::where" and _wraps(children):
            continue
        until = _end(op)
        taken.append(op)
    return taken


def _on_device(events: Iterable[Event], tracks: Mapping[Track, Sequence[Event]]) -> list[Observed]:
    """Kernels gathered under the ops that launched them; those without an op, such as a graph's, one by one."""
    launches = {_correlation(e): e for e in events if e["cat"].endswith(("_runtime", "_driver"))}

    def launched_by(kernel: Event) -> tuple[Track, int] | None:
        """The track of the op that launched a kernel, and the op's place there."""
        launch = launches.get(_correlation(kernel)) if _correlation(kernel) else None
        if launch is None or "GraphLaunch" in launch["name"]:
            return None
        ops = tracks.get(_track(launch), [])
        place = bisect_right(ops, launch["ts"], key=itemgetter("ts")) - 1
        return (_track(launch), place) if place >= 0 and launch["ts"] <= _end(ops[place]) else None

    kernels = sorted((e for e in events if e["cat"] in _DEVICE), key=itemgetter("ts"))
    gathered = grouped(enumerate(kernels), lambda item: launched_by(item[1]) or item[0])
    observed = []
    for launcher, items in gathered.items():
        op = "" if isinstance(launcher, int) else _table_op(tracks[launcher[0]][launcher[1]]["name"])
        together = [kernel for _, kernel in items]
        observed.append(_observed(op, [kernel["name"] for kernel in together], together))
    return observed


def _observed(op: str, kernels: Sequence[str], slices: Sequence[Event]) -> Observed:
    """An op with the slices that are its time."""
    return Observed(op, tuple(kernels), 1e-6 * sum(s["dur"] for s in slices), 1e-6 * slices[0]["ts"])
