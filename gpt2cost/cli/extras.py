"""Rooms that need an optional extra: torch, scipy, matplotlib, jinja2 and pyarrow, without which predicting does."""

from __future__ import annotations

import importlib
from typing import Any

from gpt2cost.errors import InputError

EXTRAS = {"torch": "measure", "scipy": "measure", "matplotlib": "plot", "jinja2": "page", "pyarrow": "arrow"}
"""A library that predicting does without -> the extra of gpt2cost that installs it."""


def load(room: str, command: str) -> Any:
    """The module `room`, such as `gpt2cost.measure.passes`, which `command` needs.

    Raises `InputError` that says what to install where a library of `EXTRAS` is missing.
    """
    try:
        return importlib.import_module(room)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        raise InputError(f'{command} needs {library}: pip install "gpt2cost[{EXTRAS[library]}]"') from None
