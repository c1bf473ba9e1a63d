"""`compile` of a training step: what is merged, what is saved, and that nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import pytest
from helpers import values

from gpt2cost.table.config import Model, load_model
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.table.options import Checkpointing, Impl, TableOptions
from gpt2cost.table.training import TrainingTable, saved, training_table
from gpt2cost.table.training_fusion import fuse_training

CASES = {
    "bf16-mixed": (TableOptions(autocast=True), {"a_bytes": 2}),
    "fp32": (TableOptions(), {}),
    "bf16-mixed, dropout": (TableOptions(autocast=True, dropout=("embd", "attn", "resid")), {"a_bytes": 2}),
    "bf16-mixed, eager attention": (TableOptions(attn="eager", autocast=True), {"a_bytes": 2}),
    "fp32, eager attention, dropout": (TableOptions(attn="eager", dropout=("embd", "attn", "resid")), {}),
    "bf16-mixed, encoder": (TableOptions(autocast=True, encoder=True), {"a_bytes": 2, "encoder_len": 40}),
    "bf16-mixed, encoder, eager attention": (
        TableOptions(attn="eager", autocast=True, encoder=True),
        {"a_bytes": 2, "encoder_len": 40},
    ),
}


def symbols(case: str, model: Model | None = None, batch: int = 2, seq: int = 64) -> dict[str, int]:
    return {**values(model or load_model("gpt2"), "fp32", batch, seq, 0), **CASES[case][1]}


def tables(case: str) -> tuple[TrainingTable, TrainingTable]:
    """The table as it is run eagerly, and compiled."""
    options, elements = CASES[case]
    table = training_table(options)
    return table, fuse_training(table, elements.get("a_bytes", 4))


def launched(rows: tuple[Row, ...], sizes: dict[str, int]) -> Iterator[tuple[Kernel, int]]:
    """Each kernel that is launched, and how often."""
    for row in rows:
        if isinstance(row.step, Kernel) and row.step.when.evaluate(sizes):
            yield row.step, row.count.evaluate(sizes)


@pytest.mark.parametrize("case", CASES)
def test_products_are_what_they_were(case: str) -> None:
    """The same products and the same fused attention, in the same order."""
    sizes = symbols(case)
    for before, after in zip(*((table.forward, table.backward) for table in tables(case)), strict=True):
        listed = [
            [
                (kernel.op, kernel.flops.evaluate(sizes), count)
                for kernel, count in launched(rows, sizes)
                if kernel.shape
            ]
            for rows in (before, after)
        ]
        assert listed[0] == listed[1]


@pytest.mark.parametrize("case", CASES)
def test_all_gradients_are_made(case: str) -> None:
    sizes = symbols(case)

    def gradients(table: TrainingTable) -> dict[str, int]:
        found: dict[str, int] = {}
        for kernel, count in launched(table.backward, sizes):
            for tensor in kernel.outputs:
                if tensor.name.endswith((".weight.grad", ".bias.grad")):
                    found[tensor.name] = found.get(tensor.name, 0) + count * tensor.bytes.evaluate(sizes)
        return found

    before, after = map(gradients, tables(case))
    assert before
    assert {name: size for name, size in after.items() if name in before} == before


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_was_made_before(case: str) -> None:
    """But for what no kernel makes: token ids, labels, weights, and the figures of rows that a merged softmax saves.

    The end of a block and the beginning of the next are one row, which comes after the block's.
    """
    eager, compiled = tables(case)
    sizes = symbols(case)
    made_eagerly = {
        tensor.name for rows in (eager.forward, eager.backward) for kernel, _ in launched(rows, sizes)
        for tensor in kernel.outputs
    }  # fmt: skip
    made: set[str] = set()
    for rows in (compiled.forward, compiled.backward):
        kernels = list(launched(rows, sizes))
        for count, section in groupby(kernels, key=lambda item: item[1]):
            listed = [kernel for kernel, _ in section]
            if count == sizes["num_layers"]:
                made |= {tensor.name for kernel in listed for tensor in kernel.outputs}
            for kernel in listed:
                for tensor in kernel.inputs:
                    names = {tensor.name, tensor.view_of} & made_eagerly
                    assert not names or names & made or tensor.is_weight, (kernel.op, tensor.name)
                made |= {tensor.name for tensor in kernel.outputs}


@pytest.mark.parametrize("case", CASES)
def test_compiled_code_launches_less_and_moves_less(case: str) -> None:
    sizes = symbols(case)
    for before, after in zip(*((table.forward, table.backward) for table in tables(case)), strict=True):
        launches, moved = (
            [
                sum(
                    count * (1 if what == "launches" else (kernel.reads + kernel.writes).evaluate(sizes))
                    for kernel, count in launched(rows, sizes)
                )
                for rows in (before, after)
            ]
            for what in ("launches", "bytes")
        )
        assert launches[1] < 0.8 * launches[0]
        assert moved[1] < 0.8 * moved[0]


def test_what_autograd_saves_of_compiled_code() -> None:
    """Measured on an H100: 537.0 kB a token over seven batches of compiled GPT-2 124M (Jjschwartz/gollem@9bdf113), of
    which 2 V bytes are the gradient of the logits. DynamicCache's copies, which that code has not, are taken off."""
    case = "bf16-mixed"
    _, compiled = tables(case)
    sizes = symbols(case, batch=1, seq=1024)
    activations = sum(
        tensor.count.evaluate(sizes) * tensor.tensor.bytes.evaluate(sizes) * tensor.when.evaluate(sizes)
        for tensor in saved(compiled)
        if not tensor.tensor.name.endswith(".weight.cast") and tensor.tensor.name not in ("key", "value")
    )
    per_token = activations / 1024 + 2 * sizes["vocab_size"]
    assert per_token == pytest.approx(537.0e3, rel=0.015)


def test_a_norm_has_one_more_kernel_in_backward() -> None:
    """Sums over the tokens are no part of what goes row by row."""
    _, compiled = tables("bf16-mixed")
    sizes = symbols("bf16-mixed")
    by_rows = sum(count for kernel, count in launched(compiled.backward, sizes) if "layer_norm" in kernel.op)
    sums = sum(
        count for kernel, count in launched(compiled.backward, sizes)
        if "ln_" in kernel.outputs[0].name and "sum" in kernel.op.split("+")
    )  # fmt: skip
    assert by_rows == sums == 2 * sizes["num_layers"] + 1


def test_the_loss_is_one_kernel_each_way_and_no_logits_in_float32_are_written() -> None:
    _, compiled = tables("bf16-mixed")
    sizes = symbols("bf16-mixed")
    wide = 2 * 64 * sizes["vocab_size"] * 4
    for rows in (compiled.forward, compiled.backward):
        kernels = [kernel for kernel, _ in launched(rows, sizes) if "_log_softmax" in kernel.op]
        assert len(kernels) == 1
        assert all(tensor.bytes.evaluate(sizes) < wide for tensor in (*kernels[0].inputs, *kernels[0].outputs))


def test_a_model_of_one_layer_has_no_boundary_between_two() -> None:
    model = replace(load_model("gpt2"), n_layer=1)
    case = "bf16-mixed"
    _, compiled = tables(case)
    counts = [count for kernel, count in launched(compiled.forward, symbols(case, model))]
    assert set(counts) == {0, 1}


@pytest.mark.parametrize("case", CASES)
def test_the_figures_of_a_softmax_are_written_where_they_are_read(case: str) -> None:
    """A number or two of each row, from which the backward pass has the probabilities again."""
    _, compiled = tables(case)
    sizes = symbols(case)
    written, read = (
        {
            tensor.name: tensor.bytes.evaluate(sizes)
            for kernel, _ in launched(rows, sizes)
            for tensor in (kernel.outputs if rows is compiled.forward else kernel.inputs)
            if tensor.name.endswith(".figures")
        }
        for rows in (compiled.forward, compiled.backward)
    )
    assert written == read
    assert "log_softmax.figures" in read
    assert all(size <= 2 * 2 * 12 * 64 * 4 for size in read.values())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("checkpointing", ["none", "block"])
@pytest.mark.parametrize("impl", ["hf", "nanogpt"])
def test_nothing_is_left_out_with_what_only_several_sequences_need(
    impl: Impl, checkpointing: Checkpointing, batch: int
) -> None:
    """Copies of attention by hand are made of several sequences alone; its softmax runs for one of them too."""
    options = TableOptions(impl=impl, attn="eager", train=True, dropout=("attn",))
    eager = training_table(options, checkpointing)
    compiled = fuse_training(eager, 4)
    sizes = values(load_model("gpt2"), "fp32", batch, 64, 0)
    for before, after in ((eager.forward, compiled.forward), (eager.backward, compiled.backward)):
        counts = [
            Counter({op: sum(n * kernel.op.split("+").count(op) for kernel, n in launched(rows, sizes)) for op in OPS})
            for rows in (before, after)
        ]
        assert counts[0] <= counts[1], "a compiler may compute some anew, and leaves none out"


OPS = ("_softmax", "_softmax_backward_data", "native_layer_norm", "native_layer_norm_backward", "cat")
