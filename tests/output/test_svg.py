"""Charts of a page: their marks lie where the printed ticks say that the numbers of `predict` are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

import gpt2cost
from gpt2cost.output import plot_data
from gpt2cost.output.plot_data import Picture
from gpt2cost.output.svg import STYLE, draw
from gpt2cost.output.svg_chart import Scale, spread

GPT2, A100, T4 = gpt2cost.load_model("gpt2"), gpt2cost.load_hardware("a100"), gpt2cost.load_hardware("t4")
BATCHES: dict[str, object] = {"batch": "1-64*2", "seq": 128, "cache": 0}
CONTEXTS: dict[str, object] = {"batch": 2, "seq": 1, "cache": "100-1200+100"}

PICTURES: dict[str, Callable[[], Picture]] = {
    "curve": lambda: plot_data.curve(GPT2, [A100, T4], BATCHES, "prefill"),
    "curve over contexts": lambda: plot_data.curve(GPT2, [A100], CONTEXTS, "decode"),
    "throughput": lambda: plot_data.curve(GPT2, [A100, T4], BATCHES, "decode", "throughput"),
    "breakdown": lambda: plot_data.breakdown(GPT2, T4, BATCHES, "decode"),
}
LIMITS: dict[str, int] = {}
"""Of a chart's bytes, where it is not 30,000."""


def read(svg: str) -> ElementTree.Element:
    """The chart's elements. A page's own parser is as strict about names of entities."""
    return ElementTree.fromstring(svg)


def said(element: ElementTree.Element) -> str:
    """What a mark says where a pointer rests on it."""
    return element.findtext("title") or ""


def value_of(text: str) -> float:
    """A tick's number: `1,500`, `20k`, `0.5`."""
    digits, prefix = re.fullmatch(r"([\d.,]+)([kM]?)", text).groups()  # type: ignore[union-attr]
    return float(digits.replace(",", "")) * {"": 1.0, "k": 1e3, "M": 1e6}[prefix]


def read_axis(chart: ElementTree.Element, upright: bool) -> Callable[[float], float]:
    """From a place in units to the value that the ticks print there; the scale must fit all of them."""
    anchor, along = ("end", "y") if upright else ("middle", "x")
    ticks = [t for t in chart.iter("text") if t.get("class") == "tick" and t.get("text-anchor") == anchor]
    ticks = [tick for tick in ticks if re.fullmatch(r"[\d.,]+[kM]?", tick.text or "")]
    places = np.array([float(tick.get(along, "nan")) for tick in ticks]) - (4.0 if upright else 0.0)
    values = np.array([value_of(tick.text or "") for tick in ticks])
    assert len(ticks) >= 3
    for log in (False, True):
        if log and values.min() <= 0:
            continue
        written = np.log(values) if log else values
        slope, offset = np.polyfit(written, places, 1)
        if np.allclose(slope * written + offset, places, atol=0.11):
            return lambda place, log=log, slope=slope, offset=offset: (  # type: ignore[misc]
                math.exp((place - offset) / slope) if log else (place - offset) / slope
            )
    raise AssertionError("the ticks lie on no scale")


def texts_of(chart: ElementTree.Element) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Each text, and what it covers in a font whose letters are 0.55 of its size wide, as Arial's and Roboto's are."""
    boxes = []
    for element in chart.iter("text"):
        x, y, text = float(element.get("x", "nan")), float(element.get("y", "nan")), element.text or ""
        width = 0.55 * 12 * len(text)
        if element.get("transform"):  # turned to the right
            assert element.get("transform") == f"rotate(90 {element.get('x')} {element.get('y')})"
            boxes.append((text, (x - 2, y, x + 8, y + width)))
            continue
        left = x - {"middle": width / 2, "end": width}.get(element.get("text-anchor", ""), 0)
        boxes.append((text, (left, y - 8, left + width, y + 2)))
    return boxes


@pytest.mark.parametrize("name", PICTURES)
def test_a_chart_is_well_made(name: str) -> None:
    """Small, one element, for readers of the screen too, with nothing that a content security policy forbids."""
    data = PICTURES[name]()
    svg = draw(data)
    chart = read(svg)
    assert len(svg.encode()) <= LIMITS.get(name, 30_000)
    assert (chart.tag, chart.get("role")) == ("svg", "img")
    label = chart.get("aria-label", "")
    assert label.startswith(data.title)
    assert label.endswith(".")
    allowed = {"svg", "path", "rect", "circle", "text", "title", "g"}
    for element in chart.iter():
        assert element.tag in allowed
        assert not {key for key in element.attrib if key == "style" or key.startswith("on") or "href" in key}
        for class_ in element.get("class", "").split():
            assert f".{class_}" in STYLE, class_
        for key, value in element.attrib.items():
            assert "nan" not in value, (key, value)
            assert "inf" not in value, (key, value)


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_covers_another_or_leaves_the_chart(name: str) -> None:
    chart = read(draw(PICTURES[name]()))
    left, top, width, height = map(float, chart.get("viewBox", "").split())
    boxes = texts_of(chart)
    for text, box in boxes:
        assert left <= box[0], text
        assert box[2] <= width + 1, text
        assert top <= box[1], text
        assert box[3] <= height, text
    for (one, a), (other, b) in combinations(boxes, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("quantity", ["latency", "throughput"])
def test_a_line_goes_through_the_predictions(phase: str, quantity: str) -> None:
    """Read back through the ticks as a reader does, to the tenth of a unit that places have."""
    chart = read(draw(plot_data.curve(GPT2, [A100, T4], BATCHES, phase, quantity)))
    x, y = read_axis(chart, upright=False), read_axis(chart, upright=True)
    label = next(text.text or "" for text in chart.iter("text") if (text.text or "").startswith(quantity))
    unit = {"(ms)": 1e-3, "(us)": 1e-6, "(tokens/s)": 1.0}[label.split()[-1]]
    dots = list(chart.iter("circle"))
    assert len(dots) == 14
    for dot in dots:
        name, size = re.match(r"([\w-]+), (\d+):", said(dot)).groups()  # type: ignore[union-attr]
        assert x(float(dot.get("cx", ""))) == pytest.approx(int(size), rel=0.01)
        totals = gpt2cost.predict("gpt2", name, batch=int(size), seq=128, phase=phase).phases[0].totals
        expected = totals.latency_s if quantity == "latency" else totals.tokens_per_s
        assert y(float(dot.get("cy", ""))) * unit == pytest.approx(expected, rel=0.02)


def test_the_areas_of_a_breakdown_are_the_shares() -> None:
    """The lower panel reaches 100 %, and what an area's mark says of its ends adds up to the pass."""
    chart = read(draw(plot_data.breakdown(GPT2, T4, BATCHES, "decode")))
    shares = [said(path) for path in chart.iter("path") if " % at " in said(path)]
    ends = [re.findall(r"([\d.e+-]+) % at (\d+)", share) for share in shares]
    for column, batch in ((0, 1), (1, 64)):
        assert {int(end[column][1]) for end in ends} == {batch}
        assert sum(float(end[column][0]) for end in ends) == pytest.approx(100, abs=0.5)
    prediction = gpt2cost.predict("gpt2", "t4", batch=64, seq=128, phase="decode").phases[0]
    copies = sum(cost.device_s for cost in prediction.kernels if cost.kernel.kind == "copy")
    text = next(share for share in shares if share.startswith("copy"))
    shown = float(re.findall(r"([\d.]+) % at 64", text)[0])
    assert shown == pytest.approx(100 * copies / prediction.totals.latency_s, rel=0.01)


def test_names_are_escaped() -> None:
    """A model's or a device's name is the user's."""
    wicked = '<script>alert("x")</script>&\'"'
    data = plot_data.curve(GPT2, [A100], BATCHES, "prefill")
    line = replace(data.lines[0], label=wicked)
    svg = draw(replace(data, title=wicked, lines=(*data.lines, line)))
    assert "<script" not in svg
    chart = read(svg)
    assert wicked in chart.get("aria-label", "")
    assert any(wicked == text.text for text in chart.iter("text"))


# ---------------------------------------------------------------------------------------------- scales


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0, 1, False), (0, 0.0037, False), (3, 970, False), (1, 64, True), (2e9, 7e14, True), (0.8, 1.3, True)],
)
def test_ticks_are_round_few_and_inside(low: float, high: float, log: bool) -> None:
    ticks = Scale(low, high, 0.0, 400.0, log).ticks(6)
    assert 2 <= len(ticks) <= 10 or (log and high < 2 * low)
    assert ticks == sorted(set(ticks))
    for tick in ticks:
        assert low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)
        digits = f"{tick:.6e}".split("e")[0].rstrip("0").rstrip(".").replace(".", "")
        assert len(digits) <= (1 if log else 3), tick


@pytest.mark.parametrize("places", [[1.0, 2.0, 3.0], [50.0, 50.0, 50.0, 51.0], [98.0, 99.0, 99.5], [0.0, 40.0, 99.0]])
def test_labels_are_moved_apart_and_no_further_than_it_takes(places: list[float]) -> None:
    moved = spread(places, 12.0, 0.0, 100.0)
    assert all(right - left >= 12 - 1e-9 for left, right in pairwise(moved))
    assert min(moved) >= 0
    assert max(moved) <= 100
    if all(right - left >= 12 for left, right in pairwise(places)):
        assert moved == places
