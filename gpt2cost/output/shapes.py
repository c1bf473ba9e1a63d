"""Shapes of tensors as people read them: by symbols, and by numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpt2cost.table.formula import Formula, Value


def symbols_text(shape: Sequence[Formula]) -> str:
    """`(batch_size, num_heads, seq_len, head_dim)`; a scalar is `()`."""
    return f"({', '.join(map(str, shape))})"


def numbers_text(shape: Sequence[Formula], values: Mapping[str, Value]) -> str:
    """`8x12x512x64` at the values of the symbols; a scalar is `1`."""
    return "x".join(str(int(size.evaluate(values))) for size in shape) or "1"
