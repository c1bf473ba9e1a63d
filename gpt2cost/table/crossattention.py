"""GPT2Attention's other branch: queries of the decoder's tokens over keys and values of an encoder's states.

No mask is passed: the encoder's states have none, and every query meets every key. Keys and values are made in the pass
on an empty cache, which keeps them; later passes read them there. Without a cache every pass makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpt2cost.table.attention import MERGE_HEADS_COPY, SPLIT_HEADS_COPY
from gpt2cost.table.builders import copy, output, pointwise, tensor
from gpt2cost.table.citations import cite
from gpt2cost.table.dropout import NOT_CALLED
from gpt2cost.table.formula import ALWAYS, Condition
from gpt2cost.table.kernel import Free, FusedAttention, Gemm, Kernel, Module, Tensor
from gpt2cost.table.options import TableOptions
from gpt2cost.table.quantization import projection
from gpt2cost.table.symbols import B, C, D, E, H, T, hd

SRC = "GPT2Attention.forward"
IN_C_ATTN = "crossattention.c_attn"
GROUP = "cross_scores"


@dataclass(frozen=True)
class _Encoded:
    """The query (B, H, T, hd), and the encoder's keys and values (B, H, E, hd); `cached`: as a cache has them."""

    query: Tensor
    key: Tensor
    value: Tensor
    cached: bool


def cross_attention(x: Tensor, options: TableOptions) -> tuple[Module, Tensor]:
    """GPT2Attention with `is_cross_attention`, as GPT2Block calls it."""
    q_attn = projection(x, D, D, "crossattention.q_attn", cite(SRC, "self.q_attn(hidden_states)"), options)
    query = tensor("cross_query", B, H, T, hd, view_of="crossattention.q_attn")
    cached = options.use_cache
    made = C.is_zero() if cached else ALWAYS
    encoder = tensor("encoder_hidden_states", B, E, D)
    source = cite(SRC, "self.c_attn(encoder_hidden_states)")
    c_attn = projection(encoder, 2 * D, D, IN_C_ATTN, source, options, rows=(B, E), when=made)
    new = [tensor(f"cross_new_{name}", B, H, E, hd, view_of=IN_C_ATTN) for name in ("key", "value")]
    key, value = (
        Tensor(f"cross_{name}", (B, H, E, hd), view_of="" if cached else IN_C_ATTN, by_head=cached)
        for name in ("key", "value")
    )
    encoded = _Encoded(query, key, value, cached)
    kernels, merged = (_eager if options.attn == "eager" else _fused)(encoded, options)
    c_proj = projection(merged, D, D, "crossattention.c_proj", cite(SRC, "self.c_proj(attn_output)"), options)
    y = output(c_proj)
    drop = Module("resid_dropout", "Dropout", (Free("resid_dropout", "call", inputs=(y,), outputs=(y,)),), passes=y)
    split = Free("split", "view", 5, made, inputs=(output(c_attn),), outputs=tuple(new))
    children = (
        Free("crossattention", "call", inputs=(x,), outputs=(y,)),
        q_attn,
        c_attn,
        split,
        Free("split_query", "view", 2, inputs=(output(q_attn),), outputs=(query,)),
        *(_cache(new, (key, value), made) if cached else ()),
        *kernels,
        NOT_CALLED,
        c_proj,
        drop,
    )
    return Module("crossattention", "GPT2Attention", children), y


def _cache(new: list[Tensor], full: tuple[Tensor, Tensor], made: Condition) -> tuple[Kernel, ...]:
    """The cache's first `update`: a cat with nothing before it."""
    file = "cache_utils.py"
    sources = (cite("DynamicLayer.update", f"self.{name} = torch.cat(", file=file) for name in ("keys", "values"))
    names = ("cat_cross_key", "cat_cross_value")
    return tuple(copy(*each, made) for each in zip(names, ("cat", "cat"), new, full, sources, strict=True))


def _fused(x: _Encoded, options: TableOptions) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """sdpa, or flash attention: one kernel."""
    is_flash = options.attn == "flash_attention_2"
    if is_flash:
        source = cite(
            "_flash_attention_forward", "out = flash_fn(query_states", file="modeling_flash_attention_utils.py"
        )
        x = replace(x, query=_by_token(x.query), key=_by_token(x.key), value=_by_token(x.value))
    else:
        source = cite(
            "sdpa_attention_forward", "torch.nn.functional.scaled_dot_product_attention(", file="sdpa_attention.py"
        )
    op = "flash_attn_func" if is_flash else "scaled_dot_product_attention"
    attended, merged = tensor("cross_merged", *x.query.shape), tensor("cross_merged", B, T, D)
    shape = FusedAttention(B, H, hd, T, E, masked=False, causal=False)
    kernel = Kernel(
        op, op, "attention", (x.query, x.key, x.value), (attended,), 4 * B * H * T * E * hd, source, shape=shape
    )
    return (kernel, Free("views", "view", 2, inputs=(attended,), outputs=(merged,))), merged


def _by_token(x: Tensor) -> Tensor:
    return replace(x, shape=(B, x.shape[2], H, hd))


def _eager(x: _Encoded, options: TableOptions) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`eager_attention_forward` without a mask."""
    src = "eager_attention_forward"
    multiply = cite(src, "attn_weights = torch.matmul(query, key.transpose(-1, -2)) * scaling")
    weigh, merge = (
        cite(src, "attn_output = torch.matmul(attn_weights, value)"),
        cite(SRC, "attn_output = attn_output.reshape("),
    )
    scores, scaled, soft = (tensor(name, B, H, T, E) for name in ("cross_scores", "cross_scaled", "cross_softmax"))
    query = replace(x.query, name="cross_query.copy")
    key, value = (each if x.cached else replace(each, name=f"{each.name}.copy") for each in (x.key, x.value))
    heads = Tensor("cross_context", (B, H, T, hd), by_head=True)
    by_token, merged = tensor("cross_merged", B, T, H, hd), tensor("cross_merged", B, T, D)
    copied = () if x.cached else (copy("clone_key", "clone", x.key, key, multiply, SPLIT_HEADS_COPY),)
    copied_value = () if x.cached else (copy("clone_value", "clone", x.value, value, weigh, SPLIT_HEADS_COPY),)
    return (
        copy("clone_query", "clone", x.query, query, multiply, SPLIT_HEADS_COPY & (T > 1)),
        *copied,
        Kernel(
            "scores", "bmm", "bmm", (query, key), (scores,), 2 * B * H * T * E * hd, multiply,
            shape=Gemm(B * H, T, E, hd, "NT"),
        ),
        pointwise("scale", "mul", (scores,), scaled, multiply, fusion_group=GROUP),
        Kernel(
            "softmax", "_softmax", "reduction", (scaled,), (soft,), 5 * B * H * T * E,
            cite(src, "nn.functional.softmax("), columns=E, fusion_group=GROUP,
        ),
        *copied_value,
        Kernel(
            "context", "bmm", "bmm", (soft, value), (heads,), 2 * B * H * T * E * hd, weigh,
            shape=Gemm(B * H, T, hd, E),
        ),
        copy("clone_output", "clone", heads, by_token, merge, MERGE_HEADS_COPY),
        Free("views", "view", 9, inputs=(by_token,), outputs=(merged,)),
    ), merged  # fmt: skip
