"""The output in README and docs/ is the tool's: each block below a marker is run again and compared. See `pages`."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from helpers import ROOT
from pages import BLOCKS, PAGES, README, output

from gpt2cost.device.catalog import validate_file
from gpt2cost.table.citations import shipped_lines, transformers_version


def test_there_are_blocks() -> None:
    assert sum(page == README for page, _ in BLOCKS) >= 5
    assert {page for page in PAGES if page not in {page for page, _ in BLOCKS}} == {
        ROOT / "docs" / name for name in ("decisions.md", "python.md")
    }


def test_no_block_loops_in_a_shell() -> None:
    """Each process imports everything anew: half a second, of some twenty on all pages."""
    looping = [block["command"] for _, block in BLOCKS if re.search(r"\bdo\b|\(\) *\{", block["command"])]
    assert not looping


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=f"{page.stem}: {block['command'][:40]}") for page, block in BLOCKS]
)
def test_block(block: re.Match[str]) -> None:
    if re.search(r"\w\.py:\d", block["text"]) and transformers_version() != shipped_lines().versions[-1]:
        pytest.skip("the lines of HuggingFace's source are those of the newest transformers")
    assert output(block["command"], block["width"]) == block["text"], "python tests/regenerate.py writes it anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_examples_run(page: Path) -> None:
    found = doctest.testfile(str(page), module_relative=False)
    assert found.attempted > 5 or page != README
    assert found.failed == 0


def yaml_block(page: Path) -> str:
    found = re.search(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.S)
    assert found
    return found[1]


def test_the_hardware_file_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "my-gpu.yaml"
    path.write_text(yaml_block(README))
    assert [device.name for device in validate_file(path)] == ["my-gpu"]
    path.write_text(yaml_block(README) + yaml_block(ROOT / "docs" / "training.md"))
    (device,) = validate_file(path)
    assert device.interconnect is not None
    assert device.interconnect.network is not None
