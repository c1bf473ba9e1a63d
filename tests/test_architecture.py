"""The shape of the code and of its tests; citations and presets hold, and the linters are content."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import regenerate
from helpers import ROOT, process
from transformers import GPT2Config

import gpt2cost
from gpt2cost.files import data_dir
from gpt2cost.table import citations
from gpt2cost.table.citations import LINES_FILE, Citation, installed_transformers, resolve, shipped_lines
from gpt2cost.table.config import load_model

PACKAGE = Path(gpt2cost.__file__).parent

MODULES = sorted(PACKAGE.rglob("*.py"))

WINGS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_imports_go_one_way() -> None:
    """The contract of the wings, in pyproject.toml."""
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def imported(node: ast.AST) -> list[str]:
    """The modules that an import statement may load: of `from a.b import c`, a.b and a.b.c. None of another node."""
    match node:
        case ast.Import(names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module, names):
            return [str(module), *(f"{module}.{alias.name}" for alias in names)]
    return []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_well_made(path: Path) -> None:
    """It says what it is, is short, and imports at its top, but for libraries that are slow to load."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert len(text.splitlines()) <= 380
    nodes = list(ast.walk(tree))
    assert "gpt2cost" not in [name for node in nodes for name in imported(node)], "__init__ is for users"
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], "relative"
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    late = {name.partition(".")[0] for function in functions for node in ast.walk(function) for name in imported(node)}
    assert late <= {"torch", "transformers", "matplotlib"}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "id" not in called, "an id is another object's as soon as its own is gone"


def test_the_house_is_seen_at_a_glance() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 10
    assert len(WINGS) <= 8


def test_the_tests_lie_as_the_code_does() -> None:
    """A folder for each wing; and what tests share lies where no test is, so that each may be read and run alone."""
    tests = ROOT / "tests"
    assert {path.parent.name for path in tests.glob("*/test_*.py")} == WINGS
    names = {path.stem for path in tests.rglob("test_*.py")}
    assert len(names) > 30
    for path in tests.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not {part for name in imported(node) for part in name.split(".")} & names, path


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """CI tests the command line with those of .ci/oldest.txt."""
    bounds = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    lines = (ROOT / ".ci/oldest.txt").read_text("utf-8").splitlines()
    oldest = [line for line in lines if not line.startswith("#")]
    assert sorted(bound.replace(">=", "==") for bound in bounds) == oldest


@pytest.mark.parametrize("module", ["gpt2cost", "gpt2cost.table.formula"])
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 1
    assert found.failed == 0


# ---------------------------------------------------------------------------------------------- shipped data


INSTALLED = installed_transformers()
assert INSTALLED is not None
VERSION, FOLDER = INSTALLED


def test_the_lines_of_the_installed_transformers() -> None:
    """Where the installed version is one that ships, its column is what `regenerate.py` would write."""
    assert len(regenerate.all_citations()) > 50
    assert version("transformers") == VERSION
    if VERSION not in shipped_lines().versions:
        pytest.skip(f"the lines of {VERSION} do not ship")
    assert LINES_FILE.read_text("utf-8") == regenerate.citations_text(VERSION, FOLDER)


def test_every_citation_resolves_in_the_newest() -> None:
    """The version that the tests pin is the newest that ships, and no citation is missing in it."""
    shipped = shipped_lines()
    newest = shipped.versions[-1]
    assert f'"transformers=={newest}"' in (ROOT / "pyproject.toml").read_text("utf-8")
    assert [key for key, lines in shipped.lines.items() if lines[newest] is None] == []


def test_no_citation_has_its_line_in_the_newest_alone() -> None:
    """A new one gets those of the older versions too: see `regenerate.py`."""
    shipped = shipped_lines()
    known = {key: [version for version, line in lines.items() if line] for key, lines in shipped.lines.items()}
    assert [key for key, versions in known.items() if len(versions) < 2] == []
    attention = [lines for key, lines in shipped.lines.items() if "::GPT2Attention.forward::" in key]
    assert all(None not in lines.values() for lines in attention)


@pytest.mark.parametrize(
    ("installed", "printed"),
    [("5.23.0", "5.23.0"), ("5.23.9", "5.23.0"), ("5.10.0.dev0", "5.10.4"), ("4.57.1", "5.0.0"), ("6.1", "newest")],
)
def test_the_lines_are_those_of_the_installed_minor(
    installed: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers/__init__.py").touch()
    code = "import gpt2cost.table.citations as c; print(c.transformers_version())"
    newest = shipped_lines().versions[-1]
    for folder, expected in ((f"transformers-{installed}.dist-info", printed), ("other-1.0.dist-info", "newest")):
        (tmp_path / folder).mkdir()
        done = process(["-c", code], {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(PACKAGE.parent)))}, check=True)
        assert done.stdout.strip() == (newest if expected == "newest" else expected)
        (tmp_path / folder).rmdir()


def test_a_line_that_a_version_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    citation = Citation("activations.py", "SqrtSoftplusActivation.forward", "softplus(")
    assert str(citation).removeprefix("activations.py:").isdecimal()
    monkeypatch.setattr(citations, "transformers_version", lambda: "5.0.0")
    assert str(citation) == "activations.py:?"


def test_a_wrong_citation_does_not_resolve() -> None:
    right = Citation("modeling_gpt2.py", "GPT2MLP.forward", "self.c_fc(hidden_states)")
    line = resolve(right, FOLDER)
    assert right.fragment in (FOLDER / "models/gpt2/modeling_gpt2.py").read_text("utf-8").splitlines()[line - 1]
    for wrong in (Citation(right.file, right.qualname, "self.c_fcc("), Citation(right.file, "GPT2MLP.fwd", "self")):
        with pytest.raises(LookupError, match=r"modeling_gpt2\.py"):
            resolve(wrong, FOLDER)


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
def test_linters(command: str) -> None:
    """Each keeps what it has seen in a folder of the checkout, so that only the first run takes long."""
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
