"""The model as the page folds it: modules with what is in them, in the order in which they run, of every table at once.

The rows of other attention implementations and dtypes stand where they would run, and are not launched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gpt2cost.table.kernel import Kernel, Row, short_path


@dataclass
class Leaf:
    """A step. `number`: its place among the kernels of the page; None where it launches none. `link`: its address."""

    row: Row
    number: int | None
    link: str


@dataclass
class Branch:
    """A module, with its steps and modules: the kernels `first` to `last` - 1."""

    path: str
    name: str
    first: int
    last: int = 0
    children: list[Branch | Leaf] = field(default_factory=list)


def grown(rows: Sequence[Row], root: str) -> Branch:
    """The tree of some rows, in their order. Neighbours of one module are together; `root` names the whole."""
    tree = Branch("", root, 0)
    open_: list[Branch] = [tree]
    number = 0
    links: set[str] = set()
    for row in rows:
        parts = row.module.split(".") if row.module else []
        depth = 0
        while depth < len(parts) and depth + 1 < len(open_) and open_[depth + 1].name == parts[depth]:
            depth += 1
        _close(open_, depth, number)
        for part in parts[depth:]:
            branch = Branch(".".join(filter(None, (open_[-1].path, part))), part, number)
            open_[-1].children.append(branch)
            open_.append(branch)
        is_kernel = isinstance(row.step, Kernel)
        link = _new(short_path(row.path), links)
        open_[-1].children.append(Leaf(row, number if is_kernel else None, link))
        number += is_kernel
    _close(open_, -1, number)
    return tree


def _close(open_: list[Branch], depth: int, number: int) -> None:
    while len(open_) > depth + 1:
        open_.pop().last = number


def _new(link: str, links: set[str]) -> str:
    """An address that no other step has."""
    own, times = link, 1
    while own in links:
        times += 1
        own = f"{link}~{times}"
    links.add(own)
    return own


def leaves(branch: Branch) -> Iterator[Leaf]:
    """The steps below a branch, in order."""
    for child in branch.children:
        if isinstance(child, Branch):
            yield from leaves(child)
        else:
            yield child
