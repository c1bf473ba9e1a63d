"""Published training steps: what the words of a row say, and which rows are passed over."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from helpers import ROOT

from gpt2cost import InputError
from gpt2cost.measure.training_rows import COLUMNS, TrainingRow, read_training_rows

MEASUREMENTS = ROOT.parent / "shared" / "measurements"

SURVEY = {
    "hardware": "1x A100 SXM 80GB", "software": "torch 2.8.0, torch.compile, fused AdamW, clip 1.0, TF32 on",
    "attn_impl": "sdpa is_causal (flash)", "dtype": "bf16 autocast", "model": "gpt2-124M (vocab 50304)",
    "phase": "train step", "batch": "524288 tok, B=64 ga 8", "seq": "1024", "metric": "step time", "value": "2509",
    "unit": "ms", "trust": "3", "source": "survey", "note": "",
}  # fmt: skip


def rows_of(folder: Path, *changes: dict[str, str]) -> tuple[list[TrainingRow], dict[str, int]]:
    """What is read of rows like the survey's with some cells changed."""
    with (folder / "published.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sorted(COLUMNS))
        writer.writeheader()
        writer.writerows([{**SURVEY, **cells} for cells in changes])
    rows, skipped = read_training_rows(folder)
    return rows, dict(skipped)


def test_a_row_in_words_is_a_step(tmp_path: Path) -> None:
    (row,), skipped = rows_of(tmp_path, {})
    assert not skipped
    assert (row.gpu, row.gpus, row.impl, row.model, row.vocab_size) == ("a100-sxm-80gb", 1, "nanogpt", "gpt2", 50304)
    assert (row.precision, row.attn, row.runtime, row.optimizer) == ("bf16-mixed", "sdpa", "compile", "adamw-fused")
    assert (row.micro_batch, row.seq, row.grad_accum, row.clip_grad_norm, row.measured_s) == (64, 1024, 8, 1.0, 2.509)
    assert row.tokens == 524288


@pytest.mark.parametrize(
    ("cells", "name", "value"),
    [
        ({"dtype": "fp32 (TF32 off)"}, "precision", "fp32"),
        ({"dtype": "tf32"}, "precision", "tf32"),
        ({"dtype": "fp16 autocast"}, "precision", "fp16-mixed"),
        ({"attn_impl": "math (q@k, mask add, softmax, @v)"}, "attn", "eager"),
        ({"software": "torch 2.5.1, eager, foreach AdamW, clip 1.0"}, "runtime", "eager"),
        ({"software": "compile then DDP, AdamW foreach (the fused flag is printed, not passed)"}, "optimizer", "adamw"),
        ({"software": "compile then DDP"}, "compile_inside_ddp", True),
        ({"software": "torch.compile"}, "clip_grad_norm", None),
        ({"model": "gpt2-124M (no biases, vocab 50304)"}, "bias", False),
        ({"model": "gpt2-medium"}, "model", "gpt2-medium"),
        ({"hardware": "8x A100 SXM (40 or 80 GB not printed)", "batch": "524288 tok, B=16 per GPU, ga 4"}, "gpus", 8),
        ({"hardware": "H100 80GB HBM3 (104-core VM)"}, "gpu", "h100-sxm-80gb"),
        ({"hardware": "RTX 3090 Ti"}, "gpu", "rtx3090ti"),
        ({"batch": "524288 tok (B=64/GPU)"}, "grad_accum", 8),
        ({"batch": "B=8, no accumulation"}, "grad_accum", 1),
        ({"unit": "tok/s", "value": "262144"}, "measured_s", 2.0),
        ({"unit": "samples/s", "value": "128"}, "measured_s", 4.0),
        ({"hardware": "8x A100-80GB SXM", "batch": "mb 64 per GPU", "metric": "throughput per GPU", "unit": "tok/s",
          "value": "65536"}, "measured_s", 1.0),
    ],
)  # fmt: skip
def test_words_of_a_row(tmp_path: Path, cells: dict[str, str], name: str, value: object) -> None:
    (row,), _ = rows_of(tmp_path, cells)
    assert getattr(row, name) == value


def test_memory_is_what_was_allocated(tmp_path: Path) -> None:
    """The driver sees what the allocator keeps too, and the context."""
    memory = {"phase": "train memory", "unit": "MiB", "value": "2048"}
    (row,), skipped = rows_of(
        tmp_path,
        {**memory, "metric": "peak max_memory_allocated"},
        {**memory, "metric": "device memory used (nvidia-smi)"},
    )
    assert (row.timed, row.measured_bytes) == ("memory", 2**31)
    assert sum(skipped.values()) == 1


def test_a_ladder_keeps_what_it_has_added(tmp_path: Path) -> None:
    steps = ("PyTorch bf16 autocast eager", "PyTorch bf16 compile", "PyTorch +vocab 50304", "PyTorch +fused AdamW")
    rows, _ = rows_of(tmp_path, *({"software": step, "dtype": "see software", "model": "gpt2-124M"} for step in steps))
    assert [row.precision for row in rows] == ["bf16-mixed"] * 4
    assert [row.runtime for row in rows] == ["eager", "compile", "compile", "compile"]
    assert [row.vocab_size for row in rows] == [None, None, 50304, 50304]
    assert [row.optimizer for row in rows] == ["adamw", "adamw", "adamw", "adamw-fused"]


def test_what_ran_other_code_is_passed_over_and_said(tmp_path: Path) -> None:
    rows, skipped = rows_of(
        tmp_path,
        {"software": "llm.c C/CUDA + cuDNN flash"},
        {"software": "Megatron-LM"},
        {"hardware": "RTX 9999"},
        {"batch": "not given"},
        {"phase": "kernel"},
        {},
    )
    assert len(rows) == 1
    assert len(skipped) == 4
    assert "no hardware file for rtx 9999" in skipped


@pytest.mark.parametrize("name", ["value", "trust"])
@pytest.mark.parametrize("text", ["-3", "0", "1e999", "nan 1"])
def test_a_wrong_number_is_refused_with_file_and_line(name: str, text: str, tmp_path: Path) -> None:
    """Catches a division by 0, and a rate below 0 that becomes a time."""
    with pytest.raises(InputError) as error:
        rows_of(tmp_path, {}, {name: text})
    (path,) = tmp_path.glob("*.csv")
    assert str(error.value).startswith(f"{path}:3: {name}: expected a ")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder"):
        read_training_rows(tmp_path / "none")


@pytest.mark.skipif(not MEASUREMENTS.is_dir(), reason="no measurements beside the checkout")
def test_the_published_rows() -> None:
    """The ladder and the single-GPU survey are read as their sources print them, and each row is accounted for."""
    rows, skipped = read_training_rows(MEASUREMENTS)
    survey = [row for row in rows if row.source.startswith("GPU survey")]
    assert {row.timed for row in survey} == {"step"}
    assert {row.tokens for row in survey} == {524288}
    assert {(row.gpu, row.micro_batch): row.measured_s for row in survey}["a100-sxm-80gb", 64] == 2.50902
    ladder = [row for row in rows if row.source.startswith("build-nanogpt video")]
    assert [round(1e3 * row.measured_s) for row in ladder] == [1000, 333, 300, 130, 96, 93, 90]
    assert [row.precision for row in ladder] == ["fp32", "tf32", *["bf16-mixed"] * 5]
    assert [row.runtime for row in ladder] == ["eager"] * 3 + ["compile"] * 4
    assert [row.attn for row in ladder] == ["eager"] * 4 + ["sdpa"] * 3
    assert [row.vocab_size for row in ladder] == [None] * 5 + [50304] * 2
    parts = [row for row in rows if row.timed == "backward"]
    assert {row.gpu for row in parts} == {"h100-sxm-80gb", "a100-pcie-80gb", "l4", "v100-pcie-32gb"}
    published = 0
    for path in MEASUREMENTS.glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            for cells in csv.DictReader(file):
                phase = cells.get("phase", "")
                published += phase.startswith(("train step", "train memory")) or cells.get("mode") == "training"
    assert published == len(rows) - 2 * len(parts) + sum(skipped.values())
