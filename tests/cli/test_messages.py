"""What is said to someone who asks for what there is not: where it is instead, in one line."""

from __future__ import annotations

import pytest
from helpers import PREDICT, Call, assert_refused

from gpt2cost.units import parse_quantity


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["predict", "--model", "gpt2", "--gpu", "cpu"], "gpt2cost calibrate --device cpu -o my-cpu.yaml"),
        ([*PREDICT, "--set", "dropout=0"], "dropout does nothing in inference"),
        ([*PREDICT, "--set", "bias=false"], "is nanoGPT's: --impl nanogpt"),
        (["kernel", "gelu_new", "--gpu", "t4"], "eight elementwise kernels"),
        (["predict", "--model", "gpt2"], "gpt2cost hardware list"),
        ([*PREDICT, "--encoder-len", "5"], "error: --encoder-len: goes with add_cross_attention"),
        (
            [*PREDICT, "--set", "add_cross_attention=true", "--encoder-len", "-3"],
            "error: --encoder-len: expected a whole number from 0",
        ),
        (
            [*PREDICT, "--weights", "nf4,int8"],
            "error: --weights: expected one of dtype, int8, nf4, fp4, got 'nf4,int8'",
        ),
        (["sweep", *PREDICT[1:], "--encoder-len", "5"], "error: --encoder-len: goes with add_cross_attention"),
        ([*PREDICT, "--set", "n_layer=6,12"], "got '12'; sweep and compare take several values of n_layer"),
        ([*PREDICT, "--set", "n_layer=6,n_embd"], "expected key=value, got 'n_embd'"),
        (["predict", "--model", "gpt2", "--gpu", "x9"], "gpt2cost hardware list"),
    ],
)
def test_a_refusal_says_where_to_go(arguments: list[str], named: str, gpt2cost: Call) -> None:
    result = gpt2cost(*arguments)
    assert_refused(result, named)
    assert len(result.err) < 170


def test_what_dropout_is_named_runs(gpt2cost: Call) -> None:
    """The advice of a refusal can be followed."""
    assert gpt2cost(*PREDICT, "--set", "bias=false", "--impl", "nanogpt").code == 0
    train = ("train", "--model", "gpt2", "--gpu", "a100", "--seq", "8")
    assert gpt2cost(*train, "--dropout", "0").out == gpt2cost(*train, "--dropout", "0.0").out
    assert gpt2cost(*train, "--set", "attn_pdrop=0").err == ""


@pytest.mark.parametrize("key", ["attn_pdrop", "embd_pdrop", "resid_pdrop"])
def test_a_probability_of_dropout_changes_nothing(key: str, gpt2cost: Call) -> None:
    for command in (["predict"], ["generate", "--new-tokens", "2"]):
        plain, other = ([*command, "--model", "gpt2", "--gpu", "t4", *more] for more in ([], ["--set", f"{key}=0.5"]))
        before, after = gpt2cost(*plain), gpt2cost(*other)
        assert after.err == f"warning: set: {key}: dropout does nothing in inference, where it is the identity\n"
        kept = [line for line in after.out.splitlines()[1:] if not line.startswith("warning: ")]
        assert kept == before.out.splitlines()[1:]


def test_figures_of_a_kernel_have_their_units(gpt2cost: Call) -> None:
    sizes = ("--m", "4096", "--n", "3072", "--k", "768")
    text = gpt2cost("kernel", "gemm", "--gpu", "t4", *sizes).out
    figures = dict(line.split(": ", 1) for line in text.splitlines())
    assert figures["flops"] == "19.3 GFLOP"
    moved = parse_quantity(figures["read"], "B") + parse_quantity(figures["write"], "B")
    assert figures["arithmetic_intensity"] == f"{2 * 4096 * 3072 * 768 / moved:.0f} FLOP/B"
    assert "elementwise" in gpt2cost("kernel", "gelu", "--gpu", "t4", "--elements", "5").out
