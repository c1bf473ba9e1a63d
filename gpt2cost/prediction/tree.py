"""A model as a tree of its modules, in the order in which they run: what each holds, returns and costs.

The modules are those of the cost table, whatever runtime launches the kernels. A merged kernel that spans modules
belongs to the innermost that all are in; one that spans two blocks, to the ModuleList.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import TypeAlias

from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.one_pass import run_pass, symbol_values, table_options, table_rows
from gpt2cost.prediction.settings import How, Number, Sizes
from gpt2cost.prediction.train_settings import Batch, TrainHow
from gpt2cost.prediction.train_step import step_work, train_options, train_rows
from gpt2cost.table.config import Model
from gpt2cost.table.derivatives import EMBEDDINGS
from gpt2cost.table.formula import Formula, formula
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, Module, Row, Tensor, inside_out
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import D

CONTAINERS = ("ModuleList", "ModuleDict")
"""Classes of modules that are not called: what is in them is."""
CROSS_ATTENTION = ("ln_cross_attn", "crossattention")
"""The modules of a block that are called where an encoder's states are passed."""
HEAD, EMBEDDING = "lm_head", "transformer.wte"
"""The paths of the two modules whose weight may be one."""


@dataclass(frozen=True)
class Weight:
    """A parameter of a module, under its name there. `tied_to`: the module whose parameter it is; "" of its own."""

    name: str
    shape: tuple[int, ...]
    symbols: tuple[Formula, ...]
    tied_to: str = ""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class Figures:
    """What steps cost together. `device_s`: None without a device."""

    launches: int
    flops: int
    read_bytes: int
    write_bytes: int
    device_s: float | None

    @classmethod
    def of(cls, costs: Sequence[Figures | Node]) -> Figures:
        """The sums of some."""
        device_s = [cost.device_s for cost in costs if cost.device_s is not None]
        return cls(
            sum(cost.launches for cost in costs),
            sum(cost.flops for cost in costs),
            sum(cost.read_bytes for cost in costs),
            sum(cost.write_bytes for cost in costs),
            sum(device_s) if device_s else None,
        )

    def over(self, copies: int) -> Figures:
        """Those of one of so many equal copies."""
        return Figures(
            launches=self.launches // copies,
            flops=self.flops // copies,
            read_bytes=self.read_bytes // copies,
            write_bytes=self.write_bytes // copies,
            device_s=None if self.device_s is None else self.device_s / copies,
        )


@dataclass(frozen=True, eq=False)
class Node:
    """A module and all that is in it. The figures are sums over its `count` equal copies in the model.

    `path`: as `named_modules()` has it, of the first copy. `output`: what it returns; None where it is never called.
    `parameters`: without weights that are another module's. `device_s`: None without a device. `children`: the modules
    and the steps that it runs, in order; free steps are among them, and what is not launched at these sizes is not.
    `costs`: what the steps that are its own cost, by the index of their row. `is_identity`: it is called and computes
    nothing, as dropout does in inference.
    """

    path: str
    cls: str
    count: int
    weights: tuple[Weight, ...]
    output: Tensor | None
    parameters: int
    launches: int
    flops: int
    read_bytes: int
    write_bytes: int
    device_s: float | None
    children: tuple[Child, ...]
    costs: Mapping[int, Figures]
    is_identity: bool = False

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    @property
    def modules(self) -> tuple[Node, ...]:
        """The modules directly in it."""
        return tuple(child for child in self.children if isinstance(child, Node))

    @property
    def rows(self) -> tuple[Row, ...]:
        """The steps that are its own."""
        return tuple(child for child in self.children if isinstance(child, Row))

    def walk(self) -> Iterator[Node]:
        """It and all modules in it."""
        yield self
        for module in self.modules:
            yield from module.walk()


Child: TypeAlias = Node | Row


def figures_of(row: Row, values: Mapping[str, Number], launch_s: Number | None = None) -> Figures:
    """All launches of a row at the values of the symbols. `launch_s`: device seconds of one launch."""
    count, kernel = row.times(values), row.step
    device_s = None if launch_s is None else float(count * launch_s)
    if not isinstance(kernel, Kernel):
        return Figures(0, 0, 0, 0, device_s)
    flops, reads, writes = (count * int(c.evaluate(values)) for c in (kernel.flops, kernel.reads, kernel.writes))
    return Figures(count, flops, reads, writes, device_s)


# ---------------------------------------------------------------------------------------------- trees


@dataclass(frozen=True, eq=False)
class _Launched:
    """The rows of a pass at the values of their symbols. `launch_s`: device seconds of a launch of each, if known."""

    rows: Sequence[Row]
    values: Mapping[str, Number]
    launch_s: Sequence[Number] | None = None
    is_backward: bool = False


def tree_of(model: Model, how: How, sizes: Sizes, hardware: Hardware | None = None) -> Node:
    """The tree of one forward pass at a single point, with the device's time where there is one.

    `how`: as it is on the model.
    """
    options, values = table_options(model, how, hardware), symbol_values(model, how.dtype, sizes)
    if hardware is None:
        launched = _Launched(table_rows(options, how.runtime), values)
    else:
        pass_ = run_pass(model, hardware, how, sizes)
        launched = _Launched(pass_.rows, values, pass_.launch_s)
    return _tree(model, options, launched)


def training_trees(model: Model, train: TrainHow, sizes: Sizes, hardware: Hardware | None = None) -> tuple[Node, Node]:
    """The trees of a micro-step's forward and of its backward pass. `sizes`: of one micro-step."""
    options, values = train_options(model, train, hardware), symbol_values(model, train.precision, sizes)
    if hardware is None:
        table = train_rows(options, train.checkpointing, train.how.runtime, train.numbers.a_bytes)
        passes = _Launched(table.forward, values), _Launched(table.backward, values, is_backward=True)
    else:
        work = step_work(model, hardware, train, Batch(sizes.batch_size, sizes.seq_len))
        forward, backward = work.forward, work.backward
        passes = (
            _Launched(forward.rows, values, forward.launch_s),
            _Launched(backward.rows, values, backward.launch_s, is_backward=True),
        )
    return _tree(model, options, passes[0]), _tree(model, options, passes[1])


def _tree(model: Model, options: TableOptions, launched: _Launched) -> Node:
    """The modules of cross-attention are there whether an encoder's states are passed or not."""
    skeleton = cost_table(replace(options, encoder=model.add_cross_attention))
    uncalled = () if options.encoder else CROSS_ATTENTION
    return _Builder(skeleton, launched, model.tie_word_embeddings, uncalled).node(skeleton, "", 1)


class _Builder:
    """Puts rows into the modules that they belong to.

    A table's path is a real one but for the copies of a block: `transformer.h.attn` is `transformer.h.0.attn`.
    """

    def __init__(self, skeleton: Module, launched: _Launched, tied: bool, uncalled: Sequence[str] = ()) -> None:
        self.launched, self.values, self.tied = launched, launched.values, tied
        self.uncalled = frozenset(uncalled)  # modules that this pass does not call
        self.repeated = dict(_repeated(skeleton, ""))
        self.own: dict[str, list[Row]] = {}
        self.first: dict[str, int] = {}  # a module -> the index of the first step in it
        for row in launched.rows:
            path = self.place(row)
            self.own.setdefault(path, []).append(row)
            for module in inside_out(path):
                self.first.setdefault(module, row.index)

    def place(self, row: Row) -> str:
        """The path of the module that a row belongs to. What does not come once in each block is the ModuleList's."""
        for block, count in self.repeated.items():
            if f"{row.module}.".startswith(f"{block}."):
                return f"{block}.0{row.module.removeprefix(block)}" if row.count == count else block
        return row.module

    def node(self, module: Module, path: str, copies: int) -> Node:
        """A module's, of which there are `copies`; of a repeated one, that of the ModuleList which it is in."""
        parts: list[tuple[float, Node]] = []
        if module.count != 1:
            block, count = replace(module, count=formula(1)), int(module.count.evaluate(self.values))
            parts = [(-1, self.node(block, f"{path}.0", copies * count))]
            return self.summed(Module(path, "ModuleList", ()), path, copies, parts)
        place = inf
        for child in _joined(module)[:: 1 if self.launched.is_backward else -1]:
            own = ".".join(filter(None, (path, child.name)))
            place = self.first.get(own, place)  # what launches nothing comes before what runs next
            parts.append((place, self.node(child, own, copies)))
        return self.summed(module, path, copies, parts[::-1])

    def summed(self, module: Module, path: str, copies: int, parts: Sequence[tuple[float, Node]]) -> Node:
        """A module with those in it, each with the index of the step that it comes before."""
        rows = [row for row in self.own.get(path, ()) if row.does_something and row.times(self.values)]
        children: list[tuple[float, Child]] = [*parts, *((row.index, row) for row in rows)]
        children.sort(key=lambda placed: placed[0])
        costs = {row.index: self.figures(row) for row in rows}
        sums = Figures.of([*costs.values(), *(node for _, node in parts)])
        weights = _weights(module, path, self.values, self.tied)
        own = sum(weight.elements for weight in weights if not weight.tied_to)
        output = returned(module, self.values) if self.uncalled.isdisjoint(path.split(".")) else None
        return Node(
            path,
            module.cls,
            copies,
            weights,
            output,
            parameters=copies * own + sum(node.parameters for _, node in parts),
            launches=sums.launches,
            flops=sums.flops,
            read_bytes=sums.read_bytes,
            write_bytes=sums.write_bytes,
            device_s=None if self.launched.launch_s is None else sums.device_s or 0.0,
            children=tuple(child for _, child in children),
            costs=costs,
            is_identity=output is module.passes is not None,
        )

    def figures(self, row: Row) -> Figures:
        seconds = self.launched.launch_s
        return figures_of(row, self.values, None if seconds is None else seconds[row.index])


def _repeated(module: Module, path: str) -> Iterator[tuple[str, Formula]]:
    """The paths of the modules that come several times, and how often."""
    for child in _joined(module):
        own = ".".join(filter(None, (path, child.name)))
        if child.count != 1:
            yield own, child.count
        yield from _repeated(child, own)


def _joined(module: Module) -> list[Module]:
    """The modules in a module; one whose parts run at different places is in the table several times."""
    found: dict[str, Module] = {}
    for child in module.children:
        if isinstance(child, Module):
            there = found.get(child.name)
            found[child.name] = replace(child, children=(*there.children, *child.children)) if there else child
    return list(found.values())


def returned(module: Module, values: Mapping[str, Number]) -> Tensor | None:
    """What a module returns: what the last kernel in it makes. None of a container, and where it is not called."""
    if module.cls in CONTAINERS:
        return None
    for child in reversed(module.children):
        made = child.outputs[0] if isinstance(child, Kernel) and child.when.evaluate(values) else None
        if isinstance(child, Module):
            made = returned(child, values)
        if made is not None:
            return made
    return module.passes


def _weights(module: Module, path: str, values: Mapping[str, Number], tied: bool) -> tuple[Weight, ...]:
    """The parameters of a module itself. Of an embedding the kernel reads some rows alone."""
    found: list[Weight] = []
    for kernel in (child for child in module.children if isinstance(child, Kernel)):
        for tensor in kernel.inputs:
            name = tensor.name.rpartition(".")[2].removesuffix("[rows]")
            if tensor.is_weight and name in ("weight", "bias") and name not in {one.name for one in found}:
                symbols = (EMBEDDINGS[module.name], D) if module.name in EMBEDDINGS else tensor.packs or tensor.shape
                shape = tuple(int(size.evaluate(values)) for size in symbols)
                found.append(Weight(name, shape, symbols, EMBEDDING if tied and path == HEAD else ""))
    return tuple(found)
