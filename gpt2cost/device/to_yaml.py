"""A `Hardware` as the text of a hardware file: what `schema.py` reads, written."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.schema import fields_of
from gpt2cost.units import format_quantity, parse_quantity

DIGITS = 5
"""Significant digits of what is written."""
_LONG = 500
"""Characters from which a mapping of plain values is written line by line."""


def hardware_tree(hw: Hardware) -> dict[str, Any]:
    """The mapping that a hardware file of `hw` holds: keys and quantities with units, without what is at its default.

    Nothing in it is borrowed, and it has no variants: `hw` stands alone. Raises InputError for a value that a file
    cannot hold, such as a required time of 0.
    """
    return _record(hw, "$")


def hardware_yaml(hw: Hardware) -> str:
    """`hardware_tree` as YAML, which `catalog.validate_file` reads as a device equal to `hw` to `DIGITS` digits."""
    return yaml.dump(hardware_tree(hw), Dumper=_Dumper, sort_keys=False, width=110, default_flow_style=None)


class _Dumper(yaml.SafeDumper):
    """Breaks lines between entries only, not inside of `2.4 us`, and gives each entry of a long mapping its own."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        if len(str(mapping)) > _LONG:
            node.flow_style = False
        return node

    def write_plain(self, text: str, split: bool = True) -> None:
        super().write_plain(text, split=False)

    def write_single_quoted(self, text: str, split: bool = True) -> None:
        super().write_single_quoted(text, split=False)


def _record(instance: Any, path: str) -> dict[str, Any]:
    defaults = {field.name: _default(field) for field in dataclasses.fields(instance)}
    tree, cls = {}, instance.__class__
    for key, field in fields_of(cls).items():
        value = getattr(instance, field.name)
        if field.required or value != defaults[field.name]:
            tree[key] = _value(value, field.unit, f"{path}.{key}")
    return tree


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _value(value: Any, unit: str | None, path: str) -> Any:
    """A field's value, or an element of it, as YAML has it. Containers are new: YAML marks one that it meets twice."""
    match value:
        case dict():
            return {key: _value(entry, unit, f"{path}.{key}") for key, entry in value.items()}
        case tuple():
            return [_value(entry, unit, f"{path}[{i}]") for i, entry in enumerate(value)]
        case None | bool() | str():
            return value
        case int() | float() if unit is not None:
            return _quantity(float(value), unit, path)
        case int():
            return value
        case float():
            return float(f"{value:.{DIGITS}g}")
        case _:
            return _record(value, path)


def _quantity(value: float, unit: str, path: str) -> str:
    """A quantity without trailing zeros; whole mebibytes, as caches have them, as such."""
    if unit == "B" and value >= 2**20 and value % 2**20 == 0:
        return f"{int(value) >> 20} MiB"
    number, name = format_quantity(value, unit, DIGITS).split(" ")
    text = f"{number.rstrip('0').rstrip('.') if '.' in number and 'e' not in number else number} {name}"
    try:
        parse_quantity(text, unit)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return text
