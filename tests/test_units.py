"""Quantities: what is read, what is refused, and that printing and reading agree."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2cost.errors import InputError
from gpt2cost.units import format_quantity, parse_count, parse_quantity, scale_for, unit_of


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("3.35 TB/s", "B/s", 3.35e12),
        ("80 GB", "B", 80e9),
        ("80 GiB", "B", 85_899_345_920),
        ("1 KiB/s", "B/s", 1024),
        ("512 B", "B", 512),
        ("5 kB", "B", 5000),
        ("2.4 us", "s", 2.4e-6),
        ("2.4 µs", "s", 2.4e-6),  # the micro sign
        ("2.4 μs", "s", 2.4e-6),  # the Greek letter
        ("216 ns", "s", 2.16e-7),
        ("215.0 ms", "s", 0.215),
        ("1.5 s", "s", 1.5),
        ("66.9 TFLOP/s", "FLOP/s", 66.9e12),
        ("1.1PFLOP/s", "FLOP/s", 1.1e15),
        ("400 W", "W", 400.0),
        ("0.4 kW", "W", 400.0),
        ("80GB", "B", 80e9),
        ("  80   GB ", "B", 80e9),
        ("1e3 GB", "B", 1e12),
        ("2.5e-1 TB/s", "B/s", 2.5e11),
        (".5 GB", "B", 5e8),
        ("+1. GB", "B", 1e9),
    ],
)
def test_parse(text: str, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == value


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        *[(bare, "B") for bare in ("80", "80 ", "", " ", "GB", "nan GB", "inf GB", "1e999 GB", "1e-999 GB", "٣ GB")],
        *[
            (wrong, "B")
            for wrong in ("0 GB", "-80 GB", "0.0 GB", "80 gb", "80 Gb", "80 KB", "80 GB/s", "80 mB", "1,5 GB")
        ],
        *[
            (wrong, "B")
            for wrong in ("80 G B", "8 0 GB", "80 GB x", "80 GB\n80 GB", "0x10 GB", "1_000 GB", "1e5000 GB")
        ],
        *[(wrong, "s") for wrong in ("2 ks", "2 Gs", "2 Kis", "2 us/s", "2", "2 u", "2 m")],
        *[(wrong, "FLOP/s") for wrong in ("3 TB/s", "3 TFLOP", "3 TiFLOP/s", "3 TFLOPS", "3 T")],
        ("3.35 TFLOP/s", "B/s"),
        ("80 GB", "B/s"),
    ],
)
def test_refuse(text: str, unit: str) -> None:
    with pytest.raises(InputError, match=r"^expected a"):
        parse_quantity(text, unit)


@pytest.mark.parametrize("value", [None, 3.35, 80, True, math.nan, [], {}, b"80 GB"])
def test_refuse_what_is_no_text(value: object) -> None:
    with pytest.raises(InputError, match=r"^expected a size such as '80 GB', got "):
        parse_quantity(value, "B")


def test_message_names_the_dimension_and_the_value() -> None:
    with pytest.raises(InputError) as caught:
        parse_quantity("3.35 TFLOP/s", "B/s")
    assert str(caught.value) == "expected a byte rate such as '3.35 TB/s', got '3.35 TFLOP/s'"


def test_message_shows_a_long_value_short() -> None:
    with pytest.raises(InputError) as caught:
        parse_quantity("9" * 100_000, "B")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3.35e12, "B/s", "3.35 TB/s"),
        (1.234e-3, "s", "1.23 ms"),
        (12.34e9, "FLOP", "12.3 GFLOP"),
        (124_439_808, "", "124 M"),
        (12, "", "12"),
        (512, "B", "512 B"),
        (0, "B", "0 B"),
        (0.0, "s", "0 s"),
        (1.0, "s", "1.00 s"),
        (90.0, "s", "90.0 s"),
        (0.9999e-3, "s", "1.00 ms"),
        (999.6e9, "B", "1.00 TB"),
        (2.4e-6, "s", "2.40 us"),
        (5e-10, "s", "0.500 ns"),
        (1.37e-3, "J", "1.37 mJ"),
        (20.4e3, "J", "20.4 kJ"),
        (700.0, "W", "700 W"),
        (1.2e3, "W", "1.20 kW"),
        (1e21, "FLOP", "1.00e+06 PFLOP"),
        (-2e-6, "s", "-2.00 us"),
        (math.inf, "s", "inf s"),
        (math.nan, "s", "nan s"),
    ],
)
def test_format(value: float, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text


def test_format_digits() -> None:
    assert format_quantity(123.456e9, "B/s", digits=2) == "120 GB/s"
    assert format_quantity(123.456e9, "B/s", digits=5) == "123.46 GB/s"


@given(st.floats(1e-2, 1e8), st.sampled_from(["B", "B/s", "FLOP/s", "s"]), st.integers(1, 15))
def test_round_trip(value: float, unit: str, digits: int) -> None:
    assert parse_quantity(format_quantity(value, unit, digits), unit) == pytest.approx(
        value, rel=0.51 * 10 ** (1 - digits)
    )


@given(st.text(max_size=30), st.sampled_from(["B", "B/s", "FLOP/s", "s", "W"]))
def test_any_text_is_read_or_refused(text: str, unit: str) -> None:
    try:
        assert 0 < parse_quantity(text, unit) < math.inf
    except InputError as error:
        assert "\n" not in str(error)


def test_scale_for() -> None:
    assert scale_for([1e-7, 3e-6, 0.0], "s") == (1e-6, "us")
    assert scale_for([1e-6, 0.25], "s") == (1e-3, "ms")
    assert scale_for([3.35e12], "B/s") == (1e12, "TB/s")
    assert scale_for([5e5, math.inf, math.nan], "") == (1e3, "k")
    assert scale_for([], "B") == (1.0, "B")
    assert scale_for([0.0], "s") == (1.0, "s")
    assert scale_for([1e-15], "s") == (1e-9, "ns")


@pytest.mark.parametrize(
    ("name", "stem", "unit"),
    [
        ("bandwidth_bytes_per_s", "bandwidth", "B/s"),
        ("fp16_flop_per_s", "fp16", "FLOP/s"),
        ("l2_bytes", "l2", "B"),
        ("launch_s", "launch", "s"),
        ("tokens_per_s", "tokens_per_s", None),
        ("elements_per_s_per_unit", "elements_per_s_per_unit", None),
        ("bytes", "bytes", None),
        ("mean_error", "mean_error", None),
    ],
)
def test_the_unit_that_a_name_carries(name: str, stem: str, unit: str | None) -> None:
    assert unit_of(name) == (stem, unit)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("524288", 524_288), ("10e9", 10**10), ("10B", 10**10), ("10 G", 10**10), ("0.5M", 500_000),
        ("0.5Mi", 524_288), ("512Ki", 524_288), ("1.1k", 1100), ("15T", 15 * 10**12), (" 3 ", 3), ("1.5e3k", 1_500_000),
    ],
)  # fmt: skip
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "B", "0", "-1", "1.5", "10b", "0.5Q", "1e19", "1.0001k", "nan", "1,000", "5 M B"])
def test_no_counts(text: str) -> None:
    with pytest.raises(InputError, match=r"^expected a whole number such as 524288, 10e9, 0\.5M or 10B, got "):
        parse_count(text)
