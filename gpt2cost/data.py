"""Where the shipped data lies, and the careful reading of a small text file.

In a wheel the data folders lie beside this module (`gpt2cost/data/hardware`), in a source checkout at its top
(`hardware`). A module wins over a plain folder of the same name, so `data.py` and `data/` do not collide.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from gpt2cost.errors import InputError, plain

SIZE_LIMIT = 1_000_000
"""Largest hardware or config file that is read, in bytes; real ones have a few thousand."""


def data_dir(kind: Literal["hardware", "configs"]) -> Path:
    """The folder of the shipped hardware files or model configs."""
    package = Path(__file__).resolve().parent
    shipped = package / "data" / kind
    return shipped if shipped.is_dir() else package.parent / kind


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file. InputError if it cannot be read, is over SIZE_LIMIT, or is not text."""
    where = plain(str(path))
    try:
        if path.is_fifo() or path.is_char_device():  # a read might never end
            raise InputError(f"{where}: expected a regular file")
        with path.open("rb") as file:
            raw = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise InputError(f"{where}: cannot read this file: {error.strerror or error}") from None
    except ValueError:  # a NUL or a lone surrogate in the name
        raise InputError(f"{where}: not a possible file name") from None
    if len(raw) > SIZE_LIMIT:
        raise InputError(f"{where}: larger than {SIZE_LIMIT // 1_000_000} MB, so it is not such a file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start}); is it a binary file?") from None
    if "\0" in text:
        raise InputError(f"{where}: holds a NUL character; is it a binary file?")
    return text
