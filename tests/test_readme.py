"""The output in README and docs/ is the tool's: each block below a marker is run again and compared.

The markers are comments, `<!-- output of: gpt2cost models -->`; the width is 100 columns unless the marker says
`<!-- output at 80 columns of: ... -->`. `python tests/regenerate.py` writes the blocks anew.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2cost.hardware import validate_file

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(
    r"(<!-- output(?: at (?P<width>\d+) columns)? of: (?P<command>.+?) -->\n```\w*\n)(?P<text>.*?)(?=```)", re.S
)
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
BLOCKS = [(page, block) for page in PAGES for block in BLOCK.finditer(page.read_text("utf-8"))]


def output(command: str, width: str | None) -> str:
    """What a shell prints for `command`, warnings included."""
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    environment |= {"COLUMNS": width or "100", "NO_COLOR": "1"}
    shell = f'gpt2cost() {{ "{sys.executable}" -m gpt2cost "$@" 2>&1; }}; {command}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def regenerated(page: Path) -> str:
    """A page with every block's output as it is now."""
    return BLOCK.sub(lambda block: block[1] + output(block["command"], block["width"]), page.read_text("utf-8"))


def test_there_are_blocks() -> None:
    assert sum(page == README for page, _ in BLOCKS) >= 5
    assert {page for page, _ in BLOCKS} == set(PAGES)


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=f"{page.stem}: {block['command'][:40]}") for page, block in BLOCKS]
)
def test_block(block: re.Match[str]) -> None:
    assert output(block["command"], block["width"]) == block["text"], "python tests/regenerate.py writes it anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_examples_run(page: Path) -> None:
    found = doctest.testfile(str(page), module_relative=False)
    assert found.attempted > 5 or page != README
    assert found.failed == 0


def test_the_hardware_file_is_valid(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", README.read_text("utf-8"), re.S)
    assert found
    path = tmp_path / "my-gpu.yaml"
    path.write_text(found[1])
    assert [device.name for device in validate_file(path)] == ["my-gpu"]
