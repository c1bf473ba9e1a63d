"""The reading of YAML files of plain scalars, lists and mappings, every oddity refused with its line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent, Event, MappingStartEvent, NodeEvent, ScalarEvent

from gpt2cost.errors import InputError, echo, plain
from gpt2cost.files import read_text

DEPTH_LIMIT = 20
"""Deepest nesting of a YAML file; real ones have 4."""
_MISREAD = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Plain scalars that YAML 1.1 reads as numbers to the base of 8 or 60: nobody means 8 by 010, or 90 by 1:30."""


def read_yaml(path: Path, pipes: bool = False) -> object:
    """The content of a YAML file of plain scalars, lists and mappings; `pipes`: see `read_text`.

    InputError for whatever is not that: an unreadable file (see `read_text`), a syntax error (with its line), tags,
    anchors and aliases, a key given twice, nesting beyond DEPTH_LIMIT, more than one document.
    """
    text, where = read_text(path, pipes), plain(str(path))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _refuse_oddities(yaml.parse(text, loader), where)  # before load: deep nesting would crash the C loader
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        line = f"line {mark.line + 1}: " if mark else ""
        if "nesting depth" in problem:  # of the library's own limit
            raise InputError(f"{where}: {line}nested deeper than {DEPTH_LIMIT} levels") from None
        raise InputError(f"{where}: {line}not valid YAML: {plain(problem)}") from None
    except InputError:
        raise
    except (ValueError, LookupError) as error:  # a scalar that looks like a date or a number, and is none
        raise InputError(f"{where}: not valid YAML: {plain(str(error))}") from None


def yaml_value(text: str, where: str) -> object:
    """Text of a command line as the value that it is in YAML: `0.85` is a number. Raises InputError for no YAML."""
    try:
        _refuse_oddities(yaml.parse(text, yaml.SafeLoader), where)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: expected a value as in a hardware file, got {echo(text)}") from None


@dataclass
class _Open:
    """A list or mapping whose end has not come yet. `keys` is None for a list."""

    keys: set[str] | None
    at_key: bool = True


def _refuse_oddities(events: Iterable[Event], where: str) -> None:
    """Raise InputError for what plain data does not need: tags, anchors, repeated or complex keys, deep nesting, and
    numbers that are not decimal."""
    stack: list[_Open] = []
    for event in events:
        line = f"{where}: line {event.start_mark.line + 1}: " if event.start_mark else f"{where}: "
        if isinstance(event, CollectionEndEvent):
            stack.pop()
        if not isinstance(event, NodeEvent):
            continue
        if event.anchor is not None:
            raise InputError(f"{line}anchors and aliases (& and *) are not allowed: write the value out")
        if getattr(event, "tag", None) is not None:
            raise InputError(f"{line}tags (!) are not allowed: write a plain value")
        if isinstance(event, ScalarEvent) and event.implicit[0] and _MISREAD.fullmatch(event.value):
            raise InputError(
                f"{line}{echo(event.value)} is no decimal number: YAML reads it to the base of"
                f" {60 if ':' in event.value else 8}; write it as one, or in quotes"
            )
        if stack and (keys := stack[-1].keys) is not None:
            if stack[-1].at_key:
                if not isinstance(event, ScalarEvent):
                    raise InputError(f"{line}a key must be a plain name")
                if event.value in keys:
                    raise InputError(f"{line}the key {echo(event.value)} is given twice")
                keys.add(event.value)
            stack[-1].at_key = not stack[-1].at_key
        if isinstance(event, CollectionStartEvent):
            if len(stack) == DEPTH_LIMIT:
                raise InputError(f"{line}nested deeper than {DEPTH_LIMIT} levels")
            stack.append(_Open(set() if isinstance(event, MappingStartEvent) else None))
