"""The roofline, drawn: kernels below the device's roofs, and beside them those that compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from gpt2cost.output.colours import KIND_COLOURS
from gpt2cost.output.pictures.canvas import MARKERS, SMALL, Room, new_figure, note, short, square
from gpt2cost.output.pictures.plot_data import SMALLEST, Point, Roofline
from gpt2cost.units import format_quantity

NUMBERED = 6
"""Kernels of each phase that the picture numbers."""
LINE = "#333333"


def draw_roofline(data: Roofline) -> Figure:
    figure = new_figure(data, 6.6)
    shown = [point for point in data.points if point.is_shown]
    computing, moving = ([p for p in shown if bool(p.intensity) == computes] for computes in (True, False))
    axes = figure.add_axes((0.275 if moving else 0.08, 0.11, 0.365 if moving else 0.56, 0.73))
    _roofs(axes, data, computing)
    spots = {(p.phase, p.name): (p.intensity, p.flop_per_s) for p in computing}
    room = Room(axes.bbox, [*_marks(axes, list(spots.values()), computing), *_lines(axes)])
    places = dict.fromkeys(spots, (axes, room))
    if moving:
        strip = figure.add_axes((0.085, 0.11, 0.10, 0.73))
        columns = _strip(strip, data, moving)
        beside = Room(strip.bbox, [*_marks(strip, list(columns.values()), moving), *_lines(strip)])
        spots |= columns
        places |= dict.fromkeys(columns, (strip, beside))
    _name_roofs(axes, data, room)
    phases = list(dict.fromkeys(point.phase for point in data.points))
    named = _ranked(figure, data, phases)
    for number, point in enumerate(named, 1):
        if point.is_shown:
            key = (point.phase, point.name)
            _number(*places[key], spots[key], str(number))
    _legend(figure, shown, phases, data)
    return figure


# ---------------------------------------------------------------------------------------------- axes and roofs


def _roofs(axes: Any, data: Roofline, computing: Sequence[Point]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    x, rates = [p.intensity for p in computing], [p.flop_per_s for p in computing]
    highest = max(data.peaks.values())
    left, right = min(0.05, min(x, default=1) / 2), max(4 * data.ridge, 3 * max(x, default=1))
    axes.set_xlim(left, right)
    axes.set_ylim(min([*rates, highest / 1e3]) / 4, 4 * highest)
    for bandwidth, style in zip(data.bandwidths.values(), (":", "-"), strict=True):
        knee = highest / bandwidth
        axes.plot([left, knee], [left * bandwidth, highest], color=LINE, linestyle=style, linewidth=1.4)
    for peak, style in zip(data.peaks.values(), ("-", "--"), strict=False):
        axes.plot([left, right], [peak, peak], color=LINE, linestyle=style, linewidth=1.4)
    axes.vlines(data.ridge, 0, highest, color="#777777", linestyle=(0, (2, 2)), linewidth=1)
    axes.set_xlabel("arithmetic intensity (FLOP/B)")
    axes.set_ylabel("attained rate (FLOP/s)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=9))
        axis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_quantity(value, "", 1)))


def _strip(axes: Any, data: Roofline, moving: Sequence[Point]) -> dict[tuple[str, str], tuple[float, float]]:
    """The axes of kernels without FLOPs, a column per kind, and where each kernel stands there."""
    kinds = list(dict.fromkeys(point.kind for point in moving))
    rates = [point.bytes_per_s for point in moving]
    axes.set_yscale("log")
    axes.set_ylim(min([*rates, min(data.bandwidths.values()) / 10]) / 3, 4 * max([*rates, *data.bandwidths.values()]))
    axes.set_xlim(-0.6, len(kinds) - 0.4)
    axes.set_xticks(range(len(kinds)), kinds, rotation=45 if len(kinds) > 1 else 0, fontsize=SMALL)
    axes.grid(axis="x", visible=False)
    for bandwidth, style in zip(data.bandwidths.values(), (":", "-"), strict=True):
        axes.plot([-0.6, len(kinds) - 0.4], [bandwidth] * 2, color=LINE, linestyle=style, linewidth=1.4)
    axes.set_ylabel("attained rate (B/s)")
    axes.yaxis.set_major_locator(LogLocator(numticks=9))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_quantity(value, "", 1)))
    axes.set_title("no FLOPs", fontsize=SMALL)
    return {(point.phase, point.name): (float(kinds.index(point.kind)), point.bytes_per_s) for point in moving}


def _marks(axes: Any, spots: Sequence[tuple[float, float]], points: Sequence[Point]) -> list[Bbox]:
    """Draws a mark for each kernel, and returns the pixels that they take."""
    for phase in dict.fromkeys(point.phase for point in points):
        own = [(spot, p) for spot, p in zip(spots, points, strict=True) if p.phase == phase]
        axes.scatter(
            [x for (x, _), _ in own], [y for (_, y), _ in own], s=[_area(p) for _, p in own],
            c=[KIND_COLOURS[p.kind] for _, p in own], marker=MARKERS[phase], edgecolors="#222222", linewidths=0.6,
            alpha=0.9, zorder=3,
        )  # fmt: skip
    pixels = axes.figure.dpi / 72
    return [
        square(axes.transData.transform(spot), np.sqrt(_area(point)) * pixels)
        for spot, point in zip(spots, points, strict=True)
    ]


def _lines(axes: Any) -> list[Bbox]:
    """The pixels of the roofs."""
    boxes = []
    ridges = [collection.get_segments()[0] for collection in axes.collections if isinstance(collection, LineCollection)]
    for path in [
        *(np.column_stack(line.get_data()) for line in axes.get_lines() if len(line.get_xdata()) > 1),
        *ridges,
    ]:
        start, end = axes.transData.transform(np.maximum(path, [axes.get_xlim()[0], axes.get_ylim()[0]]))[[0, -1]]
        count = int(np.hypot(*(end - start)) / 3) + 1
        boxes += [square(spot, 2) for spot in np.linspace(start, end, count)]
    return boxes


def _area(point: Point) -> float:
    """Square points."""
    return 30 + 500 * point.share


# ---------------------------------------------------------------------------------------------- texts


def _name_roofs(axes: Any, data: Roofline, room: Room) -> None:
    """The lines' names, each where no mark is."""
    figure = axes.figure
    figure.canvas.draw()
    left = axes.get_xlim()[0]
    for name, peak in data.peaks.items():
        text = note(axes, f"{name}, {format_quantity(peak, 'FLOP/s')}", (left, peak), (5, 4))
        room.settle(text, [(x, y) for y in (4, -12) for x in range(5, 300, 8)])
    text = note(axes, f"ridge point\n{data.ridge:,.0f} FLOP/B", (data.ridge, axes.get_ylim()[0]), (4, 6))
    aside = -4 - text.get_window_extent().width * 72 / figure.dpi
    room.settle(text, [(x, y) for y in range(6, 200, 12) for x in (4, aside)])
    highest = max(data.peaks.values())
    for name, slope in data.bandwidths.items():
        _along(axes, f"{name.removesuffix(' bandwidth')}, {format_quantity(slope, 'B/s')}", slope, highest, room)


def _along(axes: Any, name: str, slope: float, highest: float, room: Room) -> None:
    """The name of a diagonal roof, turned as the roof is, on either side of it."""
    left = axes.get_xlim()[0]
    start, end = axes.transData.transform([(left, left * slope), (highest / slope, highest)]) * 72 / axes.figure.dpi
    angle = np.arctan2(*(end - start)[::-1])
    normal = np.array([-np.sin(angle), np.cos(angle)])
    text = note(
        axes, name, (left, left * slope), (0, 0), rotation=float(np.degrees(angle)), rotation_mode="anchor",
        ha="center", va="center",
    )  # fmt: skip
    sides = (8, -8) if name.startswith("L2") else (-8, 8)
    places = [far * (end - start) + side * normal for far in np.linspace(0.2, 0.85, 27) for side in sides]
    room.settle(text, [(float(x), float(y)) for x, y in places])


AROUND = [
    (radius * np.cos(angle), radius * np.sin(angle))
    for radius in (13, 17, 22, 28, 35, 43, 52, 62)
    for angle in np.radians(range(-90, 270, 20))
]
"""Where a number may stand beside its mark, in points."""


def _number(axes: Any, room: Room, spot: tuple[float, float], number: str) -> None:
    axes.plot(*spot, marker=".", color="#000000", markersize=2.5, zorder=5)
    text = note(
        axes, number, spot, AROUND[0], fontweight="bold", ha="center", va="center", zorder=5,
        arrowprops={"arrowstyle": "-", "color": "#000000", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0},
    )  # fmt: skip
    room.settle(text, AROUND)


def _ranked(figure: Figure, data: Roofline, phases: Sequence[str]) -> list[Point]:
    """The kernels that take the most time of each phase, listed beside the picture; their order gives the numbers."""
    named: list[Point] = []
    lines: list[tuple[str, str]] = []
    for phase in phases:
        own = sorted((p for p in data.points if p.phase == phase), key=lambda point: -point.share)
        lines.append((f"{phase}: share of device time", "bold"))
        for point in own[:NUMBERED]:
            named.append(point)
            lines.append((f"{len(named):>2} {point.share:>6.1%} {short(point.name)}", "normal"))
        if rest := own[NUMBERED:]:
            lines.append((f"   {sum(p.share for p in rest):>6.1%} {len(rest)} other kernels", "normal"))
    for row, (text, weight) in enumerate(lines):
        figure.text(0.665, 0.835 - 0.029 * row, text, fontsize=SMALL, fontweight=weight, va="top", family="monospace")
    return named


def _legend(figure: Figure, shown: Sequence[Point], phases: Sequence[str], data: Roofline) -> None:
    kinds = [kind for kind in KIND_COLOURS if any(point.kind == kind for point in shown)]
    handles: list[Artist] = [Patch(facecolor=KIND_COLOURS[kind], edgecolor="#222222", label=kind) for kind in kinds]
    handles += [
        Line2D([], [], marker=MARKERS[phase], color="none", markeredgecolor="#222222", markersize=8, label=phase)
        for phase in phases
    ]
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.655, 0.18), ncols=2)
    meanings = "\n".join(f"{name}: {meaning}" for name, meaning in data.notes.items())
    text = f"{meanings}\narea of a mark: share of device time;\nkernels below {SMALLEST:.1%} of a phase have none"
    figure.text(0.665, 0.175, text, fontsize=SMALL, color="#555555", va="top", linespacing=1.3)
