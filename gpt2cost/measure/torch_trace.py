"""What torch.profiler recorded, as a list of the ops or kernels that took time. Needs no torch.

An exported Chrome trace nests ops: `linear` contains `matmul`, which contains `mm`, which launches kernels. Those at
the table's level are taken (see `observed`), each with the kernels that it launched on one device.
"""

from __future__ import annotations

import gc
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from gpt2cost.errors import InputError, plain
from gpt2cost.measure.observed import (
    ANCHOR,
    ATTENTION,
    COMPILED,
    TELLING,
    Observed,
    counts,
    embeds,
    is_leaf,
    pass_starts,
    table_op,
    wraps,
)
from gpt2cost.measure.records import grouped
from gpt2cost.measure.trace_devices import Launched, Place, chosen_kernels
from gpt2cost.measure.trace_file import (
    ON_DEVICE,
    Args,
    Event,
    TraceFile,
    Track,
    args_of,
    read_trace_file,
    shape_of_dims,
)
from gpt2cost.prediction.settings import SIZE_FIELDS

MOST_OPS = 100_000
"""The most kernels, and ops at the table's level, of a trace: a hundred decode steps of gpt2-xl."""
_MOST_INSIDE = 20
"""How many ops after a wrapper are looked at for one inside it."""
_NANOSECOND_US = 1e-3  # the resolution of a trace; sums of start and duration are off by less than two


Size: TypeAlias = tuple[int, int, int]
"""(batch, new tokens, cached tokens) of a pass."""


@dataclass(frozen=True)
class Trace:
    """A trace that was read. `ops`: those at the table's level on the host, with the host's times; `observed`: what
    took time on the device if there is one, else the ops themselves. Both are in order.

    `devices`: the numbers of those whose kernels are `observed`. `note`: why it is those, where there are others.
    """

    file: TraceFile
    ops: tuple[Observed, ...]
    observed: tuple[Observed, ...]
    devices: tuple[str, ...] = ()
    note: str = ""

    @cached_property
    def on_device(self) -> bool:
        """Whether kernels of a device are in it."""
        return any(op.kernels for op in self.observed)

    @cached_property
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
        marks = [e for e in self.file.slices if e.cat == "user_annotation"] if self.file.prediction else []
        starts = [e.ts for e in self.file.slices if e.cat in ON_DEVICE]
        parts: list[tuple[Size | None, list[Observed]]] = []
        for mark in marks if starts else []:
            begin, end = (1e-6 * (us - min(starts)) for us in (mark.ts, mark.end))
            args = args_of(mark)
            sizes = shape_of_dims([getattr(args, name) for name in SIZE_FIELDS.values()])
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
    return list(trace.observed), next((size for size in trace.by_size if size), None)


def load_trace(path: Path) -> Trace:
    """The trace at `path`. Raises `InputError` for a file that is none, or has neither ops nor kernels, or too many."""
    with _uncollected():
        return _loaded(read_trace_file(path), path)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No collection of garbage, which would look at each event again and again, and none is garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _loaded(file: TraceFile, path: Path) -> Trace:
    """The ops and kernels of a file that was read."""
    tracks = _taken(file.slices)
    if max(sum(map(len, tracks.values())), sum(e.cat in ON_DEVICE for e in file.slices)) > MOST_OPS:
        what = f"more than {MOST_OPS:,} kernels, or ops that run them; record fewer passes"
        raise InputError(f"{plain(str(path))}: {what}")
    origin_us = min((op.ts for taken in tracks.values() for op, _ in taken), default=0.0)
    ops = {(track, i): _host_op(*op, origin_us) for track, taken in tracks.items() for i, op in enumerate(taken)}
    kernels = _launched(file, {track: [op for op, _ in taken] for track, taken in tracks.items()})
    if not (ops or kernels):
        what = "ops or kernels of torch.profiler (cat cpu_op or kernel)"
        raise InputError(f"{plain(str(path))}: traceEvents: expected {what}, found none")
    if not kernels:
        in_order = _in_order(ops.values())
        return Trace(file, in_order, in_order)
    if file.prediction is not None:
        return Trace(file, _in_order(ops.values()), _predicted_kernels(kernels), (kernels[0].device,))
    chosen = chosen_kernels(kernels, lambda some: _gathered(some, ops))
    elsewhere = {kernel.op for kernel in kernels} - {kernel.op for kernel in chosen.kernels}
    here = _in_order(op for place, op in ops.items() if place not in elsewhere)
    return Trace(file, here, _gathered(chosen.kernels, ops), chosen.devices, chosen.note)


def _in_order(ops: Iterable[Observed]) -> tuple[Observed, ...]:
    return tuple(sorted(ops, key=lambda op: op.start_s))


def split_passes(ops: Sequence[Observed]) -> list[tuple[Size | None, list[Observed]]]:
    """The ops of each pass and its size, None where no shapes were recorded.

    Cached tokens are what its first `cat` appends to; without one (a static cache, or none) 0.
    """
    starts = pass_starts(ops)
    is_cut = any(op.op == ANCHOR for op in ops[: starts[0]]) if starts else False
    for number, start in enumerate(starts):  # `generate` copies ids and positions before
        while start and ops[start - 1].op == "clone":
            start -= 1
        starts[number] = start
    begins = [0, *starts[0 if is_cut else 1 :]]
    parts = [list(ops[begin:end]) for begin, end in zip(begins, [*begins[1:], len(ops)], strict=True)]
    return [(_size(part), part) for part in parts]


def _size(ops: Sequence[Observed]) -> Size | None:
    index = next((shape_of_dims(op.dims[1]) for op in ops if embeds(op.op) and len(op.dims) > 1), ())
    if len(index) != 2:
        return None
    if any(op.op.startswith(COMPILED) for op in ops):  # no `cat` says what is cached, and attention says both together
        keys = next((shape_of_dims(op.dims[1]) for op in ops if op.op == ATTENTION and len(op.dims) > 1), ())
        return (*index, keys[2] - index[1]) if len(keys) == 4 and keys[2] >= index[1] > 1 else None
    past = next(
        (shape_of_dims(part) for op in ops if op.op == "cat" for parts in op.dims[:1] for part in parts[:1]), ()
    )
    return (*index, past[2] if len(past) == 4 else 0)


# ------------------------------------------------------------------------------------------------ the host


def _taken(events: Iterable[Event]) -> dict[Track, list[tuple[Event, Args]]]:
    """The ops at the table's level, none inside another, by track and start, and what is said of each. Ops on an empty
    tensor do nothing."""
    tracks = grouped((event for event in events if event.cat == "cpu_op"), attrgetter("track"))
    return {track: _outermost(sorted(ops, key=lambda op: (op.ts, -op.dur))) for track, ops in tracks.items()}


def _outermost(ops: Sequence[Event]) -> list[tuple[Event, Args]]:
    """Of a track's ops, which nest, those that are taken."""
    taken: list[tuple[Event, Args]] = []
    until = -math.inf
    for i, op in enumerate(ops):
        if op.end <= until + 2 * _NANOSECOND_US:
            continue
        if counts(op.name):
            if op.name == "aten::where" and wraps(_inside(ops, i)):
                continue
        elif not is_leaf(op.name) or any(counts(name) or is_leaf(name) for name in _inside(ops, i)):
            continue
        args = args_of(op)
        if args.is_empty:
            continue
        until = op.end
        taken.append((op, args))
    return taken


def _inside(ops: Sequence[Event], place: int) -> list[str]:
    """The names of the first ops that run inside one of a track's."""
    ends = ops[place].end + 2 * _NANOSECOND_US
    following = ops[place + 1 : place + 1 + _MOST_INSIDE]
    return [inner.name for inner in takewhile(lambda inner: inner.ts < ends, following)]


def _host_op(event: Event, args: Args, origin_us: float) -> Observed:
    """An op with its time on the host."""
    op, start_s = table_op(event.name), 1e-6 * (event.ts - origin_us)
    dims: tuple[Any, ...] = tuple(args.shapes) if op in TELLING or embeds(op) else ()
    types = tuple(args.type_names) if dims else ()
    if op.startswith(COMPILED) and dims:
        dims, types = _embedding_in(dims, types), ()
    return Observed(op, (), 1e-6 * event.dur, start_s, dims, types)


def _embedding_in(dims: Sequence[Any], types: Sequence[str]) -> tuple[Any, ...]:
    """The tables and the token ids among the operands of a fused kernel, as an embedding has them: the first table,
    the ids, and the table of positions."""
    matrices = [(dim, kind) for dim, kind in zip(dims, types, strict=False) if len(shape_of_dims(dim)) == 2]
    ids = [dim for dim, kind in matrices if kind.startswith("long")]
    tables = [dim for dim, kind in matrices if not kind.startswith("long")]
    return (tables[0], ids[0], *tables[1:2]) if tables and ids else ()


# ------------------------------------------------------------------------------------------------ the device


def _launched(file: TraceFile, tracks: Mapping[Track, Sequence[Event]]) -> list[Launched]:
    """What ran on devices, in order, each with the place of the op that launched it."""
    launches = {args_of(e).number: e for e in file.slices if e.cat.endswith(("_runtime", "_driver"))}
    starts = {track: [op.ts for op in ops] for track, ops in tracks.items()}

    def launched_by(number: str) -> Place | None:
        launch = launches.get(number) if number else None
        if launch is None or "GraphLaunch" in launch.name:
            return None
        track = launch.track
        place = bisect_right(starts.get(track, []), launch.ts) - 1
        return (track, place) if place >= 0 and launch.ts <= tracks[track][place].end else None

    kernels = []
    for event in sorted((e for e in file.slices if e.cat in ON_DEVICE), key=attrgetter("ts")):
        args = args_of(event)
        device = event.pid if args.device is None else args.device
        stream = event.tid if args.stream is None else args.stream
        kernels.append(Launched(event, str(device)[:40], str(stream)[:40], launched_by(args.number)))
    return kernels


def _gathered(kernels: Sequence[Launched], ops: Mapping[Place, Observed]) -> tuple[Observed, ...]:
    """Kernels gathered under the ops that launched them; those without an op, such as a graph's, one by one."""
    origin_us = kernels[0].event.ts
    gathered = grouped(enumerate(kernels), lambda item: item[0] if item[1].op is None else item[1].op)
    observed = []
    for launcher, items in gathered.items():
        slices = [kernel.event for _, kernel in items]
        op = Observed("", (), 0.0, 0.0) if isinstance(launcher, int) else ops[launcher]
        start_s = 1e-6 * (slices[0].ts - origin_us)
        seconds = 1e-6 * sum(piece.dur for piece in slices)
        observed.append(replace(op, kernels=tuple(e.name for e in slices), seconds=seconds, start_s=start_s))
    return _in_order(observed)


def _predicted_kernels(kernels: Sequence[Launched]) -> tuple[Observed, ...]:
    """The kernels of a predicted trace, each of which says which op of the cost table it is."""
    origin_us = kernels[0].event.ts
    observed = []
    for event in (kernel.event for kernel in kernels):
        args, start_s = args_of(event), 1e-6 * (event.ts - origin_us)
        op = Observed(str(args.op), (event.name,), 1e-6 * event.dur, start_s, tuple(args.shapes), in_stream=True)
        observed.append(op)
    return _in_order(observed)
