"""Charts of a page: their marks lie where the printed ticks say that the numbers of `predict` are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from typing import Any, TypeAlias
from xml.etree import ElementTree

import numpy as np
import pytest

import gpt2cost
from gpt2cost.output.apart import spread
from gpt2cost.output.pictures import plot_data
from gpt2cost.output.pictures.plot_data import Picture
from gpt2cost.output.pictures.plot_memory import Memory, memory, memory_of_training, memory_over_tokens
from gpt2cost.output.pictures.plot_runs import generated, step_split
from gpt2cost.output.pictures.plot_timeline import timeline
from gpt2cost.output.report.svg import STYLE, draw
from gpt2cost.output.report.svg_chart import Scale
from gpt2cost.prediction.predict import Prediction
from gpt2cost.prediction.train import Training
from gpt2cost.table.kernel import short_path

pytest.importorskip("jinja2")

from gpt2cost.output.report.charts import curves, generate_charts, page_curves, pass_charts, train_charts

GPT2, A100, T4 = gpt2cost.load_model("gpt2"), gpt2cost.load_hardware("a100"), gpt2cost.load_hardware("t4")
BATCHES: dict[str, object] = {"batch": "1-64*2", "seq": 128, "cache": 0}
CONTEXTS: dict[str, object] = {"batch": 2, "seq": 1, "cache": "100-1200+100"}
FINE: dict[str, object] = {"batch": 2, "seq": 1, "cache": "64-1000+8"}


@cache
def predicted(name: str, gpu: str, **given: Any) -> Prediction:
    return gpt2cost.predict(name, gpu, **given)


def trained(**given: Any) -> Training:
    return gpt2cost.train("gpt2", "a100", micro_batch=8, seq=1024, **given)


def split(axis: str, values: str) -> Picture:
    return step_split(GPT2, A100, trained().train, {"micro_batch": 8, "seq": 1024, axis: values})


PICTURES: dict[str, Callable[[], Picture]] = {
    "curve": lambda: plot_data.curve(GPT2, [A100, T4], BATCHES, "prefill"),
    "curve over contexts": lambda: plot_data.curve(GPT2, [A100], CONTEXTS, "decode"),
    "throughput": lambda: plot_data.curve(GPT2, [A100, T4], BATCHES, "decode", "throughput"),
    "breakdown": lambda: plot_data.breakdown(GPT2, T4, BATCHES, "decode"),
    "breakdown of many": lambda: plot_data.breakdown(GPT2, T4, FINE, "decode"),
    "roofline": lambda: plot_data.roofline(predicted("gpt2", "a100", batch=8, seq=512)),
    "roofline on t4": lambda: plot_data.roofline(predicted("distilgpt2", "t4", batch=8, seq=512)),
    "roofline of a step": lambda: plot_data.roofline(predicted("gpt2", "a100", batch=1, seq=1, cache=960)),
    "roofline of eager": lambda: plot_data.roofline(predicted("gpt2-xl", "h100", batch=8, attn="eager", dtype="fp32")),
    "roofline on m1": lambda: plot_data.roofline(predicted("gpt2", "m1", seq=512)),
    "timeline": lambda: timeline(predicted("gpt2", "a100", batch=8, seq=512, phase="prefill")),
    "timeline of a step": lambda: timeline(predicted("distilgpt2", "t4", batch=8, seq=512, phase="decode")),
    "timeline of 48 layers": lambda: timeline(predicted("gpt2-xl", "rtx4090", attn="eager", phase="prefill")),
    "timeline compiled": lambda: timeline(predicted("gpt2", "a100", runtime="compile", phase="prefill")),
    "timeline of a graph": lambda: timeline(predicted("gpt2", "a100", runtime="cuda-graph", phase="decode")),
    "memory": lambda: memory(predicted("gpt2", "a100", batch=8, seq=512)),
    "memory of a step": lambda: memory(predicted("gpt2-xl", "rtx4090", batch=8, seq=1, cache=512)),
    "memory over tokens": lambda: memory_over_tokens(gpt2cost.generate("gpt2", "t4", prompt_tokens=99, new_tokens=300)),
    "memory of training": lambda: memory_of_training(trained()),
    "generated": lambda: generated(GPT2, T4, batch=8, prompt_tokens=256, new_tokens=64),
    "step over GPUs": lambda: split("gpus", "1-8*2"),
    "step over batches": lambda: split("micro_batch", "1-64*2"),
}
LIMITS = {name: 60_000 for name in PICTURES if name.startswith("timeline")}
"""Of a chart's bytes, where it is not 30,000."""


def read(svg: str) -> ElementTree.Element:
    """The chart's elements. A page's own parser is as strict about names of entities."""
    return ElementTree.fromstring(svg)


def said(element: ElementTree.Element) -> str:
    """What a mark says where a pointer rests on it."""
    return element.findtext("title") or ""


def classes_of(element: ElementTree.Element) -> set[str]:
    return set(element.get("class", "").split())


NUMBER = r"([\d.,]+)([kMGTP]?)"


def value_of(text: str) -> float:
    """A tick's number: `1,500`, `20k`, `0.5`."""
    digits, prefix = re.fullmatch(NUMBER, text).groups()  # type: ignore[union-attr]
    return float(digits.replace(",", "")) * {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[prefix]


def _y(element: ElementTree.Element) -> float:
    return float(element.get("y", "nan"))


def read_axis(chart: ElementTree.Element, upright: bool, row: int = 0) -> Callable[[float], float]:
    """From a place in units to the value that the ticks print there; the scale must fit all of them.

    `row`: which axis, from the top.
    """
    wanted, along = ({"e", "tick"}, "y") if upright else ({"m", "tick"}, "x")
    ticks = [text for text in chart.iter("text") if classes_of(text) == wanted]
    ticks = [tick for tick in ticks if re.fullmatch(NUMBER, tick.text or "")]
    if upright:  # the axis begins anew where the next tick is no higher
        starts = [0, *(i for i, (a, b) in enumerate(pairwise(map(_y, ticks)), 1) if b > a), len(ticks)]
        ticks = ticks[starts[row] : starts[row + 1]]
    else:
        level = sorted(set(map(_y, ticks)))[row]
        ticks = [tick for tick in ticks if _y(tick) == level]
    places = np.array([float(tick.get(along, "nan")) for tick in ticks]) - (4.0 if upright else 0.0)
    values = np.array([value_of(tick.text or "") for tick in ticks])
    assert len(ticks) >= 2
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


Box: TypeAlias = tuple[float, float, float, float]


def texts_of(chart: ElementTree.Element) -> list[tuple[str, list[Box]]]:
    """Each text, and what it covers in a font whose letters are 0.55 of its size wide, as Arial's and Roboto's are.

    A text that is turned covers a box for every other letter.
    """
    texts = []
    for element in chart.iter("text"):
        x, y, text = float(element.get("x", "nan")), float(element.get("y", "nan")), element.text or ""
        width = 0.55 * 12 * len(text)
        if turn := re.fullmatch(r"rotate\((\S+) (\S+) (\S+)\)", element.get("transform", "")):
            assert (turn[2], turn[3]) == (element.get("x"), element.get("y"))
            angle = math.radians(float(turn[1]))
            over = math.sin(angle), -math.cos(angle)  # from the base line to the letters' tops
            middles = [
                (x + far * math.cos(angle) + 4 * over[0], y + far * math.sin(angle) + 4 * over[1])
                for far in np.arange(4, width, 12)
            ]
            texts.append((text, [(a - 3.5, b - 3.5, a + 3.5, b + 3.5) for a, b in middles]))
        else:
            left = x - width * (("m" in classes_of(element)) / 2 + ("e" in classes_of(element)))
            texts.append((text, [(left, y - 8, left + width, y + 2)]))
    return texts


def meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


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
    assert (left, top, width) == (0, 0, 480)
    texts = texts_of(chart)
    for text, boxes in texts:
        for box in boxes:
            assert box[0] >= 0, text
            assert box[1] >= 0, text
            assert box[2] <= width + 1, text
            assert box[3] <= height, text
    for (one, boxes), (other, others) in combinations(texts, 2):
        assert not any(meet(a, b) for a in boxes for b in others), (one, other)


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


def shares(chart: ElementTree.Element, size: int) -> dict[str, float]:
    """Name -> percent, as the marks of a breakdown's lower panel say at a size."""
    texts = [said(element) for element in chart.iter() if "(%)" in said(element)]
    found = [re.match(rf"(.+?) \(%\): .*?(\S+) at {size:,}$", text) for text in texts]
    return {match[1]: float(match[2]) for match in found if match}


@pytest.mark.parametrize("sizes", [BATCHES, FINE], ids=["bars", "areas"])
def test_a_breakdown_shows_the_shares(sizes: dict[str, object]) -> None:
    data = plot_data.breakdown(GPT2, T4, sizes, "decode")
    own = shares(read(draw(data)), int(data.sizes[-1]))
    given = {**sizes, data.axis: int(data.sizes[-1])}
    phase = gpt2cost.predict(GPT2, T4, **given, phase="decode").phases[0]  # type: ignore[arg-type]
    for kind in data.kinds:
        seconds = sum(cost.device_s for cost in phase.kernels if cost.kernel.kind == kind)
        assert own[kind] == pytest.approx(100 * seconds / phase.totals.latency_s, rel=0.01)
    assert sum(own.values()) == pytest.approx(100, abs=0.5)


def test_bars_are_as_high_as_the_numbers() -> None:
    """Upon one another the parts of a training step reach its time."""
    chart = read(draw(split("micro_batch", "1-64*2")))
    y = read_axis(chart, upright=True)
    tops: dict[str, float] = {}
    for bars in chart.iter("path"):
        for place, top in re.findall(r"M([\d.]+),[\d.]+V([\d.]+)", bars.get("d", "") if said(bars) else ""):
            tops[place] = min(tops.get(place, math.inf), float(top))
    batches = [1, 2, 4, 8, 16, 32, 64]
    assert len(tops) == len(batches)
    for batch, (_, top) in zip(batches, sorted(tops.items(), key=lambda item: float(item[0])), strict=True):
        step = gpt2cost.train("gpt2", "a100", micro_batch=batch, seq=1024).step
        assert y(top) == pytest.approx(1e3 * step.step_s, abs=0.5)


@pytest.mark.parametrize("given", [{"batch": 8, "seq": 512}, {"batch": 8, "seq": 1, "cache": 960}])
def test_the_marks_of_a_roofline_are_the_kernels(given: dict[str, int]) -> None:
    """Each that takes time is there once: at FLOP/B and FLOP/s, or in the strip at B/s."""
    phase = predicted("gpt2", "a100", **given).phases[0]
    chart = read(draw(plot_data.roofline(replace(predicted("gpt2", "a100", **given), phases=(phase,)))))
    x, y, strip = read_axis(chart, upright=False), read_axis(chart, upright=True), read_axis(chart, False, row=1)
    marks = {mark.get("data-kernel"): mark for mark in chart.iter("circle")}
    shown = {short_path(c.row.path): c for c in phase.kernels if c.device_s >= 0.005 * phase.totals.device_s}
    assert set(marks) == set(shown)
    assert any("cat_key" in name for name in shown)
    for name, cost in shown.items():
        cx, cy = (float(marks[name].get(key, "")) for key in ("cx", "cy"))
        assert f"k-{cost.kernel.kind}" in marks[name].get("class", "").split()
        moved = cost.read_bytes + cost.write_bytes
        if cost.flops:
            assert x(cx) == pytest.approx(cost.flops / moved, rel=0.02)
            assert y(cy) == pytest.approx(cost.flops / cost.device_s, rel=0.02)
        else:
            assert strip(cx) == pytest.approx(moved / cost.device_s, rel=0.02)
            assert cy > float(next(t for t in chart.iter("text") if (t.text or "").startswith("arith")).get("y", ""))


@pytest.mark.parametrize("name", [name for name in PICTURES if name.startswith("timeline")])
def test_a_timeline_is_coloured_where_something_runs(name: str) -> None:
    """The coloured part of the device's track is the device's time, in the pass and in the layer."""
    data = PICTURES[name]()
    chart = read(draw(data))
    (_, top), (_, below) = (
        next((t, _y(t)) for t in chart.iter("text") if t.text == track) for track in ("host", "device")
    )
    coloured = 0.0
    for element in chart.iter():
        if "k-" in element.get("class", "") and element.tag == "rect" and _y(element) == below - 14:
            coloured += float(element.get("width", ""))
        if "k-" in element.get("class", "") and element.tag == "path":
            d = element.get("d", "")
            if re.match(rf"M[\d.]+,{below - 4:g}h", d):
                coloured += sum(map(float, re.findall(r"h([\d.]+)", d)))
    assert top < below
    time = read_axis(chart, upright=False)
    unit = {"ms": 1e-3, "us": 1e-6}[next(t.text or "" for t in chart.iter("text") if t.text in ("ms", "us"))]
    busy = sum(piece.end_s - piece.start_s for piece in data.slices if piece.track == "device")  # type: ignore[attr-defined]
    assert (time(coloured) - time(0)) * unit == pytest.approx(busy, rel=0.06)


def test_a_layer_of_a_timeline_shows_its_kernels() -> None:
    prediction = predicted("distilgpt2", "t4", batch=8, seq=512, phase="decode")
    chart = read(draw(timeline(prediction)))
    bounds = sorted({_y(t) for t in chart.iter("text") if t.text == "device"})
    time = read_axis(chart, upright=False, row=2)
    rows = {short_path(c.row.path): c for c in prediction.phases[0].kernels}
    marks = [e for e in chart.iter("rect") if e.get("data-kernel") and _y(e) == bounds[1] - 14]
    assert {mark.get("data-kernel") for mark in marks} == {name for name in rows if name.startswith("h.")}
    for mark in marks:
        cost = rows[mark.get("data-kernel") or ""]
        lasts = time(float(mark.get("width", ""))) - time(0)
        assert lasts * 1e-3 == pytest.approx(cost.device_s / cost.count, abs=0.15e-6)  # ticks are of ms
        assert "h.3." in said(mark)


@pytest.mark.parametrize("name", [name for name in PICTURES if name.startswith("memory")])
def test_memory_reaches_its_peak(name: str) -> None:
    data = PICTURES[name]()
    assert isinstance(data, Memory)
    chart = read(draw(data))
    y = read_axis(chart, upright=True)
    label = next(t.text or "" for t in chart.iter("text") if (t.text or "").startswith("live bytes"))
    unit = {"(kB)": 1e3, "(MB)": 1e6, "(GB)": 1e9}[label.split()[-1]]
    (dot,) = chart.iter("circle")
    assert y(float(dot.get("cy", ""))) * unit == pytest.approx(data.peak_bytes, rel=0.01)
    tops = [
        min(float(place) for place in re.findall(r"(?:V|M[\d.]+,)([\d.]+)", path.get("d", "")))
        for path in chart.iter("path") if "area" in path.get("class", "")
    ]  # fmt: skip
    assert min(tops[: len(data.whole.parts)]) == pytest.approx(float(dot.get("cy", "")), abs=0.11)


@pytest.mark.parametrize("given", [{"seq": 512}, {"seq": 1, "cache": 100}, {"seq": 64, "use_cache": False}])
def test_the_curves_of_a_page_go_through_its_point(given: dict[str, Any]) -> None:
    """On every device that can run it, and marked."""
    prediction = predicted("gpt2", "a100", batch=6, dtype="bf16", **given)
    count = 0
    for phase in prediction.phases:
        for axis, data, kinds in page_curves(prediction, phase, [T4, gpt2cost.load_hardware("h100")]):
            asked = {"batch": phase.batch_size, "seq": phase.seq_len, "cache": phase.cache_len}[axis]
            place = data.sizes.tolist().index(asked)
            value = phase.totals.tokens_per_s if data.quantity == "throughput" else phase.totals.latency_s
            assert data.lines[0].values[place] == pytest.approx(value, rel=1e-9)
            assert [line.label for line in data.lines] == ["a100-sxm-80gb", "h100-sxm-80gb"]  # a T4 has no bf16
            assert data.limit is None or axis == "batch"
            assert data.sizes.tolist() == kinds.sizes.tolist()
            count += 1
    charts = curves(prediction)
    assert len(charts) == 2 * count == 4 * len(prediction.phases)
    assert sum("asked for" in chart["svg"] for chart in charts) == count


def test_a_page_has_every_kind_of_chart() -> None:
    prediction = predicted("gpt2", "a100", batch=8, seq=512)
    charts = [record for _, records in pass_charts(prediction) for record in records] + curves(prediction)
    charts += generate_charts(gpt2cost.generate("gpt2", "a100", new_tokens=16)) + train_charts(trained())
    ids = [chart["id"] for chart in charts]
    assert len(set(ids)) == len(ids) == 19
    assert sum(len(chart["svg"]) for chart in charts) < 300_000
    for chart in charts:
        assert chart["title"]
        read(chart["svg"])


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
    moved = spread(places, [12.0] * len(places), -6.0, 106.0)
    assert all(right - left >= 12 - 1e-9 for left, right in pairwise(moved))
    assert min(moved) >= 0
    assert max(moved) <= 100
    if all(right - left >= 12 for left, right in pairwise(places)):
        assert moved == places
