"""Text for people: cells, tables, pages as text and as HTML."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpt2cost.output.field import Field, attribute, within
from gpt2cost.output.page import Page, Table, short_number, table_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.004, "0.00"), (-0.004, "0.00"), (0.005, "0.01"), (-0.2, "-0.20"), (1.234, "1.23"), (9.996, "10.0"),
        (12.34, "12.3"), (99.96, "100"), (1234.5, "1,234"), (-12345, "-12,345"),
    ],
)  # fmt: skip
def test_short_numbers(value: float, text: str) -> None:
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("unit", "values", "header", "cells"),
    [
        ("s", [0.0021, 0.00000321, None], "x ms", ["2.10", "0.00", "-"]),
        ("own s", [0.0021, 0.00000321, None], "x", ["2.10 ms", "3.21 us", "-"]),
        ("B", [2_000_000, 1_500_000_000], "x GB", ["0.00", "1.50"]),
        ("FLOP/s", [3e12], "x TFLOP/s", ["3.00"]),
        ("%", [0.1234, -0.5], "x", ["12.3%", "-50.0%"]),
        ("+%", [0.1234, -0.5, -0.0001, None], "x", ["+12.3%", "-50.0%", "+0.0%", "-"]),
        ("x", [1.5], "x", ["1.50x"]),
        (".", [0.5, 1234.0], "x", ["0.50", "1,234"]),
        ("+.", [0.5, -0.5, 0.001, -0.001, 0.0], "x", ["+0.50", "-0.50", "0.00", "0.00", "0"]),
        (",", [1234567.8], "x", ["1,234,568"]),
        ("", [1024, None], "x", ["1024", "-"]),
        ("", ["a", None], "x", ["a", ""]),
    ],
)
def test_units_of_a_column(unit: str, values: list[Any], header: str, cells: list[str]) -> None:
    """Words stand on the left, numbers on the right."""
    table = table_of([Field("x", "x", unit, lambda value: value)], values)
    assert list(table.headers) == [header]
    assert [row[0] for row in table.rows] == cells
    assert list(table.numeric) == [not isinstance(values[0], str)]


def texts(table: Table, width: int) -> list[str]:
    """The lines of a table without their styles."""
    return ["".join(text for text, _ in line) for line in table.lines(width)]


def test_a_table_as_lines() -> None:
    """Never wrapped; only the first column is cut, to 20 characters at least, and keeps its end."""
    name = "transformer.h.attn.scaled_dot_product_attention"
    table = Table(["kernel", "us"], [[name, "12"], ["wte", "5"]], [False, True])
    width = len(name) + 2 + 2
    assert table.width == width
    assert texts(table, width) == [
        f"{'kernel':<{len(name)}}  us",
        "-" * width,
        f"{name}  12",
        f"{'wte':<{len(name)}}   5",
    ]
    assert texts(table, 34)[2:] == ["transformer.h...duct_attention  12", "wte                              5"]
    assert texts(table, 1)[2] == "transfor...attention  12"


def test_styles_of_a_row() -> None:
    """They are those of some of its cells; blanks at the end of a line have none."""
    table = Table(["kernel", "bound", "source"], [["wte", "l2", "a.py:1"], ["add", "host", ""]], [False] * 3)
    styled = replace(table, styles=["cyan", "red"], styled=[False, True, False])
    assert texts(styled, 80) == texts(table, 80)
    assert styled.lines(80)[2:] == [
        [("wte     ", ""), ("l2     ", "cyan"), ("a.py:1", "")],
        [("add     ", ""), ("host", "red")],
    ]


def test_prefixes_of_some_rows() -> None:
    """A sum below the rows does not make them small."""
    field: Field[float] = Field("x", "x", "s", float)
    assert table_of([field], [3e-6, 2e-3], [3e-6]).rows == [("3.00",), ("2,000",)]
    assert list(table_of([field], [3e-6, 2e-3], [3e-6]).headers) == ["x us"]


def test_a_field_of_a_part() -> None:
    (real,) = within(lambda row: row[0], [attribute("real", "re", ".")])
    assert (real.key, real.header, real.unit, real.get([3 + 4j])) == ("real", "re", ".", 3.0)
    assert real.get([None]) is None
    assert attribute("imag", of="real").get(3 + 4j) == attribute("i", path="real.imag").get(3 + 4j) == 0.0


def test_the_first_layout_that_fits() -> None:
    wide, narrow = Table(["a" * 30], [], [False]), Table(["b" * 12], [], [False])
    for width, index in ((30, 0), (29, 1), (5, 1)):
        page = Page(width)
        assert page.first_fit(wide, narrow) == index
        page.table(wide, narrow)
        assert page.lines[0] == [("ab"[index] * (30, 12)[index], "bold")]


def test_html_escapes_what_it_shows() -> None:
    page = Page(80)
    page.line("\na < b")
    page.line()
    page.table(Table(["<name>", "us"], [["x & y", "1"]], [False, True]))
    html = page.html()
    assert html.startswith("<p>a &lt; b</p>\n<table>")
    assert html.count("<p>") == html.count("<table>") == 1
    assert '<th style="text-align: left">&lt;name&gt;</th><th style="text-align: right">us</th>' in html
    assert '<td style="text-align: left">x &amp; y</td><td style="text-align: right">1</td>' in html
    assert page.plain().startswith("\na < b\n\n<name>  us\n")
