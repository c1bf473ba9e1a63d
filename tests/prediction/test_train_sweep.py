"""Sweeps of training: every row is the single point that it stands for, and what cannot run is left out."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2cost import InputError, compare_training, sweep_training, train
from gpt2cost.prediction import train_sweep
from gpt2cost.prediction.train_sweep import TRAIN_COLUMNS, make_train_grid

SMALL: dict[str, Any] = {"model": "distilgpt2", "gpu": "a100"}
GRIDS: dict[str, dict[str, Any]] = {
    "sizes": {"micro_batch": "1,4,32", "seq": "16,256", "grad_accum": "1,2,5"},
    "gpus": {"gpus": "1,2,8", "micro_batch": "2,8", "grad_accum": "1,3"},
    "nodes": {"gpus": "8,16", "nodes": "1,2", "micro_batch": 4},
    "tokens": {"gpus": "1,4", "micro_batch": "8,16", "seq": 1024, "global_tokens": 131072},
    "accumulation and batch": {"grad_accum": "1,2", "global_batch": "8,16", "seq": 64},
    "precisions": {"precision": "fp32,tf32,bf16-mixed,fp16-mixed,bf16", "seq": 64, "micro_batch": "1,2"},
    "compiled": {"gpus": 4, "runtime": "compile", "micro_batch": "1,16", "optimizer": "adamw-fused"},
    "inside": {"gpus": 4, "runtime": "compile", "micro_batch": "1,16", "compile_inside_ddp": True},
    "nanogpt": {"impl": "hf,nanogpt", "micro_batch": "1,2", "seq": 128},
    "zero": {"gpus": "2,8", "zero": "0,1,2,3", "micro_batch": 4, "grad_accum": "1,2"},
    "stages as numbers": {"gpus": 8, "zero": [0, 1, "fsdp"]},
    "checkpointing": {"checkpointing": "none,block", "micro_batch": "1,4", "seq": 128},
    "unclipped": {"clip_grad_norm": "none", "dropout": 0.0, "micro_batch": "1,2"},
}


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
def test_a_sweep_is_the_loop_of_single_points(axes: dict[str, Any]) -> None:
    rows = list(sweep_training(**{**SMALL, **axes}))
    assert rows
    assert all(tuple(row) == TRAIN_COLUMNS for row in rows)
    for row in rows:
        same = ("gpus", "nodes", "micro_batch", "grad_accum", "precision", "attn", "runtime", "impl", "optimizer",
                "compile_inside_ddp", "clip_grad_norm", "dropout", "checkpointing", "zero")  # fmt: skip
        one = train(row["model"], row["gpu"], seq=row["seq_len"], **{name: row[name] for name in same})
        expected = {name: getattr(one.step, name, None) for name in TRAIN_COLUMNS}
        expected |= {"total_bytes": one.memory.total_bytes, "fits": one.memory.fits, "trust": one.trust}
        for name, value in expected.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-15), name
            elif value is not None:
                assert row[name] == value, name
        batch = row["micro_batch"] * row["grad_accum"] * row["gpus"]
        assert (row["global_batch"], row["global_tokens"]) == (batch, batch * row["seq_len"])


def test_tokens_with_suffixes() -> None:
    for tokens in ("64Ki,1Mi", ["64Ki", 1048576]):
        grid = make_train_grid(model="gpt2", gpu="a100", micro_batch=16, global_tokens=tokens)
        axis = grid.axes["global_tokens"]
        assert axis is not None
        assert list(axis) == [65536, 1048576]


def test_no_clipping_is_none_as_in_train() -> None:
    """`None` says that gradients are not clipped, not that it is left open."""
    (row,) = sweep_training(**SMALL, clip_grad_norm=None)
    assert (row["clip_grad_norm"], row["clip_s"]) == (None, 0)
    (clipped,) = sweep_training(**SMALL)
    assert clipped["clip_grad_norm"] == 1.0


def test_what_does_not_divide_is_left_out() -> None:
    sweep = sweep_training(**{**SMALL, "gpus": "1,8,16", "micro_batch": "8,100", "global_tokens": 524288})
    assert [(row["gpus"], row["micro_batch"]) for row in sweep] == [(1, 8), (8, 8)]
    (warning,) = sweep.warnings
    assert warning.startswith("rows are left out: 4 of 6, such as one where global_tokens: 524288 / (1 GPU x 100 seq")


def test_what_a_device_cannot_run_is_left_out() -> None:
    sweep = sweep_training(model="gpt2", gpu="a100,t4", precision="bf16-mixed,fp16-mixed")
    assert [(row["gpu"], row["precision"]) for row in sweep] == [
        ("a100-sxm-80gb", "bf16-mixed"), ("a100-sxm-80gb", "fp16-mixed"), ("t4", "fp16-mixed"),
    ]  # fmt: skip
    assert sweep.warnings == ("skipped 1 of 4: precision: t4 has no bf16; it runs fp32, fp16-mixed",)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"batch": 1}, "batch: unknown in a sweep of training; did you mean 'micro_batch'?"),
        ({"precision": "fp16"}, "precision: expected one of fp32, tf32, bf16-mixed, fp16-mixed, bf16, got 'fp16'"),
        ({"micro_batch": "0-4"}, "micro_batch: expected whole numbers from 1"),
        ({"global_batch": "8,16"}, "global_batch: leaves micro_batch and grad_accum open"),
        ({"zero": "1"}, "zero: stage 1 shards over several GPUs, and gpus is 1"),
        ({"gpus": 16}, "gpus: a node has 8 at most, got 16"),
        ({"compile_inside_ddp": True}, "compile_inside_ddp: needs runtime compile, got eager"),
        ({"micro_batch": 3, "global_batch": 8}, "= 2.66667 micro-steps, which is no whole number"),
    ],
)
def test_refused(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        sweep_training(**{**SMALL, **axes})
    assert message in str(error.value)


def test_columns() -> None:
    columns = sweep_training(**{**SMALL, "micro_batch": "1-64*2", "gpus": "1,8"}, only_fitting=True).columns()
    assert tuple(columns) == TRAIN_COLUMNS
    assert {len(values) for values in columns.values()} == {14}
    assert columns["fits"].all()
    valid = sweep_training(**{**SMALL, "seq": "1024,2048"}, only_valid=True)
    assert [row["seq_len"] for row in valid] == [1024]


def test_a_comparison_is_of_single_points() -> None:
    comparison = compare_training("distilgpt2", "a100,h100", micro_batch=4, seq=64, precision="fp32,bf16-mixed")
    labels = [candidate.label for candidate in comparison.candidates]
    assert labels == [f"{gpu} {name}" for gpu in ("a100-sxm-80gb", "h100-sxm-80gb") for name in ("fp32", "bf16-mixed")]
    for candidate in comparison.candidates:
        gpu, precision = candidate.label.split()
        one = train("distilgpt2", gpu, micro_batch=4, seq=64, precision=precision)
        assert candidate.training.step.step_s == one.step.step_s
    assert {row["label"] for row in comparison.rows()} == set(labels)
    assert comparison.rows()[0]["tokens_ratio"] == 1
    assert "TrainComparison of a100" in repr(comparison)


@pytest.mark.parametrize(("points", "micro_steps"), [(1, 1), (5, 2), (100, 1), (7, 100)])
@pytest.mark.parametrize(
    "axes",
    [
        {"gpus": "1,8", "micro_batch": "1,2", "seq": "8,16", "grad_accum": "1,2"},
        {"gpus": "1,2", "grad_accum": "1,2", "seq": "8", "global_batch": "8,16"},
    ],
)
def test_rows_do_not_depend_on_blocks(
    axes: dict[str, Any], points: int, micro_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(sweep_training("distilgpt2", "a100", **axes))
    monkeypatch.setattr(train_sweep, "POINTS", points)
    monkeypatch.setattr(train_sweep, "MICRO_STEPS", micro_steps)
    sweep = sweep_training("distilgpt2", "a100", **axes)
    assert len(list(sweep.blocks())) > 1
    for one, other in zip(whole, sweep, strict=True):
        for name in TRAIN_COLUMNS:
            assert one[name] == (pytest.approx(other[name]) if isinstance(one[name], float) else other[name])


def test_no_dropout_is_no_default() -> None:
    (row,) = sweep_training("distilgpt2", "a100", micro_batch=2, seq=64, dropout=0.0)
    assert row["dropout"] == 0
    assert row["step_s"] == train("distilgpt2", "a100", micro_batch=2, seq=64, dropout=0.0).step.step_s
    assert row["step_s"] < train("distilgpt2", "a100", micro_batch=2, seq=64).step.step_s
