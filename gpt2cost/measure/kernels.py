"""The kernels of GPT-2 one by one, on the machine at hand: what `gpt2cost calibrate` measures. Needs torch.

A case is a record that says what it is (see `records`); `built` makes what is timed of it. Operands are windows of one
pool, so that building costs nothing; weights rotate over copies that exceed the cache: cold, as in a pass. Cases come
in groups whose results are written together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from gpt2cost.measure.passes import cached_run
from gpt2cost.measure.plan import KernelSizes
from gpt2cost.measure.pool import DTYPES, Pool, Run
from gpt2cost.measure.records import Measurement

SMALL = ("bmm", "sdpa", "elementwise", "layer_norm", "softmax", "permuted_copy", "gather", "where", "cat")
"""Kinds of records that are timed with a `neighbour` on a CPU: alone, one after the other, they run out of its first
caches, two to four times as fast as in a pass."""
_SWEPT = (768, 3072)
"""Weights of the neighbour: 9 MB in fp32, those of gpt2's largest product of a layer."""
_INDICES = 64
"""Over how many random choices of a table's rows a gather rotates: a pass finds its rows cold."""
Case: TypeAlias = dict[str, Any]
"""A record without times: a kind, a dtype, and the sizes that `built` needs."""


# ---------------------------------------------------------------------------------------------- which


def groups(sizes: KernelSizes, dtypes: tuple[str, ...], on_cpu: bool, first: bool) -> Iterator[list[Case]]:
    """All cases of a sweep, group by group. Fresh memory comes in the first sweep alone, before all else: later, the
    process holds free memory for any output."""
    if on_cpu and first:
        yield [{"kind": "fresh", "dtype": "fp32", "bytes": int(mb * 1e6), "tensors": 1} for mb in sizes.fresh_mb]
    for dtype in dtypes:
        yield from _products(sizes, dtype)
        yield from _attention(sizes, dtype, on_cpu)
    for dtype in dtypes[:1] if on_cpu else dtypes:
        yield from _memory_bound(sizes, dtype)
    yield [{"kind": "copy", "dtype": "fp32", "elements": 1 << exponent} for exponent in sizes.copy_exponents]
    if not on_cpu:
        yield host_cases()
        return
    steps = [(n_layer, attn) for n_layer in sizes.step_layers for attn in ("sdpa", "eager")]
    yield [*host_cases(), *(_step(n_layer, attn, sizes.step_width) for n_layer, attn in steps)]


def _products(sizes: KernelSizes, dtype: str) -> Iterator[list[Case]]:
    def product(op: str, m: int, n: int, k: int) -> Case:
        return {"kind": "gemm", "op": op, "dtype": dtype, "m": m, "n": n, "k": k}

    for width in sizes.widths:
        for n, k in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)):
            yield [product("addmm", m, n, k) for m in sizes.rows]
    n, k = sizes.vocab_size, sizes.widths[0]
    yield [product("linear", m, n, k) for m in sizes.lm_head_rows]
    # a second shape at the same m: with one, a curve that has a node at each m fits any times
    yield [product("linear", m, n // 2, 2 * k) for m in sizes.lm_head_rows[::3]]


def _attention(sizes: KernelSizes, dtype: str, on_cpu: bool) -> Iterator[list[Case]]:
    heads, head_dim = sizes.n_head, sizes.head_dim
    for batch in sizes.batches:
        group: list[Case] = []
        for new in sizes.tokens:
            for kv in sizes.tokens:
                if new > kv or kv == 1 or (batch > 1 and new * kv > 2**17 and on_cpu):
                    continue
                shape = {"batch": batch, "heads": heads, "head_dim": head_dim, "new_tokens": new}
                sdpa = {"kind": "sdpa", "dtype": dtype, **shape, "cached_tokens": kv - new, "kv_len": kv}
                group.append({**sdpa, "mask": "causal" if new == kv else "none"})
                if new > 1:
                    group.append({**sdpa, "mask": "explicit"})
                for op, n, k in (("scores", kv, head_dim), ("context", head_dim, kv)):
                    product = {"batch": batch * heads, "m": new, "n": n, "k": k}
                    group.append({"kind": "bmm", "op": op, "dtype": dtype, **product})
        yield group


def _memory_bound(sizes: KernelSizes, dtype: str) -> Iterator[list[Case]]:
    width = sizes.widths[0]

    def case(kind: str, rows: int, columns: int, **op: str) -> Case:
        return {"kind": kind, **op, "dtype": dtype, "rows": rows, "columns": columns}

    for rows in sizes.memory_rows:
        group = [case("elementwise", rows, columns, op=op) for op in _POINTWISE for columns in (width, 4 * width)]
        group += [case(kind, rows, width) for kind in ("layer_norm", "permuted_copy", "gather")]
        if rows > 1:
            group += [case("softmax", 12 * rows, columns) for columns in (64, 512) if rows * columns <= 2**18]
            group.append(case("where", rows, min(rows, 512)))
            heads = {"batch": 1, "heads": 12, "head_dim": 64}
            group.append({"kind": "cat", "dtype": dtype, **heads, "cached_tokens": rows, "new_tokens": 1})
        yield group


def host_cases() -> list[Case]:
    """Small ops, whose time is the interpreter's and the dispatcher's."""
    return [{"kind": "host", "op": op} for op in (*_HOST_OPS, *_HOST_MODULES)]


def _step(n_layer: int, attn: str, n_embd: int) -> Case:
    """A decode step of a small model, for what only shows in a pass: what the interpreter takes when kernels sweep its
    caches."""
    model = {"n_layer": n_layer, "n_head": max(2, n_embd // 64), "n_embd": n_embd, "vocab_size": 128}
    return {"kind": "layers", **model, "n_positions": 1024, "attn": attn, "batch": 1, "seq": 1, "cache": 8}


# ---------------------------------------------------------------------------------------------- what is timed


def built(case: Measurement, pool: Pool) -> Run:
    """The function to time, on operands from the pool of the case's dtype."""
    return _BUILDERS[case["kind"]](
        pool, **{name: case[name] for name in case if name not in ("kind", "dtype", "sweep")}
    )


def neighbour(pool: Pool) -> Run:
    """What runs between two calls of a small kernel on a CPU, as in a pass: a product, whose weights sweep the caches
    of code and data."""
    width, columns = _SWEPT
    x, weight = pool.take(1, width), pool.rotating(width, min(columns, len(pool.data) // width))
    return lambda: torch.mm(x, weight())


def weight_bytes(case: Measurement) -> int:
    """Of how many bytes of weights each call reads others than the last: a device has to make enough calls to find
    them cold."""
    return int(case["n"] * case["k"] * DTYPES[case["dtype"]].itemsize) if case["kind"] == "gemm" else 0


def _gemm(pool: Pool, op: str, m: int, n: int, k: int) -> Run:
    x, bias = pool.take(m, k), pool.take(n)
    if op == "addmm":
        weight = pool.rotating(k, n)
        return lambda: torch.addmm(bias, x, weight())
    weight = pool.rotating(n, k)
    return lambda: F.linear(x, weight())


def _sdpa(
    pool: Pool, batch: int, heads: int, head_dim: int, new_tokens: int, cached_tokens: int, kv_len: int, mask: str
) -> Run:
    query = pool.take(batch, new_tokens, heads, head_dim).transpose(1, 2)  # a view of c_attn's output, in a pass
    pairs = pool.rotating(2, batch, heads, kv_len, head_dim, most=_caches(pool))
    bias = None
    if mask == "explicit":
        bias = torch.zeros(batch, 1, new_tokens, kv_len, dtype=query.dtype, device=query.device)
        if query.is_cuda:
            bias = bias == 0  # Boolean, as transformers gives it: a GPU's fit counts its conversion

    def run() -> object:
        key, value = pairs()
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=mask == "causal")

    return run


def _bmm(pool: Pool, op: str, batch: int, m: int, n: int, k: int) -> Run:
    left = pool.take(batch, m, k)
    if op == "scores":
        keys = pool.rotating(batch, n, k, most=_caches(pool))
        return lambda: torch.bmm(left, keys().transpose(1, 2))
    values = pool.rotating(batch, k, n, most=_caches(pool))
    return lambda: torch.bmm(left, values())


def _caches(pool: Pool) -> int:
    """Over how many windows keys and values rotate. On a CPU they are where `cat` has just left them, in the caches as
    far as they fit: `neighbour` alone comes in between."""
    return 1 if pool.device == "cpu" else 16


_POINTWISE: dict[str, Callable[[Any, Any], object]] = {
    "add": lambda x, y: x + y,
    "mul_scalar": lambda x, y: x * 0.5,
    "pow": lambda x, y: torch.pow(x, 3.0),
    "tanh": lambda x, y: torch.tanh(x),
    "gelu": lambda x, y: F.gelu(x, approximate="tanh"),
}


def _elementwise(pool: Pool, op: str, rows: int, columns: int) -> Run:
    function, x, y = _POINTWISE[op], pool.take(rows, columns), pool.take(rows, columns)
    return lambda: function(x, y)


def _layer_norm(pool: Pool, rows: int, columns: int) -> Run:
    x, weight, bias = pool.take(rows, columns), pool.take(columns), pool.take(columns)
    return lambda: F.layer_norm(x, (columns,), weight, bias)


def _softmax(pool: Pool, rows: int, columns: int) -> Run:
    x = pool.take(rows, columns)
    return lambda: F.softmax(x, -1)


def _permuted_copy(pool: Pool, rows: int, columns: int) -> Run:
    x = pool.take(1, max(1, columns // 64), rows, min(64, columns)).transpose(1, 2)
    return lambda: x.contiguous()


def _gather(pool: Pool, rows: int, columns: int) -> Run:
    table = pool.data[: 8192 * columns].view(-1, columns)
    indices = cycle([torch.randint(0, len(table), (rows,), device=pool.device) for _ in range(_INDICES)])
    return lambda: F.embedding(next(indices), table)


def _where(pool: Pool, rows: int, columns: int) -> Run:
    """A boolean mask made into a float one."""
    mask = torch.ones(rows, columns, dtype=torch.bool, device=pool.device).tril()
    zero, least = (torch.scalar_tensor(x, dtype=pool.data.dtype, device=pool.device) for x in (0.0, -1e4))
    return lambda: torch.where(mask, zero, least)


def _cat(pool: Pool, batch: int, heads: int, head_dim: int, cached_tokens: int, new_tokens: int) -> Run:
    past, rows = pool.rotating(batch, heads, cached_tokens, head_dim), pool.take(batch, heads, new_tokens, head_dim)
    return lambda: torch.cat((past(), rows), dim=-2)


def _copy(pool: Pool, elements: int) -> Run:
    """A copy into memory that is there: for the bandwidth, and where the caches end."""
    x, y = pool.take(elements), torch.empty(elements, dtype=pool.data.dtype, device=pool.device).zero_()
    return lambda: y.copy_(x)


def _fresh(pool: Pool, bytes: int, tensors: int) -> Run:
    """An output for which the system may have to hand out memory anew, every time."""
    x = pool.take(bytes // 4)
    return lambda: [x * 2.0 for _ in range(tensors)]


_HOST_OPS: dict[str, tuple[tuple[int, ...], Callable[[Any], object]]] = {
    "add": ((16,), lambda x: x + x),
    "mul_scalar": ((16,), lambda x: x * 0.5),
    "pow": ((16,), lambda x: torch.pow(x, 3.0)),
    "tanh": ((16,), lambda x: torch.tanh(x)),
    "addmm": ((16, 16), lambda x: torch.addmm(x[0], x, x)),
    "layer_norm": ((1, 16, 16), lambda x: F.layer_norm(x, (16,), x[0, 0], x[0, 0])),
    "view": ((1, 16, 16), lambda x: x.view(16, 16)),
    "transpose": ((1, 1, 16, 16), lambda x: x.transpose(1, 2)),
    "select": ((16, 16), lambda x: x[0]),
    "select_3d": ((1, 16, 16), lambda x: x[0, 0]),
    "empty_python_call": ((16,), lambda x: None),
}
"""An op -> the shape of its operand, and what runs it."""
_HOST_MODULES: dict[str, tuple[tuple[int, ...], Callable[[], Any]]] = {
    "linear_module": ((1, 16, 16), lambda: torch.nn.Linear(16, 16)),
    "conv1d_module": ((1, 16, 16), lambda: Conv1D(16, 16)),
    "layer_norm_module": ((1, 16, 16), lambda: torch.nn.LayerNorm(16)),
    "dropout_module": ((16,), torch.nn.Dropout),
}
"""A module -> the shape of its operand, and what makes it."""


def _host(pool: Pool, op: str) -> Run:
    if op in _HOST_OPS:
        shape, function = _HOST_OPS[op]
    else:
        shape, make = _HOST_MODULES[op]
        function = make().to(device=pool.device, dtype=pool.data.dtype).eval()
    x = pool.take(*shape)
    return lambda: function(x)


def _layers(pool: Pool, attn: str, batch: int, seq: int, cache: int, **sizes: int) -> Run:
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, attn_implementation=attn)
    model = GPT2LMHeadModel(config).eval().to(pool.device)
    ids = torch.zeros((batch, seq), dtype=torch.long, device=pool.device)
    shape = (batch, config.n_head, cache, config.n_embd // config.n_head)
    return cached_run(model, ids, config, [(pool.take(*shape), pool.take(*shape)) for _ in range(config.n_layer)])


_BUILDERS: Mapping[str, Callable[..., Run]] = {
    "gemm": _gemm, "bmm": _bmm, "sdpa": _sdpa, "elementwise": _elementwise, "layer_norm": _layer_norm,
    "softmax": _softmax, "permuted_copy": _permuted_copy, "gather": _gather, "where": _where, "cat": _cat,
    "copy": _copy, "fresh": _fresh, "host": _host, "layers": _layers,
}  # fmt: skip
"""Kind of a record -> what builds it, from its sizes."""
