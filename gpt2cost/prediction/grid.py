"""What a sweep runs over: lists and ranges in llama-bench's notation, and saved studies in YAML.

    1,2,8          these values            1-64*2         1, 2, 4, ... up to 64
    1-8            every whole number      128-1024+128   128, 256, ... up to 1024

Parts of a list may be ranges. A value given twice counts once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.checks import MAX_SIZE, check_choice, check_flag
from gpt2cost.device.dtypes import DTYPES
from gpt2cost.errors import InputError, echo, nearest, plain
from gpt2cost.prediction.settings import LEAST, check_phase
from gpt2cost.schema import check_mapping
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, CACHE_TYPES, IMPLEMENTATIONS, LOGITS, RUNTIMES, Impl
from gpt2cost.yaml_text import read_yaml

Axis: TypeAlias = np.ndarray
"""The values of one size: whole numbers, int64 of shape (values,)."""

MAX_AXIS = 10_000_000
"""The most values that one axis may have: it is held in memory."""
CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": DTYPES, "attn": ATTENTION_IMPLEMENTATIONS, "runtime": RUNTIMES, "impl": IMPLEMENTATIONS
}  # fmt: skip

_RANGE = re.compile(r"([0-9]+)\s*-\s*([0-9]+)\s*(?:([*+])\s*([0-9]+))?", re.ASCII)


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep. `model` and `gpu` hold what `load_model` and `load_hardware` take."""

    model: tuple[Any, ...]
    gpu: tuple[Any, ...]
    batch: Axis
    seq: Axis
    cache: Axis
    runtime: tuple[str, ...]
    dtype: tuple[str, ...] = ("",)  # "", of impl None: the model's own
    attn: tuple[str, ...] = ("",)
    impl: tuple[Impl | None, ...] = (None,)
    phase: str = "prefill"
    logits: str = "all"
    use_cache: bool = True
    cache_type: str = "dynamic"
    notes: tuple[str, ...] = ()  # warnings: values that were given twice

    @property
    def combinations(self) -> int:
        """How many choices there are of everything but sizes."""
        return math.prod(map(len, (self.model, self.gpu, self.dtype, self.attn, self.runtime, self.impl)))

    @property
    def sizes(self) -> int:
        """How many combinations of sizes there are."""
        return len(self.batch) * len(self.seq) * len(self.cache)

    @property
    def points(self) -> int:
        return self.combinations * self.sizes


DEFAULTS: dict[str, Any] = {
    "model": (), "gpu": (), "batch": 1, "seq": 128, "cache": 0, "dtype": None, "attn": None, "runtime": "eager",
    "impl": None, "phase": "prefill", "logits": "all", "use_cache": True,
    "cache_type": "dynamic",
}  # fmt: skip
"""Every key of a study, with its default. `model` and `gpu` have none: empty means that one must be given; `dtype`,
`attn` and `impl` are the model's own."""

WHAT_IFS = ("set", "hw_set")
"""Keys of a study that are no axes: mappings from what to change to its value."""

OTHER_NAMES = {"batch_size": "batch", "seq_len": "seq", "cache_len": "cache", "hardware": "gpu"}


def make_grid(**axes: Any) -> Grid:
    """The grid of `axes`; what is left out or None has its default.

    An axis is one value, a list of values, or text in the notation above. Raises `InputError` for a key or a value that
    is wrong, for an axis without values and for one of more than `MAX_AXIS`.
    """
    for key in axes:
        if key not in DEFAULTS:
            raise InputError(f"{key}: unknown; {nearest(key, DEFAULTS) or 'known: ' + ', '.join(DEFAULTS)}")
    given = {**DEFAULTS, **{key: value for key, value in axes.items() if value is not None}}
    notes: list[str] = []
    values: dict[str, Any] = {}
    for key in ("model", "gpu", *(key for key in CHOICES if given[key] is not None)):
        values[key] = name_axis(key, given[key], notes)
    for key, least in LEAST.items():
        values[key] = size_axis(key, given[key], least, notes)
    check_phase(given["phase"])
    check_choice("logits", given["logits"], LOGITS)
    check_choice("cache_type", given["cache_type"], CACHE_TYPES)
    check_flag("use_cache", given["use_cache"])
    single = {name: given[name] for name in ("phase", "logits", "use_cache", "cache_type")}
    return Grid(**values, **single, notes=tuple(notes))


def read_study(path: Path, axes: Collection[str] = DEFAULTS) -> dict[str, Any]:
    """What a YAML file says: `axes`, named as the flags, and `WHAT_IFS`. Raises `InputError` for any other key."""
    tree, where = read_yaml(path, pipes=True), plain(str(path))
    if not isinstance(tree, Mapping):
        raise InputError(f"{where}: expected a mapping with model, gpu, batch, ..., got {echo(tree)}")
    study: dict[str, Any] = {}
    for key, value in tree.items():
        name = OTHER_NAMES.get(key, key)
        keys = tuple(dict.fromkeys((*axes, *WHAT_IFS)))
        if name not in keys:
            hint = nearest(str(key), keys) or f"known: {', '.join(keys)}"
            raise InputError(f"{where}: $.{plain(str(key))}: unknown key, {hint}")
        if name in study:
            raise InputError(f"{where}: $.{key}: given twice, under two names")
        if value is None:
            raise InputError(f"{where}: $.{key}: expected a value or a list, got nothing")
        if name in WHAT_IFS:
            check_mapping(f"{where}: $.{key}", value)
        if name in ("model", "gpu"):
            _check_names(f"{where}: $.{key}", value)
        study[name] = value
    return study


def _check_names(where: str, value: object) -> None:
    """Raise `InputError` for a number where a name is wanted: rtx4090 is also known as 4090."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int | float):
            raise InputError(f'{where}: expected a name, and {echo(item)} is none in YAML: write "{item}" in quotes')


# ---------------------------------------------------------------------------------------------- axes


def split_list(name: str, value: object) -> tuple[Any, ...]:
    """A value, a list of values or comma-separated text as a tuple. Raises `InputError` where there is none."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            raise InputError(f"{name}: expected values separated by commas, got {echo(value)}")
        return tuple(parts)
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    items = tuple(value) if isinstance(value, list | tuple | range) else (value,)
    if not items:
        raise InputError(f"{name}: no values")
    return items


def name_axis(name: str, value: object, notes: list[str]) -> tuple[Any, ...]:
    if isinstance(value, tuple) and not value:
        raise InputError(f"{name}: missing; give one or more")
    items = split_list(name, value)
    unique = distinct(items, notes, lambda item: f"{name}: {echo(item)} is given twice and counts once")
    for item in unique:
        if name in CHOICES:
            check_choice(name, item, CHOICES[name])
    return tuple(unique)


def distinct(items: Iterable[Any], notes: list[str], note: Callable[[Any], str]) -> list[Any]:
    """The items, each once; `note` says of one that is given again that it counts once."""
    unique: list[Any] = []
    for item in items:
        if item in unique:
            notes.append(note(item))
        else:
            unique.append(item)
    return unique


def size_axis(name: str, value: object, least: int, notes: list[str]) -> Axis:
    """The values of an axis, in the order given, each once."""
    parts = [_part(name, part, least) for part in split_list(name, value)]
    count = sum(map(len, parts))
    if count > MAX_AXIS:
        raise InputError(f"{name}: {count:,} values; an axis may have {MAX_AXIS:,}")
    sizes = np.concatenate([_values(part) for part in parts])
    unique, first, counts = np.unique(sizes, return_index=True, return_counts=True)
    if len(unique) == len(sizes):
        return sizes
    repeated = unique[counts > 1]
    shown = ", ".join(map(str, repeated[:5])) + (", ..." if len(repeated) > 5 else "")
    notes.append(f"{name}: given twice and counted once: {shown}")
    return sizes[np.sort(first)]


def _values(part: Sequence[int]) -> Axis:
    if isinstance(part, range):  # of which numpy would ask each value
        return np.arange(part.start, part.stop, part.step, dtype=np.int64)
    return np.asarray(part, np.int64)


def _part(name: str, part: object, least: int) -> Sequence[int]:
    """A value or a range of them. Only the length of a range is worked out here."""
    expected = f"{name}: expected whole numbers from {least} to {MAX_SIZE}, such as 1,2,8, 1-64*2 or 128-1024+128"
    if isinstance(part, str) and part.isascii() and part.isdecimal() and len(part) < 20:
        part = int(part)
    if isinstance(part, int | np.integer) and not isinstance(part, bool):
        if not least <= part <= MAX_SIZE:
            raise InputError(f"{expected}; got {echo(int(part))}")
        return (int(part),)
    match = _RANGE.fullmatch(part.strip()) if isinstance(part, str) and len(part) < 60 else None
    if not match:
        raise InputError(f"{expected}; got {echo(part)}")
    first, last, sign, step = int(match[1]), int(match[2]), match[3] or "+", int(match[4] or 1)
    if first > last:
        raise InputError(f"{name}: the range {part} runs backwards; write {last}-{first}")
    if first < least or last > MAX_SIZE:
        raise InputError(f"{expected}; got {echo(part)}")
    if sign == "+":
        if step < 1:
            raise InputError(f"{name}: the range {part} never ends: a step is at least 1")
        return range(first, last + 1, step)
    if step < 2 or first == 0:
        raise InputError(
            f"{name}: the range {part} never ends: it needs a factor of at least 2 and a start of at least 1"
        )
    return [first * step**power for power in range(last.bit_length()) if first * step**power <= last]
