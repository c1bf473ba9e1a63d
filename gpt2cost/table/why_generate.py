"""Why the steps around forward passes run in `generate`, of transformers and of nanoGPT. Keys: see `why.py`."""

from __future__ import annotations

_SETUP = "once per call of generate"
_ANSWER = "Reduces that to one truth value, for Python to ask."
_SYNC = f"The host waits for the answer, {_SETUP}"
_SAMPLED = "greedy decoding by HuggingFace's code: generate without --sample"
_ASSERT = "Ends the program if that is false; the host does not wait for it."

DOES = {
    # ------------------------------------------------------------------------------------------ before all turns
    "generate.setup.generate": f"Python of generate, {_SETUP}: its configuration, cache, processors and criteria.",
    "generate.setup.views": "Reshapes of special tokens: no kernel.",
    "generate.setup.eos_is_pad": f"Asks whether the end-of-text token is the padding token, for a warning, {_SETUP}.",
    "generate.setup.eos_is_pad_answer": _ANSWER,
    "generate.setup.eos_is_pad_sync": f"{_SYNC}: whether both tokens are one.",
    "generate.setup.eos_below_0": f"Asks whether the end-of-text token is negative, for a warning, {_SETUP}.",
    "generate.setup.eos_below_0_answer": _ANSWER,
    "generate.setup.eos_below_0_sync": f"{_SYNC}: whether it is negative.",
    "generate.setup.right_padding": f"Asks whether a prompt ends with padding, for a warning, {_SETUP}.",
    "generate.setup.right_padding_answer": _ANSWER,
    "generate.setup.right_padding_sync": f"{_SYNC}: whether a prompt is padded on the right.",
    "generate.setup.cumsum": "Counts the tokens of each prompt by its attention mask: positions, leaving padding out.",
    "generate.setup.minus_1": "Subtracts 1: positions count from 0 on.",
    "generate.setup.is_0": "Marks padding.",
    "generate.setup.positions": "Gives padding the position 0, since it would have -1.",
    "generate.setup.is_1": "Marks what is no padding: a mask of ones alone can be dropped.",
    "generate.setup.is_1_answer": _ANSWER,
    "generate.setup.is_1_sync": f"{_SYNC}: whether the mask is of ones alone.",
    "generate.setup.ids_below_0": "Marks negative token ids: some logits processors want real prompts.",
    "generate.setup.ids_below_0_answer": _ANSWER,
    "generate.setup.ids_below_0_sync": f"{_SYNC}: whether an id is negative.",
    "generate.setup.unfinished": "Ones: no sequence has come to its end yet.",
    # ------------------------------------------------------------------------------------------ before a pass
    "generate.prepare_inputs": "Python of prepare_inputs_for_generation: time of the host.",
    "generate.slice_ids": (
        "Takes the ids that the cache has not seen, after the prompt the last one: a view, no kernel."
    ),
    "generate.input_ids": "Copies these ids together, so that their strides are the same in each turn.",
    "generate.slice_positions": "Takes the positions of the new tokens: a view, no kernel.",
    "generate.position_ids": "Copies these positions together, so that their strides are the same in each turn.",
    "generate.empty": "An empty tensor that stands for the embeddings, of which the mask needs batch and length alone.",
    "generate.generate": "Python of nanoGPT's loop cuts the text to the last block_size tokens: a view, no kernel.",
    # ------------------------------------------------------------------------------------------ after a pass
    "generate.update_kwargs": "Python that extends positions and mask for the next turn: time of the host.",
    "generate.views": "Reshapes and slices of positions: no kernel.",
    "generate.arange": "Numbers the new token: 0.",
    "generate.plus_last": "Adds the last position of each sequence.",
    "generate.plus_1": "Adds 1: the next token's position.",
    "generate.cat_positions": "Appends it: torch.cat copies all positions into a new tensor, in every turn.",
    "generate.new_mask": "A one for the new token, for the attention mask.",
    "generate.cat_mask": "Appends it: torch.cat copies the attention mask into a new tensor, in every turn.",
    "generate.select": "Takes the logits of the last position: a view, no kernel.",
    "generate.logits_float32": (
        "Copies the last position's logits in float32: for exactness, and so that the whole logits can be freed, which"
        " of a long prompt are large."
    ),
    "generate.logits_processor": "Python of the logits processors: time of the host.",
    "generate.argmax": "Chooses the next token: the one with the largest logit, in each sequence.",
    "generate.kept": "Keeps the new token of a sequence that is not finished, by a product with 1 or 0.",
    "generate.over": "1 for a sequence that is finished.",
    "generate.padding_id": "The padding token for those.",
    "generate.tokens": "The sum: the new token, or padding after the end of a text.",
    "generate.unsqueeze": "Makes the tokens a column: a view, no kernel.",
    "generate.cat_ids": "Appends the new tokens: torch.cat copies the whole text into a new tensor, in every turn.",
    "generate.stopping_criteria": "Python of the stopping criteria: time of the host.",
    "generate.not_done": "False for each sequence: the start of what the stopping criteria say.",
    "generate.too_long": "Whether the text is as long as was asked for, which the host knows, as a tensor.",
    "generate.or_too_long": "Joins that to it.",
    "generate.slice": "Takes the newest token: a view, no kernel.",
    "generate.is_eos": "Whether it is the end-of-text token (50256), in each sequence.",
    "generate.any_eos": "Whether any of the newest tokens is, of which there is one.",
    "generate.or_eos": "Joins that to it.",
    "generate.not_stopped": "The opposite: which sequences go on.",
    "generate.unfinished": "Those that went on before and still do.",
    "generate.stop_check": "Python of the check whether to stop: time of the host.",
    "generate.max": "Whether any sequence goes on, as a number.",
    "generate.stop": "Compares it with 0.",
    "generate.stop_check_sync": (
        "The host waits for the answer in every turn: it launches nothing of the next token before this one is there."
    ),
    # ------------------------------------------------------------------------------------------ a token drawn
    "generate.topk": "Finds the 50 largest logits of each sequence, the default top_k.",
    "generate.top_k": "Takes the least of them: views, no kernel.",
    "generate.below_top_k": "Marks the logits below it.",
    "generate.masked_fill": "Fills these with minus infinity, so that they are never drawn.",
    "generate.softmax": "Turns logits into probabilities.",
    "generate.squeeze": "Drops the dimension of one sample: a view, no kernel.",
    "generate.temperature": "Divides the logits by the temperature, a kernel also where it is 1.",
    "generate.kth_sync": "The list [-1] becomes a tensor, copied from the host, and the host waits for the copy.",
    "generate.kth": "Copies the least of the largest logits, since a list chooses it: v[:, [-1]].",
    "generate.multinomial.aminmax": (
        "Finds the least and the largest probability: torch.multinomial checks its input first."
    ),
    "generate.multinomial.ge": "Whether the least is at least 0.",
    "generate.multinomial.lt": "Whether the largest is finite.",
    "generate.multinomial.bitwise_and": "Whether both hold.",
    "generate.multinomial.assert_valid": _ASSERT,
    "generate.multinomial.sum": "The sum of each sequence's probabilities.",
    "generate.multinomial.eq": "Whether it is 0.",
    "generate.multinomial.any": "Whether it is 0 for any sequence.",
    "generate.multinomial.bitwise_not": "Whether it is for none.",
    "generate.multinomial.assert_no_sum_0": _ASSERT,
    "generate.multinomial.exponential": "Draws an exponential number for each token.",
    "generate.multinomial.div": "Divides each probability by it: the token with the largest quotient wins the race.",
    "generate.multinomial.argmax": "Finds it: each token wins with its own probability.",
}

REMOVED_BY = {
    **{key: _SAMPLED for key in DOES if key.startswith("generate.multinomial.")},
    **dict.fromkeys(
        ("generate.topk", "generate.top_k", "generate.below_top_k", "generate.masked_fill", "generate.softmax"),
        _SAMPLED,
    ),
    **dict.fromkeys(("generate.new_mask", "generate.cat_mask"), "prompts of one length, without padding"),
    "generate.empty": "--cache-type dynamic",
    **{key: "a batch of 1" for key in DOES if key.startswith("generate.setup.right_padding")},
    **dict.fromkeys(("generate.kth", "generate.kth_sync"), "a slice in the place of the list, v[:, -1:]"),
}  # fmt: skip
