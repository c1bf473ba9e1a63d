"""The same training on several devices, models, precisions or numbers of GPUs, side by side, by tokens per second."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2cost.prediction.compare import Crossover
from gpt2cost.prediction.energy import EnergyBound
from gpt2cost.prediction.grid import Axis
from gpt2cost.prediction.search import powers_of_two
from gpt2cost.prediction.train import Training, step_seconds, train_run
from gpt2cost.prediction.train_memory import memory_of
from gpt2cost.prediction.train_settings import Batch, many
from gpt2cost.prediction.train_sweep import TrainChoice, TrainGrid, make_train_grid, plan_training, possible_batches
from gpt2cost.result import Result

MOST_MICRO_BATCH = 1 << 12
"""Crossovers are looked for up to this micro-batch."""
LEAST_SEQ = 64
"""And from this length of a sequence on: nobody trains on shorter ones."""
UNSAID = ("", "1 GPU", "1 node", "hf", "checkpointing none", "zero 0", "1 micro-step")
"""What goes without saying."""


@dataclass(frozen=True, eq=False)
class TrainCandidate:
    """A predicted step with the label that tells it from the others."""

    label: str
    choice: TrainChoice
    training: Training


@dataclass(frozen=True, eq=False, repr=False)
class TrainComparison(Result):
    """What `compare` returns of training. The first candidate is what the others are measured against.

    `common`: names and sizes that all candidates share, but for what goes without saying.
    """

    shown_by = "train_compare"

    candidates: tuple[TrainCandidate, ...]
    common: tuple[str, ...]
    crossovers: tuple[Crossover, ...]
    warnings: tuple[str, ...]

    def energy_bounds(self) -> tuple[EnergyBound, ...]:
        """The energy of each candidate's step. Raises `InputError` for a device without a board power."""
        return tuple(replace(own.training.energy_bounds()[0], of={"label": own.label}) for own in self.candidates)


def compare_training(model: object, gpu: object, **axes: Any) -> TrainComparison:
    """Predict a step at every point of a grid, as `sweep_training` takes it, and where their ranking changes as the
    micro-batch or the sequences grow. Raises `InputError` for what is wrong."""
    grid = make_train_grid(model=model, gpu=gpu, **axes)
    choices, warnings = plan_training(grid)
    return compare_points(candidates_of(grid, choices), warnings)


def candidates_of(grid: TrainGrid, choices: Sequence[TrainChoice]) -> list[tuple[TrainChoice, Batch]]:
    """The points of a grid that can run."""
    return [(choice, batch) for choice in choices for batch in possible_batches(grid, choice)]


def compare_points(points: Sequence[tuple[TrainChoice, Batch]], warnings: Sequence[str] = ()) -> TrainComparison:
    """Predict a step at each of `points`."""
    labels, common = _labels(points)
    candidates = tuple(
        TrainCandidate(label, choice, train_run(choice.model, choice.hardware, choice.train, batch))
        for label, (choice, batch) in zip(labels, points, strict=True)
    )
    crossovers = [
        crossover
        for axis, least, most in (("micro_batch", 1, MOST_MICRO_BATCH), ("seq_len", LEAST_SEQ, _longest(candidates)))
        for crossover in _crossovers(candidates, axis, least, most)
    ]
    own = (
        f"{candidate.label}: {warning}"
        for candidate in candidates
        for warning in candidate.training.warnings
        if warning not in candidate.choice.model.notes
    )
    return TrainComparison(candidates, common, tuple(crossovers), (*warnings, *own))


def _labels(points: Sequence[tuple[TrainChoice, Batch]]) -> tuple[list[str], tuple[str, ...]]:
    """What tells the points apart: names and sizes that differ, a number where none does; and what all share."""
    names = [tuple(_names(choice, batch)) for choice, batch in points]
    shared = [len(set(values)) == 1 for values in zip(*names, strict=True)]
    varying = [place for place, same in enumerate(shared) if not same] or [1]
    labels = [" ".join(name[place] for place in varying) for name in names]
    numbers = [labels[:index].count(label) + 1 for index, label in enumerate(labels)]
    labels = [f"{label} ({number})" if number > 1 else label for label, number in zip(labels, numbers, strict=True)]
    common = itertools.compress(names[0] if names else (), shared)
    return labels, tuple(name for name in common if name not in UNSAID)


def _names(choice: TrainChoice, batch: Batch) -> Iterator[str]:
    how = choice.train
    yield from (choice.model.name, choice.hardware.name)
    yield many(batch.gpus, "GPU")
    yield many(batch.nodes, "node")
    yield from (how.precision, how.how.attn, how.how.runtime, str(how.how.impl), how.optimizer)
    yield f"checkpointing {how.checkpointing}"
    yield f"zero {how.zero}"
    yield f"micro-batch {batch.micro_batch}"
    yield f"seq {batch.seq_len}"
    yield many(batch.grad_accum, "micro-step")
    yield "inside DDP" if how.compile_inside_ddp else ""
    yield "no clipping" if how.clip_grad_norm is None else ""


# ---------------------------------------------------------------------------------------------- crossovers


def _longest(candidates: Sequence[TrainCandidate]) -> int:
    return min(candidate.choice.model.n_positions for candidate in candidates)


def _crossovers(candidates: Sequence[TrainCandidate], axis: str, least: int, most: int) -> list[Crossover]:
    """Where the ranking against the first candidate, by tokens per second, changes as one size grows that is the same
    for all, and the others stay. Two changes between neighbouring powers of two cancel and go unseen."""
    if len({getattr(candidate.training.batch, axis) for candidate in candidates}) > 1 or most <= least:
        return []

    def grown(candidate: TrainCandidate, sizes: Axis) -> Batch:
        return replace(candidate.training.batch, **{axis: sizes.astype(float)})

    def rate(candidate: TrainCandidate, sizes: Axis) -> Any:
        choice, batch = candidate.choice, grown(candidate, sizes)
        seconds = step_seconds(choice.model, choice.hardware, choice.train, batch)
        return np.broadcast_to(batch.global_tokens / seconds, sizes.shape)

    def fits(candidate: TrainCandidate, size: int) -> bool:
        choice = candidate.choice
        memory = memory_of(choice.model, choice.hardware, choice.train, grown(candidate, np.array([size])))
        return bool(np.all(memory.fits))

    coarse = powers_of_two(least, most)
    rates = [rate(candidate, coarse) for candidate in candidates]
    found = []
    for other, other_rates in zip(candidates[1:], rates[1:], strict=True):
        signs = np.sign(other_rates - rates[0])
        for place in np.flatnonzero(signs[1:] * signs[:-1] < 0):
            between = np.arange(coarse[place] + 1, coarse[place + 1] + 1)
            is_after = np.sign(rate(other, between) - rate(candidates[0], between)) == signs[place + 1]
            size = int(between[np.argmax(is_after)])
            before, after = (other, candidates[0]) if signs[place] > 0 else (candidates[0], other)
            both = fits(before, size) and fits(after, size)
            found.append(Crossover("train", axis, size, before.label, after.label, both))
    return sorted(found, key=lambda crossover: crossover.size)
