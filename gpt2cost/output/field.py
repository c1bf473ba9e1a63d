"""The fields of an output: how a value is read from a row, what machines call it, and what people see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, Generic, TypeAlias, TypeVar

Record: TypeAlias = dict[str, Any]
"""A row, or a document: keys carry their unit (`_s`, `_bytes`, `_per_s`); values are SI."""

T = TypeVar("T")


@dataclass(frozen=True)
class Field(Generic[T]):
    """One output field of the rows of type T: how its value is read, what machines call it, and what people see.

    `unit` says how a table writes it: `s`, `B`, `FLOP`, `B/s`, `FLOP/s` with one prefix for the column, named in its
    header (`own s`: each cell with its own); `%` a share, `x` a ratio, `.` a number of four characters, `+%` and `+.`
    with their sign, `,` a whole number in groups of three, empty as it is (`right`: words too on the right).
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
