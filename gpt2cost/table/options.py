"""What changes the list of kernels, beyond sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Attn: TypeAlias = Literal["eager", "sdpa", "flash_attention_2"]
ATTENTION_IMPLEMENTATIONS: tuple[Attn, ...] = get_args(Attn)
Runtime: TypeAlias = Literal["eager", "compile", "cuda-graph", "reduce-overhead"]
"""`reduce-overhead` is the mode of torch.compile that replays what it has compiled as CUDA graphs."""
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
COMPILED = ("compile", "reduce-overhead")
"""Runtimes that merge neighbouring kernels."""
GRAPHED = ("cuda-graph", "reduce-overhead")
"""Runtimes whose kernels are nodes of a CUDA graph."""
Logits: TypeAlias = Literal["all", "last"]
LOGITS: tuple[Logits, ...] = get_args(Logits)
CacheType: TypeAlias = Literal["dynamic", "static"]
CACHE_TYPES: tuple[CacheType, ...] = get_args(CacheType)
Impl: TypeAlias = Literal["hf", "nanogpt"]
IMPLEMENTATIONS: tuple[Impl, ...] = get_args(Impl)
"""Whose code runs the model: HuggingFace's, or a modular GPT after nanoGPT's (nn.Linear, SDPA, no KV cache)."""
Head: TypeAlias = Literal["lm", "sequence-classification", "token-classification", "double-heads", "none"]
HEADS: tuple[Head, ...] = get_args(Head)
"""What GPT2Model's hidden states go through: see `table.heads`."""
Weights: TypeAlias = Literal["dtype", "int8", "nf4", "fp4"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
"""How the weights of linear layers are stored: in the dtype, or as bitsandbytes quantises them."""
ComputeDtype: TypeAlias = Literal["dtype", "float32", "float16", "bfloat16"]
"""What a layer of 4-bit weights computes in, by torch's name; `dtype` is the model's."""
DTYPE_OF = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""torch's names of dtypes -> ours."""
Checkpointing: TypeAlias = Literal["none", "block"]
CHECKPOINTING: tuple[Checkpointing, ...] = get_args(Checkpointing)
"""Activation checkpointing: `block` keeps a block's input alone, and runs its forward again in the backward pass."""


@dataclass(frozen=True)
class Quantization:
    """What changes the kernels of layers with quantised weights: see `table.quantization`.

    `dtype`: of the model's activations, one of `DTYPE_OF`; `computes_in`: of what those layers take and give.
    `finds_outliers`: of int8, activations are looked through for large ones. `double`: the scales of 4-bit weights are
    quantised again. `kept`: the modules that are not quantised. `numbers`: the values of the model's symbols, since
    4-bit weights are stored in blocks. `device`: SMs and compute capability, which decide where 4-bit weights are
    multiplied as they are; None: of no device.
    """

    weights: Weights
    finds_outliers: bool = True
    double: bool = False
    dtype: str = "fp16"
    computes_in: str = "fp16"
    kept: tuple[str, ...] = ()
    numbers: tuple[tuple[str, int], ...] = ()
    device: tuple[int, float] | None = None


@dataclass(frozen=True)
class TableOptions:
    """What changes the list of kernels, beyond sizes. Names and values as in `GPT2Config` and `from_pretrained`."""

    attn: Attn = "sdpa"
    activation_function: str = "gelu_new"
    reorder_and_upcast_attn: bool = False
    use_cache: bool = True
    logits: Logits = "all"
    variants: tuple[tuple[str, str], ...] = ()  # kernels that an older transformers ran otherwise: KERNEL_VARIANTS
    traced: bool = False  # compiled, or captured in a CUDA graph: transformers then asks no tensor for its values
    padded: bool = False  # an attention mask with padding is passed
    cache_type: CacheType = "dynamic"  # static: kv_len is the length of the whole cache
    pads_mask: bool = False  # the device runs masked attention by a kernel whose mask has rows of a multiple of 8
    in_generate: bool = False  # called by `generate`, which passes position_ids, and a static cache's mask
    impl: Impl = "hf"
    bias: bool = True  # of Linear and LayerNorm; nanogpt may leave it out
    train: bool = False  # in train mode, with labels: the loss is computed, and its gradients are asked for
    dropout: tuple[str, ...] = ()  # in train mode, where its probability is above 0: some of embd, attn, resid
    tied: bool = True  # the head's weight is the token embedding's: its two gradients are added
    has_flash: bool = True  # torch has a flash attention kernel for the device; else it runs its memory-efficient one
    autocast: bool = False  # mixed precision: weights in float32 (w_bytes), products in 16 bit (a_bytes)
    head: Head = "lm"
    encoder: bool = False  # states of an encoder are passed, and the blocks have cross-attention
    has_pad_token: bool = False  # in the config: without a mask, it is looked for among the ids
    quantization: Quantization | None = None  # of the linear layers' weights
    scale_attn_weights: bool = True  # or scale_attn_by_inverse_layer_idx, by 1 in the first layer: not followed


KERNEL_VARIANTS = {"scale": ("mul", "div"), "mask": ("add", "where", "masked_fill")}
"""Eager attention's kernels by the op of transformers 5.x, and then those of other code that was measured: transformers
4.38 divided the scores by a scalar tensor and chose between them and a minimum by a boolean mask; minGPT fills the
masked scores of a copy."""
