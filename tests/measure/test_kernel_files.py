"""Files of measured kernels: how they are scored, and what is refused."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT

from gpt2cost import InputError, kernel_latency
from gpt2cost.errors import InputWarning
from gpt2cost.measure.kernel_files import KernelResult, additive_constant, score_measurements

MEASUREMENTS = ROOT.parent / "shared" / "measurements"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def gemm_rows(slower: Callable[[float], float], **more: Any) -> list[dict[str, Any]]:
    rows = []
    for m in (64, 1024, 8192):
        for n in (768, 3072):
            seconds = float(kernel_latency("gemm", "a100", "fp16", m=m, n=n, k=768).device_s)
            rows.append(
                {"gpu": "a100", "dtype": "fp16", **more, "m": m, "n": n, "k": 768, "latency_us": slower(seconds) * 1e6}
            )
    return rows


def test_a_file_is_scored_as_it_is(tmp_path: Path) -> None:
    """No constant is fitted to what is scored, whatever the columns are."""
    write_csv(tmp_path / "gemm.csv", gemm_rows(lambda seconds: seconds * 1.25))
    write_csv(tmp_path / "linear.csv", gemm_rows(lambda seconds: seconds * 1.25, op="linear", batch=1))
    for result in score_measurements(tmp_path):
        assert result.constant_s is None
        assert result.errors == pytest.approx(np.full(6, -0.2))


def test_the_dispatch_of_isolated_calls_is_fitted_where_that_is_asked_for(tmp_path: Path) -> None:
    write_csv(tmp_path / "linear.csv", gemm_rows(lambda seconds: seconds + 30e-6, op="linear", batch=1))
    (result,) = score_measurements(tmp_path, fit_constant=True)
    assert result.constant_s == pytest.approx(30e-6)
    assert result.mean_absolute_error == pytest.approx(0, abs=1e-9)
    assert score_measurements(tmp_path)[0].mean_absolute_error > 0.1


def test_the_additive_constant_is_the_best_of_its_kind() -> None:
    rng = np.random.default_rng(1)
    predicted = rng.uniform(1, 100, 200)
    measured = predicted * rng.normal(1, 0.05, 200) + 7
    best = additive_constant(measured, predicted)
    error = np.mean(np.abs((predicted + best) / measured - 1))
    assert all(error <= np.mean(np.abs((predicted + other) / measured - 1)) + 1e-3 for other in np.linspace(0, 20, 81))


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "gpu,dtype,m,n,k,latency_us\n"])
def test_a_folder_without_measurements(content: str, tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_text(content)
    with pytest.raises(InputError, match="no kernel measurement in any CSV file"):
        score_measurements(tmp_path)


def test_a_file_of_something_else_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "kernels.csv").write_text(f"{GEMM}\n{GOOD[GEMM]}\n")
    (tmp_path / "other.csv").write_bytes(b"caf\xe9;x\n1;2\n")
    (result,) = score_measurements(tmp_path)
    assert result.file == "kernels.csv"


GEMM = "gpu,dtype,m,n,k,latency_us"
PRODUCT = "gpu,dtype,op,batch,m,n,k,latency_us"
ATTENTION = "gpu,dtype,phase,batch,heads,head_dim,new_tokens,cached_tokens,latency_us"
OP = "op,m,n,k,latency_us,gpu,dtype"
LAYER = "gpu,model,batch,seq,dtype,kernel,node,scope,input_shapes,output_shape,latency_us"
GOOD = {
    GEMM: "a100,fp16,128,768,768,9",
    PRODUCT: "a100,fp32,bmm,4,128,128,128,9",
    ATTENTION: "a100,fp16,decode,1,12,64,1,64,9",
    OP: "softmax,128,64,,9,a100,fp16",
    LAYER: 'a100,gpt2,1,64,fp32,addmm,addmm,h.0,"[[2304], [64, 768], [768, 2304]]","[64, 2304]",9',
}


def layer_row(kernel: str, inputs: str, output: str = "[64, 768]") -> str:
    return f'a100,gpt2,1,64,fp32,{kernel},{kernel},h.0,"{inputs}","{output}",9'


def bad_rows() -> Iterator[Any]:
    for header, row in GOOD.items():
        cells = next(csv.reader([row]))
        name = header.split(",")[3]
        at = header.split(",").index("latency_us")
        for latency in ("0", "-5", "nan", "inf", "1e-320", "fast", "1_0", ""):
            changed = [latency if i == at else cell for i, cell in enumerate(cells)]
            yield pytest.param(header, changed, "latency_us: expected a time", id=f"{name}: {latency}")
        yield pytest.param(header, cells[:3], f"expected {len(cells)} cells, got 3", id=f"{name}: short")
        yield pytest.param(
            header, [*cells, "1"], f"expected {len(cells)} cells, got {len(cells) + 1}", id=f"{name}: long"
        )
    for header, row, message in (
        (GEMM, "a100,fp16,,768,768,9", "m: expected"),
        (GEMM, "a100,fp16,0,768,768,9", "m: expected"),
        (GEMM, "a100,fp16,1.5,768,768,9", "m: expected"),
        (GEMM, f"a100,fp16,{10**400},768,768,9", "m: expected"),
        (GEMM, "a100,int8,128,768,768,9", "dtype: expected"),
        (GEMM, "v100,bf16,128,768,768,9", "bf16"),
        (PRODUCT, "a100,fp32,bbm,4,128,128,128,9", "op: expected one of gemm, linear"),
        (PRODUCT, "a100,fp32,linear,1,,128,128,9", "m: expected"),
        (PRODUCT, "a100,fp32,linear,1,128,128,,9", "k: expected"),
        (ATTENTION, "a100,fp16,train,1,12,64,1,64,9", "phase: expected one of prefill, decode, encode"),
        (ATTENTION, "a100,fp16,decode,1,12,64,1,-1,9", "cached_tokens: expected"),
        (OP, "rms_norm,128,64,,9,a100,fp16", "op: expected one of gemm"),
        (OP, "softmax,,64,,9,a100,fp16", "m: expected"),
        (OP, "softmax,128,,,9,a100,fp16", "n: expected"),
        (OP, f"gelu,{10**15},{10**15},,9,a100,fp16", "elements: expected"),
        (LAYER, layer_row("conv", "[[64, 768]]"), "kernel: expected one of"),
        (LAYER, layer_row("matmul", "[[1, 12, 64, 64]]"), "input_shapes: expected 2"),
        (LAYER, layer_row("matmul", "[[12, 64, 64], [12, 64, 64]]"), "input_shapes: expected 2"),
        (LAYER, layer_row("addmm", "[[768]]"), "input_shapes: expected"),
    ):
        yield pytest.param(header, next(csv.reader([row])), message, id=f"{row[:40]}: {message}")
    huge = ("[" * 10**5, f"[[{10**400}]]", "[[1000000000, 1000000000]]")
    for shapes in ("5", "{}", "[]", "[[]]", "null", '""abc""', '[[""a""]]', "[[0, 0]]", "[[NaN]]", "[[true]]", *huge):
        for row in (layer_row("add", shapes), layer_row("add", "[[64, 768]]", shapes)):
            yield pytest.param(LAYER, next(csv.reader([row])), "shape", id=f"shapes {shapes[:30]}")


@pytest.mark.parametrize(("header", "cells", "message"), list(bad_rows()))
def test_a_bad_row_is_one_error_with_file_and_line(header: str, cells: list[str], message: str, tmp_path: Path) -> None:
    with (tmp_path / "file.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), next(csv.reader([GOOD[header]])), cells])
    with pytest.raises(InputError) as error:
        score_measurements(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'file.csv'}:3: ")
    assert message in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("header", GOOD)
def test_a_byte_order_mark_and_another_order_of_columns_are_fine(header: str, tmp_path: Path) -> None:
    """As a spreadsheet writes "CSV UTF-8"."""
    rows = [header.split(","), next(csv.reader([GOOD[header]]))]
    for name, encoding in (("a.csv", "utf-8"), ("b.csv", "utf-8-sig")):
        with (tmp_path / name).open("w", newline="", encoding=encoding) as file:
            csv.writer(file).writerows(rows if name == "a.csv" else [row[::-1] for row in rows])
    one, other = score_measurements(tmp_path)
    assert (one.operation, one.gpu, one.count) == (other.operation, other.gpu, 1)
    assert one.errors == pytest.approx(other.errors)


BACKEND = f"{ATTENTION},backend,note"


def test_the_attention_kernel_is_named_by_a_column_by_the_file_or_by_who_calls_it(tmp_path: Path) -> None:
    """A serving framework calls FlashAttention-3 where it runs, with a write into its cache; PyTorch never does."""
    rows = {"served.csv": (ATTENTION, ""), "h100_fa2_causal.csv": (ATTENTION, ""), "named.csv": (BACKEND, ",fa3,x")}
    for name, (header, more) in rows.items():
        (tmp_path / name).write_text(f"{header}\nh100,fp16,prefill,8,16,64,512,0,9{more}\n")
    fa2, named, served = score_measurements(tmp_path)
    assert (named.operation, served.operation) == ("attention prefill, flash3", "attention prefill")
    shape = {"batch": 8, "heads": 16, "head_dim": 64, "new_tokens": 512}
    for result, kernel, write in ((fa2, "flash2", False), (named, "flash3", False), (served, "flash3", True)):
        predicted = kernel_latency("attention", "h100", "fp16", kernel=kernel, write_cache=write, **shape)
        assert result.errors + 1 == pytest.approx(predicted.device_s / 9e-6)


def test_an_attention_kernel_without_constants_is_skipped_with_a_word(tmp_path: Path) -> None:
    rows = [f"{gpu},fp16,encode,8,16,64,512,0,900,{backend}," for gpu, backend in
            (("a100", "fa2"), ("a100", "fa3"), ("a100", "triton"), ("h100", "fa3"))]  # fmt: skip
    (tmp_path / "file.csv").write_text("\n".join([BACKEND, *rows]))
    with pytest.warns(InputWarning) as warned:
        results = score_measurements(tmp_path)
    assert [(r.gpu, r.operation) for r in results] == [
        ("a100-sxm-80gb", "attention encode, flash2"), ("h100-sxm-80gb", "attention encode, flash3"),
    ]  # fmt: skip
    texts = [str(warning.message) for warning in warned]
    assert [("'flash3'" in text, "'triton'" in text) for text in texts] == [(True, False), (False, True)]
    assert all(text.startswith("file.csv: skipped 1 row: a100: kernel: ") for text in texts)


def warned(folder: Path) -> tuple[list[KernelResult], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        results = score_measurements(folder)
    return results, [str(warning.message) for warning in caught]


def test_columns_that_fit_no_format_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{GEMM},note,driver\n{GOOD[GEMM]},x,550\n")
    (tmp_path / "b.csv").write_text("gpu,dtype,rows,latency_us\na100,fp16,1,9\n")
    results, texts = warned(tmp_path)
    assert [result.file for result in results] == ["a.csv"]
    assert texts[0] == "a.csv: columns that are not read: driver"
    assert texts[1].startswith("b.csv: passed over") and "missing: m; too many: rows" in texts[1]
    (tmp_path / "a.csv").write_text(f"{GEMM},m\n{GOOD[GEMM]},1\n")
    with pytest.raises(InputError, match=r"a\.csv:1: column m stands there twice"):
        warned(tmp_path)


@pytest.mark.parametrize(
    ("row", "why"),
    [("gtx1080,fp16,128,768,768,9,", "gtx1080"), ("m1,fp16,128,768,768,9,mlx", "mlx: its kernels are not PyTorch's")],
)
def test_what_no_file_claims_to_predict_is_skipped_with_a_word(row: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_text(f"{GEMM},framework\n{GOOD[GEMM]},\n{row}\n{row}\n")
    results, texts = warned(tmp_path)
    assert [result.gpu for result in results] == ["a100-sxm-80gb"]
    assert len(texts) == 1
    assert texts[0].startswith("file.csv: skipped 2 rows: ") and why in texts[0]


@pytest.mark.parametrize(
    ("row", "kernels"),
    [
        ("layernorm,788,768,,9,a100,fp16", [("layer_norm", {"rows": 788, "columns": 768})]),
        ("softmax,788,768,,9,a100,fp16", [("softmax", {"rows": 788, "columns": 768})]),
        ("relu,4096,,,9,a100,fp32", [("elementwise", {"elements": 4096})]),
        ("scale,64,64,,9,a100,fp32", [("elementwise", {"elements": 4096})]),
        ("add,4096,,,9,a100,fp32", [("elementwise", {"elements": 4096, "inputs": 2})]),
        ("add_twice,4096,,,9,a100,fp32", [("elementwise", {"elements": 4096, "inputs": 2})] * 2),
        ("linear,64,256,128,9,a100,fp16", [("gemm", {"m": 64, "n": 256, "k": 128})]),
        ("matmul,64,256,128,9,a100,fp32", [("gemm", {"m": 64, "n": 256, "k": 128})]),
    ],
)
def test_an_op_is_predicted_by_its_kernels(row: str, kernels: list[tuple[str, dict[str, int]]], tmp_path: Path) -> None:
    (tmp_path / "ops.csv").write_text(f"{OP}\n{row}\n")
    (result,) = score_measurements(tmp_path)
    seconds = sum(float(kernel_latency(kind, "a100", result.dtype, **shape).device_s) for kind, shape in kernels)
    assert result.errors == pytest.approx([seconds / 9e-6 - 1])


def test_sizes_may_be_one_text(tmp_path: Path) -> None:
    (tmp_path / "shapes.csv").write_text(
        "gpu,framework,dtype,op,shape,latency_us,note\nm1,mps,fp16,gemm,512x1024x2048,900,\nm1,mps,fp16,block,S1,900,\n"
    )
    (result,), texts = warned(tmp_path)
    seconds = kernel_latency("gemm", "m1", "fp16", m=512, n=1024, k=2048).device_s
    assert result.errors == pytest.approx([float(seconds) / 900e-6 - 1])
    assert len(texts) == 1 and "skipped 1 row" in texts[0]


@pytest.mark.skipif(not MEASUREMENTS.is_dir(), reason="the measurements are not part of the project")
def test_kernels_are_better_than_published() -> None:
    """Mean absolute error in percent of kernel measurements, each with the best published figure beside it."""
    limits = {
        ("gemm_bf16.csv", "a100-sxm-80gb", "gemm"): 6,  # 6.9
        ("gemm_bf16.csv", "h100-sxm-80gb", "gemm"): 6,  # 6.5
        ("gemm_bf16.csv", "l40s", "gemm"): 9,  # 9.9
        ("gemm_fp32.csv", "a100-pcie-80gb", "linear"): 5,  # 6.4 to 9.3
        ("gemm_fp32.csv", "a100-pcie-80gb", "bmm"): 5,
        ("gemm_fp32.csv", "h100-sxm-80gb", "linear"): 5,
        ("gemm_fp32.csv", "h100-sxm-80gb", "bmm"): 5,
        ("flash_attention_bf16.csv", "a100-sxm-80gb", "attention prefill"): 8,  # 7 to 12
        ("flash_attention_bf16.csv", "h100-sxm-80gb", "attention prefill"): 8,
        ("flash_attention_bf16.csv", "l40s", "attention prefill"): 8,
        ("flash_attention_bf16.csv", "a100-sxm-80gb", "attention decode"): 10,  # 10 to 13
        ("flash_attention_bf16.csv", "l40s", "attention decode"): 10,
        ("gpt2_large_eager_fp32_kernels.csv", "h100-sxm-80gb", "linear"): 4,  # 9
        ("gpt2_large_eager_fp32_kernels.csv", "h100-sxm-80gb", "element-wise"): 5,  # 16
        ("gpt2_large_eager_fp32_kernels.csv", "h100-sxm-80gb", "softmax"): 6,  # 23
        ("gpt2_large_eager_fp32_kernels.csv", "h100-sxm-80gb", "layer norm"): 8,  # 21
        ("a100_fp16_host_synced_ops.csv", "a100-sxm-80gb", "softmax"): 6,  # 30.8
    }
    assert beyond(limits) == {}


@pytest.mark.skipif(not MEASUREMENTS.is_dir(), reason="the measurements are not part of the project")
@pytest.mark.xfail(strict=True, reason="an A100's layer norm and GELU are fitted inside a model, where they are slower")
def test_kernels_that_two_sources_time_differently() -> None:
    """LLMCompass streams a layer norm at 2.2 TB/s where PyTorch inside a model reaches 0.96. One set of constants
    serves both, so that these two are worse than the best published figures: 19 and 7.7 %."""
    limits = {
        ("a100_fp16_host_synced_ops.csv", "a100-sxm-80gb", "layer_norm"): 6,  # 12
        ("a100_fp16_host_synced_ops.csv", "a100-sxm-80gb", "gelu"): 2,  # 7.6
    }
    assert beyond(limits) == {}


def beyond(limits: dict[tuple[str, str, str], float]) -> dict[tuple[str, str, str], float]:
    """The errors in percent that are beyond a limit, by file, device and operation."""
    results = score_measurements(MEASUREMENTS, fit_constant=True)
    errors = {(r.file, r.gpu, r.operation): 100 * r.mean_absolute_error for r in results}
    return {key: errors[key] for key, limit in limits.items() if errors[key] > limit}
