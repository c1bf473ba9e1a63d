"""What goes to stderr: warnings and progress, a line each."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from gpt2cost.errors import InputWarning


@contextmanager
def input_warnings_printed() -> Iterator[None]:
    """Each `InputWarning` as one line on stderr, once, while this lasts."""
    printed: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, InputWarning):
            usual(message, category, *where, **more)
        elif str(message) not in printed:
            printed.add(str(message))
            print_warnings([str(message)])

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", InputWarning)
        yield


def print_warnings(messages: Iterable[str]) -> None:
    """Warnings to stderr, a line each."""
    for message in messages:
        say(f"warning: {one_line(message)}")


def tell(progress: str = "") -> None:
    """Progress to stderr: on one line of a terminal, which no text clears; else a line each."""
    if sys.stderr.isatty():
        say(f"{one_line(progress)}\x1b[K", end="\r")
    elif progress:
        say(one_line(progress))


def say(line: str, end: str = "\n") -> None:
    """A line to stderr. Where nobody can read it, it is dropped: it costs no data."""
    try:
        print(line, end=end, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115


def one_line(message: str) -> str:
    """A message as one printable line, whatever names of the user's are in it."""
    line = " ".join(message.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
