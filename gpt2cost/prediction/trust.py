"""How far a prediction can be trusted, in a word.

* `measured`: passes of this regime were measured on the device.
* `calibrated`: none was, but kernels were: those that the pass spends its time in.
* `borrowed`: the constants are another device's, which the output names.
* `changed`: a what-if. No device is like this.
* `assumed`: weights are quantised, whose kernels were measured on no device: they are taken to be as fast as those of
  their family.

The word is about what sets the pace. Where that is the device, it is about the device's products, which take most of
the time; where it is the host, about the host, which belongs to the machine and not to the device.

A regime is what a measurement speaks for: the units that multiply (fp32 on CUDA cores, 16 bit and tf32 on tensor
cores), prefill or decode, products of few rows or many, and which of the two sets the pace; for the host, the runtime
too. A prefill of 4 x 1024 in fp32 says nothing of a decode step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from gpt2cost.device.catalog import HOST_FACTOR
from gpt2cost.device.cpu_constants import CpuConstants
from gpt2cost.device.dtypes import DTYPES, FP32_FAMILY
from gpt2cost.device.gpu_constants import ATTENTION_KERNELS, PAGED
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.settings import How, Sizes, is_decode
from gpt2cost.timing.gpu_attention import rate_paths

Word: TypeAlias = Literal["measured", "calibrated", "borrowed", "changed", "assumed"]
WORDS: tuple[Word, ...] = get_args(Word)
MEANING: dict[Word, str] = {
    "measured": "passes of this regime were measured on the device",
    "calibrated": "kernels were measured on the device, but no pass of this regime",
    "borrowed": "the constants are those of the device that is named",
    "changed": "a what-if: no device is like this",
    "assumed": "kernels of quantised weights are as fast as others of their family",
}
"""The words as `gpt2cost accuracy` defines them."""

ASSUMED = "an assumption"
"""What constants are borrowed from that no device lends."""
SMALL_ROWS = 64
"""Products of so many rows or fewer stream weights; of more, they multiply. (batch x new tokens)"""
_BORROWED = re.compile(r"borrowed from ([\w-]+(?:\.[\w-]+)*)")


@dataclass(frozen=True)
class Regime:
    """What a measured pass speaks for, but for what sets its pace. `large`: products of many rows."""

    dtype: str
    decode: bool
    large: bool
    runtime: str

    @property
    def family(self) -> Literal["fp32", "16-bit"]:
        """The units that multiply."""
        return "fp32" if self.dtype in FP32_FAMILY else "16-bit"

    @property
    def on_device(self) -> tuple[str, bool, bool]:
        """What counts for the device: kernels are alike in all runtimes."""
        return self.family, self.decode, self.large

    @property
    def text(self) -> str:
        rows = "" if self.large != self.decode else ", many rows" if self.large else ", few rows"
        return f"{self.family} {'decode' if self.decode else 'prefill'}{rows}"


def regime_of(how: How, sizes: Sizes) -> Regime:
    """The regime of a single point."""
    (regime,) = regimes_of(how, sizes)
    return regime


def regimes_of(how: How, sizes: Sizes) -> dict[Regime, object]:
    """The regimes of a grid, each with where it holds: True, or an array that broadcasts to the grid."""
    decode = np.asarray(is_decode(sizes))
    large = np.asarray(sizes.batch_size) * np.asarray(sizes.seq_len) > SMALL_ROWS
    regimes: dict[Regime, object] = {}
    for decoding in (False, True):
        for is_large in (False, True):
            where = (decode == decoding) & (large == is_large)
            if np.any(where):
                regimes[Regime(how.dtype, decoding, is_large, how.runtime)] = bool(np.all(where)) or where
    return regimes or {Regime(how.dtype, True, False, how.runtime): True}  # of no points at all


@dataclass(frozen=True)
class Trust:
    """A word, and whose constants or measurements it rests on: a device, or for the host a machine."""

    word: Word
    source: str


def device_trust(hw: Hardware, regime: Regime) -> Trust:
    """What the device's constants for products of many rows, or of few, rest on: `calibrated` or `borrowed`.

    The provenance of the constant that sets the rate decides: of `efficiency` for many rows; for few, of what streams
    the weights. Of a file that `gpt2cost calibrate` wrote, the dtypes in which it measured products.
    """
    if hw.calibration is not None:
        kinds = [kind for kind in hw.calibration.residuals if kind.endswith(f" {regime.dtype}")]
        if kinds:
            return Trust("calibrated", hw.name)
        return Trust("borrowed", _lender(hw, "model", "model"))
    if isinstance(hw.model, CpuConstants):
        return Trust("calibrated", hw.name) if "model" not in hw.borrowed else Trust("borrowed", hw.borrowed["model"])
    section = f"model.gemm.{hw.model.products_as(regime.dtype)}"
    rate = "efficiency" if regime.large else "dram_efficiency"
    if not regime.large and hw.model.products(regime.dtype).gemv_s is not None:
        rate = "gemv_dram_efficiency"
    return _constant_trust(hw, f"{section}.{rate}")


def kernel_trust(
    hw: Hardware, kind: str, dtype: str, rows: Any = 1, attention: Any = None, head_dim: Any = 64
) -> Trust:
    """The same of one kernel: a product of so many rows, an attention kernel, or a memory-bound kind.

    Of attention the rate at which an SM computes it in the dtype decides. `rows`, `attention` (the kernel's name) and
    `head_dim` may be arrays: the word is that of what is known least.
    """
    if hw.changes_of_time - {HOST_FACTOR}:
        return Trust("changed", unchanged_name(hw))
    products = [
        device_trust(hw, Regime(dtype, False, large, "eager")) for large in {*np.ravel(np.greater(rows, SMALL_ROWS))}
    ]
    names = [] if attention is None else np.unique(attention).tolist()
    if kind in ("gemm", "bmm") or "math" in names or hw.calibration or isinstance(hw.model, CpuConstants):
        return max(products, key=lambda trust: WORDS.index(trust.word))
    paths = [path for name in names for path in rate_paths(hw, dtype, name, head_dim)]
    paths = paths or [f"model.memory.kinds.{kind}"]
    return max((_constant_trust(hw, path) for path in paths), key=lambda trust: WORDS.index(trust.word))


def _constant_trust(hw: Hardware, path: str) -> Trust:
    """What a constant of the model rests on."""
    if provenance_of(hw, path).startswith(("measured", "fitted")):
        return Trust("calibrated", hw.name)
    return Trust("borrowed", _lender(hw, path, "model"))


def trust_at_best(hw: Hardware) -> Trust:
    """The best that any regime of the device has, without a prediction."""
    if hw.changes_of_time:
        return Trust("changed", unchanged_name(hw))
    if hw.unchanged:
        return trust_at_best(hw.unchanged)
    if any(row.whole for row in hw.evidence):
        return Trust("measured", hw.name)
    regimes = (Regime(dtype, False, large, "eager") for dtype in hw.compute.peak_flop_per_s for large in (True, False))
    return min((device_trust(hw, regime) for regime in regimes), key=lambda trust: WORDS.index(trust.word))


def unchanged_name(hw: Hardware) -> str:
    """The name of the device that a what-if changes."""
    return hw.unchanged.name if hw.unchanged else hw.name


def host_trust(hw: Hardware) -> Trust:
    """What the host's constants rest on: `calibrated` where they were measured on the machine that the file is of."""
    if hw.calibration is not None and not provenance_of(hw, "host.op").startswith(("borrowed", "assumed")):
        return Trust("calibrated", hw.name)
    lender = _lender(hw, "host", "host")
    return Trust("borrowed", f"the host of {'other machines' if lender == ASSUMED else lender}")


def provenance_of(hw: Hardware, path: str) -> str:
    """Where a constant comes from: the source of the longest path that holds it; empty if none is stated."""
    while path and path not in hw.provenance:
        path = path.rpartition(".")[0]
    return hw.provenance.get(path, "")


def _lender(hw: Hardware, path: str, section: str) -> str:
    """The device that a constant was borrowed from, as its source or else its section says; the device itself, and in
    which dtype or kernel of attention, where that is the source."""
    said = _BORROWED.search(provenance_of(hw, path))
    lender = said[1] if said else hw.borrowed.get(section, "")
    is_own = lender in DTYPES or lender.removesuffix(PAGED) in ATTENTION_KERNELS
    return f"{hw.name} in {lender}" if is_own else lender or ASSUMED
