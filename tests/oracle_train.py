"""What a real training step does: a dispatch trace of `GPT2LMHeadModel` in train mode on the meta device.

The model runs as a GPU would run it: `scaled_dot_product_attention` and dropout are taken over where torch's C++ front
would dispatch them to CUDA's kernels, and autocast's casts are made by CUDA's lists (autocast is off on the meta
device), so that autograd records them. The backward pass is torch's own. That the lists are CUDA's, a test shows with
`fake_cuda_forward`: the same forward on fake CUDA tensors, with the real autocast, without gradients.

Bytes follow `oracle.py`'s rules. What is read of a gather is what is copied: the loss reads one logarithm a token, and
its backward none. The log-sum-exp and the random state of fused attention are written here, for the backward pass.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import oracle
import pytest
import torch
from oracle import Launch, Trace, default_dtype, tensors
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import GPT2Config

aten = torch.ops.aten

LOWER_PRECISION = {"addmm", "linear", "matmul", "bmm", "mm", "scaled_dot_product_attention"}
FLOAT32 = {
    "pow",
    "softmax",
    "log_softmax",
    "layer_norm",
    "nll_loss",
    "softplus",
    "sum",
    "cumsum",
    "rsqrt",
    "exp",
    "log",
}
"""Of torch's lists for CUDA, what a GPT-2 calls: ops that autocast runs in 16 bit, and in float32.

The `baddbmm` of upcast attention is called with autocast off."""
OWN_NAMES = {"__pow__": "pow", "square": "pow", "pow_": "pow", "__matmul__": "matmul"}


class GPUFront(TorchFunctionMode):
    """The choices of torch's front for CUDA: fused attention, native dropout, and autocast's casts to `autocast`."""

    def __init__(self, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.autocast = autocast
        self.cast_weights: dict[int, torch.Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        name = OWN_NAMES.get(name, name)
        if self.autocast and name in LOWER_PRECISION:
            args, kwargs = self.cast(name, args, kwargs, self.autocast)
        elif self.autocast and name in FLOAT32:
            args, kwargs = self.cast(name, args, kwargs, torch.float32)
        if func is torch.nn.functional.scaled_dot_product_attention:
            return fused_attention(*args, **kwargs)
        if func is torch.nn.functional.cross_entropy and self.autocast:
            return cross_entropy(*args, **kwargs)
        if func is torch.nn.functional.dropout:
            return dropout(*args, **kwargs)
        if name == "linear" and len(args) > 2 and args[2] is None:
            args = args[:2]
        return func(*args, **kwargs)

    def cast(self, name: str, args: Any, kwargs: Any, dtype: torch.dtype) -> tuple[Any, Any]:
        """Tensors in another floating dtype, cast; in the order in which C++ evaluates arguments: last first."""
        done: dict[Any, Any] = {}
        everything = [*enumerate(args), *kwargs.items()]
        for key, value in reversed(everything):
            done[key] = self.cast_one(value, dtype)
        return tuple(done[index] for index in range(len(args))), {key: done[key] for key in kwargs}

    def cast_one(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if dtype == torch.float32 or not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self.cast_weights:
            self.cast_weights[id(value)] = value.to(dtype)
        return self.cast_weights[id(value)]


def runs_flash(dtype: torch.dtype) -> bool:
    """Whether the GPU has a flash attention kernel: in 16 bit, from sm80 on."""
    return dtype != torch.float32


def fused_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    if attn_mask is not None:
        minus_infinity = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=query.device)
        zero = torch.scalar_tensor(0.0, dtype=query.dtype, device=query.device)
        attn_mask = torch.where(attn_mask, zero, minus_infinity).expand(*query.shape[:3], key.shape[2])
    if attn_mask is not None or not runs_flash(query.dtype):
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
        )[0]
    return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
    """As ATen's `cross_entropy_loss` calls under autocast: log-softmax in the logits' dtype, nll_loss in float32."""
    chosen = {name: options[name] for name in ("ignore_index", "reduction") if name in options}
    log_probabilities = torch.log_softmax(logits, 1)
    return torch.nn.functional.nll_loss(log_probabilities.to(torch.float32), labels, **chosen)


def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    return aten.native_dropout(x, p, True)[0] if training and p > 0 else x


class StepTrace(Trace):
    """Records the kernels of a forward with loss, and of its backward, which no module launches."""

    def operands(self, op: str, args: Any, kwargs: Any, out: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        read, _ = super().operands(op, args, kwargs, out)
        written = [t for t in tensors(out) if t.numel()]
        if op == "nll_loss_forward":  # gathers one element a token
            return [aten.select(args[0], 1, 0), args[1]], written
        if op == "nll_loss_backward":
            return [args[index] for index in (0, 2, 6)], written
        if op in ("ones_like", "new_zeros"):
            return [], written
        if op == "index_put":  # which a GPU does in place: rows of zeros are read and written
            return [args[2], *args[1], args[2]], [args[2]]
        return read, written

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # fake tensors ask it
            return func(*args, **(kwargs or {}))
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self.launches and not (self.launches[-1].read_bytes or self.launches[-1].write_bytes):
            self.launches.pop()  # of an empty cache: nothing is launched for no bytes
        return out


@dataclass
class Step:
    """The kernels of one micro-step, and the bytes that autograd has saved when the forward ends, by storage."""

    forward: list[Launch] = field(default_factory=list)
    backward: list[Launch] = field(default_factory=list)
    saved_bytes: int = 0
    saved: list[tuple[tuple[int, ...], torch.dtype, int]] = field(default_factory=list)


def build(config: GPT2Config, attn: str, dtype: torch.dtype, cls: str = "GPT2LMHeadModel") -> Any:
    """The model of a config in train mode."""
    return oracle.build(config, attn, dtype, train=True, cls=cls)


def inputs(
    config: GPT2Config, dtype: torch.dtype, batch: int, seq: int, encoder: int = 0, cls: str = "GPT2LMHeadModel"
) -> dict[str, torch.Tensor]:
    """What a step takes: ids, labels, and states of an encoder that is not trained."""
    ids = torch.empty((batch, seq), dtype=torch.long, device="meta")
    states = torch.empty((batch, encoder, config.n_embd), dtype=dtype, device="meta")
    labels = torch.empty_like(ids[:, 0] if cls == "GPT2ForSequenceClassification" else ids)
    labels = ids if cls == "GPT2LMHeadModel" else labels
    return {"input_ids": ids, "labels": labels, **({"encoder_hidden_states": states} if encoder else {})}


def step(
    config: GPT2Config, attn: str, dtype: torch.dtype, batch: int, seq: int, autocast: torch.dtype | None = None,
    encoder: int = 0, cls: str = "GPT2LMHeadModel",
) -> Step:  # fmt: skip
    """One micro-step of a model with weights in `dtype`, under autocast to `autocast` where given."""
    given = inputs(config, dtype, batch, seq, encoder, cls)
    answer = attn != "flash_attention_2"  # the sequences are not packed: see `oracle.trace`
    return traced_step(build(config, attn, dtype, cls), lambda model: model(**given).loss, autocast, answer)


def traced_step(
    model: Any, loss_of: Callable[[Any], Any], autocast: torch.dtype | None = None, answer: bool = True
) -> Step:
    """One micro-step of any model on the meta device, which is told `answer` of a tensor's values."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    saved: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage, tuple(tensor.shape), tensor.dtype
        return tensor

    with StepTrace(model) as record, trained_flash_attention():
        record.answer = answer
        with GPUFront(autocast), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(model)
        forward = list(record.launches)
        record.launches.clear()
        loss.backward()
    model.zero_grad(set_to_none=True)
    kept = [(shape, dtype, storage.nbytes()) for storage, shape, dtype in saved.values()]
    return Step(forward, list(record.launches), sum(size for *_, size in kept), kept)


def flash_attn_func(query: Any, key: Any, value: Any, dropout_p: float = 0.0, **kwargs: Any) -> Any:
    """Stands for the flash-attn package's kernel, which takes (batch, tokens, heads, head_dim)."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, kwargs.get("causal", False))[0].transpose(1, 2)


@contextlib.contextmanager
def trained_flash_attention() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "flash_attn_func", flash_attn_func)
        with oracle.stubbed_flash_attention():
            yield


class NoFront(TorchFunctionMode):
    """Attention as `GPUFront` has it, and nothing else: the real autocast does the rest.

    Calls that would ask for a guard of the device are spelt out.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            return indexed(*args)
        if func is torch.Tensor.contiguous:
            return args[0] if args[0].is_contiguous() else aten.clone(args[0], memory_format=torch.contiguous_format)
        if func is torch.nn.functional.scaled_dot_product_attention:
            return fused_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def indexed(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    index = index if isinstance(index, tuple) else (index,)
    if ... in index:
        dots, named = index.index(...), sum(part is not None for part in index) - 1
        index = (*index[:dots], *[slice(None)] * (tensor.dim() - named), *index[dots + 1 :])
    for dim, part in enumerate(index):
        if part is None:
            tensor = aten.unsqueeze(tensor, dim)
        elif isinstance(part, slice):
            tensor = aten.slice(tensor, dim, part.start, part.stop if part.stop is not None else 2**63 - 1)
    return tensor


@contextlib.contextmanager
def real_autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """CUDA's autocast without a CUDA: `torch.autocast` would switch itself off."""
    if dtype is None:
        yield
        return
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)


def fake_cuda_forward(
    config: GPT2Config, attn: str, dtype: torch.dtype, batch: int, seq: int, autocast: torch.dtype | None = None
) -> list[Launch]:
    """The forward's kernels on fake CUDA tensors with torch's own autocast."""
    return fake_cuda(build(config, attn, dtype), lambda model, ids: model(ids, labels=ids), dtype, batch, seq, autocast)


def fake_cuda(
    meta: Any, run: Callable[[Any, Any], Any], dtype: torch.dtype, batch: int, seq: int, autocast: torch.dtype | None
) -> list[Launch]:
    """The kernels of `run(model, ids)`, a forward of any model, there."""
    model = copy.deepcopy(meta)
    with FakeTensorMode(), default_dtype(dtype), torch.no_grad():
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = torch.nn.Parameter(torch.empty(weight.shape, device="cuda"), False)
        ids = torch.empty((batch, seq), dtype=torch.long, device="cuda")
        with StepTrace(model) as record, NoFront(), real_autocast(autocast):
            run(model, ids)
    return record.launches
