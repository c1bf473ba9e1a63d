"""A model's parameters by component: embeddings, a block and its parts, all blocks, the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpt2cost.output.field import Field, Record, attribute, record_of
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.shared import model_record
from gpt2cost.output.tree import WEIGHTS, parameters_text, tied_elements, weight_records
from gpt2cost.prediction.model_tree import Tree
from gpt2cost.prediction.tree import Node, Weight
from gpt2cost.units import format_quantity

EMBEDDINGS = {"wte": "token embeddings", "wpe": "position embeddings"}


@dataclass(frozen=True)
class Component:
    """A part of a model: `parameters` of one of `count` equal ones. `share`: of all of them in the model's.

    `level` says how deep it stands below a sum that it is part of.
    """

    level: int
    component: str
    path: str
    count: int
    weights: tuple[Weight, ...]
    parameters: int
    share: float


def components(tree: Tree) -> list[Component]:
    """The parts with parameters in the order in which they run, and their sums."""
    root = tree.root
    found = [component for node in root.modules for component in _components(node, root.parameters, 0)]
    embedded = sum(one.parameters for one in found if one.component in EMBEDDINGS.values())
    rest = root.parameters - embedded
    sums = (("total", root.parameters), ("without embeddings", rest))
    return found + [Component(0, name, "", 1, (), value, value / root.parameters) for name, value in sums]


def _components(node: Node, total: int, level: int) -> Iterator[Component]:
    each, share = node.parameters // node.count, node.parameters / total
    if node.cls == "ModuleList":
        (block,) = node.modules
        yield from _components(block, total, level)
        yield Component(level, f"{block.count} blocks", node.path, 1, (), each, share)
    elif node.name.isdecimal():
        yield Component(level, "a block", node.path, node.count, (), each, share)
        for leaf in (leaf for leaf in node.walk() if leaf.weights):
            name = leaf.path.removeprefix(f"{node.path}.")
            one, part = leaf.parameters // leaf.count, leaf.parameters / total
            yield Component(level + 1, name, leaf.path, leaf.count, leaf.weights, one, part)
    elif node.weights:
        yield Component(level, EMBEDDINGS.get(node.name, node.name), node.path, 1, node.weights, each, share)
    else:
        for module in node.modules:
            yield from _components(module, total, level)


FIELDS: tuple[Field[Component], ...] = (
    attribute("component"), attribute("path"), attribute("count"), WEIGHTS, attribute("parameters"),
    Field("tied_parameters", "", "", lambda one: tied_elements(one.weights)), attribute("share"),
)  # fmt: skip
"""A component of the flat formats."""
COLUMNS: tuple[Field[Component], ...] = (
    Field("", "component", "", lambda one: "  " * one.level + one.component),
    replace(WEIGHTS, header="weight (+bias)"), Field("", "parameters", "right", parameters_text),
    attribute("share", "share", "%"),
)  # fmt: skip


def _text(page: Page, tree: Tree) -> None:
    page.line(f"{tree.model.name}: {format_quantity(tree.model.parameters, '')} parameters\n")
    page.fields(components(tree), COLUMNS)
    page.line()
    heads = [node for node in tree.root.walk() if node.name == "lm_head"]
    if saved := sum(tied_elements(head.weights) for head in heads):
        page.line(f"lm_head has the weight of wte, which saves {saved:,} parameters")
    page.line("a block and its parts: parameters of one, shares of all")


def _rows(tree: Tree) -> list[Record]:
    return [{"model": tree.model.name, **record_of(FIELDS, one)} for one in components(tree)]


def _document(tree: Tree) -> Record:
    own = [{**record_of(FIELDS, one), "weights": weight_records(one.weights)} for one in components(tree)]
    return {**envelope(tree.model), "model": model_record(tree.model, tree.how), "components": own}


PARAMETERS: View[Tree] = View(_rows, _document, _text)
