"""How much memory a training step holds at its peak, and what stands there.

A tensor of the forward pass is alive until the last kernel of the backward pass that reads it, and one that none reads
until the last step of the forward that uses it. Gradients of weights stay. Layers are alike: the bytes alive at a
moment are linear in the number of layers, so that two and three of them, laid out, give the rest; and since they grow
from layer to layer or fall, the peak is in the first or the last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, reduce
from operator import or_
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.table.autograd import node_of, weight_gradients, weight_names
from gpt2cost.table.formula import ALWAYS, Condition, Formula, Monomial
from gpt2cost.table.kernel import Free, Kernel, Parameter, Row, Tensor
from gpt2cost.table.optimizer import Optimizer, element_count
from gpt2cost.table.symbols import w
from gpt2cost.table.training import TrainingTable

HELD = ("logits", "key", "value", "loss", "loss.grad")
"""What the caller's variables keep until the backward pass is through: what the model returns (the loss, the logits,
and the cache of a pass that uses one), and what `backward()` starts from."""


AGAIN = " again"
"""The end of the name of a tensor that checkpointing makes a second time."""


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


# ------------------------------------------------------------------------------------------ the passes, laid out


@dataclass(frozen=True)
class _Step:
    """A step of the passes with some layers laid out.

    `where` is the same for the same moment of any number of layers. `used` and `made`: its tensors, called by their
    names with the layer's number.
    """

    where: tuple[str, int]
    row: Row
    used: tuple[Tensor, ...]
    made: tuple[Tensor, ...]


def _made(rows: Iterable[Row]) -> set[str]:
    return {tensor.name for row in rows if isinstance(row.step, Kernel) for tensor in row.step.outputs}


def _used(step: Kernel | Free) -> tuple[Tensor, ...]:
    return step.inputs if isinstance(step, Kernel) else step.keeps


def _parts(rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row], Sequence[Row]]:
    """The rows before the repeated block, in it, and after it."""
    block = [index for index, row in enumerate(rows) if row.count != 1]
    first, end = (block[0], block[-1] + 1) if block else (len(rows), len(rows))
    return rows[:first], rows[first:end], rows[end:]


class _Layout:
    """The rows of a training table with `layers` layers, and what each tensor is called there."""

    def __init__(self, table: TrainingTable, layers: int) -> None:
        self.layers = layers
        self.forward, self.backward = _parts(table.forward), _parts(table.backward)
        self.in_forward, self.in_backward = _made(self.forward[1]), _made(self.backward[1])
        self.before = _made(self.forward[0])
        self.weights = weight_names(table.forward)
        self.gradients = weight_gradients(table.forward, table.backward)
        every = (table.forward, table.backward)
        self.made = set().union(*map(_made, every))
        block = [tensor for row in self.forward[1] for tensor in _used(row.step)]
        self.carried = {t.name: t.view_of for t in block if t.name in self.before and t.view_of in self.in_forward}

    def steps(self) -> Iterator[_Step]:
        for phase, (before, block, after), order in (
            ("forward", self.forward, range(1, self.layers + 1)),
            ("backward", self.backward, range(self.layers, 0, -1)),
        ):
            for number, row in enumerate(before):
                yield self._step(row, (f"{phase} before", number), phase, order[0], False)
            for layer in order:
                place = "first" if layer == 1 else "last" if layer == self.layers else "middle"
                for number, row in enumerate(block):
                    yield self._step(row, (f"{phase} {place}", number), phase, layer, True)
            for number, row in enumerate(after):
                yield self._step(row, (f"{phase} after", number), phase, order[-1], False)

    def _step(self, row: Row, where: tuple[str, int], phase: str, layer: int, inside: bool) -> _Step:
        name = self.in_first_pass if phase == "forward" else self.in_second_pass

        def called(tensor: Tensor) -> Tensor:
            own = name(tensor.name, layer, inside)
            if not tensor.view_of or tensor.name in self.carried:
                return replace(tensor, name=own, view_of="")
            view_of = name(tensor.view_of, layer, inside)
            return replace(tensor, name=own if tensor.name in self.made else f"{own} of {view_of}", view_of=view_of)

        made = row.step.outputs if isinstance(row.step, Kernel) else ()
        return _Step(where, row, tuple(map(called, _used(row.step))), tuple(map(called, made)))

    def in_first_pass(self, name: str, layer: int, inside: bool) -> str:
        """The name of a tensor as a step of the forward pass reads or makes it, in a layer or beside it."""
        if name in self.carried:
            return name if layer == 1 or not inside else f"{self.carried[name]}@{layer - 1}"
        return f"{name}@{layer}" if name in self.in_forward else name

    def in_second_pass(self, name: str, layer: int, inside: bool) -> str:
        """The same of the backward pass, in which the gradient of a layer's output is that of the next one's input."""
        for into, out in self.carried.items():
            if inside and layer < self.layers and name == f"{out}.grad":
                return f"{into}.grad@{layer + 1}"
        if name in self.in_backward:
            return f"{name}@{layer}" + (AGAIN if name in self.in_forward else "")
        return self.in_first_pass(name, layer, inside)


# ------------------------------------------------------------------------------------------ what is alive when


@dataclass(frozen=True)
class _Span:
    """A tensor's memory, alive from one step to another, both included, where `when` holds."""

    tensor: Tensor
    first: int
    last: int
    when: Condition


@dataclass
class _Life:
    """A tensor that a kernel makes: at which step, under which condition, and the steps that use it."""

    tensor: Tensor
    first: int
    when: Condition
    uses: list[tuple[int, Condition]]

    def spans(self) -> Iterator[_Span]:
        start = self.first
        for end in sorted({index for index, _ in self.uses}):
            used = reduce(or_, (condition for index, condition in self.uses if index >= end))
            when = self.when if ALWAYS.any_of[0] in used.any_of else self.when & used
            if end >= start and when.any_of:
                yield _Span(self.tensor, start, end, when)
                start = end + 1


def _lives(steps: Sequence[_Step], layout: _Layout, accumulates: bool) -> Iterable[_Life]:
    """All that the passes make. A kernel that is not launched makes nothing: what reads its output reads its input."""
    lives: dict[str, _Life] = {}
    views: dict[str, str] = {}

    def use(name: str, index: int, when: Condition) -> None:
        if name in lives:
            lives[name].uses.append((index, when))
            when = when & ~lives[name].when
        if views.get(name) and when.any_of:
            use(views[name], index, when)

    node_end, own_end = _node_ends(steps), _node_ends(steps, with_validation=False)
    for index, step in enumerate(steps):
        when = step.row.step.when
        for tensor in (*step.used, *step.made):
            views.setdefault(tensor.name, tensor.view_of)
        for tensor in step.used:
            use(tensor.name, (own_end if tensor.name.endswith(AGAIN) else node_end)[index], when)
        for tensor in step.made:
            life = lives.setdefault(tensor.name, _Life(tensor, index, when, []))
            life.when = life.when | when
            life.uses.append((index, when))
    end = len(steps) - 1
    forward_end = max(index for index, step in enumerate(steps) if step.where[0].startswith("forward"))
    for name, life in lives.items():
        plain = name.partition("@")[0]
        if plain in HELD or (plain in layout.gradients and not accumulates):
            life.uses.append((end, life.when))
        elif plain.removesuffix(".cast") in layout.weights:
            life.uses.append((forward_end, life.when))
    return lives.values()


def _node_ends(steps: Sequence[_Step], with_validation: bool = True) -> list[int]:
    """For each step, the last one of its node of autograd, which frees what it reads when all its kernels have run.

    The engine's validation of what a node returns, its sums over what was broadcast and its casts, comes before the
    node frees what it has saved, and after what checkpointing has made again for it is gone.
    """
    ends = list(range(len(steps)))
    for index in reversed(range(len(steps) - 1)):
        here, after = steps[index], steps[index + 1]
        if _node(here) and _node(here) == _node(after) and (with_validation or not _validates(after.row)):
            ends[index] = ends[index + 1]
    return ends


def _validates(row: Row) -> bool:
    return isinstance(row.step, Kernel) and (row.step.op == "sum" or row.step.name.endswith(".cast"))


def _node(step: _Step) -> tuple[str, str] | None:
    return node_of(step.row) if step.where[0].startswith("backward") else None


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
    layout = _Layout(table, layers)
    steps = list(layout.steps())
    changes: list[list[tuple[str, _Span, int]]] = [[] for _ in range(len(steps) + 1)]
    for life in _lives(steps, layout, accumulates):
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
