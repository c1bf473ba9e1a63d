"""Attention masks as transformers builds them: the causal mask, padding in it, and the test for packed sequences."""

from __future__ import annotations

from dataclasses import replace

from gpt2cost.table.builders import copy, fill, pointwise, reduction, tensor
from gpt2cost.table.citations import Citation, cite
from gpt2cost.table.formula import ALWAYS, Condition, Formula, formula
from gpt2cost.table.fused_attention import sdpa_mask
from gpt2cost.table.inlining import MASK
from gpt2cost.table.kernel import Free, Kernel, Tensor
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import B, C, S, T, a, b8, f32, i64

FILE = "masking_utils.py"


def causal_mask(options: TableOptions, positions: Tensor, rows: Formula) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`create_causal_mask`: a boolean (1, 1, T, S) mask; eager attention makes it a float one of each batch entry.

    With padding the mask is (B, 1, T, S), and sdpa first asks, with a host sync, whether there is any padding. A traced
    pass asks nothing; without a cache its mask is one of packed sequences, (B, 1, T, S) too. `positions` has `rows`
    rows.
    """
    when = sdpa_mask(options) if options.attn == "sdpa" else ALWAYS
    mask = tensor("causal_mask", 1, 1, T, S, element=b8)
    if options.attn == "flash_attention_2":
        return (), mask
    src = "sdpa_mask"
    sizes = {"batch": B, "head": formula(1), "q": T, "kv": S}
    aranges = {n: cite(src, f"{n}_arange = torch.arange(", file=FILE) for n in sizes}
    index = {name: tensor(f"{name}_arange", size, element=i64) for name, size in sizes.items()}
    offset = {name: replace(index[name], name=f"{name}_offset") for name in ("q", "kv")}

    def arange(name: str) -> Kernel:
        return fill(f"causal_mask.{name}_arange", "arange", index[name], aranges[name], when, MASK)

    def add(name: str, extra: tuple[Tensor, ...] = (), where: Condition = ALWAYS, suffix: str = "") -> Kernel:
        kernel, inputs = f"causal_mask.{name}_offset{suffix}", (index[name], *extra)
        condition = when & where
        return pointwise(kernel, "add", inputs, offset[name], aranges[name], when=condition, fusion_group=MASK)

    # The offset of the queries is a number, but a tensor on the device once a static cache has been written to.
    length = (tensor("length", element=i64),)
    is_static = options.cache_type == "static"
    add_q = (add("q", (), C.is_zero()), add("q", length, C > 0, "_static")) if is_static else (add("q"),)
    compare = cite("causal_mask_function", "return kv_idx <= q_idx", file=FILE)
    le = pointwise("causal_mask.le", "le", (offset["kv"], offset["q"]), mask, compare, when=when, fusion_group=MASK)
    padding, padded = _padding(options, index["batch"], offset["kv"], mask, le) if options.padded else ((), mask)
    if options.traced and not options.use_cache and not options.padded:
        padding, padded = _packed(positions, rows, index["batch"], offset, mask)
    expanded = replace(mask, shape=(B, *mask.shape[1:]))
    steps: tuple[Kernel | Free, ...] = (
        *(_padding_test(options) if options.padded else _empty_test(options)),
        arange("batch"), arange("head"), arange("q"), *add_q, arange("kv"), add("kv"),
        Free("causal_mask.unsqueeze", "view", 12, when), *(padding or (le,)),
        Free("causal_mask.expand", "view", 1, when, inputs=(padded,), outputs=(expanded,)),
    )  # fmt: skip
    if options.attn == "sdpa":
        if is_static and options.in_generate and not options.padded:
            whole = tensor("causal_mask.contiguous", B, 1, T, S, element=b8)
            source = cite(
                "GenerationMixin.prepare_inputs_for_generation",
                "attention_mask.contiguous()",
                file="generation/utils.py",
            )
            return (*steps, copy("causal_mask.contiguous", "clone", mask, whole, source, when & (B > 1))), whole
        return steps, padded
    where = cite("eager_mask", "torch.where(mask", file=FILE)
    number = f32 if options.autocast else a  # of the embeddings
    zero, least = tensor("causal_mask.zero", element=number), tensor("causal_mask.min_dtype", element=number)
    float_mask = tensor("causal_mask.float", B, 1, T, S)
    steps += (
        fill("causal_mask.zeros", "zeros", zero, where, fusion_group=MASK),
        fill("causal_mask.min_dtype", "scalar_tensor", least, where, fusion_group=MASK),
        pointwise("causal_mask.where", "where", (padded, zero, least), float_mask, where, fusion_group=MASK),
    )
    return steps, float_mask


def _padding_test(options: TableOptions) -> tuple[Kernel | Free, ...]:
    """The 2-D mask as booleans, as long as a static cache; in sdpa, two questions whether all of it is ones."""
    static, longest = options.cache_type == "static", tensor("padding", B, S, element=b8)
    given = tensor("attention_mask", B, C + T, element=i64)
    truth = tensor("padding.bool" if static else longest.name, B, C + T, element=b8)
    to_bool = cite("_preprocess_mask_arguments", "attention_mask = attention_mask.to(", file=FILE)
    steps: tuple[Kernel | Free, ...] = (copy("padding.bool", "_to_copy", given, truth, to_bool, fusion_group=MASK),)
    if static:
        pad = cite("prepare_padding_mask", "torch.nn.functional.pad(attention_mask", file=FILE)
        steps += (copy("padding.pad", "constant_pad_nd", truth, longest, pad, C + T < S, MASK),)
    if options.attn != "sdpa" or options.traced:
        return steps
    asked = T > 1 if static else ALWAYS
    no_more_keys = S.at_most(T)
    first = asked & (no_more_keys if static else T.at_most(1) | no_more_keys)
    steps += _all_ones("padding.all", longest, B * S, first, "or fast_all(padding_mask)):")
    new, fragment = tensor("padding", B, T, element=b8), "(fast_all(padding_mask[:, :q_length])"
    return steps + _all_ones("padding.new", new, B * T, asked & C.is_zero(), fragment)


def _all_ones(name: str, mask: Tensor, size: Formula, when: Condition, fragment: str) -> tuple[Kernel | Free, ...]:
    """`fast_all`: a sum, a comparison, and the answer goes to the host."""
    count, answer = tensor(f"{name}_sum", element=i64), tensor(name, element=b8)
    source = cite("_ignore_causal_mask_sdpa", fragment, file=FILE)
    return (
        reduction(f"{name}_sum", "sum", mask, count, size, source, when),
        pointwise(f"{name}_eq", "eq", (count,), answer, source, when=when),
        Free(f"{name}_sync", "sync", 1, when),
    )


def _padding(
    options: TableOptions, batch: Tensor, keys: Tensor, mask: Tensor, le: Kernel
) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """`and_masks` of the causal rule and the padding: (B, 1, T, S) booleans."""
    join = cite("and_masks", "result = result & mask(", file=FILE)
    padding, one = tensor("padding", B, S, element=b8), tensor("padding.one", element=b8)
    causal = replace(mask, name="padding.causal")
    rows = tensor("padding.rows", B, 1, 1, S, element=b8)
    both = tensor("causal_mask.padded", B, 1, T, S, element=b8)
    look_up = cite("padding_mask_function", "return padding_mask[batch_idx, kv_idx]", file=FILE)
    ones = cite("and_masks", "result = q_idx.new_ones(", file=FILE)
    steps = (
        fill("padding.one", "new_ones", one, ones, fusion_group=MASK),
        le,
        pointwise("padding.causal", "bitwise_and", (one, mask), causal, join, fusion_group=MASK),
        copy("padding.rows", "index", (padding, batch, keys), rows, look_up, fusion_group=MASK),
        pointwise("padding.and", "bitwise_and", (causal, rows), both, join, fusion_group=MASK),
    )
    return steps, both


def _empty_test(options: TableOptions) -> tuple[Kernel | Free, ...]:
    """Is a static cache still empty? Of one that has been written to, the host waits for the answer."""
    if options.attn != "sdpa" or options.cache_type != "static" or options.traced:
        return ()
    when, source = (T > 1) & (C > 0), cite("_ignore_causal_mask_sdpa", "if q_offset == 0 and (", file=FILE)
    length, answer = tensor("length", element=i64), tensor("causal_mask.empty", element=b8)
    return (
        pointwise("causal_mask.empty", "eq", (length,), answer, source, when=when),
        Free("causal_mask.empty_sync", "sync", 1, when),
    )


def _packed(
    positions: Tensor, rows: Formula, batch: Tensor, offset: dict[str, Tensor], mask: Tensor
) -> tuple[tuple[Kernel | Free, ...], Tensor]:
    """The causal rule by the position in each sequence, and no sequence sees another: (B, 1, T, S) booleans."""
    remap = cite(
        "remap_positions_for_packed_sequence",
        "return mask_function(batch_idx, head_idx, position_ids[batch_idx, q_idx]",
        file=FILE,
    )
    same = cite("packed_sequence_mask_function", "return packed_sequence_mask[", file=FILE)
    compare = cite("causal_mask_function", "return kv_idx <= q_idx", file=FILE)
    join = cite("and_masks", "result = result & mask(", file=FILE)
    ones = cite("and_masks", "result = q_idx.new_ones(", file=FILE)
    one, sequence = tensor("packed.one", element=b8), tensor("packed.cumsum", B, T, element=i64)
    position = tensor(positions.name, rows, T, element=i64)
    causal, alike, both, whole = (
        tensor(f"causal_mask.{name}", B, 1, T, S, element=b8) for name in ("causal", "alike", "both", "packed")
    )

    def look_up(what: Tensor, side: str, source: Citation) -> Kernel:
        name = f"packed.{what.name.rpartition('.')[2]}_{side}"
        found = tensor(name, B, T, element=i64)
        return copy(name, "index", (what, batch, offset[side]), found, source, fusion_group=MASK)

    def step(name: str, op: str, inputs: tuple[Tensor, ...], out: Tensor, source: Citation) -> Kernel:
        return pointwise(name, op, inputs, out, source, fusion_group=MASK)

    moved = [look_up(position, side, remap) for side in ("q", "kv")]
    owners = [look_up(sequence, side, same) for side in ("q", "kv")]
    steps = (
        fill("packed.one", "new_ones", one, ones, fusion_group=MASK),
        *moved,
        step("causal_mask.le", "le", tuple(kernel.outputs[0] for kernel in moved), causal, compare),
        step("causal_mask.and_causal", "bitwise_and", (one, causal), both, join),
        *owners,
        step("packed.same", "eq", tuple(kernel.outputs[0] for kernel in owners), alike, same),
        step("causal_mask.and_same", "bitwise_and", (both, alike), whole, join),
    )
    return steps, whole


def pad_search(ids: Tensor) -> tuple[Kernel | Free, ...]:
    """`warn_if_padding_and_no_attention_mask`: is the pad token first or last of a sequence? The host waits twice.

    The list of the two places becomes a tensor on the host, and is copied to the device; the answer comes back.
    """
    source = cite(
        "PreTrainedModel.warn_if_padding_and_no_attention_mask",
        "if self.config.pad_token_id in input_ids[:, [-1, 0]]:",
        file="modeling_utils.py",
    )
    places, ends = tensor("ends", 2, element=i64), tensor("end_ids", B, 2, element=i64)
    is_pad, answer = tensor("is_pad", B, 2, element=b8), tensor("any_pad", element=b8)
    return (
        Free("ends_sync", "sync"),
        copy("end_ids", "index", (ids, places), ends, source),
        pointwise("is_pad", "eq", (ends,), is_pad, source),
        reduction("any_pad", "any", is_pad, answer, 2 * B, source),
        Free("pad_sync", "sync"),
    )


def packed_sequence(positions: Tensor, rows: Formula, traced: bool) -> tuple[Kernel | Free, ...]:
    """`find_packed_sequence_indices`: without a cache, do the positions restart? The answer goes to the host.

    A traced pass does not ask. `rows`: how many rows of positions there are, B or 1.
    """
    src, file = "find_packed_sequence_indices", FILE
    first_source = cite(src, "first_dummy_value = position_ids[:, :1] - 1", file=file)
    diff_source = cite(src, "torch.diff(position_ids", file=file)
    cumsum_source = cite(src, "(position_diff != 1).cumsum(-1)", file=file)
    test_source = cite(src, "(packed_sequence_mask[:, -1] == 0).all()", file=file)
    first, prepended = tensor("packed.first", B, 1, element=i64), tensor("packed.cat", B, T + 1, element=i64)
    diff, restart = tensor("packed.diff", B, T, element=i64), tensor("packed.ne", B, T, element=b8)
    sequence, is_one, answer = (
        tensor("packed.cumsum", B, T, element=i64),
        tensor("packed.eq", B, element=b8),
        tensor("packed.all", element=b8),
    )
    first_position = tensor("position_ids[:1]", rows, 1, element=i64, view_of=positions.name)
    last = tensor("packed.cumsum[-1]", B, element=i64)
    left, right = (tensor(f"packed.cat[{part}]", B, T, element=i64) for part in ("1:", ":-1"))
    name, group = "packed_sequence.{}".format, "packed"
    numbered = (
        Free(name("views"), "view", 2),
        pointwise(name("first_minus_1"), "sub", (first_position,), first, first_source),
        copy(name("prepend"), "cat", (first, positions), prepended, diff_source),
        Free(name("views"), "view", 2),
        pointwise(name("diff"), "sub", (left, right), diff, diff_source, fusion_group=group),
        pointwise(name("ne"), "ne", (diff,), restart, cumsum_source, fusion_group=group),
        replace(reduction(name("cumsum"), "cumsum", restart, sequence, B * T, cumsum_source), fusion_group=group),
    )
    if traced:
        return numbered
    return (
        *numbered,
        Free(name("views"), "view", 1),
        pointwise(name("eq"), "eq", (last,), is_one, test_source),
        reduction(name("all"), "all", is_one, answer, B, test_source),
        Free(name("sync"), "sync"),
    )
