"""What every output shares: fields, views, the envelope of a document, and its conventions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeAlias, TypeVar

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.page import Page
from gpt2cost.prediction.ranges import spread
from gpt2cost.prediction.settings import How, Sizes
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


def attribute(key: str, header: str = "", unit: str = "", path: str = "") -> Field[Any]:
    """A field that is an attribute: that of its name, or at a dotted path. Tables leave out what has no header."""
    return Field(key, header, unit, attrgetter(path or key))


def within(part: Callable[[Any], T], fields: Iterable[Field[T]]) -> tuple[Field[Any], ...]:
    """The fields of a part of a row as fields of the row."""

    def reader(field: Field[T]) -> Callable[[Any], Any]:
        return lambda row: field.get(part(row))

    return tuple(Field(field.key, field.header, field.unit, reader(field)) for field in fields)


def record_of(fields: Iterable[Field[T]], item: T) -> Record:
    """One row: the fields' keys with their values."""
    return {field.key: field.get(item) for field in fields}


@dataclass(frozen=True)
class View(Generic[T]):
    """How results of one type are shown: as flat rows, as a JSON document, as text, in two lines, as Markdown.

    Without `markdown` that is a table of the rows; a notebook shows the text unless it has a page of its own.
    """

    rows: Callable[[T], Iterable[Record]]
    document: Callable[[T], Record]
    text: Callable[[Page, T], None]
    summary: Callable[[T], tuple[str, ...]]
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
    name: str, fields: Sequence[Field[T]], text: Callable[[Page, Sequence[T]], None] | None = None
) -> View[Sequence[T]]:
    """The view of a list of things: a row each, in JSON under `name`; as text a table of the fields with headers."""

    def rows(items: Sequence[T]) -> list[Record]:
        return [record_of(fields, item) for item in items]

    def table(page: Page, items: Sequence[T]) -> None:
        page.fields(items, [field for field in fields if field.header])

    return View(
        rows,
        lambda items: {**envelope(), name: rows(items)},
        text or table,
        lambda items: (f"<{name}: {len(items)}>", ""),
    )


# ---------------------------------------------------------------------------------------------- what many share

MODEL: tuple[Field[Model], ...] = (
    attribute("name", "model"), attribute("n_layer", "n_layer"), attribute("n_head", "n_head"),
    attribute("n_embd", "n_embd"), attribute("n_inner"), attribute("vocab_size", "vocab_size"),
    attribute("n_positions", "n_positions"), attribute("activation_function"), attribute("tie_word_embeddings"),
    attribute("reorder_and_upcast_attn"), attribute("parameters", "parameters", ","),
)  # fmt: skip
"""A model's dimensions under GPT2Config's names, and its parameters."""


def how_record(how: How) -> Record:
    """How a model is run."""
    return {name: getattr(how, name) for name in ("dtype", "attn", "runtime", "logits", "use_cache")}


def sizes_record(sizes: Sizes) -> Record:
    """The sizes asked for."""
    return {name: getattr(sizes, name) for name in ("batch_size", "seq_len", "cache_len")}


def calibration(hardware: Hardware, dtype: str | None = None) -> str:
    """`calibrated` where whole passes measured on the device (in this dtype) are in its file, or kernels were by
    `gpt2cost calibrate`; else `uncalibrated`."""
    residuals: Mapping[str, float] = {}
    if hardware.calibration is not None and not hardware.changes:
        residuals = hardware.calibration.residuals
    if dtype is None:
        measured = bool(hardware.evidence or residuals)
    else:
        measured = spread(hardware, dtype).basis == "evidence" or any(kind.endswith(dtype) for kind in residuals)
    return "calibrated" if measured else "uncalibrated"


def hardware_head(hardware: Hardware, dtype: str) -> Record:
    """The device of a prediction, and how far it can be trusted."""
    return {
        "name": hardware.name,
        "vendor": hardware.vendor,
        "architecture": hardware.architecture,
        "calibration": calibration(hardware, dtype),
        "range_basis": spread(hardware, dtype).basis,
        "borrowed": dict(hardware.borrowed),
    }
