"""Why the steps of training run: gradients by the rules of their ops, casts, accumulation, optimiser, buckets of DDP.

Keys: see `why.py`. Of a rule, `{step}` is the forward's step whose gradient it is part of, and `{operand}` what the
gradient is of.
"""

from __future__ import annotations

_SCALER = "--precision bf16-mixed, whose range needs no loss scaling"
_FOREACH = "--optimizer adamw-fused does the whole update in one kernel for many tensors"
_AUTOCAST = "--precision bf16, whose weights have 16 bits, or fp32"
_CHAIN = "Backward of {step}: "

RULES = {
    # ------------------------------------------------------------------------------------------ products
    "mm grad_input": (
        "Gradient of the input of {step}, by the rule of a product: the output's gradient times the weight, transposed"
        " against the forward's use of it. As many FLOPs as the forward's product."
    ),
    "mm grad_weight": (
        "Gradient of the weight of {step}, by the rule of a product: the input times the output's gradient, which sums"
        " over all tokens. As many FLOPs as the forward's product."
    ),
    "sum grad_bias": "Gradient of the bias of {step}: the output's gradient summed over all tokens.",
    "bmm": (
        "Gradient of {operand}, by the rule of a product, in {step}: the output's gradient times the other operand, one"
        " of them transposed."
    ),
    "mul scale": "Scales that gradient, since the forward's product of {step} was scaled (alpha).",
    # ------------------------------------------------------------------------------------------ attention
    "_scaled_dot_product_flash_attention_backward": (
        "Backward of {step}: gradients of queries, keys and values in one kernel, which computes the weights anew from"
        " the saved log-sum-exp: five products for the forward's two."
    ),
    "_scaled_dot_product_efficient_attention_backward": (
        "Backward of {step}: gradients of queries, keys and values in one kernel, which computes the weights anew from"
        " the saved log-sum-exp: five products for the forward's two."
    ),
    "flash_attn_backward": (
        "Backward of {step}: gradients of queries, keys and values in one kernel, which computes the weights anew from"
        " the saved log-sum-exp: five products for the forward's two."
    ),
    "_softmax_backward_data": (
        "Backward of {step}: y*(g - sum(g*y)) for each row, of the saved weights y and their gradient g."
    ),
    "masked_fill": "Backward of {step}: the gradient, with 0 where the mask had filled in a constant.",
    "cat grad_split": "Gradient of {step}'s output: torch.cat puts those of query, key and value side by side.",
    "clone grad_clone": (
        "Copies the gradient of {step}'s output head by head, for the batched products, where it lies by tokens."
    ),
    "clone": "Copies the gradient of {operand} in the order of tokens, in which its projection has made it.",
    # ------------------------------------------------------------------------------------------ norms, sums, dropout
    "native_layer_norm_backward": (
        "Backward of {step}: gradients of its input and its weights, from the input and the saved mean and reciprocal"
        " deviation of each token."
    ),
    "sum weights": "Gradients of the weights of {step}: sums over all tokens, apart from the input's.",
    "sum": "Gradient of {operand} in {step}: it was broadcast over the batch, so its gradient is the sum over it.",
    "native_dropout_backward": (
        "Backward of {step}: the gradient of what was kept, scaled as in the forward; 0 elsewhere."
    ),
    "add grad_weight.add": "Adds the two gradients of the tied weight, the head's and the token embedding's.",
    "add grad_hidden_states.add": (
        "Adds the two gradients of the block's input, which went through ln_1 and, by the residual, around attention."
    ),
    "add grad_attn_residual.add": (
        "Adds the two gradients of the sum after attention, which went through ln_2 and, by the residual, around the"
        " MLP."
    ),
    "add": "Adds a further gradient of the output of {operand}, which several kernels read: their gradients add up.",
    # ------------------------------------------------------------------------------------------ embeddings and loss
    "embedding_dense_backward": (
        "Gradient of the table of {step}: as large as the table and filled with zeros, then each token's gradient is"
        " added to its row."
    ),
    "index_put_": (
        "Gradient of the table of {step} in compiled code: zeros, to whose rows those of the tokens are added."
    ),
    "new_zeros": "Backward of {step}: zeros like what it chose from, of all positions or of the last.",
    "index_put": "Backward of {step}: adds the gradient to the rows that it chose, in place.",
    "select_backward": "Backward of {step}: zeros of all positions, and the gradient at the last.",
    "ones_like": "The gradient of the loss itself, 1, with which backward begins.",
    "nll_loss_backward": (
        "Backward of {step}: zeros as large as the logits, and at each label minus one over the number of labels."
    ),
    "_log_softmax_backward_data": "Backward of {step}: g - softmax*sum(g) for each token, as large as the logits.",
    # ------------------------------------------------------------------------------------------ casts
    "_to_copy cast": "Casts the gradient of {operand} to the dtype of what it is the gradient of.",
    "_to_copy": "Backward of the cast at {step}: casts the gradient back to the dtype from before it.",
    # ------------------------------------------------------------------------------------------ activation functions
    "mul grad": _CHAIN + "a product with a number; the gradient times the same number.",
    "mul": (
        "Gradient of {operand} in {step}, by the rule of a product: the gradient times the other factor, which was"
        " saved."
    ),
    "div grad": _CHAIN + "a division by a number; the gradient over the same number.",
    "pow.backward_pow": _CHAIN + "its input to the power of the exponent less one.",
    "pow.backward_mul": _CHAIN + "times the exponent.",
    "pow.backward": _CHAIN + "times the gradient, which ends the rule n*x^(n-1).",
    "erf.backward_pow": _CHAIN + "x^2, for the rule 2/sqrt(pi)*exp(-x^2).",
    "erf.backward_neg": _CHAIN + "minus x^2.",
    "erf.backward_exp": _CHAIN + "exp(-x^2).",
    "erf.backward_mul": _CHAIN + "times 2/sqrt(pi).",
    "erf.backward": _CHAIN + "times the gradient.",
    "sqrt.backward_mul": _CHAIN + "twice the result, for the rule 1/(2*sqrt(x)).",
    "sqrt.backward": _CHAIN + "the gradient over that.",
    "clamp.backward_zero": _CHAIN + "the number 0.",
    "clamp.backward_ge": _CHAIN + "where the input is not below the lower bound.",
    "clamp.backward_le": _CHAIN + "where it is not above the upper bound.",
    "clamp.backward_and": _CHAIN + "where both hold.",
    "clamp.backward": _CHAIN + "the gradient there, and 0 elsewhere.",
    "tanh_backward": _CHAIN + "the gradient times 1 - y^2, of the saved result y.",
    "sigmoid_backward": _CHAIN + "the gradient times y*(1 - y), of the saved result y.",
    "threshold_backward": _CHAIN + "the gradient where the result is above 0, and 0 elsewhere.",
    "gelu_backward": _CHAIN + "the gradient times GELU's derivative, in one kernel, of the saved input.",
    "silu_backward": _CHAIN + "the gradient times SiLU's derivative, in one kernel, of the saved input.",
    "mish_backward": _CHAIN + "the gradient times mish's derivative, in one kernel, of the saved input.",
    "hardswish_backward": _CHAIN + "the gradient times hardswish's derivative, in one kernel, of the saved input.",
    "hardtanh_backward": _CHAIN + "the gradient within the bounds, and 0 elsewhere.",
    "leaky_relu_backward": _CHAIN + "the gradient, times the slope where the input is below 0.",
    "softplus_backward": _CHAIN + "the gradient times the sigmoid of the input.",
}
"""The op of a backward kernel, with the end of its name where one op has several rules."""

DOES = {
    # ------------------------------------------------------------------------------------------ autocast
    "cast_weight": (
        "Casts the weight of {step} from float32 to 16 bits, in every pass: autocast runs products in 16 bits."
    ),
    "cast_bias": "Casts the bias of {step} from float32 to 16 bits, in every pass: autocast runs products in 16 bits.",
    "cast_input": "Casts the input of {step} from float32 to 16 bits: autocast runs products in 16 bits.",
    "cast_input [stat_bytes]": (
        "Casts the input of {step} from 16 bits to float32: autocast runs it in float32, for exactness."
    ),
    # ------------------------------------------------------------------------------------------ accumulation
    "accumulate": "Adds this micro-step's gradient of the {operand} to that of those before it, in place.",
    # ------------------------------------------------------------------------------------------ the scaler
    "scaler.scale.double": "Casts the loss scale to float64, to divide by it exactly.",
    "scaler.reciprocal": "One over the loss scale.",
    "scaler.inv_scale": (
        "One over the loss scale, back in float32: gradients are multiplied by it, since the loss was multiplied by the"
        " scale."
    ),
    "scaler.inv_scale [full]": (
        "The number 1: the fused optimiser unscales by itself, and only infinities are looked for."
    ),
    "scaler.found_inf": "Makes a zero that is set where a gradient is infinite or not a number.",
    "scaler.found_inf [add]": "Adds up what was found on each device, of which there is one.",
    "scaler.found_inf.copy": "Copies that zero to each device that has gradients, of which there is one.",
    "scaler.inv_scale.copy": "Copies the factor for the gradients to each device that has some, of which there is one.",
    "scaler.unscale": (
        "Multiplies all gradients by one over the loss scale (by 1 where a fused optimiser divides by the scale"
        " itself), and notes whether one of them is infinite or not a number."
    ),
    "scaler.grad_scale": "The loss scale, for the fused optimiser to divide by.",
    "scaler.update_scale": (
        "Halves the loss scale where a gradient was infinite, and doubles it after many steps without: float16 has so"
        " small a range that small gradients would become 0."
    ),
    "optimizer.found_inf": "The host waits for the answer: a step with an infinite gradient is left out.",
    # ------------------------------------------------------------------------------------------ clipping
    "clip.norms": "The norm of each gradient, of all tensors in as few launches as take them.",
    "clip.stack": "Puts the norms side by side: one number for each tensor.",
    "clip.total_norm": "The norm of the norms: that of all gradients together.",
    "clip.add": "Adds 1e-6 to the norm, against a division by 0.",
    "clip.reciprocal": "One over the norm of all gradients.",
    "clip.ratio": "The largest norm that is allowed over the norm: the factor for the gradients.",
    "clip.clamp": "Limits the factor to 1: gradients are made smaller, never larger.",
    "clip.scale": (
        "Multiplies all gradients by the factor, also where it is 1, so that the host need not wait for the norm."
    ),
    # ------------------------------------------------------------------------------------------ AdamW
    "optimizer.step [call]": (
        "Python of the optimiser's step, which counts steps on the CPU, one tensor after the other."
    ),
    "optimizer.step": "Counts the steps on, one number on the device for each tensor.",
    "optimizer.decay": (
        "Weight decay: each parameter times 1 - lr*weight_decay, apart from the gradients (the W of AdamW)."
    ),
    "optimizer.exp_avg": "The first moment: the running mean of gradients, moved towards the new ones by 1 - beta1.",
    "optimizer.exp_avg_sq_decay": "The second moment, first half: the running mean of squares times beta2.",
    "optimizer.exp_avg_sq": "The second moment, second half: plus 1 - beta2 times the squared gradients.",
    "optimizer.sqrt": "The root of the second moment, a temporary as large as the parameters.",
    "optimizer.bias_correction": "Corrects the root for the moments having begun at 0, by one number for each tensor.",
    "optimizer.eps": "Adds eps to the root, against a division by 0.",
    "optimizer.update": (
        "The update: each parameter less the learning rate times its first moment over the root of its second."
    ),
    "optimizer.update [_fused_adamw_]": (
        "All of AdamW in one kernel for many tensors: decay, both moments and the update, so that each is read and"
        " written once."
    ),
    "optimizer.step_back": "Takes the count of steps back where a gradient was infinite and the step was left out.",
    # ------------------------------------------------------------------------------------------ DDP
    "ddp [mul]": (
        "Copies the gradient of {operand} into its bucket, divided by the number of GPUs: buckets are summed over all"
        " GPUs while backward goes on."
    ),
    "ddp [copy_]": "Copies the mean gradient of {operand} out of its bucket, back to where the optimiser reads it.",
}

REMOVED_BY = {
    **dict.fromkeys(("cast_weight", "cast_bias", "cast_input"), _AUTOCAST),
    "cast_input [stat_bytes]": _AUTOCAST,
    "accumulate": "--grad-accum 1",
    **{key: _SCALER for key in DOES if key.startswith("scaler.")},
    "optimizer.found_inf": f"{_SCALER}; or --optimizer adamw-fused, which asks on the device",
    **{key: "--clip-grad-norm none" for key in DOES if key.startswith("clip.")},
    **dict.fromkeys(
        (
            "optimizer.decay", "optimizer.exp_avg", "optimizer.exp_avg_sq_decay", "optimizer.exp_avg_sq",
            "optimizer.sqrt", "optimizer.bias_correction", "optimizer.eps", "optimizer.update", "optimizer.step [call]",
        ),
        _FOREACH,
    ),
    "optimizer.step_back": _SCALER,
    **dict.fromkeys(("ddp [mul]", "ddp [copy_]"), "gradient_as_bucket_view=True in DDP, whose default is False"),
}  # fmt: skip
