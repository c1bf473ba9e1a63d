"""The cost table of a modular GPT-2 after nanoGPT: the kernels of its forward pass, and of its `generate`.

Read it beside nanoGPT's `model.py`: the modules nest, and the kernels follow one another, as there. `bias` may be
False, which leaves the biases of Linear and LayerNorm out. There is no KV cache: a pass takes the whole text. With
`logits="last"` it is nanoGPT's forward without targets, which projects the last position alone; with `"all"`, code
that projects them all.

A position that is chosen by a list (`x[:, [-1], :]`) is a tensor that torch copies from the host, and the host waits
for the copy (`internal_new_from_data` in torch's tensor_new.cpp). Compiled code knows it beforehand.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from gpt2cost.table.attention import IN_C_ATTN
from gpt2cost.table.builders import copy, fill, gather, layer_norm, linear, output, pointwise, tensor
from gpt2cost.table.citations import NANOGPT, Citation
from gpt2cost.table.dropout import NOT_CALLED, dropout, drops
from gpt2cost.table.formula import ALWAYS, formula, symbol
from gpt2cost.table.fused_attention import fused_attention, heads_merged, trained_sdpa
from gpt2cost.table.generate_loop import INPUT_IDS, TOKENS, K, P, multinomial
from gpt2cost.table.kernel import Free, Gemm, Kernel, Module, Row, Tensor
from gpt2cost.table.loss import cross_entropy, flat_for_loss
from gpt2cost.table.options import TableOptions
from gpt2cost.table.qkv import MERGE_HEADS_COPY, QKV, SPLIT_HEADS_COPY, flattened
from gpt2cost.table.symbols import B, C, D, F, H, L, T, V, a, b8, hd, i64, w

_BLOCK_SIZE = symbol("n_positions")
MASKS = L * _BLOCK_SIZE * _BLOCK_SIZE * w
"""Bytes of the causal masks that attention by hand registers as buffers, one for each layer."""


def _cite(qualname: str, fragment: str) -> Citation:
    return Citation(NANOGPT, qualname, fragment)


def attention(x: Tensor, options: TableOptions) -> tuple[Module, Tensor]:
    """CausalSelfAttention."""
    src = "CausalSelfAttention.forward"
    sdpa = _cite(src, "torch.nn.functional.scaled_dot_product_attention(")
    c_attn = linear(x, 3 * D, D, "attn.c_attn", _cite(src, "self.c_attn(x).split"), bias=options.bias)
    query, key, value = (tensor(name, B, H, T, hd, view_of=IN_C_ATTN) for name in ("query", "key", "value"))
    qkv = QKV(query, key, value, cached=False, keys=T)
    split = Free("split", "view", 7, inputs=(output(c_attn),), outputs=(query, key, value))
    attended: tuple[Module | Kernel | Free, ...]
    if options.attn == "eager":
        attended, merged = slow_attention(qkv, options)
    elif options.train:
        attended, merged = trained_sdpa(qkv, sdpa, options)
    else:
        kernel, merged = fused_attention("scaled_dot_product_attention", qkv, sdpa, None, ALWAYS)
        attended = (kernel,)
    last = attended[-1]
    assert isinstance(last, Kernel)
    views = heads_merged(last, merged, 2)
    uncalled = () if options.attn == "eager" else (NOT_CALLED,)
    c_proj = linear(merged, D, D, "attn.c_proj", _cite(src, "self.c_proj(y)"), bias=options.bias)
    dropped = _cite(src, "self.resid_dropout(self.c_proj(y))")
    keeps = (x, output(c_attn), merged)
    drop, y = dropout("resid_dropout", "resid", output(c_proj), "attn.resid_dropout", options, dropped, keeps)
    children = (
        Free("attn", "call", inputs=(x,), outputs=(y,)), c_attn, split, *attended, *uncalled, views, c_proj, drop,
    )  # fmt: skip
    return Module("attn", "CausalSelfAttention", children), y


def slow_attention(x: QKV, options: TableOptions) -> tuple[tuple[Module | Kernel | Free, ...], Tensor]:
    """What CausalSelfAttention does by hand, where torch has no scaled_dot_product_attention: `attn="eager"`."""
    src, group = "CausalSelfAttention.forward", "scores"
    product, mask_source, soft_source, value_source, merge = (
        _cite(src, fragment)
        for fragment in (
            "att = (q @ k.transpose(-2, -1)) *", "att = att.masked_fill(", "att = F.softmax(", "y = att @ v",
            "y = y.transpose(1, 2).contiguous()",
        )
    )  # fmt: skip
    scores, scaled, masked, soft = (
        tensor(name, B, H, T, T) for name in ("scores", "scaled", "masked", "probabilities")
    )
    query, key = x.copied()
    value = replace(x.value, name="value.copy")
    lower, allowed = tensor("attn.bias", 1, 1, T, T, element=w), tensor("causal_mask", 1, 1, T, T, element=b8)
    filled = Kernel(
        "mask", "masked_fill", "copy", (allowed, scaled), (masked,), masked.elements, mask_source, fusion_group=group
    )
    softmax = Kernel(
        "softmax", "_softmax", "reduction", (masked,), (soft,), 5 * B * H * T * T, soft_source, columns=T,
        fusion_group=group,
    )  # fmt: skip
    drop, probabilities = dropout(
        "attn_dropout", "attn", soft, "attn_dropout", options, _cite(src, "att = self.attn_dropout(att)")
    )
    down: tuple[Kernel, ...] = ()
    if options.autocast:
        half = Tensor("probabilities.cast", soft.shape)
        down, probabilities = (copy("downcast", "_to_copy", probabilities, half, value_source),), half
    heads = Tensor("context", (B, H, T, hd), by_head=True)
    by_token, merged = tensor("merged", B, T, H, hd), tensor("merged", B, T, D)
    return (
        Free("views", "view", 3),
        copy("clone_query", "clone", x.query, query, product, SPLIT_HEADS_COPY),
        Free("views", "view", 2, inputs=(query,), outputs=(flattened(query),)),
        copy("clone_key", "clone", x.key, key, product, SPLIT_HEADS_COPY),
        Kernel(
            "scores", "bmm", "bmm", (query, key), (scores,), 2 * B * H * T * T * hd, product,
            shape=Gemm(B * H, T, T, hd, "NT"),
        ),
        Free("views", "view", 1, inputs=(flattened(scores),), outputs=(scores,)),
        pointwise("scale", "mul", (scores,), scaled, product, fusion_group=group),
        Free("views", "view", 4),
        pointwise("causal_mask", "eq", (lower,), allowed, mask_source, fusion_group=group),
        filled,
        softmax,
        drop,
        *down,
        Free("views", "view", 3, inputs=(probabilities,), outputs=(flattened(probabilities),)),
        copy("clone_value", "clone", x.value, value, value_source, SPLIT_HEADS_COPY),
        Kernel(
            "context", "bmm", "bmm", (probabilities, value), (heads,), 2 * B * H * T * T * hd, value_source,
            shape=Gemm(B * H, T, hd, T),
        ),
        Free("views", "view", 1),
        copy("clone_output", "clone", heads, by_token, merge, MERGE_HEADS_COPY),
    ), merged  # fmt: skip


def mlp(x: Tensor, options: TableOptions) -> tuple[Module, Tensor]:
    """MLP."""
    src = "MLP.forward"
    c_fc = linear(x, F, D, "mlp.c_fc", _cite(src, "self.c_fc(x)"), bias=options.bias)
    activated = tensor("mlp.gelu", B, T, F)
    gelu = pointwise("", "gelu", (output(c_fc),), activated, _cite(src, "self.gelu(x)"), fusion_group="act")
    c_proj = linear(activated, D, F, "mlp.c_proj", _cite(src, "self.c_proj(x)"), bias=options.bias)
    dropped = _cite(src, "self.dropout(x)")
    drop, y = dropout("dropout", "resid", output(c_proj), "mlp.dropout", options, dropped, keeps=(x,))
    children = (
        Free("mlp", "call", inputs=(x,), outputs=(y,)),
        c_fc,
        Module("gelu", "GELU", (replace(gelu, in_module=True), Free("input", "view", 0, keeps=gelu.inputs))),
        c_proj,
        drop,
    )
    return Module("mlp", "MLP", children), y


def block(x: Tensor, options: TableOptions) -> tuple[Module, Tensor]:
    """Block."""
    src = "Block.forward"
    middle, y = tensor("attn_residual", B, T, D), tensor("block_output", B, T, D)
    ln_1 = layer_norm("ln_1", x, _cite("LayerNorm.forward", "F.layer_norm("), options.bias)
    attn, attn_output = attention(output(ln_1), options)
    add_1 = _cite(src, "x = x + self.attn(self.ln_1(x))")
    ln_2 = layer_norm("ln_2", middle, _cite("LayerNorm.forward", "F.layer_norm("), options.bias)
    feed_forward, mlp_output = mlp(output(ln_2), options)
    add_2 = _cite(src, "x = x + self.mlp(self.ln_2(x))")
    children = (
        Free("block", "call", inputs=(x,), outputs=(y,)),
        ln_1,
        attn,
        pointwise("attn_residual", "add", (x, attn_output), middle, add_1, fusion_group="norm"),
        ln_2,
        feed_forward,
        pointwise("mlp_residual", "add", (middle, mlp_output), y, add_2, fusion_group="norm"),
        Free("locals", "view", 0, keeps=(x,)),
    )
    return Module("h", "Block", children, count=L), y


@lru_cache(maxsize=64)
def gpt(options: TableOptions) -> Module:
    """GPT: the whole table for one way of running the model."""
    src, group = "GPT.forward", "norm"
    ids, pos = tensor("idx", B, T, element=i64), tensor("pos", T, element=i64)
    token, position = tensor("wte", B, T, D), tensor("wpe", T, D)
    x = tensor("hidden_states", B, T, D, view_of="block_output")  # of the block before, but for the first
    wte, wpe = (_cite(src, f"self.transformer.{fragment}") for fragment in ("wte(idx)", "wpe(pos)"))
    summed = _cite(src, "self.transformer.drop(tok_emb + pos_emb)")
    embedded = replace(x, name="embeddings", view_of="") if drops(options, "embd") else x
    drop, _ = dropout("drop", "embd", embedded, x.name, options, summed)
    h, y = block(x, options)
    ln_f = layer_norm("ln_f", y, _cite("LayerNorm.forward", "F.layer_norm("), options.bias)
    embedding = (
        Module("wte", "Embedding", (gather(ids, token, wte, group),)),
        Module("wpe", "Embedding", (gather(pos, position, wpe, group),)),
    )
    children = (
        Free("model", "call"),
        fill("pos", "arange", pos, _cite(src, "torch.arange(0, t"), fusion_group=group),
        Module("transformer", "ModuleDict", embedding),
        pointwise("add", "add", (token, position), embedded, summed, fusion_group=group),
        Module("transformer", "ModuleDict", (drop, h, ln_f)),
        *head(output(ln_f), options),
        Free("locals", "view", 0, keeps=(token, position, pos)),
    )
    return Module("", "GPT", children)


def head(x: Tensor, options: TableOptions) -> tuple[Module | Kernel | Free, ...]:
    """The logits, of all positions or of the last, which a list chooses; in train mode those of all, and their loss."""
    src = "GPT.forward"
    if options.logits == "all" or options.train:
        kept = replace(x, view_of="ln_1")  # which a compiler lets the last block make: see fusion.py
        lm_head = linear(kept, V, D, "lm_head", _cite(src, "self.lm_head(x)"), bias=False, out="logits")
        if not options.train:
            return (lm_head,)
        logits = output(lm_head)
        targets, loss = tensor("targets", B, T, element=i64), _cite(src, "F.cross_entropy(")
        return (lm_head, flat_for_loss(logits, targets), *cross_entropy(logits, targets, loss, options.autocast))
    last, source = tensor("last", B, 1, D), _cite(src, "self.lm_head(x[:, [-1], :])")
    place, row = tensor("minus_1", element=i64), replace(last, name=x.name, view_of="ln_1")
    return (
        *(() if options.traced else (Free("last_sync", "sync"),)),
        Kernel("last", "index", "gather", (place, row), (last,), formula(0), source),
        linear(last, V, D, "lm_head", source, bias=False, rows=(B, 1), out="logits"),
    )


# ---------------------------------------------------------------------------------------------- generate


def before() -> tuple[Row, ...]:
    """Before a pass: the text cut to the last `block_size` tokens. It is cut by a view."""
    return _rows(Free("generate", "view", 1, C > 0))


@lru_cache
def after(sample: bool) -> tuple[Row, ...]:
    """After a pass: a token drawn of the `top_k` likeliest, and the ids concatenated. Nothing waits for the end.

    nanoGPT always draws: of the 50 likeliest where the project's other loop samples, of the likeliest alone
    (`top_k=1`) where it is greedy.
    """
    src, top = "GPT.generate", K if sample else formula(1)
    logits, scaled, chances = (tensor(name, B, V) for name in ("logits", "scaled", "probs"))
    largest = tensor("top_k", B, top), tensor("top_k.indices", B, top, element=i64)
    kth, below = tensor("kth", B, 1), tensor("below_top_k", B, V, element=b8)
    drop = _cite(src, "logits[logits < v[:, [-1]]] =")
    softmax, draw = _cite(src, "F.softmax(logits, dim=-1)"), _cite(src, "torch.multinomial(probs")
    longer, cat = tensor("longer_ids", B, P + 1, element=i64), _cite(src, "torch.cat((idx, idx_next)")
    place, filtered = tensor("minus_1", element=i64), replace(scaled, view_of="")
    return _rows(
        Free("select", "view", 1),
        pointwise("temperature", "div", (logits,), scaled, _cite(src, "logits[:, -1, :] / temperature")),
        Kernel("topk", "topk", "reduction", (scaled,), largest, B * V, _cite(src, "torch.topk(logits")),
        Free("kth_sync", "sync"),
        Kernel("kth", "index", "gather", (place, replace(kth, name="top_k")), (kth,), formula(0), drop),
        pointwise("below_top_k", "lt", (scaled, kth), below, drop),
        pointwise("masked_fill", "index_put_", (scaled, below), filtered, drop),
        Kernel("softmax", "_softmax", "reduction", (filtered,), (chances,), 5 * B * V, softmax, columns=V),
        *multinomial(chances, draw, a),
        copy("cat_ids", "cat", (INPUT_IDS, TOKENS), longer, cat),
    )


def _rows(*steps: Kernel | Free) -> tuple[Row, ...]:
    return tuple(Row("generate", step, formula(1), index) for index, step in enumerate(steps))
