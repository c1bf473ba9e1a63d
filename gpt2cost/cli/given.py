"""What is read from the flags that were given: what they change, which must be there, and which go together."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gpt2cost.checks import check_choice
from gpt2cost.device.catalog import HOST_FACTOR
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.files import STDIN
from gpt2cost.output.messages import print_warnings
from gpt2cost.table.config import preset_names
from gpt2cost.table.options import HEADS, WEIGHTS


def flag_of(name: str) -> str:
    """The flag that a parameter of this name is read from."""
    return f"--{name.strip('_').replace('_', '-')}"


FILES = ("model", "gpu", "grid", "from_", "trace", "measurements", "file", "name")
"""Parameters that may name a file."""


def with_stdin(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a command with `-`, alone or in a list of files, as the file that is stdin.

    Raises `InputError` where two of them are, as it can be read once, and where it is a terminal or closed.
    """
    lists = {name: str(flags[name]).split(",") for name in FILES if flags.get(name) is not None}
    named = [flag_of(name) for name, parts in lists.items() for part in parts if part == "-"]
    if not named:
        return dict(flags)
    if len(named) > 1:
        raise InputError(
            f"{' and '.join(dict.fromkeys(named))}: stdin is read once, so that only one - may stand for it"
        )
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise InputError(f"{named[0]} -: expected a file or a pipe on stdin, such as < FILE")
    read = {name: ",".join(str(STDIN) if part == "-" else part for part in parts) for name, parts in lists.items()}
    return {**flags, **{name: type(flags[name])(text) for name, text in read.items()}}


def is_given(value: object) -> bool:
    """Whether a flag's value says that it was given: it is neither None nor False."""
    return value is not None and value is not False  # 0 is given


def refuse(given: Mapping[str, Any], why: str) -> None:
    """Raise `InputError` for the first of some flags that is given."""
    for name, value in given.items():
        if is_given(value):
            raise InputError(f"{flag_of(name)}: {why}")


def refuse_changed(flags: Any, why: str, *names: str) -> None:
    """The same for the first of some fields of a dataclass, of all where none is named, that is not its default."""
    usual = {field.name: field.default for field in dataclasses.fields(flags)}
    refuse({name: getattr(flags, name) for name in names or usual if getattr(flags, name) != usual[name]}, why)


def assignments(flag: str, given: list[str] | None, separator: str | None = None) -> dict[str, str]:
    """`key=value` texts as a mapping, each split at `separator` first. Raises `InputError` for anything else."""
    changes: dict[str, str] = {}
    for part in (part for text in given or [] for part in (text.split(separator) if separator else [text])):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            is_list = flag == "--set" and changes and key and not equals
            hint = f"; sweep and compare take several values of {plain(next(reversed(changes)))}" if is_list else ""
            raise InputError(f"{flag}: expected key=value, got {echo(part)}{hint}")
        if key in changes:
            raise InputError(f"{flag}: {plain(key)} is set twice")
        changes[key] = value
    return changes


def model_changes(
    set_: list[str] | None, head: str | None, encoder_len: int | None, weights: str | None = None
) -> dict[str, str]:
    """What --set, --head, --encoder-len and --weights change of a model. Raises `InputError` where two give the same.

    `weights`: one way of storing them, or several with commas between them.
    """
    changes = assignments("--set", set_, ",")
    for each in [] if weights is None else weights.split(","):
        check_choice("weights", each, WEIGHTS)
    if head is not None:
        check_choice("head", head, HEADS)
    for name, value in {"weights": weights, "encoder_len": encoder_len, "head": head}.items():
        if value is not None and name in changes:
            raise InputError(f"{flag_of(name)}: {name} is set by --set too")
        if value is not None:
            changes[name] = str(value)
    return changes


@contextmanager
def named_as_given(**flags: object) -> Iterator[None]:
    """An `InputError` about what one of some flags sets, `encoder_len` say, names the flag if it was given."""
    try:
        yield
    except InputError as error:
        text = str(error)
        for name in (name for name, value in flags.items() if value is not None):
            text = re.sub(rf"set: \$(\.|: ){name}\b", flag_of(name), text)
        raise InputError(text) from None


def hardware_changes(hw_set: list[str] | None, host_factor: float | None = None) -> dict[str, Any]:
    """What --hw-set and --host-factor change of a device, as `change_hardware` takes it.

    Raises `InputError` where both give the host's factor.
    """
    changes: dict[str, Any] = {**assignments("--hw-set", hw_set)}
    if host_factor is not None:
        if HOST_FACTOR in changes:
            raise InputError(f"--host-factor: {HOST_FACTOR} is set by --hw-set too")
        changes[HOST_FACTOR] = host_factor
    return changes


def required(flag: str, value: str | None) -> str:
    """The value of a flag that must be given. Raises `InputError`, which says what there is."""
    if value is not None:
        return value
    if flag == "--model":
        raise InputError(f"{flag} is required: one of {', '.join(preset_names())}")
    raise InputError(f"{flag} is required: a device that gpt2cost hardware list names, or a YAML file")


def heed(warnings: Sequence[str], strict: bool) -> None:
    """Print warnings. Raises `InputError` for them where they are errors."""
    if strict and warnings:
        raise InputError("; ".join(warnings))
    print_warnings(warnings)
