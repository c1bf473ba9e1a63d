"""Checks of what the user gave: choices, flags, sizes. Each raises `InputError` with what would be right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.errors import InputError, echo, nearest

Size: TypeAlias = Any
"""An int, or an array of whole numbers, which is kept as float64."""

MAX_SIZE = 10**9
"""The largest batch, sequence or cache; a larger number is more likely a slip."""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `InputError` unless `value` is one of `choices`."""
    if value not in choices:
        hint = nearest(value, choices) if isinstance(value, str) else ""
        raise InputError(f"{name}: expected one of {', '.join(choices)}, got {echo(value)}{hint and '; ' + hint}")


def check_flag(name: str, value: object) -> bool:
    """Raise `InputError` unless `value` is true or false."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}: expected True or False, got {echo(value)}")
    return bool(value)


def check_size(name: str, value: object, least: int, most: int = MAX_SIZE) -> Size:
    """`value`, an integer or an array of integers from `least` to `most`, as an int or a float64 array.

    Raises `InputError` for anything else.
    """
    wanted = f"{name}: expected an integer from {least} to {most}"
    if isinstance(value, np.ndarray) and not value.ndim:
        value = value[()]
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if not least <= int(value) <= most:
            raise InputError(f"{wanted}, got {echo(int(value))}")
        return int(value)
    if isinstance(value, np.ndarray | list | tuple):
        try:
            sizes = np.asarray(value)
        except ValueError:  # rows of different lengths
            raise InputError(f"{wanted}, got {echo(value)}") from None
        if sizes.size and np.issubdtype(sizes.dtype, np.integer):
            if sizes.min() < least or sizes.max() > most:
                raise InputError(f"{wanted}, got {sizes.min() if sizes.min() < least else sizes.max()}")
            return sizes.astype(np.float64)
    raise InputError(f"{wanted}, got {echo(value)}")


def check_point(name: str, value: object, least: int, most: int = MAX_SIZE) -> int:
    """`value` as an int from `least` to `most`; `InputError` otherwise, and for an array."""
    size = check_size(name, value, least, most)
    if not isinstance(size, int):
        raise InputError(f"{name}: expected one size, got {echo(value)}")
    return size


def check_broadcast(sizes: Mapping[str, Any]) -> None:
    """Raise `InputError` unless the sizes, by name, are arrays that broadcast together."""
    try:
        np.broadcast_shapes(*map(np.shape, sizes.values()))
    except ValueError:
        shapes = ", ".join(str(np.shape(size)) for size in sizes.values())
        raise InputError(f"{', '.join(sizes)}: expected arrays that broadcast, got shapes {shapes}") from None


def check_positive(name: str, value: object) -> float:
    """`value` as a finite number above 0; `InputError` otherwise."""
    number = value if isinstance(value, int | float | np.number) and not isinstance(value, bool) else math.nan
    if not 0 < number < math.inf:
        raise InputError(f"{name}: expected a number above 0, got {echo(value)}")
    return float(number)
