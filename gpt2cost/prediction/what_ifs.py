"""What-ifs that sweep: a list where a model or a device takes one value."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.schema import check_mapping, fields_of

T = TypeVar("T")
Changes = Mapping[str, Any]

_COMMAS = re.compile(r",(?![^\[{]*[\]}])")
"""Commas that are in no brackets."""


def listed(value: str) -> str | list[str]:
    """Text as one value, or as those that commas outside brackets separate."""
    parts = [part.strip() for part in _COMMAS.split(value)]
    return parts if len(parts) > 1 and all(parts) else value


def points_of(changes: Changes) -> int:
    """How many combinations of values there are; a device's own lists count too."""
    return math.prod(len(value) for value in changes.values() if isinstance(value, list))


def changed_by_each(
    item: T, changes: Changes, change: Callable[[T, Changes], T], notes: list[str], is_list: Callable[[str], bool]
) -> Iterator[T]:
    """`item` changed by every combination of values, in the order of nested loops.

    `is_list`: whether a key's own value is a list, which is then one value. A combination that is none is left out, and
    `notes` are told. Raises `InputError` for the only one, and where none is left.
    """
    axes = {key: value if isinstance(value, list) and not is_list(key) else [value] for key, value in changes.items()}
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    reasons = []
    for combination in combinations:
        try:
            yield change(item, combination)
        except InputError as error:
            reasons.append(str(error))
    if len(reasons) == len(combinations):
        raise InputError("; ".join(dict.fromkeys(reasons)) or f"{', '.join(axes)}: no values")
    if reasons:
        notes.append(f"skipped {len(reasons)} of {len(combinations)}: {'; '.join(dict.fromkeys(reasons))}")


def check_changes(where: str, changes: Changes | None) -> Changes:
    """Changes, of which every value may be a list. Raises `InputError` for what is no mapping."""
    check_mapping(where, changes or {})
    return changes or {}


def is_list_of(hardware: Hardware, path: str) -> bool:
    """Whether the constant at a path, as a hardware file has it, is a list."""
    value: Any = hardware
    for key in path.split("."):
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            field = fields_of(type(value)).get(key)
            value = getattr(value, field.name) if field else None
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return isinstance(value, list | tuple)
