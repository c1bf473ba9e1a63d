"""What an optimiser step launches, against a dispatch trace of torch's own: AdamW, clipping and the gradient scaler.

The rule for bytes: each tensor is read once, also where an op is given it twice, and what is written in place is
written once. What lies on the CPU (the counts of steps of foreach AdamW) is the host's affair. The kernels that a
foreach op launches are counted by the loop of `multi_tensor_apply`, spelt out here block by block.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import values
from oracle import VIEWS, build, stored_bytes, tensors, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2cost.table.citations import resolve
from gpt2cost.table.config import load_model
from gpt2cost.table.kernel import Free, Kernel, Row
from gpt2cost.table.optimizer import Decay, Optimizer, clip_rows, launches, optimizer_rows, parameters
from gpt2cost.table.options import TableOptions

SYNCS = {"_local_scalar_dense"}
TORCH = Path(torch.__file__).parent


class Ops(TorchDispatchMode):
    """The device's ops as (name, bytes read, bytes written), and how often the host waits for the device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.launches: list[tuple[str, int, int]] = []
        self.syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = func.overloadpacket.__name__
        out = func(*args, **kwargs)
        if op in SYNCS:
            self.syncs += args[0].device.type == self.device
        elif op not in VIEWS and any(t.device.type == self.device for t in tensors((args, out))):
            written = tensors(out)
            for argument, value in itertools.zip_longest(func._schema.arguments, args):
                value = kwargs.get(argument.name) if value is None else value
                changed = argument.alias_info is not None and argument.alias_info.is_write
                if changed and not any(x is y for x in tensors(out) for y in tensors(value)):
                    if argument.name == "grads" and kwargs.get("grad_scale") is None:
                        continue  # the fused kernel writes what it has unscaled, and nothing else
                    written = written + tensors(value)
            read = {tensor._cdata: stored_bytes(tensor) for tensor in tensors((args, kwargs)) if op != "full"}
            self.launches.append((op, sum(read.values()), sum(map(stored_bytes, written))))
        return out


def weights(config: Any, device: str, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    made = []
    for parameter in build(config, "eager", dtype).parameters():
        weight = torch.nn.Parameter(torch.zeros(parameter.shape, dtype=dtype, device=device))
        weight.grad = torch.zeros_like(weight)
        made.append(weight)
    return made


def groups(parameters: list[torch.nn.Parameter], decay: Decay) -> list[dict[str, Any]]:
    """nanoGPT's `configure_optimizers`, or all alike."""
    match decay:
        case "matrices":
            matrices = [p for p in parameters if p.dim() >= 2]
            vectors = [p for p in parameters if p.dim() < 2]
            return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        case "all":
            return [{"params": parameters, "weight_decay": 0.1}]
        case "none":
            return [{"params": parameters, "weight_decay": 0.0}]


def evaluated(rows: Sequence[Row], sizes: dict[str, int]) -> list[tuple[str, int, int]]:
    kernels = [row.step for row in rows if isinstance(row.step, Kernel)]
    return [(k.op, k.reads.evaluate(sizes), k.writes.evaluate(sizes)) for k in kernels]


def syncs(rows: Sequence[Row]) -> int:
    return sum(row.step.count for row in rows if isinstance(row.step, Free) and row.step.op == "sync")


CONFIGS = {
    "plain": tiny(),
    "untied": tiny(n_layer=3, tie_word_embeddings=False, n_inner=100),
}


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", *CONFIGS])
def test_parameters_are_those_that_the_real_model_yields(name: str) -> None:
    from transformers import GPT2Config

    config = CONFIGS.get(name) or GPT2Config(
        **{key: getattr(load_model(name), key) for key in ("n_layer", "n_head", "n_embd")}
    )
    model = load_model(config)
    found = parameters(TableOptions(), model.tie_word_embeddings)
    sizes = values(model, "fp32", 1, 1, 0)
    layered = [p for p in found if "{i}" in p.name]
    assert all((p.count.evaluate(sizes) == model.n_layer) == (p in layered) for p in found)

    def unrolled() -> Iterator[tuple[str, int, bool]]:
        for p in found:
            if p == layered[0]:
                for layer in range(model.n_layer):
                    for q in layered:
                        yield q.name.format(i=layer), q.elements.evaluate(sizes), q.is_matrix
            elif p not in layered:
                yield p.name, p.elements.evaluate(sizes), p.is_matrix

    real = build(config, "eager", torch.float32).named_parameters()
    assert list(unrolled()) == [(name, p.numel(), p.dim() == 2) for name, p in real]
    assert sum(elements for _, elements, _ in unrolled()) == model.parameters


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("decay", ["matrices", "all", "none"])
@pytest.mark.parametrize("config", CONFIGS)
def test_foreach_adamw_is_torchs(config: str, decay: Decay, dtype: str) -> None:
    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = load_model(CONFIGS[config])
    real = torch.optim.AdamW(groups(weights(CONFIGS[config], "meta", torch_dtype), decay), foreach=True)
    real.step()  # makes the moments
    with Ops("meta") as trace:
        real.step()
    rows = optimizer_rows("adamw", TableOptions(), model.tie_word_embeddings, decay=decay)
    assert evaluated(rows, values(model, dtype, 1, 1, 0)) == trace.launches
    assert syncs(rows) == trace.syncs == 0


@pytest.mark.parametrize("decay", ["matrices", "all"])
@pytest.mark.parametrize("config", CONFIGS)
def test_fused_adamw_is_torchs(config: str, decay: Decay) -> None:
    """On the CPU, where the fused op runs; its count of steps lies on the device in either case."""
    model = load_model(CONFIGS[config])
    real = torch.optim.AdamW(groups(weights(CONFIGS[config], "cpu"), decay), fused=True)
    real.step()
    with Ops("cpu") as trace:
        real.step()
    rows = optimizer_rows("adamw-fused", TableOptions(), model.tie_word_embeddings, decay=decay)
    assert evaluated(rows, values(model, "fp32", 1, 1, 0)) == trace.launches


@pytest.mark.parametrize("config", CONFIGS)
def test_clipping_is_torchs(config: str) -> None:
    model = load_model(CONFIGS[config])
    real = weights(CONFIGS[config], "cpu")
    with Ops("cpu") as trace:
        torch.nn.utils.clip_grad_norm_(real, 1.0, foreach=True)
    rows = clip_rows(TableOptions(), model.tie_word_embeddings)
    assert evaluated(rows, values(model, "fp32", 1, 1, 0)) == trace.launches
    assert syncs(rows) == trace.syncs == 0


@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw-fused"])
def test_the_gradient_scaler_is_torchs(optimizer: Optimizer, clips: bool) -> None:
    """unscale_, clip, step and update, as PyTorch's own examples call them."""
    config = CONFIGS["plain"]
    model, real = load_model(config), weights(config, "cpu")
    adamw = torch.optim.AdamW(groups(real, "matrices"), foreach=optimizer == "adamw", fused=optimizer == "adamw-fused")
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(()))
    for _ in range(2):
        with Ops("cpu") as trace:
            if clips:
                scaler.unscale_(adamw)
                torch.nn.utils.clip_grad_norm_(real, 1.0, foreach=True)
            scaler.step(adamw)
            scaler.update()
    arguments = (TableOptions(), model.tie_word_embeddings)
    rows = (
        *(clip_rows(*arguments, scaler=True) if clips else ()),
        *optimizer_rows(optimizer, *arguments, scaler=True, clips=clips),
    )
    counted = [  # less the counts of steps of foreach AdamW, which lie on the CPU, as everything does here
        (op, read, written)
        for op, read, written in trace.launches
        if not (optimizer == "adamw" and op == "_foreach_add_" and written <= 4 * len(real))
    ]
    assert evaluated(rows, values(model, "fp32", 1, 1, 0)) == counted
    assert syncs(rows) == trace.syncs - (2 * len(real) if optimizer == "adamw" else 0), "the host reads its own counts"


def test_bytes_for_each_parameter() -> None:
    """The figures of the literature: foreach AdamW moves 80 bytes a parameter, 72 without decay; fused AdamW 28."""
    model = load_model("gpt2")
    sizes = values(model, "fp32", 1, 1, 0)

    def moved(rows: Sequence[Row]) -> float:
        return sum(read + written for _, read, written in evaluated(rows, sizes)) / model.parameters

    assert moved(optimizer_rows("adamw", TableOptions(), True, decay="all")) == 80
    assert moved(optimizer_rows("adamw", TableOptions(), True, decay="none")) == 72
    assert moved(optimizer_rows("adamw-fused", TableOptions(), True)) == pytest.approx(28, rel=1e-4)
    assert moved(clip_rows(TableOptions(), True)) == pytest.approx(12, rel=1e-4)


def block_by_block(elements: Sequence[int], most_tensors: int, most_blocks: int) -> int:
    """The loop of ATen/native/cuda/MultiTensorApply.cuh."""
    launches = block = tensor = 0
    for size in elements:
        tensor += 1
        chunks = -(-size // 65536)
        for chunk in range(chunks):
            block += 1
            if (tensor == most_tensors and chunk == chunks - 1) or block == most_blocks:
                launches, block = launches + 1, 0
                tensor = 0 if chunk == chunks - 1 else 1
    return launches + (block > 0)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-xl", "distilgpt2"])
def test_launches_of_a_foreach_op(name: str) -> None:
    """The limits are those of the header that torch ships: of kernel arguments up to 4 KB, and of CUDA 13's 32 KB."""
    model = load_model(name)
    real = [p.numel() for p in build(_config(name), "eager", torch.float32).parameters()]
    kernels = {
        row.step.op: row.step
        for row in optimizer_rows("adamw", TableOptions(), True, decay="all")
        if isinstance(row.step, Kernel)
    }
    header = (TORCH / "include/ATen/native/cuda/MultiTensorApply.cuh").read_text()
    for cuda, tensors_by_lists, scalars, blocks in (
        (13, [770, 448, 336, 252, 210], 672, 2240),
        (12, [110, 64, 48, 36, 30], 96, 320),
    ):
        assert f"depth_to_max_tensors[5] = {{{', '.join(map(str, tensors_by_lists))}}}" in header
        assert f"{{{', '.join(map(str, [blocks] * 5))}}}" in header
        for op, lists in (("_foreach_mul_", 1), ("_foreach_lerp_", 2), ("_foreach_addcmul_", 3)):
            expected = block_by_block(real, tensors_by_lists[lists - 1], blocks)
            assert launches(kernels[op], model.symbols(), cuda) == expected, op
        expected = block_by_block(real, scalars, blocks)
        assert launches(kernels["_foreach_div_"], model.symbols(), cuda) == expected


def _config(name: str) -> Any:
    from transformers import GPT2Config

    model = load_model(name)
    return GPT2Config(n_layer=model.n_layer, n_head=model.n_head, n_embd=model.n_embd)


def test_every_citation_is_in_torch() -> None:
    options = TableOptions()
    for optimizer, scaler in itertools.product(("adamw", "adamw-fused"), (False, True)):
        rows = (*clip_rows(options, True, scaler=scaler), *optimizer_rows(optimizer, options, True, scaler=scaler))  # type: ignore[arg-type]
        for row in rows:
            if isinstance(row.step, Kernel):
                assert resolve(row.step.source, TORCH) > 0
                assert str(row.step.source).startswith("torch/")
