"""GPT2Attention: a list of kernels for each attention implementation."""

from __future__ import annotations

from dataclasses import replace

from gpt2cost.table.builders import copy, output, pointwise, tensor
from gpt2cost.table.citations import Citation, cite
from gpt2cost.table.dropout import NOT_CALLED, dropout, drops, native_dropout
from gpt2cost.table.formula import Formula
from gpt2cost.table.fused_attention import flash_attention, sdpa_attention
from gpt2cost.table.kernel import Free, Gemm, Kernel, Module, Tensor
from gpt2cost.table.kv_cache import cache_update
from gpt2cost.table.options import KERNEL_VARIANTS, TableOptions
from gpt2cost.table.qkv import HALF, MERGE_HEADS_COPY, QKV, SPLIT_HEADS_COPY, flattened
from gpt2cost.table.quantization import projection
from gpt2cost.table.symbols import B, D, H, S, T, b8, f32, hd

IN_C_ATTN = "attn.c_attn"
"""The tensor (B, T, 3D) that holds new queries, keys and values side by side."""
SRC = "GPT2Attention.forward"


def attend(
    x: QKV, mask: Tensor | None, positions: Tensor | None, options: TableOptions
) -> tuple[tuple[Module | Kernel | Free, ...], Tensor]:
    """What GPT2Attention runs between its cache and its last projection; the merged heads that it gives.

    `mask`, `positions`: those of the tokens, None over an encoder's states.
    """
    match options.attn:
        case "eager" if options.reorder_and_upcast_attn:
            return upcast_attention(x, mask, options)
        case "eager":
            steps, merged = eager_attention(x, mask, options)
        case "sdpa":
            steps, merged = sdpa_attention(x, mask, options)
        case "flash_attention_2":
            steps, merged = flash_attention(x, positions, options)
    return (*steps, NOT_CALLED), merged


def probabilities_of(x: QKV) -> Tensor:
    """What the softmax of eager attention makes; GPT2Block's variables keep it alive to the block's end."""
    return x.tensor("probabilities", B, H, T, x.keys)


def context(
    probabilities: Tensor, x: QKV, source: Citation, variables: tuple[Tensor, ...] = ()
) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """probabilities @ value, and the heads merged: the end of both eager attention functions.

    `variables` are what the function's local variables keep alive until it returns.
    """
    heads = replace(x.tensor("context", B, H, T, hd), by_head=True)
    by_token, merged = x.tensor("merged", B, T, H, hd), x.tensor("merged", B, T, D)
    turned = replace(heads, shape=by_token.shape)
    merge = cite(SRC, "attn_output = attn_output.reshape(")
    value = x.value if x.cached else replace(x.value, name=f"{x.prefix}value.copy")
    value_copy = () if x.cached else (copy("clone_value", "clone", x.value, value, source, SPLIT_HEADS_COPY),)
    kernels = (
        Free("views", "view", 4, inputs=(probabilities,), outputs=(flattened(probabilities),)),
        *value_copy,
        Kernel(
            "context", "bmm", "bmm", (probabilities, value), (heads,), _flops(x), source,
            shape=Gemm(B * H, T, hd, x.keys),
        ),
        Free("views", "view", 2, keeps=variables, inputs=(flattened(heads),), outputs=(turned,)),
        copy("clone_output", "clone", heads, by_token, merge, MERGE_HEADS_COPY),
        Free("views", "view", 1, inputs=(by_token,), outputs=(merged,)),
    )  # fmt: skip
    return kernels, merged


def _flops(x: QKV) -> Formula:
    """Of one of attention's two products."""
    return 2 * B * H * T * x.keys * hd


def eager_attention(x: QKV, mask: Tensor | None, options: TableOptions) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`eager_attention_forward`: scores, scaling, mask, softmax and context as separate kernels."""
    src, group = "eager_attention_forward", "scores"
    variants = {name: today for name, (today, *_) in KERNEL_VARIANTS.items()} | dict(options.variants)
    scores, scaled = (x.tensor(name, B, H, T, x.keys) for name in ("scores", "scaled"))
    scores_source = cite(src, "attn_weights = torch.matmul(query, key.transpose(-1, -2)) * scaling")
    query, key = x.copied()
    key_copy = () if x.cached else (copy("clone_key", "clone", x.key, key, scores_source, SPLIT_HEADS_COPY),)
    scaled_from = (scores,) if variants["scale"] == "mul" else (scores, tensor("scalar"))
    masks, masked = _masked(x, scaled, mask, variants["mask"]) if mask else ((), scaled)
    soft = probabilities_of(x)
    softmax = Kernel(
        "softmax", "_softmax", "reduction", (masked,), (soft,), 5 * B * H * T * x.keys,
        cite(src, "nn.functional.softmax("), columns=x.keys, fusion_group=group,
    )  # fmt: skip
    dropped, probabilities = _train_softmax(soft, x, src, options)
    tail, merged = context(probabilities, x, cite(src, "attn_output = torch.matmul(attn_weights, value)"))
    key_turned = replace(x.key, shape=(B, H, hd, x.keys))
    return (
        Free("views", "view", 2, inputs=(x.key,), outputs=(key_turned,)),
        copy("clone_query", "clone", x.query, query, scores_source, x.query_copy),
        Free("views", "view", 2, inputs=(query,), outputs=(flattened(query),)),
        *key_copy,
        Kernel(
            "scores", "bmm", "bmm", (query, key), (scores,), _flops(x), scores_source,
            shape=Gemm(B * H, T, x.keys, hd, "NT"),
        ),
        Free("views", "view", 1, inputs=(flattened(scores),), outputs=(scores,)),
        pointwise("scale", variants["scale"], scaled_from, scaled, scores_source, fusion_group=group),
        *masks,
        softmax,
        *dropped,
        *tail,
    ), merged  # fmt: skip


def _masked(x: QKV, scaled: Tensor, mask: Tensor, op: str) -> tuple[tuple[Kernel, ...], Tensor]:
    """The mask added to the scores, or what other code does."""
    source = cite("eager_attention_forward", "attn_weights + ")
    masked, copied = (replace(scaled, name=name) for name in ("masked", "unmasked"))
    scalar, boolean = tensor("scalar"), tensor("causal_mask", 1, 1, T, S, element=b8)
    cloned: tuple[Kernel, ...] = ()
    if op == "masked_fill":
        cloned = (pointwise("mask_clone", "clone", (scaled,), copied, source, fusion_group="scores"),)
    read = (scaled, mask) if op == "add" else (boolean, copied if cloned else scaled, scalar)
    return (*cloned, pointwise("mask", op, read, masked, source, fusion_group="scores")), masked


def _train_softmax(soft: Tensor, x: QKV, src: str, options: TableOptions) -> tuple[tuple[Kernel, ...], Tensor]:
    """What follows the softmax in train mode: back to the values' dtype under autocast, and dropout."""
    steps: tuple[Kernel, ...] = ()
    if options.autocast:
        half = replace(soft, name=f"{soft.name}.cast")
        steps, soft = (copy("downcast", "_to_copy", soft, half, cite(src, "attn_weights.type(value.dtype)")),), half
    if not drops(options, "attn"):
        return steps, soft
    dropped = x.tensor("attn_dropout", *soft.shape)
    source = cite(src, "nn.functional.dropout(attn_weights")
    return (*steps, native_dropout("attn_dropout", soft, dropped, source, "scores")), dropped


def upcast_attention(
    x: QKV, mask: Tensor | None, options: TableOptions
) -> tuple[tuple[Module | Kernel | Free, ...], Tensor]:
    """`_upcast_and_reordered_attn`: the scores in float32, scaled inside the product."""
    src, group = "GPT2Attention._upcast_and_reordered_attn", "scores"
    reshape, upcast = cite(src, "query.reshape(-1, q_seq_len, dk)"), cite(src, "torch.baddbmm(")
    scores, masked, soft = (x.tensor(n, B, H, T, x.keys, element=f32) for n in ("scores", "masked", "softmax"))
    query, key = x.copied()
    query32, key32 = (
        replace(x.tensor(f"{name}.float32", B, H, n, hd, element=f32), view_of=half_one.name)
        for name, n, half_one in (("query", T, query), ("key", x.keys, key))
    )
    key_copy = () if x.cached else (copy("clone_key", "clone", x.key, key, reshape, SPLIT_HEADS_COPY),)
    product = cite(src, "attn_output = torch.matmul(attn_weights, value)")
    cast = replace(probabilities_of(x), view_of=soft.name if options.train else "")
    dropped = cite(src, "self.attn_dropout(attn_weights)")
    drop, probabilities = dropout("attn_dropout", "attn", cast, f"{x.prefix}attn_dropout", options, dropped)
    tail, merged = context(probabilities, x, product, variables=(query, key))
    added = (
        (pointwise("mask", "add", (scores, mask), masked, cite(src, "attn_weights + "), fusion_group=group),)
        if mask
        else ()
    )
    return (
        copy("clone_query", "clone", x.query, query, reshape, x.query_copy),
        Free("views", "view", 3, inputs=(query,), outputs=(flattened(query),)),
        *key_copy,
        copy("upcast_query", "_to_copy", query, query32, upcast, HALF),
        copy("upcast_key", "_to_copy", key, key32, upcast, HALF),
        Kernel(
            "scores", "baddbmm", "bmm", (query32, key32), (scores,), _flops(x), upcast,
            shape=Gemm(B * H, T, x.keys, hd, "NT", scaled=options.scale_attn_weights),
        ),
        Free("views", "view", 1, inputs=(flattened(scores),), outputs=(scores,)),
        *added,
        Kernel(
            "softmax", "_softmax", "reduction", (masked if mask else scores,), (soft,), 5 * B * H * T * x.keys,
            cite(src, "nn.functional.softmax("), columns=x.keys, fusion_group=group,
        ),
        copy("downcast", "_to_copy", soft, cast, cite(src, "attn_weights.type(value.dtype)"), HALF),
        drop,
        *tail,
    ), merged  # fmt: skip


def attention(x: Tensor, mask: Tensor, positions: Tensor, options: TableOptions) -> tuple[Module, QKV, Tensor]:
    """GPT2Attention over the tokens; what it attends to, and what it gives."""
    c_attn = projection(x, 3 * D, D, IN_C_ATTN, cite(SRC, "self.c_attn(hidden_states).split"), options)
    query, new_key, new_value = (
        tensor(f"new_{name}", B, H, T, hd, view_of=IN_C_ATTN) for name in ("query", "key", "value")
    )
    cached = options.use_cache
    key, value = (
        Tensor(name, (B, H, S, hd), view_of="" if cached else IN_C_ATTN, by_head=cached) for name in ("key", "value")
    )
    qkv = QKV(query, key, value, cached)
    cache = cache_update((new_key, new_value), (key, value), options)
    kernels, merged = attend(qkv, mask, positions, options)
    c_proj = projection(merged, D, D, "attn.c_proj", cite(SRC, "self.c_proj(attn_output)"), options)
    dropped = cite(SRC, "self.resid_dropout(attn_output)")
    drop, y = dropout(
        "resid_dropout", "resid", output(c_proj), "attn.resid_dropout", options, dropped, keeps=(output(c_attn),)
    )
    call = Free("attn", "call", inputs=(x,), outputs=(y,))
    split = Free("split", "view", 7, inputs=(output(c_attn),), outputs=(query, new_key, new_value))
    children = (call, c_attn, split, *cache, *kernels, c_proj, drop)
    return Module("attn", "GPT2Attention", children), qkv, y
