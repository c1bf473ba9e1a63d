"""Attention in one kernel: torch's scaled_dot_product_attention, and the flash-attn package's."""

from __future__ import annotations

from dataclasses import replace

from gpt2cost.table.builders import copy, fill, pointwise, reduction, tensor
from gpt2cost.table.citations import Citation, cite
from gpt2cost.table.formula import ALWAYS, Condition, formula
from gpt2cost.table.inlining import MASK
from gpt2cost.table.kernel import Free, FusedAttention, Kernel, Tensor
from gpt2cost.table.options import TableOptions
from gpt2cost.table.qkv import HALF, QKV
from gpt2cost.table.symbols import B, C, D, H, S, T, b8, f32, hd, i64


def fused_attention(op: str, x: QKV, source: Citation, mask: Tensor | None, when: Condition) -> tuple[Kernel, Tensor]:
    """One kernel for scores, softmax and context; its output needs no copy to merge the heads.

    The output lies in memory by tokens, (B, T, H, hd), whatever its shape is: that of the query.
    """
    attended, keys = x.tensor("merged", *x.query.shape), x.keys
    inputs = (x.query, x.key, x.value) + ((mask,) if mask else ())
    shape = FusedAttention(B, H, hd, T, keys, masked=mask is not None, causal=x.causal)
    name = op + ("_masked" if mask else "")
    kernel = Kernel(name, op, "attention", inputs, (attended,), 4 * B * H * T * keys * hd, source, when, shape)
    return kernel, x.tensor("merged", B, T, D)


def heads_merged(attention: Kernel, merged: Tensor, count: int) -> Free:
    """The views of what fused attention makes: transposed where it is called by heads, then without them."""
    return Free("views", "view", count, inputs=attention.outputs[:1], outputs=(merged,))


def trained_attention(
    op: str, x: QKV, source: Citation, when: Condition, mask: Tensor | None = None
) -> tuple[Kernel, Tensor]:
    """The same in train mode, in which it keeps what its backward needs.

    Beside the output that is the log-sum-exp of each query's scores, and the random numbers' seed and offset, of which
    flash attention has the former twice as long. (The memory-efficient kernel rounds its rows of the log-sum-exp up to
    32 tokens; they are charged as they are.)
    """
    kernel, merged = fused_attention(op, x, source, mask, when)
    seed = () if "efficient" in op else (2,)
    saved = (
        x.tensor("log_sum_exp", B, H, T, element=f32),
        x.tensor(f"{op}.seed", *seed, element=formula(8)),
        x.tensor(f"{op}.offset", element=formula(8)),
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


def sdpa_attention(x: QKV, mask: Tensor | None, options: TableOptions) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`sdpa_attention_forward`: torch's fused kernel. A boolean mask is made into a float one in every layer.

    In train mode that is a pass which is traced without a cache; no other needs a mask.

    The memory-efficient kernel loads rows of the mask that are aligned to 8 elements: PyTorch (`pad_bias` of its ATen
    sources) copies another mask into wider rows and passes a view of them. The copy is charged kv_len, not the width.
    """
    source = cite(
        "sdpa_attention_forward", "torch.nn.functional.scaled_dot_product_attention(", file="sdpa_attention.py"
    )
    if mask is None:
        kernels, merged = _unmasked(x, source, options)
        return (*kernels, heads_merged(kernels[0], merged, 3)), merged
    zero, infinity = tensor("zero"), tensor("minus_infinity")
    bias = tensor("float_mask", B, 1, T, S)
    when = sdpa_mask(options)
    made: tuple[Kernel | Free, ...] = (
        fill("minus_infinity", "scalar_tensor", infinity, source, when, MASK),
        fill("zero", "scalar_tensor", zero, source, when, MASK),
        pointwise("float_mask", "where", (mask, zero, infinity), bias, source, when=when, fusion_group="float_mask"),
        Free("views", "view", 1, when),
    )
    if options.train and when == ALWAYS:
        op = "_scaled_dot_product_efficient_attention"
        kernel, merged = trained_attention(op, x, source, ALWAYS, bias)
        return (*made, kernel, heads_merged(kernel, merged, 3)), merged
    if options.train:
        return sdpa_attention(x, None, options)
    padded, ragged = replace(bias, name="padded_mask"), when & S.is_ragged(8)
    slices = Free("pad_mask.slice", "view", 1, ragged, inputs=(padded,), outputs=(bias,))
    written = T if options.cache_type == "static" else S  # of an empty static cache, the new rows alone are passed
    key, value = (
        tensor(name, B, H, written, hd, view_of=whole.view_of) for name, whole in (("key", x.key), ("value", x.value))
    )
    cut = replace(x, key=key, value=value, keys=written)
    plain, merged = fused_attention("scaled_dot_product_attention", cut, source, None, ~when)
    masked, _ = fused_attention("scaled_dot_product_attention", x, source, bias, when)
    return (
        *made,
        *((copy("pad_mask", "constant_pad_nd", bias, padded, source, ragged), slices) if options.pads_mask else ()),
        plain,
        masked,
        heads_merged(plain, merged, 3),
    ), merged


def _unmasked(x: QKV, source: Citation, options: TableOptions) -> tuple[tuple[Kernel, ...], Tensor]:
    if options.train:
        return trained_sdpa(x, source, options)
    kernel, merged = fused_attention("scaled_dot_product_attention", x, source, None, ALWAYS)
    return (kernel,), merged


def flash_attention(
    x: QKV, positions: Tensor | None, options: TableOptions
) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`flash_attention_forward`: at batch 1, first a test for packed sequences, where `positions` are passed."""
    source = cite("_flash_attention_forward", "out = flash_fn(query_states", file="modeling_flash_attention_utils.py")
    by_head = (x.query, x.key, x.value)
    by_token = tuple(replace(each, shape=(B, each.shape[2], H, hd)) for each in by_head)
    query, key, value = by_token
    given = replace(x, query=query, key=key, value=value)
    if options.train:
        kernel, merged = trained_attention("flash_attn_func", given, source, ALWAYS)
    else:
        kernel, merged = fused_attention("flash_attn_func", given, source, None, ALWAYS)
    return (
        Free("views", "view", 3, inputs=by_head, outputs=by_token),
        *(_packed_test(positions) if positions else ()),
        kernel,
        heads_merged(kernel, merged, 2),
    ), merged


def _packed_test(positions: Tensor) -> tuple[Kernel | Free, ...]:
    """Do the positions of the one sequence restart? The host waits for the answer."""
    src, file = "_is_packed_sequence", "modeling_flash_attention_utils.py"
    arange = cite(src, "torch.arange(position_ids.shape[1]", file=file)
    test = cite(src, "(increasing_position_sequences - position_ids).abs().sum().bool()", file=file)
    when = B.at_most(1) & (T > 1)
    ids = {name: tensor(f"packed.{name}", T, element=i64) for name in ("arange", "add", "sub", "abs")}
    first, total = (tensor(f"packed.{name}", element=i64) for name in ("min", "sum"))
    packed = tensor("packed.bool", element=b8)

    def step(name: str, inputs: tuple[Tensor, ...], citation: Citation) -> Kernel:
        return pointwise(f"packed_{name}", name, inputs, ids[name], citation, when=when)

    return (
        fill("packed_arange", "arange", ids["arange"], arange, when),
        reduction("packed_min", "min", positions, first, T, arange, when),
        step("add", (ids["arange"], first), arange),
        step("sub", (ids["add"], positions), test),
        step("abs", (ids["sub"],), test),
        reduction("packed_sum", "sum", ids["abs"], total, T, test, when),
        copy("packed_bool", "_to_copy", total, packed, test, when),
        Free("packed_sync", "sync", 1, when),
    )
