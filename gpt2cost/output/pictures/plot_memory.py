"""What a picture of memory shows: bytes that are alive over the steps of a pass, over generated tokens, or over a
training step, stacked by what they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from gpt2cost.errors import InputError
from gpt2cost.output.pictures.plot_data import Floats, Picture, how_line, pass_line, step_line
from gpt2cost.prediction.generate import Generation
from gpt2cost.prediction.one_pass import buffers_bytes, cache_bytes, weights_bytes
from gpt2cost.prediction.predict import Phase, Prediction, predict_run
from gpt2cost.prediction.train import Training
from gpt2cost.prediction.train_memory import PARTS, memory_by_kernel, memory_of
from gpt2cost.prediction.turns import Turns
from gpt2cost.table.heads import HEAD_MODULES
from gpt2cost.table.kernel import Kernel, Row, short_path
from gpt2cost.table.liveness import LAYER_CACHE, live_tensors
from gpt2cost.units import format_quantity

WEIGHTS, CACHE, ACTIVATIONS = "weights", "KV cache", "activations"
NAMED = 6
"""Tensors that a close picture shows under their own names."""
OTHERS = "other tensors"
OLD = {"past_key": "old keys of the layer", "past_value": "old values of the layer"}
LAST = 1.06
"""So many times as far as its kernels goes the axis of a training step: the optimiser's few are shown wide."""


@dataclass(frozen=True)
class Section:
    """Neighbouring positions that belong together, both included: a layer, the forward pass."""

    label: str
    first: int
    last: int


@dataclass(frozen=True)
class Stack:
    """Bytes by what they are at each position, (positions,) each; the parts add up.

    What stands at a position lasts until the next one, the last until `end`. `names` are those of the positions where
    they are kernels, and else empty.
    """

    title: str
    axis_text: str
    positions: Floats
    end: float
    names: tuple[str, ...]
    sections: tuple[Section, ...]
    parts: dict[str, Floats]

    @property
    def total(self) -> Floats:
        return np.asarray(sum(self.parts.values()), np.float64)


@dataclass(frozen=True)
class Memory(Picture):
    """Live bytes. `whole`: all of them; `close`: activations by tensor, in a part of it, if there is one.

    `peak`: the place of the largest in `whole`; `peak_text`: what is the most of it, and `advice`: what would make it
    smaller, "" where no setting does.
    """

    whole: Stack
    close: Stack | None
    peak: int
    peak_text: str
    advice: str
    capacity_bytes: float

    @property
    def peak_bytes(self) -> float:
        return float(self.whole.total[self.peak])


# ---------------------------------------------------------------------------------------------- a pass


def memory(prediction: Prediction) -> Memory:
    """The first phase of a single-point prediction, kernel by kernel."""
    phase, model = prediction.phases[0], prediction.model
    moments = list(_moments(prediction, phase))
    buffers = buffers_bytes(model, prediction.how, phase.symbols)
    weights = weights_bytes(model, prediction.how.dtype)
    parts = {
        WEIGHTS: np.full(len(moments), weights, np.float64),
        CACHE: np.array([moment.cache for moment in moments], np.float64),
        ACTIVATIONS: np.array([sum(moment.tensors.values()) + buffers for moment in moments], np.float64),
    }
    if not prediction.how.use_cache:
        del parts[CACHE]
    names = tuple(moment.name for moment in moments)
    whole = Stack(
        "the whole pass", "kernels of the pass, in order", np.arange(len(moments), dtype=np.float64),
        float(len(moments)), names, _sections(moment.section for moment in moments), parts,
    )  # fmt: skip
    peak = int(np.argmax(whole.total))
    start = next(i for i, moment in enumerate(moments) if moment.section == f"h.{model.n_layer - 1}")
    return Memory(
        title=f"Memory of {model.name} on {prediction.hardware.name}: predicted {phase.phase}",
        subtitle=f"{pass_line(phase)}\n{how_line(prediction.how)}",
        warnings=prediction.warnings,
        whole=whole,
        close=_close(moments[start:]),
        peak=peak,
        peak_text=f"{names[peak]}: "
        + ", ".join(f"{OLD.get(name, name)} {format_quantity(size, 'B')}" for name, size in moments[peak].largest),
        advice=_advice(prediction),
        capacity_bytes=prediction.memory.capacity_bytes,
    )


@dataclass(frozen=True)
class _Moment:
    """A kernel that runs: where, the bytes of the KV cache in all layers, and of each other tensor that is alive.

    `largest`: the largest tensors alive, the layer's old keys and values among them.
    """

    name: str
    section: str
    cache: int
    tensors: dict[str, int]
    largest: tuple[tuple[str, int], ...]


def _moments(prediction: Prediction, phase: Phase) -> Iterator[_Moment]:
    """All layers laid out. The table's block is its last copy: the caches of the layers before it have grown already,
    and in an earlier one those of the layers after it have not.
    """
    how, rows, layers = prediction.how, phase.pass_.rows, prediction.model.n_layer
    alive = live_tensors(rows, phase.symbols, how.use_cache)
    cached = LAYER_CACHE if how.use_cache else ()
    own = [sum(size for name, size in tensors.items() if name in cached) for tensors in alive]
    others = [{name: size for name, size in tensors.items() if name not in cached} for tensors in alive]
    whole = cache_bytes(prediction.model, how, phase.batch_size, phase.symbols["kv_len"])
    block = [row.index for row in rows if row.count != 1]
    growth = -own[block[0]]  # of a layer's, once it has run
    for row, layer in _laid_out(rows, layers):
        if isinstance(row.step, Kernel) and row.step.when.evaluate(phase.symbols):
            behind = layers - 1 - layer if row.index <= block[-1] else 0
            yield _Moment(
                short_path(row.path), _section(row, layer, block),
                whole + own[row.index] - behind * growth, others[row.index], _largest(alive[row.index]),
            )  # fmt: skip


def _laid_out(rows: Sequence[Row], layers: int) -> Iterator[tuple[Row, int]]:
    """Each row as often as it comes, with its layer: before the block the first, after it the last."""
    done = 0
    for is_block, run in groupby(rows, key=lambda row: row.count != 1):
        own = list(run)
        for layer in range(layers) if is_block else (done,):
            yield from ((row, layer) for row in own)
            done = layer


def _section(row: Row, layer: int, block: Sequence[int]) -> str:
    if row.index < block[0]:
        return "embeddings"
    if row.index <= block[-1]:
        return f"h.{layer}"
    first = row.module.split(".")[0]
    return first if first in HEAD_MODULES else "ln_f"


def _sections(labels: Iterable[str]) -> tuple[Section, ...]:
    sections, start = [], 0
    for label, run in groupby(labels):
        end = start + len(list(run))
        sections.append(Section(label, start, end - 1))
        start = end
    return tuple(sections)


def _close(moments: Sequence[_Moment]) -> Stack:
    """Activations by tensor, the largest under their names."""
    largest: dict[str, int] = {}
    for moment in moments:
        for name, size in _by_family(moment.tensors).items():
            largest[name] = max(size, largest.get(name, 0))
    named = sorted(largest, key=lambda name: -largest[name])[:NAMED]
    families = [_by_family(moment.tensors) for moment in moments]
    parts = {name: np.array([own.get(name, 0) for own in families], np.float64) for name in named}
    rest = np.array([sum(m.tensors.values()) for m in moments], np.float64) - sum(parts.values())
    names = tuple(moment.name for moment in moments)
    return Stack(
        f"activations by tensor, from {moments[0].section} on", "", np.arange(len(moments), dtype=np.float64),
        float(len(moments)), names, _sections(moment.section for moment in moments), {**parts, OTHERS: rest},
    )  # fmt: skip


def _by_family(tensors: Mapping[str, int]) -> dict[str, int]:
    """The tensors with those of one step together, such as the activation's: `act.*`."""
    families: dict[str, int] = {}
    for name, size in tensors.items():
        first, dot, _ = name.partition(".")
        own = f"{first}.*" if dot and first not in ("attn", "mlp") else name
        families[own] = families.get(own, 0) + size
    return families


def _largest(tensors: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    first, *others = sorted((item for item in tensors.items() if item[1] > 0), key=lambda item: -item[1])
    return (first, *(other for other in others[:1] if other[1] > 0.1 * first[1]))


def _advice(prediction: Prediction) -> str:
    """The one setting that lowers the peak most, by a prediction with it."""
    how, phase = prediction.how, prediction.phases[0]
    changes = {
        "--logits last": replace(how, logits="last"),
        "--attn sdpa": replace(how, attn="sdpa"),
        "--runtime compile": replace(how, runtime="compile"),
    }
    now = _total(prediction)
    saved: dict[str, int] = {}
    for flag, changed in changes.items():
        if changed == how:
            continue
        with suppress(InputError):
            other = predict_run(prediction.model, prediction.hardware, changed, phase.sizes, phase.phase)
            saved[flag] = now - _total(other)
    best = max(saved, key=lambda flag: saved[flag], default="")
    if not best or saved[best] < 0.01 * phase.activations_bytes:
        return ""
    return f"{best} would save {format_quantity(saved[best], 'B')}"


def _total(prediction: Prediction) -> int:
    """Weights, cache and activations of the first phase at its fullest."""
    phase, how = prediction.phases[0], prediction.how
    cache = cache_bytes(prediction.model, how, phase.batch_size, phase.kv_len)
    return int(prediction.memory.weights_bytes + cache + phase.activations_bytes)


# ---------------------------------------------------------------------------------------------- generated tokens


def memory_over_tokens(generation: Generation) -> Memory:
    """A generation, token by token, each at its fullest moment."""
    model, hw, settings = generation.model, generation.hardware, generation.settings
    turns, count = Turns(model, hw, settings), settings.new_tokens
    first = turns.memory(0)
    rest = turns.memory(np.arange(1, count, dtype=np.float64))
    names = (WEIGHTS, CACHE, ACTIVATIONS)
    parts = {
        name: np.concatenate([[own], np.broadcast_to(later, count - 1)]).astype(np.float64)
        for name, own, later in zip(names, first, rest, strict=True)
    }
    if not settings.how.use_cache:
        del parts[CACHE]
    sections = (Section("prompt", 0, 0), *((Section("later tokens", 1, count - 1),) if count > 1 else ()))
    whole = Stack(
        "", "generated tokens per sequence", np.arange(1, count + 1, dtype=np.float64), count + 1.0, (), sections, parts
    )
    peak = int(np.argmax(whole.total))
    largest = max((name for name in parts if name != WEIGHTS), key=lambda name: parts[name][peak])
    size = format_quantity(float(parts[largest][peak]), "B")
    return Memory(
        title=f"Memory of {model.name} on {hw.name}: predicted generation",
        subtitle=f"batch {settings.batch_size}, {settings.prompt_tokens} + {count} tokens\n{how_line(settings.how)}",
        warnings=generation.warnings,
        whole=whole,
        close=None,
        peak=peak,
        peak_text=f"{'the prompt' if peak == 0 else f'token {peak + 1}'}: {largest} {size}",
        advice="",
        capacity_bytes=round(hw.memory.usable_bytes),
    )


# ---------------------------------------------------------------------------------------------- a training step


def memory_of_training(training: Training) -> Memory:
    """The last micro-step of a training step, kernel by kernel, and the optimiser's step."""
    model, hw, how, batch = training.model, training.hardware, training.train, training.batch
    moments = memory_by_kernel(model, hw, how, batch)
    parts = {
        name.removesuffix("_bytes"): np.array([getattr(held, name) for _, held in moments], np.float64)
        for name in PARTS
    }
    parts = {name: sizes for name, sizes in parts.items() if np.any(sizes)}
    names = tuple(str(held.peak_at) for _, held in moments)
    labels = ["optimizer" if step is None else step.where[0].partition(" ")[0] for step, _ in moments]
    whole = Stack(
        "", "kernels of the last micro-step, then the optimizer", np.arange(len(moments), dtype=np.float64),
        LAST * len(moments), names, _sections(labels), parts,
    )  # fmt: skip
    peak = int(np.argmax(whole.total))
    saved = 0
    if how.checkpointing == "none":
        saved = (
            training.memory.total_bytes - memory_of(model, hw, replace(how, checkpointing="block"), batch).total_bytes
        )
    accum = f", {batch.grad_accum} micro-steps" if batch.grad_accum > 1 else ""
    gpus = f", {batch.gpus} GPUs" if batch.gpus > 1 else ""
    return Memory(
        title=f"Memory of {model.name} on {hw.name}: predicted training step",
        subtitle=f"micro-batch {batch.micro_batch}, {batch.seq_len} tokens per sequence{accum}{gpus}\n{step_line(how)}",
        warnings=training.warnings,
        whole=whole,
        close=None,
        peak=peak,
        peak_text=names[peak].replace(" (", ": ").removesuffix(")"),
        advice=f"--checkpointing block would save {format_quantity(saved, 'B')}" if saved > 0 else "",
        capacity_bytes=training.memory.capacity_bytes,
    )
