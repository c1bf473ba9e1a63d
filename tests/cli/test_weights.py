"""--weights: quantised weights in every command that takes a model, and what refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Call, assert_refused

from gpt2cost import predict
from gpt2cost.prediction.predict import Prediction
from gpt2cost.table.config import change_model, load_model

POINT = ("--model", "gpt2", "--gpu", "a100", "--seq", "64")


def told(gpt2cost: Call, *arguments: str) -> Any:
    result = gpt2cost(*arguments, "--format", "json")
    assert (result.code, result.err) == (0, "")
    return json.loads(result.out)


@pytest.mark.parametrize("weights", ["int8", "nf4", "fp4"])
def test_predict_says_how_weights_are_stored_and_that_their_time_is_assumed(weights: str, gpt2cost: Call) -> None:
    found, dense = told(gpt2cost, "predict", *POINT, "--weights", weights), told(gpt2cost, "predict", *POINT)
    assert (found["model"]["weights"], dense["model"]["weights"]) == (weights, "dtype")
    assert found["model"]["parameters"] == dense["model"]["parameters"]
    assert found["memory"]["weights_bytes"] < dense["memory"]["weights_bytes"]
    for phase, plain in zip(found["phases"], dense["phases"], strict=True):
        own, usual = phase["totals"], plain["totals"]
        assert (own["trust"], own["trust_from"]) == ("assumed", f"bitsandbytes {weights}")
        assert own["latency_high_s"] / own["latency_low_s"] > usual["latency_high_s"] / usual["latency_low_s"]
        assert 2 * own["latency_low_s"] <= own["latency_s"] * (1 + 1e-9)
    text = gpt2cost("predict", *POINT, "--weights", weights).out
    assert f"{weights} weights" in text
    assert ", assumed)" in text


def test_every_command_that_takes_a_model_takes_it(gpt2cost: Call) -> None:
    own = ("--model", "gpt2", "--gpu", "a100")
    written = told(gpt2cost, "generate", *own, "--prompt", "8", "--new-tokens", "2", "--weights", "nf4")
    assert written["model"]["weights"] == "nf4"
    fitting = told(gpt2cost, "fit", *own, "--weights", "int8")
    assert fitting["what_if"]["model"] == {"weights": "int8"}
    compared = gpt2cost("compare", *own, "--weights", "dtype,int8,nf4", "--format", "csv").out
    swept = gpt2cost("sweep", *own, "--weights", "int8,nf4", "--batch", "1,8", "--format", "csv").out
    assert all(f"gpt2[weights={name}]" in compared for name in ("dtype", "int8", "nf4"))
    assert len(swept.splitlines()) == 5
    assert gpt2cost("table", "--model", "gpt2", "--weights", "nf4").code == 0
    assert gpt2cost("tree", "--model", "gpt2", "--weights", "int8").code == 0
    assert gpt2cost("explain", "h.mlp.c_fc.gemm_4bit", *own, "--weights", "nf4").code == 0


def test_a_grid_of_quantised_passes_is_that_of_its_points() -> None:
    for weights in ("int8", "nf4"):
        model = change_model(load_model("gpt2"), {"weights": weights})
        seqs = np.array([1, 4, 5, 33, 128, 385, 513])
        grid = predict(model, "a100", batch=2, seq=seqs, phase="prefill").phases[0].totals
        points = [_point(predict(model, "a100", batch=2, seq=int(seq), phase="prefill")) for seq in seqs]
        assert np.broadcast_to(grid.launches, seqs.shape).tolist() == [launches for launches, _ in points]
        assert grid.latency_s.tolist() == pytest.approx([latency_s for _, latency_s in points], rel=1e-12)


def _point(found: Prediction) -> tuple[int, float]:
    totals = found.phases[0].totals
    return totals.launches, totals.latency_s


def test_4_bit_weights_are_unpacked_first_where_many_rows_meet_them(gpt2cost: Call) -> None:
    def ops(seq: int) -> set[str]:
        found = told(gpt2cost, "predict", *POINT[:4], "--seq", str(seq), "--phase", "prefill", "--weights", "nf4")
        return {kernel["op"] for kernel in found["phases"][0]["kernels"]}

    assert "dequantize_4bit" not in ops(4)
    assert "gemm_4bit" not in ops(1000)
    assert {"gemm_4bit", "dequantize_4bit"} <= ops(200)


def test_parameters_of_the_tree_are_those_of_the_weights_that_are_packed(gpt2cost: Call) -> None:
    plain, packed = (told(gpt2cost, "tree", "--model", "gpt2", *more) for more in ((), ("--weights", "nf4")))
    own, other = ({node["path"]: node["parameters"] for node in found["nodes"]} for found in (plain, packed))
    assert own == other
    assert own[""] == load_model("gpt2").parameters


@pytest.mark.parametrize("weights", ["int8", "nf4"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_predicted_trace_is_read_back_exactly(weights: str, phase: str, gpt2cost: Call, tmp_path: Path) -> None:
    path = str(tmp_path / "t.json")
    assert gpt2cost("trace", *POINT, "--weights", weights, "--phase", phase, "-o", path).code == 0
    (profile,) = told(gpt2cost, "validate", "--model", "gpt2", "--gpu", "a100", "--trace", path)["profiles"]
    assert profile["mapped_share"] == pytest.approx(1.0)
    assert all(abs(row["error"]) < 1e-6 for row in profile["kernels"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("predict", *POINT, "--weights", "int4"), "weights: expected one of dtype, int8, nf4, fp4"),
        (("predict", *POINT, "--weights", "nf4", "--set", "weights=int8"), "weights is set by --set too"),
        (("predict", *POINT, "--weights", "nf4", "--runtime", "compile"), "compile is not modelled with weights nf4"),
        (("predict", *POINT, "--weights", "nf4", "--impl", "nanogpt"), "nanogpt's code has weights dtype alone"),
        (("predict", "--model", "gpt2", "--gpu", "m1", "--weights", "nf4"), "modelled on NVIDIA devices"),
        (("predict", "--model", "gpt2", "--gpu", "v100", "--weights", "int8"), "needs compute capability 7.5"),
        (("predict", *POINT, "--weights", "int8", "--set", "n_inner=13"), "n_inner: expected a multiple of 4"),
        (("predict", *POINT, "--set", "llm_int8_threshold=0"), "goes with weights int8"),
        (("train", *POINT, "--weights", "nf4"), "training is modelled with all weights in the precision"),
        (("predict", *POINT, "--weights", "int8", "--runtime", "cuda-graph"), "the host waits for the device"),
    ],
)
def test_what_is_not_modelled_is_refused(arguments: tuple[str, ...], said: str, gpt2cost: Call) -> None:
    assert_refused(gpt2cost(*arguments), said)


def test_a_graph_is_captured_where_no_layer_waits(gpt2cost: Call) -> None:
    for own in (("nf4",), ("int8", "--set", "llm_int8_threshold=0")):
        assert gpt2cost("predict", *POINT, "--runtime", "cuda-graph", "--weights", *own).code == 0


def test_a_config_that_computes_in_another_dtype_is_warned_of(gpt2cost: Call, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2", "quantization_config": {"load_in_4bit": True}}))
    for command in (("predict", "--seq", "8"), ("generate", "--prompt", "8", "--new-tokens", "2")):
        found = gpt2cost(*command, "--model", str(path), "--gpu", "a100")
        assert found.code == 0
        assert "bnb_4bit_compute_dtype: float32, and the dtype is fp16" in found.err
        assert gpt2cost(*command, "--model", str(path), "--gpu", "a100", "--dtype", "fp32").err == ""
