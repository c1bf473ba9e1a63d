"""What scripts rely on: rows that say what was asked for under the same names, flags that are heard, files that are
read as they are meant."""

from __future__ import annotations

import csv
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MY_GPU, ROOT, Call, assert_refused, process

import gpt2cost as api
from gpt2cost.measure.journal import Journal

ONE = ["--model", "gpt2", "--gpu", "a100"]
ROWS: dict[str, list[str]] = {
    "predict": ["predict", *ONE],
    "predict by module": ["predict", *ONE, "--group", "module"],
    "sweep": ["sweep", *ONE, "--phase", "both"],
    "sweep of kernels": ["sweep", *ONE, "--kernels"],
    "compare": ["compare", "--model", "gpt2", "--gpu", "a100,t4"],
    "compare of phases": ["compare", *ONE, "--phases"],
    "fit": ["fit", *ONE],
    "tree": ["tree", *ONE],
    "explain": ["explain", "c_attn", *ONE],
    "table": ["table", "--model", "gpt2"],
    "accuracy": ["accuracy", "--gpu", "a100"],
}
HOW = {"dtype", "attn", "runtime", "logits", "use_cache", "cache_type", "impl"}


def rows_of(gpt2cost: Call, *arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(gpt2cost(*arguments, "--format", "csv").out)))


@pytest.mark.parametrize("command", ROWS)
def test_every_row_says_what_was_asked_for(command: str, gpt2cost: Call) -> None:
    """Concatenated runs can be told apart, and joined."""
    rows = rows_of(gpt2cost, *ROWS[command])
    wanted = {"model", "batch_size", "seq_len", "cache_len", *HOW} | ({"gpu"} if command != "table" else set())
    assert wanted <= set(rows[0])
    predicted = command in ("predict", "predict by module", "sweep", "compare", "compare of phases")
    assert ({"fits", "valid", "total_bytes"} <= set(rows[0])) >= predicted
    assert not {"hardware", "low_s", "high_s"} & set(rows[0])


@pytest.mark.parametrize("command", ["predict", "sweep", "sweep of kernels", "compare", "compare of phases"])
def test_sizes_are_those_of_the_run(command: str, gpt2cost: Call) -> None:
    """Those of a phase have names of their own, so that rows of two commands can be joined."""
    if command == "sweep of kernels":
        ROWS[command] = [*ROWS[command], "--phase", "both"]
    rows = rows_of(gpt2cost, *ROWS[command], "--seq", "96", "--cache", "32")
    assert {(row["phase"], row["seq_len"], row["cache_len"]) for row in rows} == {
        ("prefill", "96", "32"), ("decode", "96", "32")
    }  # fmt: skip
    if "phase_seq_len" in rows[0]:
        assert {(row["phase_seq_len"], row["phase_cache_len"]) for row in rows} == {("96", "32"), ("1", "128")}


def test_names_of_changed_things_have_no_comma(gpt2cost: Call) -> None:
    """`cut -d,` does not know quotes."""
    changes = ("--set", "n_layer=2,n_embd=96", "--hw-set", "memory.bandwidth=1 TB/s", "--host-factor", "2")
    out = gpt2cost("sweep", *ONE, *changes, "--seq", "1", "--cache", "64", "--format", "csv").out
    header, row = out.splitlines()
    named = dict(zip(header.split(","), row.split(","), strict=True))
    assert named["model"] == "gpt2[n_layer=2;n_embd=96]"
    assert named["cache_len"] == "64"


@pytest.mark.parametrize("odd", ["a\nb", "a\rb", "a\tb", 'a"b', "a|b", "a\x1b[31mb"])
def test_an_odd_name_breaks_no_row(odd: str, tmp_path: Path, gpt2cost: Call) -> None:
    folder = tmp_path / odd
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    sweep = ("sweep", "--model", folder, "--gpu", "a100")
    (row,) = csv.DictReader(io.StringIO(gpt2cost(*sweep, "--format", "csv").out, newline=""))
    assert row["valid"] == "true"
    assert gpt2cost(*sweep, "--format", "markdown").out.count("\n") == 3
    assert all(line.isprintable() for line in gpt2cost(*sweep, "--format", "markdown").out.splitlines())
    capacities = csv.DictReader(io.StringIO(gpt2cost("fit", *sweep[1:], "--format", "csv").out, newline=""))
    assert {row["valid"] for row in capacities} == {"true"}


@pytest.mark.parametrize("gpu", ["a100", "t4", "m1-max"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_row_of_a_sweep_is_predict_to_the_last_digit(gpu: str, attn: str) -> None:
    names = ("latency_s", "device_s", "host_s", "flops", "read_bytes", "write_bytes", "launches", "bound", "trust")
    for row in api.sweep("gpt2", gpu, batch=[1, 3, 8], seq=[1, 7, 512], cache=[0, 5, 100], attn=attn, phase="both"):
        sizes = {name: row[f"{name}_{'size' if name == 'batch' else 'len'}"] for name in ("batch", "seq", "cache")}
        phase = getattr(api.predict("gpt2", gpu, **sizes, attn=attn), row["phase"])
        assert {name: row[name] for name in names} == {name: getattr(phase.totals, name) for name in names}


# ---------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["predict", *ONE, "--explain", "--format", "csv"], "--explain: goes with --format table or json or markdown"),
        (["predict", *ONE, "--explain", "-o", "x.jsonl"], "--explain"),
        (["predict", *ONE, "--all", "--format", "json"], "--all: goes with --format table, not with json"),
        (["train", *ONE, "--explain", "--format", "csv"], "--explain"),
        (["train", *ONE, "--all", "--format", "json"], "--all"),
        (["table", "--batch", "5", "--seq", "7"], "--batch: goes with --model"),
        (["table", "--set", "n_layer=3"], "--set: goes with --model"),
        (["table", "--dtype", "fp32"], "--dtype: goes with --model"),
        (["tree", "--model", "gpt2", "--parameters", "--depth", "1"], "--depth"),
        (["accuracy", "--gpu", "t4", "--measurements", "."], "--gpu does not go with --measurements"),
        (["accuracy", "--leave-one-out", "--measurements", "."], "expected one of them"),
        (["calibrate", "-o", "x.yaml", "--like", "a100"], "--like: only a GPU's fit"),
        (["calibrate", "-o", "x.yaml", "--dtype", ""], "dtype"),
        (["calibrate", "-o", "x.yaml", "--from", "x.jsonl", "--quick"], "--quick"),
        (["calibrate", "-o", "x.yaml", "--from", "x.jsonl", "--threads", "2"], "--threads"),
        (["predict", *ONE, "--set", "n_layer=3,num_hidden_layers=4"], "set twice"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(
    arguments: list[str], named: str, gpt2cost: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments[0] == "calibrate":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert_refused(gpt2cost(*arguments), named)


# ---------------------------------------------------------------------------------------------- studies


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("batch: 010", "line 3: '010' is no decimal number"),
        ("batch: 1:30", "line 3: '1:30' is no decimal number"),
        ("batch: [1, 0_7]", "line 3: '0_7' is no decimal number"),
        ("seq: -010", "line 3"),
        ("set: {3: 4}", "$.set: expected text as a key, got 3"),
        ("set: {null: 3}", "$.set: expected text as a key, got nothing"),
        ("hw_set: {3: 5}", "$.hw_set: expected text as a key, got 3"),
        ("hw_set: {null: 1}", "$.hw_set: expected text as a key"),
    ],
)
def test_yaml_that_means_something_else(line: str, named: str, gpt2cost: Call, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"model: gpt2\ngpu: a100\n{line}\n")
    assert_refused(gpt2cost("sweep", "--grid", path), named)


@pytest.mark.parametrize(("gpu", "name"), [("4090", "4090"), ("[a100, 4090]", "4090")])
def test_a_name_that_yaml_takes_for_a_number(gpu: str, name: str, gpt2cost: Call, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"model: gpt2\ngpu: {gpu}\n")
    assert_refused(gpt2cost("sweep", "--grid", path), f"{path}: $.gpu: expected a name, and {name} is none in YAML")
    path.write_text(f'model: gpt2\ngpu: {gpu.replace(name, chr(34) + name + chr(34))}\nbatch: "010"\nseq: 0.0e+2\n')
    assert_refused(gpt2cost("sweep", "--grid", path), "seq")
    path.write_text(path.read_text().replace("seq", "#"))
    assert gpt2cost("sweep", "--grid", path).code == 0


@pytest.mark.parametrize("change", [api.change_model, api.change_hardware])
@pytest.mark.parametrize("key", [3, None, 1.5, ("a",)])
def test_keys_are_text_in_python_too(change: Any, key: Any) -> None:
    thing = api.load_model("gpt2") if change is api.change_model else api.load_hardware("a100")
    with pytest.raises(api.InputError, match="expected text as a key"):
        change(thing, {key: 4})


# ---------------------------------------------------------------------------------------------- pipes and odd names


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    run = command.replace("G ", f'"{sys.executable}" -m gpt2cost ', 1)
    return subprocess.run(["bash", "-c", run], capture_output=True, text=True, env={**os.environ, **env})


def test_process_substitution_is_read_once(tmp_path: Path, gpt2cost: Call) -> None:
    study, device = tmp_path / "study.yaml", tmp_path / "mine.yaml"
    study.write_text("model: gpt2\nbatch: 1,2\n")
    device.write_text(MY_GPU)
    usual = gpt2cost("sweep", "--grid", study, "--gpu", device, "--format", "csv")
    piped = shell(f"G sweep --grid <(cat {study}) --gpu <(cat {device}) --format csv")
    assert (piped.returncode, piped.stderr) == (0, "")
    assert piped.stdout == usual.out
    shown = shell(f"G hardware show /dev/stdin --format json < <(cat {device})")
    assert (shown.returncode, shown.stdout) == (0, gpt2cost("hardware", "show", device, "--format", "json").out)
    assert "larger than" in shell("G predict --model gpt2 --gpu <(yes)").stderr


def test_what_only_looks_like_a_hardware_file_is_passed_over(
    tmp_path: Path, gpt2cost: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor's lock is a dangling link; a pipe never ends."""
    (tmp_path / ".#my.yaml").symlink_to("user@host.1234:5678")
    (tmp_path / "gone.yaml").symlink_to("nowhere.yaml")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "._mine.yaml").write_bytes(b"\0\5\26\7")
    with socket.socket(socket.AF_UNIX) as door:
        monkeypatch.chdir(tmp_path)
        door.bind("socket.yaml")
        (tmp_path / "mine.yaml").write_text(MY_GPU)
        monkeypatch.setenv("GPT2COST_HARDWARE_PATH", str(tmp_path))
        for command in (["predict", "--model", "gpt2", "--gpu", "my-gpu"], ["hardware", "list"], ["predict", *ONE]):
            done = gpt2cost(*command, "--format", "csv")
            assert done.code == 0
            assert all("warning: skipped: " in line and "/." not in line for line in done.err.splitlines())
        assert "my-gpu" in gpt2cost("hardware", "list").out


@pytest.mark.parametrize("value", ["nowhere", "~/x", "pyproject.toml"])
def test_a_path_that_is_no_folder_is_named(value: str, gpt2cost: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GPT2COST_HARDWARE_PATH", value)
    done = gpt2cost("predict", *ONE)
    assert done.code == 0
    assert done.err == f"warning: GPT2COST_HARDWARE_PATH: no folder {value}\n"


# ---------------------------------------------------------------------------------------------- journals


def test_two_runs_do_not_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    held = Journal(path, {"kind": "machine", "device": "cpu"})
    held.add([{"kind": "gemm", "m": 1}])
    code = f"""
from pathlib import Path
from gpt2cost.measure.journal import Journal
Journal(Path({str(path)!r}), {{"kind": "machine", "device": "cpu"}})
"""
    assert "another run is writing" in process(["-c", code]).stderr
    assert path.read_text().count("\n") == 2
    del held
    assert process(["-c", code]).returncode == 0, "a lock goes with its process"
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_of_points_is_bounded(gpt2cost: Call) -> None:
    """A grid in arrays is held in memory as a whole, with every kernel's figures."""
    with pytest.raises(api.InputError, match="use sweep"):
        api.predict("gpt2", "a100", batch=np.arange(1, 1001)[:, None], seq=np.arange(1, 1001))
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
