"""How a model is run: sizes and settings, and the checks of what the user gave for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.checks import Size, check_broadcast, check_choice, check_flag, check_point, check_size
from gpt2cost.device.dtypes import DTYPES, HALF_DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.sdpa import check_flash_head_dim
from gpt2cost.errors import InputError, echo
from gpt2cost.table.config import Model, check_impl
from gpt2cost.table.config_file import PDROPS
from gpt2cost.table.heads import CLASSES
from gpt2cost.table.options import (
    ATTENTION_IMPLEMENTATIONS,
    CACHE_TYPES,
    COMPILED,
    DTYPE_OF,
    GRAPHED,
    IMPLEMENTATIONS,
    LOGITS,
    RUNTIMES,
    Impl,
    Weights,
)
from gpt2cost.units import format_quantity

Number: TypeAlias = Any
"""An int or a float, or a numpy array of float64."""

PHASES = ("prefill", "decode", "both")
TRAIN = "train"
"""The phase of a sweep, or of a comparison, of training steps."""
SIZE_FIELDS = {"batch": "batch_size", "seq": "seq_len", "cache": "cache_len"}
"""A size as a flag names it -> as a field."""
LEAST = {"batch": 1, "seq": 1, "cache": 0}
"""The smallest value of each size."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of one forward pass: integers, or integer-valued arrays that broadcast together.

    `seq_len` new tokens per sequence, on top of `cache_len` tokens that are already in the KV cache.
    """

    batch_size: Size = 1
    seq_len: Size = 128
    cache_len: Size = 0

    @property
    def kv_len(self) -> Size:
        """Tokens per sequence that attention sees."""
        return self.cache_len + self.seq_len

    @property
    def text(self) -> str:
        """A single point's in short: `8x512`, `8x1+512` with a cache."""
        return f"{self.batch_size}x{self.seq_len}" + (f"+{self.cache_len}" if self.cache_len else "")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the sizes broadcast to; of a single point it is empty."""
        return np.broadcast_shapes(*map(np.shape, (self.batch_size, self.seq_len, self.cache_len)))


def is_decode(sizes: Sizes) -> Any:
    """Whether the pass is a decode step, one new token on a cache: True or False, or an array of them."""
    return (sizes.seq_len == 1) & (sizes.cache_len > 0)


@dataclass(frozen=True)
class How:
    """How the model is run. `variants`: kernels of an older transformers, see `table.options.KERNEL_VARIANTS`.

    `cache_type`: a `dynamic` KV cache is concatenated anew in every pass, a `static` one is written to, and attended to
    in its whole length. `impl`: whose code runs the model. Of `dtype` and `attn` "", and of `impl` None is the model's
    own, which `on` fills in; and how the weights are stored, which the model alone says.
    """

    dtype: str = "fp16"
    attn: str = "sdpa"
    runtime: str = "eager"
    logits: str = "all"
    use_cache: bool = True
    variants: tuple[tuple[str, str], ...] = ()
    cache_type: str = "dynamic"
    impl: Impl | None = None
    weights: Weights = "dtype"

    @property
    def cache_text(self) -> str:
        """The KV cache in words."""
        return f"{self.cache_type} KV cache" if self.use_cache else "no KV cache"

    @property
    def logits_text(self) -> str:
        """Of which positions there are logits, in words."""
        return "all positions" if self.logits == "all" else "the last position"

    def on(self, model: Model) -> How:
        """How `model` is run: by its own implementation, dtype and attention unless others are named, and without a KV
        cache where that has none or the config says so. Raises `InputError` where the implementation cannot run it.
        """
        impl = self.impl or model.impl
        check_impl(impl, model)
        if self.logits == "last" and model.head != "lm":
            raise InputError(f"logits: last goes with head lm, and the head of {model.name} is {model.head}")
        use_cache = self.use_cache and model.use_cache and impl == "hf"
        dtype, attn = self.dtype or model.dtype or "fp16", self.attn or model.attn or "sdpa"
        return replace(self, dtype=dtype, attn=attn, impl=impl, use_cache=use_cache, weights=model.weights)


def does_not_fit(needed_bytes: Any, capacity_bytes: float) -> str:
    """The warning; of a grid that of its largest point."""
    needed, capacity = (format_quantity(float(np.max(size)), "B") for size in (needed_bytes, capacity_bytes))
    return f"memory: does not fit: {needed} are needed, the device can give {capacity}"


def unused_changes(model: Model) -> Iterator[str]:
    """A warning of what was set of a model and has no effect in inference."""
    if keys := [key for key, _ in model.changes if key in PDROPS]:
        yield f"set: {', '.join(keys)}: dropout does nothing in inference, where it is the identity"


def stored_dtype(dtype: str) -> str:
    """The dtype in which activations are stored: tf32 is a way to multiply float32."""
    return "fp32" if dtype == "tf32" else dtype


def computes_in(model: Model, dtype: str) -> str:
    """The dtype that layers of quantised weights compute in, where the rest of the model is in `dtype`."""
    return "fp16" if model.weights == "int8" else DTYPE_OF.get(model.bnb_4bit_compute_dtype, stored_dtype(dtype))


def slow_weights(model: Model, how: How) -> Iterator[str]:
    """A warning of 4-bit weights whose layers compute in another dtype than the rest of the model."""
    if model.weights != "int8" and computes_in(model, how.dtype) != stored_dtype(how.dtype):
        yield (
            f"bnb_4bit_compute_dtype: {model.bnb_4bit_compute_dtype}, and the dtype is {how.dtype}: every layer of"
            f" {model.weights} weights casts what it takes and gives"
        )


def check_how(
    dtype: str | None = None, attn: str | None = None, runtime: str = "eager", logits: str = "all",
    use_cache: bool = True, cache_type: str = "dynamic", impl: str | None = None,
) -> How:  # fmt: skip
    """The settings, every one checked; None is the model's own. Raises `InputError` for the first that is wrong."""
    for name, value, known in (("dtype", dtype, DTYPES), ("attn", attn, ATTENTION_IMPLEMENTATIONS)):
        if value is not None:
            check_choice(name, value, known)
    check_choice("runtime", runtime, RUNTIMES)
    check_choice("logits", logits, LOGITS)
    check_choice("cache_type", cache_type, CACHE_TYPES)
    if impl is not None:
        check_choice("impl", impl, IMPLEMENTATIONS)
    cached = check_flag("use_cache", use_cache)
    return How(dtype or "", attn or "", runtime, logits, cached, cache_type=cache_type, impl=impl)  # type: ignore[arg-type]


def check_phase(phase: object) -> None:
    """Raise `InputError` unless `phase` is one of `PHASES`."""
    if phase == TRAIN:
        raise InputError(
            f"phase: training steps are gpt2cost train's, and of many points sweep's and compare's; here"
            f" {', '.join(PHASES)}, got {echo(phase)}"
        )
    check_choice("phase", phase, PHASES)


def check_sizes(batch: object, seq: object, cache: object, use_cache: bool = True) -> Sizes:
    """The sizes as integers or float64 arrays. Raises `InputError` for the first that is wrong.

    Without a KV cache nothing is cached, so that `cache` must be 0.
    """
    given = {"batch": batch, "seq": seq, "cache": cache}
    sizes = {name: check_size(name, value, LEAST[name]) for name, value in given.items()}
    check_broadcast(sizes)
    if not use_cache and np.any(np.asarray(sizes["cache"]) != 0):
        raise InputError("cache: expected 0 with use_cache off, because without a KV cache nothing is cached")
    return Sizes(*sizes.values())


def check_single_sizes(batch: object, seq: object, cache: object, use_cache: bool = True) -> Sizes:
    """`check_sizes` of what takes one size of each kind. Raises `InputError` for an array too."""
    for name, value in {"batch": batch, "seq": seq, "cache": cache}.items():
        check_point(name, value, LEAST[name])
    return check_sizes(batch, seq, cache, use_cache)


def beyond_positions(model: Model, what: str, longest: Number) -> tuple[str, ...]:
    """A warning where a sequence is longer than the model's positions. `what`: the size that is, by name."""
    if (tokens := int(np.max(longest))) <= model.n_positions:
        return ()
    why = f"exceeds n_positions {model.n_positions} of {model.name}: the real model cannot run it"
    return (f"{what} {tokens} {why}",)


def one_at_a_time(model: Model, batch_size: Number) -> Iterator[str]:
    """A warning of a batch that GPT2ForSequenceClassification refuses."""
    if model.head == "sequence-classification" and model.pad_token_id is None and np.any(np.asarray(batch_size) > 1):
        yield (
            f"batch: {CLASSES[model.head]} takes one sequence alone where the config has no pad_token_id: the real"
            " model cannot run more"
        )


def logits_in_generate(model: Model) -> str:
    """Of which positions `generate` asks for logits: of all where the model is the decoder of an encoder-decoder model,
    which does not pass on that the last are enough."""
    return "all" if model.encoder_len else "last"


def check_writes(model: Model) -> None:
    """Raise `InputError` where a model writes no text, or its text is not modelled."""
    if model.head != "lm":
        raise InputError(
            f"head: {CLASSES[model.head]}, as {model.name} is, does not generate as modelled; --head lm does"
        )


def check_cached(model: Model, how: How, sizes: Sizes) -> None:
    """Raise `InputError` where tokens are cached and the model, as it is run, has no KV cache, or none of the type."""
    if how.use_cache or not np.any(np.asarray(sizes.cache_len) != 0):
        return
    if how.impl == "nanogpt":
        raise InputError("cache: expected 0 with impl nanogpt, whose code has no KV cache: every pass takes all tokens")
    raise InputError(f"cache: expected 0, because use_cache is false in the config of {model.name}")


def check_implementation(how: How, head_dim: int | None = None) -> None:
    """Raise `InputError` where no device can run it: the implementation has no such attention, or no such cache, or the
    attention implementation does not run the dtype, or heads of `head_dim`.
    """
    if how.impl == "nanogpt" and how.attn not in ("eager", "sdpa"):
        raise InputError(f"attn: nanogpt's code has sdpa, and eager where torch has none; {how.attn} is impl hf's")
    if how.impl == "nanogpt" and how.cache_type != "dynamic":
        raise InputError(f"cache_type: {how.cache_type} needs a cache, and impl nanogpt has none")
    if how.attn == "flash_attention_2":
        if how.dtype not in HALF_DTYPES:
            raise InputError(f"attn: flash_attention_2 needs fp16 or bf16, got {how.dtype}; sdpa runs in any dtype")
        if head_dim is not None:
            check_flash_head_dim(head_dim, "attn: flash_attention_2")


def check_cache(how: How) -> None:
    """Raise `InputError` where there is no such KV cache."""
    if how.cache_type == "static" and not how.use_cache:
        raise InputError("cache_type: static needs a cache, and use_cache is off")
    if how.cache_type == "static" and how.attn == "flash_attention_2":
        raise InputError(
            "cache_type static: with flash_attention_2 it runs other kernels, which are not modelled; use sdpa"
        )


def check_weights(hardware: Hardware, how: How) -> None:
    """Raise `InputError` where the kernels of quantised weights are not modelled on a device, or in a runtime."""
    if how.weights == "dtype":
        return
    if hardware.vendor != "nvidia":
        raise InputError(
            f"weights: bitsandbytes' {how.weights} is modelled on NVIDIA devices, and {hardware.name} is none; dtype"
            " runs anywhere"
        )
    least = 7.5 if how.weights == "int8" else 6.0
    if (hardware.compute_capability or 0.0) < least:
        raise InputError(f"weights: {how.weights} needs compute capability {least}, which {hardware.name} lacks")
    if how.runtime in COMPILED:
        raise InputError(f"runtime: {how.runtime} is not modelled with weights {how.weights}; eager and cuda-graph are")


def check_device(hardware: Hardware, how: How, head_dim: int | None = None) -> None:
    """Raise `InputError` where the device cannot run the dtype, the attention implementation (of heads of `head_dim`),
    the runtime or the cache.

    Which sizes cannot run, `one_pass.uncapturable` says.
    """
    check_implementation(how, head_dim)
    if how.runtime in GRAPHED and hardware.vendor != "nvidia":
        raise InputError(
            f"runtime: {how.runtime} needs an NVIDIA device, which {hardware.name} is not; eager runs anywhere"
        )
    if how.dtype not in hardware.compute.peak_flop_per_s:
        dtypes = ", ".join(hardware.compute.peak_flop_per_s)
        raise InputError(f"dtype: {hardware.name} has no {how.dtype}; it has {dtypes}")
    check_weights(hardware, how)
    if how.attn == "flash_attention_2" and not hardware.has_flash_attention(how.dtype):
        raise InputError(
            f"attn: flash_attention_2 needs an NVIDIA device of compute capability 8.0 or later, which"
            f" {hardware.name} is not; sdpa runs on any device"
        )
    check_cache(how)
