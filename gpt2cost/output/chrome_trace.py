"""A predicted run in Chrome's trace-event format, laid out as torch.profiler exports it.

The format: "Trace Event Format" of the Chromium project. `X` is a slice with `ts` and `dur` in microseconds, `M` names
a track, `s` and `f` are the two ends of an arrow from a launch to its kernel. Perfetto and chrome://tracing open it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.output.field import Record
from gpt2cost.output.shapes import input_dims, shape_numbers
from gpt2cost.output.shared import sizes_text
from gpt2cost.prediction.one_pass import Pass
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.prediction.settings import SIZE_FIELDS
from gpt2cost.table.kernel import Free, Kernel
from gpt2cost.table.options import COMPILED
from gpt2cost.timing.queue import host_cost, waits
from gpt2cost.timing.queue_steps import FINAL_SYNC, GRAPH_LAUNCH, Slice, run_queue

MOST_SLICES = 200_000
"""The most slices that a timeline may have; viewers become slow beyond."""
HOST = {"pid": 1, "tid": 1}
DEVICE = {"pid": 0, "tid": 7}
"""torch.profiler shows a device by its number, and CUDA's default stream as 7."""
DIGITS = 6
"""Of microseconds: a picosecond, so that what follows one another never overlaps and nothing is lost."""


def slice_count(pass_: Pass) -> int:
    """How many slices a pass at one point has, from the formulas."""
    count = 1 if pass_.runtime == "eager" else 2  # the final wait, and the launch of a graph or of compiled code
    for row in pass_.rows:
        replayed = isinstance(row.step, Free) and waits(row.step, pass_.runtime) and pass_.runtime in COMPILED
        takes = (
            isinstance(row.step, Kernel)
            + (host_cost(row.step, pass_.host, pass_.runtime, pass_.symbols) > 0)
            + replayed
        )
        count += row.times(pass_.symbols) * takes
    return count


def slices_of(*phases: Phase) -> list[list[Slice]]:
    """The slices of each phase of a single-point prediction. Raises `InputError` for more than `MOST_SLICES`."""
    count = sum(slice_count(phase.pass_) for phase in phases)
    if count > MOST_SLICES:
        raise InputError(f"a timeline has at most {MOST_SLICES:,} slices, and this one would have {count:,}")
    passes = (phase.pass_ for phase in phases)
    return [list(run_queue(pass_.rows, pass_.launch_s, pass_.symbols, pass_.host, pass_.runtime)) for pass_ in passes]


def chrome_trace(prediction: Prediction) -> Record:
    """The passes of a single-point prediction, one after the other, as one JSON document.

    Raises `InputError` for more than `MOST_SLICES` slices.
    """
    events, start_s, launches = list(_track_names(prediction.hardware)), 0.0, 0
    for phase, slices in zip(prediction.phases, slices_of(*prediction.phases), strict=True):
        end_s = slices[-1].end_s
        sizes = {name: getattr(phase, name) for name in SIZE_FIELDS.values()}
        notes = {"latency_s": end_s, "sizes": sizes_text(phase), **sizes}
        events.append(_slice(HOST, "user_annotation", phase.phase, start_s, start_s + end_s, notes))
        events += _module_events(slices, start_s)
        events += _events(phase.pass_, slices, start_s, launches)
        start_s += end_s
        launches += len(slices)
    document = prediction.to_dict()
    head = {name: value for name, value in document.items() if name not in ("schema_version", "phases", "memory")}
    return {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": prediction.hardware.name}],
        "displayTimeUnit": "ms",
        "traceName": f"gpt2cost: {prediction.model.name} on {prediction.hardware.name}",
        "gpt2cost": {"predicted": True, **head},
        "traceEvents": events,
    }


def _track_names(hardware: Hardware) -> Iterator[Record]:
    """What each track is called, and their order."""
    tracks = [(HOST, "python", "CPU (predicted)", "thread 1 (python)")]
    tracks += [(DEVICE, hardware.name, "GPU 0 (predicted)", "stream 7")]
    for order, (track, process, labels, thread) in enumerate(tracks):
        args = {
            "process_name": {"name": process}, "process_labels": {"labels": labels},
            "process_sort_index": {"sort_index": order}, "thread_name": {"name": thread},
        }  # fmt: skip
        yield from ({"ph": "M", "ts": 0, "name": what, **track, "args": given} for what, given in args.items())


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, DIGITS)


def _slice(track: dict[str, int], category: str, name: str, start_s: float, end_s: float, args: Record) -> Record:
    start, end = _microseconds(start_s), _microseconds(end_s)
    return {
        "ph": "X", "cat": category, "name": name, **track, "ts": start, "dur": round(end - start, DIGITS), "args": args,
    }  # fmt: skip


def _module_events(slices: Iterable[Slice], offset_s: float) -> Iterator[Record]:
    """A slice for each call of a module on the host track: from its first step to its last, nested as the modules."""
    open_: list[tuple[str, float]] = []
    end_s = 0.0

    def closed(depth: int) -> Iterator[Record]:
        while len(open_) > depth:
            path = ".".join(name for name, _ in open_)
            _, start_s = open_.pop()
            if path not in ("transformer.h", "h"):
                args = {"module": path}
                yield _slice(HOST, "python_function", f"nn.Module: {path}", offset_s + start_s, offset_s + end_s, args)

    for piece in slices:
        if piece.track == "device":
            continue
        names = piece.module.split(".") if piece.module else []
        shared = 0
        while shared < min(len(names), len(open_)) and open_[shared][0] == names[shared]:
            shared += 1
        yield from closed(shared)
        open_ += [(name, piece.start_s) for name in names[shared:]]
        end_s = piece.end_s
    yield from closed(0)


def _dims(step: Kernel | Free, values: Mapping[str, Any]) -> Record:
    """The shapes of what a step takes, as torch.profiler writes them, and likewise of what it gives."""
    outputs = [shape_numbers(tensor.shape, values) for tensor in step.outputs]
    return {name: dims for name, dims in (("Input Dims", input_dims(step, values)), ("Output Dims", outputs)) if dims}


def _events(pass_: Pass, slices: Iterable[Slice], offset_s: float, launches: int) -> Iterator[Record]:
    costs = {cost.row.index: cost for cost in pass_.kernels}
    dims = {row.index: _dims(row.step, pass_.symbols) for row in pass_.rows}
    issued: dict[int, Slice] = {}
    graph: Slice | None = None
    for piece in slices:
        start_s, end_s = offset_s + piece.start_s, offset_s + piece.end_s
        if piece.track == "host":
            if piece.launch is not None:
                issued[piece.launch] = piece
            graph = piece if piece.name == GRAPH_LAUNCH else graph
            is_call = piece.name in (GRAPH_LAUNCH, FINAL_SYNC)
            numbers = {} if piece.launch is None else {"External id": launches + piece.launch}
            shapes = {} if is_call or piece.row is None else dims[piece.row.index]
            args = {**numbers, **shapes}
            yield _slice(HOST, "cuda_runtime" if is_call else "cpu_op", piece.name, start_s, end_s, args)
            if numbers and not is_call:  # the op's whole time: what of it is the launch, the model does not say
                linked = {**numbers, "correlation": numbers["External id"]}
                yield _slice(HOST, "cuda_runtime", "cudaLaunchKernel", start_s, end_s, linked)
            continue
        assert piece.row is not None
        assert piece.launch is not None
        cost, number = costs[piece.row.index], launches + piece.launch
        kernel = cost.kernel
        formulas = {"flops": kernel.flops, "read": kernel.reads, "write": kernel.writes}
        flops, read, write = (formula.evaluate(pass_.symbols) for formula in formulas.values())
        args = {
            "device": DEVICE["pid"], "stream": DEVICE["tid"], "correlation": number, "External id": number,
            "module": piece.module, "op": kernel.op, "kind": kernel.kind, "flops": flops, "read_bytes": read,
            "write_bytes": write, "bound": str(cost.bound),
            **{f"{name}_formula": str(formula) for name, formula in formulas.items()}, "source": str(kernel.source),
            **dims[piece.row.index],
        }  # fmt: skip
        yield _slice(DEVICE, "kernel", piece.name, start_s, end_s, args)
        cause = issued.get(piece.launch, graph)
        assert cause is not None
        arrow = {"cat": "ac2g", "name": "ac2g", "id": number}
        yield {"ph": "s", **arrow, **HOST, "ts": _microseconds(offset_s + cause.start_s)}
        yield {"ph": "f", **arrow, **DEVICE, "ts": _microseconds(start_s), "bp": "e"}
