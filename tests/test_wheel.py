"""The wheel, installed in a fresh environment, runs the example from an empty directory."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from helpers import ROOT

CODE = "import gpt2cost, json; print(json.dumps([gpt2cost.__file__, len(gpt2cost.list_hardware())]))"


def run(*command: str | Path, cwd: Path) -> str:
    """stdout of a command that sees none of this environment's Python settings."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_works_anywhere(tmp_path: Path) -> None:
    # `build` without isolation: hatchling comes with the test extra, so that nothing is fetched.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for folder, suffix in (("hardware", "yaml"), ("configs", "json")):
        shipped = {Path(name).name for name in names if name.startswith(f"gpt2cost/data/{folder}/")}
        assert shipped == {path.name for path in (ROOT / folder).glob(f"*.{suffix}")}
    assert "gpt2cost/py.typed" in names
    pages = {path.name for path in (ROOT / "gpt2cost/output/report/page_files").iterdir()}
    assert pages == {Path(name).name for name in names if name.startswith("gpt2cost/output/report/page_files/")}
    assert not [name for name in names if "test" in name or "__pycache__" in name]

    # A new environment, which borrows only the dependencies of this one: its own packages come first.
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    (own,) = environment.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))

    empty = tmp_path / "empty"
    empty.mkdir()
    file, devices = json.loads(run(python, "-c", CODE, cwd=empty))
    assert Path(file).is_relative_to(own), "the wheel's copy"
    assert devices > 30
    example = ["predict", "--model", "distilgpt2", "--batch", "8", "--seq", "512", "--cache", "1024", "--gpu", "a100"]
    text = run(environment / "bin" / "gpt2cost", *example, cwd=empty)
    assert text.startswith("distilgpt2 (81.9 M parameters) on a100-sxm-80gb, fp16")
    assert list(empty.iterdir()) == []
