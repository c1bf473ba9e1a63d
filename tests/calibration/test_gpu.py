"""`fit_gpu`: from noisy times of a machine of simple formulas. And hardware files that are written."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2cost.calibration import search
from gpt2cost.calibration.calibrate import calibrate
from gpt2cost.calibration.forms import ATTENTION, Fit, gpu_groups
from gpt2cost.calibration.gpu import base_for, fit_gpu
from gpt2cost.device.catalog import list_hardware, load_hardware, validate_file
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.to_yaml import hardware_tree, hardware_yaml
from gpt2cost.errors import InputError
from gpt2cost.measure.records import Measurement

pytest.importorskip("scipy")

ISSUE_S = 5e-6
"""Host time of each synthetic call."""

SMS, L2_BYTES = 132, 50 << 20
PEAK = {"fp16": 420e12, "fp32": 40e12}
"""FLOP/s that products reach."""

TILE = {"fp16": 128, "fp32": 32}
"""Rows and columns that one SM computes at a time."""

DRAM, L2 = 2.3e12, 4.6e12
"""Bytes per second."""

FLASH, MASKED = 300e12, 0.4
"""FLOP/s of flash attention in fp16, and what the other kernel reaches of it."""

GRAPH_FLOOR_S, STREAM_FLOOR_S = 1.6e-6, 3e-6


def product_s(dtype: str, batch: int, m: int, n: int, k: int) -> float:
    """3 us, then the slower of whole tiles, 132 at a time or fewer, and of all operands from DRAM."""
    tile, moved = TILE[dtype], batch * (m * k + k * n + m * n) * ELEMENT_BYTES[dtype]
    tiles = max(SMS, batch * math.ceil(m / tile) * math.ceil(n / tile))
    return 3e-6 + max(2.0 * tiles * tile * tile * k / PEAK[dtype], moved / DRAM)


def attention_s(dtype: str, pairs: int, new: int, keys: int, mask: str) -> float:
    """5 us, then the slower of FLOPs, half of them where it is causal, and of keys and values from DRAM. A head's 128
    queries keep one SM busy, and four SMs share the keys of a head that has one query."""
    rate = FLASH if dtype == "fp16" else FLASH * MASKED * 66.9 / 989
    rate *= MASKED if mask == "explicit" and dtype == "fp16" else 1.0
    flops = 4.0 * pairs * new * keys * 64 * (0.5 if mask == "causal" else 1.0)
    moved = 2.0 * pairs * (new + keys) * 64 * ELEMENT_BYTES[dtype]
    busy = min(1.0, pairs * math.ceil(new / 128) / SMS)
    return 5e-6 + max(flops / (rate * busy), moved / (DRAM * min(1.0, 4 * pairs / SMS)))


def moving_s(moved: float) -> float:
    """Bytes from L2 up to 20 MB, from DRAM from 60 MB on, and in between in shares."""
    share = min(max(moved / 40e6 - 0.5, 0.0), 1.0)
    return moved * (share / DRAM + (1.0 - share) / L2)


def kernel_s(r: Measurement) -> float:
    """Seconds of a kernel on a machine of simple formulas, which know nothing of the forms that are fitted.

    One that moves bytes takes 1 us before it does, a gather or a layer norm 3 us."""
    match r["kind"]:
        case "gemm" | "bmm":
            return product_s(r["dtype"], r.get("batch", 1), r["m"], r["n"], r["k"])
        case "sdpa":
            pairs, keys = r["batch"] * r["heads"], r["cached_tokens"] or r["new_tokens"]
            return attention_s(r["dtype"], pairs, r["new_tokens"], keys, r["mask"])
        case "cat":
            count = r["batch"] * r["heads"] * r["head_dim"] * (r["cached_tokens"] + 1)
        case _:
            count = r.get("elements") or r["rows"] * r["columns"]
    slower = {"softmax": 1.15, "layer_norm": 1.1, "gather": 1.3}.get(r["kind"], 1.0)
    start_s = 3e-6 if r["kind"] in ("gather", "layer_norm") else 1e-6
    return start_s + slower * moving_s((3 if r.get("op") == "add" else 2) * count * ELEMENT_BYTES[r["dtype"]])


def kernels() -> Iterator[dict[str, Any]]:
    """Shapes as a campaign measures them, without times. `graph`: whether a graph's node is timed too."""
    for exponent in range(14, 29):
        yield {"kind": "copy", "dtype": "fp16", "elements": 1 << exponent}
    for exponent in range(16):
        yield {"kind": "gather", "dtype": "fp16", "rows": 1 << exponent, "columns": 768}
    for dtype in ("fp16", "fp32"):
        for width in (768, 1280):
            for n, k in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width), (50257, width)):
                for m in (1, 2, 8, 16, 32, 64, 128, 256, 512, 2048, 4096):
                    op = "linear" if n == 50257 else "addmm"
                    yield {"kind": "gemm", "op": op, "dtype": dtype, "m": m, "n": n, "k": k, "graph": m <= 512}
        for batch, s in ((batch, s) for batch in (1, 8, 32) for s in (64, 128, 256, 512, 1024)):
            shape, count = {"dtype": dtype, "batch": batch, "heads": 12, "head_dim": 64}, 12 * batch
            for mask in ("causal", "explicit"):
                yield {"kind": "sdpa", **shape, "new_tokens": s, "cached_tokens": 0, "mask": mask}
            yield {"kind": "sdpa", **shape, "new_tokens": 1, "cached_tokens": s, "mask": "none"}
            yield {"kind": "bmm", "op": "scores", "dtype": dtype, "batch": count, "m": s, "n": s, "k": 64}
            yield {"kind": "bmm", "op": "context", "dtype": dtype, "batch": count, "m": s, "n": 64, "k": s}
            yield {"kind": "softmax", "dtype": dtype, "rows": count * s, "columns": s}
            yield {"kind": "cat", **shape, "cached_tokens": s, "new_tokens": 1}
        for rows, width in (
            (rows, width) for rows in (1, 8, 64, 512, 1024, 8192, 32768) for width in (768, 1280, 3072)
        ):
            for op in ("add", "tanh"):
                yield {"kind": "elementwise", "op": op, "dtype": dtype, "rows": rows, "columns": width}
            if width < 3072:
                yield {"kind": "layer_norm", "dtype": dtype, "rows": rows, "columns": width}
                yield {"kind": "permuted_copy", "dtype": dtype, "rows": rows, "columns": width}


def measured(shapes: Iterable[dict[str, Any]]) -> list[Measurement]:
    """The shapes with their times: 3 % noise, every fiftieth off by a factor of 2."""
    random = np.random.default_rng(7)

    def noisy_us(time_s: float) -> float:
        off = 2.0 ** random.choice([-1, 1]) if random.random() < 0.02 else 1.0
        return float(1e6 * time_s * off * np.exp(0.03 * random.standard_normal()))

    records: list[Measurement] = [
        {"kind": "machine", "gpu": "NVIDIA H100 80GB HBM3", "sms": SMS, "memory_bytes": 80 * 10**9,
         "l2_bytes": L2_BYTES, "cpu_model": " Some CPU"},
        {"kind": "floor", "graph_us": noisy_us(GRAPH_FLOOR_S)},
        *({"kind": "host", "op": op, "issue_us": us, "total_us": us}
          for op, us in {"add": 4.0, "tanh": 4.4, "pow": 4.2, "linear_module": 8.0, "layer_norm_module": 7.0,
                         "view": 1.0, "transpose": 1.2, "dropout_module": 2.0, "empty_python_call": 0.1}.items()),
    ]  # fmt: skip
    for shape in shapes:
        time_s = kernel_s(shape)
        stream_us = noisy_us(max(ISSUE_S, STREAM_FLOOR_S, time_s))
        record = {**shape, "issue_us": 1e6 * ISSUE_S, "stream_us": stream_us, "wall_us": stream_us + 20}
        if shape.get("graph", True):
            record["graph_us"] = noisy_us(max(GRAPH_FLOOR_S, time_s))
        records.append(record)
    return records


def errors(hw: Hardware, shapes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Median |log(predicted / true)| of each kind and dtype."""
    exact = [{**shape, "graph_us": 1e6 * max(GRAPH_FLOOR_S, kernel_s(shape))} for shape in shapes]
    return {f"{g.kind} {g.dtype}": float(np.median(np.abs(g.errors(hw)))) for g in gpu_groups(exact, hw)}


@pytest.fixture(scope="module")
def shapes() -> list[dict[str, Any]]:
    shapes = list(kernels())
    return [shapes[i] for i in np.random.default_rng(3).permutation(len(shapes))]


@pytest.fixture(scope="module")
def fit(shapes: list[dict[str, Any]]) -> Fit:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_STARTS", 1)  # the other starts are slow, and only guard against a poor minimum
        return fit_gpu(measured(shapes[::2]), load_hardware("h100"))


SLOW_ATTENTION = (
    "attention masked fp16", "attention prefill fp16",
    "attention prefill fp32", "attention decode fp32", "attention masked fp32",
)  # fmt: skip
"""What one set of constants times with a mask and without: cuDNN's kernel in 16 bit, the memory-efficient in fp32."""


def test_kernels_that_were_not_measured_take_what_the_machine_takes(fit: Fit, shapes: list[dict[str, Any]]) -> None:
    """Catches a fit that follows outliers, or has learned its records by heart."""
    before, after = errors(load_hardware("h100"), shapes[1::2]), errors(fit.hardware, shapes[1::2])
    assert {kind for kind in after if after[kind] >= before[kind]} <= set(SLOW_ATTENTION)
    assert {kind for kind in after if after[kind] > 0.16} <= set(SLOW_ATTENTION)
    assert after["attention masked fp16"] < before["attention masked fp16"]  # a kernel of its own here, cuDNN's there
    assert after["attention masked fp32"] < 0.5 * before["attention masked fp32"]


def test_what_the_records_state_of_the_machine_and_the_host(fit: Fit) -> None:
    hw = fit.hardware
    assert (hw.compute.units, hw.memory.capacity_bytes, hw.memory.l2_bytes) == (132, 80e9, 50 * 2**20)
    assert hw.launch.graph_floor_s == pytest.approx(GRAPH_FLOOR_S, rel=0.05)
    assert hw.launch.stream_floor_s == pytest.approx(STREAM_FLOOR_S, rel=0.05)
    host = {"cpu": "Some CPU", "op_s": 4.2e-6, "module_s": 7.5e-6, "view_s": 1.1e-6, "call_s": 2e-6}
    assert dataclasses.asdict(hw.host) == pytest.approx({**dataclasses.asdict(load_hardware("h100").host), **host})
    assert hw.evidence == () and hw.aliases == ()


def test_a_smaller_chip_has_a_lower_peak() -> None:
    base = load_hardware("h100")
    hw = fit_gpu([{"kind": "machine", "gpu": "half an H100", "sms": 66, "l2_bytes": None}], base).hardware
    assert hw.compute.units == 66
    assert hw.compute.peak_flop_per_s["fp16"] == base.compute.peak_flop_per_s["fp16"] / 2
    assert hw.memory == base.memory and hw.model == base.model and hw.host == base.host and hw.launch == base.launch


@pytest.mark.parametrize(
    ("said", "watts"),
    [
        ("1980 MHz, 2619 MHz, 1980 MHz, 650.00 W, 35, 570.86", 650.0),
        ("1980 MHz, 2619 MHz, 1980 MHz, [N/A], 35, 570.86", None),
        ("", None),
        (None, None),
        (650, None),
    ],
)
def test_board_power_is_the_drivers_limit(said: object, watts: float | None) -> None:
    """Where nvidia-smi does not say it, it is not known, and no base's."""
    hw = fit_gpu([{"kind": "machine", "gpu": "NVIDIA H100", "nvidia_smi": said}], load_hardware("h100")).hardware
    assert hw.board_power_w == watts
    assert hardware_tree(hw).get("board_power") == (None if watts is None else "650 W")
    source = hw.provenance.get("board_power")
    assert source == (None if watts is None else "measured: power.limit of nvidia-smi, stated by NVIDIA H100")


def test_residuals_and_provenance(fit: Fit) -> None:
    residuals = {residual.kind: residual for residual in fit.residuals}
    for kind in ("gemm fp16", "gemm fp32", "bmm fp32", "attention prefill fp16", "layer_norm fp32", "copy fp16"):
        assert residuals[kind].median_error <= 0.12
        assert abs(residuals[kind].bias) <= 0.08
        assert residuals[kind].median_error <= residuals[kind].p90_error
    for dtype in ("fp16", "fp32"):
        assert 0.03 < (fit.hardware.gpu_model.gemm[dtype].residual or 0.0) < 0.8
    provenance = fit.hardware.provenance
    count = residuals["gemm fp32"].count + residuals["bmm fp32"].count
    on = "on NVIDIA H100 80GB HBM3"
    assert provenance["model.gemm.fp32"] == f"fitted on {count} measurements of products in fp32 {on}"
    assert provenance["host.op"] == f"median of 3 measurements of ops issued to an idle stream {on}"
    assert provenance["memory"] == "borrowed from h100-sxm-80gb: datasheet"
    assert {"memory.l2_bandwidth", "model.memory.l2_copy"} <= set(provenance)


def test_what_no_record_speaks_of_stays(fit: Fit, shapes: list[dict[str, Any]]) -> None:
    base, model = load_hardware("h100").gpu_model, fit.hardware.gpu_model
    assert model.attention["flash2"]["128"] == base.attention["flash2"]["128"]
    assert all(model.memory.kinds[kind] == base.memory.kinds[kind] for kind in ("scalar_op", "where", "fill"))
    assert model.gemm["fp32"].max_split == base.gemm["fp32"].max_split
    assert model.gemm["fp16"].tiles == base.gemm["fp16"].tiles

    products = [shape for shape in shapes if shape["kind"] == "gemm" and shape["dtype"] == "fp32"][:8]
    too_few = [shape for shape in shapes if shape["kind"] == "layer_norm"][:4]
    records = [r for r in measured(products + too_few) if r["kind"] in ("gemm", "layer_norm")]
    only = fit_gpu(records, load_hardware("h100"))
    changed = only.hardware.gpu_model
    assert [path for path, text in only.hardware.provenance.items() if "measurements of" in text] == ["model.gemm.fp32"]
    assert changed.gemm["fp32"] != base.gemm["fp32"]
    assert replace(changed, gemm={**changed.gemm, "fp32": base.gemm["fp32"]}) == base
    assert only.hardware.launch == load_hardware("h100").launch
    assert [residual.count for residual in only.residuals if residual.kind.startswith("layer_norm")]


def test_kernels_that_waited_for_the_host_are_left_out() -> None:
    waiting = {"kind": "gemm", "dtype": "fp16", "m": 1, "n": 768, "k": 768, "issue_us": 9.0, "stream_us": 9.5}
    fit = fit_gpu([waiting] * 9, load_hardware("h100"))
    assert fit.residuals == () and fit.hardware.model == load_hardware("h100").model


def test_a_kernel_that_the_base_has_no_constants_of_gets_its_own() -> None:
    """A V100 runs no flash attention: its first kernel's constants are where the fit starts."""
    base = load_hardware("v100")
    alone = {"efficient": base.gpu_model.attention["efficient"]}
    sdpa = {"kind": "sdpa", "dtype": "fp16", "batch": 8, "heads": 12, "head_dim": 64, "mask": "causal"}
    records = [{**sdpa, "new_tokens": new, "cached_tokens": 0} for new in (64, 128, 256, 512, 1024)]
    hopper = replace(base, compute_capability=9.0, model=replace(base.gpu_model, attention=alone))
    fit = fit_gpu(measured(records), hopper)
    assert [*fit.hardware.gpu_model.attention] == ["efficient", "cudnn"]
    assert fit.hardware.gpu_model.attention["efficient"] == base.gpu_model.attention["efficient"]
    assert fit.hardware.provenance["model.attention.cudnn"].endswith("its efficient")
    assert fit.residuals[0].median_error < 0.2


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
        ({"kind": "gemm", "op": "addmm", "dtype": "fp16", "m": 1, "n": 768, "graph_us": 4.0}, "k: missing"),
        ({"kind": "softmax", "dtype": "fp16", "rows": 1, "columns": 0.5, "graph_us": 4.0}, "columns: expected a whole"),
        ({"kind": "softmax", "dtype": "fp16", "rows": 1, "columns": 64}, "expected a time"),
    ],
)
def test_a_record_without_sizes_or_time_is_refused(record: Measurement, message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibrate([{"kind": "machine", "gpu": "NVIDIA H100"}, record], "mine")


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
        ("NVIDIA GeForce RTX 3090 Ti", "rtx3090ti"),
        ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", "rtx3080ti-laptop"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100-sxm-16gb"),
        ("Tesla V100-PCIE-32GB", "v100-pcie-32gb"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "rtx4060-laptop"),
        ("NVIDIA GeForce RTX 4060", "rtx4060"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
        ("NVIDIA H100 NVL", "h100-nvl-94gb"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX 2000 Ada Generation", "rtx-2000-ada"),
        ("NVIDIA RTX A4000", "rtx-a4000"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 3090 Ti", "rtx3090ti"),
        ("NVIDIA H800", "h800-sxm-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
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


def test_the_fitted_device_can_be_written(fit: Fit, tmp_path: Path) -> None:
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
