"""The pictures of a page: which there are, of what, and where each stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.output import plot_data, plot_memory, plot_runs, plot_timeline, svg
from gpt2cost.output.field import Record
from gpt2cost.output.plot_data import Picture
from gpt2cost.prediction.generate import Generation
from gpt2cost.prediction.predict import Prediction
from gpt2cost.prediction.settings import check_device
from gpt2cost.prediction.train import Training

LEAST_CONTEXT, MOST_BATCH = 16, 64


def chart(id: str, make: Callable[..., Picture], *given: Any, **settings: Any) -> Iterator[Record]:
    """A picture, or nothing where it cannot be made: one size too many, say."""
    try:
        data = make(*given, **settings)
        drawn = svg.draw(data)
    except (InputError, KeyError):
        return
    yield {"id": id, "title": data.title, "subtitle": data.subtitle, "svg": Markup(drawn)}


def pass_charts(prediction: Prediction) -> Iterator[tuple[str, list[Record]]]:
    """Roofline, timeline and live memory of each phase."""
    for phase in prediction.phases:
        name, alone = phase.phase, replace(prediction, phases=(phase,))
        yield (
            name,
            [
                *chart(f"roofline-{name}", plot_data.roofline, alone),
                *chart(f"timeline-{name}", plot_timeline.timeline, alone),
                *chart(f"memory-{name}", plot_memory.memory, alone),
            ],
        )


def curves(prediction: Prediction, others: Sequence[Hardware]) -> list[Record]:
    """Latency over batch and over context, of every device that can run it."""
    model, how, sizes = prediction.model, prediction.how, prediction.sizes
    devices = [hw for hw in (prediction.hardware, *others) if _runs(hw, prediction)]
    names = ("dtype", "attn", "runtime", "logits", "use_cache", "cache_type", "impl")
    settings = {name: getattr(how, name) for name in names}
    batches = sorted({*_powers(1, max(MOST_BATCH, 2 * sizes.batch_size)), sizes.batch_size})
    longest = model.n_positions
    found: list[Record] = []
    for phase in prediction.phases:
        own = {"batch": sizes.batch_size, "seq": sizes.seq_len, "cache": sizes.cache_len}
        over_batch = {**own, "batch": batches}
        if phase.phase == "prefill" or not how.use_cache:
            contexts = sorted({*_powers(LEAST_CONTEXT, 2 * longest), longest, sizes.seq_len})
            over_context = {**own, "seq": [size for size in contexts if size > 1]}
        else:
            over_context = {**own, "seq": 1, "cache": [*range(longest // 16, longest, longest // 16), longest - 1]}
        for axis, swept in (("batch", over_batch), ("context", over_context)):
            found += chart(
                f"curve-{phase.phase}-{axis}", plot_data.curve, model, devices, swept, phase.phase, **settings
            )
            found += chart(
                f"kinds-{phase.phase}-{axis}", plot_data.breakdown, model, prediction.hardware, swept, phase.phase,
                **settings,
            )  # fmt: skip
    return found


def _runs(hw: Hardware, prediction: Prediction) -> bool:
    try:
        check_device(hw, prediction.how, prediction.model.head_dim)
    except InputError:
        return False
    return True


def _powers(least: int, most: int) -> Iterator[int]:
    while least <= most:
        yield least
        least *= 2


def generate_charts(generation: Generation | None) -> list[Record]:
    """Time and memory token by token."""
    if generation is None or generation.settings.new_tokens < 2:
        return []
    own, how = generation.settings, generation.settings.how
    settings = {"prompt_tokens": own.prompt_tokens, "new_tokens": own.new_tokens, "batch": own.batch_size}
    settings |= {name: getattr(how, name) for name in ("dtype", "attn", "runtime", "impl", "cache_type")}
    return [
        *chart("generate-time", plot_runs.generated, generation.model, generation.hardware, **settings),
        *chart("generate-memory", plot_memory.memory_over_tokens, generation),
    ]


def train_charts(training: Training | None) -> list[Record]:
    """A step along the micro-batch, and what it holds."""
    if training is None:
        return []
    batch = training.batch
    sizes = {
        "micro_batch": sorted({*_powers(1, 2 * batch.micro_batch), batch.micro_batch}), "seq": batch.seq_len,
        "gpus": batch.gpus, "grad_accum": batch.grad_accum, "nodes": batch.nodes,
    }  # fmt: skip
    model, hw = training.model, training.hardware
    return [
        *chart("train-split", plot_runs.step_split, model, hw, training.train, sizes),
        *chart("train-memory", plot_memory.memory_of_training, training),
    ]
