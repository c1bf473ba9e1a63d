"""What runs once a training step, after the backward passes: the gradient scaler, clipping and AdamW.

`clip_grad_norm_(foreach=True)` and `AdamW` run each op over a list of all parameters. An op is one kernel here, whose
bytes are exact; `launches` says in how many CUDA runs it. `zero_grad(set_to_none=True)` launches
nothing. The order is that of a loop that calls `unscale_`, `clip_grad_norm_`, `step` and `update`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

from gpt2cost.table.builders import tensor
from gpt2cost.table.citations import Citation
from gpt2cost.table.derivatives import EMBEDDINGS
from gpt2cost.table.formula import Formula, formula
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Foreach, Free, Kernel, Kind, Parameter, Row, Tensor, walk
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import D, f32, w

Optimizer: TypeAlias = Literal["adamw", "adamw-fused"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
"""`torch.optim.AdamW`: with `foreach=True`, its default on a GPU, and with `fused=True`."""
Decay: TypeAlias = Literal["matrices", "all", "none"]
DECAYS: tuple[Decay, ...] = get_args(Decay)
"""Which parameters decay. `matrices`: those of two dimensions, and the rest are a second group, as nanoGPT's
`configure_optimizers` and transformers' `Trainer` make them; each group then runs ops of its own."""

FLOAT64 = 2 * f32
"""Bytes of a float64, in which the scaler takes a reciprocal."""


_IN_BLOCK = (
    "ln_1", "attn", "ln_2", "crossattention.c_attn", "crossattention.q_attn", "crossattention.c_proj", "ln_cross_attn",
    "mlp",
)  # fmt: skip
"""The modules of a GPT2Block in the order in which it makes them, which is not that in which it runs them."""


@lru_cache(maxsize=16)
def parameters(options: TableOptions, tied: bool = True) -> tuple[Parameter, ...]:
    """The model's parameters in the order of `named_parameters()`, a tied head's only once."""
    gathered = {name: (rows, D) for name, rows in EMBEDDINGS.items()}  # of whose rows the kernels read some
    found: dict[str, Parameter] = {}
    own = TableOptions(impl=options.impl, bias=options.bias, encoder=options.encoder, head=options.head)
    for row in walk(cost_table(own)):
        inputs = row.step.inputs if isinstance(row.step, Kernel) else ()
        for read in inputs:
            leaf = read.name.rpartition(".")[2].removesuffix("[rows]")
            name = f"{row.module}.{leaf}".replace("transformer.h.", "transformer.h.{i}.")
            if read.is_weight and not (tied and name == "lm_head.weight"):
                shape = gathered.get(row.module.rpartition(".")[2], read.shape)
                found.setdefault(name, Parameter(name, shape, row.count))
    layered = iter(sorted((one for one in found.values() if "{i}" in one.name), key=_place_in_block))
    return tuple(next(layered) if "{i}" in one.name else one for one in found.values())


def _place_in_block(parameter: Parameter) -> int:
    name = parameter.name.partition("{i}.")[2]
    return next(place for place, module in enumerate(_IN_BLOCK) if name.startswith(f"{module}."))


def tensor_count(parameters: Iterable[Parameter]) -> Formula:
    """How many tensors they are."""
    return sum((parameter.count for parameter in parameters), formula(0))


def element_count(parameters: Iterable[Parameter]) -> Formula:
    """How many elements they have together."""
    return sum((parameter.count * parameter.elements for parameter in parameters), formula(0))


# ------------------------------------------------------------------------------------------ launches of a foreach op

CHUNK = 65536
"""Elements of a tensor that one block of a foreach kernel takes."""


@dataclass(frozen=True)
class LaunchLimits:
    """What one launch of a foreach kernel can take: tensors by the number of lists, and blocks.

    `with_scalars`: tensors of a single list where each has a number of its own.
    """

    tensors: tuple[int, int, int, int, int]
    with_scalars: int
    blocks: int


SMALL_ARGUMENTS = LaunchLimits((110, 64, 48, 36, 30), 96, 320)
LARGE_ARGUMENTS = LaunchLimits((770, 448, 336, 252, 210), 672, 2240)
"""Where a kernel's arguments may have 4 KB, and 32 KB, as PyTorch builds for CUDA 13 and later allow.
Source: `CHUNK` too, torch/include/ATen/native/cuda/MultiTensorApply.cuh (torch 2.13)."""


def launches(kernel: Kernel, values: Mapping[str, Any], cuda: int = 12) -> int:
    """How many launches a kernel of these rows is, at the sizes of a model; `cuda`: CUDA's major version.

    One of a foreach op is full when it has as many whole tensors, or as many blocks, as fit into a kernel's arguments.
    Norms are summed up in memory that is filled with zeros before and read by a kernel after (ForeachReduceOp.cu).
    """
    if not isinstance(kernel.shape, Foreach):
        return 1
    return _foreach_launches(kernel.shape, values, cuda) + (2 if kernel.op == "_foreach_norm" else 0)


def _foreach_launches(shape: Foreach, values: Mapping[str, Any], cuda: int) -> int:
    limits = LARGE_ARGUMENTS if cuda >= 13 else SMALL_ARGUMENTS
    most = limits.with_scalars if shape.has_scalars and shape.lists == 1 else limits.tensors[shape.lists - 1]
    full = tensors = blocks = 0
    for size in tensor_elements(shape.parameters, values):
        tensors, chunks = tensors + 1, -(-size // CHUNK)
        while chunks:
            taken = min(chunks, limits.blocks - blocks)
            blocks, chunks = blocks + taken, chunks - taken
            if blocks == limits.blocks or (tensors == most and not chunks):
                full, blocks, tensors = full + 1, 0, int(chunks > 0)
    return full + (blocks > 0)


def tensor_elements(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> Iterator[int]:
    """The elements of each tensor in the order of `named_parameters()`: those of a layer lie together."""
    layered = [parameter for parameter in parameters if "{i}" in parameter.name]
    for parameter in parameters:
        if parameter not in layered:
            yield int(parameter.elements.evaluate(values))
        elif parameter == layered[0]:
            sizes = [int(each.elements.evaluate(values)) for each in layered]
            for _ in range(int(values["num_layers"])):
                yield from sizes


# ------------------------------------------------------------------------------------------ the rows


@dataclass(frozen=True)
class _Group:
    """Parameters that one call of an optimiser's function takes. `name`: "" where there is one group only."""

    name: str
    parameters: tuple[Parameter, ...]
    decays: bool

    def tensor(self, name: str, element: Formula = w, is_weight: bool = False) -> Tensor:
        """One element for each of the group's."""
        return Tensor(self._named(name), (element_count(self.parameters),), element, is_weight)

    def numbers(self, name: str, element: Formula = f32) -> Tensor:
        """One number for each of the group's tensors."""
        return Tensor(self._named(name), (tensor_count(self.parameters),), element)

    def counts(self, name: str) -> tuple[_Group, Tensor]:
        """One number for each tensor as tensors of their own, and the group that they make."""
        ones = tuple(replace(parameter, shape=()) for parameter in self.parameters)
        return _Group(self.name, ones, self.decays), self.numbers(name)

    def _named(self, name: str) -> str:
        return f"{self.name}.{name}" if self.name else name

    def over(
        self,
        name: str,
        op: str,
        read: Sequence[Tensor],
        written: Sequence[Tensor],
        source: Citation,
        lists: int,
        kind: Kind = "elementwise",
        has_scalars: bool = False,
    ) -> Kernel:
        """A foreach op; one FLOP for each element written, or of a reduction for each element read."""
        flops = sum((each.elements for each in (read if kind == "reduction" else written)), formula(0))
        shape = Foreach(self.parameters, lists, has_scalars)
        return Kernel(self._named(name), op, kind, tuple(read), tuple(written), flops, source, shape=shape)


def _groups(options: TableOptions, tied: bool, decay: Decay) -> tuple[_Group, ...]:
    every = parameters(options, tied)
    if decay != "matrices":
        return (_Group("", every, decay == "all"),)
    matrices = tuple(parameter for parameter in every if parameter.is_matrix)
    vectors = tuple(parameter for parameter in every if not parameter.is_matrix)
    return tuple(
        _Group(name, group, name == "matrices")
        for name, group in (("matrices", matrices), ("vectors", vectors))
        if group
    )


def _rows(module: str, steps: Iterable[Kernel | Free]) -> tuple[Row, ...]:
    return tuple(Row(module, step, formula(1), index) for index, step in enumerate(steps))


def _small(
    name: str, op: str, read: Sequence[Tensor], out: Tensor, source: Citation, kind: Kind = "elementwise"
) -> Kernel:
    """A kernel on one number, or on one for each tensor."""
    flops = {"elementwise": out.elements, "reduction": sum((each.elements for each in read), formula(0))}.get(
        kind, formula(0)
    )
    return Kernel(name, op, kind, tuple(read), (out,), flops, source)


SCALE, FOUND_INF = tensor("scale", element=f32), tensor("found_inf", element=f32)


@lru_cache(maxsize=64)
def clip_rows(options: TableOptions, tied: bool = True, scaler: bool = False) -> tuple[Row, ...]:
    """`clip_grad_norm_` with the norm of all gradients. A gradient scaler's `unscale_` comes before it."""
    group = _Group("", parameters(options, tied), False)
    total, clip = "_get_total_norm", "_clip_grads_with_norm_"
    gradients, norms = group.tensor("gradients"), group.numbers("norms", w)
    stacked = replace(norms, name="stacked")
    norm, sums, inverse, ratio, coefficient = (
        tensor(name, element=w) for name in ("total_norm", "total_norm.add", "inverse", "ratio", "clip_coef")
    )

    def source(function: str, fragment: str) -> Citation:
        return Citation("torch/clip_grad.py", function, fragment)

    divided = source(clip, "max_norm / (total_norm + 1e-6)")
    norm_source = source(total, "total_norm = torch.linalg.vector_norm(")
    steps = (
        group.over(
            "norms", "_foreach_norm", (gradients,), (norms,), source(total, "torch._foreach_norm("), 1, "reduction"
        ),
        _small("stack", "stack", (norms,), stacked, source(total, "torch.stack("), "copy"),
        _small("total_norm", "linalg_vector_norm", (stacked,), norm, norm_source, "reduction"),
        _small("add", "add", (norm,), sums, divided),
        _small("reciprocal", "reciprocal", (sums,), inverse, divided),
        _small("ratio", "mul", (inverse,), ratio, divided),
        _small("clamp", "clamp", (ratio,), coefficient, source(clip, "torch.clamp(clip_coef")),
        group.over(
            "scale", "_foreach_mul_", (gradients, coefficient), (gradients,), source(clip, "torch._foreach_mul_("), 1
        ),
    )  # fmt: skip
    return _rows("clip", (*(_unscale(group, by_one=False) if scaler else ()), *steps))


@lru_cache(maxsize=64)
def optimizer_rows(
    optimizer: Optimizer,
    options: TableOptions,
    tied: bool = True,
    *,
    decay: Decay = "matrices",
    scaler: bool = False,
    clips: bool = False,
) -> tuple[Row, ...]:
    """A step of AdamW, or of a gradient scaler around it, which has unscaled the gradients if they were clipped."""
    one = _Group("", parameters(options, tied), False)
    is_fused = optimizer == "adamw-fused"
    step, scaler_source = [], "torch/grad_scaler.py"
    if scaler and not clips:
        step += _unscale(one, by_one=is_fused)
    if scaler and is_fused:
        source = Citation(scaler_source, "GradScaler.step", "sum(")
        step.append(_small("found_inf", "add", (FOUND_INF,), FOUND_INF, source))
        if not clips:
            source = Citation(scaler_source, "GradScaler.step", "else scaler * getattr")
            step.append(_small("grad_scale", "mul", (SCALE,), replace(SCALE, name="grad_scale"), source))
    elif scaler:
        step.append(Free("found_inf", "sync"))
    for group in _groups(options, tied, decay):
        step += _fused(group, scaler, clips) if is_fused else _foreach(group)
    if scaler:
        growth = tensor("growth_tracker", element=f32)
        source = Citation(scaler_source, "GradScaler.update", "torch._amp_update_scale_(")
        read, written = (SCALE, growth, FOUND_INF), (SCALE, growth)
        step.append(Kernel("update_scale", "_amp_update_scale_", "elementwise", read, written, formula(2), source))
    return _rows("optimizer", step)


def _foreach(group: _Group) -> list[Kernel | Free]:
    """`_multi_tensor_adam`: the denominators are a temporary as large as the parameters."""

    def source(fragment: str) -> Citation:
        return Citation("torch/adam.py", "_multi_tensor_adam", fragment)

    p, g = group.tensor("parameters", is_weight=True), group.tensor("gradients")
    m, v, denominator = (group.tensor(name) for name in ("exp_avg", "exp_avg_sq", "denominator"))
    squares = "torch._foreach_mul_(device_exp_avg_sqs, beta2)"
    decay = group.over("decay", "_foreach_mul_", (p,), (p,), source("torch._foreach_mul_(device_params"), 1)
    return [
        Free("step", "call"),  # the counts of steps lie on the CPU, and are counted on there, one by one
        *((decay,) if group.decays else ()),
        group.over("exp_avg", "_foreach_lerp_", (m, g), (m,), source("torch._foreach_lerp_("), 2),
        group.over("exp_avg_sq_decay", "_foreach_mul_", (v,), (v,), source(squares), 1),
        group.over("exp_avg_sq", "_foreach_addcmul_", (v, g), (v,), source("torch._foreach_addcmul_("), 3),
        group.over(
            "sqrt", "_foreach_sqrt", (v,), (denominator,), source("torch._foreach_sqrt(device_exp_avg_sqs)"), 2
        ),
        group.over(
            "bias_correction", "_foreach_div_", (denominator,), (denominator,),
            source("torch._foreach_div_(exp_avg_sq_sqrt, bias_correction2_sqrt)"), 1, has_scalars=True,
        ),
        group.over(
            "eps", "_foreach_add_", (denominator,), (denominator,), source("torch._foreach_add_(exp_avg_sq_sqrt"), 1
        ),
        group.over(
            "update", "_foreach_addcdiv_", (p, m, denominator), (p,), source("torch._foreach_addcdiv_("), 3,
            has_scalars=True,
        ),
    ]  # fmt: skip


def _fused(group: _Group, scaler: bool, clips: bool) -> list[Kernel | Free]:
    """`_fused_adam`: the counts of steps lie on the device, and are taken back where a gradient was not finite."""
    p, g = group.tensor("parameters", is_weight=True), group.tensor("gradients")
    m, v = group.tensor("exp_avg"), group.tensor("exp_avg_sq")
    counts, steps = group.counts("step")
    asked = (replace(SCALE, name="grad_scale"), FOUND_INF) if scaler and not clips else (FOUND_INF,) if scaler else ()
    written = (p, g, m, v) if scaler and not clips else (p, m, v)  # it leaves what it has unscaled

    def source(fragment: str) -> Citation:
        return Citation("torch/adam.py", "_fused_adam", fragment)

    counted = source("torch._foreach_add_(device_state_steps, 1)")
    back = counts.over("step_back", "_foreach_sub_", (steps, FOUND_INF), (steps,), source("torch._foreach_sub_("), 2)
    return [
        counts.over("step", "_foreach_add_", (steps,), (steps,), counted, 1),
        group.over("update", "_fused_adamw_", (p, g, m, v, steps, *asked), written, source("func("), 4),
        *((back,) if scaler else ()),
    ]


def _unscale(group: _Group, by_one: bool) -> list[Kernel | Free]:
    """`GradScaler.unscale_`, or the search for infinities that it makes `by_one` where a fused step unscales."""
    unscale, check = "GradScaler.unscale_", "GradScaler._check_inf_per_device"
    file = "torch/grad_scaler.py"
    inverse = replace(SCALE, name="inv_scale")
    double, reciprocal = (tensor(f"inv_scale.{n}", element=FLOAT64) for n in ("scale", "double"))
    source = Citation(file, unscale, "self._scale.double().reciprocal().float()")
    one = Citation(file, check, "torch.full((), 1.0")
    found = Citation(file, check if by_one else unscale, "found_inf = torch.full(")
    made: tuple[Kernel, ...] = (_small("inv_scale", "full", (), inverse, one, "fill"),)
    if not by_one:
        made = (
            _small("scale.double", "_to_copy", (SCALE,), double, source, "copy"),
            _small("reciprocal", "reciprocal", (double,), reciprocal, source),
            _small("inv_scale", "_to_copy", (reciprocal,), inverse, source, "copy"),
        )
    copied = Citation(file, "_MultiDeviceReplicator.get", "self.master.to(")
    gradients = group.tensor("gradients")
    checked = Citation(file, "GradScaler._unscale_grads_", "torch._amp_foreach_non_finite_check_and_unscale_(")
    return [
        *made,
        _small("found_inf", "full", (), FOUND_INF, found, "fill"),
        _small("found_inf.copy", "_to_copy", (FOUND_INF,), FOUND_INF, copied, "copy"),
        _small("inv_scale.copy", "_to_copy", (inverse,), inverse, copied, "copy"),
        group.over(
            "unscale", "_amp_foreach_non_finite_check_and_unscale_", (gradients, FOUND_INF, inverse),
            (gradients, FOUND_INF), checked, 1,
        ),
    ]  # fmt: skip
