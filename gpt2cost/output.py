"""Where results go: stdout or a file that appears whole or not at all, in one of the formats."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gpt2cost import export
from gpt2cost.errors import InputError
from gpt2cost.page import Page
from gpt2cost.records import Record, envelope
from gpt2cost.settings import check_choice

PIPED_WIDTH = 160
"""Columns of a table that does not go to a terminal, unless COLUMNS says otherwise."""


class ClosedPipe(Exception):  # noqa: N818 (it is no error)
    """Whoever reads stdout has seen enough. A class of its own, because typer makes a broken pipe exit with 1."""


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


def print_warnings(warnings: Iterable[str]) -> None:
    """Warnings to stderr, a line each."""
    for warning in warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)


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


def check_writable(path: Path) -> None:
    """Raise `InputError` unless a file can be made at `path`."""
    try:
        is_folder, has_folder = path.is_dir(), path.parent.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from None
    if is_folder:
        raise InputError(f"{path}: cannot write: it is a folder")
    if not has_folder:
        raise InputError(f"{path}: cannot write: no folder {path.parent}")
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise InputError(f"{path}: cannot write: permission denied")


def write_text(text: str, path: Path | None) -> None:
    """Text to stdout, or to a file that appears whole or not at all."""
    write_chunks((text,), path)


def write_chunks(chunks: Iterable[str], path: Path | None) -> None:
    """Pieces of text, as they come, to stdout or to a file that appears whole or not at all."""
    if path is None:
        try:
            sys.stdout.writelines(chunks)
            sys.stdout.flush()
        except BrokenPipeError:
            raise ClosedPipe from None
        return
    write_bytes((chunk.encode("utf-8") for chunk in chunks), path)


def write_bytes(chunks: Iterable[bytes], path: Path) -> None:
    """Pieces of a file that appears whole or not at all. Raises `InputError` where it cannot be written."""
    try:
        if path.is_symlink() and path.is_file():  # the link stays one
            path = path.resolve()
        if path.exists() and not path.is_file():  # a device or a pipe cannot be replaced
            with path.open("wb") as file:
                file.writelines(chunks)
            return
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(chunks)
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
