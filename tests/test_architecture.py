"""The shape of the code: imports go downwards, citations and presets hold, and the linters are content."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import regenerate
from helpers import ROOT
from transformers import GPT2Config

import gpt2cost
from gpt2cost.files import data_dir
from gpt2cost.table.citations import LINES_FILE, Citation, resolve, transformers_version
from gpt2cost.table.config import load_model

PACKAGE = Path(gpt2cost.__file__).parent

MODULES = sorted(PACKAGE.rglob("*.py"))


def test_imports_go_one_way() -> None:
    """The contract of the wings, in pyproject.toml."""
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    if path.stem != "__main__":
        assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("module", ["gpt2cost", "gpt2cost.table.formula"])
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 1
    assert found.failed == 0


# ---------------------------------------------------------------------------------------------- shipped data


def test_every_citation_resolves() -> None:
    """Each is found in the installed transformers; for the version that ships, at the line that ships."""
    citations = regenerate.all_citations()
    assert len(citations) > 50
    found = regenerate.citation_lines()
    if version("transformers") == transformers_version():
        assert json.loads(LINES_FILE.read_text("utf-8")) == found


def test_a_wrong_citation_does_not_resolve() -> None:
    folder = regenerate.transformers_folder()
    right = Citation("modeling_gpt2.py", "GPT2MLP.forward", "self.c_fc(hidden_states)")
    line = resolve(right, folder)
    assert right.fragment in (folder / "models/gpt2/modeling_gpt2.py").read_text("utf-8").splitlines()[line - 1]
    for wrong in (Citation(right.file, right.qualname, "self.c_fcc("), Citation(right.file, "GPT2MLP.fwd", "self")):
        with pytest.raises(LookupError, match=r"modeling_gpt2\.py"):
            resolve(wrong, folder)


@pytest.mark.parametrize("path", sorted(data_dir("configs").glob("*.json")), ids=lambda path: path.stem)
def test_a_preset_is_what_gpt2config_makes_of_it(path: Path) -> None:
    own, config = load_model(path.stem), GPT2Config.from_json_file(str(path))
    names = [
        "n_layer", "n_head", "n_embd", "vocab_size", "n_positions", "activation_function", "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings", "use_cache",
    ]  # fmt: skip
    assert {name: getattr(own, name) for name in names} == {name: getattr(config, name) for name in names}
    assert own.n_inner == (config.n_inner or 4 * config.n_embd)


def test_no_path_of_a_machine() -> None:
    """What a reader cannot follow: absolute paths of one machine, or what lies beside the repository."""
    files = [*PACKAGE.rglob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("hardware/*.yaml"), ROOT / "pyproject.toml"]
    folders = "/" + "work/", "/" + "root/", "/" + "home/", ".." + "/shared"
    assert [path.name for path in files for folder in folders if folder in path.read_text("utf-8")] == []


# ---------------------------------------------------------------------------------------------- lint, format, types


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_linters(command: str, tmp_path: Path) -> None:
    arguments: list[Any] = [sys.executable, "-m", *command.split()]
    if command == "mypy":
        arguments += ["--cache-dir", tmp_path]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
