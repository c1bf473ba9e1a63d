"""`"3.35 TB/s"` to SI and back: the only table of prefixes, and of the suffixes that give a name its unit.

Inside the package every quantity is a float in SI base units, with the unit in its name (`latency_s`, `read_bytes`).
Prefixes exist only here, at the edge: in hardware files and in what is printed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from gpt2cost.errors import InputError, echo

_UNIT_OF_SUFFIX = {
    "_bytes_per_s": "B/s", "_flop_per_s": "FLOP/s", "_per_s": None, "_bytes": "B", "_s": "s", "_w": "W", "_j": "J",
}  # fmt: skip
"""Suffix of a name -> its unit, the longest suffix first. Other rates, such as tokens_per_s, are plain numbers."""

_LARGE = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}  # prefix -> decimal exponent
_SMALL = {"": 0, "m": -3, "u": -6, "n": -9}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4}  # prefix -> power of 1024, for bytes only
_MICRO = str.maketrans("µμ", "uu")  # the micro sign and the Greek letter

_EXPECTED = {  # unit -> what a message says
    "B": "a size such as '80 GB'",
    "B/s": "a byte rate such as '3.35 TB/s'",
    "FLOP/s": "a FLOP rate such as '66.9 TFLOP/s'",
    "s": "a time such as '2.4 us'",
    "W": "a power such as '400 W'",
}
_PLAUSIBLE = {"B": (1e-3, 1e24), "B/s": (1e-3, 1e24), "FLOP/s": (1e-3, 1e27), "s": (1e-18, 1e9), "W": (1e-3, 1e6)}
"""Unit -> the range beyond which a quantity is a slip."""
_WHOLE = {"", "B", "FLOP", "W"}  # units that are counted: 512 is written "512 B", not "512.0 B"
EXPECTED_COUNT = "expected a whole number such as 524288, 10e9, 0.5M or 10B"
_COUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]\+?([0-9]{1,2}))?\s*(|[kMGTB]|[KMGT]i)\s*", re.ASCII)
_NUMBER = re.compile(r"\s*\+?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,3}))?\s*([^\s0-9.+-]+)\s*", re.ASCII)


def unit_of(name: str) -> tuple[str, str | None]:
    """A name without its unit, as a hardware file writes it, and the unit: `("bandwidth", "B/s")` of
    `bandwidth_bytes_per_s`. A name without a unit comes back as it is, with None.
    """
    for suffix, unit in _UNIT_OF_SUFFIX.items():
        if name.endswith(suffix):
            return (name.removesuffix(suffix), unit) if unit else (name, None)
    return name, None


def _prefixes(unit: str) -> dict[str, int]:
    """Decimal prefixes of a unit: seconds get smaller ones, joules both, everything else larger ones."""
    return _SMALL if unit == "s" else {**_SMALL, **_LARGE} if unit == "J" else _LARGE


def parse_quantity(text: object, unit: str) -> float:
    """The SI value of `text`, such as `3.35e12` for `"3.35 TB/s"`.

    `unit` is `"B"`, `"B/s"`, `"FLOP/s"`, `"s"` or `"W"`. Decimal prefixes are k M G T P (for seconds m u n, `µ` too);
    binary ones Ki Mi Gi Ti, for bytes only. The space is optional. The value is the float nearest to the decimal.

    Raises InputError for a bare number, another dimension, and anything that is not above zero and plausible.
    """
    if isinstance(text, str) and (match := _NUMBER.fullmatch(text.translate(_MICRO))) and match[3].endswith(unit):
        digits, exponent, prefix = match[1], int(match[2] or 0), match[3].removesuffix(unit)
        value = math.nan
        if prefix in _prefixes(unit):
            value = float(f"{digits}e{exponent + _prefixes(unit)[prefix]}")
        elif prefix in _BINARY and unit in ("B", "B/s"):
            value = float(f"{digits}e{exponent}") * 1024.0 ** _BINARY[prefix]
        least, most = _PLAUSIBLE[unit]
        if least <= value <= most:
            return value
    raise InputError(f"expected {_EXPECTED[unit]}, got {echo(text)}")


def parse_count(text: str) -> int:
    """The whole number that `text` says: 524288 of `"524288"` and `"0.5Mi"`, 10**10 of `"10e9"`, `"10G"` and `"10B"`.

    Raises InputError for anything else, and above 1e18.
    """
    if match := _COUNT.fullmatch(text):
        digits, exponent, prefix = match[1], int(match[2] or 0), match[3].replace("B", "G")
        value = math.nan
        if prefix in _LARGE:
            value = float(f"{digits}e{exponent + _LARGE[prefix]}")
        elif prefix in _BINARY:
            value = float(f"{digits}e{exponent}") * 1024.0 ** _BINARY[prefix]
        if 1 <= value <= 1e18 and value == int(value):
            return int(value)
    raise InputError(f"{EXPECTED_COUNT}, got {echo(text)}")


def _prefix(exponent: int, unit: str) -> tuple[str, int]:
    """The prefix, and its decimal exponent, that leaves 1 to 3 digits before the point of a value near 10**exponent."""
    fitting = [(power, prefix) for prefix, power in _prefixes(unit).items() if power <= exponent]
    power, prefix = max(fitting) if fitting else min((power, prefix) for prefix, power in _prefixes(unit).items())
    return prefix, power


def format_quantity(value: float, unit: str, digits: int = 3) -> str:
    """`value` (SI) with one prefix and `digits` significant digits: `"3.35 TB/s"`, `"1.23 ms"`, `"12.3 GFLOP"`.

    `unit` is one of `parse_quantity`'s, another such as `"FLOP"` or `"J"`, or `""` for a plain count. Whole counts
    below 1000 print whole.
    """
    if not math.isfinite(value):
        return f"{value} {unit}".rstrip()
    if value == 0 or (unit in _WHOLE and abs(value) < 1000 and value == int(value)):
        return f"{int(value)} {unit}".rstrip()
    rounded = float(f"{value:.{digits - 1}e}")  # first, so that 999.9 us becomes 1.00 ms
    exponent = int(f"{rounded:e}".split("e")[1])
    prefix, power = _prefix(exponent, unit)
    if -3 <= exponent - power <= 5:
        number = f"{rounded / 10.0**power:.{max(0, digits - 1 - exponent + power)}f}"
    else:  # beyond the table
        number = f"{rounded / 10.0**power:.{digits - 1}e}"
    return f"{number} {prefix}{unit}".rstrip()


def scale_for(values: Iterable[float], unit: str) -> tuple[float, str]:
    """One display unit for a column: the divisor and the label, such as `(1e-6, "us")`, chosen by the largest value."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0:
        return 1.0, unit
    prefix, power = _prefix(int(f"{largest:e}".split("e")[1]), unit)
    return float(f"1e{power}"), prefix + unit
