"""Operands of the kernels that are measured. Needs torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any, TypeAlias

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WINDOWS = 256
"""Over how many windows weights rotate at most."""
_DISTINCT = 1_000_000
"""Random numbers that fill a pool, again and again: drawing all of them would take seconds."""

Run: TypeAlias = Callable[[], object]


class Pool:
    """`elements` random numbers on a device, handed out as windows that move on: consecutive ones do not overlap."""

    def __init__(self, device: str, dtype: str, elements: int) -> None:
        self.device = device
        numbers = torch.randn(min(_DISTINCT, elements), device=device).to(DTYPES[dtype])
        self.data = numbers.repeat(elements // len(numbers))
        self.at = 0

    def take(self, *shape: int) -> Any:
        size = math.prod(shape)
        if size > len(self.data):
            raise RuntimeError(f"an operand of {size} elements exceeds the pool")
        if self.at + size > len(self.data):
            self.at = 0
        window = self.data[self.at : self.at + size].view(shape)
        self.at += size
        return window

    def rotating(self, *shape: int, most: int = WINDOWS) -> Callable[[], Any]:
        """A function that gives another window each time, as many as the pool holds."""
        size = math.prod(shape)
        copies = [self.data[i * size : (i + 1) * size].view(shape) for i in range(min(most, len(self.data) // size))]
        if not copies:
            raise RuntimeError(f"an operand of {size} elements exceeds the pool")
        return partial(next, cycle(copies))
