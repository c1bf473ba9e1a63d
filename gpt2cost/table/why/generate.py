"""Why the steps around forward passes run in `generate`, of transformers and of nanoGPT. Keys: see `why.py`."""

from __future__ import annotations

_SETUP = "once per call of generate"
_ANSWER = "Reduces the test to one truth value, which Python then asks for."
_SYNC = f"The host waits for the answer, {_SETUP}"
_SAMPLED = "greedy decoding by HuggingFace's code: generate without --sample"

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
    "generate.setup.minus_1": "Subtracts 1 from the counts: positions begin at 0.",
    "generate.setup.is_0": "Marks padding: where the attention mask is 0.",
    "generate.setup.positions": "Gives padding the position 0, since it would have -1.",
    "generate.setup.is_1": "Marks what is no padding: a mask of ones alone can be dropped.",
    "generate.setup.is_1_answer": _ANSWER,
    "generate.setup.is_1_sync": f"{_SYNC}: whether the mask is of ones alone.",
    "generate.setup.ids_below_0": "Marks negative token ids: some logits processors want real prompts.",
    "generate.setup.ids_below_0_answer": _ANSWER,
    "generate.setup.ids_below_0_sync": f"{_SYNC}: whether an id is negative.",
    "generate.setup.ones": "A one for each sequence of a decoder, of which its first token is made.",
    "generate.setup.start_ids": "The token that a decoder starts with (decoder_start_token_id), for each sequence.",
    "generate.setup.other_start": "Marks prompts of a decoder that begin with another token, which then is put first.",
    "generate.setup.other_start_answer": _ANSWER,
    "generate.setup.other_start_sync": f"{_SYNC}: whether all prompts begin with another.",
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
    "generate.encoder_decoder": "Python of VisionEncoderDecoderModel, which calls its decoder: time of the host.",
    "generate.generate": "Python of nanoGPT's loop cuts the text to the last block_size tokens: a view, no kernel.",
    # ------------------------------------------------------------------------------------------ after a pass
    "generate.update_kwargs": "Python that extends positions and mask for the next turn: time of the host.",
    "generate.views": "Reshapes and slices of positions: no kernel.",
    "generate.arange": "Numbers the new token: 0.",
    "generate.plus_last": "Adds each sequence's last position to the new token's number.",
    "generate.plus_1": "Adds 1 to that sum: the new token's position.",
    "generate.cat_positions": (
        "Appends the new token's position: torch.cat copies all positions into a new tensor, in every turn."
    ),
    "generate.new_mask": "Makes a one for the new token, which is no padding.",
    "generate.cat_mask": (
        "Appends that one to the attention mask: torch.cat copies all of it into a new tensor, in every turn."
    ),
    "generate.select": "Takes the logits of the last position: a view, no kernel.",
    "generate.logits_float32": (
        "Copies the last position's logits in float32: for exactness, and so that the whole logits can be freed, which"
        " of a long prompt are large."
    ),
    "generate.logits_processor": "Python of the logits processors: time of the host.",
    "generate.argmax": "Chooses the next token: the one with the largest logit, in each sequence.",
    "generate.kept": "The new token of a sequence that goes on, 0 for one that has ended: a product with 1 or 0.",
    "generate.over": "1 for a sequence that has ended, 0 for one that goes on.",
    "generate.padding_id": "The padding token for a sequence that has ended, 0 for one that goes on.",
    "generate.tokens": "The sum of both: the new token, or padding after the end of a text.",
    "generate.unsqueeze": "Makes the tokens a column: a view, no kernel.",
    "generate.cat_ids": "Appends the new tokens: torch.cat copies the whole text into a new tensor, in every turn.",
    "generate.stopping_criteria": "Python of the stopping criteria: time of the host.",
    "generate.not_done": "False for each sequence: what the stopping criteria begin with.",
    "generate.too_long": "Whether the text is as long as was asked for, which the host knows, as a tensor.",
    "generate.or_too_long": "Marks all sequences as done where the text is as long as was asked for.",
    "generate.slice": "Takes the newest token: a view, no kernel.",
    "generate.is_eos": "Whether the newest token is the end-of-text token (50256), in each sequence.",
    "generate.any_eos": "Whether any of a sequence's newest tokens is, of which there is one.",
    "generate.or_eos": "Marks a sequence as done where its text has ended.",
    "generate.not_stopped": "Which sequences are not done.",
    "generate.unfinished": "Which sequences go on: those that did before and are not done.",
    "generate.stop_check": "Python of the check whether to stop: time of the host.",
    "generate.max": "The largest of these marks: 1 while any sequence goes on.",
    "generate.stop": "Compares the largest mark with 0, at which all sequences have ended.",
    "generate.stop_check_sync": (
        "The host waits in every turn for the answer whether to stop: it launches nothing of the next token before"
        " this one is there. On Apple's GPUs transformers asks for it a turn late, which is not modelled."
    ),
    # ------------------------------------------------------------------------------------------ a token drawn
    "generate.topk": (
        "Finds the top_k largest logits of each sequence: 50 by default, 1 where nanoGPT's loop is to be greedy."
    ),
    "generate.top_k": "Takes the least of the largest logits: views, no kernel.",
    "generate.below_top_k": "Marks the logits below the top_k largest.",
    "generate.masked_fill": (
        "Fills the logits below the top_k largest with minus infinity, so that they are never drawn."
    ),
    "generate.softmax": "Turns logits into probabilities.",
    "generate.squeeze": "Drops the dimension of one sample: a view, no kernel.",
    "generate.temperature": "Divides the logits by the temperature, a kernel also where it is 1.",
    "generate.kth_sync": "The list [-1] becomes a tensor, copied from the host, and the host waits for the copy.",
    "generate.kth": "Copies the least of the largest logits, since a list chooses it: v[:, [-1]].",
    "generate.multinomial.aminmax": (
        "Finds the least and the largest probability: torch.multinomial checks its input first."
    ),
    "generate.multinomial.ge": "Whether the least probability is at least 0.",
    "generate.multinomial.lt": "Whether the largest probability is finite.",
    "generate.multinomial.bitwise_and": "Whether both hold: all probabilities are valid.",
    "generate.multinomial.assert_valid": (
        "Ends the program where a probability is not valid; the host does not wait for it."
    ),
    "generate.multinomial.sum": "The sum of each sequence's probabilities.",
    "generate.multinomial.eq": "Whether a sequence's probabilities sum to 0.",
    "generate.multinomial.any": "Whether those of any sequence do.",
    "generate.multinomial.bitwise_not": "Whether those of none do.",
    "generate.multinomial.assert_no_sum_0": (
        "Ends the program where probabilities sum to 0; the host does not wait for it."
    ),
    "generate.multinomial.exponential": "Draws an exponential number for each token.",
    "generate.multinomial.div": (
        "Divides each probability by its exponential number: the token with the largest quotient is drawn."
    ),
    "generate.multinomial.argmax": "Finds the largest quotient: each token has it with its own probability.",
}

REMOVED_BY = {
    **{key: _SAMPLED for key in DOES if key.startswith("generate.multinomial.")},
    **dict.fromkeys(
        ("generate.topk", "generate.top_k", "generate.below_top_k", "generate.masked_fill", "generate.softmax"),
        _SAMPLED,
    ),
    **dict.fromkeys(("generate.new_mask", "generate.cat_mask"), "prompts of one length, without padding"),
    "generate.empty": "--cache-type dynamic",
    **{key: "a prompt of 1, the token that a decoder starts with" for key in DOES if "other_start" in key},
    **{key: "a batch of 1" for key in DOES if key.startswith("generate.setup.right_padding")},
    **dict.fromkeys(("generate.kth", "generate.kth_sync"), "a slice in the place of the list, v[:, -1:]"),
}  # fmt: skip
