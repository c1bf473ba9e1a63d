"""What several tests need: the command line called, and the rows of the table laid out. No torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Free, Kernel, Row
from gpt2cost.table.symbols import CONSTANT_BYTES

ROOT = Path(__file__).parents[1]
"""The checkout."""

# ---------------------------------------------------------------------------------------------- the command line


class Result(NamedTuple):
    code: int
    out: str
    err: str


Call: TypeAlias = Callable[..., Result]
"""The fixture `gpt2cost`: the command line, called."""


def process(
    arguments: Sequence[str], env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """A real process; its environment is this one's and `env`."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **(env or {})}, **options
    )


def assert_refused(result: Result, named: str = "") -> None:
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    assert result.err.strip().isprintable()
    assert named in result.err


def refusal(result: Result) -> str:
    """The error of a refused command, its last line; what is above says what went before."""
    error = result.err.splitlines(keepends=True)[-1]
    assert_refused(Result(result.code, result.out, error))
    return error


# ---------------------------------------------------------------------------------------------- the cost table


def values(model: Model, dtype: str, batch: int, seq: int, cache: int) -> dict[str, int]:
    size = ELEMENT_BYTES[dtype]
    sizes = {"batch_size": batch, "seq_len": seq, "cache_len": cache, "kv_len": seq + cache}
    return {**model.symbols(), **CONSTANT_BYTES, **sizes, "w_bytes": size, "a_bytes": size}


def unrolled(rows: list[Row], layers: int) -> Iterator[tuple[str, Kernel | Free]]:
    """The steps in the order in which they run, with the repeated block's rows repeated and numbered."""
    block = [row for row in rows if row.module.startswith("transformer.h")]
    for row in rows:
        if row is block[0]:
            for layer in range(layers):
                for inner in block:
                    yield re.sub(r"\.h\b", f".h.{layer}", inner.module, count=1), inner.step
        elif row not in block:
            yield row.module, row.step


POINTS = [(8, 512, 0), (8, 512, 1024), (1, 1, 512), (3, 17, 5), (1, 40, 0)]
