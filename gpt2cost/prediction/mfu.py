"""Model FLOPs utilisation: what one step's MFU is by the conventions in use.

All have the form FLOPs per token * tokens/s per GPU / peak; they differ in what a token is charged with. N: all
parameters, L layers of width C, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpt2cost.prediction.one_pass import KernelCost, as_python
from gpt2cost.prediction.settings import Number
from gpt2cost.prediction.train import Training, flops_per_token

PRODUCTS = ("gemm", "bmm", "attention")
"""Kinds of kernels that `torch.utils.flop_counter` counts."""


@dataclass(frozen=True)
class FlopsCount:
    """A convention: FLOPs of forward and backward per token, and the step's MFU by it."""

    convention: str
    formula: str
    flops_per_token: Number
    mfu: Number


def mfu_conventions(training: Training) -> tuple[FlopsCount, ...]:
    """The step by each convention, the tool's own first.

    nanoGPT (`estimate_mfu`) leaves out the position embeddings, which no product reads; PaLM (arXiv 2204.02311,
    appendix B) does not. llm.c (`train_gpt2.cu`) charges causal attention with half of the square. Megatron-LM
    (arXiv 2104.04473) counts products one by one: three times the forward's. FlopCounterMode counts what runs: flash
    attention's backward pass has five products where its forward has two, and recomputed blocks count again, which
    makes it hardware FLOPs.
    """
    model, step = training.model, training.step
    n, attention = model.parameters, 12 * model.n_layer * model.n_embd * training.batch.seq_len
    tokens = training.batch.micro_batch * training.batch.seq_len
    passes = {phase.phase: phase.kernels for phase in training.phases}
    forward, backward = (_products(passes[name]) / tokens for name in ("forward", "backward"))
    counts = (
        ("nanoGPT", "6N + 12LCT, N without wpe", flops_per_token(model, training.batch.seq_len)),
        ("PaLM", "6N + 12LCT", 6 * n + attention),
        ("llm.c", "6N + 6LCT", 6 * n + attention / 2),
        ("Megatron-LM", "3 x forward's products", 3 * forward),
        ("the same, causal", "half of the attention", 3 * forward - attention / 2),
        ("FlopCounterMode", "products that run", forward + backward),
        ("scaling laws", "6N", 6 * n),
    )
    pace = step.tokens_per_s_per_gpu / training.hardware.compute.peak_flop_per_s[training.train.numbers.dtype]
    return tuple(FlopsCount(name, text, as_python(flops), as_python(flops * pace)) for name, text, flops in counts)


def _products(kernels: Iterable[KernelCost]) -> Number:
    """FLOPs of the products of one pass; zero has the shape of the grid."""
    return sum(cost.flops for cost in kernels if cost.kernel.kind in PRODUCTS)
