"""What the real model does: a dispatch trace of HuggingFace's `GPT2LMHeadModel` on the meta device.

The trace is the oracle of the cost table, and shares no code with it. Every aten call that launches a kernel is a
`Launch`: the op, the module that called it, its FLOPs as torch's own counter has them, and its operand bytes. Views
are left out. One rule for bytes: each operand is read or written once, a dimension of stride 0 counts once, and a
gather reads the rows that it copies.

Fused attention is one launch, as on a GPU: `scaled_dot_product_attention` has no fused kernel on the meta device, so
the call is taken over where torch's C++ front would dispatch it, after the conversion of a boolean mask to a float
one. The flash-attn package is stubbed in the same way.
"""

from __future__ import annotations

import contextlib
import functools
import json
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
import torch
import transformers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import GPT2Config, modeling_flash_attention_utils
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

aten = torch.ops.aten

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}

# Ops that move no data: they return a view, allocate without writing, or read a scalar back (the `SYNCS`).
VIEWS = {
    "alias", "as_strided", "detach", "empty", "empty_like", "expand", "lift_fresh", "new_empty", "permute", "resize_",
    "select", "slice", "split", "squeeze", "t", "transpose", "unsqueeze", "view", "_unsafe_view", "_reshape_alias",
}  # fmt: skip
SYNCS = {"_local_scalar_dense", "is_nonzero", "equal"}


Shapes: TypeAlias = frozenset[tuple[int, ...]]


@dataclass(frozen=True)
class Launch:
    """One kernel of the real model. `gemm` is (batch, m, n, k) for a matrix product, else None.

    `layout`: how a matrix product's operands lie in memory, each N (rows together), T (columns together) or ? (a
    vector); "" of other kernels. `read`, `written`: the shapes of its operands and results.
    """

    module: str
    op: str
    flops: int
    read_bytes: int
    write_bytes: int
    gemm: tuple[int, int, int, int] | None
    layout: str = ""
    read: tuple[Shapes, ...] = ()
    written: tuple[Shapes, ...] = ()


def shapes_of(tensor: torch.Tensor) -> Shapes:
    """A tensor's shapes, a dimension of stride 0 being 1: as it is called, transposed, and as it lies in memory."""
    sizes = tuple(size if stride else min(size, 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    by_stride = sorted(range(tensor.dim()), key=lambda dim: -tensor.stride()[dim])
    return frozenset({sizes, (*sizes[:-2], *sizes[:-3:-1]), tuple(sizes[dim] for dim in by_stride)})


def stored_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements, a dimension of stride 0 counted once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count * tensor.element_size()


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


FACTORS = {"mm": slice(0, 2), "bmm": slice(0, 2), "addmm": slice(1, 3), "baddbmm": slice(1, 3)}
"""A matrix product -> the places of its two matrices among its arguments."""


def gemm_shape(op: str, args: tuple[Any, ...]) -> tuple[int, int, int, int] | None:
    if op not in FACTORS:
        return None
    a, b = args[FACTORS[op]]
    return (a.shape[0] if a.dim() == 3 else 1, a.shape[-2], b.shape[-1], a.shape[-1])


def gemm_layout(op: str, args: tuple[Any, ...]) -> str:
    def one(matrix: torch.Tensor) -> str:
        if 1 in matrix.shape[-2:]:
            return "?"
        assert 1 in matrix.stride()[-2:]
        return "N" if matrix.stride()[-1] == 1 else "T"

    return "".join(map(one, args[FACTORS[op]])) if op in FACTORS else ""


class Trace(TorchDispatchMode):
    """Records every kernel; answers data-dependent questions on meta tensors with `answer`: not packed."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self.syncs = 0
        self.views: list[tuple[int, tuple[int, ...]]] = []  # launches before it, and the shape of what it returns
        self.stack: list[str] = [""]
        self.live: dict[int, list[int]] = {}  # storage -> [bytes, tensors that hold it]
        self.peak_bytes = 0
        self.handles: list[Any] = []
        self.answer: bool | None = True  # None: the data is there, and answers
        for name, module in model.named_modules():
            self.handles.append(module.register_forward_pre_hook(lambda *_, name=name: self.stack.append(name)))
            self.handles.append(module.register_forward_hook(lambda *_: [self.stack.pop()].clear()))

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        for handle in self.handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = func.overloadpacket.__name__
        if op in SYNCS:
            self.syncs += 1
            return func(*args, **kwargs) if self.answer is None else self.answer
        out = func(*args, **kwargs)
        self.hold(tensors(out)[:1] if "attention" in op else tensors(out), is_view=op in VIEWS)
        if op in VIEWS:
            self.views += [(len(self.launches), tuple(view.shape)) for view in tensors(out)]
        else:
            self.launches.append(self.launch(func, op, args, kwargs, out))
        return out

    def hold(self, made: list[torch.Tensor], is_view: bool = False) -> None:
        """Count the storages of `made` as alive until the last tensor that shares them is gone."""
        for tensor in made:
            storage = tensor.untyped_storage()
            if is_view and storage._cdata not in self.live:
                continue  # a view of a weight or of the input
            entry = self.live.setdefault(storage._cdata, [storage.nbytes(), 0])
            entry[1] += 1
            weakref.finalize(tensor, self.release, storage._cdata)
        self.peak_bytes = max(self.peak_bytes, sum(size for size, _ in self.live.values()))

    def release(self, storage: int) -> None:
        self.live[storage][1] -= 1
        if not self.live[storage][1]:
            del self.live[storage]

    def operands(self, op: str, args: Any, kwargs: Any, out: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What a kernel reads, and what it writes."""
        inputs, outputs = ([t for t in tensors(tree) if t.numel()] for tree in ((args, kwargs), out))
        if op == "gather":
            return [args[2], out], outputs
        if op == "embedding":  # a gather reads the indices and the rows that it copies
            return [args[1], out], outputs
        if op == "baddbmm" and kwargs.get("beta") == 0:  # the input is not read
            return inputs[1:], outputs
        if op in ("new_ones", "full_like") or (op.endswith("_") and op.startswith("fill")):
            return [], outputs
        if op == "index_copy_":  # writes the new rows, and does not read what it is written into
            return inputs[1:], inputs[2:]
        if "attention" in op:  # the log-sum-exp and the random state are saved for the backward pass only
            return inputs, outputs[:1]
        return inputs, outputs

    def launch(self, func: Any, op: str, args: Any, kwargs: Any, out: Any) -> Launch:
        read, written = self.operands(op, args, kwargs, out)
        counter = flop_registry.get(func.overloadpacket)
        flops = int(counter(*args, **kwargs, out_val=out)) if counter else 0
        shape, layout = gemm_shape(op, args), gemm_layout(op, args)
        return Launch(
            self.stack[-1], op, flops, sum(map(stored_bytes, read)), sum(map(stored_bytes, written)), shape, layout,
            tuple(map(shapes_of, read)), tuple(map(shapes_of, written)),
        )  # fmt: skip


class FusedAttention(TorchFunctionMode):
    """Gives `scaled_dot_product_attention` the fused kernel that a GPU would run.

    A list as an index is copied to the device, and the host waits for the copy: a wait of the `trace`.
    """

    def __init__(self, trace: Trace | None = None) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.trace and func is torch.Tensor.__getitem__ and isinstance(args[1], tuple):
            self.trace.syncs += sum(
                isinstance(place, list) for place in args[1]
            )  # the list is copied to the device, and the host waits for the copy
        if func is torch.nn.functional.scaled_dot_product_attention:
            return self.fused(*args, **kwargs)
        return func(*args, **kwargs)

    def fused(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Any:
        if attn_mask is None:
            return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
        minus_infinity = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=query.device)
        zero = torch.scalar_tensor(0.0, dtype=query.dtype, device=query.device)
        bias = torch.where(attn_mask, zero, minus_infinity).expand(*query.shape[:3], key.shape[2])
        del minus_infinity, zero
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, False, dropout_p, is_causal, scale=scale
        )[0]


def flash_attn_func(query: Any, key: Any, value: Any, **kwargs: Any) -> Any:
    """Stands for the flash-attn package's kernel, which takes (batch, tokens, heads, head_dim)."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, kwargs.get("causal", False))[0].transpose(1, 2)


@contextlib.contextmanager
def stubbed_flash_attention() -> Iterator[None]:
    stubs = (flash_attn_func, flash_attn_func, None, None, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            modeling_flash_attention_utils,
            "lazy_import_flash_attention",
            lambda *_, **__: (stubs, (lambda **kw: kw, None)),
        )
        yield


@contextlib.contextmanager
def capturing(captured: bool) -> Iterator[None]:
    """Transformers asks no question of a tensor while a graph is being captured."""
    with pytest.MonkeyPatch.context() as patch:
        if captured:
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        yield


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(old)


def tiny(**keys: Any) -> GPT2Config:
    """A small model, with some of its keys set."""
    base = {"n_layer": 2, "n_embd": 24, "n_head": 3, "vocab_size": 11, "bos_token_id": None, "eos_token_id": None}
    return GPT2Config(**{**base, **keys})


def build(config: GPT2Config, attn: str, dtype: torch.dtype, train: bool = False, cls: str = "GPT2LMHeadModel") -> Any:
    """The model of a config, built once: a trace leaves nothing behind in it but gradients."""
    return _built(config.to_json_string(use_diff=False), attn, dtype, train, cls)


@functools.lru_cache(maxsize=16)
def _built(config: str, attn: str, dtype: torch.dtype, train: bool, cls: str) -> Any:
    with default_dtype(dtype), torch.device("meta"):
        model = getattr(transformers, cls)(GPT2Config(**json.loads(config))).train(train)
    model.config._attn_implementation = attn  # after construction, which would look for the flash-attn package
    return model


def trace(
    config: GPT2Config,
    attn: str,
    dtype: torch.dtype,
    batch: int,
    seq: int,
    cache: int,
    use_cache: bool = True,
    logits_to_keep: int = 0,
    padded: bool = False,
    static: int = 0,
    captured: bool = False,
    cls: str = "GPT2LMHeadModel",
    encoder: int = 0,
) -> Trace:
    """The kernels of one pass. `static`: the length of a static cache; `captured`: while a CUDA graph is recorded.

    `encoder`: how many states of an encoder are passed, whose keys and values a cache that is not empty has.
    """
    model = build(config, attn, dtype, cls=cls)
    ids = torch.empty((batch, seq), dtype=torch.long, device="meta")
    mask = torch.empty((batch, cache + seq), dtype=torch.long, device="meta") if padded else None
    past = StaticCache(config, static) if static else DynamicCache(config=config) if cache else None
    if cache:
        shape = (batch, config.n_head, cache, config.n_embd // config.n_head)
        for layer in range(config.n_layer):
            past.update(
                torch.empty(shape, dtype=dtype, device="meta"), torch.empty(shape, dtype=dtype, device="meta"), layer
            )
    with (
        torch.no_grad(),
        stubbed_flash_attention(),
        capturing(captured),
        Trace(model) as record,
        FusedAttention(record),
    ):
        for layer in past.layers if cache else ():
            record.hold([layer.keys, layer.values])
        record.answer = (
            attn != "flash_attention_2"
        )  # not packed: "all in one sequence" is true, "several sequences" is false
        if padded or static:
            record.answer = False  # the mask is not all ones; a cache of which is asked whether it is empty is not
        if encoder and past is not None:
            crossed = StaticCache(config, encoder) if static else DynamicCache(config=config)
            for layer in range(config.n_layer if cache else 0):
                own = (batch, config.n_head, encoder, config.n_embd // config.n_head)
                crossed.update(*(torch.empty(own, dtype=dtype, device="meta") for _ in range(2)), layer)
            past = EncoderDecoderCache(past, crossed)
            past.is_updated = dict.fromkeys(range(config.n_layer), cache > 0)
            record.launches.clear()
            record.syncs = 0
        states = torch.empty((batch, encoder, config.n_embd), dtype=dtype, device="meta") if encoder else None
        passed = {} if states is None else {"encoder_hidden_states": states}
        kept = {"logits_to_keep": logits_to_keep} if cls == "GPT2LMHeadModel" else {}
        model(ids, past, use_cache=use_cache, attention_mask=mask, **kept, **passed)
    if static:  # a new static cache counts its tokens on the CPU, and moves the count to the meta device as no other
        record.launches = [
            x
            for x in record.launches
            if (x.op, x.write_bytes) != ("_to_copy", 8) or not x.module.endswith(("attn", "crossattention"))
        ]
    return record
