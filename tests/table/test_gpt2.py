"""The cost table against the real model: a dispatch trace of `GPT2LMHeadModel` on the meta device."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import oracle
import pytest
import torch
from helpers import POINTS, unrolled, values
from oracle import DTYPES, tiny
from shapes import shape_of
from table_match import assert_table_equals_trace
from transformers import GPT2Config

from gpt2cost.table.activations import ACTIVATIONS
from gpt2cost.table.config import load_model
from gpt2cost.table.formula import Formula
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, Row, walk
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import CONSTANT_BYTES


@pytest.mark.parametrize(
    ("attn", "upcast"), [("eager", False), ("eager", True), ("sdpa", False), ("flash_attention_2", False)]
)
def test_what_views_give_has_the_shapes_of_the_real_ones(attn: Any, upcast: bool) -> None:
    """Between the same two kernels."""
    config = tiny(reorder_and_upcast_attn=upcast)
    model, seen = load_model(config), set()
    for batch, seq, cache in POINTS:
        for use_cache in {True, cache > 0}:
            trace = oracle.trace(config, attn, torch.float16, batch, seq, cache, use_cache, logits_to_keep=1)
            table = cost_table(TableOptions(attn, "gelu_new", upcast, use_cache, "last"))
            sizes = values(model, "fp16", batch, seq, cache)
            launched = 0
            for _, step in unrolled(list(walk(table)), model.n_layer):
                if isinstance(step, Kernel):
                    launched += bool(step.when.evaluate(sizes))
                elif step.op == "view" and step.when.evaluate(sizes):
                    given = {shape_of(tensor, sizes) for tensor in step.outputs}
                    assert given <= {shape for number, shape in trace.views if number == launched}, (step, launched)
                    seen |= {step.name} if given else set()
    assert {"split", "views", "slice"} <= seen


ODD = {
    "n_inner": {"n_inner": 100, "n_head": 4},
    "relu": {"activation_function": "relu", "tie_word_embeddings": False},
    "upcast": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    "one head": {"n_head": 1, "n_positions": 3000, "vocab_size": 50300, "scale_attn_weights": False},
}


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["distilgpt2", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_presets(name: str, attn: str) -> None:
    """With two of their layers, which are alike, at all points; in fp32, with twice the bytes, at one."""
    model = load_model(name)
    config = GPT2Config(n_layer=2, n_head=model.n_head, n_embd=model.n_embd)
    for point in POINTS:
        assert_table_equals_trace(config, attn, "fp16", *point)
    assert_table_equals_trace(config, attn, "fp32", *POINTS[1])


@pytest.mark.parametrize(("name", "attn"), [("distilgpt2", "eager"), ("gpt2-xl", "sdpa")])
def test_a_preset_in_all_its_layers(name: str, attn: str) -> None:
    model = load_model(name)
    config = GPT2Config(n_layer=model.n_layer, n_head=model.n_head, n_embd=model.n_embd)
    assert_table_equals_trace(config, attn, "fp16", *POINTS[1])


@pytest.mark.parametrize(
    ("attn", "dtype"),
    [("eager", "fp16"), ("eager", "fp32"), ("sdpa", "fp16"), ("sdpa", "fp32"), ("flash_attention_2", "fp16")],
)
@pytest.mark.parametrize("odd", ODD)
def test_odd_configs(odd: str, attn: str, dtype: str) -> None:
    for point in POINTS:
        assert_table_equals_trace(tiny(**ODD[odd]), attn, dtype, *point)


@pytest.mark.parametrize(
    ("attn", "upcast"), [("eager", False), ("eager", True), ("sdpa", False), ("flash_attention_2", False)]
)
def test_every_corner_of_the_sizes(attn: str, upcast: bool) -> None:
    """Where a dimension is 1 or the cache is empty, PyTorch drops copies and masks: the conditions must agree.

    That only eager attention can be upcast, `test_odd_configs` sees.
    """
    for heads in (1, 3):
        config = tiny(n_layer=1, n_head=heads, reorder_and_upcast_attn=upcast)
        for batch in (1, 2):
            for seq in (1, 2):
                for cache in (0, 1, 4):
                    assert_table_equals_trace(config, attn, "fp16", batch, seq, cache)
                assert_table_equals_trace(config, attn, "fp16", batch, seq, 0, use_cache=False)
                dtype = "fp16" if attn == "flash_attention_2" else "fp32"
                assert_table_equals_trace(config, attn, dtype, batch, seq, 0, use_cache=False, logits="last")


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_cache(attn: str, dtype: str) -> None:
    for batch, seq in ((8, 512), (1, 40), (3, 17)):
        assert_table_equals_trace(GPT2Config(n_layer=3), attn, dtype, batch, seq, 0, use_cache=False)


@pytest.mark.parametrize(("attn", "upcast"), [("eager", False), ("eager", True), ("sdpa", False)])
def test_padded(attn: str, upcast: bool) -> None:
    """An attention mask with padding in it: the masked path everywhere."""
    config = tiny(n_layer=2, reorder_and_upcast_attn=upcast)
    for batch in (1, 2):
        for seq in (1, 5):
            for cache in (0, 4):
                assert_table_equals_trace(config, attn, "fp16", batch, seq, cache, padded=True)
            assert_table_equals_trace(config, attn, "fp32", batch, seq, 0, use_cache=False, padded=True)


@pytest.mark.parametrize(("attn", "upcast"), [("eager", False), ("eager", True), ("sdpa", False)])
@pytest.mark.parametrize("captured", [False, True])
def test_static_cache(attn: str, upcast: bool, captured: bool) -> None:
    """A cache of 16 tokens from the start, eagerly and while a CUDA graph is captured."""
    config = tiny(n_layer=2, reorder_and_upcast_attn=upcast)
    for batch in (1, 2):
        for seq in (1, 5, 16):
            for cache in (0, 4) if seq < 16 else (0,):
                assert_table_equals_trace(config, attn, "fp16", batch, seq, cache, static=16, captured=captured)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_a_captured_pass_asks_nothing(attn: str) -> None:
    """Transformers asks no tensor for its values while a CUDA graph is captured: it masks instead."""
    for batch, seq in ((1, 1), (1, 5), (3, 7)):
        for cache in (0, 4):
            assert_table_equals_trace(tiny(), attn, "fp16", batch, seq, cache, captured=True)
            assert_table_equals_trace(tiny(), attn, "fp16", batch, seq, cache, padded=True, captured=True)
        assert_table_equals_trace(tiny(), attn, "fp16", batch, seq, 0, use_cache=False, captured=True)
        assert_table_equals_trace(tiny(), attn, "fp16", batch, seq, 0, use_cache=False, padded=True, captured=True)


def test_flash_attention_asks_even_while_it_is_captured() -> None:
    """At batch 1 with several tokens, in every layer: a capture fails there."""
    for batch, seq, cache in ((1, 5, 0), (1, 5, 4), (2, 5, 0), (1, 1, 4)):
        assert_table_equals_trace(tiny(), "flash_attention_2", "fp16", batch, seq, cache, captured=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    for dtype in DTYPES:
        assert_table_equals_trace(tiny(n_layer=1, activation_function=name), "sdpa", dtype, 2, 5, 0)


def all_rows() -> Iterator[Row]:
    for attn in ("eager", "sdpa", "flash_attention_2"):
        for upcast in (False, True):
            for use_cache in (False, True):
                yield from walk(cost_table(TableOptions(attn, "gelu_new", upcast, use_cache)))  # type: ignore[arg-type]


def element_sizes_in(costs: Formula) -> set[int]:
    """How many element sizes are factors of each monomial."""
    sizes = {"w_bytes", "a_bytes", *CONSTANT_BYTES}
    return {sum(power for name, power in monomial if name in sizes) for monomial in costs.terms}


def test_bytes_are_bytes_and_flops_are_flops() -> None:
    """Grading: every byte monomial has one element size in it, every FLOP monomial none."""
    for row in all_rows():
        if isinstance(row.step, Kernel):
            for tensor in row.step.inputs + row.step.outputs:
                assert element_sizes_in(tensor.bytes) <= {1}, (row.path, tensor)
            assert element_sizes_in(row.step.flops) <= {0}, row.path


@functools.cache
def module_classes() -> set[str]:
    return {type(module).__name__ for module in oracle.build(tiny(), "sdpa", torch.float32).modules()}


def test_every_module_class_is_in_the_table_or_free() -> None:

    def classes(module: Any) -> Iterator[str]:
        yield module.cls
        for child in module.children:
            if hasattr(child, "cls"):
                yield from classes(child)

    assert module_classes() - {"ModuleList"} == set(classes(cost_table()))


def test_names_are_unique() -> None:
    for attn in ("eager", "sdpa", "flash_attention_2"):
        paths = [row.path for row in walk(cost_table(TableOptions(attn))) if isinstance(row.step, Kernel)]  # type: ignore[arg-type]
        assert len(paths) == len(set(paths))


def test_nanogpt_published_forward_flops() -> None:
    """nanoGPT's transformer_sizing notebook: 291,648,307,200 matmul FLOPs for gpt2 at 1 x 1024."""
    model = load_model("gpt2")
    sizes = values(model, "fp16", 1, 1024, 0)
    products = [row for row in walk(cost_table()) if isinstance(row.step, Kernel) and row.step.shape]
    total = sum(
        row.step.flops.evaluate(sizes) * row.count.evaluate(sizes)
        for row in products
        if row.step.when.evaluate(sizes)  # type: ignore[union-attr]
    )
    assert total == 291_648_307_200


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("distilgpt2", 81_912_576),
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_parameters_of_the_checkpoints(name: str, parameters: int) -> None:
    assert load_model(name).parameters == parameters


@pytest.mark.parametrize("odd", ODD)
def test_parameters_of_the_real_model(odd: str) -> None:
    config = tiny(**ODD[odd])
    model = oracle.build(config, "sdpa", torch.float32)
    model.tie_weights()
    assert load_model(config).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("padded", [False, True])
def test_a_mask_with_odd_rows_is_copied_into_wider_ones(padded: bool) -> None:
    """As `pad_bias` of PyTorch's attention does on CUDA, for rows that are no multiple of 8; a CPU does not."""
    model = load_model("distilgpt2")
    plain, padding = (
        [
            row.step
            for row in walk(cost_table(TableOptions(padded=padded, pads_mask=pads)))
            if isinstance(row.step, Kernel)
        ]
        for pads in (False, True)
    )
    (pad,) = [kernel for kernel in padding if kernel not in plain]
    assert [kernel for kernel in padding if kernel != pad] == plain
    assert (pad.op, pad.kind) == ("constant_pad_nd", "copy")
    for seq, cache in ((8, 24), (8, 25), (1, 8), (2, 0), (1, 7)):
        sizes = values(model, "fp16", 3, seq, cache)
        masked = next(k for k in padding if k.name.endswith("_masked")).when.evaluate(sizes)
        assert pad.when.evaluate(sizes) == (masked and (seq + cache) % 8 != 0)
        assert pad.reads.evaluate(sizes) == pad.writes.evaluate(sizes) == 3 * seq * (seq + cache) * 2
    assert str(pad.when).endswith("(kv_len) % 8 > 0")
