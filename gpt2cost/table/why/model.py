"""Why each step of a forward pass runs: what it does in this model, and what would remove it. Keys: see `why.py`."""

from __future__ import annotations

_HEADS = "--attn sdpa reads the strided views as they are; a batch of 1 needs no copy"
_FUSED = "--attn sdpa computes scores, softmax and context in one kernel, which never writes the scores to memory"
_COMPILED = (
    "--runtime compile merges it with its neighbours, so that its result is not written to memory and read again"
)
_STATIC = "--cache-type static writes the new rows in place"
_NOT_STATIC = "--cache-type dynamic, whose torch.cat moves the whole cache instead"
_MASKED = (
    "without padding: on a dynamic cache neither a prefill nor a step of one token has a mask tensor, and without a KV"
    " cache, --runtime eager has none"
)
_MATH = "Where no fused kernel takes heads of such a width, torch runs products and a softmax instead (math)."
_DROPOUT = "nn.Dropout returns its input as it is in inference, or where its probability is 0: no kernel."
_DROPS = (
    "In train mode each element on its own becomes 0 with the config's probability p, and the others are divided by"
    " 1 - p. A boolean mask of what was kept is written for the backward pass."
)
_CALL = "The Python call of {0}: time of the host, and no kernel of its own."

DOES = {
    # ------------------------------------------------------------------------------------------ GPT2Model
    "model": _CALL.format("the whole model"),
    "transformer": _CALL.format("GPT2Model"),
    "views": (
        "Reshapes, here of ids, positions, hidden states or logits: the same memory read in another shape, no kernel."
    ),
    "locals": "Python variables that keep tensors alive until the function returns: memory, and no time.",
    "wte": (
        "The token embedding: copies the row of the table that belongs to each token id. It reads the rows that it"
        " gathers, not the whole table. Ids are int64, 8 bytes each."
    ),
    "arange": "Numbers the new tokens from 0 on: int64, 8 bytes each.",
    "position_ids": (
        "Adds the length of the cache to the numbers of the new tokens, in a kernel of its own even where that is 0:"
        " the positions, int64, one row for the whole batch."
    ),
    "position_ids_static": (
        "Adds the length of a static cache that has been written to, a tensor on the device: the positions, int64, one"
        " row for the whole batch."
    ),
    "pos": "Numbers the tokens from 0 on: the positions, int64, one row for the whole batch.",
    "wpe": (
        "The learned position embedding: copies one row of the table for each position. The table has n_positions rows,"
        " which is why a longer text cannot be run."
    ),
    "add": (
        "Adds token and position embeddings: the hidden states that enter the first block. Positions of one row for the"
        " whole batch are broadcast, so that it is read once; HuggingFace's generate passes a row for each sequence."
    ),
    "drop [call]": f"Dropout of the embeddings. {_DROPOUT}",
    "drop": f"Dropout of the embeddings. {_DROPS}",
    "ln_f": (
        "The last layer norm: GPT-2 normalises before each sublayer, so the sum that leaves the last block still has to"
        " be normalised. It also writes each token's mean and reciprocal deviation, in float32."
    ),
    "slice": "Takes the positions whose logits are asked for (logits_to_keep): a view, no kernel.",
    "lm_head": (
        "Projects hidden states onto the vocabulary: a score for each token that could come next. In the presets its"
        " weight is the token embedding's (tied): read here, and no further parameter. It has no bias. --logits last"
        " runs it at one position per sequence."
    ),
    "last_sync": "The list [-1] becomes a tensor, copied from the host, and the host waits for the copy.",
    "last": "Copies the last position's hidden state, since a list chooses it: x[:, [-1], :]. A slice would be a view.",
    # ------------------------------------------------------------------------------------------ GPT2Block
    "block": _CALL.format("the block"),
    "ln_1": (
        "Layer norm before attention: each token's vector to mean 0 and deviation 1, then scaled and shifted by learned"
        " numbers. The residual goes around it. It also writes each token's mean and reciprocal deviation, in"
        " float32."
    ),
    "ln_2": (
        "Layer norm before the MLP, of the sum after attention. It also writes each token's mean and reciprocal"
        " deviation, in float32."
    ),
    "attn_residual": (
        "The residual: adds the attention's output to the block's input, not to what ln_1 made of it, so that gradients"
        " pass every block unchanged."
    ),
    "mlp_residual": "The residual: adds the MLP's output to the sum after attention, not to what ln_2 made of it.",
    "hidden_states": "The variable of ln_1's output is assigned anew, so that its memory is free from here on.",
    # ------------------------------------------------------------------------------------------ GPT2Attention
    "attn": _CALL.format("the attention"),
    "attn.c_attn": (
        "Makes queries, keys and values in one product: hidden_size to 3*hidden_size, a Conv1D, which is a Linear whose"
        " weight lies (in, out)."
    ),
    "attn.c_attn [nanogpt]": "Makes queries, keys and values in one product, a Linear: hidden_size to 3*hidden_size.",
    "attn.split": (
        "Splits the product into query, key and value and each into heads, (batch_size, num_heads, seq_len, head_dim):"
        " views of the same memory, no kernel."
    ),
    "attn.views": "Transposes, expands and reshapes of heads: the same memory read in another order, no kernel.",
    "attn.cat_key": (
        "Appends the new keys to the cache: torch.cat copies the old and the new ones into a new tensor, also in the"
        " first pass, whose old ones are empty."
    ),
    "attn.cat_value": (
        "Appends the new values to the cache: torch.cat copies the old and the new ones into a new tensor, also in the"
        " first pass, whose old ones are empty."
    ),
    "attn.zeros_key": (
        "Makes the static cache of this layer's keys at its full length, filled with zeros, in the first pass."
    ),
    "attn.zeros_value": (
        "Makes the static cache of this layer's values at its full length, filled with zeros, in the first pass."
    ),
    "attn.cache_arange": "Numbers the new tokens from 0 on, in every layer anew: which rows of the cache to write.",
    "attn.cache_position": "Adds the number of tokens that the cache holds, a tensor on the device: the rows to write.",
    "attn.cache_length": "Counts the new tokens on in place: each layer's cache keeps its length on the device.",
    "attn.write_key": "Writes the new keys into their rows of the static cache; the old ones are not touched.",
    "attn.write_value": "Writes the new values into their rows of the static cache; the old ones are not touched.",
    "attn.clone_query": (
        "Copies the queries head by head: the batched product takes batch and heads as one dimension, which the strided"
        " view of c_attn's output does not allow when there are several of both."
    ),
    "attn.clone_key": (
        "Copies the keys head by head, since without a cache they are strided views of c_attn's output; torch.cat would"
        " have laid them out so."
    ),
    "attn.clone_value": (
        "Copies the values head by head, since without a cache they are strided views of c_attn's output; torch.cat"
        " would have laid them out so."
    ),
    "attn.scores": (
        "Each query times each key of its head: seq_len x kv_len scores per head, also those of later tokens, which are"
        " masked next."
    ),
    "attn.scores [baddbmm]": (
        "Each query times each key of its head in float32, so that no 16-bit score overflows, and scaled inside the"
        " product (alpha): by 1/sqrt(head_dim), unless the config says otherwise."
    ),
    "attn.upcast_query": "Casts the queries to float32, as reorder_and_upcast_attn asks, where they have 16 bits.",
    "attn.upcast_key": (
        "Casts the keys to float32, the cached ones too, as reorder_and_upcast_attn asks, where they have 16 bits."
    ),
    "attn.scale": (
        "Multiplies the scores by 1/sqrt(head_dim), the width of one head (64 in GPT-2, not the hidden size 768), so"
        " that their spread does not grow with it: a kernel of its own over all of them, which also runs where"
        " scale_attn_weights=false makes the number 1."
    ),
    "attn.scale [div]": "Divides the scores by sqrt(head_dim), a scalar tensor, as transformers 4.38 did.",
    "attn.mask": (
        "Adds the causal mask: 0 where a token may look, the least number where it may not. The mask was built once per"
        " pass, and is broadcast over the heads."
    ),
    "attn.mask [where]": "Chooses between score and least number by a boolean mask, as transformers 4.38 did.",
    "attn.mask_clone": "Copies the scores, since minGPT's masked_fill leaves its operand as it is.",
    "attn.mask [masked_fill]": "Fills the scores of tokens that come later with minus infinity, as minGPT does.",
    "attn.mask [nanogpt]": (
        "Copies the scores, with minus infinity for tokens that come later: masked_fill, not in place."
    ),
    "attn.causal_mask": (
        "Compares the buffer of the lower triangle with 0, in every layer of every pass: where to fill."
    ),
    "attn.softmax": (
        "Turns each query's scores into weights that sum to 1: the largest is subtracted, then exponentials are summed"
        " and divided. 5 FLOPs per element by convention."
    ),
    "attn.downcast": (
        "Casts the weights of the softmax from float32 back to the values' dtype, which the product with them needs."
    ),
    "attn.attn_dropout [call]": f"Dropout of the attention weights. {_DROPOUT}",
    "attn.attn_dropout": f"Dropout of the attention weights. {_DROPS}",
    "attn.context": "The weights times the values: for each query the weighted mean of all values of its head.",
    "attn.clone_output": (
        "Merges the heads: the product wrote (batch, heads, tokens, head_dim), and c_proj reads tokens as rows, so the"
        " reshape has to copy."
    ),
    "attn.minus_infinity": "Makes the number that masks: sdpa turns the boolean mask into a float one in every layer.",
    "attn.zero": "Makes the zero of the float mask: sdpa turns the boolean mask into a float one in every layer.",
    "attn.float_mask": (
        "Turns the boolean mask into a float one, 0 or minus infinity, in every layer although it is the same one: the"
        " kernels below torch's sdpa take no other."
    ),
    "attn.pad_mask": (
        "Copies the float mask into rows of a multiple of 8 elements, which the memory-efficient kernel loads; torch"
        " passes it a view of the wider copy."
    ),
    "attn.pad_mask.slice": "The view of the wider mask that the attention kernel is given: no kernel.",
    "attn.scaled_dot_product_attention": (
        "Scores and their scaling, the causal rule between several new tokens, softmax and context in one fused kernel,"
        " tile by tile: the scores never reach memory. FLOPs count all of them; the kernel skips tiles that the causal"
        f" rule leaves empty. {_MATH}"
    ),
    "attn.scaled_dot_product_attention_masked": (
        "Fused attention with an explicit mask, which several new tokens on a cache need, padding, a static cache, and"
        " compiled code without a cache. CUDA's flash attention takes no mask: the memory-efficient kernel runs there."
        f" {_MATH}"
    ),
    "attn._scaled_dot_product_flash_attention": (
        "Fused attention in train mode, by flash attention, in 16 bit: scores, softmax, dropout if any, and context,"
        " tile by tile. It saves the log-sum-exp of each query's scores, so that backward can compute the weights anew."
    ),
    "attn._scaled_dot_product_efficient_attention": (
        "Fused attention in train mode, by torch's memory-efficient kernel, where flash attention cannot run. It saves"
        " the log-sum-exp of each query's scores, so that backward can compute the weights anew."
    ),
    "attn._scaled_dot_product_efficient_attention_masked": (
        "Fused attention in train mode with an explicit mask: a traced pass without a cache cannot ask whether"
        " sequences are packed, so it has one."
    ),
    "attn.flash_attn_func": (
        "The flash-attn package's fused kernel: scores and their scaling, the causal rule between several new tokens,"
        " softmax and context, tile by tile, so that the scores never reach memory."
    ),
    "attn.c_proj": (
        "The attention's output projection: mixes what the heads have found, hidden_size to hidden_size."
    ),
    "attn.resid_dropout [call]": f"Dropout of the attention's output. {_DROPOUT}",
    "attn.resid_dropout": f"Dropout of the attention's output. {_DROPS}",
    # ------------------------------------------------------------------------------------------ GPT2MLP
    "mlp": _CALL.format("the MLP"),
    "mlp.c_fc": (
        "The MLP's first product: widens each token from hidden_size to intermediate_size, 4*hidden_size unless n_inner"
        " is set."
    ),
    "mlp.act": _CALL.format("the activation function"),
    "mlp.act.input": "The caller's variable keeps the activation's input alive until here: memory, and no time.",
    "mlp.gelu": (
        "GELU by its tanh formula, 0.5*x*(1+tanh(sqrt(2/pi)*(x+0.044715*x^3))), in one kernel: torch has it as such."
    ),
    "mlp.gelu.input": "The caller's variable keeps GELU's input alive until here: memory, and no time.",
    "mlp.c_proj": "The MLP's second product: back from intermediate_size to hidden_size.",
    "mlp.dropout [call]": f"Dropout of the MLP's output. {_DROPOUT}",
    "mlp.dropout": f"Dropout of the MLP's output. {_DROPS}",
    # ------------------------------------------------------------------------------------------ the loss
    "float": "Casts all logits to float32, in which the loss is computed: logits.float().",
    "labels.pad": (
        "Appends -100, the label that is ignored, to each row of labels, so that they can be shifted by one: the token"
        " at each place is to predict the next. The logits are not cut."
    ),
    "labels.shift": "Drops each row's first label: a view, no kernel.",
    "labels.contiguous": "Copies the shifted labels together, since they are flattened next.",
    "log_softmax": (
        "The logarithm of each token's softmax over the vocabulary, the first half of cross-entropy: it writes a tensor"
        " as large as the logits."
    ),
    "nll_loss.cast": "Casts the log-softmax to float32, as autocast wants losses.",
    "nll_loss": (
        "The second half of cross-entropy: picks each label's log-probability and takes minus their mean, the loss."
    ),
}  # fmt: skip

REMOVED_BY = {
    **dict.fromkeys(("add", "attn_residual", "mlp_residual", "arange", "position_ids", "pos"), _COMPILED),
    **dict.fromkeys(("attn.cat_key", "attn.cat_value"), _STATIC),
    **dict.fromkeys(
        (
            "position_ids_static", "attn.zeros_key", "attn.zeros_value", "attn.cache_arange", "attn.cache_position",
            "attn.cache_length", "attn.write_key", "attn.write_value",
        ),
        _NOT_STATIC,
    ),
    **dict.fromkeys(("attn.clone_query", "attn.clone_key", "attn.clone_value"), _HEADS),
    "attn.clone_output": "--attn sdpa, whose kernel writes tokens as rows; a step of one token needs no copy",
    **dict.fromkeys(
        ("attn.scores", "attn.scale", "attn.mask", "attn.softmax", "attn.context", "attn.causal_mask"), _FUSED
    ),
    **dict.fromkeys(
        ("attn.scores [baddbmm]", "attn.upcast_query", "attn.upcast_key"),
        "--set reorder_and_upcast_attn=false, or --attn sdpa, which ignores it",
    ),
    "attn.downcast": "--attn sdpa, which keeps float32 inside its kernel",
    **dict.fromkeys(("attn.scale [div]", "attn.mask [where]"), "transformers 5"),
    **dict.fromkeys(("attn.mask_clone", "attn.mask [masked_fill]"), "HuggingFace's code adds a mask: --impl hf"),
    "attn.mask [nanogpt]": _FUSED,
    **dict.fromkeys(("attn.minus_infinity", "attn.zero", "attn.float_mask"), _MASKED),
    "attn.scaled_dot_product_attention_masked": _MASKED,
    "attn.pad_mask": "a kv_len that is a multiple of 8",
    "attn._scaled_dot_product_efficient_attention": "a 16-bit precision, where the GPU has flash attention",
    "attn._scaled_dot_product_efficient_attention_masked": "--runtime eager, which asks and then needs no mask",
    **dict.fromkeys(("drop", "attn.attn_dropout", "attn.resid_dropout", "mlp.dropout"), "--dropout 0"),
    **dict.fromkeys(("last", "last_sync"), "--logits all, which projects every position"),
    "float": "--precision fp32, whose logits are float32 already",
    "labels.contiguous": "a micro-batch of 1",
    "nll_loss.cast": "--precision fp32 or bf16, without autocast",
}  # fmt: skip
