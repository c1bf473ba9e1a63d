"""README's output is the tool's: each block below a marker is run again and compared.

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
BLOCKS = list(BLOCK.finditer(README.read_text("utf-8")))


def output(command: str, width: str | None) -> str:
    """What a shell prints for `command`, warnings included."""
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    environment |= {"COLUMNS": width or "100", "NO_COLOR": "1"}
    shell = f'gpt2cost() {{ "{sys.executable}" -m gpt2cost "$@" 2>&1; }}; {command}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def regenerated() -> str:
    """README with every block's output as it is now."""
    return BLOCK.sub(lambda block: block[1] + output(block["command"], block["width"]), README.read_text("utf-8"))


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["command"][:40])
def test_block(block: re.Match[str]) -> None:
    assert output(block["command"], block["width"]) == block["text"], "python tests/regenerate.py writes it anew"


def test_the_python_examples_run() -> None:
    found = doctest.testfile(str(README), module_relative=False)
    assert found.attempted > 5
    assert found.failed == 0


def test_the_hardware_file_is_valid(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", README.read_text("utf-8"), re.S)
    assert found
    path = tmp_path / "my-gpu.yaml"
    path.write_text(found[1])
    assert [device.name for device in validate_file(path)] == ["my-gpu"]
