"""The cost table of `--impl nanogpt` against a dispatch trace of such a model on the meta device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nanogpt_model
import nanogpt_oracle as oracle
import pytest
import torch
from helpers import unrolled, values
from nanogpt_model import GPTConfig
from nanogpt_oracle import ODD, model_of, tiny
from oracle import DTYPES
from shapes import assert_kernel_is
from torch.utils.flop_counter import FlopCounterMode

from gpt2cost.table import nanogpt
from gpt2cost.table.citations import NANOGPT, line_of
from gpt2cost.table.config import load_model
from gpt2cost.table.formula import Formula
from gpt2cost.table.gpt2 import cost_table, parameter_count
from gpt2cost.table.kernel import Free, Kernel, Row, walk
from gpt2cost.table.liveness import peak_bytes
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import CONSTANT_BYTES

ATTENTION = "_scaled_dot_product_flash_attention"
SIZES = ((1, 1), (1, 40), (4, 17), (2, 512))
OPTIONS = list(itertools.product((True, False), ("all", "last")))


def options(bias: bool, logits: Any, traced: bool = False) -> TableOptions:
    return TableOptions(impl="nanogpt", bias=bias, logits=logits, use_cache=False, traced=traced)


def assert_table_equals_trace(config: GPTConfig, dtype: str, batch: int, seq: int, logits: str) -> None:
    trace = oracle.trace(config, DTYPES[dtype], batch, seq, logits)
    sizes = values(model_of(config), dtype, batch, seq, 0)
    steps = list(unrolled(list(walk(cost_table(options(config.bias, logits)))), config.n_layer))
    kernels = [(module, step) for module, step in steps if isinstance(step, Kernel)]
    assert all(kernel.when.evaluate(sizes) is True for _, kernel in kernels)
    own = [(module, ATTENTION if "attention" in kernel.op else kernel.op) for module, kernel in kernels]
    assert own == [(launch.module, launch.op) for launch in trace.launches]
    for (module, kernel), launch in zip(kernels, trace.launches, strict=True):
        assert_kernel_is(kernel, launch, sizes, f"{module} {kernel.name} {kernel.op}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bias", "logits"), OPTIONS)
@pytest.mark.parametrize("odd", ODD)
def test_the_table_is_the_real_models(odd: str, bias: bool, logits: str, dtype: str) -> None:
    for batch, seq in SIZES:
        assert_table_equals_trace(tiny(**ODD[odd], bias=bias), dtype, batch, seq, logits)


@pytest.mark.parametrize("bias", [True, False])
def test_a_preset_in_all_its_layers(bias: bool) -> None:
    model = load_model("gpt2")
    config = GPTConfig(vocab_size=model.vocab_size, bias=bias)
    assert (config.n_layer, config.n_head, config.n_embd) == (model.n_layer, model.n_head, model.n_embd)
    assert_table_equals_trace(config, "fp16", 4, 1024, "all")


@pytest.mark.parametrize(("bias", "logits"), OPTIONS)
def test_flops_are_those_of_torchs_counter(bias: bool, logits: str) -> None:
    """The counter sees the decomposed attention of the meta device: its two products."""
    config = tiny(bias=bias)
    sizes = values(model_of(config), "fp16", 4, 17, 0)
    ids = torch.empty((4, 17), dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        oracle.build(config, torch.float16)(ids, every_position=logits == "all")
    products = [
        row for row in walk(cost_table(options(bias, logits))) if isinstance(row.step, Kernel) and row.step.shape
    ]
    flops = (
        row.count.evaluate(sizes) * row.step.flops.evaluate(sizes) for row in products if isinstance(row.step, Kernel)
    )
    assert sum(flops) == counter.get_total_flops()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("odd", ODD)
def test_parameters(odd: str, bias: bool) -> None:
    config = tiny(**ODD[odd], bias=bias)
    own = parameter_count(bias=bias).evaluate(model_of(config).symbols())
    assert own == sum(p.numel() for p in oracle.build(config, torch.float32).parameters())


def test_the_counts_of_the_pipeline() -> None:
    """A published count of 8 + 10 L kernels is with the loss, which has two of them: log-softmax and its gather."""
    forward = [row for row in walk(cost_table(options(True, "all"))) if isinstance(row.step, Kernel)]
    assert sum(row.count.evaluate({"num_layers": 12}) for row in forward) == 8 + 10 * 12 - 2


def test_module_classes() -> None:
    """All are in the table; a ModuleList is its modules."""

    def classes(module: Any) -> Iterator[str]:
        yield module.cls
        for child in module.children:
            if hasattr(child, "cls"):
                yield from classes(child)

    real = {type(module).__name__ for module in oracle.build(tiny(), torch.float32).modules()}
    assert real - {"ModuleList"} == set(classes(cost_table(options(True, "all"))))


def test_paths_are_unique() -> None:
    for bias, logits in OPTIONS:
        paths = [row.path for row in walk(cost_table(options(bias, logits))) if isinstance(row.step, Kernel)]
        assert len(paths) == len(set(paths))


@pytest.mark.parametrize(("bias", "logits"), OPTIONS)
def test_peak_memory_is_the_real_models(bias: bool, logits: str) -> None:
    config = tiny(n_layer=3, bias=bias)
    for batch, seq in SIZES:
        trace = oracle.trace(config, torch.float16, batch, seq, logits)
        sizes = values(model_of(config), "fp16", batch, seq, 0)
        found = peak_bytes(list(walk(cost_table(options(bias, logits)))), sizes, use_cache=False)
        assert found == trace.peak_bytes, (batch, seq)


# ---------------------------------------------------------------------------------------------- generate


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("block_size", [64, 5])
def test_the_kernels_are_those_of_the_real_loop(block_size: int, sample: bool) -> None:
    """With real tensors on the CPU, over texts that outgrow the block too."""
    torch.manual_seed(0)
    config, batch, prompt, new = tiny(block_size=block_size, vocab_size=60), 2, 4, 4
    model = nanogpt_model.GPT(config).eval()
    ids = torch.randint(config.vocab_size, (batch, prompt))
    with torch.no_grad(), oracle.NanoTrace(model) as record:
        text = model.generate(ids, new, top_k=50 if sample else 1)
    assert text.shape == (batch, prompt + new)
    kernels: list[tuple[str, Kernel, dict[str, int]]] = []
    for length in range(prompt, prompt + new):
        window = min(length, block_size)
        sizes = values(model_of(config), "fp32", batch, window, length - window)
        forward = unrolled(list(walk(cost_table(options(True, "last")))), config.n_layer)
        around = ([("", row.step) for row in rows] for rows in (nanogpt.before(), nanogpt.after(sample)))
        first, last = around
        kernels += [(module, step, sizes) for module, step in (*first, *forward, *last) if isinstance(step, Kernel)]
    # What torch.multinomial launches inside is one op to a dispatch trace: its first kernel, aminmax, stands for it.
    kernels = [one for one in kernels if not one[1].name.startswith("multinomial.") or one[1].op == "aminmax"]
    names = {"scaled_dot_product_attention": "attention", "aminmax": "multinomial"}
    launches = [launch for launch in record.launches if launch.op != "scalar_tensor"]
    assert [(module, names.get(kernel.op, kernel.op)) for module, kernel, _ in kernels] == [
        (launch.module, "attention" if "attention" in launch.op else launch.op) for launch in launches
    ]
    for (module, kernel, sizes), launch in zip(kernels, launches, strict=True):
        if launch.op == "index_put_":  # the value is a number of the host, which a trace shows as an operand
            assert kernel.reads.evaluate(sizes) == launch.read_bytes - 4
        elif launch.op != "multinomial" and "attention" not in launch.op:
            assert_kernel_is(kernel, launch, sizes, f"{module} {kernel.name} {kernel.op}")


def test_the_host_waits_where_a_list_chooses() -> None:
    """In eager code; compiled code has the list as a constant."""

    def waits(rows: list[Row] | tuple[Row, ...]) -> int:
        return sum(isinstance(row.step, Free) and row.step.op == "sync" for row in rows)

    assert waits(list(walk(cost_table(options(True, "all"))))) == 0
    assert waits(list(walk(cost_table(options(True, "last"))))) == 1
    assert waits(list(walk(cost_table(options(True, "last", traced=True))))) == 0
    assert waits(nanogpt.after(True)) == 1


# ---------------------------------------------------------------------------------------------- citations


def all_rows() -> Iterator[Row]:
    for bias, logits in OPTIONS:
        yield from walk(cost_table(options(bias, logits)))
    for sample in (False, True):
        yield from (*nanogpt.before(), *nanogpt.after(sample))


def test_every_citation_is_in_the_model_that_is_traced() -> None:
    """nanoGPT's own file is no package's. The oracle's model has its functions, under its names."""
    cited = {row.step.source for row in all_rows() if isinstance(row.step, Kernel)}
    assert len(cited) > 15
    for citation in cited:
        assert citation.file == NANOGPT
        assert line_of(citation, Path(nanogpt_model.__file__)) > 0
        assert str(citation) == f"nanoGPT/model.py:{citation.qualname}"


def test_bytes_are_bytes_and_flops_are_flops() -> None:
    """Grading: every byte monomial has one element size in it, every FLOP monomial none."""

    def element_sizes_in(costs: Formula) -> set[int]:
        sizes = {"w_bytes", "a_bytes", *CONSTANT_BYTES}
        return {sum(power for name, power in monomial if name in sizes) for monomial in costs.terms}

    for row in all_rows():
        if isinstance(row.step, Kernel):
            for tensor in row.step.inputs + row.step.outputs:
                assert element_sizes_in(tensor.bytes) <= {1}, (row.path, tensor)
            assert element_sizes_in(row.step.flops) <= {0}, row.path
