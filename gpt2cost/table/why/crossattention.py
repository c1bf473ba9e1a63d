"""Why the steps of cross-attention run. Those of the same name in attention have its texts where none is here."""

_STATIC = "--cache-type static writes them in place"
_NOT_STATIC = "--cache-type dynamic"
_ONE_KERNEL = "--attn sdpa, one kernel for all of attention"
_FIRST = "in the first pass alone"

DOES = {
    "ln_cross_attn": (
        "Layer norm before cross-attention, of the sum after attention. It also writes each token's mean and reciprocal"
        " deviation, in float32."
    ),
    "crossattention": "The call of GPT2Attention, with an encoder's states, in Python: no kernel of its own.",
    "crossattention.q_attn": "Projects each new token to a query of each head.",
    "crossattention.c_attn": (
        "Projects the encoder's states to keys and values of each head, side by side. With a KV cache the first pass"
        " alone does so."
    ),
    "crossattention.split": "Keys and values as views of c_attn's output, by heads.",
    "crossattention.split_query": "The queries as a view by heads.",
    "crossattention.cat_cross_key": (
        "The cache's first update: a concatenation with nothing before it, which copies the encoder's keys. Later"
        " passes read them there."
    ),
    "crossattention.cat_cross_value": "The same of the encoder's values.",
    "crossattention.zeros_cross_key": (
        f"Makes the static cache of the encoder's keys, filled with zeros, {_FIRST}: as long as there are states."
    ),
    "crossattention.zeros_cross_value": "The same of the encoder's values.",
    "crossattention.cross_cache_arange": f"Numbers the encoder's states from 0 on, {_FIRST}: which rows to write.",
    "crossattention.cross_cache_position": f"Adds what the cache holds, which is nothing, {_FIRST}: the rows to write.",
    "crossattention.cross_cache_length": f"Counts the states in place, {_FIRST}: the cache keeps its length.",
    "crossattention.write_cross_key": f"Writes the encoder's keys into the static cache, {_FIRST}.",
    "crossattention.write_cross_value": "The same of the encoder's values.",
    "crossattention.clone_query": (
        "Puts the heads of all sequences side by side, as matmul needs them: a copy where there are several of each."
    ),
    "crossattention.clone_key": "The same of the keys, which are a view of c_attn's output without a cache.",
    "crossattention.clone_value": "The same of the values.",
    "crossattention.scores": "Multiplies queries and the encoder's keys: a score of each token for each state.",
    "crossattention.softmax": "Makes the scores of each token weights that add up to 1. There is no mask before it.",
    "crossattention.context": "Adds up the encoder's values, by those weights.",
    "crossattention.scaled_dot_product_attention": (
        "Scores, softmax and context over the encoder's states in one kernel. There is no causal rule: every token sees"
        " every state."
    ),
    "crossattention.flash_attn_func": (
        "Scores, softmax and context over the encoder's states in one kernel of the flash-attn package, without a"
        " causal rule."
    ),
    "cross_residual": "Adds what cross-attention has made to the residual stream.",
}
REMOVED_BY = {
    **dict.fromkeys(
        ("crossattention.scores", "crossattention.softmax", "crossattention.context", "crossattention.clone_query"),
        _ONE_KERNEL,
    ),
    **dict.fromkeys(("crossattention.cat_cross_key", "crossattention.cat_cross_value"), _STATIC),
    **dict.fromkeys(
        (
            "crossattention.zeros_cross_key", "crossattention.zeros_cross_value", "crossattention.cross_cache_arange",
            "crossattention.cross_cache_position", "crossattention.cross_cache_length",
            "crossattention.write_cross_key", "crossattention.write_cross_value",
        ),
        _NOT_STATIC,
    ),
}  # fmt: skip
