"""Shapes of tensors as people and machines read them: by symbols, and by numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from gpt2cost.output.field import Record
from gpt2cost.table.formula import Formula, Value
from gpt2cost.table.kernel import Free, Kernel, Tensor


@lru_cache(maxsize=1024)
def symbols_text(shape: tuple[Formula, ...]) -> str:
    """`(batch_size, num_heads, seq_len, head_dim)`; a scalar is `()`."""
    return f"({', '.join(map(str, shape))})"


def numbers_text(shape: Sequence[Formula], values: Mapping[str, Value]) -> str:
    """`8x12x512x64` at the values of the symbols; a scalar is `1`."""
    return "x".join(str(int(size)) for size in shape_numbers(shape, values)) or "1"


def shape_numbers(shape: Sequence[Formula], values: Mapping[str, Value]) -> list[Value]:
    """The sizes of the dimensions at the values of the symbols."""
    return [size.evaluate(values) for size in shape]


def tensor_records(tensors: Iterable[Tensor], values: Mapping[str, Value] | None) -> list[Record]:
    """Each tensor's name, its shape in numbers where the symbols have values, and in symbols."""
    return [
        {
            "name": tensor.name,
            "shape": None if values is None else shape_numbers(tensor.shape, values),
            "symbols": symbols_text(tensor.shape),
        }
        for tensor in tensors
    ]


def tensors_text(tensors: Iterable[Tensor], values: Mapping[str, Value] | None) -> str:
    """The same in a line: `ln_1 (batch_size, seq_len, hidden_size) 8x512x768, ...`."""
    each = ((f"{tensor.name} {symbols_text(tensor.shape)}", tensor.shape) for tensor in tensors)
    return ", ".join(text if values is None else f"{text} {numbers_text(shape, values)}" for text, shape in each)


def tensors_of(step: Kernel | Free, values: Mapping[str, Value] | None, *, flat: bool) -> Record:
    """What a step takes and gives: each a text, or a record per tensor."""
    form = tensors_text if flat else tensor_records
    return {"inputs": form(step.inputs, values), "outputs": form(step.outputs, values)}


_ARGUMENTS = {"addmm": (2, 0, 1), "embedding": (1, 0)}
"""An op whose arguments have another order than its operands in the table -> the operands' places."""


def input_dims(step: Kernel | Free, values: Mapping[str, Value]) -> list[list[Value]]:
    """The shapes of what a step takes as torch.profiler writes them: in the order of the op's arguments, of which a
    list of tensors is one."""
    dims = [shape_numbers(tensor.shape, values) for tensor in step.inputs]
    if step.op == "cat":
        return [dims]
    return [dims[place] for place in _ARGUMENTS.get(step.op, range(len(dims)))]
