"""Rows as Parquet and as Arrow, in types that do not depend on what is in them; and a sweep by several processes."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import columns
import pytest
from helpers import ROOT, assert_refused

import gpt2cost as package
from gpt2cost.cli import extras
from gpt2cost.output.columns import type_of
from gpt2cost.prediction.blocks import Block, Rows
from gpt2cost.prediction.parallel import made_of_each
from gpt2cost.prediction.sweep import COLUMNS, KERNEL_COLUMNS

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

GRID = ["sweep", "--model", "gpt2,gpt2-xl", "--gpu", "a100,t4", "--batch", "1-300", "--seq", "1,64,2000",
        "--cache", "0,7", "--phase", "both"]  # fmt: skip
DATA = ROOT / "tests" / "data"
RECORDED = (
    "validate --gpu a100 --from {recorded}/campaign-cpu",
    "validate --gpu a100 --from {recorded}/campaign-cpu --kernels",
    "validate --gpu a100 --from {recorded}/campaign-train-cpu --phase train", "table --attn eager --per-launch --free",
    "kernel elementwise --gpu a100 --elements 64 --inputs 2", "hardware show m1-max", "train --model gpt2 --gpu a100",
)  # fmt: skip
"""Commands whose rows are of files, or have more in them than those that list the columns."""


def blocks_of(rows: Rows, workers: int) -> Iterator[Block]:
    return chain.from_iterable(made_of_each(rows, lambda block: [block], workers))


def table_of(path: Path) -> Any:
    return pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("more", [[], ["--kernels", "--top", "500"], ["--only-fitting", "--only-valid"],
                                  ["--sort", "-latency_s", "--top", "7"]], ids=str)  # fmt: skip
def test_the_values_are_those_of_the_rows(gpt2cost: Any, tmp_path: Path, suffix: str, more: list[str]) -> None:
    path = tmp_path / f"grid{suffix}"
    done = gpt2cost(*GRID, *more, "-o", path)
    assert (done.code, done.out) == (0, "")
    table = table_of(path)
    lines = gpt2cost(*GRID, *more, "--format", "jsonl").out.splitlines()
    assert table.column_names == list(KERNEL_COLUMNS if "--kernels" in more else COLUMNS)
    assert table.to_pylist() == [json.loads(line) for line in lines]


def test_types_do_not_depend_on_the_grid(gpt2cost: Any, tmp_path: Path) -> None:
    """So that the files of several parts are one table: counts beyond 2^53 are floats in a row."""
    schemas = []
    for number, batch in enumerate(("1", "4097")):
        path = tmp_path / f"{number}.parquet"
        gpt2cost("sweep", "--model", "gpt2-xl", "--gpu", "a100", "--seq", "1023", "--batch", batch, "-o", path)
        schemas.append(pq.read_schema(path).remove_metadata())
    assert schemas[0].equals(schemas[1])
    assert schemas[0].field("flops").type == pa.int64()
    empty = tmp_path / "empty.parquet"
    gpt2cost("sweep", "--model", "gpt2", "--gpu", "t4", "--seq", "2000", "--only-valid", "-o", empty)
    assert pq.read_table(empty).num_rows == 0
    assert pq.read_schema(empty).remove_metadata().equals(schemas[0])
    huge = ["sweep", "--model", "gpt2-xl", "--gpu", "a100", "--batch", "1000000000", "--seq", "1000000"]
    assert_refused(gpt2cost(*huge, "-o", tmp_path / "huge.parquet"), "beyond what a column of int64 holds")
    assert not (tmp_path / "huge.parquet").exists()


def test_parts_are_one_table(gpt2cost: Any, tmp_path: Path) -> None:
    for part in (1, 2, 3):
        gpt2cost(*GRID, "--shard", f"{part}/3", "-o", tmp_path / f"part-{part}.parquet")
    gpt2cost(*GRID, "-o", tmp_path / "whole.parquet")
    parts = pa.concat_tables([pq.read_table(tmp_path / f"part-{part}.parquet") for part in (1, 2, 3)])
    assert parts.equals(pq.read_table(tmp_path / "whole.parquet"))


def test_training_and_metadata(gpt2cost: Any, tmp_path: Path) -> None:
    flags = ["sweep", "--model", "gpt2", "--gpu", "a100", "--phase", "train", "--micro-batch", "1-4"]
    gpt2cost(*flags, "-o", tmp_path / "steps.parquet")
    rows = [json.loads(line) for line in gpt2cost(*flags, "--format", "jsonl").out.splitlines()]
    assert pq.read_table(tmp_path / "steps.parquet").to_pylist() == rows
    about = json.loads(pq.ParquetFile(tmp_path / "steps.parquet").metadata.metadata[b"gpt2cost"])
    assert about["flops_convention"] == "1 FMA = 2 FLOPs"


def test_to_a_pipe_and_not_to_a_terminal() -> None:
    flags = [sys.executable, "-m", "gpt2cost", "sweep", "--model", "gpt2", "--gpu", "a100", "--format", "parquet"]
    done = subprocess.run(flags, capture_output=True, check=True)
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == 1
    main, terminal = os.openpty()
    try:
        refused = subprocess.run(flags, stdout=terminal, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(main)
        os.close(terminal)
    assert (refused.returncode, refused.stderr) == (
        2, "error: --format parquet: is not for a terminal; -o FILE writes it to a file\n",
    )  # fmt: skip


def text_of(value: Any) -> str:
    """A value as CSV has it."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("command", [*columns.COMMANDS, *RECORDED])
def test_every_command_has_its_rows_in_them(command: str, gpt2cost: Any, tmp_path: Path) -> None:
    """Cell by cell those of CSV, and a column has its type whatever is in it."""
    words = command.format(recorded=DATA).split()
    rows = list(csv.reader(io.StringIO(gpt2cost(*words, "--format", "csv").out)))
    for suffix in (".parquet", ".arrow")[: 2 if command.startswith("validate") else 1]:
        path = tmp_path / f"rows{suffix}"
        assert gpt2cost(*words, "-o", path).code == 0
        table = table_of(path)
        assert [table.column_names, *([text_of(row[name]) for name in row] for row in table.to_pylist())] == rows
        for field in table.schema:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            assert str(kind) == {"text": "string", "float64": "double"}.get(type_of(field.name), type_of(field.name))


def test_without_rows_there_are_columns(gpt2cost: Any, tmp_path: Path) -> None:
    assert gpt2cost("accuracy", "--gpu", "m4", "-o", tmp_path / "none.parquet").code == 0
    table = pq.read_table(tmp_path / "none.parquet")
    assert (table.num_rows, table.column_names) == (0, columns.columns()["accuracy --gpu a100"])


def test_without_pyarrow(gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(room: str) -> None:
        raise ModuleNotFoundError(name="pyarrow")

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    for command in (GRID, ["models"], ["predict", "--model", "gpt2", "--gpu", "a100"]):
        assert_refused(gpt2cost(*command, "-o", tmp_path / "x.parquet"), 'needs pyarrow: pip install "gpt2cost[arrow]"')


# ---------------------------------------------------------------------------------------------- several processes


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forks")
def test_processes_make_no_difference() -> None:
    rows = package.sweep("gpt2", ["a100", "t4"], batch="1-90", seq="1-700", phase="both", only_valid=True)
    alone, together = (
        [row for block in blocks_of(rows, workers) for row in zip(*map(block.flat, rows.names), strict=True)][
            :50_000:97
        ]
        for workers in (1, 3)
    )
    assert alone == together
    steps = package.sweep_training("gpt2", "a100", micro_batch="1-9")
    assert [block.columns["step_s"].tolist() for block in blocks_of(steps, 2)] == [
        block.columns["step_s"].tolist() for block in steps.blocks()
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forks")
def test_processes_end_with_their_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an error of one is an error of the whole."""
    fork, children = os.fork, list[int]()

    def recorded() -> int:
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(os, "fork", recorded)
    rows = package.sweep("gpt2", "a100", batch="1-1000", seq="1-1000")
    blocks = made_of_each(rows, lambda block: [block.rows, "text"], 2)
    assert list(next(blocks))[1:] == ["text"]
    blocks.close()  # type: ignore[attr-defined]
    assert len(children) == 2
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)

    class Broken(type(rows)):  # type: ignore[misc]
        def block(self, task: Any) -> Any:
            raise ValueError("no such block")

    class Killed(type(rows)):  # type: ignore[misc]
        def block(self, task: Any) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    given = {name: getattr(rows, name) for name in rows.__dataclass_fields__}
    with pytest.raises(ValueError, match="no such block"):
        list(blocks_of(Broken(**given), 2))
    with pytest.raises(package.Gpt2CostError, match="a process of the sweep was killed"):
        list(blocks_of(Killed(**given), 2))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forks")
def test_processes_end_with_a_parent_that_is_killed() -> None:
    """Whoever waits for the end of the output would else wait for ever."""
    flags = ["sweep", "--model", "gpt2", "--gpu", "a100", "--batch", "1-1000", "--seq", "1-1000", "--format", "csv"]
    script = (
        "import gpt2cost.prediction.parallel as p; p.processes = lambda: 3; import gpt2cost.cli.app as a;"
        f" a.run({flags})"
    )
    running = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline().startswith(b"model,")
    running.kill()
    running.stdout.read()
    running.wait()
