"""What torch.profiler recorded, as a list of the ops or kernels that took time. Needs no torch.

An exported Chrome trace nests ops: `linear` contains `matmul`, which contains `mm`, which launches kernels. The cost
table names one level of that tree. `WRAPPERS` are above it and views beside it; the first op from the top that is
neither is taken whole, with everything inside it.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from gpt2cost.errors import InputError, plain
from gpt2cost.measure.records import Measurement, grouped
from gpt2cost.measure.trace_file import (
    Event,
    TraceFile,
    Track,
    args_of,
    correlation,
    dims_of,
    end_of,
    is_microseconds,
    read_trace_file,
    shape_of_dims,
    track_of,
    types_of,
)
from gpt2cost.prediction.settings import SIZE_FIELDS

ATTENTION = "scaled_dot_product_attention"
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
_LEAVES = {
    "layer_norm": "native_layer_norm",
    "linear": "linear",
    "scaled_dot_product_attention": ATTENTION,
    "softmax": "_softmax",
}
"""Of those what computes where it contains no op, as on Apple's GPUs and in a predicted trace: under which name."""

_ATTENTION_BACKEND = re.compile(
    r"_?(scaled_dot_product|flash|efficient|cudnn)_\w*(attention|attn)\w*|flash_attn\w*::\w+"
)
_PRIMITIVES = frozenset({"clamp_min", "copy_", "fill_", "index_select", "zero_"})
"""What `relu`, `clone`, `zeros` or `embedding` do their work with."""

_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_MOST_INSIDE = 20
"""How many ops after a wrapper are looked at for one inside it."""
_NANOSECOND_US = 1e-3  # the resolution of a trace; sums of start and duration are off by less than two


@dataclass(frozen=True, slots=True)
class Observed:
    """One op that took time, or one kernel of which no op is known.

    `op` is the aten op without `aten::`, of any backend of fused attention `scaled_dot_product_attention`, "" if only
    the kernel is known. `kernels` are names on the device. `seconds` are those of the kernels; where there is no
    device, the op's own. `start_s` counts from the first of a trace; of a record without times, it adds up `seconds`.
    `dims` and `types`: of the op's inputs, where they were recorded. `in_stream`: a predicted kernel's `seconds` are
    its share of a busy stream, which the launch bounds from below; those of a recorded one are its own.
    """

    op: str
    kernels: tuple[str, ...]
    seconds: float
    start_s: float
    dims: Sequence[Any] = ()
    types: Sequence[str] = ()
    in_stream: bool = False


Size: TypeAlias = tuple[int, int, int]
"""(batch, new tokens, cached tokens) of a pass."""


@dataclass(frozen=True)
class Trace:
    """A trace that was read. `ops`: those at the table's level on the host, with the host's times; `observed`: what
    took time on the device if there is one, else the ops themselves. Both are in order."""

    file: TraceFile
    ops: tuple[Observed, ...]
    observed: tuple[Observed, ...]

    @property
    def on_device(self) -> bool:
        """Whether kernels of a device are in it."""
        return any(op.kernels for op in self.observed)

    def by_size(self) -> dict[Size | None, list[Observed]]:
        """What was observed of the passes of each size, in order of their first; None: of a size that is not known.

        Between two passes lies what follows the first, such as the choice of a token.
        """
        parts = self._predicted() or split_passes(self.observed)
        if all(size is None for size, _ in parts):
            of_ops = next((size for size, _ in split_passes(self.ops) if size), None)
            return {of_ops: list(self.observed)}
        return {size: [op for _, ops in same for op in ops] for size, same in grouped(parts, itemgetter(0)).items()}

    def _predicted(self) -> list[tuple[Size | None, list[Observed]]]:
        """The passes of a predicted trace, whose sizes it says; empty of a recorded one."""
        marks = [e for e in self.file.slices if e["cat"] == "user_annotation"] if self.file.prediction else []
        starts = [e["ts"] for e in self.file.slices if e["cat"] in _DEVICE]
        parts: list[tuple[Size | None, list[Observed]]] = []
        for mark in marks if starts else []:
            begin, end = (1e-6 * (us - min(starts)) for us in (mark["ts"], end_of(mark)))
            sizes = shape_of_dims([args_of(mark).get(name) for name in SIZE_FIELDS.values()])
            known = (sizes[0], sizes[1], sizes[2]) if sizes else None
            parts.append((known, [op for op in self.observed if begin <= op.start_s < end]))
        return parts


def read_trace(path: Path) -> list[Observed]:
    """The ops of a Chrome trace (`export_chrome_trace`; gzip too) in order: on the device if there is one.

    Raises `InputError` for a file that is no such trace, or has neither ops nor kernels.
    """
    return list(load_trace(path).observed)


def read_sized_trace(path: Path) -> tuple[list[Observed], Size | None]:
    """The same, and the size of its first pass: None unless shapes were recorded."""
    trace = load_trace(path)
    return list(trace.observed), next((size for size in trace.by_size() if size), None)


def load_trace(path: Path) -> Trace:
    """The trace at `path`. Raises `InputError` for a file that is none, or has neither ops nor kernels."""
    file = read_trace_file(path)
    tracks = _taken(file.slices)
    taken = [op for ops in tracks.values() for op in ops]
    origin_us = min((op["ts"] for op in taken), default=0.0)
    ops = _in_order(_observed(_table_op(op["name"]), (), [op], op, origin_us) for op in taken)
    has_device = any(event["cat"] in _DEVICE for event in file.slices)
    observed = _in_order(_on_device(file, tracks)) if has_device else ops
    if not observed:
        what = "ops or kernels of torch.profiler (cat cpu_op or kernel)"
        raise InputError(f"{plain(str(path))}: traceEvents: expected {what}, found none")
    return Trace(file, ops, observed)


def _in_order(ops: Iterable[Observed]) -> tuple[Observed, ...]:
    return tuple(sorted(ops, key=lambda op: op.start_s))


def pass_starts(ops: Sequence[str]) -> list[int]:
    """Where passes begin among the names of ops: with the embedding of their token ids, the first after the layer norms
    of the pass before."""
    starts: list[int] = []
    inside = False
    for i, op in enumerate(ops):
        if op == "embedding" and not inside:
            starts.append(i)
            inside = True
        elif op == "native_layer_norm":
            inside = False
    return starts


def split_passes(ops: Sequence[Observed]) -> list[tuple[Size | None, list[Observed]]]:
    """The ops of each pass and its size, None where no shapes were recorded.

    Cached tokens are what its first `cat` appends to; without one (a static cache, or none) 0.
    """
    starts = pass_starts([op.op for op in ops])
    is_cut = any(op.op == "native_layer_norm" for op in ops[: starts[0]]) if starts else False
    begins = [0, *starts[0 if is_cut else 1 :]]
    parts = [list(ops[begin:end]) for begin, end in zip(begins, [*begins[1:], len(ops)], strict=True)]
    return [(_size(part), part) for part in parts]


def _size(ops: Sequence[Observed]) -> Size | None:
    index = next((shape_of_dims(op.dims[1]) for op in ops if op.op == "embedding" and len(op.dims) > 1), ())
    past = next(
        (shape_of_dims(part) for op in ops if op.op == "cat" for parts in op.dims[:1] for part in parts[:1]), ()
    )
    return (index[0], index[1], past[2] if len(past) == 4 else 0) if len(index) == 2 else None


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
        if not (op or kernels) or not is_microseconds(us):
            raise ValueError
        observed.append(Observed(op, tuple(kernels), 1e-6 * us, start_s))
        start_s += 1e-6 * us
    return observed


# ------------------------------------------------------------------------------------------------ ops


def _table_op(name: str) -> str:
    """An op's name as the cost table has it."""
    op = name.removeprefix("aten::")
    op = _LEAVES.get(op, op)
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


def _taken(events: Iterable[Event]) -> dict[Track, list[Event]]:
    """The ops at the table's level, none inside another, by track and start. Ops on an empty tensor do nothing."""
    tracks = grouped((event for event in events if event["cat"] == "cpu_op"), track_of)
    return {track: _outermost(sorted(ops, key=lambda op: (op["ts"], -op["dur"]))) for track, ops in tracks.items()}


def _outermost(ops: Sequence[Event]) -> list[Event]:
    """Of a track's ops, which nest, those that are taken."""
    taken: list[Event] = []
    until = -math.inf
    for i, op in enumerate(ops):
        ends = end_of(op) + 2 * _NANOSECOND_US
        if end_of(op) <= until + 2 * _NANOSECOND_US or dims_of(op)[:1] == [[0]]:
            continue
        if not _counts(op["name"]):
            if op["name"].removeprefix("aten::") not in _LEAVES:
                continue
            inside = takewhile(lambda inner: inner["ts"] < ends, ops[i + 1 : i + 1 + _MOST_INSIDE])  # noqa: B023
            if any(_counts(inner["name"]) or inner["name"].removeprefix("aten::") in _LEAVES for inner in inside):
                continue
        children = [child["name"] for child in ops[i + 1 : i + 4] if end_of(child) <= ends]
        if op["name"] == "aten::where" and _wraps(children):
            continue
        until = end_of(op)
        taken.append(op)
    return taken


def _on_device(file: TraceFile, tracks: Mapping[Track, Sequence[Event]]) -> list[Observed]:
    """Kernels gathered under the ops that launched them; those without an op, such as a graph's, one by one.

    A predicted kernel says which op of the cost table it is.
    """
    launches = {correlation(e): e for e in file.slices if e["cat"].endswith(("_runtime", "_driver"))}

    def launched_by(kernel: Event) -> tuple[Track, int] | None:
        """The track of the op that launched a kernel, and the op's place there."""
        launch = launches.get(correlation(kernel)) if correlation(kernel) else None
        if launch is None or "GraphLaunch" in launch["name"]:
            return None
        ops = tracks.get(track_of(launch), [])
        place = bisect_right(ops, launch["ts"], key=itemgetter("ts")) - 1
        return (track_of(launch), place) if place >= 0 and launch["ts"] <= end_of(ops[place]) else None

    kernels = sorted((e for e in file.slices if e["cat"] in _DEVICE), key=itemgetter("ts"))
    origin_us = kernels[0]["ts"]
    if file.prediction is not None:
        named = (_observed(str(args_of(e).get("op", "")), [e["name"]], [e], e, origin_us) for e in kernels)
        return [replace(kernel, in_stream=True) for kernel in named]
    gathered = grouped(enumerate(kernels), lambda item: launched_by(item[1]) or item[0])
    observed = []
    for launcher, items in gathered.items():
        op = None if isinstance(launcher, int) else tracks[launcher[0]][launcher[1]]
        together = [kernel for _, kernel in items]
        name = "" if op is None else _table_op(op["name"])
        observed.append(_observed(name, [kernel["name"] for kernel in together], together, op, origin_us))
    return observed


def _observed(
    op: str, kernels: Sequence[str], slices: Sequence[Event], shaped: Event | None, origin_us: float
) -> Observed:
    """An op with the slices that are its time, and the slice that says its shapes."""
    dims, types = ((), ()) if shaped is None else (tuple(dims_of(shaped)), tuple(types_of(shaped)))
    seconds = 1e-6 * sum(piece["dur"] for piece in slices)
    return Observed(op, tuple(kernels), seconds, 1e-6 * (slices[0]["ts"] - origin_us), dims, types)
