"""`sweep`: every row is what `predict` says at that point; grids, formats, order, and how it ends."""

from __future__ import annotations

import dataclasses
from itertools import islice, product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gpt2cost as package
from gpt2cost.device.catalog import change_hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.grid import MAX_AXIS, make_grid
from gpt2cost.prediction.predict import Prediction, predict
from gpt2cost.prediction.sweep import BLOCK_ROWS, COLUMNS, KERNEL_COLUMNS, plan, sweep
from gpt2cost.prediction.sweep_order import ordered
from gpt2cost.table.config import Model
from gpt2cost.table.options import GRAPHED, RUNTIMES

# ---------------------------------------------------------------------------------------------- equal to predict


def expected_rows(prediction: Prediction, batch: int, seq: int, cache: int) -> list[dict[str, Any]]:
    how = prediction.how
    return [
        {
            "model": prediction.model.name, "batch_size": batch, "seq_len": seq, "cache_len": cache,
            "gpu": prediction.hardware.name, "dtype": how.dtype, "attn": how.attn, "runtime": how.runtime,
            "logits": how.logits, "use_cache": how.use_cache, "cache_type": how.cache_type, "impl": how.impl,
            "phase": phase.phase,
            "kv_len": phase.kv_len,
            "total_bytes": prediction.memory.total_bytes, "fits": prediction.memory.fits,
            "valid": phase.kv_len <= prediction.model.n_positions,
            "parameters": prediction.model.parameters, "kv_cache_bytes": prediction.memory.kv_cache_bytes,
            "kv_bytes_per_token": prediction.memory.kv_bytes_per_token,
            "flops_per_token": phase.totals.flops / (phase.totals.tokens_per_s * phase.totals.latency_s),
            **{name: getattr(phase.totals, name) for name in (
                "latency_s", "latency_low_s", "latency_high_s", "trust", "trust_from", "device_s", "host_s", "flops",
                "read_bytes", "write_bytes", "launches", "bound", "tokens_per_s",
            )},
        }
        for phase in prediction.phases
    ]  # fmt: skip


def assert_equal_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for row, right in zip(found, expected, strict=True):
        assert row == {name: pytest.approx(v, rel=1e-12, abs=0) if type(v) is float else v for name, v in right.items()}


SIZES = st.lists(st.integers(1, 3000), min_size=1, max_size=3, unique=True)


@settings(max_examples=25)
@given(
    batch=st.lists(st.integers(1, 300), min_size=1, max_size=3, unique=True),
    seq=SIZES | st.just([1]) | st.just([1, 7]),
    cache=SIZES | st.just([0]) | st.just([0, 5]),
    names=st.tuples(
        st.sampled_from(["distilgpt2", "gpt2-xl"]),
        st.sampled_from(["a100", "t4", "m1", "rtx4090"]),
        st.sampled_from(["fp32", "fp16"]),
        st.sampled_from(["sdpa", "eager"]),
        st.sampled_from(RUNTIMES),
    ),
    phase=st.sampled_from(["prefill", "decode", "both"]),
    logits=st.sampled_from(["all", "last"]),
    use_cache=st.booleans(),
)
def test_every_row_is_what_predict_says(
    batch: list[int], seq: list[int], cache: list[int], names: tuple[str, ...], phase: str, logits: str, use_cache: bool
) -> None:
    model, gpu, dtype, attn, runtime = names
    assume(gpu != "m1" or runtime not in GRAPHED)
    cache = cache if use_cache else [0]
    options = {"dtype": dtype, "attn": attn, "runtime": runtime, "phase": phase, "logits": logits}
    found = list(sweep(model, gpu, batch=batch, seq=seq, cache=cache, **options, use_cache=use_cache))
    expected = [
        row
        for b, s, c in product(batch, seq, cache)
        for row in expected_rows(predict(model, gpu, batch=b, seq=s, cache=c, **options, use_cache=use_cache), b, s, c)
    ]
    assert_equal_rows(found, expected)
    assert [list(row) for row in found] == [list(COLUMNS)] * len(found)


def test_what_no_graph_captures_is_left_out() -> None:
    """At batch 1 flash_attention_2 waits for the device; the other rows stay, and a line says why."""
    found = sweep("gpt2", "a100", batch="1,2", seq="1,64", attn="flash_attention_2", runtime="cuda-graph,eager")
    rows = [(row["runtime"], row["batch_size"], row["seq_len"]) for row in found]
    every = list(product(["cuda-graph", "eager"], [1, 2], [1, 64]))
    assert rows == [row for row in every if row != ("cuda-graph", 1, 64)]
    assert [warning.startswith("rows are left out: runtime: cuda-graph cannot") for warning in found.warnings] == [True]
    one = sweep("gpt2", "a100", attn="flash_attention_2,sdpa", runtime="cuda-graph")
    assert {row["attn"] for row in one} == {"sdpa"}
    assert "skipped 1 of 2: runtime: cuda-graph cannot" in one.warnings[0]
    with pytest.raises(InputError, match="cuda-graph cannot capture"):
        sweep("gpt2", "a100", attn="flash_attention_2", runtime="cuda-graph")


@settings(max_examples=15)
@given(
    batch=st.lists(st.integers(1, 50), min_size=1, max_size=2, unique=True),
    seq=st.lists(st.integers(1, 200), min_size=1, max_size=2, unique=True),
    cache=st.lists(st.integers(0, 200), min_size=1, max_size=2, unique=True),
    attn=st.sampled_from(["sdpa", "eager", "flash_attention_2"]),
    runtime=st.sampled_from(["eager", "compile"]),
    phase=st.sampled_from(["prefill", "both"]),
)
def test_every_kernel_row_is_what_predict_says(
    batch: list[int], seq: list[int], cache: list[int], attn: str, runtime: str, phase: str
) -> None:
    found = list(
        sweep("gpt2", "a100", batch=batch, seq=seq, cache=cache, attn=attn, runtime=runtime, phase=phase, kernels=True)
    )
    place = 0
    for b, s, c in product(batch, seq, cache):
        record = predict("gpt2", "a100", batch=b, seq=s, cache=c, attn=attn, runtime=runtime, phase=phase).to_dict()
        for part in record["phases"]:
            for kernel in part["kernels"]:
                row = found[place]
                place += 1
                assert list(row) == list(KERNEL_COLUMNS)
                assert (row["batch_size"], row["seq_len"], row["cache_len"], row["phase"]) == (b, s, c, part["phase"])
                assert row["pass_latency_s"] == pytest.approx(part["totals"]["latency_s"], rel=1e-12)
                for name in KERNEL_COLUMNS[
                    KERNEL_COLUMNS.index("name") : KERNEL_COLUMNS.index("arithmetic_intensity") + 1
                ]:
                    value = kernel[name]
                    assert row[name] == (pytest.approx(value, rel=1e-12) if type(value) is float else value)
    assert place == len(found)


def test_a_large_axis_comes_in_blocks_in_order() -> None:
    found = list(sweep("gpt2", "a100", batch="1-3", seq="1-300", cache="0-299").blocks())
    assert len(found) > 5
    order = [
        point for block in found for point in zip(*(block.flat(f"{n}").tolist() for n in COLUMNS[1:4]), strict=True)
    ]
    assert order == list(product(range(1, 4), range(1, 301), range(300)))


def test_columns_are_the_rows() -> None:
    """As arrays of one length, in kinds that pandas, polars and pyarrow know."""
    for kernels in (False, True):
        found = sweep("gpt2,gpt2-xl", "a100", batch="1-3", seq="8,1", cache="0,16", phase="both", kernels=kernels)
        columns, rows = found.columns(), list(found)
        assert list(columns) == list(rows[0])
        for name, values in columns.items():
            assert values.shape == (len(rows),)
            assert values.tolist() == [row[name] for row in rows]


def test_whole_numbers_too_large_for_floats_are_floats() -> None:
    """An integer that is printed is exact; beyond 2^53 a grid's are not."""
    for batch, kind in ((1, int), (4097, float)):
        (row,) = sweep("gpt2-xl", "a100", batch=batch, seq=1023)
        exact = predict("gpt2-xl", "a100", batch=batch, seq=1023, phase="prefill").phases[0].totals.flops
        assert type(row["flops"]) is kind
        assert row["flops"] == pytest.approx(exact, rel=1e-15)
        assert (exact > 2**53) == (kind is float)


def test_rows_are_made_as_they_are_asked_for() -> None:
    rows = sweep("gpt2", "a100", batch="1-100000", seq="1-1000", cache="0-900")  # 9e10 points
    assert [row["cache_len"] for row in islice(rows, 3)] == [0, 1, 2]


# ---------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,8", [1, 2, 8]),
        ("1-64*2", [1, 2, 4, 8, 16, 32, 64]),
        ("1-60*2", [1, 2, 4, 8, 16, 32]),
        ("128-512+128", [128, 256, 384, 512]),
        ("3-5", [3, 4, 5]),
        ("7-7", [7]),
        ("16, 1-2", [16, 1, 2]),
        ([4, "1-2"], [4, 1, 2]),
        (range(1, 3), [1, 2]),
        (9, [9]),
        (None, [1]),
    ],
)
def test_notation(text: object, values: list[int]) -> None:
    assert make_grid(model="gpt2", gpu="a100", batch=text).batch.tolist() == values


@pytest.mark.parametrize(
    "text",
    ["", ",", "1,,2", "8-1", "1-8*1", "0-8", "1-8+0", "-1", "1.5", "x", "1-", "1-2*3*4", "9" * 30, "1-9999999999",
     "1-1000000000", [], True, 1.0, "\u0661"],
)  # fmt: skip
def test_bad_notation(text: object) -> None:
    with pytest.raises(InputError, match="batch") as found:
        make_grid(model="gpt2", gpu="a100", batch=text)
    assert str(found.value).isprintable()


def test_a_range_says_what_is_wrong_with_it() -> None:
    for text, hint in (("64-1", "write 1-64"), ("0-64*2", "whole numbers from 1"), (f"1-{MAX_AXIS + 1}", "10,000,001")):
        with pytest.raises(InputError, match=hint):
            make_grid(model="gpt2", gpu="a100", batch=text)
    with pytest.raises(InputError, match="never ends"):
        make_grid(model="gpt2", gpu="a100", cache="0-64*2")


def test_values_given_twice_count_once() -> None:
    grid = make_grid(model="gpt2,gpt2", gpu="a100", batch="4,1-4,4")
    assert grid.batch.tolist() == [4, 1, 2, 3]
    assert grid.model == ("gpt2",)
    assert [note.split(":")[0] for note in grid.notes] == ["model", "batch"]
    combinations, notes = plan(make_grid(model="gpt2", gpu="a100,a100-sxm-80gb"))
    assert len(combinations) == 1
    assert "two names" in notes[0]


# ---------------------------------------------------------------------------------------------- formats and order


def test_top_over_many_blocks() -> None:
    found = sweep("gpt2,gpt2-xl", "a100,t4,l4", batch="1-20", seq="1-50", cache="0-29")
    values = found.columns()["latency_s"].tolist()
    top = [float(v) for block in ordered(found.blocks(), "-latency_s", 7) for v in block.flat("latency_s")]
    assert top == sorted(values, reverse=True)[:7]


# ---------------------------------------------------------------------------------------------- what-ifs


def test_a_changed_model_is_the_model_of_that_size() -> None:
    changed = package.load_model("gpt2")
    from gpt2cost.table.config import change_model

    medium = package.load_model("gpt2-medium")
    changed = change_model(changed, {"n_layer": medium.n_layer, "n_embd": "1024", "n_head": 16})
    same = set(Model.__dataclass_fields__) - {"name", "changes"}
    assert {name: getattr(changed, name) for name in same} == {name: getattr(medium, name) for name in same}
    assert changed.parameters == medium.parameters


@pytest.mark.parametrize(
    ("path", "value", "hint"),
    [
        ("memory.bandwith", "4 TB/s", "did you mean 'bandwidth'"),
        ("memory.bandwidth", "4", "a byte rate"),
        ("memory.bandwidth.x", "4 TB/s", "has no keys"),
        ("memory", "4 TB/s", "a mapping"),
        ("mem", "1", "unknown key"),
        ("", "1", "unknown key"),
        ("memory.", "1", "unknown key"),
        ("provenance.memory", "x", "unknown key"),
        ("compute.peak.fp17", "600 TFLOP/s", "did you mean 'fp16'"),
        ("compute.units", "0", "above 0"),
        ("model.gemm.fp16x.efficiency", "1", "did you mean 'fp16'"),
        ("host.op", "[1", "a value as in a hardware file"),
        ("model.memory.write_weight", "!x 3", "tags"),
        ("model.memory.write_weight", "nan", "a plain number"),
        ("model.gemm.fp16.residual", "1000.0", "from 1e-06 to 10"),
        ("model.gemm.fp16.overlap", "1.0e-300", "a plain number above 0"),
        ("model.memory.write_weight", "1.0e+308", "a plain number above 0"),
        ("model.memory.write_weight", "1e0", "a power of ten needs a point and a sign"),
        ("model.gemm.tf32.efficiency", "0.5", "is not set, so that it can only be set as a whole"),
    ],
)
def test_a_device_refuses_what_its_file_would(path: str, value: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint) as found:
        change_hardware(package.load_hardware("a100"), {path: value})
    assert str(found.value).startswith("hw-set: ")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("path", "value", "get", "expected"),
    [
        ("memory.bandwidth", "4 TB/s", lambda hw: hw.memory.bandwidth_bytes_per_s, 4e12),
        ("compute.peak.bf16", "600 TFLOP/s", lambda hw: hw.compute.peak_flop_per_s["bf16"], 6e14),
        ("model.gemm.fp16.efficiency", "0.5", lambda hw: hw.model.gemm["fp16"].efficiency, 0.5),
        ("model.gemm.fp16.tiles", "[128x128]", lambda hw: hw.model.gemm["fp16"].tiles, ("128x128",)),
        ("host.op", "1 us", lambda hw: hw.host.op_s, 1e-6),
        ("model.gemm.fp16.gemv", "null", lambda hw: hw.model.gemm["fp16"].gemv_s, None),
    ],
)
def test_a_changed_device(path: str, value: str, get: Any, expected: Any) -> None:
    device = package.load_hardware("a100")
    changed = change_hardware(device, {path: value})
    assert get(changed) == expected != get(device)
    assert changed.name == f"{device.name}[{path}={value}]"
    assert changed.evidence == ()
    assert change_hardware(device, {}) is device


# ---------------------------------------------------------------------------------------------- how it ends


def test_memory_does_not_grow_with_the_grid() -> None:
    """What a block holds is bounded, whatever the grid's shape."""
    for axes, kernels in (
        ({"batch": "1-100000"}, False),
        ({"seq": "1-100000"}, False),
        ({"cache": "0-99999"}, True),
        ({"batch": "1-50", "cache": "0-4999"}, True),
    ):
        blocks = list(islice(sweep("gpt2", "a100", **axes, kernels=kernels).blocks(), 2))
        assert len(blocks) == 2
        assert all(0 < block.rows <= 2 * BLOCK_ROWS for block in blocks)


def test_two_devices_of_one_name_are_a_warning() -> None:
    """Their rows cannot be told apart."""
    device = package.load_hardware("a100")
    other = dataclasses.replace(device, host=device.host.scaled(2.0))
    assert sweep("gpt2", [device, other]).warnings == (f"gpu: {device.name} names several; their rows look alike",)
