"""What a config says of quantised weights: the keys of a BitsAndBytesConfig, and what of them is modelled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpt2cost.errors import InputError, echo
from gpt2cost.table.quantization import IN_BLOCK, layers_of

OF_WEIGHTS: dict[str, tuple[str, ...]] = {
    "dtype": (), "int8": ("llm_int8_threshold",),
    **dict.fromkeys(("nf4", "fp4"), ("bnb_4bit_compute_dtype", "bnb_4bit_use_double_quant")),
}  # fmt: skip
"""BitsAndBytesConfig's keys that go with each way of storing weights."""
QUANTIZATION_KEYS = ("weights", *OF_WEIGHTS["int8"], *OF_WEIGHTS["nf4"])
"""What says how weights are stored."""


def quantization_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """How the weights are stored where that is not in a dtype, as keys of a `Model`; BitsAndBytesConfig's defaults.

    Raises `InputError` for another method than bitsandbytes, by its name, and for what of it is not modelled.
    """
    own = config.get("quantization_config")
    if not own:
        return {}
    at = f"{where}: quantization_config"
    method = own.get("quant_method") or "bitsandbytes" if isinstance(own, Mapping) else own
    if not isinstance(own, Mapping) or method != "bitsandbytes":
        raise InputError(
            f"{at}: {echo(method)} is not modelled: its kernels and bytes are others; bitsandbytes is, and without the"
            " key, the model of the dtype is predicted"
        )
    in_8bit, in_4bit = (own.get(key, own.get(f"_{key}", False)) is True for key in ("load_in_8bit", "load_in_4bit"))
    if in_8bit == in_4bit:
        raise InputError(f"{at}: expected one of load_in_8bit and load_in_4bit to be true")
    if own.get("llm_int8_has_fp16_weight"):
        raise InputError(f"{at}: llm_int8_has_fp16_weight is not modelled; its weights stay in 16 bit")
    skipped = own.get("llm_int8_skip_modules")
    if skipped is not None and not (isinstance(skipped, list) and all(isinstance(name, str) for name in skipped)):
        raise InputError(f"{at}: llm_int8_skip_modules: expected a list of names, got {echo(skipped)}")
    keys: dict[str, Any] = {"skipped": None if skipped is None else tuple(skipped)}
    if in_4bit and (kind := own.get("bnb_4bit_quant_type", "fp4")) not in ("nf4", "fp4"):
        raise InputError(f"{at}: bnb_4bit_quant_type: expected nf4 or fp4, got {echo(kind)}")
    if in_8bit:
        return keys | {"weights": "int8", "llm_int8_threshold": own.get("llm_int8_threshold", 6.0)}
    return keys | {
        "weights": own.get("bnb_4bit_quant_type", "fp4"),
        "bnb_4bit_compute_dtype": str(own.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch."),
        "bnb_4bit_use_double_quant": own.get("bnb_4bit_use_double_quant", False),
    }


def _is_kept(name: str, head: str, skipped: tuple[str, ...] | None) -> bool:
    """Whether a linear layer stays in the dtype: as `should_convert_module` of transformers has it.

    By default those stay that make a model's output: lm_head, and a classifier without a bias. Of `skipped`, which
    takes their place, a name holds for what begins or ends with it. Raises `InputError` where it is of one block, or
    more than a name.
    """
    if skipped is None:
        return name in ("lm_head", "score")
    for key in skipped:
        if not re.fullmatch(r"[\w.]+", key):
            raise InputError(f"llm_int8_skip_modules: expected names of modules, got {echo(key)}")
        if re.search(r"\d", key):
            raise InputError(f"llm_int8_skip_modules: {echo(key)} is in one block, and all are modelled alike")
    before = "" if head == "none" else "transformer."
    path = f"{before}h.0.{name}" if name.partition(".")[0] in IN_BLOCK else name
    return any(path == key or path.startswith(f"{key}.") or path.endswith(key) for key in skipped)


def kept_layers(head: str, crossed: bool, skipped: tuple[str, ...] | None) -> tuple[str, ...]:
    """The linear layers of a model whose weights stay in the dtype where others are quantised. See `_is_kept`."""
    names = (name for name, *_ in layers_of(head, crossed))
    return tuple(name for name in names if _is_kept(name, head, skipped))


def check_quantized(weights: str, given: Sequence[str], numbers: Mapping[str, int], keeps_lm_head: bool) -> None:
    """Raise `InputError` where the weights of a model with these sizes run otherwise than modelled.

    `given`: which keys have not their defaults. All go with one way of storing weights.
    """
    for key in given:
        if key != "weights" and key not in OF_WEIGHTS[weights]:
            ways = " or ".join(way for way, keys in OF_WEIGHTS.items() if key in keys)
            raise InputError(f"{key}: goes with weights {ways}, and they are {weights}")
    if weights == "dtype":
        return
    if not keeps_lm_head:
        raise InputError("llm_int8_skip_modules: expected lm_head among them: it is not modelled quantised")
    for name, key in (("hidden_size", "n_embd"), ("intermediate_size", "n_inner")):
        if weights == "int8" and numbers[name] % 4:
            raise InputError(f"{key}: expected a multiple of 4 with weights int8, got {numbers[name]}")
