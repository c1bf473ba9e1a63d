"""The pictures of a page: which there are, of what, and where each stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.output.field import Record
from gpt2cost.output.pictures.plot_data import Breakdown, Curve, Picture, breakdown, curve, roofline
from gpt2cost.output.pictures.plot_memory import memory, memory_of_training, memory_over_tokens
from gpt2cost.output.pictures.plot_runs import generated, step_split
from gpt2cost.output.pictures.plot_timeline import timeline
from gpt2cost.output.report.svg import draw, draw_curve
from gpt2cost.prediction.generate import Generation
from gpt2cost.prediction.one_pass import uncapturable
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.prediction.settings import LEAST, Sizes, check_device, is_decode
from gpt2cost.prediction.train import Training

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = 12
"""How many contexts a curve goes through, evenly up to the model's last position."""
MOST_LINES = 7
"""Devices of a curve: as many as can be told apart."""
TRAINING_GPUS = (1, 2, 4, 8)
HOW = ("dtype", "attn", "runtime", "logits", "use_cache", "cache_type", "impl")


def chart(id: str, make: Callable[..., Picture], *given: Any, **settings: Any) -> Iterator[Record]:
    """A picture, or nothing where it cannot be made: of too many slices, say."""
    try:
        data = make(*given, **settings)
    except InputError:
        return
    yield _record(id, data, draw(data))


def _record(id: str, data: Picture, svg: str) -> Record:
    return {"id": id, "title": data.title, "subtitle": data.subtitle, "svg": Markup(svg)}  # names in it are escaped


def pass_charts(prediction: Prediction) -> Iterator[tuple[str, list[Record]]]:
    """Roofline, timeline and live memory of each phase of a single-point prediction."""
    for phase in prediction.phases:
        name, alone = phase.phase, replace(prediction, phases=(phase,))
        made = {"roofline": roofline, "timeline": timeline, "memory": memory}
        yield name, [record for kind, make in made.items() for record in chart(f"{kind}-{name}", make, alone)]


def generate_charts(generation: Generation | None) -> list[Record]:
    """Time per token with and without a cache, and live bytes over the tokens."""
    if generation is None or generation.settings.new_tokens < 2:
        return []
    own, model, hw = generation.settings, generation.model, generation.hardware
    settings = {name: getattr(own.how, name) for name in ("dtype", "attn", "runtime", "cache_type", "impl")}
    settings |= {"prompt_tokens": own.prompt_tokens, "new_tokens": own.new_tokens, "batch": own.batch_size}
    settings |= {"sample": own.sample, "padded": own.padded}
    return [
        *chart("generate-time", generated, model, hw, **settings),
        *chart("generate-memory", memory_over_tokens, generation),
    ]


def train_charts(training: Training | None) -> list[Record]:
    """Live bytes over a step, and the step's time by micro-batch and by GPUs."""
    if training is None:
        return []
    model, hw, how, batch = training.model, training.hardware, training.train, training.batch
    given = {"micro_batch": batch.micro_batch, "seq": batch.seq_len, "grad_accum": batch.grad_accum, "gpus": batch.gpus}
    batches, gpus = sorted({*BATCHES, batch.micro_batch}), sorted({*TRAINING_GPUS, batch.gpus})
    return [
        *chart("train-memory", memory_of_training, training),
        *chart("train-micro-batch", step_split, model, hw, how, {**given, "micro_batch": batches}),
        *chart("train-gpus", step_split, model, hw, how, {**given, "gpus": gpus}),
    ]


# ---------------------------------------------------------------------------------------------- curves


def curves(prediction: Prediction, others: Sequence[Hardware] = ()) -> list[Record]:
    """Each phase over the batch and over the context: on all devices that can run it, and by kind of kernel."""
    records = []
    for phase in prediction.phases:
        for axis, lines, kinds in page_curves(prediction, phase, others):
            asked = {"batch": phase.batch_size, "seq": phase.seq_len, "cache": phase.cache_len}[axis]
            records.append(_record(f"curve-{phase.phase}-{axis}", lines, draw_curve(lines, float(asked))))
            records.append(_record(f"kinds-{phase.phase}-{axis}", kinds, draw(kinds)))
    return records


def page_curves(
    prediction: Prediction, phase: Phase, others: Iterable[Hardware] = ()
) -> Iterator[tuple[str, Curve, Breakdown]]:
    """Throughput over the batch, latency over the context: new tokens of a prefill, cached ones of a decode step."""
    model, own_device = prediction.model, prediction.hardware
    devices = [own_device, *(hw for hw in others if _runs(hw, prediction))][:MOST_LINES]
    settings: dict[str, Any] = {name: getattr(prediction.how, name) for name in HOW}
    anew = phase.phase == "decode" and not is_decode(
        phase.sizes
    )  # without a cache: a pass over all tokens and one more
    own = {"batch": phase.batch_size, "seq": phase.seq_len - anew, "cache": phase.cache_len}
    context = "cache" if is_decode(phase.sizes) else "seq"
    largest = model.n_positions - (1 if phase.phase == "decode" else own["cache"])
    swept = {
        "batch": ("throughput", sorted({*BATCHES, own["batch"]})),
        context: ("latency", sorted({*_contexts(largest), own[context]})),
    }
    for axis, (quantity, every) in swept.items():
        values = [value for value in every if not _uncapturable(prediction, {**own, axis: value})]
        if len(values) > 1:
            sizes: dict[str, object] = {**own, axis: values}
            yield (
                axis,
                curve(model, devices, sizes, phase.phase, quantity, **settings),
                breakdown(model, own_device, sizes, phase.phase, **settings),
            )


def _uncapturable(prediction: Prediction, sizes: dict[str, Any]) -> bool:
    """Whether no CUDA graph can be captured of a pass of these sizes."""
    how = prediction.how
    return bool(uncapturable(prediction.model, how, Sizes(*(sizes[name] for name in LEAST)))[0])


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
