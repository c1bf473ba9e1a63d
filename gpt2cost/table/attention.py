"""GPT2Attention: one list of kernels for each attention implementation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpt2cost.table.builders import copy, fill, output, pointwise, reduction, tensor
from gpt2cost.table.citations import Citation, cite
from gpt2cost.table.dropout import NOT_CALLED, dropout, drops, native_dropout
from gpt2cost.table.formula import ALWAYS, Condition, Formula, formula
from gpt2cost.table.kernel import Free, FusedAttention, Gemm, Kernel, Module, Tensor
from gpt2cost.table.kv_cache import cache_update
from gpt2cost.table.options import KERNEL_VARIANTS, TableOptions
from gpt2cost.table.quantization import projection
from gpt2cost.table.symbols import B, C, D, H, S, T, a, b8, f32, hd, i64

PROBABILITIES = tensor("probabilities", B, H, T, S)
"""What the softmax of eager attention makes; GPT2Block's variables keep it alive to the block's end."""

HALF = a < f32
"""Where activations have 16 bits."""

IN_C_ATTN = "attn.c_attn"
"""The tensor (B, T, 3D) that holds new queries, keys and values side by side."""


@dataclass(frozen=True)
class QKV:
    """What GPT2Attention passes to its attention function: the query (B, H, T, hd), keys and values (B, H, S, hd).

    `cached`: keys and values come from the cache's cat.
    """

    qkv: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    cached: bool

    def copied(self) -> tuple[Tensor, Tensor]:
        """Query and key as the product of the scores reads them."""
        query = replace(self.query, name="query.copy")
        return query, self.key if self.cached else replace(self.key, name="key.copy")


# Query, key and value are strided views of c_attn's output. A reshape to (B*H, ...) has to copy them unless one of
# the two dimensions is 1; the output's (B, T, H, hd) has to be copied from (B, H, T, hd) unless T or H is 1.
SPLIT_HEADS_COPY = (B > 1) & (H > 1)
MERGE_HEADS_COPY = (T > 1) & (H > 1)


def flattened(x: Tensor) -> Tensor:
    """A tensor (B, H, ...) as a batch of products takes it: (B*H, ...)."""
    return replace(x, shape=(B * H, *x.shape[2:]))


def context(
    probabilities: Tensor, x: QKV, source: Citation, variables: tuple[Tensor, ...] = ()
) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """probabilities @ value, and the heads merged: the end of both eager attention functions.

    `variables` are what the function's local variables keep alive until it returns.
    """
    heads = Tensor("context", (B, H, T, hd), by_head=True)
    by_token, merged = tensor("merged", B, T, H, hd), tensor("merged", B, T, D)
    turned = replace(heads, shape=by_token.shape)
    merge = cite("GPT2Attention.forward", "attn_output = attn_output.reshape(")
    value = x.value if x.cached else replace(x.value, name="value.copy")
    value_copy = () if x.cached else (copy("clone_value", "clone", x.value, value, source, SPLIT_HEADS_COPY),)
    kernels = (
        Free("views", "view", 4, inputs=(probabilities,), outputs=(flattened(probabilities),)),
        *value_copy,
        Kernel(
            "context", "bmm", "bmm", (probabilities, value), (heads,), 2 * B * H * T * S * hd, source,
            shape=Gemm(B * H, T, hd, S),
        ),
        Free("views", "view", 2, keeps=variables, inputs=(flattened(heads),), outputs=(turned,)),
        copy("clone_output", "clone", heads, by_token, merge, MERGE_HEADS_COPY),
        Free("views", "view", 1, inputs=(by_token,), outputs=(merged,)),
    )  # fmt: skip
    return kernels, merged


def eager_attention(
    x: QKV, mask: Tensor, variants: dict[str, str], options: TableOptions
) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`eager_attention_forward`: scores, scaling, mask, softmax and context as separate kernels."""
    src = "eager_attention_forward"
    scores = [*(tensor(name, B, H, T, S) for name in ("scores", "scaled", "masked")), PROBABILITIES]
    scores_source = cite(src, "attn_weights = torch.matmul(query, key.transpose(-1, -2)) * scaling")
    query, key = x.copied()
    key_copy = () if x.cached else (copy("clone_key", "clone", x.key, key, scores_source, SPLIT_HEADS_COPY),)
    group = "scores"
    mask_source = cite(src, "attn_weights + ")
    scalar, boolean = tensor("scalar"), tensor("causal_mask", 1, 1, T, S, element=b8)
    scaled_from = (scores[0],) if variants["scale"] == "mul" else (scores[0], scalar)
    unmasked, copied = scores[1], replace(scores[1], name="unmasked")
    cloned: tuple[Kernel, ...] = ()
    if variants["mask"] == "masked_fill":
        cloned = (pointwise("mask_clone", "clone", (unmasked,), copied, mask_source, fusion_group=group),)
        unmasked = copied
    masked_from = (unmasked, mask) if variants["mask"] == "add" else (boolean, unmasked, scalar)
    softmax = Kernel(
        "softmax", "_softmax", "reduction", (scores[2],), (scores[3],), 5 * B * H * T * S,
        cite(src, "nn.functional.softmax("), columns=S, fusion_group=group,
    )  # fmt: skip
    dropped, probabilities = _train_softmax(scores[3], src, options)
    tail, merged = context(probabilities, x, cite(src, "attn_output = torch.matmul(attn_weights, value)"))
    key_turned = replace(x.key, shape=(B, H, hd, S))
    return (
        Free("views", "view", 2, inputs=(x.key,), outputs=(key_turned,)),
        copy("clone_query", "clone", x.query, query, scores_source, SPLIT_HEADS_COPY),
        Free("views", "view", 2, inputs=(query,), outputs=(flattened(query),)),
        *key_copy,
        Kernel(
            "scores", "bmm", "bmm", (query, key), (scores[0],), 2 * B * H * T * S * hd, scores_source,
            shape=Gemm(B * H, T, S, hd, "NT"),
        ),
        Free("views", "view", 1, inputs=(flattened(scores[0]),), outputs=(scores[0],)),
        pointwise("scale", variants["scale"], scaled_from, scores[1], scores_source, fusion_group=group),
        *cloned,
        pointwise("mask", variants["mask"], masked_from, scores[2], mask_source, fusion_group=group),
        softmax,
        *dropped,
        *tail,
    ), merged  # fmt: skip


def _train_softmax(soft: Tensor, src: str, options: TableOptions) -> tuple[tuple[Kernel, ...], Tensor]:
    """What follows the softmax in train mode: back to the values' dtype under autocast, and dropout."""
    steps: tuple[Kernel, ...] = ()
    if options.autocast:
        half = Tensor("probabilities.cast", soft.shape)
        steps, soft = (copy("downcast", "_to_copy", soft, half, cite(src, "attn_weights.type(value.dtype)")),), half
    if not drops(options, "attn"):
        return steps, soft
    dropped = Tensor("attn_dropout", soft.shape)
    source = cite(src, "nn.functional.dropout(attn_weights")
    return (*steps, native_dropout("attn_dropout", soft, dropped, source, "scores")), dropped


def upcast_attention(x: QKV, mask: Tensor, options: TableOptions) -> tuple[tuple[Module | Kernel | Free, ...], Tensor]:
    """`_upcast_and_reordered_attn`: the scores in float32, scaled inside the product."""
    src = "GPT2Attention._upcast_and_reordered_attn"
    reshape, upcast = cite(src, "query.reshape(-1, q_seq_len, dk)"), cite(src, "torch.baddbmm(")
    scores, masked, soft = (tensor(n, B, H, T, S, element=f32) for n in ("scores", "masked", "softmax"))
    group = "scores"
    query, key = x.copied()
    query32, key32 = (
        tensor(f"{name}.float32", B, H, n, hd, element=f32, view_of=half_one.name)
        for name, n, half_one in (("query", T, query), ("key", S, key))
    )
    key_copy = () if x.cached else (copy("clone_key", "clone", x.key, key, reshape, SPLIT_HEADS_COPY),)
    mask_source = cite(src, "attn_weights + ")
    product = cite(src, "attn_output = torch.matmul(attn_weights, value)")
    cast = replace(PROBABILITIES, view_of=soft.name) if options.train else PROBABILITIES
    dropped = cite(src, "self.attn_dropout(attn_weights)")
    drop, probabilities = dropout("attn_dropout", "attn", cast, "attn_dropout", options, dropped)
    tail, merged = context(probabilities, x, product, variables=(query, key))
    return (
        copy("clone_query", "clone", x.query, query, reshape, SPLIT_HEADS_COPY),
        Free("views", "view", 3, inputs=(query,), outputs=(flattened(query),)),
        *key_copy,
        copy("upcast_query", "_to_copy", query, query32, upcast, HALF),
        copy("upcast_key", "_to_copy", key, key32, upcast, HALF),
        Kernel(
            "scores", "baddbmm", "bmm", (query32, key32), (scores,), 2 * B * H * T * S * hd, upcast,
            shape=Gemm(B * H, T, S, hd, "NT", scaled=options.scale_attn_weights),
        ),
        Free("views", "view", 1, inputs=(flattened(scores),), outputs=(scores,)),
        pointwise(
            "mask", "add", (scores, mask), masked, mask_source, fusion_group=group,
        ),
        Kernel(
            "softmax", "_softmax", "reduction", (masked,), (soft,), 5 * B * H * T * S,
            cite(src, "nn.functional.softmax("), columns=S, fusion_group=group,
        ),
        copy("downcast", "_to_copy", soft, cast, cite(src, "attn_weights.type(value.dtype)"), HALF),
        drop,
        *tail,
    ), merged  # fmt: skip


def fused_attention(
    op: str, x: QKV, source: Citation, mask: Tensor | None, when: Condition, keys: Formula = S
) -> tuple[Kernel, Tensor]:
    """One kernel for scores, softmax and context over `keys` keys; its output needs no copy to merge the heads.

    The output lies in memory by tokens, (B, T, H, hd), whatever its shape is: that of the query.
    """
    attended = tensor("merged", *x.query.shape)
    inputs = (x.query, x.key, x.value) + ((mask,) if mask else ())
    shape = FusedAttention(B, H, hd, T, keys, masked=mask is not None)
    name = op + ("_masked" if mask else "")
    kernel = Kernel(name, op, "attention", inputs, (attended,), 4 * B * H * T * keys * hd, source, when, shape)
    return kernel, tensor("merged", B, T, D)


def heads_merged(attention: Kernel, merged: Tensor, count: int) -> Free:
    """The views of what fused attention makes: transposed where it is called by heads, then without them."""
    return Free("views", "view", count, inputs=attention.outputs[:1], outputs=(merged,))


def trained_attention(
    op: str, x: QKV, source: Citation, when: Condition, mask: Tensor | None = None
) -> tuple[Kernel, Tensor]:
    """The same in train mode: a causal pass over its own keys, which keeps what its backward needs.

    Beside the output that is the log-sum-exp of each query's scores, and the random numbers' seed and offset, of which
    flash attention has the former twice as long. (The memory-efficient kernel rounds its rows of the log-sum-exp up to
    32 tokens; they are charged as they are.)
    """
    kernel, merged = fused_attention(op, x, source, mask, when)
    seed = () if "efficient" in op else (2,)
    saved = (
        tensor("log_sum_exp", B, H, T, element=f32),
        tensor(f"{op}.seed", *seed, element=formula(8)),
        tensor(f"{op}.offset", element=formula(8)),
    )
    return replace(kernel, outputs=(*kernel.outputs, *saved)), merged


def trained_sdpa(x: QKV, source: Citation, options: TableOptions) -> tuple[tuple[Kernel, ...], Tensor]:
    """What `scaled_dot_product_attention` runs in train mode: flash attention in 16 bit, else its memory-efficient
    kernel."""
    when = ~HALF if options.has_flash else ALWAYS
    flash, merged = trained_attention("_scaled_dot_product_flash_attention", x, source, HALF)
    efficient, _ = trained_attention("_scaled_dot_product_efficient_attention", x, source, when)
    return ((flash, efficient) if options.has_flash else (efficient,)), merged


def sdpa_mask(options: TableOptions) -> Condition:
    """Where sdpa needs a mask tensor: its own causal rule holds for a prefill, and a single query needs none.

    Padding always needs one, a traced pass without a cache gets one (it cannot ask whether sequences are packed), and
    so does a static cache that is longer than what has been written to it.
    """
    if options.padded or (options.traced and not options.use_cache):
        return ALWAYS
    return T.at_most(1) | (C > 0) if options.cache_type == "static" else (T > 1) & (C > 0)


def sdpa_attention(x: QKV, mask: Tensor, options: TableOptions) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`sdpa_attention_forward`: torch's fused kernel. A boolean mask is made into a float one in every layer.

    In train mode that is a pass which is traced without a cache; no other needs a mask.

    The memory-efficient kernel loads rows of the mask that are aligned to 8 elements: PyTorch (`pad_bias` of its ATen
    sources) copies another mask into wider rows and passes a view of them. The copy is charged kv_len, not the width.
    """
    source = cite(
        "sdpa_attention_forward", "torch.nn.functional.scaled_dot_product_attention(", file="sdpa_attention.py"
    )
    zero, infinity = tensor("zero"), tensor("minus_infinity")
    bias = tensor("float_mask", B, 1, T, S)
    when = sdpa_mask(options)
    made: tuple[Kernel | Free, ...] = (
        fill("minus_infinity", "scalar_tensor", infinity, source, when, "mask"),
        fill("zero", "scalar_tensor", zero, source, when, "mask"),
        pointwise("float_mask", "where", (mask, zero, infinity), bias, source, when=when, fusion_group="mask"),
        Free("views", "view", 1, when),
    )
    if options.train and when == ALWAYS:
        op = "_scaled_dot_product_efficient_attention"
        kernel, merged = trained_attention(op, x, source, ALWAYS, bias)
        return (*made, kernel, heads_merged(kernel, merged, 3)), merged
    if options.train:
        kernels, merged = trained_sdpa(x, source, options)
        return (*kernels, heads_merged(kernels[0], merged, 3)), merged
    padded, ragged = replace(bias, name="padded_mask"), when & S.is_ragged(8)
    slices = Free("pad_mask.slice", "view", 1, ragged, inputs=(padded,), outputs=(bias,))
    written = T if options.cache_type == "static" else S  # of an empty static cache, the new rows alone are passed
    key, value = (
        tensor(name, B, H, written, hd, view_of=whole.view_of) for name, whole in (("key", x.key), ("value", x.value))
    )
    cut = QKV(x.qkv, x.query, key, value, cached=x.cached)
    plain, merged = fused_attention("scaled_dot_product_attention", cut, source, None, ~when, written)
    masked, _ = fused_attention("scaled_dot_product_attention", x, source, bias, when)
    return (
        *made,
        *((copy("pad_mask", "constant_pad_nd", bias, padded, source, ragged), slices) if options.pads_mask else ()),
        plain,
        masked,
        heads_merged(plain, merged, 3),
    ), merged


def flash_attention(x: QKV, positions: Tensor, options: TableOptions) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`flash_attention_forward`: at batch 1, first a test for packed sequences, which waits for the device."""
    source = cite("_flash_attention_forward", "out = flash_fn(query_states", file="modeling_flash_attention_utils.py")
    src, file = "_is_packed_sequence", "modeling_flash_attention_utils.py"
    arange = cite(src, "torch.arange(position_ids.shape[1]", file=file)
    test = cite(src, "(increasing_position_sequences - position_ids).abs().sum().bool()", file=file)
    when = B.at_most(1) & (T > 1)
    ids = {name: tensor(f"packed.{name}", T, element=i64) for name in ("arange", "add", "sub", "abs")}
    first, total = (tensor(f"packed.{name}", element=i64) for name in ("min", "sum"))
    packed = tensor("packed.bool", element=b8)

    def step(name: str, inputs: tuple[Tensor, ...], citation: Citation) -> Kernel:
        return pointwise(f"packed_{name}", name, inputs, ids[name], citation, when=when)

    by_head = (x.query, x.key, x.value)
    by_token = tuple(replace(each, shape=(B, each.shape[2], H, hd)) for each in by_head)
    query, key, value = by_token
    given = QKV(x.qkv, query, key, value, cached=x.cached)
    if options.train:
        kernel, merged = trained_attention("flash_attn_func", given, source, ALWAYS)
    else:
        kernel, merged = fused_attention("flash_attn_func", given, source, None, ALWAYS)
    return (
        Free("views", "view", 3, inputs=by_head, outputs=by_token),
        fill("packed_arange", "arange", ids["arange"], arange, when),
        reduction("packed_min", "min", positions, first, T, arange, when),
        step("add", (ids["arange"], first), arange),
        step("sub", (ids["add"], positions), test),
        step("abs", (ids["sub"],), test),
        reduction("packed_sum", "sum", ids["abs"], total, T, test, when),
        copy("packed_bool", "_to_copy", total, packed, test, when),
        Free("packed_sync", "sync", 1, when),
        kernel,
        heads_merged(kernel, merged, 2),
    ), merged


def attention(x: Tensor, mask: Tensor, positions: Tensor, options: TableOptions) -> tuple[Module, Tensor]:
    """GPT2Attention."""
    src = "GPT2Attention.forward"
    c_attn = projection(x, 3 * D, D, "attn.c_attn", cite(src, "self.c_attn(hidden_states).split"), options)
    query, new_key, new_value = (
        tensor(f"new_{name}", B, H, T, hd, view_of=IN_C_ATTN) for name in ("query", "key", "value")
    )
    cached = options.use_cache
    key, value = (
        Tensor(name, (B, H, S, hd), view_of="" if cached else IN_C_ATTN, by_head=cached) for name in ("key", "value")
    )
    x_qkv = QKV(output(c_attn), query, key, value, cached=cached)
    cache = cache_update((new_key, new_value), (key, value), options)
    match options.attn:
        case "eager" if options.reorder_and_upcast_attn:
            kernels, merged = upcast_attention(x_qkv, mask, options)
        case "eager":
            ops = {name: today for name, (today, *_) in KERNEL_VARIANTS.items()} | dict(options.variants)
            kernels, merged = eager_attention(x_qkv, mask, ops, options)
        case "sdpa":
            kernels, merged = sdpa_attention(x_qkv, mask, options)
        case "flash_attention_2":
            kernels, merged = flash_attention(x_qkv, positions, options)
    c_proj = projection(merged, D, D, "attn.c_proj", cite(src, "self.c_proj(attn_output)"), options)
    dropped = cite(src, "self.resid_dropout(attn_output)")
    drop, y = dropout(
        "resid_dropout", "resid", output(c_proj), "attn.resid_dropout", options, dropped, keeps=(output(c_attn),)
    )
    is_called = options.attn == "eager" and options.reorder_and_upcast_attn
    uncalled = () if is_called else (NOT_CALLED,)
    call = Free("attn", "call", inputs=(x,), outputs=(y,))
    split = Free("split", "view", 7, inputs=(output(c_attn),), outputs=(query, new_key, new_value))
    children = (call, c_attn, split, *cache, *kernels, *uncalled, c_proj, drop)
    return Module("attn", "GPT2Attention", children), y
