"""The model on a page: every module and step of a tree with its figures at one point, shapes, formulas and reasons."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpt2cost.output.field import Record
from gpt2cost.output.kernel_rows import SUMS
from gpt2cost.output.launch import flops_text, product_of, when_text
from gpt2cost.output.page import NOTHING, short_number
from gpt2cost.output.report.points import row_key
from gpt2cost.output.report.tree import Branch, Leaf, grown, leaves
from gpt2cost.output.shapes import numbers_text, symbols_text
from gpt2cost.prediction.one_pass import KernelCost
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.prediction.tree import Node, tree_of
from gpt2cost.table.kernel import Kernel, Row, Tensor, short_path
from gpt2cost.table.why.reasons import why
from gpt2cost.units import format_quantity, scale_for


def quantity(value: float, unit: str) -> str:
    """A number with its unit, as the page's script writes it too."""
    return tidy(format_quantity(value, unit)) if value else "0"


def tidy(text: str) -> str:
    """A text with units, whose micro is a Greek letter, and whose numbers stay with their units."""
    return text.replace(" us", " µs").replace(" ", "\u00a0")


def number(value: float) -> str:
    """A number of at most four characters."""
    return short_number(value)


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{100 * share:.1f}%"


@dataclass(frozen=True)
class Figures:
    """Sums over kernels: launches, FLOPs, bytes, seconds of the device."""

    launches: int = 0
    flops: int = 0
    read: int = 0
    write: int = 0
    s: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.launches + other.launches, self.flops + other.flops, self.read + other.read, self.write + other.write,
            self.s + other.s,
        )  # fmt: skip

    def text(self, pass_s: float) -> Record:
        """As the page writes them; shares are of the seconds of the whole pass."""
        moved, share = self.read + self.write, self.s / pass_s
        return {
            "flops": quantity(self.flops, "FLOP"), "moved": quantity(moved, "B"),
            "fpb": number(self.flops / moved) if moved else NOTHING, "s": quantity(self.s, "s"),
            "share": percent(share), "part": share, "launches": self.launches,
        }  # fmt: skip


def figures_of(costs: Iterable[KernelCost]) -> Figures:
    """The sum of some kernels."""
    every = (Figures(cost.count, cost.flops, cost.read_bytes, cost.write_bytes, cost.device_s) for cost in costs)
    return sum(every, Figures())


def figures_of_row(row: Record | None) -> Figures:
    """The figures of a row of kernels; zero where there is none."""
    return Figures(*(row[key] for key in SUMS)) if row else Figures()


class Shown:
    """One phase of a prediction beside the rows of every table of the page."""

    def __init__(self, prediction: Prediction, phase: Phase, rows: Sequence[Row]) -> None:
        model, how = prediction.model, prediction.how
        self.phase, self.model = phase, model
        self.branch = grown(rows, "")
        costs = {row_key(cost.row): cost for cost in phase.kernels}
        kernels = [row for row in rows if isinstance(row.step, Kernel)]
        self.costs = [costs.get(row_key(row)) for row in kernels]
        self.runs = {row_key(row) for row in phase.pass_.rows if row.step.when.evaluate(phase.symbols)}
        self.nodes = {node.path.replace(".h.0", ".h"): node for node in tree_of(model, how, phase.sizes).walk()}
        self.units = {key: scale_for(self._column(key), unit) for key, unit in UNITS.items()}

    def _column(self, key: str) -> list[float]:
        return [float(getattr(figures_of([cost]), key)) for cost in self.costs if cost]

    def _figures(self, first: int, last: int) -> Figures:
        return figures_of(cost for cost in self.costs[first:last] if cost)

    def tree(self) -> Record:
        """The whole model."""
        return self._branch(self.branch, 1)

    def _branch(self, branch: Branch, above: int) -> Record:
        """A module, of which there are `above` times as many as of what it is in. One step alone stands for it."""
        node = self.nodes.get(branch.path)
        count = node.count if node else above
        name = branch.name or (node.cls if node else "model")
        if count != above:
            name = f"{name} (x {count})"
        alone = branch.children[0]
        if len(branch.children) == 1 and isinstance(alone, Leaf):
            own = self.step(alone)
            module = {"name": name, "module": branch.path, "weights": _weights(node), "parameters": _parameters(node)}
            return own | module | {"op": " ".join(filter(None, (node.cls if node else "", own["op"])))}
        return {
            "name": name, "path": short_path(branch.path), "first": branch.first, "last": branch.last,
            "cls": node.cls if node and branch.name else "",
            "out": self._shape(node.output) if node and node.output else None,
            "weights": _weights(node), "parameters": _parameters(node, each=count != above),
            "f": self._figures(branch.first, branch.last).text(self.phase.totals.device_s),
            "children": [
                self._branch(child, count) if isinstance(child, Branch) else self.step(child)
                for child in branch.children
            ],
        }  # fmt: skip

    def step(self, leaf: Leaf) -> Record:
        """A step: a kernel, or what launches none."""
        row, step = leaf.row, leaf.row.step
        reason = why(row)
        shown: Record = {
            "name": step.name or "forward", "op": "" if step.op in (step.name, "call") else step.op,
            "link": leaf.link, "number": leaf.number, "kind": "", "hidden": row_key(row) not in self.runs,
            "why": reason, "when": when_text(step.when) if str(step.when) else "", "out": None,
            "module": "", "weights": "", "parameters": "",
        }  # fmt: skip
        if not isinstance(step, Kernel):
            return shown
        assert leaf.number is not None
        figures = self._figures(leaf.number, leaf.number + 1)
        formulas = (("flops", "FLOPs", step.flops), ("read", "reads", step.reads), ("write", "writes", step.writes))
        return shown | {
            "kind": step.kind, "f": figures.text(self.phase.totals.device_s), "t": self._scaled(figures, leaf.number),
            "out": self._shape(step.outputs[0]), "inputs": [self._tensor(own) for own in step.inputs],
            "outputs": [self._tensor(own) for own in step.outputs],
            "formulas": [(key, label, str(formula)) for key, label, formula in formulas if formula],
            "product": product_of(step), "product_text": flops_text(step), "one": self._one(leaf.number),
            "count": str(row.count), "source": str(step.source), "quoted": step.source,
        }  # fmt: skip

    def _one(self, place: int) -> Record:
        """A launch of a kernel; it has no figures where it is not launched."""
        cost = self.costs[place]
        if cost is None:
            return dict.fromkeys(("flops", "read", "write", "s"), NOTHING)
        step, values = cost.kernel, self.phase.symbols
        one = {"flops": (step.flops, "FLOP"), "read": (step.reads, "B"), "write": (step.writes, "B")}
        texts = {key: quantity(formula.evaluate(values), unit) for key, (formula, unit) in one.items()}
        return {**texts, "s": quantity(cost.device_s / cost.count, "s")}

    def _tensor(self, tensor: Tensor) -> Record:
        return {"name": tensor.name, "each": str(tensor.element), **self._shape(tensor)}

    def _shape(self, tensor: Tensor) -> Record:
        return {
            "symbols": symbols_text(tensor.shape), "numbers": numbers_text(tensor.shape, self.phase.symbols),
            "dims": "|".join(map(str, tensor.shape)),
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------ the table of kernels

    def kernels(self) -> list[Record]:
        """Every kernel as a row of the table."""
        rows = [self.step(leaf) for leaf in leaves(self.branch) if leaf.number is not None]
        ranks = itertools.count(1)
        return [row | {"rank": "" if row["hidden"] else next(ranks)} for row in rows]

    def columns(self, columns: Mapping[str, str]) -> list[tuple[str, str, str | None]]:
        """The table's columns with the units that this phase has."""
        units = {key: tidy(f" {unit}").strip() for key, (_, unit) in self.units.items()}
        return [(key, label, units.get(key)) for key, label in columns.items()]

    def total(self) -> Record:
        """The table's last row."""
        whole = self._figures(0, len(self.costs))
        return whole.text(self.phase.totals.device_s) | self._scaled(whole)

    def _scaled(self, figures: Figures, place: int | None = None) -> Record:
        cost = None if place is None else self.costs[place]
        scaled = {key: number(float(getattr(figures, key)) / divisor) for key, (divisor, _) in self.units.items()}
        return {**scaled, "launches": f"{figures.launches:,}", "bound": cost.bound if cost else ""}


UNITS = {"flops": "FLOP", "read": "B", "write": "B", "s": "s"}


def _weights(node: Node | None) -> str:
    if node is None:
        return ""
    parts = (
        f"{own.name} {symbols_text(own.symbols)} = {'x'.join(map(str, own.shape))}"
        + (f", the weight of {own.tied_to}" if own.tied_to else "")
        for own in node.weights
    )
    each = f"; {node.parameters // node.count:,} parameters in each" if node.count > 1 and node.weights else ""
    return "; ".join(parts) + each


def _parameters(node: Node | None, each: bool = False) -> str:
    """Those of all copies; with `each` as so many times those of one."""
    if node and any(own.tied_to for own in node.weights):
        return "0 (tied)"
    if not node or not node.parameters:
        return ""
    return f"{node.count} x {node.parameters // node.count:,}" if each else f"{node.parameters:,}"
