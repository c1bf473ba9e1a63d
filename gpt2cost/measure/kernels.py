"""The kernels of GPT-2 one by one, on the machine at hand: what `gpt2cost calibrate` measures. Needs torch.

A case is a record that says what it is (see `records`) and a function that builds what is timed. Operands
are windows of one pool, so that building costs nothing; weights rotate over copies that exceed the cache: cold, as in
a pass. Cases come in groups whose results are written together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import DynamicCache
from transformers.pytorch_utils import Conv1D

from gpt2cost.measure.plan import Sizes
from gpt2cost.measure.pool import DTYPES, Case, Pool, Run


def groups(sizes: Sizes, dtypes: tuple[str, ...], on_cpu: bool, first: bool) -> Iterator[list[Case]]:
    """All cases of a sweep, group by group. What depends on how much memory the process has used before comes in the
    first sweep alone, before all else."""
    if on_cpu and first:
        if sizes.cached_step is not None:
            n_layer, n_embd, batch, cache = sizes.cached_step
            yield [_layers("cached_layers", n_layer, "sdpa", n_embd, batch, cache)]
        yield _fresh(sizes)
    for dtype in dtypes:
        yield from _products(sizes, dtype)
        yield from _attention(sizes, dtype, on_cpu)
    for dtype in dtypes[:1] if on_cpu else dtypes:
        yield from _memory_bound(sizes, dtype)
    yield [_copy(1 << exponent) for exponent in sizes.copy_exponents]
    if not on_cpu:
        yield host_cases()
        return
    steps = [(n_layer, attn) for n_layer in sizes.step_layers for attn in ("sdpa", "eager")]
    yield [*host_cases(), *(_layers("layers", n_layer, attn, sizes.step_width) for n_layer, attn in steps)]


def _products(sizes: Sizes, dtype: str) -> Iterator[list[Case]]:
    for width in sizes.widths:
        for n, k in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)):
            yield [_product("addmm", dtype, m, n, k) for m in sizes.rows]
    n, k = sizes.vocab_size, sizes.widths[0]
    yield [_product("linear", dtype, m, n, k) for m in sizes.lm_head_rows]
    # a second shape at the same m: with one, a curve that has a node at each m fits any times
    yield [_product("linear", dtype, m, n // 2, 2 * k) for m in sizes.lm_head_rows[::3]]


def _product(op: str, dtype: str, m: int, n: int, k: int) -> Case:
    def build(pool: Pool) -> Run:
        x, bias = pool.take(m, k), pool.take(n)
        if op == "addmm":
            weight = pool.rotating(k, n)
            return lambda: torch.addmm(bias, x, weight())
        weight = pool.rotating(n, k)
        return lambda: F.linear(x, weight())

    record = {"kind": "gemm", "op": op, "dtype": dtype, "m": m, "n": n, "k": k}
    return Case(record, build, weight_bytes=n * k * DTYPES[dtype].itemsize)


def _attention(sizes: Sizes, dtype: str, on_cpu: bool) -> Iterator[list[Case]]:
    heads, head_dim = sizes.n_head, sizes.head_dim
    for batch in sizes.batches:
        group = []
        for new in sizes.tokens:
            for kv in sizes.tokens:
                if new > kv or kv == 1 or (batch > 1 and new * kv > 2**17 and on_cpu):
                    continue
                pairs = batch * heads
                group.append(_sdpa(dtype, batch, heads, head_dim, new, kv, "causal" if new == kv else "none"))
                if new > 1:
                    group.append(_sdpa(dtype, batch, heads, head_dim, new, kv, "explicit"))
                group.append(_bmm("scores", dtype, pairs, new, kv, head_dim))
                group.append(_bmm("context", dtype, pairs, new, head_dim, kv))
        yield group


def _sdpa(dtype: str, batch: int, heads: int, head_dim: int, new: int, kv: int, mask: str) -> Case:
    def build(pool: Pool) -> Run:
        query = pool.take(batch, new, heads, head_dim).transpose(1, 2)  # a view of c_attn's output, in a pass
        pairs = pool.rotating(2, batch, heads, kv, head_dim, most=16)
        bias = None
        if mask == "explicit":
            bias = torch.zeros(batch, 1, new, kv, dtype=query.dtype, device=query.device)

        def run() -> object:
            key, value = pairs()
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=mask == "causal")

        return run

    sizes = {
        "batch": batch,
        "heads": heads,
        "head_dim": head_dim,
        "new_tokens": new,
        "cached_tokens": kv - new,
        "kv_len": kv,
    }
    return Case({"kind": "sdpa", "dtype": dtype, **sizes, "mask": mask}, build)


def _bmm(op: str, dtype: str, batch: int, m: int, n: int, k: int) -> Case:
    def build(pool: Pool) -> Run:
        left = pool.take(batch, m, k)
        if op == "scores":
            keys = pool.rotating(batch, n, k, most=16)
            return lambda: torch.bmm(left, keys().transpose(1, 2))
        values = pool.rotating(batch, k, n, most=16)
        return lambda: torch.bmm(left, values())

    return Case({"kind": "bmm", "op": op, "dtype": dtype, "batch": batch, "m": m, "n": n, "k": k}, build)


def _memory_bound(sizes: Sizes, dtype: str) -> Iterator[list[Case]]:
    width = sizes.widths[0]
    pointwise: dict[str, Callable[[Any, Any], object]] = {
        "add": lambda x, y: x + y,
        "mul_scalar": lambda x, y: x * 0.5,
        "pow": lambda x, y: torch.pow(x, 3.0),
        "tanh": lambda x, y: torch.tanh(x),
        "gelu": lambda x, y: F.gelu(x, approximate="tanh"),
    }
    for rows in sizes.memory_rows:
        group = [
            _pointwise(op, function, dtype, rows, columns)
            for op, function in pointwise.items()
            for columns in (width, 4 * width)
        ]
        group += [_layer_norm(dtype, rows, width), _permuted_copy(dtype, rows, width), _gather(dtype, rows, width)]
        if rows > 1:
            group += [_softmax(dtype, 12 * rows, columns) for columns in (64, 512) if rows * columns <= 2**18]
            group.append(_where(dtype, rows, min(rows, 512)))
            group.append(_cat(dtype, 1, 12, rows, 1))
        yield group


def _pointwise(op: str, function: Callable[[Any, Any], object], dtype: str, rows: int, columns: int) -> Case:
    def build(pool: Pool) -> Run:
        x, y = pool.take(rows, columns), pool.take(rows, columns)
        return lambda: function(x, y)

    return Case({"kind": "elementwise", "op": op, "dtype": dtype, "rows": rows, "columns": columns}, build)


def _layer_norm(dtype: str, rows: int, columns: int) -> Case:
    def build(pool: Pool) -> Run:
        x, weight, bias = pool.take(rows, columns), pool.take(columns), pool.take(columns)
        return lambda: F.layer_norm(x, (columns,), weight, bias)

    return Case({"kind": "layer_norm", "dtype": dtype, "rows": rows, "columns": columns}, build)


def _softmax(dtype: str, rows: int, columns: int) -> Case:
    def build(pool: Pool) -> Run:
        x = pool.take(rows, columns)
        return lambda: F.softmax(x, -1)

    return Case({"kind": "softmax", "dtype": dtype, "rows": rows, "columns": columns}, build)


def _permuted_copy(dtype: str, rows: int, columns: int) -> Case:
    def build(pool: Pool) -> Run:
        x = pool.take(1, max(1, columns // 64), rows, min(64, columns)).transpose(1, 2)
        return lambda: x.contiguous()

    return Case({"kind": "permuted_copy", "dtype": dtype, "rows": rows, "columns": columns}, build)


def _gather(dtype: str, rows: int, columns: int) -> Case:
    def build(pool: Pool) -> Run:
        table = pool.data[: 8192 * columns].view(-1, columns)
        index = torch.randint(0, len(table), (rows,), device=pool.device)
        return lambda: F.embedding(index, table)

    return Case({"kind": "gather", "dtype": dtype, "rows": rows, "columns": columns}, build)


def _where(dtype: str, rows: int, columns: int) -> Case:
    """A boolean mask made into a float one."""

    def build(pool: Pool) -> Run:
        mask = torch.ones(rows, columns, dtype=torch.bool, device=pool.device).tril()
        zero, least = (torch.scalar_tensor(x, dtype=pool.data.dtype, device=pool.device) for x in (0.0, -1e4))
        return lambda: torch.where(mask, zero, least)

    return Case({"kind": "where", "dtype": dtype, "rows": rows, "columns": columns}, build)


def _cat(dtype: str, batch: int, heads: int, cached: int, new: int) -> Case:
    def build(pool: Pool) -> Run:
        past, rows = pool.rotating(batch, heads, cached, 64), pool.take(batch, heads, new, 64)
        return lambda: torch.cat((past(), rows), dim=-2)

    sizes = {"batch": batch, "heads": heads, "head_dim": 64, "cached_tokens": cached, "new_tokens": new}
    return Case({"kind": "cat", "dtype": dtype, **sizes}, build)


def _copy(elements: int) -> Case:
    """A copy into memory that is there: for the bandwidth, and where the caches end."""

    def build(pool: Pool) -> Run:
        x, y = pool.take(elements), torch.empty(elements, dtype=pool.data.dtype, device=pool.device).zero_()
        return lambda: y.copy_(x)

    return Case({"kind": "copy", "dtype": "fp32", "elements": elements}, build)


def _fresh(sizes: Sizes) -> list[Case]:
    """Outputs for which the system hands out memory anew: one large, and many that are kept as a cache is."""

    def single(megabytes: float) -> Case:
        def build(pool: Pool) -> Run:
            x = pool.take(int(megabytes * 250_000))
            return lambda: x * 2.0

        return Case({"kind": "fresh", "dtype": "fp32", "bytes": int(megabytes * 1e6), "tensors": 1}, build)

    def many(megabytes: float) -> Case:
        def build(pool: Pool) -> Run:
            past = pool.rotating(1, 12, int(megabytes * 250_000) // 768, 64)
            rows = pool.take(1, 12, 1, 64)
            return lambda: [torch.cat((past(), rows), dim=-2) for _ in range(24)]

        return Case({"kind": "fresh", "dtype": "fp32", "bytes": int(megabytes * 1e6), "tensors": 24}, build)

    return [*map(single, sizes.fresh_mb), *map(many, sizes.kept_mb)]


def host_cases() -> list[Case]:
    """Small ops, whose time is the interpreter's and the dispatcher's."""

    def case(op: str, build: Callable[[Pool], Run]) -> Case:
        return Case({"kind": "host", "op": op}, build)

    def on(pool: Pool, module: Any) -> Any:
        return module.to(device=pool.device, dtype=pool.data.dtype).eval()

    def module(make: Callable[[], Any], *shape: int) -> Callable[[Pool], Run]:
        def build(pool: Pool) -> Run:
            made, x = on(pool, make()), pool.take(*shape)
            return lambda: made(x)

        return build

    def op(function: Callable[[Any], object], *shape: int) -> Callable[[Pool], Run]:
        def build(pool: Pool) -> Run:
            x = pool.take(*shape)
            return lambda: function(x)

        return build

    nothing = None
    return [
        case("add", op(lambda x: x + x, 16)),
        case("mul_scalar", op(lambda x: x * 0.5, 16)),
        case("pow", op(lambda x: torch.pow(x, 3.0), 16)),
        case("tanh", op(lambda x: torch.tanh(x), 16)),
        case("addmm", op(lambda x: torch.addmm(x[0], x, x), 16, 16)),
        case("linear_module", module(lambda: torch.nn.Linear(16, 16), 1, 16, 16)),
        case("conv1d_module", module(lambda: Conv1D(16, 16), 1, 16, 16)),
        case("layer_norm_module", module(lambda: torch.nn.LayerNorm(16), 1, 16, 16)),
        case("layer_norm", op(lambda x: F.layer_norm(x, (16,), x[0, 0], x[0, 0]), 1, 16, 16)),
        case("dropout_module", module(lambda: torch.nn.Dropout(), 16)),
        case("view", op(lambda x: x.view(16, 16), 1, 16, 16)),
        case("transpose", op(lambda x: x.transpose(1, 2), 1, 1, 16, 16)),
        case("select", op(lambda x: x[0], 16, 16)),
        case("select_3d", op(lambda x: x[0, 0], 1, 16, 16)),
        case("empty_python_call", op(lambda x: nothing, 16)),
    ]


def _layers(kind: str, n_layer: int, attn: str, n_embd: int, batch: int = 1, cache: int = 8) -> Case:
    """A decode step of a small model, for what only shows in a pass: what the interpreter takes when kernels sweep its
    caches, and the memory that a large KV cache takes."""
    n_head = max(2, n_embd // 64)
    sizes = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "vocab_size": 128, "n_positions": 1024}

    def build(pool: Pool) -> Run:
        config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, attn_implementation=attn)
        model = GPT2LMHeadModel(config).eval().to(pool.device)
        ids = torch.zeros((batch, 1), dtype=torch.long, device=pool.device)
        shape = (batch, n_head, cache, n_embd // n_head)
        pairs = [(pool.take(*shape), pool.take(*shape)) for _ in range(n_layer)]
        past = DynamicCache(config=config)
        for layer, (key, value) in zip(past.layers, pairs, strict=True):
            layer.lazy_initialization(key, value)

        def run() -> object:
            for layer, (key, value) in zip(past.layers, pairs, strict=True):
                layer.keys, layer.values = key, value
            return model(ids, past, use_cache=True)

        return run

    return Case({"kind": kind, **sizes, "attn": attn, "batch": batch, "seq": 1, "cache": cache}, build)
