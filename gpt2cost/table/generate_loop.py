"""What `generate` runs around the forward passes: kernels, host steps and waits, in the order in which they run.

Read it beside `transformers/generation/utils.py`: `generate` prepares once (`setup`), and then each turn of `_sample`'s
loop prepares the inputs (`before`), calls the model, and chooses the next token and whether to stop (`after`). Python
that touches no tensor is counted as calls. An end-of-sequence token is configured, as in all GPT-2 checkpoints.

With an encoder's states it is the `generate` of VisionEncoderDecoderModel, whose decoder the model is: that one starts
with a token of its own and counts its positions itself. What the encoder takes is not part of it.

Sizes: `cache_len + seq_len` is the number of tokens before the new one; `seq_len` what the forward pass takes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from gpt2cost.table.builders import copy, fill, pointwise, reduction, tensor
from gpt2cost.table.citations import Citation, cite
from gpt2cost.table.formula import ALWAYS, Formula, formula
from gpt2cost.table.kernel import Free, Kernel, Row, Tensor
from gpt2cost.table.masks import causal_mask
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import B, C, T, V, b8, f32, i64

FILE, CLASS = "generation/utils.py", "GenerationMixin"

P = C + T  # tokens of a sequence so far
INPUT_IDS, POSITIONS, MASK = (
    tensor(name, B, P, element=i64) for name in ("all_input_ids", "all_position_ids", "attention_mask")
)
UNFINISHED, TOKENS = tensor("unfinished", B, element=i64), tensor("next_tokens", B, element=i64)


def _utils(function: str, fragment: str) -> Citation:
    return cite(f"{CLASS}.{function}", fragment, file=FILE)


def _asked(x: Tensor, elements: Formula | int, op: str, source: Citation) -> tuple[Kernel | Free, ...]:
    """`any` or `all` of booleans, and the host waits for the answer."""
    answer = tensor(f"{x.name}_answer", element=b8)
    return reduction(answer.name, op, x, answer, formula(elements), source), Free(f"{x.name}_sync", "sync")


@lru_cache
def setup(options: TableOptions, batch_above_one: bool, prompted: bool) -> tuple[Row, ...]:
    """Once a call of `generate`: special tokens checked, and the prompt, or a decoder's first token, prepared.

    `prompted`: whether a decoder is given more than the token that it starts with.
    """
    special = "_prepare_special_tokens"
    isin, negative = _utils(special, "pad_token_tensor).any()"), _utils(special, "(eos_token_tensor < 0).any()")
    eos, pad = tensor("eos_token_id", element=i64), tensor("pad_token_id", element=i64)
    eos_is_pad, eos_is_negative = tensor("eos_is_pad", element=b8), tensor("eos_below_0", element=b8)
    steps: list[Kernel | Free] = [
        Free("generate", "call", 8),  # generate, its configuration, cache, processors and criteria
        Free("views", "view", 3),
        Kernel("eos_is_pad", "isin", "elementwise", (eos, pad), (eos_is_pad,), formula(1), isin),
        *_asked(eos_is_pad, 1, "any", isin),
        pointwise("eos_below_0", "lt", (eos,), eos_is_negative, negative),
        *_asked(eos_is_negative, 1, "any", negative),
        *(_started(prompted) if options.encoder else _prompt(batch_above_one)),
        fill("unfinished", "ones", UNFINISHED, _utils("_sample", "unfinished_sequences = torch.ones(")),
    ]
    return _rows("generate.setup", steps)


def _prompt(batch_above_one: bool) -> list[Kernel | Free]:
    """Positions counted from the mask, and a mask of ones dropped."""
    last, padded_right = tensor("last_column", B, element=i64), tensor("right_padding", B, element=b8)
    right = _utils("generate", "has_right_padding = torch.any(attention_mask[:, -1] == 0).item()")
    count = _utils("_prepare_position_ids_for_generation", "attention_mask.long().cumsum(-1) - 1")
    fill_in = _utils("_prepare_position_ids_for_generation", "position_ids.masked_fill(attention_mask == 0, 0)")
    all_ones = _utils("generate", '(model_kwargs["attention_mask"] == 1).all()')
    ids = _utils("_get_logits_processor", "not (encoder_input_ids < 0).any()")
    summed, minus_one, zeros, ones, low = (
        tensor(name, B, P, element=element)
        for name, element in (("cumsum", i64), ("minus_1", i64), ("is_0", b8), ("is_1", b8), ("ids_below_0", b8))
    )
    steps: list[Kernel | Free] = []
    if batch_above_one:
        steps += [
            Free("views", "view", 1),
            pointwise("right_padding", "eq", (last,), padded_right, right),
            *_asked(padded_right, B, "any", right),
        ]
    return [
        *steps,
        reduction("cumsum", "cumsum", MASK, summed, B * P, count),
        pointwise("minus_1", "sub", (summed,), minus_one, count),
        pointwise("is_0", "eq", (MASK,), zeros, fill_in),
        pointwise("positions", "masked_fill", (minus_one, zeros), POSITIONS, fill_in),
        pointwise("is_1", "eq", (MASK,), ones, all_ones),
        *_asked(ones, B * P, "all", all_ones),
        pointwise("ids_below_0", "lt", (INPUT_IDS,), low, ids),
        *_asked(low, B * P, "any", ids),
    ]


def _started(prompted: bool) -> list[Kernel | Free]:
    """A decoder's first token for each sequence; does a prompt, where there is one, begin with it?"""
    src = "_prepare_decoder_input_ids_for_generation"
    make = _utils(src, "torch.ones((batch_size, 1), dtype=torch.long")
    compare = _utils(src, "elif (decoder_input_ids[:, 0] != decoder_start_token_id[:, 0]).all().item():")
    ones, start = tensor("ones", B, 1, element=i64), tensor("start_ids", B, 1, element=i64)
    first, differs = tensor("first_ids", B, element=i64), tensor("other_start", B, element=b8)
    steps: list[Kernel | Free] = [
        fill("ones", "ones", ones, make),
        pointwise("start_ids", "mul", (ones, tensor("start_id", element=i64)), start, make),
    ]
    if prompted:
        steps += [
            Free("views", "view", 2),
            pointwise("other_start", "ne", (first, replace(start, shape=first.shape)), differs, compare),
            *_asked(differs, B, "all", compare),
        ]
    return steps


@lru_cache
def before(options: TableOptions) -> tuple[Row, ...]:
    """`prepare_inputs_for_generation`: the new ids and positions, and the mask of a static cache."""
    src = "prepare_inputs_for_generation"
    steps: list[Kernel | Free] = [Free("prepare_inputs", "call", 2)]
    ids, positions = tensor("input_ids", B, T, element=i64), tensor("position_ids", B, T, element=i64)
    if options.use_cache:
        steps.append(Free("slice_ids", "view", 1, inputs=(INPUT_IDS,), outputs=(ids,)))
    steps.append(copy("input_ids", "clone", ids, ids, _utils(src, "model_inputs[input_ids_key] = input_ids.clone(")))
    if options.use_cache and not options.encoder:
        source = _utils(src, "model_input = model_input[..., -sequence_length:].clone(")
        steps += [
            Free("slice_positions", "view", 1, C > 0, inputs=(POSITIONS,), outputs=(positions,)),
            copy("position_ids", "clone", positions, positions, source, C > 0),
        ]
    if options.cache_type == "static":
        steps += [Free("empty", "view", 1), *causal_mask(options, positions, B)[0]]
    if options.encoder:
        steps.append(Free("encoder_decoder", "call"))
    return _rows("generate", steps)


@lru_cache
def after(options: TableOptions, sample: bool) -> tuple[Row, ...]:
    """The end of a turn of `_sample`: positions and mask extended, the next token chosen, the wait for the answer."""
    return _rows("generate", [*_extended(options), *_chosen(sample), *_stopping()])


def _extended(options: TableOptions) -> list[Kernel | Free]:
    """`_update_model_kwargs_for_generation`."""
    if options.encoder:
        return [Free("update_kwargs", "call")]
    src = "_update_model_kwargs_for_generation"
    arange = _utils(src, "torch.arange(num_new_tokens")
    grow = _utils(src, "next_position_ids = torch.cat([position_ids")
    first, longer = tensor("next_arange", element=i64), tensor("longer_positions", B, P + 1, element=i64)
    last, plus, following = (tensor(name, B, element=i64) for name in ("last_position", "plus_last", "next_position"))
    steps: list[Kernel | Free] = [
        Free("update_kwargs", "call"),
        fill("arange", "arange", first, arange),
        Free("views", "view", 2),
        pointwise("plus_last", "add", (first, last), plus, arange),
        pointwise("plus_1", "add", (plus,), following, arange),
        copy("cat_positions", "cat", (POSITIONS, following), longer, grow),
    ]
    if options.padded:
        source = _utils(src, "[attention_mask, attention_mask.new_ones(")
        ones, mask = tensor("new_mask", B, element=i64), tensor("longer_mask", B, P + 1, element=i64)
        steps += [
            fill("new_mask", "new_ones", ones, source),
            copy("cat_mask", "cat", (MASK, ones), mask, source),
        ]
    return steps


def _chosen(sample: bool) -> list[Kernel | Free]:
    """The last logits in float32, and the token: the largest, or one drawn from the 50 largest (the default top_k)."""
    logits, scores = tensor("logits", B, V), tensor("next_token_logits", B, V, element=f32)
    steps: list[Kernel | Free] = [
        Free("select", "view", 1, inputs=(tensor("logits", B, 1, V),), outputs=(logits,)),
        copy(
            "logits_float32", "_to_copy", logits, scores, _utils("_sample", "next_token_logits = outputs.logits[:, -1")
        ),
        Free("logits_processor", "call"),
    ]
    if not sample:
        source = _utils("_sample", "next_tokens = torch.argmax(")
        return [*steps, reduction("argmax", "argmax", scores, TOKENS, B * V, source)]
    top = cite("TopKLogitsWarper.__call__", "torch.topk(scores, top_k)", file="logits_process.py")
    drop = cite("TopKLogitsWarper.__call__", "scores.masked_fill(", file="logits_process.py")
    softmax, draw = (
        _utils("_sample", "nn.functional.softmax(next_token_scores"),
        _utils("_sample", "torch.multinomial("),
    )
    largest = tensor("top_k", B, K, element=f32), tensor("top_k.indices", B, K, element=i64)
    threshold, dropped = tensor("threshold", B, 1, element=f32), tensor("dropped", B, V, element=b8)
    kept, probabilities = (tensor(name, B, V, element=f32) for name in ("filtered", "probabilities"))
    return [
        *steps,
        Kernel("topk", "topk", "reduction", (scores,), largest, B * V, top),
        Free("top_k", "view", 2, inputs=largest[:1], outputs=(threshold,)),
        pointwise("below_top_k", "lt", (scores, threshold), dropped, top),
        pointwise("masked_fill", "masked_fill", (scores, dropped), kept, drop),
        Kernel(
            "softmax", "_softmax", "reduction", (kept,), (probabilities,), 5 * B * V, softmax, columns=V,
        ),
        *multinomial(probabilities, draw, f32),
        Free("squeeze", "view", 1),
    ]  # fmt: skip


K = formula(50)
"""GenerationConfig's default top_k (generation/configuration_utils.py)."""


def multinomial(p: Tensor, source: Citation, element: Formula) -> list[Kernel | Free]:
    """`torch.multinomial` of one sample: checks whose assertions stay on the device, and an exponential race.

    As in ATen/native/Distributions.cpp of torch 2.13; its profiler lists these ops below `aten::multinomial`.
    """
    low, high, total = (
        tensor("p_min", element=element),
        tensor("p_max", element=element),
        tensor("p_sum", B, 1, element=element),
    )
    at_least, finite, valid, is_zero, any_zero, none = (
        tensor(name, *shape, element=b8)
        for name, shape in (
            ("ge_0", ()), ("is_finite", ()), ("valid", ()), ("sum_is_0", (B, 1)), ("any_sum_0", ()),
            ("no_sum_0", ()),
        )
    )  # fmt: skip
    race, drawn = tensor("race", B, V, element=element), tensor("quotient", B, V, element=element)

    def step(name: str, inputs: tuple[Tensor, ...], out: Tensor) -> Kernel:
        return pointwise(f"multinomial.{name}", name, inputs, out, source)

    def checked(x: Tensor) -> Kernel:
        return Kernel("multinomial.assert_" + x.name, "_assert_async", "elementwise", (x,), (), formula(0), source)

    return [
        Kernel("multinomial.aminmax", "aminmax", "reduction", (p,), (low, high), 2 * B * V, source),
        step("ge", (low,), at_least),
        step("lt", (high,), finite),
        step("bitwise_and", (at_least, finite), valid),
        checked(valid),
        reduction("multinomial.sum", "sum", p, total, B * V, source),
        step("eq", (total,), is_zero),
        reduction("multinomial.any", "any", is_zero, any_zero, B, source),
        step("bitwise_not", (any_zero,), none),
        checked(none),
        fill("multinomial.exponential", "exponential_", race, source),
        pointwise("multinomial.div", "div_", (p, race), drawn, source),
        reduction("multinomial.argmax", "argmax", drawn, TOKENS, B * V, source),
    ]


def _stopping() -> list[Kernel | Free]:
    """Padding for finished sequences, the ids concatenated, the criteria, and the host's wait for their answer."""
    pad = _utils("_sample", "next_tokens = next_tokens * unfinished_sequences")
    kept, over, padding, tokens = (tensor(name, B, element=i64) for name in ("kept", "over", "padding_id", "tokens"))
    start = cite("StoppingCriteriaList.__call__", "is_done = torch.full(", file="stopping_criteria.py")
    length = cite("MaxLengthCriteria.__call__", "return torch.full(", file="stopping_criteria.py")
    join = cite("StoppingCriteriaList.__call__", "is_done | criteria(", file="stopping_criteria.py")
    end = cite("EosTokenCriteria.__call__", "is_done = ", file="stopping_criteria.py")
    still = _utils("_sample", "unfinished_sequences & ~stopping_criteria(")
    stop = cite("StopCheck.__call__", "bool(unfinished_sequences.max() == 0)", file=FILE)
    done = [tensor(f"done_{number}", B, element=b8) for number in range(7)]
    one, eos = tensor("pad_token_id", element=i64), tensor("eos_token_id", element=i64)
    most, answer = tensor("unfinished_max", element=i64), tensor("stop", element=b8)

    def numbers(name: str, op: str, inputs: tuple[Tensor, ...], out: Tensor, source: Citation) -> Kernel:
        return pointwise(name, op, inputs, out, source)

    return [
        numbers("kept", "mul", (TOKENS, UNFINISHED), kept, pad),
        numbers("over", "rsub", (UNFINISHED,), over, pad),
        numbers("padding_id", "mul", (one, over), padding, pad),
        numbers("tokens", "add", (kept, padding), tokens, pad),
        Free("unsqueeze", "view", 1),
        copy(
            "cat_ids", "cat", (INPUT_IDS, tokens), tensor("longer_ids", B, P + 1, element=i64),
            _utils("_sample", "input_ids = torch.cat("),
        ),
        Free("stopping_criteria", "call", 3),
        fill("not_done", "full", done[0], start),
        fill("too_long", "full", done[1], length),
        pointwise("or_too_long", "bitwise_or", (done[0], done[1]), done[2], join),
        Free("slice", "view", 1),
        Kernel("is_eos", "isin", "elementwise", (tokens, eos), (done[3],), B, end),
        reduction("any_eos", "any", done[3], done[4], B, end),
        pointwise("or_eos", "bitwise_or", (done[2], done[4]), done[5], join),
        pointwise("not_stopped", "bitwise_not", (done[5],), done[6], still),
        numbers("unfinished", "bitwise_and", (UNFINISHED, done[6]), tensor("now_unfinished", B, element=i64), still),
        Free("stop_check", "call"),
        reduction("max", "max", UNFINISHED, most, B, stop),
        pointwise("stop", "eq", (most,), answer, stop),
        Free("stop_check_sync", "sync", 1, ALWAYS, keeps=(tensor("logits", B, V),)),
    ]  # fmt: skip


def _rows(module: str, steps: list[Kernel | Free]) -> tuple[Row, ...]:
    return tuple(Row(module, step, formula(1), index) for index, step in enumerate(steps))
