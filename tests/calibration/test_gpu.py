"""`fit_gpu`: records made from a known device give that device back. And hardware files that are written."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2cost.calibration.forms import ATTENTION, gpu_groups
from gpt2cost.calibration.gpu import GpuFit, fit_gpu
from gpt2cost.calibration.nearest import base_for
from gpt2cost.device.catalog import list_hardware, load_hardware, validate_file
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.to_yaml import hardware_tree, hardware_yaml
from gpt2cost.errors import InputError
from gpt2cost.measure.records import Measurement
from gpt2cost.timing.gpu_attention import attention_terms
from gpt2cost.timing.gpu_gemm import gemm_terms
from gpt2cost.timing.gpu_memory import memory_terms

pytest.importorskip("scipy")

ISSUE_S = 5e-6
"""Host time of each synthetic call."""


def perturbed() -> Hardware:
    """An H100 whose constants differ by 10 to 40 % from those of the shipped one."""
    base = load_hardware("h100")
    model = base.gpu_model
    fp16, fp32, flash, memory = model.gemm["fp16"], model.gemm["fp32"], model.attention["64"], model.memory
    kinds = {
        **memory.kinds,
        "elementwise": replace(memory.kinds["elementwise"], dram_efficiency=0.7, fill_s=0.9e-6),
        "softmax": replace(memory.kinds["softmax"], elements_per_s_per_unit=2.0e9, column_s=0.5e-9),
        "layer_norm": replace(memory.kinds["layer_norm"], dram_efficiency=0.65, fill_s=9e-6),
        "copy": replace(memory.kinds["copy"], dram_efficiency=0.8),
        "gather": replace(memory.kinds["gather"], elements_per_s_per_unit=1.1e9, fill_s=6e-6),
    }
    slower = replace(
        fp16, efficiency=0.6, dram_efficiency=0.7, launch_s=3.4e-6, step_s=1.5e-7, l2_efficiency=2.1, split_s=2.2e-6
    )
    gemm = {
        "fp16": slower,
        "bf16": replace(slower, efficiency=0.66, launch_s=2.9e-6),
        "fp32": replace(fp32, efficiency=0.78, launch_s=2.7e-6, dram_efficiency=0.72, prologue_k=45.0),
    }
    flash = replace(
        flash, launch_s=4.4e-6, efficiency=0.42, stream_bytes_per_s=8.6e10, dram_efficiency=0.75, block_s=1.7e-6
    )
    return replace(
        base,
        launch=replace(base.launch, graph_floor_s=1.6e-6, stream_floor_s=3e-6),
        model=replace(
            model,
            gemm=gemm,
            attention={**model.attention, "64": flash},
            memory=replace(memory, kinds=kinds, l2_copy_bytes_per_s=4.6e12, resident_from=0.45, write_weight=1.35),
            masked_attention=0.36,
        ),
    )


def kernels() -> Iterator[dict[str, Any]]:
    """Shapes as the campaign measures them, without times. `graph`: whether it is measured as a node of a graph too."""
    for exponent in range(14, 29):
        yield {"kind": "copy", "dtype": "fp16", "elements": 1 << exponent}
    for dtype in ("fp16", "bf16", "fp32"):
        for width in (768, 1024, 1280, 1600):
            for n, k in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width), (50257, width)):
                for m in (1, 8, 64, 512, 4096) if dtype == "bf16" else (1, 2, 8, 16, 32, 64, 128, 256, 512, 2048, 4096):
                    op = "linear" if n == 50257 else "addmm"
                    yield {"kind": "gemm", "op": op, "dtype": dtype, "m": m, "n": n, "k": k, "graph": m <= 512}
    for dtype in ("fp16", "fp32"):
        for batch in (1, 8, 32):
            for heads in (12, 16, 25):
                for s in (64, 128, 256, 512, 1024):
                    shape = {"dtype": dtype, "batch": batch, "heads": heads, "head_dim": 64}
                    for mask in ("causal", "explicit"):
                        yield {"kind": "sdpa", **shape, "new_tokens": s, "cached_tokens": 0, "mask": mask}
                    yield {"kind": "sdpa", **shape, "new_tokens": 1, "cached_tokens": s, "mask": "none"}
                    count = batch * heads
                    yield {"kind": "bmm", "op": "scores", "dtype": dtype, "batch": count, "m": s, "n": s, "k": 64}
                    yield {"kind": "bmm", "op": "context", "dtype": dtype, "batch": count, "m": s, "n": 64, "k": s}
                    yield {"kind": "softmax", "dtype": dtype, "rows": count * s, "columns": s}
                    yield {"kind": "cat", **shape, "cached_tokens": s, "new_tokens": 1}
        for rows in (1, 8, 64, 512, 1024, 4096, 8192, 32768):
            for width in (768, 1024, 1280, 1600, 3072, 6400):
                for op in ("add", "mul_scalar", "tanh"):
                    yield {"kind": "elementwise", "op": op, "dtype": dtype, "rows": rows, "columns": width}
                if width <= 1600:
                    yield {"kind": "layer_norm", "dtype": dtype, "rows": rows, "columns": width}
                    yield {"kind": "permuted_copy", "dtype": dtype, "rows": rows, "columns": width}
    for rows in (1, 16, 64, 256, 1024, 4096, 16384, 32768):
        yield {"kind": "gather", "dtype": "fp16", "rows": rows, "columns": 768}


def kernel_s(hw: Hardware, r: Measurement) -> float:
    """A kernel's seconds by the machine model, its launch's floor aside."""
    dtype, size = r["dtype"], ELEMENT_BYTES[r["dtype"]]
    match r["kind"]:
        case "gemm":
            return float(gemm_terms(hw, dtype, 1.0, r["m"], r["n"], r["k"], size).device_s)
        case "bmm":
            return float(gemm_terms(hw, dtype, r["batch"], r["m"], r["n"], r["k"], size, batched=True).device_s)
        case "sdpa":
            new, keys = r["new_tokens"], r["cached_tokens"] or r["new_tokens"]
            mask = {"causal": r["mask"] == "causal", "masked": r["mask"] == "explicit"}
            sizes = (r["batch"], r["heads"], r["head_dim"], new, keys - new)
            return float(attention_terms(hw, dtype, *sizes, size, **mask).device_s)
        case "cat":
            count = r["batch"] * r["heads"] * r["head_dim"] * (r["cached_tokens"] + 1)
        case _:
            count = r.get("elements") or r["rows"] * r["columns"]
    kind = "copy" if r["kind"] in ("permuted_copy", "cat") else str(r["kind"])
    columns = r["columns"] if kind in ("softmax", "layer_norm") else 1
    read = (2 if r.get("op") == "add" else 1) * count * size
    return float(memory_terms(hw, kind, float(read), float(count * size), size, columns, 0.0).device_s)


def measured(hw: Hardware, shapes: list[dict[str, Any]]) -> list[Measurement]:
    """The shapes with times of `hw`: 3 % noise, every fiftieth off by a factor of 2."""
    random = np.random.default_rng(7)

    def noisy_us(time_s: float) -> float:
        off = 2.0 ** random.choice([-1, 1]) if random.random() < 0.02 else 1.0
        return float(1e6 * time_s * off * np.exp(0.03 * random.standard_normal()))

    records: list[Measurement] = [
        {"kind": "machine", "gpu": "NVIDIA H100 80GB HBM3", "sms": 132, "memory_bytes": 80 * 10**9,
         "l2_bytes": 50 << 20, "cpu_model": " Some CPU"},
        {"kind": "floor", "graph_us": noisy_us(hw.launch.graph_floor_s)},
        *({"kind": "host", "op": op, "issue_us": us, "total_us": us}
          for op, us in {"add": 4.0, "tanh": 4.4, "pow": 4.2, "linear_module": 8.0, "layer_norm_module": 7.0,
                         "view": 1.0, "transpose": 1.2, "dropout_module": 2.0, "empty_python_call": 0.1}.items()),
    ]  # fmt: skip
    for shape in shapes:
        time_s = kernel_s(hw, shape)
        stream_us = noisy_us(max(ISSUE_S, hw.launch.stream_floor_s, time_s))
        record = {**shape, "issue_us": 1e6 * ISSUE_S, "stream_us": stream_us, "wall_us": stream_us + 20}
        if shape.get("graph", True):
            record["graph_us"] = noisy_us(max(hw.launch.graph_floor_s, time_s))
        records.append(record)
    return [*records, {"kind": "gemm", "dtype": "fp16", "m": 1, "n": 1, "k": 1, "error": "OutOfMemoryError"}]


def errors(hw: Hardware, truth: Hardware, shapes: list[dict[str, Any]]) -> dict[str, float]:
    """Median |log error| of each kind and dtype."""
    found: dict[str, list[float]] = {}
    for shape in shapes:
        right_s, floor_s = max(truth.launch.graph_floor_s, kernel_s(truth, shape)), hw.launch.graph_floor_s
        kind = " ".join(filter(None, (shape["kind"], shape.get("mask"), shape["dtype"])))
        found.setdefault(kind, []).append(abs(math.log(max(floor_s, kernel_s(hw, shape)) / right_s)))
    return {kind: float(np.median(values)) for kind, values in found.items()}


@pytest.fixture(scope="module")
def shapes() -> list[dict[str, Any]]:
    every = list(kernels())
    return [every[i] for i in np.random.default_rng(3).permutation(len(every))]


@pytest.fixture(scope="module")
def fit(shapes: list[dict[str, Any]]) -> GpuFit:
    return fit_gpu(measured(perturbed(), shapes[::2]), load_hardware("h100"))


def test_the_device_is_found_again_on_shapes_held_out(fit: GpuFit, shapes: list[dict[str, Any]]) -> None:
    truth, base = perturbed(), load_hardware("h100")
    before, after = errors(base, truth, shapes[1::2]), errors(fit.hardware, truth, shapes[1::2])
    assert max(after.values()) <= 0.05
    assert all(after[kind] < before[kind] for kind in after)


def test_what_the_records_state_of_the_machine_and_the_host(fit: GpuFit) -> None:
    truth, hw = perturbed(), fit.hardware
    assert (hw.compute.units, hw.memory.capacity_bytes, hw.memory.l2_bytes) == (132, 80e9, 50 * 2**20)
    assert hw.launch.graph_floor_s == pytest.approx(truth.launch.graph_floor_s, rel=0.03)
    assert hw.launch.stream_floor_s == pytest.approx(truth.launch.stream_floor_s, rel=0.05)
    host = {"cpu": "Some CPU", "op_s": 4.2e-6, "module_s": 7.5e-6, "view_s": 1.1e-6, "call_s": 2e-6}
    assert dataclasses.asdict(hw.host) == pytest.approx({**dataclasses.asdict(load_hardware("h100").host), **host})
    assert hw.evidence == () and hw.aliases == ()


def test_a_smaller_chip_has_a_lower_peak() -> None:
    base = load_hardware("h100")
    hw = fit_gpu([{"kind": "machine", "gpu": "half an H100", "sms": 66, "l2_bytes": None}], base).hardware
    assert hw.compute.units == 66
    assert hw.compute.peak_flop_per_s["fp16"] == base.compute.peak_flop_per_s["fp16"] / 2
    assert hw.memory == base.memory and hw.model == base.model and hw.host == base.host and hw.launch == base.launch


def test_residuals_and_provenance(fit: GpuFit) -> None:
    residuals = {residual.kind: residual for residual in fit.residuals}
    for kind in (
        "gemm fp16",
        "bmm fp32",
        "attention prefill fp16",
        "attention masked fp32",
        "layer_norm fp32",
        "copy fp16",
    ):
        assert residuals[kind].median_error <= 0.05
        assert abs(residuals[kind].bias) <= 0.03
        assert residuals[kind].median_error <= residuals[kind].p90_error
    for constants in fit.hardware.gpu_model.gemm.values():
        assert constants.residual is not None and 0.03 < constants.residual < 0.15
    count = residuals["gemm bf16"].count
    assert (
        fit.fitted["model.gemm.bf16"] == f"fitted on {count} measurements of products in bf16 on NVIDIA H100 80GB HBM3"
    )
    provenance = fit.hardware.provenance
    assert fit.fitted.items() <= provenance.items()
    assert provenance["memory"] == "borrowed from h100-sxm-80gb: datasheet"
    assert "model.gemm.fp32.pass_clock" in provenance and "memory.l2_bandwidth" in provenance


def test_what_no_record_speaks_of_stays(fit: GpuFit, shapes: list[dict[str, Any]]) -> None:
    base, model = load_hardware("h100").gpu_model, fit.hardware.gpu_model
    assert model.attention["128"] == base.attention["128"]
    assert all(model.memory.kinds[kind] == base.memory.kinds[kind] for kind in ("scalar_op", "where", "fill"))
    assert model.gemm["fp32"].pass_clock == base.gemm["fp32"].pass_clock
    assert model.gemm["fp16"].tiles == base.gemm["fp16"].tiles

    some = [shape for shape in shapes if shape["kind"] == "gemm" and shape["dtype"] == "fp32"]
    few = [shape for shape in shapes if shape["kind"] == "layer_norm"][:4]
    only = fit_gpu([r for r in measured(perturbed(), some[:60] + few) if r["kind"] in ("gemm", "layer_norm")],
                   load_hardware("h100"))  # fmt: skip
    changed = only.hardware.gpu_model
    assert set(only.fitted) == {"model.gemm.fp32"}
    assert changed.gemm["fp32"] != base.gemm["fp32"]
    assert replace(changed, gemm={**changed.gemm, "fp32": base.gemm["fp32"]}) == base
    assert only.hardware.launch == load_hardware("h100").launch
    assert [residual.count for residual in only.residuals if residual.kind.startswith("layer_norm")]


def test_kernels_that_waited_for_the_host_are_left_out() -> None:
    waiting = {"kind": "gemm", "dtype": "fp16", "m": 1, "n": 768, "k": 768, "issue_us": 9.0, "stream_us": 9.5}
    fit = fit_gpu([waiting] * 9, load_hardware("h100"))
    assert fit.residuals == () and fit.fitted == {} and fit.hardware.model == load_hardware("h100").model


def test_attention_is_grouped_by_what_a_pass_would_run() -> None:
    sizes = {"kind": "sdpa", "dtype": "fp16", "batch": 1, "heads": 12, "head_dim": 64, "graph_us": 9.0}
    masks = {"causal": (64, 0), "explicit": (64, 0), "none": (1, 64)}
    records = [{**sizes, "mask": m, "new_tokens": new, "cached_tokens": old} for m, (new, old) in masks.items()]
    records.append({**sizes, "mask": "none", "new_tokens": 64, "cached_tokens": 64, "kv_len": 128})
    kinds = [group.kind for group in gpu_groups(records, load_hardware("h100"))]
    assert sorted(kinds) == sorted(ATTENTION)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"kind": "gemm", "dtype": "fp16", "m": 1, "n": 768, "graph_us": 4.0}, "expected a whole number k"),
        ({"kind": "softmax", "dtype": "fp16", "rows": 1, "columns": 0.5, "graph_us": 4.0}, "a whole number col"),
        ({"kind": "softmax", "dtype": "fp16", "rows": 1, "columns": 64}, "expected a time"),
    ],
)  # fmt: skip
def test_a_record_without_sizes_or_time_is_refused(record: Measurement, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_gpu([record], load_hardware("h100"))


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("NVIDIA H200", "h200-sxm-141gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA B200", "b200-sxm-180gb"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 3090 Ti", "rtx3090"),
        ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", "rtx3080ti-laptop"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100-sxm-32gb"),
        ("Tesla V100-PCIE-32GB", "v100-pcie-32gb"),
        ("NVIDIA A10G", "a10"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40s"),
        ("NVIDIA L40S", "l40s"),
        ("Apple M2", "m2"),
        ("Apple M2 Max", "m2-max"),
    ],
)
def test_base_for(gpu: str, name: str) -> None:
    assert base_for({"kind": "machine", "gpu": gpu}) == name


@pytest.mark.parametrize(
    "gpu", ["NVIDIA GeForce GTX 1080 Ti", "AMD Instinct MI300X", "NVIDIA TITAN V", "80GB", "", None]
)
def test_base_for_an_unknown_gpu_asks_for_like(gpu: str | None) -> None:
    with pytest.raises(InputError, match="--like"):
        base_for({"kind": "machine", "gpu": gpu})


def assert_close(one: Any, other: Any, path: str = "$") -> None:
    """The same values to 1e-4, without what a file does not hold."""
    assert type(one) is type(other), path
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            if not field.metadata.get("derived"):
                assert_close(getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}")
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_close(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, tuple):
        assert len(one) == len(other), path
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_close(left, right, f"{path}[{i}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-4), path
    else:
        assert one == other, path


@pytest.mark.parametrize("device", list_hardware(), ids=lambda device: device.name)
def test_a_written_file_reads_as_the_device(device: Hardware, tmp_path: Path) -> None:
    file = tmp_path / "device.yaml"
    file.write_text(hardware_yaml(device), encoding="utf-8")
    (read,) = validate_file(file)
    assert_close(device, read)
    assert hardware_tree(read) == hardware_tree(device)


def test_the_fitted_device_can_be_written(fit: GpuFit, tmp_path: Path) -> None:
    file = tmp_path / "device.yaml"
    text = hardware_yaml(replace(fit.hardware, name="mine", description="two lines' worth: µ, # and 'quotes'"))
    file.write_text(text, encoding="utf-8")
    (read,) = validate_file(file)
    assert_close(replace(fit.hardware, name=read.name, description=read.description), read)
    assert read.description == "two lines' worth: µ, # and 'quotes'"
    assert "l2: 50 MiB" in text and "op: 4.2 us" in text


def test_a_time_of_zero_cannot_be_written() -> None:
    hw = load_hardware("h100")
    with pytest.raises(InputError, match=re.escape("$.model.gemm.fp32.launch: expected a time")):
        hardware_yaml(replace(hw, model=hw.gpu_model.without_launch()))
