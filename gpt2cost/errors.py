"""The package's exceptions, and how a message shows what the user gave.

A message is one line: what was wrong, where, and what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ECHO_LIMIT = 60
"""Longest echo of a user's value in a message, in characters."""


class Gpt2CostError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(Gpt2CostError, ValueError):
    """Something the user gave is wrong: a flag, a name, a file. The command line exits with 2."""


class OutputError(Gpt2CostError):
    """What was made could not be written: a full disk, a closed stdout. The command line exits with 1."""


class InputWarning(UserWarning):
    """Something the user gave is wrong, and what was asked can be done without it. The command line prints it."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint such as `did you mean 'a100', 'a10'?`, or an empty string when nothing is close. Ignores case."""
    by_key = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(name[:ECHO_LIMIT].casefold(), by_key, n=3, cutoff=0.6)
    return f"did you mean {', '.join(repr(by_key[key]) for key in close)}?" if close else ""


def echo(value: object) -> str:
    """A value as a message shows it: short, on one line, printable. Containers and bytes are only named."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list() | tuple() | set() | frozenset():
            return "a list"
        case bytes() | bytearray():
            return "bytes"
        case str() if len(value) > ECHO_LIMIT:
            return repr(value[:ECHO_LIMIT]) + "..."
        case int() if not isinstance(value, bool) and value.bit_length() > 4 * ECHO_LIMIT:
            return "a very large number"  # repr() refuses integers of more than 4300 digits
        case _:
            return repr(value)


def plain(text: str) -> str:
    """A name or a path as it is when short and printable, else as `echo` shows it."""
    return text if text.isprintable() and len(text) <= 4 * ECHO_LIMIT else echo(text)
