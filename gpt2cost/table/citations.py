"""Where the cost table's kernels stand in the source of transformers.

A citation names a file, a function in it and a fragment of the line; it is a claim, and a test resolves every one of
them in the installed transformers. The line numbers that the tool prints ship in `citations.json`, for the version of
transformers named there; in a checkout, `python tests/regenerate.py` writes that file anew for the installed version.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LINES_FILE = Path(__file__).with_name("citations.json")


FILES = {
    "modeling_gpt2.py": "models/gpt2/modeling_gpt2.py",
    "activations.py": "activations.py",
    "cache_utils.py": "cache_utils.py",
    "masking_utils.py": "masking_utils.py",
    "modeling_flash_attention_utils.py": "modeling_flash_attention_utils.py",
    "sdpa_attention.py": "integrations/sdpa_attention.py",
    "generation/utils.py": "generation/utils.py",
    "stopping_criteria.py": "generation/stopping_criteria.py",
    "logits_process.py": "generation/logits_process.py",
}
"""Where each cited file lies below the transformers package."""


@dataclass(frozen=True)
class Citation:
    """The first line of function `qualname` in `file` that contains `fragment`."""

    file: str
    qualname: str
    fragment: str

    @property
    def key(self) -> str:
        return f"{self.file}::{self.qualname}::{self.fragment}"

    def __str__(self) -> str:
        """`modeling_gpt2.py:185`, by the line numbers that ship."""
        return f"{self.file}:{_shipped_lines()['lines'].get(self.key, '?')}"


_cited: dict[Citation, None] = {}


def cite(qualname: str, fragment: str, file: str = "modeling_gpt2.py") -> Citation:
    """A citation, remembered so that a test can resolve every one of them."""
    citation = Citation(file, qualname, fragment)
    _cited.setdefault(citation)
    return citation


def transformers_version() -> str:
    """The version of transformers whose line numbers ship."""
    return str(_shipped_lines()["transformers"])


@cache
def _shipped_lines() -> dict[str, Any]:
    lines: dict[str, Any] = json.loads(LINES_FILE.read_text("utf-8"))
    return lines


def resolve(citation: Citation, package: Path) -> int:
    """The 1-based line of a citation below `package`, the folder of the installed transformers.

    Raises `LookupError` if the function or the fragment is not there.
    """
    text = (package / FILES[citation.file]).read_text("utf-8")
    for qualname, function in _functions(ast.parse(text)):
        if qualname == citation.qualname:
            lines = text.splitlines()[: function.end_lineno]
            for number, line in enumerate(lines[function.lineno - 1 :], function.lineno):
                if citation.fragment in line:
                    return number
    raise LookupError(f"not in the installed transformers: {citation.key}")


def _functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")


def cited() -> tuple[Citation, ...]:
    """Every citation that the tables built so far have made."""
    return tuple(_cited)
