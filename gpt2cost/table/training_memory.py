"""How much memory a training step holds at its peak, and what stands there.

Layers are alike: the bytes alive at a moment are linear in the number of layers, so that two and three of them, laid
out, give the rest; and since they grow from layer to layer or fall, the peak is in the first or the last one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.table.formula import Condition, Formula, Monomial, formula
from gpt2cost.table.kernel import Kernel, Parameter, Tensor
from gpt2cost.table.optimizer import Optimizer, element_count
from gpt2cost.table.symbols import w
from gpt2cost.table.training import TrainingTable
from gpt2cost.table.training_lifetimes import Layout, Step, lives


@dataclass(frozen=True)
class StepMemory:
    """The bytes at the peak of a training step, by what they are; `total_bytes` is their sum.

    `gradients_bytes`: those of weights alone, and what becomes one; `casts_bytes`: weights in 16 bit; `logits_bytes`:
    logits, their logarithms and gradients; `activations_bytes`: the rest of what the passes hold, parameters that were
    gathered among it, and the optimiser's temporary. `peak_at`: the step and the largest tensor that it makes.
    Integers, or arrays over the sizes' grid.
    """

    parameters_bytes: Any
    gradients_bytes: Any
    optimizer_bytes: Any
    bucket_bytes: Any
    casts_bytes: Any
    activations_bytes: Any
    logits_bytes: Any
    peak_at: Any

    @property
    def total_bytes(self) -> Any:
        parts = (getattr(self, field.name) for field in fields(self) if field.name != "peak_at")
        return sum(parts)


PASS_PARTS = ("gradients", "casts", "logits", "activations")


def step_memory(
    table: TrainingTable,
    parameters: Sequence[Parameter],
    values: Mapping[str, Any],
    optimizer: Optimizer = "adamw",
    *,
    accumulates: bool = False,
    gpus: Any = 1,
    zero: int = 0,
) -> StepMemory:
    """The memory of a step at the sizes in `values` (integers, or arrays that broadcast), in steady state.

    `accumulates`: there are several micro-steps, in the later ones of which all gradients are there from the start.
    `gpus`: a number or an array; several copy gradients into buckets as large, for an all-reduce. `zero`: the stage
    from which on they share the optimiser (1), the gradients too, which leave as soon as they are made (2), and the
    parameters (3), of which a GPU then holds its share and what it has gathered.
    """
    held = _held(parameters, values, optimizer, accumulates, gpus, zero)
    name, parts = _highest(_moments(table, accumulates or zero >= 2, min(values["num_layers"], 2)), values)
    step, left = held.optimizer_step
    passes, after = (sum(own.values()) for own in (parts, left))
    if isinstance(passes, np.ndarray) or isinstance(after, np.ndarray):
        name = np.where(after > passes, step, name)
        parts = {part: np.where(after > passes, left[part], own) for part, own in parts.items()}
    elif after > passes:
        name, parts = step, left
    return held.beside(name, parts)


def memory_by_step(
    table: TrainingTable,
    parameters: Sequence[Parameter],
    values: Mapping[str, int],
    optimizer: Optimizer = "adamw",
    *,
    accumulates: bool = False,
    gpus: int = 1,
    zero: int = 0,
) -> list[tuple[Step | None, StepMemory]]:
    """The memory at each kernel of a step's passes, all layers laid out, and last that of the optimiser (None).

    At a single point; the largest of them is `step_memory`.
    """
    held = _held(parameters, values, optimizer, accumulates, gpus, zero)
    terms: dict[Term, int] = {}
    steps, changes = _changes(table, values["num_layers"], accumulates or zero >= 2, terms)
    sizes = np.array([_size(monomial, when, values) for monomial, when in terms], dtype=np.int64)
    moments: list[tuple[Step | None, StepMemory]] = []
    kernels = (step for step in steps if isinstance(step.row.step, Kernel))
    for step, ((*_, name), alive) in zip(kernels, _alive(steps, changes, len(terms)), strict=True):
        if step.row.step.when.evaluate(values):
            parts = dict(zip(PASS_PARTS, (alive @ sizes).tolist(), strict=True))
            moments.append((step, held.beside(name, parts)))
    return [*moments, (None, held.beside(*held.optimizer_step))]


def _size(monomial: Monomial, when: Condition, values: Mapping[str, int]) -> int:
    return math.prod(values[name] ** power for name, power in monomial) if when.evaluate(values) else 0


@dataclass(frozen=True)
class _Held:
    """What a GPU holds during a whole step, in bytes, and what it has in the optimiser's: the step, and the parts."""

    parameters: Any
    gradients: Any
    optimizer: Any
    buckets: Any
    gathered: Any
    optimizer_step: tuple[str, dict[str, Any]]

    def beside(self, name: Any, parts: Mapping[str, Any]) -> StepMemory:
        """All memory at a moment of which `parts` are the passes' own."""
        return StepMemory(
            parameters_bytes=self.parameters,
            gradients_bytes=parts["gradients"] + self.gradients,
            optimizer_bytes=self.optimizer,
            bucket_bytes=self.buckets,
            casts_bytes=parts["casts"],
            activations_bytes=parts["activations"] + self.gathered,
            logits_bytes=parts["logits"],
            peak_at=name,
        )


def _held(
    parameters: Sequence[Parameter], values: Mapping[str, Any], optimizer: Optimizer, accumulates: bool, gpus: Any,
    zero: int,
) -> _Held:  # fmt: skip
    weights = (element_count(parameters) * w).evaluate(values)

    def share(size: Any, stage: int) -> Any:
        return -(-size // gpus) if zero >= stage else size

    kept = share(weights, 2) if accumulates or zero >= 2 else 0
    # AdamW's foreach step has a temporary as large as the weights that one call takes; the fused one has none
    matrices = [p for p in parameters if p.is_matrix]
    temporary = share((element_count(matrices) * w).evaluate(values), 1) if optimizer == "adamw" else 0
    step = "optimizer.update (exp_avg_sq)" if optimizer == "adamw-fused" else "optimizer.sqrt (denominator)"
    left = {"gradients": share(weights, 2) - kept, "activations": temporary, "casts": 0, "logits": 0}
    gathered = (gathered_elements(parameters) * w).evaluate(values) if zero >= 3 else 0
    buckets = weights * (gpus > 1) if zero < 2 else 0
    return _Held(share(weights, 3), kept, share(2 * weights, 1), buckets, gathered, (step, left))


def gathered_elements(parameters: Iterable[Parameter]) -> Formula:
    """The parameters that a GPU holds whole where they are sharded by blocks (FSDP): those outside of the blocks, which
    stay from the forward pass on, and of two blocks, the one at work and the next."""
    return sum((p.elements * (2 if "{i}" in p.name else 1) for p in parameters), formula(0))


# ------------------------------------------------------------------------------------------ the moments of a step

Term: TypeAlias = tuple[Monomial, Condition]
"""A term of a polynomial that counts only where a condition holds."""


@dataclass(frozen=True)
class _Moments:
    """The steps of which one is the peak, by name, and the bytes alive at each: factors of terms, for each part.

    `factors`: (moments, parts, terms). There are twice as many terms as `terms`: the second half has a factor
    num_layers more.
    """

    names: tuple[str, ...]
    terms: tuple[Term, ...]
    factors: np.ndarray


def _part(tensor: Tensor, weights: frozenset[str]) -> str:
    name = tensor.name.partition("@")[0]
    if name.removesuffix(".cast") in weights:
        return "casts"
    symbols = tensor.bytes.symbols
    if symbols & {"hidden_size"} and not symbols & {"batch_size", "seq_len"} and ".grad" in name:
        return "gradients"
    return "logits" if "vocab_size" in symbols else "activations"


@lru_cache(maxsize=128)
def _moments(table: TrainingTable, accumulates: bool, least: int) -> _Moments:
    """The moments that may be the peak, for any number of layers from `least` on."""
    terms: dict[Term, int] = {}
    laid_out = [_changes(table, layers, accumulates, terms) for layers in (least, least + 1)]
    fewer, more = (dict(_alive(steps, changes, len(terms))) for steps, changes in laid_out)
    factors = {}
    for (place, number, name), alive in more.items():
        same = fewer.get((place, number, name), fewer.get((place.replace("last", "first"), number, name)))
        if same is not None:  # neither in a middle layer, nor between the layers of a model that has one
            growth = alive - same
            factors[place, number, name] = np.hstack((alive - (least + 1) * growth, growth))
    return _Moments(tuple(name for *_, name in factors), tuple(terms), np.stack(list(factors.values())))


Change: TypeAlias = tuple[int, int, int]
"""A part and a term of the bytes alive, by their places, and what is added to the term's factor."""


def _changes(
    table: TrainingTable, layers: int, accumulates: bool, terms: dict[Term, int]
) -> tuple[Sequence[Step], Sequence[Sequence[Change]]]:
    """The steps with some layers laid out, and what changes at each; `terms` get those that are new."""
    layout = Layout(table, layers)
    steps = list(layout.steps())
    changes: list[list[Change]] = [[] for _ in range(len(steps) + 1)]
    for life in lives(steps, layout, accumulates):
        part = PASS_PARTS.index(_part(life.tensor, layout.weights))
        for span in life.spans():
            for monomial, factor in span.tensor.bytes.terms.items():
                term = terms.setdefault((monomial, span.when), len(terms))
                changes[span.first].append((part, term, factor))
                changes[span.last + 1].append((part, term, -factor))
    return steps, changes


def _alive(
    steps: Sequence[Step], changes: Sequence[Sequence[Change]], terms: int
) -> Iterator[tuple[tuple[str, int, str], Any]]:
    """Where each kernel stands, with its name and the largest tensor that it makes; and the bytes alive there, (parts,
    terms)."""
    alive = np.zeros((len(PASS_PARTS), terms), dtype=np.int64)
    for step, changed in zip(steps, changes, strict=False):
        for part, term, factor in changed:
            alive[part, term] += factor
        if isinstance(step.row.step, Kernel):
            largest = max(step.made, key=lambda tensor: len(tensor.bytes.symbols)).name.partition("@")[0]
            yield (*step.where, f"{step.row.path} ({largest})"), alive.copy()


# ------------------------------------------------------------------------------------------ the highest of them


def _highest(moments: _Moments, values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The name of the highest moment at the sizes in `values`, and the bytes alive there by part."""
    many = {name for name, value in values.items() if isinstance(value, np.ndarray)}
    arrays: dict[tuple[Any, ...], int] = {}
    numbers = []  # for each term, its number and which of `arrays` it has as factor
    for is_layered in (False, True):
        for monomial, when in moments.terms:
            number: Any = 1
            factors: list[Any] = []
            for name, power in (*monomial, *((("num_layers", 1),) if is_layered else ())):
                if name in many:
                    factors.append((name, power))
                else:
                    number *= values[name] ** power
            if many & when.symbols:
                factors.append(when)
            elif not when.evaluate(values):
                number = 0
            numbers.append((number, arrays.setdefault(tuple(factors), len(arrays))))
    collapse = np.zeros((len(numbers), len(arrays)))
    for term, (number, place) in enumerate(numbers):
        collapse[term, place] = number
    at_sizes = moments.factors @ collapse
    if not many:
        highest = int(at_sizes.sum(axis=(1, 2)).argmax())
        exact = [
            sum(int(factor) * number for factor, (number, _) in zip(own, numbers, strict=True) if factor)
            for own in moments.factors[highest]
        ]
        return moments.names[highest], dict(zip(PASS_PARTS, exact, strict=True))
    left = _undominated(at_sizes.sum(axis=1))
    sizes = [_product(factors, values) for factors in arrays]
    totals = np.stack(np.broadcast_arrays(*(sum(map(operator.mul, one.sum(axis=0), sizes)) for one in at_sizes[left])))
    highest_of = totals.argmax(axis=0)
    parts = {
        part: sum(at_sizes[left][:, index, place][highest_of] * size for place, size in enumerate(sizes))
        for index, part in enumerate(PASS_PARTS)
    }
    return np.array(moments.names)[left][highest_of], parts


def _product(factors: tuple[Any, ...], values: Mapping[str, Any]) -> Any:
    size: Any = 1.0
    for factor in factors:
        size = size * (factor.evaluate(values) if isinstance(factor, Condition) else values[factor[0]] ** factor[1])
    return size


def _undominated(rows: np.ndarray) -> np.ndarray:
    """The places of the rows that no other exceeds everywhere; of equal ones, the first."""
    left: list[int] = []
    for place in range(len(rows)):
        if not any(np.all(rows[place] <= rows[other]) for other in left):
            left = [other for other in left if not np.all(rows[other] <= rows[place])]
            left.append(place)
    return np.array(left)
