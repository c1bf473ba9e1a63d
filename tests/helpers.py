"""What several tests need: the command line called, hardware files, the rows of the table laid out. No torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest

from gpt2cost.device.catalog import validate_file
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.errors import InputError
from gpt2cost.files import data_dir
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


PREDICT = ["predict", "--model", "distilgpt2", "--gpu", "a100"]
SMALL = [*PREDICT, "--batch", "2", "--seq", "16", "--cache", "4"]


_ONE = ["--model", "gpt2", "--gpu", "a100"]
_SIZES = ["--seq", "16"]
EVERY_COMMAND: dict[str, list[str]] = {
    "predict": [*_ONE, *_SIZES],
    "train": [*_ONE, *_SIZES],
    "sweep": [*_ONE, *_SIZES],
    "compare": ["--model", "gpt2", "--gpu", "a100,t4", *_SIZES],
    "fit": [*_ONE, *_SIZES],
    "generate": [*_ONE, "--prompt", "8", "--new-tokens", "2"],
    "trace": [*_ONE, *_SIZES],
    "calibrate": ["--from", "{recorded}", "-o", "out.yaml"],
    "measure": ["--model", "{tiny}", "--batch", "1", "--seq", "4", "--cache", "0", "--rounds", "2", "--threads", "1"],
    "validate": ["--gpu", "a100", "--from", "{passes}"],
    "table": [],
    "tree": ["--model", "gpt2"],
    "explain": ["c_attn", *_ONE],
    "models": [],
    "kernel": ["gemm", "--gpu", "a100", "--m", "8", "--n", "8", "--k", "8"],
    "accuracy": ["--gpu", "a100"],
    "hardware": ["show", "a100"],
    "plot": ["curve", *_ONE, "--batch", "1,2", "-o", "out.svg"],
    "report": [*_ONE, *_SIZES, "-o", "out.html"],
}
"""Each command of the command line with arguments with which it is fine; names in braces are of files."""


def flattened(kernel: dict[str, Any], side: str) -> str:
    """A kernel's tensors as the flat formats have them."""
    return ", ".join(f"{one['name']} {one['symbols']} {'x'.join(map(str, one['shape'])) or 1}" for one in kernel[side])


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


def assert_calm(result: Result) -> None:
    """Fine, perhaps with warnings; or refused in one line."""
    assert result.code in (0, 2)
    assert "Traceback" not in result.err
    if result.code == 0:
        assert all(line.startswith("warning: ") for line in result.err.splitlines())
    elif "Usage" not in result.out + result.err:
        assert_refused(result)


# ---------------------------------------------------------------------------------------------- hardware files

MY_GPU = """
name: my-gpu
vendor: nvidia
architecture: ampere_sm80
compute_capability: 8.0
memory: {capacity: 80 GB, bandwidth: 2 TB/s, l2: 40 MB, l2_bandwidth: 5 TB/s}
compute: {units: 108, peak: {fp32: 19.5 TFLOP/s, fp16: 312 TFLOP/s}}
launch: {like: a100-sxm-80gb}
host: {like: a100-sxm-80gb}
model: {like: a100-sxm-80gb}
provenance: {memory: datasheet}
"""
"""The file of a device that borrows what was not measured."""

SHIPPED = sorted(data_dir("hardware").glob("*.yaml"))


def write_yaml(folder: Path, text: str | bytes, name: str = "case.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def file_refusal(path: Path) -> str:
    """The message, less the path before it, with which a file is refused."""
    with pytest.raises(InputError) as caught:
        validate_file(path)
    message = str(caught.value)
    assert message.isprintable(), "one line"
    assert message.startswith(f"{path}: ")
    assert len(message) < 5000
    return message.removeprefix(f"{path}: ")


# ---------------------------------------------------------------------------------------------- the cost table


def values(model: Model, dtype: str, batch: int, seq: int, cache: int) -> dict[str, int]:
    size = ELEMENT_BYTES[dtype]
    sizes = {"batch_size": batch, "seq_len": seq, "cache_len": cache, "kv_len": seq + cache}
    return {**model.symbols(), **CONSTANT_BYTES, **sizes, "w_bytes": size, "a_bytes": size}


def unrolled(rows: list[Row], layers: int) -> Iterator[tuple[str, Kernel | Free]]:
    """The steps in the order in which they run, with the repeated block's rows repeated and numbered."""
    block = [row for row in rows if row.count != 1]
    for row in rows:
        if row is block[0]:
            for layer in range(layers):
                for inner in block:
                    yield re.sub(r"\bh\b", f"h.{layer}", inner.module, count=1), inner.step
        elif row not in block:
            yield row.module, row.step


POINTS = [(8, 512, 0), (8, 512, 1024), (1, 1, 512), (3, 17, 5), (1, 40, 0)]
