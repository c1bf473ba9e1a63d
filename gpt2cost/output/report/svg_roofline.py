"""A device's roofs and the kernels below them as inline SVG; those without FLOPs in a strip of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from gpt2cost.output.colours import KIND_COLOURS
from gpt2cost.output.pictures.plot_data import SMALLEST, Point, Roofline
from gpt2cost.output.report.svg_chart import (
    LINE,
    WIDTH,
    Box,
    Chart,
    Scale,
    cut_to,
    number,
    path,
    plain,
    text_width,
    tip,
)
from gpt2cost.output.shared import short_name
from gpt2cost.units import format_quantity

LEFT, RIGHT, TOP, BOTTOM = 46.0, WIDTH - 22, 32.0, 300.0
STRIP = (BOTTOM + 74, BOTTOM + 118)
"""From where to where the strip of kernels without FLOPs goes."""
NUMBERED = 6
"""Kernels of each phase that have a number, and their names in the list."""


def roofline(data: Roofline) -> str:
    """The chart: 480 units wide."""
    phases = list(dict.fromkeys(point.phase for point in data.points))
    shown = [point for point in data.points if point.is_shown]
    chart = Chart(_sentence(data, phases))
    rates = [point for point in shown if point.flop_per_s]
    highest, slopes = max(data.peaks.values()), list(data.bandwidths.values())
    left = min([0.05, *(point.intensity / 2 for point in rates)])
    right = max(2 * highest / min(slopes), *(3 * point.intensity for point in rates))
    x = Scale(left, right, LEFT, RIGHT, log=True)
    y = Scale(min([left * min(slopes), *(p.flop_per_s / 2 for p in rates)]), 3 * highest, BOTTOM, TOP, log=True)
    chart.y_axis(y, LEFT, RIGHT, [(at, plain(at)) for at in y.ticks(9)], "attained rate (FLOP/s)")
    chart.x_axis(x, BOTTOM, TOP, [(at, plain(at)) for at in x.ticks(9)], "arithmetic intensity (FLOP/B)")
    strip = _strip_axis(chart, data, [point for point in shown if not point.flop_per_s])
    _roofs(chart, data, x, y)
    middle = (STRIP[0] + STRIP[1]) / 2
    places = {
        point: (x(point.intensity), y(point.flop_per_s)) if point.flop_per_s else (strip(point.bytes_per_s), middle)
        for point in sorted(shown, key=lambda point: -point.share)
    }
    for point, (at_x, at_y) in places.items():
        _mark(chart, point, at_x, at_y, phases)
    scales = {"data_x": _geometry(x), "data_y": _geometry(y), "data_strip": _geometry(strip)}
    chart.add("g", class_="scales", data_middle=middle, **scales)
    listed = [_largest(data, phase) for phase in phases]
    for index, point in enumerate(point for own in listed for point in own):
        if point in places:
            _numbered(chart, str(index + 1), *places[point])
    _roof_names(chart, data, x, y)
    bottom = _list(chart, phases, listed, STRIP[1] + 4 * LINE + 6)
    kinds = [kind for kind in KIND_COLOURS if any(point.kind == kind for point in shown)]
    bottom = chart.legend(bottom + 8, [(f"k-{kind}", kind) for kind in kinds])
    note = f"area: share of its pass's device time; those below {SMALLEST:.1%} are left out"
    chart.text(4.0, bottom + 2, note, class_="tick")
    chart.height = bottom + 8
    return chart.svg()


def _geometry(scale: Scale) -> str:
    """A scale as a page's script reads it, which moves the marks to another pass."""
    return " ".join(f"{value:.9g}" for value in (scale.low, scale.high, scale.start, scale.end))


def _sentence(data: Roofline, phases: list[str]) -> str:
    said = []
    for phase in phases:
        first, none = _largest(data, phase)[0], [p for p in data.points if p.phase == phase and not p.flop_per_s]
        said.append(
            f"In {phase} {first.name} takes the most, {first.share:.0%} of device time; kernels without FLOPs take"
            f" {sum(point.share for point in none):.0%}"
        )
    return f"{data.title}. Ridge at {data.ridge:.0f} FLOP/B. {'. '.join(said)}."


def _largest(data: Roofline, phase: str) -> list[Point]:
    return sorted((point for point in data.points if point.phase == phase), key=lambda p: -p.share)[:NUMBERED]


def _roofs(chart: Chart, data: Roofline, x: Scale, y: Scale) -> None:
    highest = max(data.peaks.values())
    for index, (label, peak) in enumerate(data.peaks.items()):
        line = path([(LEFT, y(peak)), (RIGHT, y(peak))])
        _roof(chart, data, label, f"{format_quantity(peak, 'FLOP/s')}", line, "roof second" if index else "roof")
    for label, slope in data.bandwidths.items():
        begin = max(x.low, y.low / slope)
        line = path([(x(begin), y(begin * slope)), (x(highest / slope), y(highest))])
        kind = "roof" if label.startswith("DRAM") else "roof second"
        _roof(chart, data, label, format_quantity(slope, "B/s"), line, kind)
    at = x(data.ridge)
    said = tip(f"ridge, {data.ridge:.0f} FLOP/B: below it DRAM's bandwidth is the roof, above it the peak")
    chart.add(
        "path", said, class_="limit", d=f"M{number(at)},{number(y(next(iter(data.peaks.values()))))}V{number(BOTTOM)}"
    )


def _roof(chart: Chart, data: Roofline, label: str, amount: str, line: str, class_: str) -> None:
    note = data.notes.get(label, "")
    chart.add("path", tip(f"{label}, {amount}{': ' if note else ''}{note}"), class_=class_, d=line)


def _roof_names(chart: Chart, data: Roofline, x: Scale, y: Scale) -> None:
    """The lines' names, each where it covers no mark and no other text; the diagonals' are turned as they are."""
    for label, peak in data.peaks.items():
        text, at = f"{label}, {format_quantity(peak, 'FLOP/s')}", y(peak)
        sides = [(RIGHT, at - 4, "end"), (RIGHT, at + 13, "end"), (LEFT + 4, at - 4, "start")]
        chart.text_at(sides, text, "halo")
    at = x(data.ridge)
    chart.text_at(
        [(at + side, BOTTOM - up, anchor) for up in range(6, 120, 14) for side, anchor in ((5, "start"), (-5, "end"))],
        f"ridge {data.ridge:,.0f} FLOP/B",
        "halo",
    )
    per_e = (RIGHT - LEFT) / math.log(x.high / x.low), (BOTTOM - TOP) / math.log(y.high / y.low)
    angle = math.atan2(per_e[1], per_e[0])
    along, across = (math.cos(angle), -math.sin(angle)), (-math.sin(angle), -math.cos(angle))
    for label, slope in data.bandwidths.items():
        begin, end = max(x.low, y.low / slope), max(data.peaks.values()) / slope
        start = x(begin), y(begin * slope)
        offsets = (4.0, -12.0) if label.startswith("L2") else (-12.0, 4.0)
        for text in (f"{label}, {format_quantity(slope, 'B/s')}", label.split()[0]):
            corners = (
                (start[0] + far * along[0] + off * across[0], start[1] + far * along[1] + off * across[1])
                for far in range(4, 320, 6)
                for off in offsets
            )
            found = ((corner, list(_turned(corner, along, text))) for corner in corners)
            free = (
                (corner, boxes) for corner, boxes in found if all(map(chart.free, boxes)) and boxes[-1].right < x(end)
            )
            if place := next(free, None):
                corner, boxes = place
                chart.taken += boxes
                turn = f"rotate({number(-math.degrees(angle))} {number(corner[0])} {number(corner[1])})"
                chart.add("text", escape(text), x=corner[0], y=corner[1], transform=turn, class_="halo")
                break


def _turned(corner: tuple[float, float], along: tuple[float, float], text: str) -> Iterator[Box]:
    """What a text along a line covers: a box for every few letters."""
    for step in range(0, math.ceil(text_width(text)), 8):
        x, y = corner[0] + step * along[0], corner[1] + step * along[1]
        yield Box(x - 6, y - 10, x + 8, y + 2)


def _strip_axis(chart: Chart, data: Roofline, points: Sequence[Point]) -> Scale:
    """The strip's frame, and its scale: from B/s to units."""
    top, bottom = STRIP
    rates = [*data.bandwidths.values(), *(point.bytes_per_s for point in points)]
    scale = Scale(min(rates) / 3, max(rates) * 1.5, LEFT, RIGHT, log=True)
    chart.add("rect", class_="strip", x=LEFT, y=top, width=RIGHT - LEFT, height=bottom - top)
    chart.x_axis(
        scale, bottom, top, [(at, plain(at)) for at in scale.ticks(7)], "bytes read and written per second (B/s)"
    )
    chart.text(4.0, top - 8, "kernels without FLOPs" if points else "kernels without FLOPs: none that takes time")
    for label, rate in data.bandwidths.items():
        class_ = "roof" if label.startswith("DRAM") else "roof second"
        _roof(
            chart, data, label, format_quantity(rate, "B/s"), path([(scale(rate), top), (scale(rate), bottom)]), class_
        )
        chart.text_at([(scale(rate), top - 8, "middle"), (RIGHT, top - 8, "end")], label.split()[0])
    return scale


def _mark(chart: Chart, point: Point, x: float, y: float, phases: list[str]) -> None:
    """A circle for the first phase, a triangle for the second; as large as the share."""
    size = 3 + 14 * math.sqrt(point.share)
    rate = (
        f"{format_quantity(point.flop_per_s, 'FLOP/s')} at {point.intensity:.3g} FLOP/B"
        if point.flop_per_s
        else "no FLOPs"
    )
    said = (
        f"{point.name} ({point.kind}), {point.phase}: {point.share:.1%} of device time,"
        f" {format_quantity(point.device_s, 's')}, {rate}, {format_quantity(point.bytes_per_s, 'B/s')}"
    )
    own = {
        "class_": f"mark k-{point.kind}",
        "data_kernel": point.name,
        "data_phase": point.phase if len(phases) > 1 else "",
    }
    if phases.index(point.phase) == 0:
        chart.add("circle", tip(said), cx=x, cy=y, r=size, **own)
    else:
        corners = [(x, y - 1.2 * size), (x + 1.1 * size, y + 0.8 * size), (x - 1.1 * size, y + 0.8 * size)]
        chart.add("path", tip(said), d=path(corners, closed=True), **own)
    reach = min(size, 7.0)  # a number may stand on a large mark's rim
    chart.taken.append(Box(x - reach, y - reach, x + reach, y + reach))


def _numbered(chart: Chart, text: str, x: float, y: float) -> None:
    """A number beside its mark, with a line to it where it stands apart."""
    for radius in (13, 18, 24, 32, 42, 54):
        for turn in range(12):
            angle = math.radians(-60 + 30 * turn)
            at_x, at_y = x + radius * math.cos(angle), y + radius * math.sin(angle) + 4
            if chart.text_at([(at_x, at_y, "middle")], text, "strong number"):
                end = x + (radius - 6) * math.cos(angle), y + (radius - 6) * math.sin(angle)
                chart.add("path", class_="lead number", d=path([(x, y), end]))
                chart.taken.append(Box(at_x - 11, at_y - 11, at_x + 11, at_y + 3))  # apart from the next number
                return


def listed_name(path: str) -> str:
    """A kernel's name in the list, as long as it may be."""
    return cut_to(short_name(path), WIDTH / 2 - 76)


def _list(chart: Chart, phases: list[str], listed: list[list[Point]], top: float) -> float:
    """The numbers' names: a column per phase, or two of the only one; where the next line would be."""
    first, columns, y = 0, len(phases), top
    for column, (phase, own) in enumerate(zip(phases, listed, strict=True)):
        x = 4.0 + column * WIDTH / 2
        sign = ("\u25cf", "\u25b2")[column]
        chart.text(x, top, f"{sign} {phase}: share of device time", class_="strong")
        half = math.ceil(len(own) / 2) if columns == 1 else len(own)
        for index, point in enumerate(own):
            left, y = x + WIDTH / 2 * (index // half), top + LINE * (1 + index % half)
            chart.text(left + 14, y, str(first + index + 1), "end", "strong")
            chart.text(left + 62, y, f"{point.share:.1%}", "end", data_share=first + index)
            chart.text(left + 70, y, listed_name(point.name), data_kernel=point.name, data_name=first + index)
        y, first = top + LINE * half, first + len(own)
    return top + LINE * (1 + max(math.ceil(len(own) / (2 if columns == 1 else 1)) for own in listed)) + 2
