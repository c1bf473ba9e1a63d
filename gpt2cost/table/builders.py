"""Builders of what the cost table is made of: tensors, kernels, and modules of one kernel."""

from __future__ import annotations

from math import prod

from gpt2cost.table.citations import Citation
from gpt2cost.table.formula import ALWAYS, Condition, Formula, formula
from gpt2cost.table.kernel import Gemm, Kernel, Module, Tensor
from gpt2cost.table.symbols import B, D, T, a, f32, w


def tensor(name: str, *dims: Formula | int, element: Formula = a, view_of: str = "") -> Tensor:
    """A tensor that a kernel makes, of these dimensions, `element` bytes each. `view_of`: see `Tensor`."""
    return Tensor(name, tuple(map(formula, dims)), element, view_of=view_of)


def weight(name: str, *dims: Formula) -> Tensor:
    return Tensor(name, dims, w, is_weight=True)


def linear(
    x: Tensor,
    n: Formula,
    k: Formula,
    path: str,
    source: Citation,
    *,
    cls: str = "Linear",
    bias: bool = True,
    rows: tuple[Formula | int, ...] = (B, T),
    out: str = "",
) -> Module:
    """A Linear: (*rows, k) x (k, n) + bias, in one kernel. The bias adds no FLOPs, as in torch's counter.

    The tensor that it makes is named `out`, or as the module. Its weight is (n, k), a Conv1D's (k, n).
    """
    of_weight = (k, n) if cls == "Conv1D" else (n, k)
    weights = (weight(f"{path}.weight", *of_weight), *((weight(f"{path}.bias", n),) if bias else ()))
    m = prod(map(formula, rows), start=formula(1))
    kernel = Kernel(
        name="",
        op="addmm" if bias else "mm",
        kind="gemm",
        inputs=(x, *weights),
        outputs=(tensor(out or path, *rows, n),),
        flops=2 * m * n * k,
        source=source,
        shape=Gemm(formula(1), m, n, k, "NN" if cls == "Conv1D" else "NT"),
        in_module=True,
    )
    return Module(path.rpartition(".")[2], cls, (kernel,))


def output(module: Module) -> Tensor:
    """The tensor that a module without others in it returns: what the last of its kernels makes."""
    kernel = next(step for step in reversed(module.children) if isinstance(step, Kernel))
    return kernel.outputs[0]


def layer_norm(name: str, x: Tensor, source: Citation, bias: bool = True) -> Module:
    """LayerNorm over hidden_size: also writes each row's mean and reciprocal deviation, in float32."""
    weights = (weight(f"{name}.weight", D), *((weight(f"{name}.bias", D),) if bias else ()))
    statistics = tuple(tensor(f"{name}.{stat}", B, T, 1, element=f32) for stat in ("mean", "rstd"))
    kernel = Kernel(
        name="",
        op="native_layer_norm",
        kind="reduction",
        inputs=(x, *weights),
        outputs=(tensor(name, B, T, D), *statistics),
        flops=8 * B * T * D,
        source=source,
        columns=D,
        fusion_group="norm",
        in_module=True,
    )
    return Module(name, "LayerNorm", (kernel,))


def pointwise(
    name: str,
    op: str,
    inputs: tuple[Tensor, ...],
    out: Tensor,
    source: Citation,
    *,
    when: Condition = ALWAYS,
    fusion_group: str = "",
) -> Kernel:
    """Element-wise arithmetic: one FLOP per output element."""
    return Kernel(name, op, "elementwise", inputs, (out,), out.elements, source, when, fusion_group=fusion_group)


def copy(
    name: str,
    op: str,
    x: Tensor | tuple[Tensor, ...],
    out: Tensor,
    source: Citation,
    when: Condition = ALWAYS,
    fusion_group: str = "",
) -> Kernel:
    """A copy, a cast or a concatenation: no FLOPs."""
    inputs = x if isinstance(x, tuple) else (x,)
    return Kernel(name, op, "copy", inputs, (out,), formula(0), source, when, fusion_group=fusion_group)


def fill(name: str, op: str, out: Tensor, source: Citation, when: Condition = ALWAYS, fusion_group: str = "") -> Kernel:
    return Kernel(name, op, "fill", (), (out,), formula(0), source, when, fusion_group=fusion_group)


def reduction(
    name: str, op: str, x: Tensor, out: Tensor, flops: Formula, source: Citation, when: Condition = ALWAYS
) -> Kernel:
    """A reduction or a scan other than softmax and layer norm: one FLOP per input element."""
    return Kernel(name, op, "reduction", (x,), (out,), flops, source, when)


def gather(index: Tensor, out: Tensor, source: Citation, fusion_group: str) -> Kernel:
    """An Embedding: reads the indices and the rows that it copies, of its table (vocab_size, hidden_size)."""
    table_rows = weight(f"{out.name}.weight[rows]", *out.shape)
    return Kernel(
        "",
        "embedding",
        "gather",
        (index, table_rows),
        (out,),
        formula(0),
        source,
        fusion_group=fusion_group,
        in_module=True,
    )
