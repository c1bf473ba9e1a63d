"""Why the steps around masks run: causal masks, padding, packed sequences. Keys: see `why.py`."""

from __future__ import annotations

_ONCE = (
    "--attn sdpa without padding: on a dynamic cache neither a prefill nor a step of one token has a mask, and without"
    " a KV cache, --runtime eager has none"
)
_PADDING = "prompts of one length, without padding"
_TRACED = (
    "--runtime eager, or a KV cache: only a traced pass without one cannot ask, and masks as if there were several"
)
_CACHED = "a KV cache: only without one does transformers look for packed sequences"
_FLASH = "a batch above 1; --attn sdpa does not ask"
_WAIT = "The host waits for the answer, since Python decides by it what to launch next"

DOES = {
    # ------------------------------------------------------------------------------------------ the causal mask
    "causal_mask.batch_arange": (
        "Numbers the sequences of the batch, for mask functions that ask for them; the causal rule does not. The mask"
        " is built once per pass, for all layers and heads."
    ),
    "causal_mask.head_arange": "Numbers the heads: one number, since all heads have the same mask.",
    "causal_mask.q_arange": "Numbers the new tokens, the mask's rows: int64.",
    "causal_mask.q_offset": "Adds the length of the cache to the rows' numbers: each new token's place in its text.",
    "causal_mask.q_offset_static": (
        "Adds the length of a static cache that has been written to, a tensor: each new token's place in its text."
    ),
    "causal_mask.kv_arange": "Numbers the tokens that may be looked at, the mask's columns: int64.",
    "causal_mask.kv_offset": "Adds 0, the place where the keys begin, to the columns' numbers, in a kernel of its own.",
    "causal_mask.unsqueeze": "Gives the four lists of numbers dimensions of length 1, to broadcast them: no kernel.",
    "causal_mask.le": (
        "The causal rule: a token may look at itself and at what is before it, kv <= q. It writes the mask's booleans"
        " once per pass, for all layers and heads."
    ),
    "causal_mask.expand": "Expands the mask to the batch with a stride of 0: no kernel.",
    "causal_mask.zeros": "Makes the number for what may be looked at: 0, which adds nothing to a score.",
    "causal_mask.min_dtype": "Makes the number for what may not: the dtype's least, which the softmax turns into 0.",
    "causal_mask.where": (
        "Turns booleans into the float mask that eager attention adds to its scores: once per pass, one for each"
        " sequence of the batch, broadcast over the heads."
    ),
    "causal_mask.empty": "Compares the static cache's length, a tensor, with 0: an empty one needs no mask.",
    "causal_mask.empty_sync": f"{_WAIT}: whether the static cache is still empty.",
    "causal_mask.contiguous": "Copies the mask for each sequence of the batch: generate wants it in memory as a whole.",
    # ------------------------------------------------------------------------------------------ padding
    "padding.bool": "Casts the attention mask that was passed, 1 for a token and 0 for padding, to booleans.",
    "padding.pad": "Makes the attention mask as long as the static cache, with False for what is not yet written.",
    "padding.all_sum": "Counts the ones of the attention mask: without any padding no mask would be needed.",
    "padding.all_eq": (
        "Compares the number of ones with the size of the attention mask, which differ where there is padding."
    ),
    "padding.all_sync": f"{_WAIT}: whether there is any padding.",
    "padding.new_sum": (
        "Counts the ones among the new tokens, on an empty cache: padding that comes after them needs no mask."
    ),
    "padding.new_eq": "Compares the number of ones with that of the new tokens, which differ where one is padding.",
    "padding.new_sync": f"{_WAIT}: whether a new token is padding.",
    "padding.one": "Makes the True that conditions are joined to, one after the other.",
    "padding.causal": "Joins the causal rule to the True that conditions begin with, once per pass.",
    "padding.rows": "Looks up for each sequence and each column whether it is padding.",
    "padding.and": (
        "Joins the causal rule and the padding: a mask for each sequence of the batch, since each is padded otherwise."
    ),
    # ------------------------------------------------------------------------------------------ packed sequences
    "packed_sequence.views": "Slices of the positions: no kernel.",
    "packed_sequence.first_minus_1": (
        "The number before each first position: the test for packed texts takes differences of neighbours."
    ),
    "packed_sequence.prepend": "Puts that number before the positions, in a copy of them.",
    "packed_sequence.diff": "Subtracts each position from the next: within one text the difference is 1.",
    "packed_sequence.ne": "Marks differences other than 1: there another of several packed texts begins.",
    "packed_sequence.cumsum": "Counts the marks: which text each token belongs to. Usually there is one, and no mark.",
    "packed_sequence.eq": "Asks whether the last token of each row still belongs to the first text.",
    "packed_sequence.all": "Asks whether that holds for all rows.",
    "packed_sequence.sync": f"{_WAIT}: whether several texts are packed in a row.",
    "packed.one": "Makes the True that conditions are joined to, one after the other.",
    "packed.position_ids_q": "Looks up each row's position within its own text.",
    "packed.position_ids_kv": "Looks up each column's position within its own text.",
    "causal_mask.and_causal": "Joins the causal rule by the positions within each text to the mask.",
    "packed.cumsum_q": "Looks up which text each row belongs to.",
    "packed.cumsum_kv": "Looks up which text each column belongs to.",
    "packed.same": "Compares the texts of row and column: a token may only look at its own text.",
    "causal_mask.and_same": "Joins that to the mask, of which each sequence of the batch then has its own.",
    # ------------------------------------------------------------------------------------------ flash_attention_2
    "attn.packed_arange": (
        "Numbers the new tokens, in every layer anew: at batch 1 flash_attention_2 asks whether several texts are"
        " packed in the row."
    ),
    "attn.packed_min": "The least position, from which a single text would count on.",
    "attn.packed_add": "The positions that a single text would have.",
    "attn.packed_sub": "How far the real positions are from those of a single text.",
    "attn.packed_abs": "The size of these distances.",
    "attn.packed_sum": "The sum of these distances: 0 for a single text.",
    "attn.packed_bool": "Whether the sum of distances is above 0: several texts are packed.",
    "attn.packed_sync": f"{_WAIT}, in every layer: whether several texts are packed in the row.",
}

_TRACED_ONLY = (
    "packed.one", "packed.position_ids_q", "packed.position_ids_kv", "causal_mask.and_causal", "packed.cumsum_q",
    "packed.cumsum_kv", "packed.same", "causal_mask.and_same",
)  # fmt: skip

REMOVED_BY = {
    **{key: _ONCE for key in DOES if key.startswith("causal_mask.")},
    **dict.fromkeys(
        ("causal_mask.zeros", "causal_mask.min_dtype", "causal_mask.where"), "--attn sdpa, whose mask is of booleans"
    ),
    **dict.fromkeys(
        ("causal_mask.empty", "causal_mask.empty_sync"), "--cache-type dynamic, whose length the host knows"
    ),
    "causal_mask.contiguous": "a batch of 1, or --cache-type dynamic",
    **{key: _PADDING for key in DOES if key.startswith("padding.")},
    **{key: _CACHED for key in DOES if key.startswith("packed_sequence.")},
    **dict.fromkeys(_TRACED_ONLY, _TRACED),
    **{key: _FLASH for key in DOES if key.startswith("attn.packed_")},
}
