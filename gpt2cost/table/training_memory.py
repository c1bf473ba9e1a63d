"""How much memory a training step holds at its peak, and what stands there.

Layers are alike: the bytes alive at a moment are linear in the number of layers, so that two and three of them, laid
out, give the rest; and since they grow from layer to layer or fall, the peak is in the first or the last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.table.formula import Condition, Formula, Monomial
from gpt2cost.table.kernel import Kernel, Parameter, Tensor
from gpt2cost.table.lifetimes import Layout, Span, lives
from gpt2cost.table.optimizer import Optimizer, element_count
from gpt2cost.table.symbols import w
from gpt2cost.table.training import TrainingTable


@dataclass(frozen=True)
class StepMemory:
    """The bytes at the peak of a training step, by what they are; `total_bytes` is their sum.

    `gradients_bytes`: those of weights alone, and what becomes one; `casts_bytes`: weights in 16 bit; `logits_bytes`:
    logits, their logarithms and gradients; `activations_bytes`: the rest of what the passes hold, and the optimiser's
    temporary. `peak_at`: the step and the largest tensor that it makes. Integers, or arrays over the sizes' grid.
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
    buckets: bool = False,
    shards: int = 1,
) -> StepMemory:
    """The memory of a step at the sizes in `values` (integers, or arrays that broadcast), in steady state.

    `accumulates`: there are several micro-steps, in the later ones of which all gradients are there from the start;
    `buckets`: gradients are copied into buckets as large for an all-reduce; `shards`: ranks that share the moments.
    """
    weights = (element_count(parameters) * w).evaluate(values)
    moments = -(-2 * weights // shards)
    kept = weights if accumulates else 0
    peaks = _peaks(table, accumulates)
    known, layers = _term_values(peaks, values), values["num_layers"]
    parts = {part: [_evaluate(peak.parts[part], known, layers) for peak in peaks] for part in PASS_PARTS}
    totals = [sum(own) + kept for own in zip(*parts.values(), strict=True)]
    names = [peak.name for peak in peaks]
    # AdamW's foreach step has a temporary as large as the weights that one call takes; the fused one has none
    matrices = [p for p in parameters if p.is_matrix]
    temporary = (element_count(matrices) * w).evaluate(values) if optimizer == "adamw" else 0
    totals.append(weights + temporary)
    names.append("optimizer.sqrt (denominator)" if temporary else "optimizer.update (exp_avg_sq)")
    for part, own in parts.items():
        own.append({"gradients": weights - kept, "activations": temporary}.get(part, 0))
    at = _argmax(totals)
    chosen = {part: _chosen(at, own) for part, own in parts.items()}
    return StepMemory(
        parameters_bytes=weights,
        gradients_bytes=chosen["gradients"] + kept,
        optimizer_bytes=moments,
        bucket_bytes=weights if buckets else 0,
        casts_bytes=chosen["casts"],
        activations_bytes=chosen["activations"],
        logits_bytes=chosen["logits"],
        peak_at=names[at] if isinstance(at, int) else np.array(names)[at],
    )


def _term_values(peaks: Sequence[_Peak], values: Mapping[str, Any]) -> dict[tuple[Monomial, Condition], Any]:
    """The value of each term that occurs in the peaks, evaluated once."""
    keys = {key for peak in peaks for some in peak.parts.values() for terms in some for key in terms}
    holds = {when: _as_number(when.evaluate(values)) for _, when in keys}
    sizes = {monomial: Formula({monomial: 1}).evaluate(values) for monomial, _ in keys}
    return {(monomial, when): sizes[monomial] * holds[when] for monomial, when in keys}


def _evaluate(terms: tuple[Terms, Terms], known: Mapping[tuple[Monomial, Condition], Any], layers: Any) -> Any:
    one, more = (sum((factor * known[key] for key, factor in some.items()), 0) for some in terms)
    return one + (layers - 1) * more


def _as_number(truth: Any) -> Any:
    return int(truth) if isinstance(truth, bool) else truth


def _argmax(totals: Sequence[Any]) -> Any:
    if all(isinstance(total, int) for total in totals):
        return totals.index(max(totals))
    return np.argmax(np.stack(np.broadcast_arrays(*totals)), axis=0)


def _chosen(at: Any, own: Sequence[Any]) -> Any:
    if isinstance(at, int):
        return own[at]
    return np.choose(at, np.broadcast_arrays(*own, at)[:-1]) if len(own) < 32 else _taken(at, own)


def _taken(at: Any, own: Sequence[Any]) -> Any:
    stacked = np.stack([np.broadcast_to(one, at.shape) for one in own])
    return np.take_along_axis(stacked, at[None], axis=0)[0]


# ------------------------------------------------------------------------------------------ the moments of a step

Terms: TypeAlias = dict[tuple[Monomial, Condition], int]
"""A polynomial whose terms count only where a condition holds."""


@dataclass(frozen=True)
class _Peak:
    """A moment that may be the peak, and the bytes alive there by part: with one layer, and more with each other."""

    name: str
    parts: Mapping[str, tuple[Terms, Terms]]


def _part(tensor: Tensor, weights: frozenset[str]) -> str:
    name = tensor.name.partition("@")[0]
    if name.removesuffix(".cast") in weights:
        return "casts"
    symbols = tensor.bytes.symbols
    if not symbols & {"batch_size", "seq_len"} and ".grad" in name:
        return "gradients"
    return "logits" if "vocab_size" in symbols else "activations"


def _moments(
    table: TrainingTable, layers: int, accumulates: bool
) -> dict[tuple[str, int], tuple[str, dict[str, Terms]]]:
    """The bytes alive at each step, by part; and the step's name with the largest tensor that it makes."""
    layout = Layout(table, layers)
    steps = list(layout.steps())
    changes: list[list[tuple[str, Span, int]]] = [[] for _ in range(len(steps) + 1)]
    for life in lives(steps, layout, accumulates):
        for span in life.spans():
            part = _part(span.tensor, layout.weights)
            changes[span.first].append((part, span, 1))
            changes[span.last + 1].append((part, span, -1))
    alive: dict[str, Counter[tuple[Monomial, Condition]]] = {part: Counter() for part in PASS_PARTS}
    found = {}
    for step, changed in zip(steps, changes, strict=False):
        for part, span, sign in changed:
            for monomial, factor in span.tensor.bytes.terms.items():
                alive[part][monomial, span.when] += sign * factor
        if isinstance(step.row.step, Kernel) and not step.where[0].endswith("middle"):
            largest = max(step.made, key=lambda tensor: len(tensor.bytes.symbols)).name.partition("@")[0]
            found[step.where] = f"{step.row.path} ({largest})", {part: dict(terms) for part, terms in alive.items()}
    return found


def _added(left: Terms, right: Terms, factor: int) -> Terms:
    total = {key: left.get(key, 0) + factor * right.get(key, 0) for key in {**left, **right}}
    return {key: value for key, value in total.items() if value}


@lru_cache(maxsize=128)
def _peaks(table: TrainingTable, accumulates: bool) -> tuple[_Peak, ...]:
    """The moments of which one is the peak, whatever the sizes: none that another exceeds in every term."""
    two, three = (_moments(table, layers, accumulates) for layers in (2, 3))
    peaks = []
    for where, (name, parts) in two.items():
        more = {part: _added(three[where][1][part], parts[part], -1) for part in PASS_PARTS}
        peaks.append(_Peak(name, {part: (_added(parts[part], more[part], -1), more[part]) for part in PASS_PARTS}))

    def terms(peak: _Peak) -> dict[Any, int]:
        total: Counter[Any] = Counter()
        for one, more in peak.parts.values():
            total.update({(key, False): value for key, value in one.items()})
            total.update({(key, True): value for key, value in more.items()})
        return dict(total)

    left: list[tuple[_Peak, dict[Any, int]]] = []
    for peak in peaks:
        own = terms(peak)
        if not any(_at_most(own, other) for _, other in left):
            left = [(kept, other) for kept, other in left if not _at_most(other, own)]
            left.append((peak, own))
    return tuple(peak for peak, _ in left)


def _at_most(less: dict[Any, int], more: dict[Any, int]) -> bool:
    return all(less.get(key, 0) <= more.get(key, 0) for key in {**less, **more})
