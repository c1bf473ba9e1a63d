"""The recipes of docs/sweep.md, run as they stand there, with fewer parts."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "sweep.md").read_text("utf-8")
Shell: TypeAlias = Callable[..., str]
"""Runs a script in an empty folder that has the page's study."""


def recipe(mark: str, language: str = "sh") -> str:
    """The one block of the page with `mark` in it."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.S) if mark in text]
    return str(found)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    own = tmp_path / "bin" / "gpt2cost"
    own.parent.mkdir()
    own.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gpt2cost "$@"\n')
    own.chmod(0o755)
    (tmp_path / "study.yaml").write_text(recipe("# study.yaml", "yaml"))
    search = {"PATH": f"{own.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(script: str, **variables: str) -> str:
        for command in re.findall(r"\b(?:parallel|xargs|make|jq|envsubst)\b", script):
            if shutil.which(command) is None:
                pytest.skip(f"no {command} here")
        done = subprocess.run(
            ["bash", "-ec", script], cwd=tmp_path, env={**os.environ, **search, **variables}, capture_output=True,
            text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.mark.parametrize("way", ["parallel", "xargs", "#SBATCH"])
def test_parts_in_order_are_the_whole(way: str, shell: Shell, tmp_path: Path) -> None:
    """sbatch itself is left out: it wants a first line with #!, and says the number of the part in a variable."""
    pq = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    script = recipe(way).replace("16", "3")
    if way == "#SBATCH":
        assert script.startswith("#!/bin/bash\n#SBATCH --array=1-3\n")
        for number in ("1", "2", "3"):
            shell(script, SLURM_ARRAY_TASK_ID=number, SLURM_ARRAY_TASK_COUNT="3")
    else:
        shell(script)
    shell("gpt2cost sweep --grid study.yaml -o whole.parquet")
    parts = sorted(tmp_path.glob("part-*.parquet"))
    assert len(parts) == 3
    together = arrow.concat_tables([pq.read_table(part) for part in parts])
    assert together.equals(pq.read_table(tmp_path / "whole.parquet"))


def test_two_runs_side_by_side(shell: Shell, tmp_path: Path) -> None:
    """The ratio of each row is that of the latencies, and more bandwidth makes none slower."""
    lines = [line.split() for line in shell(recipe("before.csv")).splitlines()]
    both = [list(csv.DictReader((tmp_path / name).open())) for name in ("before.csv", "after.csv")]
    assert len(lines) == len(both[0]) > 100
    for (_, ratio), before, after in zip(lines, *both, strict=True):
        assert float(ratio) == pytest.approx(float(before["latency_s"]) / float(after["latency_s"]), rel=1e-5)
        assert float(ratio) >= 1


def test_a_saved_study(shell: Shell, tmp_path: Path) -> None:
    shell(recipe("envsubst"))
    assert {row["gpu"][:9] for row in csv.DictReader((tmp_path / "study-h100.csv").open())} == {"h100-sxm-"}
    assert (tmp_path / "study.csv.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_a_makefile_runs_what_has_changed(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(recipe("GPUS", "make").replace("a100 h100 l4 t4", "a100 t4"))
    assert "--gpu t4" in shell("make -j2")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["a100.csv", "t4.csv"]
    assert "Nothing to be done" in shell("make")


def test_the_best_choice_with_jq(shell: Shell) -> None:
    assert '"gpu"' in shell(recipe("jq -s"))


def test_a_config_from_stdin(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((ROOT / "configs" / "gpt2.json").read_text("utf-8"))
    assert "model config" in shell(recipe("--model - "))


@pytest.mark.parametrize("library", ["polars", "duckdb"])
def test_a_query_of_the_columns(library: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the rows within half a second, the batch of the most tokens per second of each device."""
    module: Any = pytest.importorskip(library)
    shell(recipe("-o grid.parquet").splitlines()[0])
    monkeypatch.chdir(tmp_path)
    if library == "duckdb":
        (query,) = re.findall(r'duckdb -c "(SELECT gpu.*?)"', PAGE, re.S)
        found = {row[0]: row[1] for row in module.sql(query).fetchall()}
    else:
        *setup, last = recipe("scan_parquet", "python").strip().splitlines()
        names: dict[str, Any] = {}
        exec("\n".join(setup), names)
        found = {row[0]: row[1] for row in eval(last, names).iter_rows()}
    sweep = recipe("-o grid.parquet").splitlines()[0].replace("-o grid.parquet", "--format csv")
    rows = [row for row in csv.DictReader(shell(sweep).splitlines()) if row["fits"] == "true"]
    rows.sort(key=lambda row: float(row["tokens_per_s"]))
    assert found == {row["gpu"]: int(row["batch_size"]) for row in rows if float(row["latency_high_s"]) < 0.5}
