"""The terms of a kernel's time, and small helpers that the machine model's forms share."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.table.kernel import Gemm, Kernel

Array: TypeAlias = Any
"""A float or a numpy array of floats."""
TINY = 1e-300
"""Seconds that may stand for none in a denominator."""


@dataclass(frozen=True)
class Terms:
    """What the device seconds of one launch are made of.

    `device_s` is the kernel's time in a busy stream; the others are what each resource alone would take, so they need
    not sum to it: `compute_s` arithmetic at the rate that full tiles reach, `memory_s` the traffic of DRAM, `l2_s` that
    of L2, `serial_s` what padded tiles, incomplete waves of thread blocks and serial steps add, `launch_s` the fixed
    cost of the launch. `dram_bytes`: what DRAM reads and writes.
    """

    device_s: Array
    compute_s: Array
    memory_s: Array
    l2_s: Array
    serial_s: Array
    launch_s: Array
    dram_bytes: Array

    def __add__(self, other: Terms) -> Terms:
        """Two launches, one after the other."""
        return Terms(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def scaled(self, factor: Array) -> Terms:
        """A launch that takes `factor` times as long, whatever it takes it for."""
        return Terms(*(factor * getattr(self, f.name) for f in fields(self)))

    def where(self, condition: Array, other: Terms) -> Terms:
        """These terms where `condition` holds, `other`'s elsewhere."""
        return Terms(*(np.where(condition, getattr(self, f.name), getattr(other, f.name)) for f in fields(Terms)))


def at_least(floor_s: float, terms: Terms) -> Terms:
    """`terms`, of a kernel that cannot take less than `floor_s` seconds."""
    launch_s = np.maximum(floor_s, terms.launch_s)
    return replace(terms, device_s=np.maximum(floor_s, terms.device_s), launch_s=launch_s)


def after(gap_s: float, terms: Terms) -> Terms:
    """`terms`, of a kernel that starts `gap_s` seconds after the one before it has ended."""
    return replace(terms, device_s=terms.device_s + gap_s, launch_s=terms.launch_s + gap_s) if gap_s else terms


def product_dtype(kernel: Kernel, dtype: str) -> str:
    """The dtype in which a kernel multiplies: upcast attention's scores are float32 whatever the model's is.

    Of int8 it is the one that times it: no device's file has a rate of int8, so that 16 bit's is assumed.
    """
    own = kernel.shape.dtype if isinstance(kernel.shape, Gemm) else ""
    if own == "int8":
        return "fp16"
    return "fp32" if kernel.op == "baddbmm" else own or dtype


def norm(overlap: float, *seconds: Array) -> Array:
    """The p-norm of several times: their maximum for a large p, their sum for 1. Safe for zeros and huge values.

    Powers are numpy's: those of a Python or numpy scalar differ in the last digit from those of an array.
    """
    top = reduce(np.maximum, seconds)
    safe = np.maximum(top, TINY)
    if len(seconds) == 2:  # of the larger the power is 1
        return top * np.power(1.0 + np.power(np.minimum(*seconds) / safe, overlap), 1.0 / overlap)
    return top * np.power(reduce(np.add, (np.power(part / safe, overlap) for part in seconds)), 1.0 / overlap)


def residency(footprint_bytes: Array, l2_bytes: float, fades_from: float, gone_at: float = 1.0) -> Array:
    """The share of a kernel's traffic that L2 serves: 1 below `fades_from` of its size, exactly 0 from `gone_at` on."""
    return np.clip((gone_at - footprint_bytes / l2_bytes) / (gone_at - fades_from), 0.0, 1.0)
