"""What data parallelism adds to a step: buckets of gradients, the copies into them and out of them, what is sent.

`DistributedDataParallel` puts gradients into buckets in the order in which they are ready (from the second iteration
on) and sums up a bucket as soon as it is full. A tied embedding's gradient is ready last. The gradient is divided by
the number of GPUs as it is copied into its bucket, and the sum is copied back, one kernel for each parameter each way,
unless `gradient_as_bucket_view` is set, which it is not by default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from gpt2cost.table.autograd import node_of
from gpt2cost.table.citations import Citation
from gpt2cost.table.formula import formula
from gpt2cost.table.kernel import Kernel, Parameter, Row, Tensor, short_path
from gpt2cost.table.optimizer import parameters
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import w

FIRST_BUCKET_BYTES = 2**20
BUCKET_BYTES = 25 * 2**20
"""A bucket is closed when it has as much: the first so early that the first all-reduce starts soon
(torch.distributed._DEFAULT_FIRST_BUCKET_BYTES, and `bucket_cap_mb`)."""
LAYER = "transformer.h.{i}."


@dataclass(frozen=True)
class Gradient:
    """A gradient of one parameter: `name` as `named_parameters()` has it.

    It is complete when the row at the place `row` has run for the `turn`-th time, from 0: the rows of the repeated
    block take turns.
    """

    name: str
    size_bytes: int
    row: int
    turn: int


def gradients(rows: Sequence[Row], options: TableOptions, tied: bool, values: Mapping[str, Any]) -> list[Gradient]:
    """The gradients that the rows of a backward pass make, in the order in which they are complete.

    A linear's node hands its gradients on when it has them all, and the bias's first; under autocast each then has a
    cast, which is a node of its own.
    """
    completed = _completed(tuple(rows))
    section_of = {place: number for number, section in enumerate(sections(rows)) for place in section}
    layers = int(values["num_layers"])
    found: list[tuple[tuple[int, int, int, bool], Gradient]] = []
    for parameter in parameters(options, tied):
        name = _within_model(parameter.name)
        module = name.rpartition(".")[0]
        weight, bias = (completed.get(f"{module}.{leaf}") for leaf in ("weight", "bias"))
        row, first = completed[name], False
        if weight is not None and bias is not None and weight != bias and node_of(rows[weight]) == node_of(rows[bias]):
            row, first = max(weight, bias), name.endswith(".bias")
        size_bytes = int((parameter.elements * w).evaluate(values))
        for turn in range(int(parameter.count.evaluate(values))):
            layer = str(layers - 1 - turn)  # the last layer's turn comes first
            made = Gradient(parameter.name.replace("{i}", layer), size_bytes, row, turn)
            found.append(((section_of[row], turn, row, not first), made))
    return [gradient for _, gradient in sorted(found, key=lambda item: item[0])]


@lru_cache(maxsize=32)
def _completed(rows: tuple[Row, ...]) -> dict[str, int]:
    """A parameter's name within the model or the layer -> the place of the last row that writes its gradient."""
    return {
        tensor.name.removesuffix(".grad"): place
        for place, row in enumerate(rows)
        if isinstance(row.step, Kernel)
        for tensor in row.step.outputs
        if tensor.name.endswith(".grad")
    }


def _within_model(name: str) -> str:
    return short_path(name.replace(LAYER, ""))


def sections(rows: Sequence[Row]) -> Iterator[list[int]]:
    """The places of the rows before the repeated block, in it, and after it."""
    for _, section in groupby(range(len(rows)), key=lambda place: rows[place].count == 1):
        yield list(section)


def buckets(
    sizes: Sequence[int], first_bytes: int = FIRST_BUCKET_BYTES, cap_bytes: int = BUCKET_BYTES
) -> Iterator[range]:
    """The places of those gradients, in the order in which they are ready, that share a bucket."""
    start, filled, limit = 0, 0, first_bytes
    for place, size in enumerate(sizes):
        filled += size
        if filled >= limit or place == len(sizes) - 1:
            yield range(start, place + 1)
            start, filled, limit = place + 1, 0, cap_bytes


@lru_cache(maxsize=32)
def copy_rows(options: TableOptions, tied: bool = True) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The kernels that copy gradients into buckets, divided by the number of GPUs, and those that copy them back."""
    source = Citation(
        "torch/distributed.py", "DistributedDataParallel._ddp_init_helper", "self.reducer = dist.Reducer("
    )

    def row(index: int, parameter: Parameter, op: str) -> Row:
        gradient, view = (Tensor(f"{parameter.name}.{what}", parameter.shape, w) for what in ("grad", "bucket"))
        name = parameter.name.replace(".{i}", "")
        if op == "mul":
            step = Kernel(name, op, "elementwise", (gradient,), (view,), parameter.elements, source)
        else:
            step = Kernel(name, op, "copy", (view,), (gradient,), formula(0), source)
        return Row("ddp", step, parameter.count, index)

    every = parameters(options, tied)
    into, out = (tuple(row(i, parameter, op) for i, parameter in enumerate(every)) for op in ("mul", "copy_"))
    return into, out


@dataclass(frozen=True)
class Volumes:
    """Bytes of the arrays that a step's collectives sum or share out, per micro-step and once a step.

    An all-reduce is a reduce-scatter and an all-gather of as many bytes: each GPU sends (n - 1) / n of each of them.
    """

    reduce_scatter_bytes: Any
    all_gather_bytes: Any


def volumes(stage: int, grad_accum: Any, gradient_bytes: Any, parameter_bytes: Any) -> Volumes:
    """What ZeRO of a stage moves in a step, 0 being DDP: `gradient_bytes` and `parameter_bytes` are of the whole model.

    Stage 1 shards the optimiser: gradients are summed once a step, each GPU's share to itself, and parameters gathered
    after it. From stage 2 on, gradients are sharded too, so that each micro-step sums them. Stage 3, which is FSDP's
    FULL_SHARD, gathers parameters for each forward and each backward pass (arXiv 1910.02054, 2304.11277).
    """
    scatters = grad_accum if stage >= 2 else 1
    gathers = 2 * grad_accum if stage == 3 else 1
    return Volumes(scatters * gradient_bytes, gathers * (gradient_bytes if stage == 0 else parameter_bytes))
