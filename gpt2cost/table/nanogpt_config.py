"""nanoGPT's `GPTConfig`, and what its `model_args` say under `GPT2Config`'s names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt2cost.schema import build
from gpt2cost.table.config_file import DIMENSION, PDROPS, PROBABILITY


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """nanoGPT's `GPTConfig`, with its defaults: what a `model_args` says."""

    block_size: int = field(default=1024, metadata=DIMENSION)
    vocab_size: int = field(default=50304, metadata=DIMENSION)
    n_layer: int = field(default=12, metadata=DIMENSION)
    n_head: int = field(default=12, metadata=DIMENSION)
    n_embd: int = field(default=768, metadata=DIMENSION)
    dropout: float = field(default=0.0, metadata=PROBABILITY)
    bias: bool = True


OWN_KEYS = ("block_size", "dropout", "bias")
"""What nanoGPT's `model_args` has and a config.json has not."""


def keys_of_args(args: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys of a `Model`. Raises `InputError` for a wrong value and for an unknown key."""
    config = build(GPTConfig, dict(args), where)
    keys = {key: getattr(config, key) for key in ("vocab_size", "n_layer", "n_head", "n_embd", "bias")}
    return {**keys, **dict.fromkeys(PDROPS, config.dropout), "n_positions": config.block_size}
