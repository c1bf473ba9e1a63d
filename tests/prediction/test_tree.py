"""The tree of modules against the real model: `named_modules()`, forward hooks, and the totals of `predict`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import nanogpt_oracle
import oracle
import pytest
import torch
from oracle import DTYPES, tiny
from transformers import GPT2Config

import gpt2cost
from gpt2cost.prediction.one_pass import symbol_values
from gpt2cost.prediction.settings import Sizes, check_how
from gpt2cost.prediction.train_settings import check_train_how
from gpt2cost.prediction.tree import Node, training_trees, tree_of
from gpt2cost.table.activations import ACTIVATIONS
from gpt2cost.table.config import Model, change_model, list_models, load_model, model_from_args

PRESETS = sorted(model.name for model in list_models())
POINT = Sizes(2, 5)
FIGURES = ("launches", "flops", "read_bytes", "write_bytes")


def tree(model: Any, sizes: Sizes = POINT, gpu: str | None = None, **how: Any) -> Node:
    loaded = load_model(model)
    device = None if gpu is None else gpt2cost.load_hardware(gpu)
    return tree_of(loaded, check_how(**how).on(loaded), sizes, device)


def unfolded(node: Node) -> Iterator[tuple[str, Node]]:
    """Each module with its path, a repeated one as often as it is in the model."""
    for each in node.walk():
        if "h.0" not in each.path:
            yield each.path, each
        else:
            for layer in range(each.count):
                yield each.path.replace("h.0", f"h.{layer}", 1), each


def preset(name: str) -> GPT2Config:
    """The config of a preset, as transformers has it."""
    model = load_model(name)
    keys = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions")
    return GPT2Config(**{key: getattr(model, key) for key in keys})


def assert_modules(root: Node, real: torch.nn.Module) -> None:
    """Every module is there once, under its name and class, with its own parameters and all that are in it."""
    tied = dict(real.named_parameters(remove_duplicate=True))
    found = list(unfolded(root))
    modules = dict(real.named_modules())
    assert sorted(path for path, _ in found) == sorted(modules)
    for path, node in found:
        module = modules[path]
        assert node.cls == type(module).__name__, path
        own = {name: tuple(weight.shape) for name, weight in module.named_parameters(recurse=False)}
        assert {weight.name: weight.shape for weight in node.weights} == own, path
        for weight in node.weights:
            assert bool(weight.tied_to) == (f"{path}.{weight.name}".lstrip(".") not in tied)
        if path == "lm_head" and node.weights[0].tied_to:
            assert node.parameters == 0
            assert module.weight is modules[node.weights[0].tied_to].weight
        elif path:
            assert node.parameters == node.count * sum(weight.numel() for weight in module.parameters()), path
        else:
            assert node.parameters == sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_every_module_of_a_preset(name: str) -> None:
    real = oracle.build(preset(name), "sdpa", torch.float16)
    real.tie_weights()
    assert_modules(tree(name), real)


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize(
    "keys",
    [{}, {"tie_word_embeddings": False}, {"n_inner": 100}, {"reorder_and_upcast_attn": True}, {"n_layer": 1}],
    ids=str,
)
def test_every_module_of_an_odd_model(attn: str, keys: Mapping[str, Any]) -> None:
    config = tiny(**keys)
    real = oracle.build(config, attn, torch.float16)
    real.tie_weights()
    assert_modules(tree(config, attn=attn), real)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_class_of_an_activation(activation: str) -> None:
    config = tiny(activation_function=activation)
    assert_modules(tree(config), oracle.build(config, "sdpa", torch.float16))


def nanogpt(flash: bool, bias: bool = True) -> tuple[nanogpt_oracle.GPTConfig, Model]:
    """A small nanoGPT, and the model that it is."""
    config = nanogpt_oracle.tiny(bias=bias, flash=flash)
    names = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "bias")
    return config, model_from_args({name: getattr(config, name) for name in names}, "tiny", "tiny")


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_module_of_nanogpt(attn: str, bias: bool) -> None:
    config, loaded = nanogpt(attn == "sdpa", bias)
    root = tree_of(loaded, check_how(attn=attn).on(loaded), Sizes(2, 5))
    real = nanogpt_oracle.build(config, torch.float16)
    assert_modules(root, real)


def test_numbers_that_are_known() -> None:
    """The counts that the model's own documentation, or arithmetic by hand, gives."""
    nodes = {node.path: node for node in tree("gpt2").walk()}
    each = {path.removeprefix("transformer.h.0."): node.parameters // node.count for path, node in nodes.items()}
    assert (each["attn.c_attn"], each["attn.c_proj"]) == (1_771_776, 590_592)
    assert (each["mlp.c_fc"], each["mlp.c_proj"]) == (2_362_368, 2_360_064)
    (head,) = nodes["lm_head"].weights
    assert (nodes["lm_head"].parameters, head.elements, head.tied_to) == (0, 38_597_376, "transformer.wte")
    blocks = {"gpt2": 7_087_872, "gpt2-medium": 12_596_224, "gpt2-large": 19_677_440, "gpt2-xl": 30_740_800}
    for name, parameters in blocks.items():
        (block,) = (node for node in tree(name).walk() if node.cls == "GPT2Block")
        assert block.parameters == block.count * parameters


# ---------------------------------------------------------------------------------------------- outputs


@contextlib.contextmanager
def watched(model: torch.nn.Module) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shape of what every module returns that is called, the first of several."""
    seen: dict[str, tuple[int, ...]] = {}

    def hook(name: str) -> Any:
        def keep(_module: Any, _inputs: Any, made: Any) -> None:
            seen[name] = tuple((made if isinstance(made, torch.Tensor) else made[0]).shape)

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    yield seen
    for handle in handles:
        handle.remove()


def hooked(
    config: GPT2Config, attn: str, dtype: str, batch: int, seq: int, cache: int, **how: Any
) -> dict[str, tuple[int, ...]]:
    """The same of one pass."""
    with watched(oracle.build(config, attn, DTYPES[dtype])) as seen:
        oracle.trace(config, attn, DTYPES[dtype], batch, seq, cache, **how)
    return seen


def assert_outputs(root: Node, values: Mapping[str, int], seen: Mapping[str, tuple[int, ...]]) -> None:
    assert set(seen) == {path for path, node in unfolded(root) if node.output is not None}
    for path, node in unfolded(root):
        if node.output is not None:
            assert tuple(int(size.evaluate(values)) for size in node.output.shape) == seen[path], path


POINTS = [(8, 512, 0), (8, 1, 512), (1, 1, 3), (2, 5, 7), (1, 40, 0)]


def run(config: GPT2Config, attn: str, point: tuple[int, int, int], **how: Any) -> tuple[Node, Mapping[str, int]]:
    """The tree of a pass, and the values of the symbols."""
    loaded = load_model(config)
    asked, sizes = check_how(attn=attn, **how).on(loaded), Sizes(*point)
    return tree_of(loaded, asked, sizes), symbol_values(loaded, asked.dtype, sizes)


@pytest.mark.parametrize("point", POINTS[:2])
@pytest.mark.parametrize("name", PRESETS)
def test_outputs_of_a_preset(name: str, point: tuple[int, int, int]) -> None:
    config = preset(name)
    assert_outputs(*run(config, "sdpa", point), hooked(config, "sdpa", "fp16", *point))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("attn", ["eager", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize("keys", [{}, {"reorder_and_upcast_attn": True}, {"n_inner": 100}], ids=str)
def test_outputs_of_every_attention(attn: str, point: tuple[int, int, int], keys: Mapping[str, Any]) -> None:
    config = tiny(**keys)
    assert_outputs(*run(config, attn, point), hooked(config, attn, "fp16", *point))


@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_outputs_of_the_last_position_and_without_a_cache(runtime: str) -> None:
    config = tiny()
    for how, keys in (({"logits": "last"}, {"logits_to_keep": 1}), ({"use_cache": False}, {"use_cache": False})):
        tree_and_values = run(config, "sdpa", (2, 5, 0), runtime=runtime, **how)
        assert_outputs(*tree_and_values, hooked(config, "sdpa", "fp16", 2, 5, 0, **keys))


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("logits", ["all", "last"])
def test_outputs_of_nanogpt(attn: str, logits: str) -> None:
    config, loaded = nanogpt(attn == "sdpa")
    model, asked = nanogpt_oracle.build(config, torch.float16), check_how(attn=attn, logits=logits).on(loaded)
    with watched(model) as seen:
        nanogpt_oracle.trace(config, torch.float16, 2, 5, logits)
    assert_outputs(tree_of(loaded, asked, POINT), symbol_values(loaded, "fp16", POINT), seen)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_outputs_of_an_activation(activation: str) -> None:
    config = tiny(activation_function=activation)
    assert_outputs(*run(config, "sdpa", (2, 5, 0)), hooked(config, "sdpa", "fp16", 2, 5, 0))


# ---------------------------------------------------------------------------------------------- cross-attention


ENCODER = 7
CROSSED = tiny(add_cross_attention=True)


def crossed(encoder: int = ENCODER, **keys: Any) -> Model:
    """The small model, to which so many states of an encoder are passed."""
    return change_model(load_model(CROSSED), {"encoder_len": encoder, **keys})


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("encoder", [ENCODER, 0])
def test_every_module_of_a_model_with_cross_attention(attn: str, encoder: int) -> None:
    """Whether states are passed or not, its modules are there."""
    real = oracle.build(CROSSED, attn, torch.float16)
    real.tie_weights()
    loaded = crossed(encoder)
    assert_modules(tree_of(loaded, check_how(attn=attn).on(loaded), POINT), real)


@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"logits": "last"}, {"cache_type": "static"}], ids=str)
@pytest.mark.parametrize("point", [(2, 5, 0), (2, 1, 7), (2, 5, 7)])
@pytest.mark.parametrize("attn", ["eager", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize("encoder", [ENCODER, 0])
def test_outputs_with_an_encoders_states(attn: str, point: tuple[int, int, int], how: Any, encoder: int) -> None:
    """The encoder's keys and values are made by the first pass alone: its projection is called by no other."""
    if (how == {"use_cache": False} and point[2]) or ("cache_type" in how and "flash" in attn):
        pytest.skip("cannot be run")
    loaded, sizes = crossed(encoder), Sizes(*point)
    asked = check_how(attn=attn, **how).on(loaded)
    keys = {**how, "logits_to_keep": int("logits" in how), "static": 16 * ("cache_type" in how)}
    real = {name: value for name, value in keys.items() if name not in ("logits", "cache_type")}
    seen = hooked(CROSSED, attn, "fp16", *point, encoder=encoder, **real)
    assert_outputs(tree_of(loaded, asked, sizes), symbol_values(loaded, asked.dtype, sizes), seen)


@pytest.mark.parametrize("runtime", ["eager", "compile"])
@pytest.mark.parametrize("sizes", [Sizes(2, 9), Sizes(2, 1, 30)], ids=lambda sizes: sizes.text)
def test_the_sums_of_cross_attention_are_those_of_predict(runtime: str, sizes: Sizes) -> None:
    loaded, device = crossed(), gpt2cost.load_hardware("a100")
    asked = {"batch": sizes.batch_size, "seq": sizes.seq_len, "cache": sizes.cache_len}
    (phase,) = gpt2cost.predict(loaded, device, **asked, runtime=runtime, phase="prefill").phases
    root = tree_of(loaded, check_how(runtime=runtime).on(loaded), sizes, device)
    for name in FIGURES:
        assert getattr(root, name) == getattr(phase.totals, name)
    assert root.device_s == pytest.approx(phase.totals.device_s, rel=1e-12)
    assert root.parameters == loaded.parameters
    assert_sums(root)


# ---------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("runtime", ["eager", "compile", "cuda-graph", "reduce-overhead"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("sizes", [Sizes(8, 512), Sizes(2, 1, 64), Sizes(1, 9, 30)], ids=lambda sizes: sizes.text)
@pytest.mark.parametrize("cache_type", ["dynamic", "static"])
def test_the_sums_are_those_of_predict(runtime: str, attn: str, sizes: Sizes, cache_type: str) -> None:
    how = {"attn": attn, "runtime": runtime, "cache_type": cache_type}
    asked = {"batch": sizes.batch_size, "seq": sizes.seq_len, "cache": sizes.cache_len}
    (phase,) = gpt2cost.predict("distilgpt2", "a100", **asked, **how, phase="prefill").phases
    root = tree("distilgpt2", sizes, "a100", **how)
    for name in FIGURES:
        assert getattr(root, name) == getattr(phase.totals, name)
    assert root.device_s == pytest.approx(phase.totals.device_s, rel=1e-12)
    assert_sums(root)


def assert_sums(root: Node) -> None:
    """Copies are equal, and a module has what the modules in it and its own steps have."""
    for node in root.walk():
        assert set(node.costs) == {row.index for row in node.rows}
        for name in FIGURES:
            assert getattr(node, name) % node.count == 0
            parts = [getattr(part, name) for part in (*node.modules, *node.costs.values())]
            assert getattr(node, name) == sum(parts)
        assert node.parameters % node.count == 0


@pytest.mark.parametrize("runtime", ["eager", "compile"])
@pytest.mark.parametrize(
    "how",
    [{}, {"checkpointing": "block"}, {"impl": "nanogpt", "attn": "eager"}, {"precision": "fp32"}],
    ids=str,
)
def test_the_sums_are_those_of_train(runtime: str, how: Mapping[str, Any]) -> None:
    model, device = load_model("distilgpt2"), gpt2cost.load_hardware("a100")
    training = gpt2cost.train(model, device, micro_batch=2, seq=64, runtime=runtime, **how)
    train = check_train_how(runtime=runtime, **how).on(model)
    for root, own in zip(
        training_trees(training.model, train, Sizes(2, 64), device),
        (training.work.forward, training.work.backward),
        strict=True,
    ):
        for name, of_kernel in zip(FIGURES, ("count", *FIGURES[1:]), strict=True):
            assert getattr(root, name) == sum(getattr(kernel, of_kernel) for kernel in own.kernels)
        assert root.device_s == pytest.approx(own.device_s, rel=1e-12)
        assert_sums(root)
    unpriced = training_trees(training.model, train, Sizes(2, 64))
    assert all(root.device_s is None for root in unpriced)


def test_the_order_is_that_in_which_modules_run() -> None:
    """Forward hooks of the real model fire in the tree's order, and of the backward pass it is the other way round."""
    config = tiny()
    model = oracle.build(config, "eager", torch.float16)
    called: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if "h.1" not in name
    ]
    oracle.trace(config, "eager", torch.float16, 2, 5, 0)
    for handle in handles:
        handle.remove()
    root = tree(config, attn="eager")
    assert [node.path for node in root.walk() if node.output is not None] == called
    _, backward = training_trees(load_model(config), check_train_how(precision="fp32"), Sizes(2, 5))
    inner = next(node for node in backward.walk() if node.cls == "GPT2Block")
    assert [module.name for module in inner.modules] == ["mlp", "ln_2", "attn", "ln_1"]
