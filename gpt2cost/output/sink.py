"""Where results go: stdout or a file that appears whole or not at all, in one of the formats."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2cost.checks import check_choice
from gpt2cost.errors import InputWarning
from gpt2cost.files import check_writable, write_chunks, write_text
from gpt2cost.output import formats as export
from gpt2cost.output.page import Page
from gpt2cost.output.record import Record, envelope

PIPED_WIDTH = 160
"""Columns of a table that does not go to a terminal, unless COLUMNS says otherwise."""


class Sink:
    """Where the output goes, in which format. Made before the work: a wrong format or path costs no time.

    Raises `InputError` for an unknown format or a path that cannot be written.
    """

    def __init__(self, format: str, output: Path | None) -> None:
        check_choice("format", format, export.FORMATS)
        self.format, self.output = format, output
        if output is not None:
            check_writable(output)

    def document(
        self, document: Record, render: Callable[[Page], None], markdown: Callable[[Record], str] | None = None
    ) -> None:
        """Write a document as JSON, as text for people, or as Markdown."""
        if self.format == "table":
            self.page(render)
        elif self.format == "markdown" and markdown:
            write_text(markdown(document), self.output)
        else:
            write_text(export.to_json(document), self.output)

    def rows(self, rows: Sequence[Record]) -> None:
        """Write flat rows as JSON lines, CSV or Markdown."""
        write = {"jsonl": export.to_jsonl, "csv": export.to_csv, "markdown": export.to_markdown}[self.format]
        write_text(write(rows), self.output)

    def stream(self, chunks: Iterable[str]) -> None:
        """Write text that is made piece by piece."""
        write_chunks(chunks, self.output)

    def listing(self, name: str, rows: Sequence[Record], render: Callable[[Page], None]) -> None:
        """Write a list of records: in JSON under `name`."""
        if self.format in ("table", "json"):
            self.document({**envelope(), name: list(rows)}, render)
        else:
            self.rows(rows)

    def page(self, render: Callable[[Page], None]) -> None:
        """Write text for people."""
        terminal = self.output is None and sys.stdout.isatty()
        page = Page(shutil.get_terminal_size((80 if terminal else PIPED_WIDTH, 24)).columns)
        render(page)
        if terminal:
            _print_styled(page)
        else:
            write_text(page.plain(), self.output)


def _print_styled(page: Page) -> None:
    """Print on a terminal, with styles unless NO_COLOR or TERM=dumb say otherwise."""
    from rich.console import Console  # only a terminal needs it
    from rich.text import Text

    console = Console(highlight=False, color_system=None if "NO_COLOR" in os.environ else "auto")
    for text, style in page.lines:
        console.print(Text(text, style="" if console.color_system is None else style))


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
        print(f"warning: {one_line(message)}", file=sys.stderr)


def tell(progress: str = "") -> None:
    """Progress to stderr: on one line of a terminal, which no text clears; else a line each."""
    if sys.stderr.isatty():
        print(f"{one_line(progress)}\x1b[K", end="\r", file=sys.stderr, flush=True)
    elif progress:
        print(one_line(progress), file=sys.stderr, flush=True)


def one_line(message: str) -> str:
    """A message as one printable line, whatever names of the user's are in it."""
    line = " ".join(message.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
