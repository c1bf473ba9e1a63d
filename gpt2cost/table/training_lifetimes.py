"""The passes of a training step with a few layers laid out, and how long each tensor in them lives.

A tensor of the forward pass is alive until the last kernel of the backward pass that reads it, and one that none reads
until the last step of the forward that uses it. Gradients of weights stay, and so does what the caller's variables
keep. A node of autograd frees what it reads when all its kernels have run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from gpt2cost.table.autograd import node_of, weight_gradients, weight_names
from gpt2cost.table.checkpointing import is_recomputed
from gpt2cost.table.formula import ALWAYS, NEVER, Condition
from gpt2cost.table.kernel import Free, Kernel, Row, Tensor
from gpt2cost.table.liveness import FINAL_CACHE
from gpt2cost.table.symbols import L
from gpt2cost.table.training import TrainingTable

HELD = ("logits", *FINAL_CACHE, "loss", "loss.grad")
"""What the caller's variables keep until the backward pass is through: what the model returns (the loss, the logits,
and the cache of a pass that uses one), and what `backward()` starts from."""
AGAIN = " again"
"""The end of the name of a tensor that checkpointing makes a second time."""


@dataclass(frozen=True)
class Step:
    """A step of the passes with some layers laid out.

    `where` is the same for the same moment of any number of layers. `used` and `made`: its tensors, called by their
    names with the layer's number. `layer`: that number, 0 beside the blocks.
    """

    where: tuple[str, int]
    row: Row
    used: tuple[Tensor, ...]
    made: tuple[Tensor, ...]
    layer: int


def _made(rows: Iterable[Row]) -> set[str]:
    return {tensor.name for row in rows if isinstance(row.step, Kernel) for tensor in row.step.outputs}


def _used(step: Kernel | Free) -> tuple[Tensor, ...]:
    return step.inputs if isinstance(step, Kernel) else step.keeps


def _parts(rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row], Sequence[Row]]:
    """The rows before the repeated block, in it, and after it."""
    block = [index for index, row in enumerate(rows) if row.count != 1]
    first, end = (block[0], block[-1] + 1) if block else (len(rows), len(rows))
    return rows[:first], rows[first:end], rows[end:]


class Layout:
    """The rows of a training table with `layers` layers, and what each tensor is called there.

    A row that runs between two layers, as compiled code has one, runs with the earlier of them.
    """

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

    def steps(self) -> Iterator[Step]:
        for phase, (before, block, after), order in (
            ("forward", self.forward, range(1, self.layers + 1)),
            ("backward", self.backward, range(self.layers, 0, -1)),
        ):
            for number, row in enumerate(before):
                yield self._step(row, (f"{phase} before", number), phase, order[0], False)
            for layer in order:
                for number, row in enumerate(block):
                    runs_in = order if row.count == L else order[:-1]
                    if layer in runs_in:
                        place = "first" if layer == min(runs_in) else "last" if layer == max(runs_in) else "middle"
                        yield self._step(row, (f"{phase} {place}", number), phase, layer, True)
            for number, row in enumerate(after):
                yield self._step(row, (f"{phase} after", number), phase, order[-1], False)

    def _step(self, row: Row, where: tuple[str, int], phase: str, layer: int, inside: bool) -> Step:
        name = self.in_first_pass if phase == "forward" else self.in_second_pass

        def called(tensor: Tensor) -> Tensor:
            own = name(tensor.name, layer, inside)
            if not tensor.view_of or tensor.name in self.carried:
                return Tensor(own, tensor.shape, tensor.element)
            view_of = name(tensor.view_of, layer, inside)
            own = own if tensor.name in self.made else f"{own} of {view_of}"
            return Tensor(own, tensor.shape, tensor.element, view_of=view_of)

        made = row.step.outputs if isinstance(row.step, Kernel) else ()
        return Step(where, row, tuple(map(called, _used(row.step))), tuple(map(called, made)), layer * inside)

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


@dataclass(frozen=True)
class Span:
    """A tensor's memory, alive from one step to another, both included, where `when` holds."""

    tensor: Tensor
    first: int
    last: int
    when: Condition


@dataclass
class Life:
    """A tensor that a kernel makes: at which step, under which condition, and the steps that use it."""

    tensor: Tensor
    first: int
    when: Condition
    uses: list[tuple[int, Condition]]

    def spans(self) -> Iterator[Span]:
        start = self.first
        for end in sorted({index for index, _ in self.uses}):
            when = self.when & reduce(or_, (condition for index, condition in self.uses if index >= end))
            if end >= start and when.any_of:
                yield Span(self.tensor, start, end, when)
                start = end + 1


def lives(steps: Sequence[Step], layout: Layout, accumulates: bool) -> Iterable[Life]:
    """All that the passes make. A kernel that is not launched makes nothing: what reads its output reads its input."""
    lives: dict[str, Life] = {}
    views: dict[str, str] = {}

    def use(name: str, index: int, when: Condition) -> None:
        if name in lives:
            lives[name].uses.append((index, when))
            when = NEVER if lives[name].when == ALWAYS else when & ~lives[name].when
        if views.get(name) and when.any_of:
            use(views[name], index, when)

    node_end, own_end = _node_ends(steps), _node_ends(steps, with_validation=False)
    block_end, call_end = _block_ends(steps), _call_ends(steps)
    casts_again: list[Life] = []  # which autocast keeps until a second forward is through
    for index, step in enumerate(steps):
        when = step.row.step.when
        for tensor in step.used:
            views.setdefault(tensor.name, tensor.view_of)
        for tensor in step.made:
            copied = step.used[0].name if step.used and when != ALWAYS else ""
            views.setdefault(tensor.name, tensor.view_of or copied)
        for tensor in step.used:
            ends = own_end if tensor.name.endswith(AGAIN) else node_end
            if is_recomputed(step.row) and ends is node_end:  # a block's arguments, which are kept until it is through
                ends = block_end
            use(tensor.name, max(ends[index], call_end[index]), when)
        for tensor in step.made:
            life = lives.setdefault(tensor.name, Life(tensor, index, when, []))
            life.when = life.when | when
            life.uses.append((index, when))
            if is_recomputed(step.row) and _is_cast(tensor, layout):
                casts_again.append(life)
        if not is_recomputed(step.row):
            for life in casts_again:
                life.uses.append((index - 1, life.when))
            casts_again.clear()
    end = len(steps) - 1
    forward_end = max(index for index, step in enumerate(steps) if step.where[0].startswith("forward"))
    for name, life in lives.items():
        plain = name.partition("@")[0]
        if plain in HELD or (plain in layout.gradients and not accumulates):
            life.uses.append((end, life.when))
        elif plain in layout.gradients:  # added to those that are there when its node has run
            life.uses.append((node_end[life.first], life.when))
        elif _is_cast(life.tensor, layout):
            life.uses.append((forward_end, life.when))
    return lives.values()


def _is_cast(tensor: Tensor, layout: Layout) -> bool:
    """Whether it is a weight in another dtype."""
    return tensor.name.partition("@")[0].removesuffix(".cast") in layout.weights


def _node_ends(steps: Sequence[Step], with_validation: bool = True) -> list[int]:
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


def _block_ends(steps: Sequence[Step]) -> list[int]:
    """For each step, the last one of its block, or of its run of steps beside the blocks."""
    ends = list(range(len(steps)))
    for index in reversed(range(len(steps) - 1)):
        (place, number), (next_place, next_number) = steps[index].where, steps[index + 1].where
        if place == next_place and number < next_number:
            ends[index] = ends[index + 1]
    return ends


def _call_ends(steps: Sequence[Step]) -> list[int]:
    """For each step, the last kernel of the nn.Module's own call that it is part of, whose argument lives as long."""
    ends = list(range(len(steps)))
    for index in reversed(range(len(steps) - 1)):
        here, after = steps[index].row, steps[index + 1].row
        calls = isinstance(after.step, Kernel) and (after.step.in_module or ends[index + 1] > index + 1)
        if calls and here.module == after.module and _node(steps[index]) is None:
            ends[index] = ends[index + 1]
    return ends


def _validates(row: Row) -> bool:
    return isinstance(row.step, Kernel) and (row.step.op == "sum" or row.step.name.endswith(".cast"))


def _node(step: Step) -> tuple[str, str] | None:
    return node_of(step.row) if step.where[0].startswith("backward") else None
