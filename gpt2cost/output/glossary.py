"""The terms that the output uses, each in a sentence or two: for the page's hover and for docs/concepts.md."""

from __future__ import annotations

from gpt2cost.prediction.trust import MEANING

SUBJECTS: dict[str, dict[str, str]] = {
    "What runs": {
        "forward pass": (
            "One call of the model: new tokens go in, and logits (a score per vocabulary entry) come out for each of"
            " them."
        ),
        "module": "A part of the model as PyTorch nests it (an nn.Module), such as GPT2Block or GPT2Attention.",
        "own": "What a module launches itself, without the modules in it: the row h (own), 3 own kernels.",
        "op": "One operation of PyTorch, such as addmm or cat. Each op that computes or copies launches a kernel.",
        "kernel": (
            "A program that the GPU runs over many elements at once, such as one matrix product. A forward pass of"
            " GPT-2 is a list of a hundred to a few hundred kernels, which run one after the other."
        ),
        "launch": "The start of a kernel on the device, which costs a few microseconds whatever the kernel does.",
        "view": "An op that gives the same memory another shape (split, view, transpose). It launches no kernel.",
        "host": "The CPU thread that runs Python and PyTorch and issues the kernels.",
        "device": "The GPU that executes the kernels, or the CPU where the model runs on one.",
        "stream": "The queue of kernels on the device. The host appends to it, and the device takes them in order.",
        "sync": "A point at which the host waits until the device has finished, for instance to read a value.",
        "dispatch trace": (
            "The list of all ops of a real forward pass, recorded as PyTorch dispatches them. The cost table is tested"
            " against such traces."
        ),
        "meta device": (
            "PyTorch's device for tensors that have a shape and a dtype but no data. Nothing is computed on it."
        ),
    },
    "Kinds of kernels": {
        "FLOP": "One floating-point addition, multiplication or the like. 1 GFLOP is 10^9 of them; FLOP/s is a rate.",
        "FMA": "A fused multiply-add, a*b + c in one instruction. It counts as 2 FLOPs.",
        "GEMM": "A general matrix product of (m, k) by (k, n), of 2*m*n*k FLOPs. The kind gemm: mm and addmm.",
        "mm": "PyTorch's op for a matrix product without a bias: lm_head.",
        "addmm": "PyTorch's op for a matrix product whose result gets a bias: every Conv1D of GPT-2.",
        "bmm": "A batch of matrix products, one per sequence and head: scores and context of eager attention.",
        "Conv1D": (
            "HuggingFace's name for GPT-2's linear layers, whose weight is stored as (inputs, outputs). It is a matrix"
            " product; nothing is convolved."
        ),
        "elementwise": (
            "A kernel with one result per element, such as an addition or a tanh. It moves several bytes per FLOP, so"
            " bandwidth limits all but the smallest."
        ),
        "attention": "A kernel of fused attention: scores, softmax and context at once.",
        "reduction": "A kernel that combines the numbers of a row: softmax, layer norm, sum.",
        "copy": "A kernel that moves bytes and computes nothing: cat, clone, a cast to another dtype.",
        "gather": (
            "A kernel that copies the rows of a table that an index picks. An embedding reads the rows of its tokens,"
            " not the whole table."
        ),
        "fill": "A kernel that writes constants or counts (arange) and reads nothing.",
        "fused kernel": "Several ops in one kernel, so that what passes between them never goes to memory.",
    },
    "The model": {
        "embedding": "A table with a row per token (wte) or per position (wpe); the two rows of a token are added.",
        "hidden states": "The numbers that stand for each token between modules: hidden_size of them per token.",
        "residual": "What a part of a block is added to: the block's input for attention, and that sum for the MLP.",
        "pre-norm": (
            "Layer norm comes before attention and before the MLP, as in GPT-2; in the first Transformer it came after"
            " (post-norm)."
        ),
        "layer norm": (
            "Each token's hidden states less their mean, over their standard deviation, times a weight plus a bias."
        ),
        "softmax": "Scores turned into probabilities: exp of each, over their sum.",
        "GELU": (
            "The activation function of the MLP. GPT-2's gelu_new is written with tanh, in eight elementwise kernels."
        ),
        "dropout": "In training, numbers set to 0 at random. In inference it returns its input and launches nothing.",
        "head": "One of num_heads attentions of a block, each over head_dim numbers of a token's query, key and value.",
        "logits": "The output of lm_head: a score for each entry of the vocabulary, for each token.",
        "tied weights": (
            "lm_head uses the matrix of the token embedding wte: it costs FLOPs and reads, but no parameters."
        ),
    },
    "Attention and cache": {
        "eager attention": (
            "--attn eager: scores, scaling, mask, softmax and context as separate kernels, each of which moves the"
            " whole score matrix. The eager runtime is something else."
        ),
        "sdpa": (
            "--attn sdpa: PyTorch's scaled_dot_product_attention, which picks a fused kernel that the device can run."
        ),
        "fused attention": (
            "Scores, softmax and context in one kernel. The score matrix stays on the chip, tile by tile, and is never"
            " written to memory."
        ),
        "flash attention": (
            "The fused attention kernel for 16-bit dtypes, on GPUs of compute capability 8.0 or later. It takes no"
            " mask tensor."
        ),
        "memory-efficient attention": (
            "PyTorch's other fused attention kernel: for fp32, for older GPUs, and where there is a mask tensor."
        ),
        "causal mask": (
            "The rule that a token sees itself and the tokens before it. It is a tensor, or built into the kernel."
        ),
        "KV cache": (
            "The keys and values of all tokens so far, in every layer, so that a later pass need not compute them"
            " again."
        ),
    },
    "Phases": {
        "prefill": "The pass over the prompt: many new tokens per sequence, usually on an empty cache.",
        "decode": "A pass with one new token per sequence on a cache: one step of generating text.",
        "chunked prefill": "A pass with several new tokens on a cache.",
        "new token": "A token that a pass takes in, not one that it finds in the cache: seq_len of them per sequence.",
        "position": (
            "The place of a token in its sequence. GPT-2 has learned n_positions of them and cannot run beyond."
        ),
        "time to first token": "From the call of generate to its first new token: set-up, the prefill, and one choice.",
    },
    "Runtimes": {
        "eager runtime": (
            "--runtime eager: Python issues each kernel when the model's code reaches it, as PyTorch does by default."
            " Any attention may run in it."
        ),
        "compile": "--runtime compile: torch.compile merges neighbouring kernels and skips most of Python.",
        "cuda-graph": (
            "--runtime cuda-graph: the launches of a pass were recorded, and are replayed with one call of the host."
        ),
        "reduce-overhead": "--runtime reduce-overhead: compiled kernels, replayed as a CUDA graph.",
    },
    "Time": {
        "latency": "The seconds of one pass that starts on an idle device and ends with a sync.",
        "device time": (
            "The seconds in which the device runs kernels. In the rest of the latency it waits for the host."
        ),
        "waiting": "The seconds of a pass in which no kernel runs, since the host has not issued one yet.",
        "host time": "The seconds that the host takes to issue all kernels.",
        "DRAM": "The device's main memory (HBM, GDDR or LPDDR): gigabytes, at hundreds to thousands of GB/s.",
        "L2": "The cache between the GPU's processors and DRAM: megabytes, several times as fast as DRAM.",
        "moved": "Bytes read and bytes written, together.",
        "arithmetic intensity": "FLOPs per byte moved, FLOP/B: of a kernel, a module or a pass.",
        "roofline": (
            "The least time of a kernel: the longer of FLOPs over peak FLOP/s and bytes over DRAM bandwidth. As a"
            " picture, over the arithmetic intensity: a slope that ends in a flat roof."
        ),
        "ridge point": (
            "The arithmetic intensity at which slope and roof meet: peak FLOP/s over DRAM bandwidth. Below it"
            " bandwidth is the limit, above it arithmetic."
        ),
        "speed of light": (
            "The time below which a kernel cannot fall on a device: what its FLOPs, its DRAM bytes or its L2 bytes"
            " take at the peak."
        ),
        "tile": (
            "The part of a product's output that one thread block computes. At the edge a part of a tile costs a whole"
            " one."
        ),
        "wave": (
            "The thread blocks that the GPU runs at once. The last wave takes as long as a full one, however few"
            " blocks are in it."
        ),
        "split-K": (
            "A product cut along its inner dimension k, so that more thread blocks have work; the parts are then added."
        ),
        "bandwidth_utilization": "Bytes that DRAM moves in a pass, over its latency and the peak bandwidth.",
        "flops_utilization": "FLOPs of a pass's products, over its latency and the dtype's peak.",
        "board power": "The watts that a device may draw at most for longer than moments: its TDP, or a lower limit.",
        "energy bound": (
            "The most energy that a pass should take: board power, times the upper end of its range, times the number"
            " of GPUs. It is no estimate, since a device usually draws less."
        ),
    },
    "What bounds a kernel or a pass": {
        "compute-bound": "Most of the time goes to arithmetic: more FLOP/s, or fewer FLOPs, would help most.",
        "memory-bound": "Most of the time goes to DRAM traffic: more bandwidth, or fewer bytes, would help most.",
        "l2-bound": "Most of the time goes to L2 traffic: the data is in L2, and DRAM is not the limit.",
        "latency-bound": (
            "Most of the time goes to incomplete waves, serial steps, too little work for the whole device, or elements"
            " that are addressed one by one."
        ),
        "launch-bound": (
            "Most of the time is the fixed cost of launches: the kernels are too small for FLOPs or bytes to matter,"
            " and fewer of them would help."
        ),
        "host-bound": (
            "The host cannot issue kernels as fast as the device finishes them. A faster GPU changes nothing; a larger"
            " batch, compile or a CUDA graph helps."
        ),
    },
    "How far to trust it": {
        "range": (
            "The low and high latency beside a prediction. It is made of the errors of measured passes, each predicted"
            " as if it had not been measured."
        ),
        "regime": (
            "Passes that a measurement speaks for: 16 bit or fp32, prefill or decode, few rows or many, and whether"
            " host or device sets the pace."
        ),
        **{word: f"{meaning[0].upper()}{meaning[1:]}." for word, meaning in MEANING.items()},
    },
    "Symbols in formulas": {
        "batch_size": "Sequences in the batch (--batch).",
        "seq_len": "New tokens per sequence in this pass (--seq).",
        "cache_len": "Tokens per sequence that are already in the KV cache (--cache).",
        "kv_len": "cache_len + seq_len: the keys that a query is compared with.",
        "num_layers": "Blocks of the model (n_layer).",
        "num_heads": "Attention heads per block (n_head).",
        "head_dim": "hidden_size / num_heads: 64 in all of OpenAI's GPT-2 models.",
        "hidden_size": "Numbers per token between modules (n_embd).",
        "intermediate_size": "Numbers per token inside the MLP: n_inner, or 4*hidden_size where the config has none.",
        "vocab_size": "Entries of the vocabulary: 50257 in GPT-2.",
        "n_positions": "Learned positions: 1024 in GPT-2.",
        "num_labels": "Classes that a classification head tells apart (num_labels, or as many as id2label has).",
        "encoder_len": "States of an encoder that cross-attention sees (--encoder-len).",
        "w_bytes": "Bytes per element of a weight: 2 in fp16 and bf16, 4 in fp32 and tf32.",
        "a_bytes": (
            "Bytes per element of an activation or of the KV cache. It equals w_bytes, except in mixed-precision"
            " training."
        ),
        "index_bytes": "Bytes per token id or position: 8, since PyTorch's indices are int64.",
        "bool_bytes": "Bytes per element of a boolean mask: 1.",
        "stat_bytes": (
            "Bytes per number that is float32 whatever the dtype: 4. Layer norm writes a mean and a 1/deviation per"
            " token."
        ),
    },
    "Training": {
        "optimizer step": "One update of the weights: --grad-accum micro-steps, then all-reduce, clipping and AdamW.",
        "micro-batch": "The sequences of one forward and backward pass on one GPU.",
        "gradient accumulation": (
            "Several micro-batches, one after the other, whose gradients are added before one update."
        ),
        "all-reduce": "The gradients of all GPUs are added, and each GPU gets the sum.",
        "DDP": "Distributed data parallelism: each GPU has the whole model and sequences of its own.",
        "mixed precision": "Weights in float32 and products in 16 bit, with casts between them.",
        "checkpointing": "Activations are not kept for the backward pass but computed again there, which saves memory.",
        "MFU": (
            "Model FLOPs utilisation: the FLOPs that a step needs, by a convention that is named, over its time and"
            " peak FLOP/s."
        ),
        "HFU": "Hardware FLOPs utilisation: the same of the FLOPs that run, those that are computed again included.",
    },
}
"""The terms by subject, in the order of docs/concepts.md. Plain text."""

GLOSSARY: dict[str, str] = {term: text for terms in SUBJECTS.values() for term, text in terms.items()}
"""Every term and what it means."""
