"""GPT2Attention's other branch: queries of the decoder's tokens over keys and values of an encoder's states.

No mask is passed: the encoder's states have none, and every query meets every key. Keys and values are made in the pass
on an empty cache, which keeps them; later passes read them there. Without a cache every pass makes them.
"""

from __future__ import annotations

from gpt2cost.table.attention import SRC, attend
from gpt2cost.table.builders import output, tensor
from gpt2cost.table.citations import cite
from gpt2cost.table.dropout import dropout
from gpt2cost.table.formula import ALWAYS
from gpt2cost.table.kernel import Free, Module, Tensor
from gpt2cost.table.kv_cache import cache_update
from gpt2cost.table.options import TableOptions
from gpt2cost.table.qkv import QKV, SPLIT_HEADS_COPY
from gpt2cost.table.quantization import projection
from gpt2cost.table.symbols import B, C, D, E, H, T, a, hd, w

IN_C_ATTN = "crossattention.c_attn"
"""The tensor (B, E, 2D) that holds the encoder's keys and values side by side."""


def cross_attention(x: Tensor, options: TableOptions) -> tuple[Module, QKV, Tensor]:
    """GPT2Attention with `is_cross_attention`, as GPT2Block calls it; what it attends to, and what it gives."""
    q_attn = projection(x, D, D, "crossattention.q_attn", cite(SRC, "self.q_attn(hidden_states)"), options)
    query = tensor("cross_query", B, H, T, hd, view_of="crossattention.q_attn")
    cached = options.use_cache
    made = C.is_zero() if cached else ALWAYS
    encoder = tensor("encoder_hidden_states", B, E, D, element=w if options.autocast else a)
    source = cite(SRC, "self.c_attn(encoder_hidden_states)")
    c_attn = projection(encoder, 2 * D, D, IN_C_ATTN, source, options, rows=(B, E), when=made)
    new_key, new_value = (tensor(f"cross_new_{name}", B, H, E, hd, view_of=IN_C_ATTN) for name in ("key", "value"))
    key, value = (
        Tensor(f"cross_{name}", (B, H, E, hd), view_of="" if cached else IN_C_ATTN, by_head=cached)
        for name in ("key", "value")
    )
    qkv = QKV(query, key, value, cached, E, "cross_", causal=False, query_copy=SPLIT_HEADS_COPY & (T > 1))
    kernels, merged = attend(qkv, None, None, options)
    c_proj = projection(merged, D, D, "crossattention.c_proj", cite(SRC, "self.c_proj(attn_output)"), options)
    dropped = cite(SRC, "self.resid_dropout(attn_output)")
    drop, y = dropout(
        "resid_dropout", "resid", output(c_proj), "crossattention.resid_dropout", options, dropped,
        keeps=(output(q_attn), *(() if cached else (output(c_attn),))),
    )  # fmt: skip
    children = (
        Free("crossattention", "call", inputs=(x,), outputs=(y,)),
        q_attn,
        c_attn,
        Free("split", "view", 5, made, inputs=(output(c_attn),), outputs=(new_key, new_value)),
        Free("split_query", "view", 2, inputs=(output(q_attn),), outputs=(query,)),
        *cache_update((new_key, new_value), (key, value), options, past=0, when=made),
        *kernels,
        c_proj,
        drop,
    )
    return Module("crossattention", "GPT2Attention", children), qkv, y
