"""Where the cost table's kernels stand in the source of transformers.

A citation names a file, a function in it and a fragment of the line; it is a claim, and a test resolves every one of
them in the installed transformers. The line numbers that the tool prints ship in `citations.json`, a column for each
minor version of transformers; in a checkout, `python tests/regenerate.py` writes the installed version's anew.
"""

from __future__ import annotations

import ast
import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LINES_FILE = Path(__file__).with_name("citations.json")

FILES = {
    "modeling_gpt2.py": "models/gpt2/modeling_gpt2.py",
    "activations.py": "activations.py",
    "cache_utils.py": "cache_utils.py",
    "masking_utils.py": "masking_utils.py",
    "modeling_flash_attention_utils.py": "modeling_flash_attention_utils.py",
    "sdpa_attention.py": "integrations/sdpa_attention.py",
    "loss_utils.py": "loss/loss_utils.py",
    "modeling_utils.py": "modeling_utils.py",
    "generation/utils.py": "generation/utils.py",
    "stopping_criteria.py": "generation/stopping_criteria.py",
    "logits_process.py": "generation/logits_process.py",
}
"""Where each cited file lies below the transformers package."""

TORCH_FILES = {
    "torch/adam.py": "optim/adam.py",
    "torch/clip_grad.py": "nn/utils/clip_grad.py",
    "torch/distributed.py": "nn/parallel/distributed.py",
    "torch/grad_scaler.py": "amp/grad_scaler.py",
}
"""Where each cited file lies below the torch package."""

BITSANDBYTES_FILES = {
    "bnb/_functions.py": "autograd/_functions.py",
    "bnb/functional.py": "functional.py",
    "bnb/modules.py": "nn/modules.py",
    "bnb/ops.py": "backends/cuda/ops.py",
}
"""Where each cited file lies below the bitsandbytes package."""

PACKAGES = {"transformers": FILES, "torch": TORCH_FILES, "bitsandbytes": BITSANDBYTES_FILES}
"""The packages whose files are cited."""

NANOGPT = "nanoGPT/model.py"
"""A file that is no package's: its functions are cited, and a test finds the fragments in the model that it traces."""


@dataclass(frozen=True)
class Citation:
    """The first line of function `qualname` in `file` that contains `fragment` and is no comment."""

    file: str
    qualname: str
    fragment: str

    @property
    def key(self) -> str:
        return f"{self.file}::{self.qualname}::{self.fragment}"

    def __str__(self) -> str:
        """`modeling_gpt2.py:185`, in `transformers_version()`; `?` where that version has no such line.

        Of torch, bitsandbytes and nanoGPT, the function: `torch/adam.py:_multi_tensor_adam`.
        """
        if self.file not in FILES:
            return f"{self.file}:{self.qualname}"
        line = shipped_lines().lines.get(self.key, {}).get(transformers_version())
        return f"{self.file}:{'?' if line is None else line}"


_cited: dict[Citation, None] = {}


def cite(qualname: str, fragment: str, file: str = "modeling_gpt2.py") -> Citation:
    """A citation, remembered so that a test can resolve every one of them."""
    citation = Citation(file, qualname, fragment)
    _cited.setdefault(citation)
    return citation


@dataclass(frozen=True)
class ShippedLines:
    """The content of `citations.json`: versions of transformers, oldest first, and each citation's line in them."""

    versions: tuple[str, ...]
    lines: dict[str, dict[str, int | None]]


@cache
def shipped_lines() -> ShippedLines:
    """The lines that ship. In the file, the lines of a citation are a list over the versions."""
    content = json.loads(LINES_FILE.read_text("utf-8"))
    versions = tuple(content["versions"])
    return ShippedLines(versions, {key: dict(zip(versions, row, strict=True)) for key, row in content["lines"].items()})


@cache
def transformers_version() -> str:
    """The version of transformers whose lines are printed.

    It has the minor version of the one that is installed, or else the nearest before it; without one, the newest.
    """
    versions, installed = shipped_lines().versions, installed_transformers()
    if installed is None:
        return versions[-1]
    place = bisect_right([_minor(version) for version in versions], _minor(installed[0]))
    return versions[max(place - 1, 0)]


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]+", version)[:2])


def installed_transformers() -> tuple[str, Path] | None:
    """The version and the folder of the installed transformers, which is not imported; None where there is none.

    The folder of its metadata lies beside it and has the version in its name: `importlib.metadata` takes 20 ms more.
    """
    try:
        spec = find_spec("transformers")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    metadata = next(package.parent.glob("transformers-*.dist-info"), None)
    return (metadata.name.removesuffix(".dist-info").partition("-")[2], package) if metadata else None


def resolve(citation: Citation, package: Path) -> int:
    """The 1-based line of a citation below `package`, the folder of a transformers, a torch or a bitsandbytes.

    Raises `LookupError` if the function or the fragment is not there.
    """
    return line_of(citation, package / place_of(citation)[1])


def place_of(citation: Citation) -> tuple[str, str]:
    """The package whose file a citation names, and where it lies below it; nothing where it is no package's."""
    places = ((package, files[citation.file]) for package, files in PACKAGES.items() if citation.file in files)
    return next(places, ("", ""))


def line_of(citation: Citation, path: Path) -> int:
    """The 1-based line of a citation in the source at `path`. Raises `LookupError` if it is not there."""
    lines, functions = _parsed(path)
    for qualname, function in functions:
        if qualname == citation.qualname:
            for number, line in enumerate(lines[function.lineno - 1 : function.end_lineno], function.lineno):
                if citation.fragment in line and not line.lstrip().startswith("#"):
                    return number
    raise LookupError(f"not in this transformers: {citation.key}")


@cache
def _parsed(path: Path) -> tuple[list[str], list[tuple[str, ast.FunctionDef]]]:
    text = path.read_text("utf-8")
    return text.splitlines(), list(_functions(ast.parse(text)))


def _functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")


def cited() -> tuple[Citation, ...]:
    """Every citation that the tables built so far have made."""
    return tuple(_cited)
