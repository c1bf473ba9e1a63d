"""What is timed once for each number of tokens is what each point takes, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2cost.device.catalog import load_hardware
from gpt2cost.prediction.one_pass import symbol_values, table_options, table_rows
from gpt2cost.prediction.settings import Sizes, check_how
from gpt2cost.table.config import load_model
from gpt2cost.table.kernel import FusedAttention, Kernel
from gpt2cost.timing.kernel import kernel_terms
from gpt2cost.timing.reuse import reuse_bytes
from gpt2cost.timing.tokens import tokens_of

MODEL = load_model("gpt2")
BATCH = np.arange(1.0, 17.0)[:, None, None]
LENGTH = np.arange(64.0, 1025.0, 64.0)[:, None]


def kernels_of(attn: str, dtype: str, **sizes: Any) -> tuple[list[tuple[Kernel, tuple[Any, ...]]], dict[str, Any]]:
    """The kernels of a pass, each with the bytes touched since its inputs were used; and the values of symbols."""
    how = check_how(dtype, attn)
    rows = table_rows(table_options(MODEL, how), "eager")
    values = symbol_values(MODEL, dtype, Sizes(**sizes))
    real = {name: float(value) if isinstance(value, int) else value for name, value in values.items()}
    reuse = zip(rows, reuse_bytes(rows, real), strict=True)
    return [(row.step, since) for row, since in reuse if isinstance(row.step, Kernel)], real


@pytest.mark.parametrize("cache_len", [0.0, np.array([0.0, 300.0])], ids=["one cache", "two caches"])
@pytest.mark.parametrize(("gpu", "dtype"), [("a100", "fp16"), ("rtx3090", "fp32")])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_terms_are_those_of_each_point(gpu: str, dtype: str, attn: str, cache_len: Any) -> None:
    hw = load_hardware(gpu)
    kernels, values = kernels_of(attn, dtype, batch_size=BATCH, seq_len=LENGTH, cache_len=cache_len)
    tokens = tokens_of(values)
    assert tokens is not None
    for kernel, since in kernels:
        found, wanted = (kernel_terms(kernel, values, hw, dtype, False, since, own) for own in (tokens, None))
        for name, value in vars(wanted).items():
            assert np.all(getattr(found, name) == value), (kernel.name, name)


def test_products_and_norms_know_their_tokens_alone_and_attention_does_not() -> None:
    kernels, _ = kernels_of("sdpa", "fp16", batch_size=1, seq_len=8, cache_len=0)
    assert all(kernel.is_by_tokens for kernel, _ in kernels if kernel.op in ("addmm", "native_layer_norm"))
    assert not any(kernel.is_by_tokens for kernel, _ in kernels if isinstance(kernel.shape, FusedAttention))


def test_few_points_with_tokens_in_common_are_not_looked_for() -> None:
    _, point = kernels_of("sdpa", "fp16", batch_size=4, seq_len=8, cache_len=0)
    _, axis = kernels_of("sdpa", "fp16", batch_size=BATCH, seq_len=8, cache_len=0)
    assert tokens_of(point) is None
    assert tokens_of(axis) is None
