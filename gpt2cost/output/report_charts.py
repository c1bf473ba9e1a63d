"""The charts of a page: which pictures it has of a prediction, a generation and a training step, each as inline SVG."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.output.plot_data import Curve, Picture, curve, roofline
from gpt2cost.output.plot_memory import memory, memory_of_training, memory_over_tokens
from gpt2cost.output.plot_runs import generated, step_split
from gpt2cost.output.plot_timeline import timeline
from gpt2cost.output.svg import draw, draw_curve
from gpt2cost.prediction.generate import Generation
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.prediction.settings import check_device, is_decode
from gpt2cost.prediction.train import Training

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = 12
"""How many contexts a curve goes through, evenly up to the model's last position."""
MOST_LINES = 7
"""Devices of a curve: as many as can be told apart."""
TRAINING_GPUS = (1, 2, 4, 8)


@dataclass(frozen=True)
class PageChart:
    """A picture of a page: an id that is its own, what stands above it, and its SVG."""

    id: str
    title: str
    subtitle: str
    svg: str


def _chart(id_: str, data: Picture) -> PageChart:
    return PageChart(id_, data.title, data.subtitle, draw(data))


def pass_charts(prediction: Prediction, phase: Phase) -> Iterator[PageChart]:
    """Of one phase of a single-point prediction: its roofline, and its timeline unless that is too long."""
    own = replace(prediction, phases=(phase,))
    yield _chart(f"roofline-{phase.phase}", roofline(own))
    try:
        yield _chart(f"timeline-{phase.phase}", timeline(own))
    except InputError:  # too many slices
        return


def memory_charts(prediction: Prediction) -> Iterator[PageChart]:
    """Live bytes over the kernels of each phase."""
    for phase in prediction.phases:
        yield _chart(f"memory-{phase.phase}", memory(replace(prediction, phases=(phase,))))


def generate_charts(generation: Generation) -> Iterator[PageChart]:
    """Time per token with and without a cache, and live bytes over the tokens."""
    own = generation.settings
    settings = {name: getattr(own.how, name) for name in ("dtype", "attn", "runtime", "cache_type", "impl")}
    sizes = {"prompt_tokens": own.prompt_tokens, "new_tokens": own.new_tokens, "batch": own.batch_size}
    settings |= {**sizes, "sample": own.sample, "padded": own.padded}
    yield _chart("generate-time", generated(generation.model, generation.hardware, **settings))
    yield _chart("generate-memory", memory_over_tokens(generation))


def train_charts(training: Training) -> Iterator[PageChart]:
    """Live bytes over a step, and the step's time by micro-batch and by GPUs."""
    model, hw, how, batch = training.model, training.hardware, training.train, training.batch
    yield _chart("train-memory", memory_of_training(training))
    given = {"micro_batch": batch.micro_batch, "seq": batch.seq_len, "grad_accum": batch.grad_accum, "gpus": batch.gpus}
    swept: dict[str, set[int]] = {"micro_batch": {*BATCHES, batch.micro_batch}, "gpus": {*TRAINING_GPUS, batch.gpus}}
    for axis, values in swept.items():
        try:
            data = step_split(model, hw, how, {**given, axis: sorted(values)})
        except InputError:  # a device without links to others
            continue
        yield _chart(f"train-{axis.replace('_', '-')}", data)


# ---------------------------------------------------------------------------------------------- curves


def curve_charts(prediction: Prediction, others: Sequence[Hardware] = ()) -> Iterator[PageChart]:
    """Each phase over the batch and over the context, on the prediction's device and on `others` that can run it."""
    for phase in prediction.phases:
        for axis, data in page_curves(prediction, phase, others):
            asked = {"batch": phase.batch_size, "seq": phase.seq_len, "cache": phase.cache_len}[axis]
            chart = PageChart(
                f"curve-{phase.phase}-{axis}", data.title, data.subtitle, draw_curve(data, float(asked))
            )  # fmt: skip
            yield chart


def page_curves(
    prediction: Prediction, phase: Phase, others: Iterable[Hardware] = ()
) -> Iterator[tuple[str, Curve]]:  # fmt: skip
    """Throughput over the batch, latency over the context: new tokens of a prefill, cached ones of a decode step."""
    model, how = prediction.model, prediction.how
    devices = [prediction.hardware, *(hw for hw in others if _runs(hw, prediction))][:MOST_LINES]
    names = ("dtype", "attn", "runtime", "logits", "use_cache", "cache_type", "impl")
    settings: dict[str, Any] = {name: getattr(how, name) for name in names}
    anew = phase.phase == "decode" and not is_decode(
        phase.sizes
    )  # without a cache: a pass over all tokens and one more
    own = {"batch": phase.batch_size, "seq": phase.seq_len - anew, "cache": phase.cache_len}
    context = "cache" if is_decode(phase.sizes) else "seq"
    largest = model.n_positions - (1 if phase.phase == "decode" else own["cache"])
    swept: dict[str, tuple[str, list[int]]] = {
        "batch": ("throughput", sorted({*BATCHES, own["batch"]})),
        context: ("latency", sorted({*_contexts(largest), own[context]})),
    }
    for axis, (quantity, values) in swept.items():
        if len(values) > 1:
            yield axis, curve(model, devices, {**own, axis: values}, phase.phase, quantity, **settings)


def _contexts(largest: int) -> list[int]:
    """Round numbers of tokens, evenly up to the last position."""
    step = next(size for size in (2**power for power in range(64)) if size * CONTEXTS >= largest)
    return [*range(step, largest, step), largest] if largest > 1 else []


def _runs(hw: Hardware, prediction: Prediction) -> bool:
    try:
        check_device(hw, prediction.how, prediction.model.head_dim)
    except InputError:
        return False
    return True
