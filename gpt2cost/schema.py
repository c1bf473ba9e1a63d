"""A mapping from outside to nested frozen dataclasses: the types are the schema, and all errors come at once.

Hardware files and config.json are read with it. A field's NAME carries its unit, and the file's key is the name without
it: `bandwidth_bytes_per_s: float` is read from `bandwidth: 3.35 TB/s`, `t0_s` from `t0: 1.8 us`. A float without a unit
in its name is a bare number: 0, or of a magnitude from 1e-9 to 1e15. Other types: int, str (one printable line), bool,
a Literal of strings, `T | None`, tuple[T, ...], dict[str, T], dataclasses and unions of them (the one whose keys fit
best). A default makes a key optional. Field metadata narrows values:

    {"bound": "positive" | "natural" | "fraction"}   numbers above 0; 0 or more; above 0 and at most 1
    {"range": (1, 10**7)}                            both ends included
    {"keys": (...), "required": (...)}               which keys a dict may have, and which it must have
    {"of": {...}}                                    the rules of a dict's values, where they are dicts themselves
    {"derived": True}                                the field is not read from the file

A dataclass may check its fields together in `__post_init__`, raising InputError.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from gpt2cost.errors import InputError, echo, nearest, plain
from gpt2cost.units import parse_quantity, unit_of

PROBLEM_LIMIT = 20
"""Most problems that one message lists."""
_BOUNDS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "positive": (" above 0", lambda x: x > 0),
    "natural": (" of 0 or more", lambda x: x >= 0),
    "fraction": (" above 0 and at most 1", lambda x: 0 < x <= 1),
}

T = TypeVar("T")


def build(cls: type[T], tree: object, where: str, unknown_keys: Literal["refuse", "ignore"] = "refuse") -> T:
    """An instance of the dataclass `cls` from `tree`, a mapping as YAML or JSON gives it.

    Raises one InputError that lists every problem: `where: $.memory.bandwidth: expected ...; $.units: missing`.
    """
    if unknown_keys == "ignore" and isinstance(tree, dict):
        tree = {key: value for key, value in tree.items() if key in fields_of(cls)}  # type: ignore[arg-type]
    builder = _Builder()
    value = builder.record(cls, tree, "$")
    if problems := builder.problems:
        more = [f"and {len(problems) - PROBLEM_LIMIT} more"] if len(problems) > PROBLEM_LIMIT else []
        raise InputError(f"{where}: {'; '.join(problems[:PROBLEM_LIMIT] + more)}")
    return value  # type: ignore[no-any-return]


def change(instance: T, path: str, tree: object, where: str) -> T:
    """`instance`, a dataclass as `build` makes it, with the value at `path`, such as `memory.bandwidth`, set to `tree`.

    Raises one InputError for an unknown key, with the nearest, and for a value that the schema refuses there.
    """
    builder = _Builder()
    changed = builder.changed(type(instance), None, instance, path.split("."), tree, "$")
    if builder.problems:
        raise InputError(f"{where}: {'; '.join(builder.problems)}")
    return changed  # type: ignore[no-any-return]


def check_mapping(where: str, tree: object) -> None:
    """Raise `InputError` unless `tree` is a mapping whose keys are text."""
    if not isinstance(tree, Mapping):
        raise InputError(f"{where}: expected a mapping from what to change to its value, got {echo(tree)}")
    for key in tree:
        if not isinstance(key, str):
            raise InputError(f"{where}: expected text as a key, got {echo(key)}")


@dataclass(frozen=True)
class SchemaField:
    """How one key of a mapping is read. `unit` is None where the field's name carries none."""

    name: str
    type: Any
    unit: str | None
    rules: Mapping[str, Any]
    required: bool


@cache
def fields_of(cls: type) -> dict[str, SchemaField]:
    """Key in a file -> field of a dataclass, in order."""
    hints, fields = get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if field.metadata.get("derived"):
            continue
        hint = hints[field.name]
        is_float = hint is float or float in get_args(hint)
        key, unit = unit_of(field.name) if is_float else (field.name, None)
        required = field.default is MISSING and field.default_factory is MISSING
        fields[key] = SchemaField(field.name, hint, unit, field.metadata, required)
    return fields


class _Builder:
    """Turns trees into values and collects what is wrong. After a problem the value returned is meaningless."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def fail(self, path: str, text: str) -> None:
        self.problems.append(f"{path}: {text}")

    def expected(self, path: str, what: str, tree: object) -> None:
        self.fail(path, f"expected {what}, got {echo(tree)}")

    def keys(self, tree: object, path: str, allowed: Iterable[str] | None, required: Iterable[str]) -> dict[str, Any]:
        """The entries of a mapping whose keys are right; without `allowed`, any printable text is a key."""
        if not isinstance(tree, dict):
            self.expected(path, "a mapping", tree)
            return {}
        for key in required:
            if key not in tree:
                self.fail(f"{path}.{key}", "missing")
        names = None if allowed is None else list(allowed)
        right: dict[str, Any] = {}
        listed = False
        for key, value in tree.items():
            if not isinstance(key, str) or not key.isprintable():
                self.expected(path, "printable text as a key", key)
            elif names is not None and key not in names:
                known = "" if listed else f"known here: {', '.join(names)}"  # once is enough
                hint = nearest(key, names) or known
                listed = listed or hint == known
                self.fail(f"{path}.{plain(key)}", f"unknown key, {hint}" if hint else "unknown key")
            else:
                right[key] = value
        return right

    def record(self, cls: type, tree: object, path: str) -> Any:
        """An instance of a dataclass from a mapping."""
        before, fields = len(self.problems), fields_of(cls)
        entries = self.keys(tree, path, fields, [key for key, field in fields.items() if field.required])
        values = {
            fields[key].name: self.value(fields[key].type, fields[key], tree, f"{path}.{key}")
            for key, tree in entries.items()
        }
        if len(self.problems) > before:
            return None
        try:
            return cls(**values)
        except InputError as error:
            self.fail(path, str(error))
            return None

    def value(self, kind: Any, field: SchemaField, tree: object, path: str) -> Any:
        """A value of the type `kind` from `tree`. `field` is the field that it is, or is an element of."""
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            kinds = [arg for arg in args if arg is not NoneType]
            if tree is None and NoneType in args:
                return None
            return self.value(_likeliest(kinds, tree), field, tree, path)
        if origin is dict:
            entries = self.keys(tree, path, field.rules.get("keys"), field.rules.get("required", ()))
            inner = _inner(field)
            return {key: self.value(args[1], inner, entry, f"{path}.{key}") for key, entry in entries.items()}
        if origin is tuple:
            if not isinstance(tree, list):
                return self.expected(path, "a list", tree)
            return tuple(self.value(args[0], field, entry, f"{path}[{i}]") for i, entry in enumerate(tree))
        if origin is Literal:
            if not isinstance(tree, str) or tree not in args:
                return self.expected(path, f"one of {', '.join(args)}" if len(args) > 1 else repr(args[0]), tree)
            return tree
        if dataclasses.is_dataclass(kind):
            return self.record(kind, tree, path)  # type: ignore[arg-type]
        return self.scalar(kind, field, tree, path)

    def changed(self, kind: Any, field: SchemaField | None, old: Any, keys: list[str], tree: object, path: str) -> Any:
        """`old`, a value of the type `kind`, with what lies under `keys` set to `tree`."""
        key, here = keys[0] if keys else "", f"{path}.{plain(keys[0])}" if keys else path
        if not keys:
            assert field is not None
            return self.value(kind, field, tree, path)
        if get_origin(kind) in (Union, UnionType):
            kinds = [arg for arg in get_args(kind) if arg is not NoneType]
            kind = type(old) if type(old) in kinds else kinds[0]
        if dataclasses.is_dataclass(kind) and old is not None:
            fields = fields_of(kind)  # type: ignore[arg-type]
            if not self.keys({key: tree}, path, fields, ()):
                return None
            inner = fields[key]
            value = self.changed(inner.type, inner, getattr(old, inner.name), keys[1:], tree, here)
            try:
                return None if self.problems else dataclasses.replace(old, **{inner.name: value})
            except InputError as error:
                return self.fail(path, str(error))
        if get_origin(kind) is dict and field is not None and old is not None:
            allowed = field.rules.get("keys") or (sorted(old) if len(keys) > 1 else None)
            if not self.keys({key: tree}, path, allowed, ()):
                return None
            return {**old, key: self.changed(get_args(kind)[1], _inner(field), old.get(key), keys[1:], tree, here)}
        if old is None:
            return self.fail(path, "is not set, so that it can only be set as a whole, as a mapping")
        return self.fail(path, f"has no keys, so no {plain('.'.join(keys))}")

    def scalar(self, kind: type, field: SchemaField, tree: Any, path: str) -> Any:
        if field.unit is not None:
            try:
                return parse_quantity(tree, field.unit)
            except InputError as error:
                return self.fail(path, str(error))
        if kind is str:
            return tree if isinstance(tree, str) and tree.isprintable() else self.expected(path, "a line of text", tree)
        if kind is bool:
            return tree if isinstance(tree, bool) else self.expected(path, "true or false", tree)
        text, holds = _BOUNDS.get(field.rules.get("bound", ""), ("", lambda x: True))
        if "range" in field.rules:
            least, most = field.rules["range"]
            text, holds = f" from {least} to {most}", lambda x: least <= x <= most
        if kind is int:
            if not isinstance(tree, int) or isinstance(tree, bool) or abs(tree) >= 2**63 or not holds(tree):
                return self.expected(path, "a whole number" + text, tree)
            return tree
        if kind is float:
            is_number = isinstance(tree, int | float) and not isinstance(tree, bool)
            if not (is_number and _is_plausible(tree) and holds(tree)):
                power = "; a power of ten needs a point and a sign, as 8.5e-1 has" if _is_number(tree) else ""
                return self.expected(path, f"a plain number{text}, such as 0.85{power}", tree)
            return float(tree)
        raise TypeError(f"the schema has no rule for {kind}")


def _inner(field: SchemaField) -> SchemaField:
    """The rules of a dict's values: its own `of`, else those of the dict."""
    return dataclasses.replace(field, rules=field.rules["of"]) if "of" in field.rules else field


def _likeliest(kinds: list[Any], tree: object) -> Any:
    """Of several dataclasses the one that has most of a mapping's keys."""
    keys = set(tree) if isinstance(tree, dict) and len(kinds) > 1 else set()
    return max(kinds, key=lambda kind: len(keys & set(fields_of(kind)))) if keys else kinds[0]


def _is_plausible(number: float) -> bool:
    """Whether a bare number can be meant: rates per second go far up, nothing goes far down."""
    return number == 0 or 1e-9 <= abs(number) <= 1e15


def _is_number(tree: object) -> bool:
    """Whether `tree` is text that other languages than YAML read as a number."""
    try:
        return isinstance(tree, str) and math.isfinite(float(tree))
    except ValueError:
        return False
