"""Where results go: stdout or a file that appears whole or not at all, in one of the formats."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from gpt2cost.checks import check_choice
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.files import check_writable, write_bytes, write_chunks, write_out, write_text
from gpt2cost.output.field import Record
from gpt2cost.output.formats import COLUMNAR, EVERY_FORMAT, to_csv, to_json, to_jsonl, to_markdown
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope

PIPED_WIDTH = 160
"""Columns of a table that does not go to a terminal, unless COLUMNS says otherwise."""

OF_SUFFIX = {
    ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".md": "markdown", ".markdown": "markdown",
    ".txt": "table", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip
"""The end of a file's name -> what is in it. `.gz` may follow."""
FOREIGN = (".tsv", ".xls", ".xlsx", ".ods", ".html", ".htm", ".pdf", ".png", ".svg", ".yaml", ".yml", ".zip", ".zst",
           ".bz2", ".xz")  # fmt: skip
"""Names of files of a kind that is not written here: text under them would mislead."""
STDOUT = Path("-")

T = TypeVar("T")


class Sink:
    """Where the output goes, in which format. Made before the work: a wrong format or path costs no time.

    Without a format it is the one that the name of `output` ends in, else the first of `formats`; `-` is stdout. Raises
    `InputError` for an unknown format, for a name that says another one, for a path that cannot be written, and for a
    binary format that would go to a terminal.
    """

    def __init__(self, format: str | None, output: Path | None, formats: Sequence[str] = EVERY_FORMAT) -> None:
        if format is not None:
            check_choice("format", format, tuple(formats))
        self.output = None if output == STDOUT else output
        named = None if self.output is None else _named(self.output, formats)
        self.format = format or named or formats[0]
        if named not in (None, self.format):
            raise InputError(f"-o {plain(str(output))} --format {format}: that name is for {named}")
        if self.output is not None:
            check_writable(self.output)
        elif self.format in COLUMNAR and sys.stdout.isatty():
            raise InputError(f"--format {self.format}: is not for a terminal; -o FILE writes it to a file")

    def only_in(self, flag: str, *formats: str) -> None:
        """Raise `InputError` where a flag that was given would change nothing in this format."""
        if self.format not in formats:
            raise InputError(f"{flag}: goes with --format {' or '.join(formats)}, not with {self.format}")

    def show(self, view: View[T], result: T) -> None:
        """Write a result in the format that was asked for."""
        match self.format:
            case "table":
                self.page(lambda page: view.text(page, result))
            case "json":
                write_text(to_json(view.document(result)), self.output)
            case "markdown" if view.markdown is not None:
                write_text(view.markdown(result), self.output)
            case _:
                self.rows(view.rows(result), view.columns)

    def rows(self, rows: Iterable[Record], columns: Sequence[str] = ()) -> None:
        """Write flat rows in any format but those of a document; `columns`: those of a header without rows."""
        if self.format in COLUMNAR:
            arrow = import_module("gpt2cost.output.arrow")
            self.stream_bytes(arrow.row_chunks(list(rows), columns, envelope(), self.format))
        elif self.format == "jsonl":
            write_text(to_jsonl(rows), self.output)
        else:
            write_text((to_csv if self.format == "csv" else to_markdown)(rows, columns), self.output)

    def stream(self, chunks: Iterable[str]) -> None:
        """Write text that is made piece by piece."""
        write_chunks(chunks, self.output)

    def stream_bytes(self, chunks: Iterable[bytes]) -> None:
        """Write a binary format piece by piece."""
        if self.output is not None:
            write_bytes(chunks, self.output)
        else:
            write_out(chunks)

    def page(self, write: Callable[[Page], None]) -> None:
        """Write text for people."""
        terminal = self.output is None and sys.stdout.isatty()
        page = Page(shutil.get_terminal_size((80 if terminal else PIPED_WIDTH, 24)).columns, terminal)
        write(page)
        if terminal:
            import_module("gpt2cost.output.terminal").print_styled(page)  # brings rich, which only a terminal needs
        else:
            write_text(page.plain(), self.output)


def _named(output: Path, formats: Sequence[str]) -> str | None:
    """The format that a file's name ends in, None where it says nothing."""
    suffix = (Path(output.stem) if output.suffix.lower() == ".gz" else output).suffix.lower()
    named = OF_SUFFIX.get(suffix)
    if suffix in FOREIGN or (named is not None and named not in formats):
        wanted = ", ".join(end for end, format in OF_SUFFIX.items() if format in formats)
        raise InputError(f"-o: expected a name that ends in {wanted}, or one of these and .gz, got {echo(output.name)}")
    return named
