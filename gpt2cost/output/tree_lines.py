"""The lines that are shown of a tree of modules: modules, and kernels and free steps where they are asked for.

The figures of a line are those of one copy of its module with all that is in it; a share is that of all copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gpt2cost.prediction.model_tree import PassTree
from gpt2cost.prediction.settings import Number
from gpt2cost.prediction.tree import CONTAINERS, Figures, Node, Weight
from gpt2cost.table.kernel import Free, Kernel, Row, Tensor


@dataclass(frozen=True)
class Shown:
    """What of a tree is shown: modules down to a level (None: all), their kernels, and their steps that launch none."""

    depth: int | None = None
    kernels: bool = False
    free: bool = False


MODULES = Shown()
"""All modules, and nothing else."""


@dataclass(frozen=True)
class Line:
    """A module, or a step of its own, whose class is its op. `figures`: of one of `count` copies.

    `share`: of all copies, of the device's time; `flops_share` of the FLOPs. `outputs`: how many it gives of the
    shape of `output`. `note`: why it costs nothing.
    """

    level: int
    name: str
    path: str
    cls: str
    count: int
    figures: Figures
    share: float | None
    flops_share: float
    symbols: Mapping[str, Number]
    weights: tuple[Weight, ...] = ()
    output: Tensor | None = None
    outputs: int = 1
    parameters: int = 0
    note: str = ""

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written."""
        return self.figures.read_bytes + self.figures.write_bytes


def lines(own: PassTree, shown: Shown, *, summed: bool = False) -> list[Line]:
    """The lines of a pass. `summed`: with one for a module's own kernels together, where they are not shown."""
    return list(_lines(own, own.root, 0, shown, summed))


def _lines(own: PassTree, node: Node, level: int, shown: Shown, summed: bool) -> Iterator[Line]:
    yield _module_line(own, node, level)
    if level == shown.depth:
        return
    for child in node.children:
        if isinstance(child, Node):
            yield from _lines(own, child, level + 1, shown, summed)
        elif _is_shown(node, child.step, shown):
            yield _step_line(own, node, child, level + 1)
    launches = sum(isinstance(row.step, Kernel) for row in node.rows)
    if summed and node.modules and launches and not shown.kernels:
        yield _rest_line(own, node, level + 1, launches)


def _is_shown(node: Node, step: Kernel | Free, shown: Shown) -> bool:
    """Whether a step has a line of its own: the one kernel of a leaf has that of its module, and so has a call."""
    if isinstance(step, Kernel):
        return shown.kernels and (bool(step.name) or bool(node.modules))
    return shown.free and step.op != "call"


def _module_line(own: PassTree, node: Node, level: int) -> Line:
    note = ""
    if node.is_identity:
        note = "identity in inference" if node.cls == "Dropout" and not own.is_training else "identity"
    elif node.output is None and node.cls not in CONTAINERS:
        note = "never called"
    elif not node.launches and not node.modules:
        note = "in a merged kernel"
    is_repeated = node.name.isdecimal()
    name = (
        f"{node.path.rpartition('.')[0].rpartition('.')[2]}.{node.name} (of {node.count})" if is_repeated else node.name
    )
    figures = Figures(node.launches, node.flops, node.read_bytes, node.write_bytes, node.device_s)
    return replace(
        _line(own, node, level, figures), name=name or "model", cls=node.cls, weights=node.weights, output=node.output,
        parameters=node.parameters // node.count, note=note,
    )  # fmt: skip


def _step_line(own: PassTree, node: Node, row: Row, level: int) -> Line:
    """A step of a module: a kernel, or what launches none."""
    step = row.step
    line = _line(own, node, level, node.costs[row.index])
    path = ".".join(filter(None, (node.path, step.name)))
    line = replace(line, name=step.name or step.op, path=path, cls=step.op)
    if isinstance(step, Kernel):
        return replace(line, output=step.outputs[0])
    views = "view: no kernel" if step.count == 1 else f"{step.count} views: no kernel"
    line = replace(line, note="the host waits" if step.op == "sync" else views)
    return replace(line, output=step.outputs[0], outputs=len(step.outputs)) if _are_alike(step.outputs) else line


def _are_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether there are some, all of one shape."""
    return len({tensor.shape for tensor in tensors}) == 1


def _rest_line(own: PassTree, node: Node, level: int, kernels: int) -> Line:
    """What a module launches itself, between the modules in it."""
    line = _line(own, node, level, Figures.of(list(node.costs.values())))
    return replace(line, name="1 own kernel" if kernels == 1 else f"{kernels} own kernels")


def _line(own: PassTree, node: Node, level: int, figures: Figures) -> Line:
    """A line with figures over all copies of a module, of which it shows one's."""
    total, one = own.root, figures.over(node.count)
    share = None if figures.device_s is None or not total.device_s else figures.device_s / total.device_s
    return Line(level, "", node.path, "", node.count, one, share, figures.flops / total.flops, own.symbols)
