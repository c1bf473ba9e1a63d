"""The shapes of a kernel's operands in the table beside those of a launch of the real model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul

from oracle import Launch, Shapes

from gpt2cost.table.kernel import FusedAttention, Gemm, Kernel, Tensor


def assert_shapes(kernel: Kernel, launch: Launch, sizes: dict[str, int], where: str) -> None:
    """Every operand and every result has the shape of one of the launch's, up to merging neighbouring dimensions.

    A dimension of 1 says nothing: a product sees (B*H, T, hd) where the source has (B, H, T, hd). A tensor of which a
    kernel asks the size alone is none of its operands.
    """
    for own, real in ((kernel.inputs, launch.read), (kernel.outputs, launch.written)):
        shapes = [shape_of(tensor, sizes) for tensor in own if tensor.bytes.evaluate(sizes)]
        if kernel.op.startswith("flash_attn"):  # by tokens; the trace has a kernel of torch's in its place, by heads
            shapes = [(*s[:1], *s[2:0:-1], *s[3:]) if len(s) == 4 else s for s in shapes]
        assert len(shapes) == len(real), where
        assert any(pairings(shapes, list(real))), f"{where}: {shapes}, but {[sorted(each) for each in real]}"


def shape_of(tensor: Tensor, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(size.evaluate(sizes) for size in tensor.shape)


def pairings(own: Sequence[tuple[int, ...]], real: list[Shapes]) -> Iterator[bool]:
    """True for each way of pairing the shapes: a kernel's operands are listed in an order of their own."""
    if not own:
        yield True
        return
    for place, shapes in enumerate(real):
        if any(are_alike(own[0], shape) for shape in shapes):
            yield from pairings(own[1:], [*real[:place], *real[place + 1 :]])


def are_alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether one is the other with neighbouring dimensions merged."""
    ends = [set(accumulate((size for size in shape if size != 1), mul, initial=1)) for shape in (one, other)]
    return max(ends[0]) == max(ends[1]) and (ends[0] <= ends[1] or ends[1] <= ends[0])


def assert_kernel_is(kernel: Kernel, launch: Launch, sizes: dict[str, int], where: str) -> None:
    """A kernel of the table is a launch of the real model: bytes, shapes, and of a product its FLOPs and dimensions."""
    assert kernel.reads.evaluate(sizes) == launch.read_bytes, where
    assert kernel.writes.evaluate(sizes) == launch.write_bytes, where
    assert_shapes(kernel, launch, sizes, where)
    if isinstance(kernel.shape, Gemm | FusedAttention):
        assert kernel.flops.evaluate(sizes) == launch.flops, where
    if isinstance(kernel.shape, Gemm):
        dims = (kernel.shape.batch, kernel.shape.m, kernel.shape.n, kernel.shape.k)
        assert tuple(dim.evaluate(sizes) for dim in dims) == launch.gemm, where
    else:
        assert launch.gemm is None, where
