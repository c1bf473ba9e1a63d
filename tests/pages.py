"""README and docs/ as tests read them: their blocks of output, and what each block's command prints now.

The markers are comments, `<!-- output of: gpt2cost models -->`; the width is 100 columns unless the marker says
`<!-- output at 80 columns of: ... -->`. What takes many runs is Python, `python3 <<'END'` to `END`.
`python tests/regenerate.py` writes the blocks anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

from helpers import ROOT

from gpt2cost.cli import app

README = ROOT / "README.md"
BLOCK = re.compile(
    r"(<!-- output(?: at (?P<width>\d+) columns)? of: (?P<command>.+?) -->\n```\w*\n)(?P<text>.*?)(?=```)", re.S
)
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
BLOCKS = [(page, block) for page in PAGES for block in BLOCK.finditer(page.read_text("utf-8"))]


def output(command: str, width: str | None) -> str:
    """What a shell prints for `command`, warnings included. A command of ours alone and Python run in this process."""
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    environment |= {"COLUMNS": width or "100", "NO_COLOR": "1"}
    script = re.fullmatch(r"python3 <<'END'\n(.*)\nEND", command, re.S)
    if script or re.fullmatch(r"gpt2cost [^|;&]+", command):
        with mock.patch.dict(os.environ, environment, clear=True), contextlib.chdir(ROOT):
            printed, code = io.StringIO(), 0
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                if script:
                    exec(script[1], {"__name__": "__main__"})
                else:
                    code = app.run(shlex.split(command)[1:])
        assert code == 0, printed.getvalue()
        return printed.getvalue()
    shell = f'gpt2cost() {{ "{sys.executable}" -m gpt2cost "$@" 2>&1; }}; {command}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def regenerated(page: Path) -> str:
    """A page with every block's output as it is now."""
    return BLOCK.sub(lambda block: block[1] + output(block["command"], block["width"]), page.read_text("utf-8"))
