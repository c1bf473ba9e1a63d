"""What every output shares: views, the envelope of a document, and its conventions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.field import Field, Record, record_of, titled
from gpt2cost.output.page import Page
from gpt2cost.table.citations import transformers_version
from gpt2cost.table.config import Model
from gpt2cost.version import __version__

SCHEMA_VERSION = 3
"""Rises where a key of a document changes its name or its meaning."""
FLOPS_CONVENTION = "1 FMA = 2 FLOPs"
NOTEBOOK_WIDTH = 160
"""Columns of a page that a notebook shows."""

T = TypeVar("T")


@dataclass(frozen=True)
class View(Generic[T]):
    """How results of one type are shown: as flat rows, as a JSON document, as text, in two lines, as Markdown.

    Only a `Result` needs the two lines. Markdown is a table of the rows unless there is a function for it; a notebook
    shows the text unless it has a page of its own. `columns`: of the rows, where there may be none.
    """

    rows: Callable[[T], Iterable[Record]]
    document: Callable[[T], Record]
    text: Callable[[Page, T], None]
    summary: Callable[[T], tuple[str, str]] | None = None
    markdown: Callable[[T], str] | None = None
    notebook: Callable[[Page, T], None] | None = None
    columns: tuple[str, ...] = ()

    def html(self, result: T) -> str:
        """Tables and lines as HTML, for a notebook."""
        page = Page(NOTEBOOK_WIDTH)
        (self.notebook or self.text)(page, result)
        return page.html()


def envelope(model: Model | None = None, hardware: Hardware | None = None) -> Record:
    """What every JSON document begins with. The source lines in it are those of `transformers_version`.

    Of a model and a device, also what was changed of them.
    """
    changes = {name: dict(item.changes) for name, item in (("model", model), ("hardware", hardware)) if item}
    return {
        "schema_version": SCHEMA_VERSION,
        "gpt2cost_version": __version__,
        "transformers_version": transformers_version(),
        "flops_convention": FLOPS_CONVENTION,
        **({"what_if": changes} if changes else {}),
    }


def listing(
    name: str, fields: Sequence[Field[Any]], text: Callable[[Page, Any], None] | None = None, of: str = "", **more: Any
) -> View[Any]:
    """The view of a list of things, or of what has one as its attribute `of`: a row each, in JSON under `name`.

    As text a table of the fields with headers.
    """

    def items(result: Any) -> Any:
        return getattr(result, of) if of else result

    def rows(result: Any) -> list[Record]:
        return [record_of(fields, item) for item in items(result)]

    def table(page: Page, result: Any) -> None:
        page.fields(items(result), titled(fields))

    columns = tuple(field.key for field in fields)
    return View(rows, lambda result: {**envelope(), name: rows(result)}, text or table, columns=columns, **more)
