"""A CPU as a device: its forms, its timeline without a queue, and `calibrate` from measurement to file."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpt2cost
from gpt2cost.calibration.calibrate import calibrate
from gpt2cost.calibration.cpu import fit_cpu
from gpt2cost.device.catalog import change_hardware, load_hardware, validate_file
from gpt2cost.device.cpu_constants import CpuConstants, CpuKind, CpuProducts, ProductCurve
from gpt2cost.device.hardware import Compute, Hardware, Host, Launch, Memory
from gpt2cost.device.to_yaml import hardware_yaml
from gpt2cost.errors import InputError
from gpt2cost.measure.records import read_records
from gpt2cost.prediction.one_pass import run_pass
from gpt2cost.prediction.settings import check_settings
from gpt2cost.table.config import load_model
from gpt2cost.timing.cpu import attention_terms, memory_terms, product_terms
from gpt2cost.timing.queue_steps import run_queue

pytest.importorskip("torch")
pytest.importorskip("scipy")


def curve(*element_ns: float, launch_us: float = 5.0, start_us: float = 0.0) -> ProductCurve:
    rows = (1, 8, 64, 512)[: len(element_ns)]
    return ProductCurve(
        rows=rows, element_s=tuple(ns * 1e-9 for ns in element_ns), launch_s=launch_us * 1e-6, start_s=start_us * 1e-6
    )


def kind(element_ns: float, parallel_ns: float) -> CpuKind:
    return CpuKind(launch_s=2e-6, element_s=element_ns * 1e-9, fork_s=5e-6, parallel_element_s=parallel_ns * 1e-9)


CPU = Hardware(
    name="test-cpu",
    vendor="cpu",
    architecture="AVX2",
    memory=Memory(32e9, 20e9, 16e6, 80e9),
    compute=Compute(2, {"fp32": 150e9}),
    launch=Launch(2e-6, 2e-6),
    host=Host("a CPU", 1e-7, 2e-5, 3e-6, 5e-6, 1e-10, 1e-10, 1e-10, 1e-7, synchronous=True),
    model=CpuConstants(
        products={
            "fp32": CpuProducts(
                addmm=curve(0.25, 0.7, 1.4, 8.0),
                mm=curve(0.3, 1.0, 2.3, 11.0),
                scores=curve(0.3, 0.6, 1.5, 9.5, start_us=0.05),
                context=curve(0.2, 0.5, 1.3, 9.0, start_us=0.05),
            )
        },
        attention={"fp32": curve(0.5, 1.5, 5.0, 40.0, start_us=0.3)},
        masked_attention=0.9,
        kinds={
            "elementwise": kind(0.2, 0.1), "copy": kind(0.15, 0.1), "cat": kind(0.2, 0.12), "tanh": kind(2.0, 1.2),
            "gelu": kind(2.2, 1.3), "softmax": kind(0.9, 0.5), "layer_norm": kind(0.5, 0.25), "where": kind(0.8, 0.5),
            "gather": kind(0.2, 0.15),
        },
        fresh_from_bytes=32e6,
        fresh_bytes_per_s=2.5e9,
        kept_bytes_per_s=4e9,
    ),
    provenance={"model": "made up for tests"},
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- forms and timeline


def test_a_pass_is_the_sum_of_its_host_and_its_kernels() -> None:
    """There is no queue: nothing overlaps."""
    for seq, cache in ((1, 64), (128, 0), (64, 448)):
        for attn in ("sdpa", "eager"):
            totals = gpt2cost.predict("gpt2", CPU, seq=seq, cache=cache, dtype="fp32", attn=attn).phases[0].totals
            assert totals.latency_s == pytest.approx(totals.host_s + totals.device_s, rel=1e-6)


def test_step_by_step_nothing_overlaps_either() -> None:
    settings = check_settings(1, 64, 0, "fp32", "eager", "eager", "prefill", "all", True)
    one = run_pass(load_model("distilgpt2"), CPU, settings, 64, 0)
    slices = list(run_queue(one.rows, one.launch_s, one.symbols, CPU.host, "eager"))
    assert all(after.start_s >= before.end_s - 1e-12 for before, after in itertools.pairwise(slices))
    assert slices[-1].end_s == pytest.approx(one.times.latency_s, rel=1e-9)


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4000))
def test_products_grow_and_keep_to_the_peak(batch: int, m: int, n: int, k: int, more: int) -> None:
    for name in ("addmm", "mm", "scores", "context"):
        time_s = product_terms(CPU, "fp32", name, batch, m, n, k, 4).device_s
        assert time_s >= 2.0 * batch * m * n * k / 150e9
        for grown in (
            (batch + more, m, n, k),
            (batch, m + more, n, k),
            (batch, m, n + more, k),
            (batch, m, n, k + more),
        ):
            assert product_terms(CPU, "fp32", name, *grown, 4).device_s >= time_s


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_memory_bound_kernels_grow_and_keep_to_the_memory(elements: int, more: int) -> None:
    for name in CPU.cpu_model.kinds:
        time_s = memory_terms(CPU, name, 4.0 * elements, 4.0 * elements, 4).device_s
        assert memory_terms(CPU, name, 4.0 * (elements + more), 4.0 * (elements + more), 4).device_s >= time_s
        if 8 * elements > 16e6:
            assert time_s >= 8 * elements / 20e9


@given(st.integers(1, 64), st.integers(1, 1024), st.integers(0, 2048), st.integers(1, 512), st.booleans())
def test_attention_grows(pairs: int, new: int, cached: int, more: int, masked: bool) -> None:
    sizes = [(pairs, 64, new, cached), (pairs + more, 64, new, cached), (pairs, 64, new + more, cached), (pairs, 64, new, cached + more)]  # fmt: skip  # noqa: E501
    first, *grown = (attention_terms(CPU, "fp32", *each, 4, masked=masked).device_s for each in sizes)
    assert all(time_s >= first for time_s in grown)


def test_a_grid_equals_the_loop_of_its_points() -> None:
    batch, seq = np.array([1, 4])[:, None], np.array([16, 512])
    grid = gpt2cost.predict("distilgpt2", CPU, batch=batch, seq=seq, dtype="fp32", phase="prefill").phases[0].totals
    for i, j in np.ndindex(2, 2):
        one = gpt2cost.predict(
            "distilgpt2", CPU, batch=int(batch[i, 0]), seq=int(seq[j]), dtype="fp32", phase="prefill"
        )
        assert grid.latency_s[i, j] == pytest.approx(one.phases[0].totals.latency_s, rel=1e-12)


def test_an_output_beyond_the_threshold_pays_for_fresh_memory() -> None:
    small, large = (memory_terms(CPU, "copy", size, size, 4).device_s / size for size in (16e6, 128e6))
    assert large > small + 0.9 / 2.5e9


def test_what_a_cpu_cannot_do_is_an_input_error() -> None:
    for settings in ({"dtype": "fp16"}, {"dtype": "fp32", "runtime": "cuda-graph"}):
        with pytest.raises(InputError, match="test-cpu"):
            gpt2cost.predict("gpt2", CPU, **settings)


@pytest.mark.parametrize("command", ["predict", "sweep", "compare", "fit", "generate", "table", "kernel"])
def test_every_command_takes_a_cpu(command: str, tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_text(hardware_yaml(CPU))
    flags = {
        "predict": ["--model", "gpt2", "--explain"],
        "sweep": ["--model", "gpt2", "--batch", "1,8"],
        "compare": ["--model", "gpt2", "--attn", "sdpa,eager"],
        "fit": ["--model", "gpt2"],
        "generate": ["--model", "gpt2", "--prompt", "16", "--new-tokens", "8"],
        "kernel": ["gemm", "--m", "8", "--n", "768", "--k", "768"],
    }
    gpu = [] if command == "table" else ["--gpu", "cpu.yaml"]
    assert run(command, *flags.get(command, []), *gpu, "--dtype", "fp32", cwd=tmp_path).stdout


def test_a_cpus_constants_can_be_set() -> None:
    slow = change_hardware(CPU, {"model.kinds.tanh.launch": "1 ms", "host.module": "1 ms"})
    assert slow.cpu_model.kinds["tanh"].launch_s == 1e-3
    with pytest.raises(InputError, match="unknown key"):
        change_hardware(CPU, {"model.gemm.fp32.efficiency": "0.5"})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("vendor: cpu", "vendor: apple", "vendor: cpu goes with"),
        ("rows: [1, 8, 64, 512]", "rows: [1, 64, 8, 512]", "rising order"),
        ("0.25 ns, 0.7 ns", "0.7 ns, 0.25 ns", "below the one before"),
        ("masked_attention", "maskedattention", "unknown key"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(old: str, new: str, says: str, tmp_path: Path) -> None:
    text = hardware_yaml(CPU)
    assert old in text
    (tmp_path / "cpu.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=says):
        validate_file(tmp_path / "cpu.yaml")


# ---------------------------------------------------------------------------------------------- fit


def records_of(hw: Hardware, seed: int, rows: tuple[int, ...] = (1, 8, 64, 512)) -> list[dict[str, Any]]:
    """What a machine that is exactly `hw` would be measured to be, with noise and a few outliers."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any]] = [{"kind": "machine", "threads": 2, "cpu_model": "a CPU", "memory_bytes": 32 * 10**9,
                                    "date": "2026-01-01"}]  # fmt: skip

    def add(seconds: Any, **record: Any) -> None:
        noisy = float(seconds) * np.exp(0.03 * rng.standard_normal()) * (1.8 if rng.random() < 0.03 else 1.0)
        found.append({"dtype": "fp32", **record, "wall_us": 1e6 * noisy})

    for exponent in range(12, 26):
        moved = 8.0 * 2**exponent
        add(moved / (80e9 if moved < 16e6 else 20e9), kind="copy", elements=2**exponent)
    for size in (16e6, 32e6, 48e6, 64e6, 128e6):
        add(2 * size / 20e9 + (size / 2.5e9 if size > 32e6 else 0), kind="fresh", bytes=int(size), tensors=1)
    for m in rows:
        for n, k in ((2304, 768), (768, 768), (3072, 768), (768, 3072)):
            add(product_terms(hw, "fp32", "addmm", 1, m, n, k, 4).device_s, kind="gemm", op="addmm", m=m, n=n, k=k)
        add(
            product_terms(hw, "fp32", "mm", 1, m, 30000, 768, 4).device_s, kind="gemm", op="linear", m=m, n=30000, k=768
        )
        for batch in (12, 96):
            for kv in (64, 512):
                for op, n, k in (("scores", kv, 64), ("context", 64, kv)):
                    time_s = product_terms(hw, "fp32", op, batch, m, n, k, 4).device_s
                    add(time_s, kind="bmm", op=op, batch=batch, m=m, n=n, k=k)
                for mask in ("none", "explicit"):
                    time_s = attention_terms(hw, "fp32", batch, 64, m, kv, 4, masked=mask == "explicit")
                    sizes = {
                        "batch": batch // 12,
                        "heads": 12,
                        "head_dim": 64,
                        "new_tokens": m,
                        "cached_tokens": kv,
                        "kv_len": kv + m,
                    }
                    add(time_s.device_s, kind="sdpa", mask=mask, **sizes)
    for count in (1, 8, 64, 128, 512, 1024):
        for op, name in (("add", "elementwise"), ("tanh", "tanh")):
            inputs = 2 if op == "add" else 1
            size = 4.0 * count * 3072
            add(
                memory_terms(hw, name, inputs * size, size, 4).device_s,
                kind="elementwise",
                op=op,
                rows=count,
                columns=3072,
            )
    return found


def test_a_fit_finds_the_machine_that_was_measured() -> None:
    """From noisy records with outliers, predictions at sizes that were not measured are the machine's own."""
    found = fit_cpu(records_of(CPU, 1), "found").hardware
    for m in (3, 24, 200, 700):
        for name, n, k in (("addmm", 1000, 900), ("mm", 20000, 700)):
            own, fitted = (product_terms(hw, "fp32", name, 1, m, n, k, 4).device_s for hw in (CPU, found))
            assert fitted == pytest.approx(own, rel=0.08)
    for elements in (20_000, 900_000):
        own, fitted = (memory_terms(hw, "tanh", 4.0 * elements, 4.0 * elements, 4).device_s for hw in (CPU, found))
        assert fitted == pytest.approx(own, rel=0.08)
    assert found.memory.bandwidth_bytes_per_s == pytest.approx(20e9, rel=0.1)
    assert found.cpu_model.fresh_bytes_per_s == pytest.approx(2.5e9, rel=0.15)
    assert 32e6 <= found.cpu_model.fresh_from_bytes <= 48e6


def test_calibrate_says_how_the_file_came_about() -> None:
    found = calibrate(records_of(CPU, 2), "mine")
    told = found.hardware.calibration
    assert told is not None
    assert told.date == "2026-01-01"
    assert set(told.residuals) >= {"addmm fp32", "mm fp32", "attention fp32", "tanh"}
    assert max(told.residuals.values()) < 0.1
    assert found.hardware.provenance["model"].startswith("fitted to kernels measured on a CPU, 2 threads, 2026-01-01")


def test_records_without_products_are_refused() -> None:
    lacking = [record for record in records_of(CPU, 3) if record["kind"] != "gemm"]
    with pytest.raises(InputError, match="no products"):
        fit_cpu(lacking, "x")
    with pytest.raises(InputError, match="no line of kind 'machine'"):
        calibrate([r for r in lacking if r["kind"] != "machine"], "x")


# ---------------------------------------------------------------------------------------------- the command


def run(*arguments: str, cwd: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "gpt2cost", *arguments],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


SMALL = {"GPT2COST_CALIBRATE_SIZES": "small"}


def test_calibrate_writes_a_file_that_predict_reads(tmp_path: Path) -> None:
    """The real thing on this machine, with tiny sizes. No time is looked at."""
    done = run("calibrate", "--quick", "-o", "mine.yaml", "--format", "json", cwd=tmp_path, **SMALL)
    kinds = {row["kind"] for row in json.loads(done.stdout)["residuals"]}
    assert {"addmm fp32", "mm fp32", "scores fp32", "context fp32", "attention fp32", "softmax", "layer_norm"} <= kinds
    device = load_hardware(str(tmp_path / "mine.yaml"))
    assert device.vendor == "cpu"
    assert device.calibration is not None
    assert "torch" in device.calibration.software
    run("predict", "--model", "gpt2", "--gpu", "mine.yaml", "--dtype", "fp32", cwd=tmp_path)
    measured = read_records(tmp_path / "mine.jsonl")
    assert measured[-1]["kind"] == "end"
    again = run("calibrate", "--from", "mine.jsonl", "-o", "again.yaml", cwd=tmp_path)
    assert "addmm" in again.stdout
    assert load_hardware(str(tmp_path / "again.yaml")).model == device.model


def test_a_killed_calibration_leaves_no_file_and_goes_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2cost", "calibrate", "-o", "mine.yaml"],
        cwd=tmp_path, env={**os.environ, **SMALL}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    seen = [process.stderr.readline() for _ in range(7)]
    assert "6/" in "".join(seen)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.jsonl"]
    before = len(read_records(tmp_path / "mine.jsonl"))
    with (tmp_path / "mine.jsonl").open("a") as file:
        file.write('{"kind": "gemm", "op": "add')  # as if killed in the middle of a line
    done = run("calibrate", "-o", "mine.yaml", cwd=tmp_path, **SMALL)
    assert f"goes on with {before - 1} measurements" in done.stderr
    assert "\n1/" not in done.stderr
    assert not done.stderr.startswith("1/")
    assert validate_file(tmp_path / "mine.yaml")


def test_stopped_before_its_end_calibrate_only_fits_anew(tmp_path: Path) -> None:
    run("calibrate", "-o", "mine.yaml", cwd=tmp_path, **SMALL)
    lines = (tmp_path / "mine.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "mine.jsonl").write_text("".join(lines[:-1]))
    (tmp_path / "mine.yaml").unlink()
    done = run("calibrate", "-o", "mine.yaml", cwd=tmp_path, **SMALL)
    assert "goes on with" in done.stderr
    assert "addmm fp32" not in done.stderr  # nothing is measured
    assert (tmp_path / "mine.jsonl").read_text().splitlines(keepends=True) == lines
    assert validate_file(tmp_path / "mine.yaml")


def test_after_its_time_no_case_is_measured_a_second_time(tmp_path: Path) -> None:
    from gpt2cost.measure import kernels as microbench
    from gpt2cost.measure.bench import Bench, measure
    from gpt2cost.measure.journal import Journal

    bench = Bench("cpu")
    journal = Journal(tmp_path / "a.jsonl", bench.machine())
    groups = [[case] for case in microbench._host()[:3]]
    measure(bench, journal, lambda first: groups, 4, 0.0, lambda text: None)
    assert [(r["kind"], r["sweep"]) for r in journal.records[1:]] == 3 * [("host", 0), ("reference", 0)]


def test_calibrate_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    for arguments, says in {
        ("-o", "x.txt"): "ends in .yaml",
        (): "-o FILE",
        ("-o", "none/x.yaml"): "no folder",
        ("-o", "x.yaml", "--device", "cuda"): "torch finds no cuda",
        ("-o", "x.yaml", "--device", "tpu"): "expected one of cpu, cuda, mps",
        ("-o", "x.yaml", "--dtype", "int8"): "dtype",
        ("-o", "x.yaml", "--from", "nowhere"): "nowhere",
        ("-o", "x.yaml", "--threads", "0"): "threads",
    }.items():
        done = run("calibrate", *arguments, cwd=tmp_path, code=2)
        assert done.stderr.count("\n") == 1, done.stderr
        assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_torch_there_is_one_line_of_instruction(tmp_path: Path) -> None:
    for name in ("torch", "scipy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError")
    done = run("calibrate", "-o", str(tmp_path / "x.yaml"), cwd=tmp_path, code=2, PYTHONPATH=str(tmp_path))
    assert done.stderr.count("\n") == 1
    assert 'pip install "gpt2cost[measure]"' in done.stderr


def test_a_file_of_another_machine_is_kept_and_not_gone_on_with(tmp_path: Path) -> None:
    from gpt2cost.measure.journal import Journal

    machine = {"kind": "machine", "torch": "2", "threads": 2}
    Journal(tmp_path / "a.jsonl", machine).add([{"kind": "gemm", "m": 1, "sweep": 0, "wall_us": 1.0}])
    assert len(Journal(tmp_path / "a.jsonl", machine).records) == 2
    other = Journal(tmp_path / "a.jsonl", {**machine, "threads": 4})
    assert len(other.records) == 1
    assert len(read_records(tmp_path / "a.jsonl.bak")) == 2


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("quick", [True, False])
def test_every_operand_fits_into_the_pool(on_cpu: bool, quick: bool) -> None:
    from gpt2cost.measure import kernels as microbench
    from gpt2cost.measure import pool

    elements = pool.POOL_ELEMENTS if on_cpu else pool.GPU_POOL_ELEMENTS
    sizes = microbench.chosen_sizes(on_cpu, quick)
    count = 0
    for group in microbench.groups(sizes, ("fp32",), on_cpu, first=False):
        for record in (case.record for case in group):
            operands = {
                "gemm": lambda r: max(r["m"] * r["k"], r["k"] * r["n"]),
                "bmm": lambda r: r["batch"] * max(r["m"] * r["k"], r["k"] * r["n"]),
                "sdpa": lambda r: 2 * r["batch"] * r["heads"] * r["kv_len"] * r["head_dim"],
                "elementwise": lambda r: r["rows"] * r["columns"],
                "softmax": lambda r: r["rows"] * r["columns"],
                "copy": lambda r: r["elements"],
            }.get(record["kind"])
            count += operands is not None
            assert operands is None or operands(record) <= elements, record
    assert count > 100


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "gemm", "k": None}, "k: expected a whole number"),
        ({"kind": "gemm", "op": "dot"}, "op: expected one of addmm, linear"),
        ({"kind": "sdpa", "mask": "x"}, "mask: expected one of"),
        ({"kind": "bmm", "dtype": "int8"}, "dtype: expected one of"),
        ({"kind": "copy", "wall_us": -1}, "expected a time"),
        ({"kind": "fresh", "bytes": 1.5}, "bytes: expected a whole number"),
    ],
)
def test_a_record_that_lacks_something_is_an_input_error(change: dict[str, Any], says: str) -> None:
    records = records_of(CPU, 4)
    wrong = [{**r, **change} if r["kind"] == change["kind"] else r for r in records]
    with pytest.raises(InputError, match=says):
        calibrate(wrong, "x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threads": "two"}, "threads: expected a whole number above 0, got 'two'"),
        ({"threads": 0.5}, "threads: expected a whole number"),
        ({"memory_bytes": 10**400}, "memory_bytes: expected a whole number"),
        ({"mhz": "fast"}, "mhz: expected a number above 0"),
        ({"cpu_model": 7}, "cpu_model: expected a name"),
        ({"cpu_model": "another CPU"}, "more than one machine: cpu_model"),
    ],
)
def test_a_machine_is_one_and_well_described(change: dict[str, Any], says: str) -> None:
    first, *rest = records_of(CPU, 5)
    with pytest.raises(InputError, match=says):
        calibrate([first, {**first, **change}, *rest], "x")


def test_scaling_the_constants_scales_the_times() -> None:
    """What `--explain` asks: how much faster would a pass be, if products were twice as fast?"""
    faster = replace(CPU, model=CPU.cpu_model.scaled_products(element=0.5), compute=Compute(2, {"fp32": 300e9}))
    one, two = (product_terms(hw, "fp32", "addmm", 1, 64, 768, 768, 4) for hw in (CPU, faster))
    assert two.device_s - 5e-6 == pytest.approx((one.device_s - 5e-6) / 2, rel=1e-6)
