"""`fit_cpu`: from noisy times of a machine of simple formulas, which know nothing of the fitted forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2cost.calibration.calibrate import calibrate
from gpt2cost.calibration.cpu import fit_cpu
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.to_yaml import hardware_yaml
from gpt2cost.errors import InputError
from gpt2cost.timing.cpu import attention_terms, memory_terms, product_terms

PEAK = 140e9
"""FLOP/s that the machine's products reach with many rows."""

DRAM, CACHE = 20e9, 80e9
"""Bytes per second, and of copies that fit into 16 MB."""


def product_s(batch: int, m: int, n: int, k: int) -> float:
    """5 us, weights at 16 GB/s, and FLOPs at the peak."""
    return 5e-6 + batch * (4.0 * n * k / 16e9 + 2.0 * m * n * k / PEAK)


def attention_s(pairs: int, new: int, kv: int, masked: bool) -> float:
    """5 us, keys and values of 64 elements at 16 GB/s, and FLOPs at 100 GFLOP/s; all but the 5 us 1.25 times with a
    mask."""
    return 5e-6 + pairs * (8.0 * kv * 64 / 16e9 + 4.0 * new * kv * 64 / 100e9) * (1.25 if masked else 1.0)


def pointwise_s(elements: int, one_thread_ns: float) -> float:
    """2 us, and the faster of one thread and two, which start in 5 us."""
    alone_s = elements * one_thread_ns * 1e-9
    return 2e-6 + min(alone_s, 5e-6 + alone_s / 1.8)


def fresh_s(bytes_: int) -> float:
    """What is read and written at DRAM's rate, and beyond 32 MB memory that is handed out at 2.5 GB/s."""
    return 2 * bytes_ / DRAM + (bytes_ / 2.5e9 if bytes_ > 32e6 else 0.0)


def measured_records(seed: int) -> list[dict[str, Any]]:
    """Times with 3 % of noise, of which 3 in 100 are off by a factor of 1.8."""
    rng = np.random.default_rng(seed)
    records: list[dict[str, Any]] = [
        {"kind": "machine", "threads": 2, "cpu_model": "a CPU", "memory_bytes": 32 * 10**9, "date": "2026-01-01"}
    ]

    def add(seconds: float, **record: Any) -> None:
        noisy_s = seconds * np.exp(0.03 * rng.standard_normal()) * (1.8 if rng.random() < 0.03 else 1.0)
        records.append({"dtype": "fp32", **record, "wall_us": float(1e6 * noisy_s)})

    for exponent in range(12, 26):
        moved = 8.0 * 2**exponent
        add(moved / (CACHE if moved < 16e6 else DRAM), kind="copy", elements=2**exponent)
    for size in (16_000_000, 32_000_000, 48_000_000, 64_000_000, 128_000_000):
        add(fresh_s(size), kind="fresh", bytes=size, tensors=1)
    for m in (1, 8, 64, 512):
        for n, k in ((2304, 768), (768, 768), (3072, 768), (768, 3072)):
            add(product_s(1, m, n, k), kind="gemm", op="addmm", m=m, n=n, k=k)
        add(product_s(1, m, 30000, 768), kind="gemm", op="linear", m=m, n=30000, k=768)
        for batch, kv in ((batch, kv) for batch in (1, 8) for kv in (64, 512)):
            add(product_s(12 * batch, m, kv, 64), kind="bmm", op="scores", batch=12 * batch, m=m, n=kv, k=64)
            add(product_s(12 * batch, m, 64, kv), kind="bmm", op="context", batch=12 * batch, m=m, n=64, k=kv)
            sizes = {
                "batch": batch,
                "heads": 12,
                "head_dim": 64,
                "new_tokens": m,
                "cached_tokens": kv,
                "kv_len": kv + m,
            }
            for mask in ("none", "explicit"):
                add(attention_s(12 * batch, m, kv + m, mask == "explicit"), kind="sdpa", mask=mask, **sizes)
    for rows in (1, 8, 64, 128, 512, 1024):
        for op, one_thread_ns in (("add", 0.2), ("tanh", 2.0)):
            add(pointwise_s(rows * 3072, one_thread_ns), kind="elementwise", op=op, rows=rows, columns=3072)
    return records


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return measured_records(1)


@pytest.fixture(scope="module")
def fitted(records: list[dict[str, Any]]) -> Hardware:
    return fit_cpu(records, "mine").hardware


@pytest.mark.parametrize("m", [3, 24, 200, 700])
def test_products_between_the_measured_rows_take_what_the_machine_takes(fitted: Hardware, m: int) -> None:
    """Catches a curve that is bent by noise or outliers, or holds only at its nodes."""
    for name, n, k in (("addmm", 1000, 900), ("mm", 20000, 700)):
        assert product_terms(fitted, "fp32", name, 1, m, n, k, 4).device_s == pytest.approx(
            product_s(1, m, n, k), rel=0.08
        )


def test_the_products_of_a_layer_take_their_total_though_one_shape_is_slow(records: list[dict[str, Any]]) -> None:
    """A pass is a sum over shapes: a fit to the typical one would leave out what the slow one takes."""

    def slow(record: dict[str, Any]) -> bool:
        return record.get("op") == "addmm" and record["n"] == 3072

    changed = [{**r, "wall_us": 1.4 * r["wall_us"]} if slow(r) else r for r in records]
    found = fit_cpu(changed, "mine").hardware
    for m in (1, 8, 64, 512):
        shapes = ((2304, 768, 1.0), (768, 768, 1.0), (3072, 768, 1.4), (768, 3072, 1.0))
        total_s = sum(factor * product_s(1, m, n, k) for n, k, factor in shapes)
        predicted_s = sum(product_terms(found, "fp32", "addmm", 1, m, n, k, 4).device_s for n, k, _ in shapes)
        assert predicted_s == pytest.approx(total_s, rel=0.06)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_between_the_measured_rows_takes_what_the_machine_takes(fitted: Hardware, masked: bool) -> None:
    for new, kv in ((3, 300), (24, 300), (200, 600)):
        found = attention_terms(fitted, "fp32", 36, 64, new, kv - new, 4, masked=masked).device_s
        assert found == pytest.approx(attention_s(36, new, kv, masked), rel=0.08)


def test_a_mask_costs_the_same_share_whatever_dtypes_were_measured(records: list[dict[str, Any]]) -> None:
    half = [
        {**r, "dtype": "bf16", "wall_us": 0.7 * r["wall_us"]} for r in records if r["kind"] in ("gemm", "bmm", "sdpa")
    ]
    assert fit_cpu([*records, *half], "mine").hardware.cpu_model.masked_attention == pytest.approx(0.8, rel=0.1)


@pytest.mark.parametrize("elements", [20_000, 900_000])
def test_memory_bound_kernels_of_other_sizes_take_what_the_machine_takes(fitted: Hardware, elements: int) -> None:
    """One size below the start of the second thread, one above."""
    found = memory_terms(fitted, "tanh", 4.0 * elements, 4.0 * elements, elements).device_s
    assert found == pytest.approx(pointwise_s(elements, 2.0), rel=0.08)


def test_the_memory_of_the_machine_is_found(fitted: Hardware) -> None:
    memory, model = fitted.memory, fitted.cpu_model
    assert memory.bandwidth_bytes_per_s == pytest.approx(DRAM, rel=0.1)
    assert 8e6 <= memory.l2_bytes <= 32e6
    assert model.fresh_bytes_per_s == pytest.approx(2.5e9, rel=0.15)
    assert 32e6 <= model.fresh_from_bytes <= 48e6


@pytest.mark.parametrize("seed", range(4))
def test_products_too_small_to_be_told_from_noise_still_give_a_file(tmp_path: Path, seed: int) -> None:
    """As on a busy machine: some products take less than the launch that the fit finds. Warnings are errors here."""
    rng = np.random.default_rng(seed)
    noise = 5.0 * np.exp(0.7 * rng.standard_normal(1000))
    small = [
        {**r, "n": r["n"] // 12, "k": r["k"] // 12, "wall_us": float(noise[number] + 0.5 * r["m"])}
        if r["kind"] == "gemm"
        else r
        for number, r in enumerate(measured_records(seed))
    ]
    hw = fit_cpu(small, "mine").hardware
    (tmp_path / "mine.yaml").write_text(hardware_yaml(hw))
    assert load_hardware(tmp_path / "mine.yaml").cpu_model.products.keys() == {"fp32"}


def test_calibrate_says_how_the_file_came_about(records: list[dict[str, Any]]) -> None:
    hardware = calibrate(records, "mine").hardware
    calibration = hardware.calibration
    assert calibration is not None
    assert calibration.date == "2026-01-01"
    assert set(calibration.residuals) >= {"addmm fp32", "mm fp32", "attention fp32", "tanh"}
    assert max(calibration.residuals.values()) < 0.1
    assert hardware.provenance["model"].startswith("fitted to kernels measured on a CPU, 2 threads, 2026-01-01")


def test_records_without_products_are_refused(records: list[dict[str, Any]]) -> None:
    lacking = [record for record in records if record["kind"] != "gemm"]
    with pytest.raises(InputError, match="no products"):
        fit_cpu(lacking, "x")
    with pytest.raises(InputError, match="no line of kind 'machine'"):
        calibrate([r for r in lacking if r["kind"] != "machine"], "x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "gemm", "k": None}, "k: expected a whole number"),
        ({"kind": "gemm", "op": "dot"}, "op: expected one of addmm, linear"),
        ({"kind": "sdpa", "mask": "x"}, "mask: expected one of"),
        ({"kind": "bmm", "dtype": "int8"}, "dtype: expected one of"),
        ({"kind": "copy", "wall_us": -1}, "expected a time"),
        ({"kind": "fresh", "bytes": 1.5}, "bytes: expected a whole number"),
        ({"kind": "gemm", "batch": "x"}, "batch: expected a whole number"),
        ({"kind": "sdpa", "kv_len": "x"}, "kv_len: expected a whole number"),
        ({"kind": "sdpa", "kv_len": 10**400}, "kv_len: expected a whole number"),
        ({"kind": "sdpa", "kv_len": -1}, "kv_len: expected a whole number"),
    ],
)
def test_a_record_that_lacks_something_is_an_input_error(
    records: list[dict[str, Any]], change: dict[str, Any], says: str
) -> None:
    wrong = [{**r, **change} if r["kind"] == change["kind"] else r for r in records]
    with pytest.raises(InputError, match=says):
        calibrate(wrong, "x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threads": "two"}, "threads: expected a whole number above 0, got 'two'"),
        ({"threads": 0.5}, "threads: expected a whole number"),
        ({"memory_bytes": 10**400}, "memory_bytes: expected a whole number"),
        ({"mhz": "fast"}, "mhz: expected a plain number above 0"),
        ({"cpu_model": 7}, "cpu_model: expected a line of text"),
        ({"cpu_model": "another CPU"}, "more than one machine: cpu_model"),
    ],
)
def test_a_machine_is_one_and_well_described(records: list[dict[str, Any]], change: dict[str, Any], says: str) -> None:
    first, *rest = records
    with pytest.raises(InputError, match=says):
        calibrate([first, {**first, **change}, *rest], "x")
