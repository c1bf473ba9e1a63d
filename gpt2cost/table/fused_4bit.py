"""Where bitsandbytes multiplies 4-bit weights as they are, and where it turns them into the dtype first.

The rule is `_gemm_4bit_use_custom_cuda` of its CUDA backend, calibrated there by hand: by the rows m of the
activations, the weight's size (n, k), the device's SMs and its compute capability. Written out so that it needs no
bitsandbytes; a test holds it against the installed one.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby, pairwise

FLOOR = 4
"""Up to so many rows one kernel does it, on any device."""
MOST = 1536
"""Of more rows none does."""
BLOCK = 64
"""Weights that share a scale; k has to be a multiple of it."""
_STEPS = (FLOOR, 5, 7, 8, 10, 12, 16, 23, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, MOST)
"""The rows after which the rule may say otherwise."""
_SMALL = 4 * 1024 * 1024


@lru_cache(maxsize=256)
def fused_rows(device: tuple[int, float] | None, half: bool, is_fp16: bool, n: int, k: int) -> tuple[range, ...]:
    """The numbers of rows that one kernel multiplies, as ranges. `device`: SMs and compute capability."""
    if k % BLOCK:
        return ()
    if device is None:
        return (range(1, FLOOR + 1),)
    alike = [range(first + 1, last + 1) for first, last in pairwise((0, *_STEPS))]
    flags = ((rows, _is_fused(*device, half, is_fp16, rows[-1], n, k)) for rows in alike)
    runs = [[rows for rows, _ in run] for fused, run in groupby(flags, key=lambda flag: flag[1]) if fused]
    return tuple(range(run[0][0], run[-1][-1] + 1) for run in runs)


def _is_fused(units: int, capability: float, half: bool, is_fp16: bool, m: int, n: int, k: int) -> bool:
    if m <= FLOOR:
        return True
    major, minor = divmod(round(10 * capability), 10)
    blocks = -(-n // 64)
    if not half or major < 7 or (major == 7 and (minor < 5 or not is_fp16)):
        return m < 8
    if (major, minor) == (8, 7) or major == 11:
        return False
    if major == 10:
        if blocks >= units * 3:
            return m <= 32
        return blocks >= units and k < n and m <= 8
    if n * k < _SMALL:
        return m <= _most_of_small(units, major, minor, m, n, k, blocks)
    if m > 512:
        return False
    if m < 8:
        return _is_fused_below_8(units, (major, minor), m, n, k, blocks)
    return m <= _LADDERS.get((major, minor), _LADDERS.get((major, -1), _of_others))(units, n, k, blocks)


def _most_of_small(units: int, major: int, minor: int, m: int, n: int, k: int, blocks: int) -> int:
    """The most rows for a weight below 4 Mi elements."""
    is_sm75, is_sm80 = (major, minor) == (7, 5), (major, minor) == (8, 0)
    has_hbm = is_sm80 or major == 9
    if k * 2 < n:
        if has_hbm:
            low_wave = blocks * 3 < units
            return (1536 if low_wave else 512) if is_sm80 else (512 if low_wave else 320)
        if is_sm75:
            return 320 if blocks >= units * 3 else 64 if k >= 1024 else 96 if k >= 704 else 320
        return 192 if blocks < units and blocks * k > units * 320 else 320
    quarter_wave = blocks * 4 <= units
    if is_sm80 and quarter_wave:
        return 384 if k < n else 32 if blocks * 8 <= units else 128
    if is_sm75 and blocks < units and m > 8:
        return 64
    if quarter_wave:
        return 32 if k < n or has_hbm else 23
    return 16 if blocks * 2 <= units else 0


def _is_fused_below_8(units: int, sm: tuple[int, int], m: int, n: int, k: int, blocks: int) -> bool:
    is_sm80, is_sm90 = sm == (8, 0), sm[0] == 9
    if not (is_sm80 or is_sm90) or m < 6 or blocks < (36 if is_sm90 else 48):
        return True
    below_75, below_60 = blocks * 4 < units * 3, blocks * 5 < units * 3
    if k > n and below_75:
        return False
    return not (k == n and ((is_sm80 and below_60) or (is_sm90 and below_75 and not below_60)))


def _of_sm75(units: int, n: int, k: int, blocks: int) -> int:
    if blocks >= units * 3:
        return 128 if k < n else 64
    return 64 if blocks >= units // 2 else 32


def _of_sm80(units: int, n: int, k: int, blocks: int) -> int:
    if blocks >= units * 3:
        return 128
    if blocks >= units:
        return 64 if k < n else 32
    if (k >= n * 3 and blocks * 4 > units) or (k == n and blocks >= 48 and blocks * 5 < units * 3):
        return 0
    if blocks * 2 < units:
        if k <= n:
            return 128
        if blocks * 3 >= units:
            return 0
    return 128 if blocks >= units // 2 and k < n else 16


def _of_sm86(units: int, n: int, k: int, blocks: int) -> int:
    return 128 if blocks >= units else 64 if blocks >= units // 2 else 16


def _of_sm90(units: int, n: int, k: int, blocks: int) -> int:
    for waves, most in ((3, 64), (2, 48), (1, 32)):
        if blocks >= units * waves:
            return most
    return 0 if blocks < units // 2 or (k >= n and blocks * 4 < units * 3) else 16


def _of_sm120(units: int, n: int, k: int, blocks: int) -> int:
    if blocks >= units * 3:
        return 256
    if blocks >= units * 2:
        return 128
    if blocks * 5 >= units * 4:
        return 96 if k >= n else 64
    if blocks >= units:
        return 64
    if blocks >= units // 2:
        return 64 if k * 2 >= n and blocks >= 128 else 8
    return 16 if k > n * 2 and blocks > 64 else 8


def _of_sm121(units: int, n: int, k: int, blocks: int) -> int:
    return 256 if blocks >= units else _of_others(units, n, k, blocks)


def _of_others(units: int, n: int, k: int, blocks: int) -> int:
    tall = k > n * 2
    if blocks >= units * 3:
        return 256
    if blocks >= units * 2:
        return 128
    if blocks * 5 >= units * 4:
        if tall or blocks >= 200:
            return 128
        return (128 if units >= 60 else 32) if k >= n else 64
    if blocks >= units // 2:
        return 64 if tall else 8 if blocks >= 64 else 32
    if k > n and blocks <= 48:
        return 12 if k >= n * 3 else 10
    return 16 if tall or blocks < 48 else 8


_LADDERS = {
    (7, 5): _of_sm75, (8, 0): _of_sm80, (8, 6): _of_sm86, (9, -1): _of_sm90, (12, 0): _of_sm120, (12, 1): _of_sm121,
}  # fmt: skip
"""The most rows of a larger weight, by compute capability; -1 is any minor version."""
