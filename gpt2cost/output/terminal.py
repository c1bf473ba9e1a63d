"""What only a terminal sees: bold lines, and a progress bar. Needs rich, so that it is imported when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from gpt2cost.output.page import Page


def print_styled(page: Page) -> None:
    """Print on a terminal, with styles unless NO_COLOR or TERM=dumb say otherwise."""
    console = Console(highlight=False, color_system=None if "NO_COLOR" in os.environ else "auto")
    for line in page.lines:
        console.print(Text.assemble(*((text, "" if console.color_system is None else style) for text, style in line)))


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[[int], Any]]:
    """A bar on stderr that a function advances, and that is gone at the end."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
