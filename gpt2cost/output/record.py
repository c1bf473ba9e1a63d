"""What every output shares: fields, views, the envelope of a document, and its conventions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, Generic, TypeAlias, TypeVar

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.page import Page
from gpt2cost.table.citations import transformers_version
from gpt2cost.table.config import Model
from gpt2cost.version import __version__

SCHEMA_VERSION = 2
"""Rises where a key of a document changes its name or its meaning."""
FLOPS_CONVENTION = "1 FMA = 2 FLOPs"
NOTEBOOK_WIDTH = 160
"""Columns of a page that a notebook shows."""

Record: TypeAlias = dict[str, Any]
"""A row, or a document: keys carry their unit (`_s`, `_bytes`, `_per_s`); values are SI."""

T = TypeVar("T")


@dataclass(frozen=True)
class Field(Generic[T]):
    """One output field of the rows of type T: how its value is read, what machines call it, and what people see.

    `unit` says how a table writes it: `s`, `B`, `FLOP`, `B/s`, `FLOP/s` with one prefix for the column, named in its
    header (`own s`: each cell with its own); `%` a share, `x` a ratio, `.` a number of four characters, `+%` and `+.`
    with their sign, `,` a whole number in groups of three, empty as it is.
    """

    key: str
    header: str
    unit: str
    get: Callable[[T], Any]


def attribute(key: str, header: str = "", unit: str = "", *, of: str = "", path: str = "") -> Field[Any]:
    """A field that is the attribute of its name, of a part of the row if `of` names one, or the one at a dotted path.

    Tables leave out what has no header.
    """
    return Field(key, header, unit, attrgetter(path or f"{of}.{key}".lstrip(".")))


def attributes(*keys: str, of: str = "") -> tuple[Field[Any], ...]:
    """Fields without headers that are attributes of the row, or of a part of it."""
    return tuple(attribute(key, of=of) for key in keys)


def column(key: str, header: str = "", unit: str = "") -> Field[Record]:
    """A field of rows that are records."""
    return Field(key, header, unit, itemgetter(key))


def within(part: Callable[[Any], T | None], fields: Iterable[Field[T]]) -> tuple[Field[Any], ...]:
    """The fields of a part of a row as fields of the row: None where there is no such part."""

    def reader(field: Field[T]) -> Callable[[Any], Any]:
        return lambda row: None if (item := part(row)) is None else field.get(item)

    return tuple(Field(field.key, field.header, field.unit, reader(field)) for field in fields)


def titled(fields: Iterable[Field[T]]) -> list[Field[T]]:
    """The fields that a table shows where it has room: those with a header."""
    return [field for field in fields if field.header]


def record_of(fields: Iterable[Field[T]], item: T) -> Record:
    """One row: the fields' keys with their values."""
    return {field.key: field.get(item) for field in fields}


@dataclass(frozen=True)
class View(Generic[T]):
    """How results of one type are shown: as flat rows, as a JSON document, as text, in two lines, as Markdown.

    Only a `Result` needs the two lines. Markdown is a table of the rows unless there is a function for it; a notebook
    shows the text unless it has a page of its own.
    """

    rows: Callable[[T], Iterable[Record]]
    document: Callable[[T], Record]
    text: Callable[[Page, T], None]
    summary: Callable[[T], tuple[str, str]] | None = None
    markdown: Callable[[T], str] | None = None
    notebook: Callable[[Page, T], None] | None = None

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

    return View(rows, lambda result: {**envelope(), name: rows(result)}, text or table, **more)
