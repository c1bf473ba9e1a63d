"""Models: a preset, a config.json, a hub id or a live `GPT2Config`, to the values of the cost table's symbols.

Presets are read from `configs/*.json` directly, because importing transformers costs about a second. Everything else
goes through transformers' own `GPT2Config`, which accepts nearly anything; the values are checked here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from gpt2cost.errors import InputError, echo, nearest, plain
from gpt2cost.files import data_dir, read_text
from gpt2cost.table.gpt2 import cost_table, parameter_count
from gpt2cost.table.options import TableOptions

MAX_DIMENSION = 10**7
"""The largest model dimension taken for real; a typo for a size is more likely above it."""


HUB_ALIASES = {
    "openai-community/gpt2": "gpt2",
    "openai-community/gpt2-medium": "gpt2-medium",
    "openai-community/gpt2-large": "gpt2-large",
    "openai-community/gpt2-xl": "gpt2-xl",
    "distilbert/distilgpt2": "distilgpt2",
}
"""Hub names of the presets: the same models, without the network."""


_OTHER_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
"""GPT2Config takes these names too."""


# GPT2Config's names for the dimensions and switches that change cost, with the defaults of transformers 5.x.
_DIMENSIONS = {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, "n_positions": 1024}


_SWITCHES = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
    "use_cache": True,
}


@dataclass(frozen=True)
class Model:
    """A GPT-2 model's dimensions and switches, under `GPT2Config`'s names (`n_inner` resolved to a number)."""

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    vocab_size: int
    n_positions: int
    activation_function: str = "gelu_new"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    use_cache: bool = True
    notes: tuple[str, ...] = ()
    changes: tuple[tuple[str, Any], ...] = ()  # what `change_model` set, beyond what the name stands for

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
            "n_positions": self.n_positions,
        }

    @cached_property
    def parameters(self) -> int:
        """The number of parameters, tied embeddings counted once."""
        return int(parameter_count(self.tie_word_embeddings).evaluate(self.symbols()))


def model_from_config(config: Mapping[str, Any], name: str, where: str) -> Model:
    """A `Model` from the keys of a GPT-2 config.json, every value checked.

    Raises one `InputError`, which lists all problems with their key, for wrong types, sizes below 1 or above
    `MAX_DIMENSION`, `n_embd` not divisible by `n_head`, another `model_type`, or what the cost table does not model.
    """
    problems: list[str] = []
    config = {_OTHER_NAMES.get(key, key): value for key, value in config.items()}

    def dimension(key: str, default: int) -> int:
        value = config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_DIMENSION:
            problems.append(f"{key}: expected an integer from 1 to {MAX_DIMENSION}, got {echo(value)}")
            return default
        return value

    def switch(key: str, default: bool) -> bool:
        value = config.get(key, default)
        if not isinstance(value, bool):
            problems.append(f"{key}: expected true or false, got {echo(value)}")
            return default
        return value

    if config.get("model_type", "gpt2") != "gpt2":
        raise InputError(f"{where}: model_type: expected 'gpt2', got {echo(config['model_type'])}")
    dims: dict[str, Any] = {key: dimension(key, default) for key, default in _DIMENSIONS.items()}
    switches: dict[str, Any] = {key: switch(key, default) for key, default in _SWITCHES.items()}
    n_inner = 4 * dims["n_embd"] if config.get("n_inner") is None else dimension("n_inner", 1)
    if not problems and dims["n_embd"] % dims["n_head"]:
        problems.append(f"n_embd: expected a multiple of n_head, got {dims['n_embd']} / {dims['n_head']}")
    activation = config.get("activation_function", "gelu_new")
    if not isinstance(activation, str):
        problems.append(f"activation_function: expected a name, got {echo(activation)}")
    else:
        try:
            cost_table(TableOptions(activation_function=activation))
        except InputError as error:
            problems.append(str(error))
    if switches.pop("add_cross_attention"):
        problems.append("add_cross_attention: cross-attention is not modelled; set it to false")
    if problems:
        raise InputError(f"{where}: " + "; ".join(problems))
    notes = tuple(f"{where}: unknown key {echo(key)} ignored; {hint}" for key in config if (hint := _near_miss(key)))
    return Model(name=name, **dims, n_inner=n_inner, activation_function=activation, **switches, notes=notes)


_KNOWN_KEYS = {*_DIMENSIONS, *_SWITCHES, "n_inner", "activation_function", "n_ctx", "num_labels"}


def _near_miss(key: str) -> str:
    """A hint where an unknown key looks like a misspelt one that changes cost."""
    sizes = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "activation_function")
    return "" if key in _KNOWN_KEYS or key.startswith("_") else nearest(key, sizes)


def change_model(model: Model, changes: Mapping[str, Any]) -> Model:
    """`model` with some of `GPT2Config`'s keys set: values, or text as a command line gives it. Its name says so.

    An `n_inner` that was four times `n_embd` stays so unless it is set. Raises `InputError` for an unknown key, with
    the nearest, and for whatever `model_from_config` refuses.
    """
    if not changes:
        return model
    set_to: dict[str, Any] = {}
    for given, value in changes.items():
        key = _OTHER_NAMES.get(given, given)
        known = (*_DIMENSIONS, "n_inner", "activation_function", *_SWITCHES)
        if key not in known:
            raise InputError(f"set: unknown key {echo(given)}; {nearest(given, known) or 'known: ' + ', '.join(known)}")
        set_to[key] = _parsed(value) if isinstance(value, str) else value
    keys = {*_DIMENSIONS, *_SWITCHES, "activation_function"} - {"add_cross_attention"}
    config = {key: getattr(model, key) for key in keys}
    if model.n_inner != 4 * model.n_embd:
        config["n_inner"] = model.n_inner
    name = f"{model.name}[{','.join(f'{key}={_written(value)}' for key, value in set_to.items())}]"
    changed = model_from_config(config | set_to, name, "set")
    return replace(changed, notes=model.notes, changes=(*model.changes, *set_to.items()))


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

    Taken in this order: a `Model`, a live `GPT2Config`, a preset or its hub name (any case), a path to a folder or a
    config.json, a hub id (only a name with a `/` can be one: a typo never reaches the network).

    Raises `InputError` for an unknown name and for a config that is not a GPT-2 that can run.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str | os.PathLike):
        return _load_named(os.fspath(model))
    if hasattr(model, "to_dict"):
        config = model.to_dict()
        return model_from_config(config, str(config.get("_name_or_path") or "GPT2Config"), "GPT2Config")
    raise InputError(f"model: expected a name, a path or a GPT2Config, got {type(model).__name__}")


@lru_cache(maxsize=32)
def _load_preset(name: str) -> Model | None:
    path = data_dir("configs") / f"{name}.json"
    return model_from_config(_read_json(path), name, plain(str(path))) if path.is_file() else None


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
            if path.exists() or path.suffix == ".json":
                return _load_path(path, path.stem if path.stem != "config" else path.absolute().parent.name)
        if name.count("/") == 1 and all(part and not part.startswith(".") for part in name.split("/")):
            return _load_from_hub(name)
    hint = nearest(name, preset_names())
    raise InputError(
        f"unknown model {echo(name)}: {hint and hint + ' '}presets are {', '.join(preset_names())};"
        " or give a folder, a config.json or a hub id such as openai-community/gpt2"
    )


def _read_json(path: Path) -> dict[str, Any]:
    text, where = read_text(path), plain(str(path))
    try:
        config = json.loads(text)
    except RecursionError:
        raise InputError(f"{where}: expected a config.json, got JSON nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {plain(str(error))}") from None
    if not isinstance(config, dict):
        raise InputError(f"{where}: expected a JSON object with GPT2Config's keys, got {echo(config)}")
    return config


def _load_path(path: Path, name: str) -> Model:
    config, where = _read_json(path), plain(str(path))
    if "model_type" not in config:
        raise InputError(f"{where}: model_type: missing; expected 'gpt2'")
    checked = model_from_config(config, name, where)  # before GPT2Config, whose own complaints are long
    normal = _gpt2_config(lambda cls: cls.from_dict(dict(config)), where).to_dict()
    return replace(model_from_config(normal, name, where), notes=checked.notes)


def _load_from_hub(name: str) -> Model:
    config = _gpt2_config(lambda cls: cls.from_pretrained(name), name)
    return model_from_config(config.to_dict(), name, name)


def _gpt2_config(make: Any, where: str) -> Any:
    """Call `make` with transformers' `GPT2Config`; its advice and progress stay off the terminal."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            from transformers import GPT2Config
            from transformers.utils import logging

            logging.set_verbosity_error()
            return make(GPT2Config)
        except Exception as error:  # whatever transformers or the hub client raises is about this input
            lines = str(error).split("\n")
            reason = next((line.strip() for line in lines if line.strip()), type(error).__name__)
            raise InputError(f"{where}: cannot load the config: {reason[:200]}") from None
