"""What is in a trace that is compared with nothing: of which model it seems, on what it ran, and what took its time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpt2cost.device.driver_names import device_called
from gpt2cost.errors import plain
from gpt2cost.measure.observed import pass_starts
from gpt2cost.measure.torch_trace import Size, Trace
from gpt2cost.measure.trace_says import Said, said_by, trains
from gpt2cost.output.field import Field, Record, attribute, record_of, titled
from gpt2cost.output.page import Page, cut
from gpt2cost.output.record import View, envelope
from gpt2cost.prediction.settings import SIZE_FIELDS, Sizes
from gpt2cost.units import format_quantity

NAME_WIDTH = 60
MOST_OPS = 20
"""How many ops the text names."""
MOST_SIZES = 8
"""How many sizes of passes it names."""


@dataclass(frozen=True)
class FoundOp:
    """An op, or a kernel of which no op is known, of all passes."""

    op: str
    count: int
    measured_s: float
    share: float


@dataclass(frozen=True)
class FoundTrace:
    """What a trace holds. `gpu`: the device's name here, "" for one that there is no file of. `passes`: how many of
    each size. `ops`: the longest first."""

    said: Said
    predicted: bool
    is_training: bool
    on_device: bool
    gpu: str
    passes: Mapping[Size | None, int]
    ops: Sequence[FoundOp]

    @property
    def measured_s(self) -> float:
        return sum(op.measured_s for op in self.ops)


OP: tuple[Field[FoundOp], ...] = (
    Field("op", "op", "", lambda op: op.op), attribute("count", "count"), attribute("measured_s", "time", "own s"),
    attribute("share", "share", "%"),
)  # fmt: skip
_NAME: Field[FoundOp] = Field("op", "op", "", lambda op: cut(op.op, NAME_WIDTH))


def found_in(trace: Trace) -> FoundTrace:
    """What a trace holds."""
    said = said_by(trace)
    seconds: dict[str, list[float]] = defaultdict(list)
    for op in trace.observed:
        seconds[op.op or ", ".join(op.kernels)].append(op.seconds)
    total_s = sum(op.seconds for op in trace.observed) or 1.0
    ops = [FoundOp(name, len(times), sum(times), sum(times) / total_s) for name, times in seconds.items()]
    device = device_called(said.device) if said.device else None
    passes = {size: max(1, len(pass_starts(ops))) for size, ops in trace.by_size.items()}
    longest = sorted(ops, key=lambda op: -op.measured_s)
    predicted, training = trace.file.prediction is not None, trains(trace)
    return FoundTrace(said, predicted, training, trace.on_device, device.name if device else "", passes, longest)


def _rows(found: FoundTrace) -> list[Record]:
    return [{"device": found.said.device, "gpu": found.gpu, **record_of(OP, op)} for op in found.ops]


def _document(found: FoundTrace) -> Record:
    said = found.said
    sizes = [
        {**dict(zip(SIZE_FIELDS.values(), size or (None,) * 3, strict=True)), "passes": count}
        for size, count in found.passes.items()
    ]
    return {
        **envelope(),
        "predicted": found.predicted,
        "training": found.is_training,
        "on_device": found.on_device,
        "device": said.device or None,
        "gpu": found.gpu or None,
        "torch": said.torch or None,
        "dtypes": list(said.dtypes),
        "settings": dict(said.settings),
        "model": dict(said.dimensions),
        "presets": said.presets,
        "sizes": sizes,
        "measured_s": found.measured_s,
        "ops": [record_of(OP, op) for op in found.ops],
    }


def _text(page: Page, found: FoundTrace) -> None:
    said, presets = found.said, found.said.presets
    what = "of gpt2cost, predicted" if found.predicted else "of torch.profiler"
    where = "on the device" if found.on_device else "on the host: no kernels of a device in it"
    page.line(f"a trace {what}: {format_quantity(found.measured_s, 's')} {where}", style="bold")
    sizes = [_size_text(size, count) for size, count in found.passes.items()]
    more = f" and {len(sizes) - MOST_SIZES} more sizes" if len(sizes) > MOST_SIZES else ""
    what = "a training step, whose forward passes are" if found.is_training else "passes"
    page.line(f"{what}: {', '.join(sizes[:MOST_SIZES])}{more}")
    if said.device:
        here = f", here {found.gpu}" if found.gpu else ", of which there is no file"
        page.line(f"device: {plain(said.device)}", here if said.device != found.gpu else "")
    how = [" or ".join(said.dtypes), *(f"{name} {value}" for name, value in said.settings.items() if name != "dtype")]
    if any(how):
        page.line(f"how: {', '.join(filter(None, how))}")
    if said.dimensions:
        whose = f"those of {' or '.join(presets)}" if presets else "of no preset"
        page.line(f"model: {', '.join(f'{name} {size}' for name, size in said.dimensions.items())}: {whose}")
    page.line()
    page.fields(found.ops[:MOST_OPS], (_NAME, *titled(OP)[1:]))
    if len(found.ops) > MOST_OPS:
        page.line(f"and {len(found.ops) - MOST_OPS} more")
    if found.is_training:
        page.line("\na step is predicted by gpt2cost train; forward passes alone are compared here")
        return
    model, gpu = presets[0] if presets else "MODEL", found.gpu or "GPU"
    page.line(f"\nto compare it with a prediction: --model {model} --gpu {gpu}")


def _size_text(size: Size | None, count: int) -> str:
    """`3 of 8x1+512`, as elsewhere: batch, new tokens and cached ones."""
    return f"{count} of {'a size that was not recorded' if size is None else Sizes(*size).text}"


FOUND: View[FoundTrace] = View(_rows, _document, _text)
"""What is in a trace. A row per op."""
