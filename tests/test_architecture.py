"""The shape of the code: imports go downwards, citations and presets hold, and the linters are content."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import regenerate
from transformers import GPT2Config

import gpt2cost
from gpt2cost.citations import LINES_FILE, Citation, resolve, transformers_version
from gpt2cost.data import data_dir
from gpt2cost.model import load_model

PACKAGE = Path(gpt2cost.__file__).parent
ROOT = Path(__file__).parents[1]

# Each module imports only from the lines above its own. `gpt2cost` is what the package's __init__ offers.
FLOORS = """
formula errors citations
units data terms coercion torch_extra
schema measurement_records fitting
constants kernels
cpu_constants
hardware activations attention
masks
profiler_trace hardware_file table settings generation
grid model gemm attention_time memory_bound cpu_time
machine timeline fusion liveness
single_kernel gpu_forms cpu_forms base_device
queue_run fit_gpu
trace_match
passes
fit_cpu
calibration
uncertainty
validation
predict accuracy turns
plot_data
plot
explain generate_run sweeps search
sweep_order comparison
capacity
gpt2cost
records
accuracy_records validation_records fitting_records generate_records workload_records chrome_trace page export
render render_accuracy render_generate render_sweep render_workloads render_validation sweep_text output
pool
microbench bench
measure_run
options
cli_generate cli_plot cli_trace cli_sweep cli_compare cli_fit cli_calibrate cli_measure
cli_validate
cli
__main__
"""
FLOOR = {module: number for number, line in enumerate(FLOORS.strip().splitlines()) for module in line.split()}
MODULES = sorted("gpt2cost" if path.stem == "__init__" else path.stem for path in PACKAGE.glob("*.py"))


def path_of(module: str) -> Path:
    return PACKAGE / ("__init__.py" if module == "gpt2cost" else f"{module}.py")


def imports(path: Path) -> Iterator[str]:
    """The modules of the package that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.rpartition(".")[2] for alias in node.names if alias.name.split(".")[0] == "gpt2cost")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            package, _, module = (node.module or "").partition(".")
            if package == "gpt2cost":
                names = [alias.name for alias in node.names]
                yield from [module] if module else (name if path_like(name) else "gpt2cost" for name in names)


def path_like(name: str) -> bool:
    """Whether `from gpt2cost import name` gives a module. `predict` is the function there."""
    return name in FLOOR and name not in gpt2cost.__all__


def test_every_module_has_a_floor() -> None:
    assert sorted(FLOOR) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    above = [other for other in imports(path_of(module)) if FLOOR[other] >= FLOOR[module]]
    assert above == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    if module != "__main__":
        assert ast.get_docstring(ast.parse(path_of(module).read_text("utf-8")))


@pytest.mark.parametrize("module", ["gpt2cost", "gpt2cost.formula"])
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
    files = [*PACKAGE.glob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("hardware/*.yaml"), ROOT / "pyproject.toml"]
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
