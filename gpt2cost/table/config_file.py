"""A config.json as it lies about: read once, told from what is no GPT-2, and what it says beside sizes and switches.

Nothing here needs transformers. What it does with each key is `GPT2Config`'s and `PreTrainedConfig`'s doing, and the
tests compare.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt2cost.errors import ECHO_LIMIT, InputError, echo, plain
from gpt2cost.files import read_text
from gpt2cost.table.heads import CLASSES, CLASSIFIES
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, DTYPE_OF

OTHER_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
"""GPT2Config takes these names too."""

MEANT = {
    "n_layers": "n_layer", "num_layers": "n_layer", "n_heads": "n_head", "num_heads": "n_head",
    "d_model": "n_embd", "hidden_dim": "n_embd", "embed_dim": "n_embd", "embedding_dim": "n_embd",
    "intermediate_size": "n_inner", "ffn_dim": "n_inner", "d_ff": "n_inner", "d_inner": "n_inner",
    "inner_dim": "n_inner", "ffn_hidden_size": "n_inner", "hidden_act": "activation_function",
    "hidden_activation": "activation_function", "activation": "activation_function", "afn": "activation_function",
    "max_seq_len": "n_positions", "max_seq_length": "n_positions", "max_sequence_length": "n_positions",
    "context_length": "n_positions", "tie_embeddings": "tie_word_embeddings", "tie_weights": "tie_word_embeddings",
}  # fmt: skip
"""Names that other models' configs, or nobody's, have for a key -> GPT2Config's, which ignores them."""
_MISSPELT = 0.82
"""From which likeness on a key is a misspelt one: what transformers writes itself is further from all of them."""

_SAYS_GPT2 = ("n_embd", "n_head", "n_layer")
"""What the configs of transformers before 2.2.2 have, which do not name their `model_type`."""
_OF_OTHERS = ("afn", "dff", "d_ff", "d_inner")
"""What such configs of GPT-1, CTRL and Transformer-XL have, beside the same."""

_DTYPES = {**DTYPE_OF, "float": "fp32", "half": "fp16"}
"""torch's names of dtypes, and others that it takes -> ours."""

_HEADS = {cls: head for head, cls in CLASSES.items()}
_SUMMARY = {"summary_type": "cls_index", "summary_use_proj": True, "summary_proj_to_labels": True,
            "summary_activation": None}  # fmt: skip
"""What a GPT2DoubleHeadsModel's scores are made by, as it is modelled."""

LARGEST = 10**7
"""The largest dimension of a model: a larger number is more likely a slip than a size."""
DIMENSION = {"range": (1, LARGEST)}
"""Rule of a model's dimensions."""
PROBABILITY = {"bound": "natural"}
"""Rule of a dropout's probability; that it is below 1, the check of the model says."""
PDROPS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
"""A config's probabilities of dropout, which training alone has."""
_HARMLESS_CODE = ("AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor")
"""What code of its own in `auto_map` leaves the model as it is."""


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `InputError` for anything else, and for a key that is given twice."""
    text, where = read_text(path, pipes=True), plain(str(path))
    try:
        config = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, where))
    except RecursionError:
        raise InputError(f"{where}: expected a config.json, got JSON nested too deeply") from None
    except InputError:
        raise
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text[error.pos :].lstrip().startswith("{"):
            raise InputError(
                f"{where}: expected one JSON object, got two documents; the second begins on line {error.lineno}"
            ) from None
        raise InputError(f"{where}: not valid JSON: {plain(str(error))}") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {plain(str(error))}") from None
    if not isinstance(config, dict):
        raise InputError(f"{where}: expected a JSON object with GPT2Config's keys, got {echo(config)}")
    return config


def _once(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """A JSON object whose keys differ; of two values of one key a reader would see either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise InputError(f"{where}: {plain(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return found


# ---------------------------------------------------------------------------------------------- whose config it is


def as_gpt2(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A config under GPT2Config's names, and notes of what was taken for granted.

    Raises `InputError` where it is another model's: by its `model_type`, or because other code runs it.
    """
    keys = {key: value for key, value in config.items() if key not in OTHER_NAMES}
    for other, name in OTHER_NAMES.items():
        if other in config:
            if name in keys and keys[name] != config[other]:
                raise InputError(f"{where}: {name} is set twice: {other} is another name of it")
            keys[name] = config[other]
    _refuse_others(keys, where)
    notes: tuple[str, ...] = ()
    if "model_type" not in config:
        keys["model_type"] = "gpt2"
        notes = (f"{where}: model_type: missing; taken as gpt2, whose keys it has",)
    return keys, (*notes, *_hints(config, where))


def _refuse_others(config: Mapping[str, Any], where: str) -> None:
    kind, decoder = config.get("model_type"), config.get("decoder")
    if isinstance(decoder, Mapping) and decoder.get("model_type") == "gpt2":
        raise InputError(
            f"{where}: model_type: expected 'gpt2', got {echo(kind)}, whose decoder is a GPT-2: give that alone, as"
            f" --model <(jq .decoder {where}) does in a shell"
        )
    named = config.get("architectures")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    if "model_type" not in config:
        is_gpt2 = any(name.startswith("GPT2") for name in names) or (
            not names and all(key in config for key in _SAYS_GPT2) and not any(key in config for key in _OF_OTHERS)
        )
        if not is_gpt2:
            whose = f", and architectures has {echo(names[0])}" if names else ""
            raise InputError(
                f"{where}: model_type: missing{whose}; expected 'gpt2', or nanoGPT's model_args with block_size"
            )
    for key, value in (("multi_query", True), ("attention_head_type", "multiquery")):
        if config.get(key) == value:
            raise InputError(f"{where}: {key}: multi-query attention is another model's (GPTBigCode), and not modelled")
    code = config.get("auto_map")
    if isinstance(code, Mapping):
        own = next((value for key, value in code.items() if key not in _HARMLESS_CODE), None)
        if own is not None:
            raise InputError(
                f"{where}: auto_map: the model is run by code of its own ({echo(own)}), which may compute anything;"
                " if that is GPT-2, take the key out"
            )


# ---------------------------------------------------------------------------------------------- what else it says


def dtype_of(config: Mapping[str, Any], where: str) -> tuple[str, tuple[str, ...]]:
    """The dtype in which the weights are stored, which from_pretrained loads them in; "" where none is named, or one
    that is not modelled, of which there is a note."""
    named = next((config[key] for key in ("dtype", "torch_dtype") if config.get(key) is not None), None)
    name = str(named).removeprefix("torch.")
    if named is None or name == "auto":
        return "", ()
    if name not in _DTYPES:
        return "", (f"{where}: dtype: {echo(named)} is not modelled; --dtype says what is predicted",)
    return _DTYPES[name], ()


def attn_of(config: Mapping[str, Any], where: str) -> tuple[str, tuple[str, ...]]:
    """The attention implementation, in the same way."""
    keys = ("attn_implementation", "_attn_implementation")
    named = next((config[key] for key in keys if config.get(key) is not None), None)
    if named is None or named in ATTENTION_IMPLEMENTATIONS:
        return named or "", ()
    return "", (f"{where}: attn_implementation: {echo(named)} is not modelled; --attn says what is predicted",)


def head_of(config: Mapping[str, Any], where: str) -> tuple[str, tuple[str, ...]]:
    """The head of the class in `architectures`, and a note where that has one that is not modelled."""
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else CLASSES["lm"]
    head = _HEADS.get(name.removeprefix("TF").removeprefix("Flax"))
    if head is None:
        return "lm", (f"{where}: architectures: the head of {echo(name)} is not modelled; taken as {CLASSES['lm']}",)
    odd = [key for key, usual in _SUMMARY.items() if config.get(key, usual) != usual]
    if head == "double-heads" and odd:
        return head, (f"{where}: {odd[0]}: {echo(config[odd[0]])} is not modelled; taken as {_SUMMARY[odd[0]]!r}",)
    return head, ()


def labels_of(config: Mapping[str, Any], head: str) -> Any:
    """The classes that a classification head tells apart: as many as have names, else as are counted, else 2.

    What cannot be a number of classes is left as it is, to be refused, where the head has so many outputs.
    """
    names, count = config.get("id2label"), config.get("num_labels")
    found = len(names) if isinstance(names, Mapping) else 2 if count is None else count
    possible = isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= LARGEST
    return found if possible or head in CLASSIFIES else 2


def _hints(config: Mapping[str, Any], where: str) -> Iterator[str]:
    """Notes of keys that GPT2Config ignores, where another is likely meant or something is."""
    if config.get("pruned_heads"):
        yield f"{where}: pruned_heads: transformers 5 ignores it: the model has all of its heads"
    for key, value in config.items():
        meant = MEANT.get(key) or _misspelt(key)
        if meant and config.get(meant) != value:
            yield f"{where}: {echo(key)} is no key of a GPT2Config and is ignored; did you mean {meant!r}?"


RIGHT = (
    "n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "activation_function", "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings", "add_cross_attention",
    "use_cache", "n_ctx", "num_labels", *OTHER_NAMES,
)  # fmt: skip
"""Keys of a GPT2Config that change cost, or are close to one that does."""


def _misspelt(key: str) -> str:
    """Which key that changes cost is misspelt as `key`."""
    if key in RIGHT or key.startswith("_"):
        return ""
    return next(iter(difflib.get_close_matches(key[:ECHO_LIMIT], RIGHT, 1, _MISSPELT)), "")
