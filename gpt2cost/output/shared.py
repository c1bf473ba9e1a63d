"""What several kinds of output say of a model, a device, a way of running it, and a pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.field import Field, Record, attribute, attributes, column, record_of
from gpt2cost.output.messages import one_line
from gpt2cost.output.page import Page
from gpt2cost.prediction.one_pass import kv_cache_bytes
from gpt2cost.prediction.predict import Phase
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.prediction.train_settings import TrainHow, one_dropout
from gpt2cost.prediction.trust import unchanged_name
from gpt2cost.table.citations import transformers_version
from gpt2cost.table.config import Model
from gpt2cost.table.heads import CLASSES
from gpt2cost.table.kernel import short_path
from gpt2cost.units import format_quantity

MODEL: tuple[Field[Model], ...] = (
    attribute("name", "model"), *(attribute(name, name) for name in ("n_layer", "n_head", "n_embd")),
    attribute("n_inner"), attribute("vocab_size", "vocab_size"), attribute("n_positions", "n_positions"),
    *attributes("activation_function", "tie_word_embeddings", "reorder_and_upcast_attn"),
    attribute("parameters", "parameters", ","), attribute("head"), attribute("weights"),
)  # fmt: skip
"""A model's dimensions under GPT2Config's names, and its parameters."""
SIZES = ("batch_size", "seq_len", "cache_len")
HOW = ("dtype", "attn", "runtime", "logits", "use_cache", "cache_type")
CHOICE = (attribute("model", path="model.name"), attribute("gpu", path="hardware.name"), *attributes(*HOW, of="how"))
"""The fields of what has a model, a device and a way of running it: a choice, a prediction."""
PASS = (
    attribute("phase", of="phase"), *(attribute(f"phase_{name}", path=f"phase.{name}") for name in SIZES[1:]),
    attribute("kv_len", of="phase"),
)  # fmt: skip
"""The fields of what has a phase of a run. `seq_len` and `cache_len` are the run's everywhere; a phase's are these."""
IMPL = attribute("impl", of="how")
"""Whose code runs it: the last field of a flat row, whose older ones have their places."""
TOTALS: tuple[Field[Any], ...] = (
    attribute("latency_s", "latency", "s"), attribute("latency_low_s", "low", "s"),
    attribute("latency_high_s", "high", "s"), attribute("tokens_per_s", "tokens/s", ","), attribute("bound", "bound"),
)  # fmt: skip
"""The main figures of a pass."""
TRUST: tuple[Field[Any], ...] = attributes("trust", "trust_from")
"""How far a pass's seconds can be trusted: the word, and whose constants or measurements it rests on."""
MEMORY: tuple[Field[Any], ...] = (attribute("total_bytes", "memory", "B"), *attributes("capacity_bytes", "fits"))
"""The memory of a run, beside the device's."""

# ---------------------------------------------------------------------------------------------- rows of kernels

NAME: Field[Record] = Field("name", "kernel", "", lambda row: short_path(row["name"]))
COUNT, FLOPS, DEVICE_S = column("count", "count"), column("flops", "", "FLOP"), column("device_s", "", "s")
SHARE, BOUND = column("share", "share", "%"), column("bound", "bound")
MOVED: Field[Record] = Field("moved_bytes", "moved", "B", lambda row: row["read_bytes"] + row["write_bytes"])
INTENSITY = column("arithmetic_intensity", "FLOP/B", ".")

SHORT_NAMES = {"scaled_dot_product_attention": "sdpa", "causal_mask": "mask"}
"""What is written for part of a kernel's name where room is scarce."""

# ---------------------------------------------------------------------------------------------- records and phrases


def short_name(path: str) -> str:
    """A kernel's name where room is scarce."""
    name = short_path(path)
    for long, short in SHORT_NAMES.items():
        name = name.replace(long, short)
    return name


def asked(sizes: Sizes, phase: str, how: How) -> Record:
    """What was asked for, apart from the choices."""
    own = record_of(attributes("logits", "use_cache", "cache_type", "impl"), how)
    return {**record_of(attributes(*SIZES), sizes), "phase": phase, **own}


def model_record(model: Model, how: How) -> Record:
    """A model, and the switch that only nanoGPT's code has."""
    return {**record_of(MODEL, model), **({"bias": model.bias} if how.impl == "nanogpt" else {})}


def source_text(impl: str | None) -> str:
    """Whose lines or functions the sources of kernels are."""
    return "functions of nanoGPT's model.py" if impl == "nanogpt" else f"lines of transformers {transformers_version()}"


def sizes_text(phase: Phase) -> str:
    """The sizes of a pass."""
    return f"{phase.batch_size} x {phase.seq_len} new tokens on {phase.cache_len} cached"


def settings_of(model: Model, how: How, train: TrainHow | None, sizes: Sizes) -> Record:
    """What was asked for of one pass, or of a training step, which has neither a cache nor a choice of logits."""
    own, names = record_of(attributes(*SIZES), sizes), (*HOW, "impl")
    if train is None:
        return {**own, **record_of(attributes(*names), how)}
    passes = record_of(attributes("attn", "runtime", "impl"), how)
    kept = {"checkpointing": train.checkpointing, "dropout": one_dropout(model)}
    return {**own, "precision": train.precision, **passes, **kept}


def how_text(how: How, precision: str = "") -> str:
    """How a pass is run, in its dtype, or of training in a precision."""
    return f"{precision or how.dtype}, {how.attn} attention, {how.runtime} runtime{code_text(how)}"


def code_text(how: How) -> str:
    """The rest of a phrase: whose code it is, where that is not HuggingFace's."""
    return f", {how.impl}'s code" if how.impl == "nanogpt" else ""


def run_text(model: Model, hardware: Hardware, how: How) -> str:
    """What is run on which device, and how. It says which of the settings the config has asked for."""
    own = " and ".join(name for name in ("dtype", "attn") if getattr(model, name) == getattr(how, name))
    asked = f" ({own} of its config)" if own else ""
    cls = "" if model.head == "lm" else f"{CLASSES[model.head]}, "
    weights = "" if model.weights == "dtype" else f", {model.weights} weights"
    parameters = f"{cls}{format_quantity(model.parameters, '')} parameters{weights}"
    return f"{model.name} ({parameters}) on {hardware.name}, {how_text(how)}{asked}"


def size_text(model: Model, how: How) -> str:
    """The model's parameters, and what a token adds to the KV cache."""
    per_token = f"{kv_cache_bytes(model, how.dtype, 1, 1):,} B of KV cache per token of each sequence"
    return f"{model.parameters:,} parameters, {per_token if how.use_cache else 'no KV cache'}"


def trust_text(word: str, source: str, hardware: Hardware) -> str:
    """The word as people read it. Whose constants are borrowed is named, and a machine where the host was measured."""
    if word == "borrowed":
        return f"borrowed from {source}"
    return f"measured on {source}" if word == "measured" and source != unchanged_name(hardware) else word


def range_text(low_s: float, high_s: float) -> str:
    """The range of a latency."""
    return f"{format_quantity(low_s, 's')} to {format_quantity(high_s, 's')}"


def repeat_warnings(page: Page, warnings: Iterable[str]) -> None:
    """What a long text has made scroll away, once more at its end."""
    for warning in warnings:
        page.line(f"warning: {one_line(warning)}", style="yellow")


def hardware_head(hardware: Hardware, dtype: str) -> Record:
    """The device of a prediction. How far each phase can be trusted stands with the phase."""
    own = record_of(attributes("name", "vendor", "architecture"), hardware)
    more = {"host_factor": hardware.host_factor, "ridge_flop_per_byte": hardware.ridge_flop_per_byte(dtype)}
    return {**own, "borrowed": dict(hardware.borrowed), **more}
