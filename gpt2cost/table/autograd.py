"""What the rows of a training table say of autograd: which kernels make up a node, and which gradients are left."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gpt2cost.table.kernel import Kernel, Row


def node_of(row: Row) -> tuple[str, str] | None:
    """What tells the kernels of one backward node from those before and after it; None of a kernel without a node.

    A node runs the derivative of one forward kernel, whose name its kernels bear before `grad` or `backward`. The
    engine's own sums (`add`) and the copies for a view have none.
    """
    own = re.match(r"(.*?)\.?(?:grad|backward)", row.step.name)
    if not own or row.step.name.endswith((".add", "grad_split", "grad_clone")):
        return None
    return row.module, own[1]


def weight_names(forward: Iterable[Row]) -> frozenset[str]:
    """The names that the tensors of a forward pass have for weights."""
    used = (tensor for row in forward if isinstance(row.step, Kernel) for tensor in row.step.inputs)
    return frozenset(tensor.name.removesuffix("[rows]") for tensor in used if tensor.is_weight)


def weight_gradients(forward: Iterable[Row], backward: Iterable[Row]) -> frozenset[str]:
    """The names of the gradients that are left when the backward pass is through.

    A tied weight's first one is read again, by the sum of the two.
    """
    kernels = [row.step for row in backward if isinstance(row.step, Kernel)]
    read = {tensor.name for kernel in kernels for tensor in kernel.inputs}
    return frozenset(f"{name}.grad" for name in weight_names(forward)) - read
