"""Models: a preset, a config.json, a hub id, a live `GPT2Config` or a nanoGPT's `model_args`, to the values of the cost
table's symbols.

Files are read directly, because importing transformers costs a second or two; only a hub id needs it. What a config
says is taken as `GPT2Config` takes it, which accepts nearly anything; the values are checked here.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from gpt2cost.checks import check_point
from gpt2cost.errors import InputError, echo, nearest, plain
from gpt2cost.files import STDIN, data_dir
from gpt2cost.schema import build, check_mapping, fields_of
from gpt2cost.table.activations import check_activation
from gpt2cost.table.config_file import (
    DIMENSION,
    LARGEST,
    OTHER_NAMES,
    PDROPS,
    PROBABILITY,
    as_gpt2,
    attn_of,
    dtype_of,
    head_of,
    labels_of,
    read_config,
)
from gpt2cost.table.formula import Formula
from gpt2cost.table.gpt2 import parameter_count
from gpt2cost.table.heads import WITH_LM
from gpt2cost.table.hub import config_of, hub_config
from gpt2cost.table.nanogpt_config import OWN_KEYS, keys_of_args
from gpt2cost.table.options import ComputeDtype, Head, Impl, Weights
from gpt2cost.table.quantization_config import (
    OF_WEIGHTS,
    QUANTIZATION_KEYS,
    check_quantized,
    kept_layers,
    quantization_of,
)
from gpt2cost.units import parse_count

_DERIVED = {"derived": True}

_NO_KEYS = ("bias", "encoder_len", *QUANTIZATION_KEYS)
"""What a HuggingFace config has not, or not there."""
HUB_ALIASES = {
    "openai-community/gpt2": "gpt2",
    "openai-community/gpt2-medium": "gpt2-medium",
    "openai-community/gpt2-large": "gpt2-large",
    "openai-community/gpt2-xl": "gpt2-xl",
    "distilbert/distilgpt2": "distilgpt2",
}
"""Hub names of the presets: the same models, without the network."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A GPT-2 model's dimensions and switches, under `GPT2Config`'s names and with its defaults in transformers 5.x.

    `head` is that of the class which `architectures` names, `encoder_len` how many states of an encoder are passed
    (no key of a config). `n_inner` is a number, though a config may leave it out. `weights` says how those of linear
    layers are stored; what follows it are keys of a BitsAndBytesConfig, `skipped` its `llm_int8_skip_modules`.
    `changes` is what `change_model` set. `bias` is nanoGPT's (of Linear and LayerNorm). `impl`, `dtype` and `attn` say
    how the model is run where nobody says otherwise: by whose code, in what its weights are stored, and by which
    attention implementation; "" where the config does not say.
    """

    name: str = field(default="", metadata=_DERIVED)
    impl: Impl = field(default="hf", metadata=_DERIVED)
    model_type: Literal["gpt2"] = "gpt2"
    n_layer: int = field(default=12, metadata=DIMENSION)
    n_head: int = field(default=12, metadata=DIMENSION)
    n_embd: int = field(default=768, metadata=DIMENSION)
    n_inner: int = field(default=4 * 768, metadata=DIMENSION)
    vocab_size: int = field(default=50257, metadata=DIMENSION)
    n_positions: int = field(default=1024, metadata=DIMENSION)
    activation_function: str = "gelu_new"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    add_cross_attention: bool = False
    use_cache: bool = True
    pad_token_id: int | None = None
    head: Head = "lm"
    num_labels: int = field(default=2, metadata=DIMENSION)
    encoder_len: int = field(default=0, metadata={"range": (0, LARGEST)})
    attn_pdrop: float = field(default=0.1, metadata=PROBABILITY)
    embd_pdrop: float = field(default=0.1, metadata=PROBABILITY)
    resid_pdrop: float = field(default=0.1, metadata=PROBABILITY)
    bias: bool = True
    weights: Weights = "dtype"
    llm_int8_threshold: float = field(default=6.0, metadata={"bound": "natural"})
    bnb_4bit_compute_dtype: ComputeDtype = "dtype"
    bnb_4bit_use_double_quant: bool = False
    skipped: tuple[str, ...] | None = field(default=None, metadata=_DERIVED)
    dtype: str = field(default="", metadata=_DERIVED)
    attn: str = field(default="", metadata=_DERIVED)
    notes: tuple[str, ...] = field(default=(), metadata=_DERIVED)
    changes: tuple[tuple[str, Any], ...] = field(default=(), metadata=_DERIVED)

    def __post_init__(self) -> None:
        for name, own in fields_of(Model).items():
            if "range" in own.rules:
                check_point(name, getattr(self, name), *own.rules["range"])
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd: expected a multiple of n_head, got {self.n_embd} / {self.n_head}")
        check_activation(self.activation_function)
        for name in PDROPS:
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"{name}: expected a probability from 0 to below 1, got {getattr(self, name)}")
        if self.encoder_len and not self.add_cross_attention:
            raise InputError("encoder_len: goes with add_cross_attention, which is false")
        given = [key for key in QUANTIZATION_KEYS if getattr(self, key) != getattr(Model, key)]
        check_quantized(self.weights, given, self.symbols(), "lm_head" in self.kept or self.head not in WITH_LM)

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The linear layers whose weights stay in the dtype where others are quantised."""
        return kept_layers(self.head, self.add_cross_attention, self.skipped)

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    def symbols(self) -> dict[str, int]:
        """The values of the cost table's model symbols."""
        return {
            "num_layers": self.n_layer,
            "num_heads": self.n_head,
            "head_dim": self.head_dim,
            "hidden_size": self.n_embd,
            "intermediate_size": self.n_inner,
            "vocab_size": self.vocab_size,
            "num_labels": self.num_labels,
            "encoder_len": self.encoder_len,
            "n_positions": self.n_positions,
        }

    @property
    def _parameter_count(self) -> Formula:
        return parameter_count(self.tie_word_embeddings, self.bias, self.head, self.add_cross_attention)

    @cached_property
    def parameters(self) -> int:
        """The number of parameters, tied embeddings counted once."""
        return int(self._parameter_count.evaluate(self.symbols()))


def model_from_config(config: Mapping[str, Any], name: str, where: str) -> Model:
    """A `Model` from the keys of a GPT-2 config.json, every value checked. Keys that do not change cost are ignored.

    Raises one `InputError`, which lists all problems with their key, for wrong types, sizes below 1 or above ten
    million, `n_embd` not divisible by `n_head`, another `model_type`, or what the cost table does not model.
    """
    keys, notes = as_gpt2(config, where)
    head, of_head = head_of(config, where)
    keys = {key: value for key, value in keys.items() if key not in _NO_KEYS}
    model = _checked(keys | {"head": head, "num_labels": labels_of(config, head)}, name, where)
    if of_weights := quantization_of(config, where):
        skipped = of_weights.pop("skipped")
        at = f"{where}: quantization_config"
        model = _checked(_keys_of(model) | of_weights, name, at)
        try:
            model = replace(model, skipped=skipped)
        except InputError as error:
            raise InputError(f"{at}: {error}") from None
    (dtype, of_dtype), (attn, of_attn) = dtype_of(config, where), attn_of(config, where)
    return replace(model, dtype=dtype, attn=attn, notes=(*notes, *of_head, *of_dtype, *of_attn))


def _checked(config: Mapping[str, Any], name: str, where: str) -> Model:
    """A `Model` from keys under `GPT2Config`'s names, and `bias`."""
    keys = dict(config)
    has_inner = keys.get("n_inner") is not None
    if not has_inner:
        keys.pop("n_inner", None)
    model = build(Model, keys, where, unknown_keys="ignore")
    return replace(model, name=name, n_inner=model.n_inner if has_inner else 4 * model.n_embd)


def model_from_args(args: Mapping[str, Any], name: str, where: str) -> Model:
    """A `Model` from nanoGPT's `model_args`, which its own code runs. Raises `InputError` as `model_from_config` does,
    and for an unknown key, which nanoGPT refuses too."""
    return replace(_checked(keys_of_args(args, where), name, where), impl="nanogpt")


def check_impl(impl: Impl, model: Model) -> None:
    """Raise `InputError` where an implementation cannot run the model: it has not all the switches of the other."""
    if impl == "hf":
        if not model.bias:
            raise InputError(f"impl: hf has biases; bias false, as {model.name} has it, is nanoGPT's: --impl nanogpt")
        return
    gelu = model.activation_function in ("gelu", "gelu_new", "gelu_pytorch_tanh")  # each is one kernel there
    wanted = {
        "n_inner": (model.n_inner == 4 * model.n_embd, f"4 x n_embd = {4 * model.n_embd}"),
        "activation_function": (gelu, "gelu_new"),
        "tie_word_embeddings": (model.tie_word_embeddings, "true"),
        "head": (model.head == "lm", "lm"),
        "weights": (model.weights == "dtype", "dtype"),
        "add_cross_attention": (not model.add_cross_attention, "false"),
        "scale_attn_weights": (model.scale_attn_weights, "true"),
        "scale_attn_by_inverse_layer_idx": (not model.scale_attn_by_inverse_layer_idx, "false"),
        "reorder_and_upcast_attn": (not model.reorder_and_upcast_attn, "false"),
    }
    for key, (holds, value) in wanted.items():
        if not holds:
            own = _written(getattr(model, key))
            raise InputError(f"impl: nanogpt's code has {key} {value} alone, and {model.name} has {own}; hf runs it")


CONFIG_KEYS = tuple(key for key in fields_of(Model) if key != "model_type")
"""What `change_model` sets."""


def change_model(model: Model, changes: Mapping[str, Any]) -> Model:
    """`model` with some of `GPT2Config`'s keys set, or nanoGPT's `bias` and `block_size`: values, or text as a command
    line gives it. Its name says so.

    An `n_inner` that was four times `n_embd` stays so unless it is set. Raises `InputError` for an unknown key, with
    the nearest, and for whatever `model_from_config` refuses.
    """
    check_mapping("set", changes)
    if not changes:
        return model
    set_to: dict[str, Any] = {}
    for given, value in changes.items():
        key = {**OTHER_NAMES, "block_size": "n_positions"}.get(given, given)
        if key == "dropout":
            raise InputError(
                "set: dropout does nothing in inference, where it is the identity; gpt2cost train has --dropout, and"
                f" a config {', '.join(PDROPS)}"
            )
        if key not in CONFIG_KEYS:
            raise InputError(
                f"set: unknown key {echo(given)}; {nearest(given, CONFIG_KEYS) or 'known: ' + ', '.join(CONFIG_KEYS)}"
            )
        if key in set_to:
            raise InputError(f"set: {key} is set twice, under two names")
        set_to[key] = _parsed(value) if isinstance(value, str) else value
    config, skipped = _keys_of(model), model.skipped
    if set_to.get("weights", model.weights) != model.weights:  # as the flag means it, not as the config
        config = {key: value for key, value in config.items() if key not in OF_WEIGHTS[model.weights]}
        skipped = None
    name = f"{model.name}[{';'.join(f'{key}={_written(value)}' for key, value in set_to.items())}]"
    changed = _checked(config | set_to, name, "set")
    kept = {key: getattr(model, key) for key in ("impl", "dtype", "attn", "notes")}
    return replace(changed, **kept, skipped=skipped, changes=(*model.changes, *set_to.items()))


def _keys_of(model: Model) -> dict[str, Any]:
    """A model's keys; without `n_inner` where that is four times `n_embd` and stays so."""
    config = {key: getattr(model, key) for key in fields_of(Model) if key != "model_type"}
    if model.n_inner == 4 * model.n_embd:
        del config["n_inner"]
    return config


def _parsed(text: str) -> Any:
    """Text of a command line as a JSON value where it is one: 24, true."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def preset_names() -> tuple[str, ...]:
    """The presets, smallest first."""
    names = [path.stem for path in data_dir("configs").glob("*.json")]
    return tuple(sorted(names, key=lambda name: load_model(name).parameters))


def list_models() -> list[Model]:
    """The presets, smallest first."""
    return [load_model(name) for name in preset_names()]


def load_model(model: object) -> Model:
    """The model that `model` names or is.

    Taken in this order: a `Model`, a live `GPT2Config`, a preset or its hub name (any case), a path to a folder, a
    config.json or a JSON of nanoGPT's `model_args`, a hub id (only a name with a `/` can be one: a typo never reaches
    the network).

    Raises `InputError` for an unknown name and for a config that is not a GPT-2 that can run.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str | os.PathLike):
        return _load_named(os.fspath(model))
    if hasattr(model, "model_type") and hasattr(model, "to_dict") and not isinstance(model, type):
        config = config_of(model)
        if isinstance(config, Mapping):
            return model_from_config(config, str(config.get("_name_or_path") or "GPT2Config"), "GPT2Config")
    raise InputError(f"model: expected a name, a path or a GPT2Config, got {type(model).__name__}")


@lru_cache(maxsize=32)
def _load_preset(name: str) -> Model | None:
    path = data_dir("configs") / f"{name}.json"
    with contextlib.suppress(OSError):  # no file can have so long a name
        return _load_path(path, name) if path.is_file() else None
    return None


def _load_named(name: str) -> Model:
    key = name.lower()
    if key and "\0" not in name:
        preset = _load_preset(HUB_ALIASES.get(key, key)) if "/" not in HUB_ALIASES.get(key, key) else None
        if preset:
            return preset
        path = Path(name)
        with contextlib.suppress(OSError):
            if path.is_dir():
                return _load_path(path / "config.json", path.absolute().name)
            if path.is_fifo() or path == STDIN:
                return _load_path(path, "config")
            if path.exists() or path.suffix == ".json":
                return _load_path(path, path.stem if path.stem != "config" else path.absolute().parent.name)
        if name.count("/") == 1 and all(part and not part.startswith(".") for part in name.split("/")):
            config = config_of(hub_config(name))
            return model_from_config(config, name, name)
    hint = _of_size(name) or nearest(name, preset_names())
    raise InputError(
        f"unknown model {echo(name)}: {hint and hint + ' '}presets are {', '.join(preset_names())};"
        " or give a folder, a config.json, nanoGPT's model_args or a hub id such as openai-community/gpt2"
    )


def _of_size(name: str) -> str:
    """Which preset is meant by a number of parameters, such as 124M; papers' own counts are up to 6 % lower."""
    with contextlib.suppress(InputError):
        size = parse_count(name.upper().removeprefix("GPT2-"))
        close = [model for model in list_models() if abs(size / model.parameters - 1) < 0.07]
        return f"that is {close[0].name};" if close and size >= 1e6 else ""
    return ""


def _load_path(path: Path, name: str) -> Model:
    config, where = read_config(path), plain(str(path))
    if "model_type" not in config and any(key in config for key in OWN_KEYS):
        return model_from_args(config, name, where)
    return model_from_config(config, name, where)
