"""Command-line values of plain types, read here: typer would import pydantic for them, which costs as much as numpy.

Typer makes its own reader for a parameter when it first needs one, and keeps it in the parameter. Where a typer keeps
none, or a parameter is of another type, nothing is changed and typer reads as it always does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from gpt2cost.errors import echo

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)


class PlainReader:
    """Reads one parameter of the type `kind`. Raises `typer.BadParameter` for what is not of it."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the command takes it; typer calls this."""
        if self.kind == list[str]:
            return tuple(value or ())
        if value is None or isinstance(value, self.kind):
            return value
        if self.kind is Path and value != "":
            return Path(value)
        if self.kind is int and isinstance(value, str) and _INTEGER.fullmatch(value) and len(value) <= 4000:
            return int(value)
        if self.kind is float and isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                pass
        names = {int: "an integer", float: "a number", Path: "a path"}
        wanted = names.get(self.kind, f"a value of type {self.kind.__name__}")
        raise typer.BadParameter(f"expected {wanted}, got {echo(value)}", ctx=ctx, param=param)


def read_plainly(command: Any, parent: Any = None) -> None:
    """Give every parameter of a plain type, of a command and of the commands below it, a `PlainReader`."""
    context = command.context_class(command, parent=parent, **command.context_settings)
    for param in filter(None, (*command.params, command.get_help_option(context))):
        kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
        plain = kind in (str, int, float, bool, Path, list[str])
        if plain and getattr(param, "_runtime_param", param) is None:
            param._runtime_param = PlainReader(kind)
    for subcommand in getattr(command, "commands", {}).values():
        read_plainly(subcommand, context)
