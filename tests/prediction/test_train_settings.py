"""The arithmetic of a training batch and of a run, against numbers worked out by hand; and every refusal."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2cost.errors import InputError
from gpt2cost.prediction.train_settings import Batch, RunLength, check_batch, check_run, check_train_how, with_dropout
from gpt2cost.table.config import change_model, load_model

PIPELINE_TOKENS = 524_288
"""Of one step of GPT-2's usual pipeline: 2**19."""


def batch_of(seq: int = 1024, gpus: int = 1, nodes: int = 1, **given: Any) -> Batch:
    return check_batch(given, seq, gpus, nodes)


@pytest.mark.parametrize(("gpus", "grad_accum"), [(1, 8), (8, 1), (2, 4)])
def test_the_pipeline(gpus: int, grad_accum: int) -> None:
    """64 x 1024 a micro-step: 8 of them on one GPU, 1 on eight."""
    batch = batch_of(gpus=gpus, micro_batch=64, global_tokens=PIPELINE_TOKENS)
    assert batch == Batch(64, 1024, grad_accum, gpus, 1)
    assert (batch.global_batch, batch.global_tokens) == (512, PIPELINE_TOKENS)


@pytest.mark.parametrize(
    "given",
    [
        {"micro_batch": 16, "grad_accum": 4},
        {"micro_batch": 16, "global_batch": 512},
        {"micro_batch": 16, "global_tokens": PIPELINE_TOKENS},
        {"grad_accum": 4, "global_batch": 512},
        {"grad_accum": 4, "global_tokens": PIPELINE_TOKENS},
        {"micro_batch": 16, "grad_accum": 4, "global_batch": 512, "global_tokens": PIPELINE_TOKENS},
    ],
)
def test_any_two_determine_the_rest(given: dict[str, int]) -> None:
    assert batch_of(gpus=8, **given) == Batch(16, 1024, 4, 8, 1)


def test_tokens_in_thousands_millions_and_billions() -> None:
    for tokens in ("0.5Mi", "512Ki", "524288", 524288.0):
        assert batch_of(gpus=8, micro_batch=16, global_tokens=tokens) == Batch(16, 1024, 4, 8, 1)
    assert check_run(PIPELINE_TOKENS, tokens="10B") == check_run(PIPELINE_TOKENS, tokens=10e9)


def test_what_is_left_out_is_one() -> None:
    assert batch_of() == Batch(1, 1024, 1, 1, 1)
    assert batch_of(grad_accum=3) == Batch(1, 1024, 3, 1, 1)
    assert batch_of(micro_batch=5, gpus=16, nodes=2) == Batch(5, 1024, 1, 16, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"gpus": 8, "micro_batch": 16, "grad_accum": 5, "global_tokens": 524288},
            "global_tokens: 524288 / (8 GPUs x 16 sequences x 1024 tokens) = 4 micro-steps, but grad_accum is 5",
        ),
        (
            {"gpus": 8, "micro_batch": 16, "global_batch": 100},
            "global_batch: 100 / (8 GPUs x 16 sequences) = 0.78125 micro-steps, which is no whole number; 128 would do",
        ),
        (
            {"micro_batch": 1, "gpus": 3, "global_batch": 100},
            "global_batch: 100 / (3 GPUs x 1 sequence) = 33.3333 micro-steps, which is no whole number;"
            " 99 and 102 would do",
        ),
        (
            {"grad_accum": 3, "global_tokens": 10240},
            "global_tokens: 10240 / (1 GPU x 3 micro-steps x 1024 tokens) = 3.33333 sequences, which is no whole"
            " number; 9216 and 12288 would do",
        ),
        (
            {"micro_batch": 2, "global_batch": 4, "global_tokens": 8192},
            "global_tokens: 8192 / 1024 tokens = 8 sequences, but global_batch is 4",
        ),
        ({"global_batch": 4}, "global_batch: leaves micro_batch and grad_accum open; give one of them"),
        ({"gpus": 12, "nodes": 5}, "nodes: 12 GPUs / 5 = 2.4 GPUs a node, which is no whole number"),
        ({"micro_batch": 0}, "micro_batch: expected an integer from 1 to 1000000000, got 0"),
        ({"gpus": 0}, "gpus: expected an integer from 1"),
        ({"nodes": 1.5}, "nodes: expected an integer from 1"),
        ({"seq": "many"}, "seq: expected an integer from 1"),
    ],
)
def test_a_batch_that_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        batch_of(**given)
    assert str(error.value).startswith(message)


def test_the_length_of_the_pipeline() -> None:
    """10 B tokens are 19,073 steps, between which 20 batches are validated 78 times: at 0, 250, ..., 19000 and the
    last, 19072."""
    run = check_run(PIPELINE_TOKENS, tokens=10e9, eval_every=250)
    assert run == RunLength(19_073, 250, 20)
    assert run.evaluations == 78
    assert check_run(PIPELINE_TOKENS, tokens=10**10, steps=19_073).steps == 19_073
    assert check_run(PIPELINE_TOKENS).evaluations == 0


@pytest.mark.parametrize(("steps", "every", "evaluations"), [(1, 1, 1), (1, 5, 1), (5, 5, 2), (6, 5, 2), (7, 5, 3)])
def test_evaluations(steps: int, every: int, evaluations: int) -> None:
    """As the pipeline's loop has it: `if step % every == 0 or step == steps - 1`."""
    run = check_run(1, steps=steps, eval_every=every)
    assert run.evaluations == evaluations == sum(step % every == 0 or step == steps - 1 for step in range(steps))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"tokens": 10e9, "steps": 5},
            "tokens: 10000000000 / 524288 a step = 19073.5 steps, but steps is 5; give one of the two",
        ),
        ({"tokens": 1000}, "tokens: 1000 are less than the 524288 of one step"),
        ({"tokens": 1e6 + 0.5}, "tokens: expected a whole number such as 524288, 10e9, 0.5M or 10B, got 1000000.5"),
        ({"tokens": float("nan")}, "tokens: expected a whole number"),
        ({"tokens": "10Q"}, "tokens: expected a whole number such as 524288, 10e9, 0.5M or 10B, got '10Q'"),
        ({"tokens": True}, "tokens: expected a whole number"),
        ({"steps": 0}, "steps: expected an integer from 1"),
        ({"steps": 5, "eval_batches": 20}, "eval_batches: needs eval_every"),
        ({"eval_every": 250}, "eval_every: needs the length of the run, steps or tokens"),
        ({"price_per_hour": 2.0}, "price_per_hour: needs the length of the run, steps or tokens"),
        ({"steps": 5, "price_per_hour": -1}, "price_per_hour: expected a number above 0"),
    ],
)
def test_a_run_that_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        check_run(PIPELINE_TOKENS, **given)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "fp16"}, "precision: expected one of fp32, tf32, bf16-mixed, fp16-mixed, bf16, got 'fp16'"),
        ({"runtime": "cuda-graph"}, "runtime: expected one of eager, compile, got 'cuda-graph'"),
        ({"optimizer": "adam"}, "optimizer: expected one of adamw, adamw-fused, got 'adam'"),
        ({"checkpointing": "all"}, "checkpointing: expected one of none, block"),
        ({"zero": 4}, "zero: expected one of 0, 1, 2, 3, fsdp, got '4'"),
        ({"zero": True}, "zero: expected one of 0, 1, 2, 3, fsdp, got True"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm: expected a number above 0, got 0.0"),
        ({"compile_inside_ddp": True}, "compile_inside_ddp: needs runtime compile, got eager"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        check_train_how(**given)
    assert str(error.value).startswith(message)


def test_stages_of_zero() -> None:
    assert [check_train_how(zero=stage).zero for stage in (0, "1", 2, "fsdp")] == [0, 1, 2, 3]


def test_dropout_sets_all_three() -> None:
    gpt2 = load_model("gpt2")
    assert with_dropout(gpt2, None) is gpt2
    dropped = with_dropout(gpt2, 0.2)
    assert (dropped.embd_pdrop, dropped.attn_pdrop, dropped.resid_pdrop) == (0.2, 0.2, 0.2)
    with pytest.raises(InputError, match=r"^dropout: expected a probability from 0 to below 1, got 1$"):
        with_dropout(gpt2, 1)
    changed = change_model(gpt2, {"attn_pdrop": "0.0"})
    with pytest.raises(InputError, match=r"^dropout: 0.1 is for all three, but set gives attn_pdrop=0.0"):
        with_dropout(changed, 0.1)
