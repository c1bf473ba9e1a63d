"""Of the kernels in a trace those of one device: the one that ran the model, or those among which its layers lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

from gpt2cost.errors import plain
from gpt2cost.measure.observed import ANCHOR, KERNEL_LABELS, Observed, label_of
from gpt2cost.measure.records import grouped
from gpt2cost.measure.trace_file import Event, Track

Place: TypeAlias = tuple[Track, int]
"""Of an op that was taken: its track, and its place there."""

_EMBEDDING = re.compile(next(pattern for pattern, label in KERNEL_LABELS.items() if label == "embedding"))


@dataclass(frozen=True, slots=True)
class Launched:
    """What ran on a device, on a stream of it, and the op that launched it; None of a graph's kernels."""

    event: Event
    device: str
    stream: str
    op: Place | None


@dataclass(frozen=True)
class Chosen:
    """The kernels that are compared, their devices, and why it is those where there are others."""

    kernels: Sequence[Launched]
    devices: tuple[str, ...]
    note: str = ""


def chosen_kernels(kernels: Sequence[Launched], observed: Callable[[Sequence[Launched]], Sequence[Observed]]) -> Chosen:
    """The kernels of the model among `kernels`, of which there is one at least; `observed` gathers them by op.

    Where passes run on several devices, or streams of one, they are replicas, and those of the busiest are taken; a
    model whose layers lie on several devices is taken whole.
    """
    by_device = grouped(kernels, attrgetter("device"))
    devices, note = _of_the_model({name: observed(some) for name, some in by_device.items()}, "device")
    chosen = [kernel for kernel in kernels if kernel.device in devices]
    by_stream = grouped(chosen, attrgetter("stream"))
    if len(devices) == 1 and len(by_stream) > 1:
        parts = {name: observed(some) for name, some in by_stream.items()}
        if len(replicas := [name for name, ops in parts.items() if _runs_passes(ops)]) > 1:
            streams, note_of_streams = _of_the_model({name: parts[name] for name in replicas}, "stream")
            chosen = [kernel for kernel in chosen if kernel.stream in streams or kernel.stream not in replicas]
            note = "; ".join(filter(None, (note, note_of_streams)))
    return Chosen(chosen, tuple(devices), note)


def _of_the_model(parts: Mapping[str, Sequence[Observed]], what: str) -> tuple[list[str], str]:
    """The names of the parts that are the model's, and why it is those."""
    if len(parts) == 1:
        return list(parts), ""
    every = f"kernels of {what}s {_listed(sorted(parts))} in it"
    some = [name for name, ops in parts.items() if _norms(ops)]
    replicas = [name for name in some if _runs_passes(parts[name])]
    if not some:
        return list(parts), ""
    if len(replicas) > 1:
        busiest = max(replicas, key=lambda name: _norms(parts[name]))
        return [busiest], f"{every}, and passes on {_listed(sorted(replicas))}: those of {plain(busiest)} are compared"
    if len(some) > 1:
        return some, f"{every}: the layers ran on {_listed(sorted(some))}, which are compared as one"
    return some, f"{every}: those of {plain(some[0])}, which ran the model, are compared"


def _listed(names: Iterable[str]) -> str:
    return " and ".join(map(plain, names))


def _norms(ops: Iterable[Observed]) -> int:
    return sum(label_of(op) == ANCHOR for op in ops)


def _runs_passes(ops: Sequence[Observed]) -> bool:
    """Whether passes begin among the ops; in compiled code the embedding is a part of a layer norm's kernel."""
    begins = any(op.op == "embedding" or any(map(_EMBEDDING.search, op.kernels)) for op in ops)
    return begins and _norms(ops) > 0
