"""GPT2Attention and the causal mask: one list of kernels for each attention implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpt2cost.citations import Citation, cite
from gpt2cost.formula import ALWAYS, Condition, formula
from gpt2cost.kernels import (
    Attn,
    B,
    C,
    D,
    Free,
    FusedAttention,
    Gemm,
    H,
    Kernel,
    Module,
    S,
    T,
    Tensor,
    a,
    addmm,
    b8,
    copy,
    f32,
    fill,
    hd,
    i64,
    output,
    pointwise,
    reduction,
    tensor,
)  # fmt: skip

KERNEL_VARIANTS = {"scale": ("mul", "div"), "mask": ("add", "where")}
"""Eager attention's kernels by the op of transformers 5.x and that of 4.38, which some measurements were made with: it
divided the scores by a scalar tensor and chose between them and a minimum by a boolean mask."""


@dataclass(frozen=True)
class TableOptions:
    """What changes the list of kernels, beyond sizes. Names and values as in `GPT2Config` and `from_pretrained`."""

    attn: Attn = "sdpa"
    activation_function: str = "gelu_new"
    reorder_and_upcast_attn: bool = False
    use_cache: bool = True
    logits: Literal["all", "last"] = "all"
    variants: tuple[tuple[str, str], ...] = ()  # kernels that an older transformers ran otherwise: KERNEL_VARIANTS


PROBABILITIES = tensor("probabilities", B, H, T, S)
"""What the softmax of eager attention makes; GPT2Block's variables keep it alive to the block's end."""


@dataclass(frozen=True)
class QKV:
    """What GPT2Attention passes to its attention function. `cached`: keys and values come from the cache's cat."""

    qkv: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    cached: bool

    def copied(self) -> tuple[Tensor, Tensor]:
        """Query and key as the product of the scores reads them."""
        return Tensor("query.copy", self.query.bytes), self.key if self.cached else Tensor("key.copy", self.key.bytes)


# Query, key and value are strided views of c_attn's output. A reshape to (B*H, ...) has to copy them unless one of
# the two dimensions is 1; the output's (B, T, H, hd) has to be copied from (B, H, T, hd) unless T or H is 1.
SPLIT_HEADS_COPY = (B > 1) & (H > 1)
MERGE_HEADS_COPY = (T > 1) & (H > 1)


def context(
    probabilities: Tensor, x: QKV, source: Citation, variables: tuple[Tensor, ...] = ()
) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """probabilities @ value, and the heads merged: the end of both eager attention functions.

    `variables` are what the function's local variables keep alive until it returns.
    """
    heads = tensor("context", B, T, D)
    merged = tensor("merged", B, T, D)
    merge = cite("GPT2Attention.forward", "attn_output = attn_output.reshape(")
    value = x.value if x.cached else Tensor("value.copy", x.value.bytes)
    value_copy = () if x.cached else (copy("clone_value", "clone", x.value, value, source, SPLIT_HEADS_COPY),)
    kernels = (
        Free("views", "view", 4),
        *value_copy,
        Kernel(
            "context", "bmm", "bmm", (probabilities, value), (heads,), 2 * B * H * T * S * hd, source,
            shape=Gemm(B * H, T, hd, S),
        ),
        Free("views", "view", 2, keeps=variables),
        copy("clone_output", "clone", heads, merged, merge, MERGE_HEADS_COPY),
        Free("views", "view", 1),
    )  # fmt: skip
    return kernels, merged


def eager_attention(x: QKV, mask: Tensor, variants: dict[str, str]) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`eager_attention_forward`: scores, scaling, mask, softmax and context as separate kernels."""
    src = "eager_attention_forward"
    scores = [*(tensor(name, B, H, T, S) for name in ("scores", "scaled", "masked")), PROBABILITIES]
    scores_source = cite(src, "attn_weights = torch.matmul(query, key.transpose(-1, -2)) * scaling")
    query, key = x.copied()
    key_copy = () if x.cached else (copy("clone_key", "clone", x.key, key, scores_source, SPLIT_HEADS_COPY),)
    group = "scores"
    mask_source = cite(src, "attn_weights + attention_mask")
    scalar, boolean = Tensor("scalar", a), Tensor("causal_mask", T * S * b8)
    scaled_from = (scores[0],) if variants["scale"] == "mul" else (scores[0], scalar)
    masked_from = (scores[1], mask) if variants["mask"] == "add" else (boolean, scores[1], scalar)
    softmax = Kernel(
        "softmax", "_softmax", "reduction", (scores[2],), (scores[3],), 5 * B * H * T * S,
        cite(src, "nn.functional.softmax("), columns=S, fusion_group=group,
    )  # fmt: skip
    tail, merged = context(scores[3], x, cite(src, "attn_output = torch.matmul(attn_weights, value)"))
    return (
        Free("views", "view", 2),
        copy("clone_query", "clone", x.query, query, scores_source, SPLIT_HEADS_COPY),
        Free("views", "view", 2),
        *key_copy,
        Kernel(
            "scores", "bmm", "bmm", (query, key), (scores[0],), 2 * B * H * T * S * hd, scores_source,
            shape=Gemm(B * H, T, S, hd),
        ),
        Free("views", "view", 1),
        pointwise("scale", variants["scale"], scaled_from, scores[1], scores_source, fusion_group=group),
        pointwise("mask", variants["mask"], masked_from, scores[2], mask_source, fusion_group=group),
        softmax,
        *tail,
    ), merged  # fmt: skip


def upcast_attention(x: QKV, mask: Tensor) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`_upcast_and_reordered_attn`: the scores in float32, scaled inside the product."""
    src = "GPT2Attention._upcast_and_reordered_attn"
    reshape, upcast = cite(src, "query.reshape(-1, q_seq_len, dk)"), cite(src, "torch.baddbmm(")
    half = a < f32
    query32, key32 = (tensor(f"{t}.float32", B, n, D, element=f32) for t, n in (("query", T), ("key", S)))
    scores, masked, soft = (tensor(n, B, H, T, S, element=f32) for n in ("scores", "masked", "softmax"))
    group = "scores"
    query, key = x.copied()
    key_copy = () if x.cached else (copy("clone_key", "clone", x.key, key, reshape, SPLIT_HEADS_COPY),)
    mask_source = cite(src, "attn_weights + attention_mask")
    product = cite(src, "attn_output = torch.matmul(attn_weights, value)")
    tail, merged = context(PROBABILITIES, x, product, variables=(query, key))
    return (
        copy("clone_query", "clone", x.query, query, reshape, SPLIT_HEADS_COPY),
        Free("views", "view", 3),
        *key_copy,
        copy("upcast_query", "_to_copy", query, query32, upcast, half),
        copy("upcast_key", "_to_copy", key, key32, upcast, half),
        Kernel(
            "scores", "baddbmm", "bmm", (query32, key32), (scores,), 2 * B * H * T * S * hd, upcast,
            shape=Gemm(B * H, T, S, hd),
        ),
        Free("views", "view", 1),
        pointwise(
            "mask", "add", (scores, mask), masked, mask_source, element=f32, fusion_group=group,
        ),
        Kernel(
            "softmax", "_softmax", "reduction", (masked,), (soft,), 5 * B * H * T * S,
            cite(src, "nn.functional.softmax("), columns=S, fusion_group=group,
        ),
        copy("downcast", "_to_copy", soft, PROBABILITIES, cite(src, "attn_weights.type(value.dtype)"), half),
        Free("attn_dropout", "call"),
        *tail,
    ), merged  # fmt: skip


def fused_attention(op: str, x: QKV, source: Citation, mask: Tensor | None, when: Condition) -> tuple[Kernel, Tensor]:
    """One kernel for scores, softmax and context; its output needs no copy to merge the heads."""
    merged = tensor("merged", B, T, D)
    inputs = (x.query, x.key, x.value) + ((mask,) if mask else ())
    shape = FusedAttention(B, H, hd, T, S, masked=mask is not None)
    name = op + ("_masked" if mask else "")
    return Kernel(name, op, "attention", inputs, (merged,), 4 * B * H * T * S * hd, source, when, shape), merged


# sdpa's own causal rule holds for a prefill, and a single query needs none; a chunk over a cache needs a mask tensor.
SDPA_MASK = (T > 1) & (C > 0)


def sdpa_attention(x: QKV, mask: Tensor) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`sdpa_attention_forward`: torch's fused kernel. A boolean mask is made into a float one in every layer."""
    source = cite(
        "sdpa_attention_forward", "torch.nn.functional.scaled_dot_product_attention(", file="sdpa_attention.py"
    )
    zero, infinity = Tensor("zero", a), Tensor("minus_infinity", a)
    bias = tensor("float_mask", B, T, S)
    plain, merged = fused_attention("scaled_dot_product_attention", x, source, None, ~SDPA_MASK)
    masked, _ = fused_attention("scaled_dot_product_attention", x, source, bias, SDPA_MASK)
    return (
        fill("minus_infinity", "scalar_tensor", infinity, source, SDPA_MASK, "mask"),
        fill("zero", "scalar_tensor", zero, source, SDPA_MASK, "mask"),
        pointwise("float_mask", "where", (mask, zero, infinity), bias, source, when=SDPA_MASK, fusion_group="mask"),
        Free("views", "view", 1, SDPA_MASK),
        plain,
        masked,
        Free("views", "view", 3),
    ), merged


def flash_attention(x: QKV, positions: Tensor) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`flash_attention_forward`: at batch 1, first a test for packed sequences, which waits for the device."""
    source = cite("_flash_attention_forward", "out = flash_fn(query_states", file="modeling_flash_attention_utils.py")
    src, file = "_is_packed_sequence", "modeling_flash_attention_utils.py"
    arange = cite(src, "torch.arange(position_ids.shape[1]", file=file)
    test = cite(src, "(increasing_position_sequences - position_ids).abs().sum().bool()", file=file)
    when = (B < 2) & (T > 1)
    ids = {name: Tensor(f"packed.{name}", T * i64) for name in ("arange", "add", "sub", "abs")}
    first, total, packed = Tensor("packed.min", i64), Tensor("packed.sum", i64), Tensor("packed.bool", b8)

    def step(name: str, inputs: tuple[Tensor, ...], citation: Citation) -> Kernel:
        return pointwise(f"packed_{name}", name, inputs, ids[name], citation, element=i64, when=when)

    kernel, merged = fused_attention("flash_attn_func", x, source, None, ALWAYS)
    return (
        Free("views", "view", 3),
        fill("packed_arange", "arange", ids["arange"], arange, when),
        reduction("packed_min", "min", positions, first, T, arange, when),
        step("add", (ids["arange"], first), arange),
        step("sub", (ids["add"], positions), test),
        step("abs", (ids["sub"],), test),
        reduction("packed_sum", "sum", ids["abs"], total, T, test, when),
        copy("packed_bool", "_to_copy", total, packed, test, when),
        Free("packed_sync", "sync", 1, when),
        kernel,
        Free("views", "view", 2),
    ), merged


def attention(x: Tensor, mask: Tensor, positions: Tensor, options: TableOptions) -> tuple[Module, Tensor]:
    """GPT2Attention."""
    src = "GPT2Attention.forward"
    c_attn = addmm(x, 3 * D, D, "attn.c_attn", cite(src, "self.c_attn(hidden_states).split"))
    query, new_key, new_value = (tensor(f"new_{name}", B, T, D) for name in ("query", "key", "value"))
    key, value = (tensor(name, B, S, D) for name in ("key", "value"))
    x_qkv = QKV(output(c_attn), query, key, value, cached=options.use_cache)
    if options.use_cache:
        update = cite("DynamicLayer.update", "self.keys = torch.cat(", file="cache_utils.py")
        update_value = cite("DynamicLayer.update", "self.values = torch.cat(", file="cache_utils.py")
        past_key, past_value = (tensor(f"past_{name}", B, C, D) for name in ("key", "value"))
        cache: tuple[Kernel, ...] = (
            copy("cat_key", "cat", (past_key, new_key), key, update),
            copy("cat_value", "cat", (past_value, new_value), value, update_value),
        )
    else:
        cache = ()
    match options.attn:
        case "eager" if options.reorder_and_upcast_attn:
            kernels, merged = upcast_attention(x_qkv, mask)
        case "eager":
            ops = {name: today for name, (today, _) in KERNEL_VARIANTS.items()} | dict(options.variants)
            kernels, merged = eager_attention(x_qkv, mask, ops)
        case "sdpa":
            kernels, merged = sdpa_attention(x_qkv, mask)
        case "flash_attention_2":
            kernels, merged = flash_attention(x_qkv, positions)
    c_proj = addmm(merged, D, D, "attn.c_proj", cite(src, "self.c_proj(attn_output)"))
    dropout = Free("resid_dropout", "call", keeps=(output(c_attn),))
    children = (Free("attn", "call"), c_attn, Free("split", "view", 7), *cache, *kernels, c_proj, dropout)
    return Module("attn", "GPT2Attention", children), output(c_proj)


def causal_mask(options: TableOptions) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`create_causal_mask`: a boolean (T, S) mask; eager attention makes it a float one of each batch entry."""
    file, group = "masking_utils.py", "mask"
    when = SDPA_MASK if options.attn == "sdpa" else ALWAYS
    mask = Tensor("causal_mask", T * S * b8)
    if options.attn == "flash_attention_2":
        return (), mask
    src = "sdpa_mask"
    sizes = {"batch": B, "head": formula(1), "q": T, "kv": S}
    aranges = {n: cite(src, f"{n}_arange = torch.arange(", file=file) for n in sizes}
    index = {name: Tensor(f"{name}_arange", size * i64) for name, size in sizes.items()}
    offset = {name: Tensor(f"{name}_offset", sizes[name] * i64) for name in ("q", "kv")}

    def arange(name: str) -> Kernel:
        return fill(f"causal_mask.{name}_arange", "arange", index[name], aranges[name], when, group)

    def add(name: str) -> Kernel:
        kernel = f"causal_mask.{name}_offset"
        return pointwise(
            kernel, "add", (index[name],), offset[name], aranges[name], element=i64, when=when, fusion_group=group
        )

    compare = cite("causal_mask_function", "return kv_idx <= q_idx", file=file)
    le = pointwise(
        "causal_mask.le", "le", (offset["kv"], offset["q"]), mask, compare, element=b8, when=when, fusion_group=group
    )
    steps: tuple[Kernel | Free, ...] = (
        arange("batch"), arange("head"), arange("q"), add("q"), arange("kv"), add("kv"),
        Free("causal_mask.unsqueeze", "view", 12, when), le, Free("causal_mask.expand", "view", 1, when),
    )  # fmt: skip
    if options.attn == "sdpa":
        return steps, mask
    where = cite("eager_mask", "torch.where(mask", file=file)
    zero, least = Tensor("causal_mask.zero", a), Tensor("causal_mask.min_dtype", a)
    float_mask = tensor("causal_mask.float", B, T, S)
    steps += (
        fill("causal_mask.zeros", "zeros", zero, where, fusion_group=group),
        fill("causal_mask.min_dtype", "scalar_tensor", least, where, fusion_group=group),
        pointwise("causal_mask.where", "where", (mask, zero, least), float_mask, where, fusion_group=group),
    )
    return steps, float_mask


def packed_sequence(positions: Tensor) -> tuple[Kernel | Free, ...]:
    """`find_packed_sequence_indices`: without a cache, do the positions restart? The answer goes to the host."""
    src, file = "find_packed_sequence_indices", "masking_utils.py"
    first_source = cite(src, "first_dummy_value = position_ids[:, :1] - 1", file=file)
    diff_source = cite(src, "torch.diff(position_ids", file=file)
    cumsum_source = cite(src, "(position_diff != 1).cumsum(-1)", file=file)
    test_source = cite(src, "(packed_sequence_mask[:, -1] == 0).all()", file=file)
    first, prepended = Tensor("packed.first", B * i64), Tensor("packed.cat", B * (T + 1) * i64)
    diff, restart = Tensor("packed.diff", B * T * i64), Tensor("packed.ne", B * T * b8)
    sequence, is_one, answer = (
        Tensor("packed.cumsum", B * T * i64),
        Tensor("packed.eq", B * b8),
        Tensor("packed.all", b8),
    )
    first_position, last = Tensor("position_ids[:1]", i64), Tensor("packed.cumsum[-1]", B * i64)
    left, right = (Tensor(f"packed.cat[{part}]", B * T * i64) for part in ("1:", ":-1"))
    name = "packed_sequence.{}".format
    return (
        Free(name("views"), "view", 2),
        pointwise(name("first_minus_1"), "sub", (first_position,), first, first_source, element=i64),
        copy(name("prepend"), "cat", (first, positions), prepended, diff_source),
        Free(name("views"), "view", 2),
        pointwise(name("diff"), "sub", (left, right), diff, diff_source, element=i64),
        pointwise(name("ne"), "ne", (diff,), restart, cumsum_source, element=b8),
        reduction(name("cumsum"), "cumsum", restart, sequence, B * T, cumsum_source),
        Free(name("views"), "view", 1),
        pointwise(name("eq"), "eq", (last,), is_one, test_source, element=b8),
        reduction(name("all"), "all", is_one, answer, B, test_source),
        Free(name("sync"), "sync"),
    )
