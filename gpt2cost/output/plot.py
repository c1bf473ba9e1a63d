"""The pictures, drawn with matplotlib (extra `plot`): one function per kind, from plain numbers to a figure."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gpt2cost.output.colours import KIND_COLOURS, LINE_COLOURS
from gpt2cost.output.plot_data import SMALLEST, Breakdown, Curve, Picture, Point, Roofline
from gpt2cost.output.plot_timeline import Timeline, kind_of
from gpt2cost.units import format_quantity, scale_for

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True,
    "grid.color": "#E5E5E5", "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 9,
    "svg.hashsalt": "gpt2cost", "pdf.fonttype": 42, "hatch.linewidth": 0.6,
}  # fmt: skip
NUMBERED = 6
"""Kernels of each phase that the roofline names."""


def draw(data: Picture) -> Figure:
    """The figure of `data`."""
    drawings: dict[type[Picture], Callable[[Any], Figure]] = {
        Roofline: _roofline, Breakdown: _breakdown, Curve: _curve, Timeline: _timeline,
    }  # fmt: skip
    with matplotlib.rc_context(STYLE):
        return drawings[type(data)](data)


def rendered(figure: Figure, format: str) -> bytes:
    """The figure as `png`, `svg` or `pdf`; the same figure gives the same bytes."""
    out = io.BytesIO()
    undated: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format=format, dpi=120, metadata=undated[format])
    return out.getvalue()


def _figure(data: Picture, height: float, left: float = 0.09, right: float = 0.97, **margins: float) -> Figure:
    figure = Figure(figsize=(9.5, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=left, right=right, **margins)
    figure.text(0.02, 1 - 0.15 / height, data.title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.02, 1 - 0.45 / height, data.subtitle, fontsize=9, color="#555555", va="top", linespacing=1.35)
    return figure


def _note(axes: Any, text: str, spot: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """A text beside a spot of the picture, `offset` points from it."""
    axes.annotate(text, spot, xytext=offset, textcoords="offset points", fontsize=8.5, **style)


def _size_axis(axes: Any, sizes: Any) -> None:
    """The swept size: a logarithmic axis where it spans more than a factor of 8."""
    if sizes[0] > 0 and sizes[-1] >= 8 * sizes[0]:
        axes.set_xscale("log", base=2)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


# ---------------------------------------------------------------------------------------------- roofline


def _roofline(data: Roofline) -> Figure:
    figure = _figure(data, 6.4, right=0.64, bottom=0.11, top=0.84)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    shown = [point for point in data.points if point.is_shown and point.intensity]
    x = [point.intensity for point in shown]
    highest = max(data.peaks.values())
    left, right = min(0.05, min(x) / 2), max(2 * highest / min(data.bandwidths.values()), 3 * max(x))
    axes.set_xlim(left, right)
    axes.set_ylim(min(point.flop_per_s for point in shown) / 4, 3 * highest)
    for (label, bandwidth), style in zip(data.bandwidths.items(), (":", "-"), strict=True):
        knee = highest / bandwidth
        axes.plot([left, knee], [left * bandwidth, highest], color="#333333", linestyle=style, linewidth=1.4)
        _along(axes, f"{label}, {format_quantity(bandwidth, 'B/s')}", 1.3 * left, bandwidth, label.startswith("DRAM"))
    for (label, peak), style in zip(data.peaks.items(), ("-", "--"), strict=False):
        axes.plot([left, right], [peak, peak], color="#333333", linestyle=style, linewidth=1.4)
        _note(axes, f"{label}, {format_quantity(peak, 'FLOP/s')}", (left, peak), (5, 4))
    phases = list(dict.fromkeys(point.phase for point in data.points))
    for phase, marker in zip(phases, ("o", "^"), strict=False):
        own = [point for point in shown if point.phase == phase]
        axes.scatter(
            [p.intensity for p in own], [p.flop_per_s for p in own], s=[30 + 500 * p.share for p in own],
            c=[KIND_COLOURS[p.kind] for p in own], marker=marker, edgecolors="#222222", linewidths=0.6, alpha=0.9,
            label=phase, zorder=3,
        )  # fmt: skip
    axes.set_xlabel("arithmetic intensity (FLOP/B)")
    axes.set_ylabel("attained rate (FLOP/s)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=9))
        axis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_quantity(value, "", 1)))
    _numbers(figure, axes, data, phases)
    return figure


def _along(axes: Any, text: str, x: float, slope: float, below: bool) -> None:
    """Text on a diagonal roof, turned as the roof is."""
    (x0, y0), (x1, y1) = axes.transData.transform([(x, x * slope), (10 * x, 10 * x * slope)])
    angle = np.degrees(np.arctan2(y1 - y0, x1 - x0))
    _note(axes, text, (x, x * slope), (2, -12) if below else (-1, 4), rotation=angle, rotation_mode="anchor")


def _numbers(figure: Figure, axes: Any, data: Roofline, phases: list[str]) -> None:
    """Numbers at the kernels that take the most time, their names beside the picture, and what the marks mean."""
    named: list[Point] = []
    lines: list[tuple[str, str]] = []
    for phase in phases:
        own = sorted((p for p in data.points if p.phase == phase and p.intensity), key=lambda point: -point.share)[
            :NUMBERED
        ]
        lines.append((f"{phase}: share of device time", "bold"))
        for point in own:
            named.append(point)
            lines.append((f"{len(named):>2}  {point.share:>5.1%}  {_short(point.name)}", "normal"))
    figure.canvas.draw()
    marks = [axes.transData.transform((point.intensity, point.flop_per_s)) for point in named]
    shown = [(point.intensity, point.flop_per_s) for point in data.points if point.is_shown and point.intensity]
    left = axes.get_xlim()[0]  # where the diagonals' names stand
    roofs = [(left * far, left * far * slope) for slope in data.bandwidths.values() for far in np.geomspace(1, 20, 24)]
    taken = [(float(x), float(y)) for x, y in axes.transData.transform([*shown, *roofs])]
    taken += [(x, y + side) for x, y in taken[len(shown) :] for side in (-16, 16)]  # and their text
    for number, (point, spot) in enumerate(zip(named, marks, strict=True), 1):
        dx, dy = max(_AROUND, key=lambda offset: _room(spot, offset, taken))
        taken.append((spot[0] + dx * _PIXELS, spot[1] + dy * _PIXELS))
        _note(
            axes, str(number), (point.intensity, point.flop_per_s), (dx, dy), fontweight="bold", ha="center",
            va="center", zorder=5, arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.5},
        )  # fmt: skip
    for row, (text, weight) in enumerate(lines):
        figure.text(0.665, 0.82 - 0.030 * row, text, fontsize=8.5, fontweight=weight, va="top", family="monospace")
    kinds = list(dict.fromkeys(point.kind for point in data.points if point.share >= SMALLEST))
    handles: list[Artist] = [Patch(facecolor=KIND_COLOURS[kind], edgecolor="#222222", label=kind) for kind in kinds]
    handles += [
        Line2D([], [], marker=marker, color="none", markeredgecolor="#222222", markersize=8, label=phase)
        for phase, marker in zip(phases, ("o", "^"), strict=False)
    ]
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.655, 0.10), ncols=2)
    note = f"area of a mark: its share of device time;\nkernels below {SMALLEST:.1%} of it are left out"
    figure.text(0.665, 0.09, note, fontsize=8.5, color="#555555", va="top")


_PIXELS = 100 / 72
"""Of a point, at the resolution at which matplotlib lays out."""
_AROUND = [
    (radius * np.cos(angle), radius * np.sin(angle))
    for radius in (15, 20, 26, 32, 38)
    for angle in np.radians(range(-90, 270, 30))
]


def _room(spot: Any, offset: tuple[float, float], taken: list[tuple[float, float]]) -> float:
    """How good a place for a number is: far enough from everything, and near its mark."""
    x, y = spot[0] + offset[0] * _PIXELS, spot[1] + offset[1] * _PIXELS
    nearest = min(np.hypot(x - a, y - b) for a, b in taken)
    return float(min(nearest, 19) - 0.1 * np.hypot(*offset))


def _short(name: str) -> str:
    return name.replace("scaled_dot_product_attention", "sdpa").replace("causal_mask", "mask")[:34]


# ---------------------------------------------------------------------------------------------- breakdown


def _breakdown(data: Breakdown) -> Figure:
    figure = _figure(data, 6.6, right=0.79, hspace=0.16, bottom=0.10, top=0.85)
    upper, lower = figure.subplots(2, 1, sharex=True)
    whole = sum(data.kinds.values()) + data.waiting
    divisor, unit = scale_for(whole.tolist(), "s")
    layers = {**data.kinds, WAITING: data.waiting}
    _stacked(upper, data, {name: seconds / divisor for name, seconds in layers.items()})
    _stacked(lower, data, {name: 100 * seconds / whole for name, seconds in layers.items()})
    upper.set_ylabel(f"time of the pass ({unit})")
    lower.set_ylabel("share of the pass (%)")
    upper.set_ylim(0, 1.03 * float(np.max(whole)) / divisor)
    lower.set_ylim(0, 100)
    lower.set_xlabel(data.axis_text)
    handles = [Patch(label=name, **_fill_of(name)) for name in reversed(layers)]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.80, 0.86), title="kernel kind", alignment="left")
    return figure


WAITING = "waiting for host\nand launches"
BARS = 24
"""Up to this many sizes are bars, more are areas."""


def _fill_of(name: str) -> dict[str, Any]:
    if name == WAITING:
        return {"facecolor": "white", "edgecolor": "#999999", "hatch": "////", "linewidth": 0.4}
    return {"facecolor": KIND_COLOURS[name], "edgecolor": "white", "linewidth": 0.4}


def _stacked(axes: Any, data: Breakdown, layers: dict[str, Any]) -> None:
    bottom, bars = np.zeros(len(data.sizes)), len(data.sizes) <= BARS
    spots = np.arange(len(data.sizes)) if bars else data.sizes
    for name, heights in layers.items():
        if bars:
            axes.bar(spots, heights, 0.8, bottom, label=name, **_fill_of(name))
        else:
            axes.fill_between(spots, bottom, bottom + heights, label=name, **_fill_of(name))
        bottom = bottom + heights
    if bars:
        axes.set_xticks(spots, [f"{size:,.0f}" for size in data.sizes], rotation=0 if len(spots) <= 12 else 45)
        axes.grid(axis="x", visible=False)
    else:
        _size_axis(axes, data.sizes)
        axes.set_xlim(data.sizes[0], data.sizes[-1])


# ---------------------------------------------------------------------------------------------- curve


def _curve(data: Curve) -> Figure:
    figure = _figure(data, 5.4, right=0.77, bottom=0.12, top=0.81)
    axes = figure.add_subplot()
    divisor, unit, quantity = 1.0, "tokens/s", "throughput of the batch"
    if data.quantity == "latency":
        divisor, unit = scale_for([float(np.median(line.values)) for line in data.lines], "s")
        quantity = "latency of the pass"
    axes.set_ylabel(f"{quantity} ({unit})")
    marked = len(data.sizes) <= 24
    for number, line in enumerate(data.lines):
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        axes.fill_between(data.sizes, line.low / divisor, line.high / divisor, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            data.sizes, line.values / divisor, color=colour, linewidth=1.8, label=line.label, markersize=4.5,
            marker=MARKERS[number % len(MARKERS)] if marked else "",
        )  # fmt: skip
    axes.set_xlabel(data.axis_text)
    _size_axis(axes, data.sizes)
    lowest, highest = min(line.low.min() for line in data.lines), max(line.high.max() for line in data.lines)
    if highest > 8 * lowest:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    if data.limit is not None:
        axes.axvline(data.limit, color="#777777", linestyle="--", linewidth=1)
        _note(
            axes, "beyond n_positions", (data.limit, 1), (3, -3), xycoords=("data", "axes fraction"), color="#555555",
            va="top", rotation=90,
        )  # fmt: skip
    figure.legend(*axes.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.78, 0.82), title="device",
                  alignment="left")  # fmt: skip
    return figure


# ---------------------------------------------------------------------------------------------- timeline


def _timeline(data: Timeline) -> Figure:
    figure = _figure(data, 6.2, left=0.08, bottom=0.18, hspace=0.6, top=0.80)
    whole, close = figure.subplots(2, 1, height_ratios=(1, 1.9))
    divisor = _tracks(whole, data, (0.0, data.latency_s))
    whole.set_title("the whole pass; shaded: the layer below", loc="left", fontsize=10)
    whole.axvspan(data.windows["device"][0] / divisor, data.windows["device"][1] / divisor, color="#000000", alpha=0.12)
    whole.set_ylim(-0.5, 1.5)
    divisor = _tracks(close, data, data.windows["device"])
    close.set_title(f"one layer: transformer.{data.layer}", loc="left", fontsize=10)
    close.set_ylim(-2.1, 1.5)
    width = data.windows["device"][1] - data.windows["device"][0]
    for piece in data.slices:
        inside = piece.track == "device" and f"{piece.module}.".startswith(f"transformer.{data.layer}.")
        if inside and piece.end_s - piece.start_s >= NARROWEST * width:
            name = _short(piece.name.removeprefix(f"transformer.{data.layer}."))
            middle = (piece.start_s + piece.end_s) / 2 / divisor
            close.text(middle, -0.40, name, rotation=90, fontsize=8, ha="center", va="top")
    kinds = [kind for kind in KIND_COLOURS if any(kind_of(piece) == kind for piece in data.slices)]
    names = {"host": "no kernel: view, call, wait"}
    handles = [Patch(facecolor=KIND_COLOURS[kind], label=names.get(kind, kind)) for kind in kinds]
    figure.legend(handles=handles, loc="lower center", ncols=5, bbox_to_anchor=(0.5, 0.0))
    return figure


NARROWEST = 0.011
"""Share of the picture's width below which a kernel has no name: the names would overlap."""


def _tracks(axes: Any, data: Timeline, span: tuple[float, float]) -> float:
    """Host and device from `span[0]` to `span[1]`; how many seconds a unit of the axis has."""
    low, high = span
    divisor, unit = scale_for([high - low], "s")
    edges = {"edgecolor": "#444444", "linewidth": 0.4} if low > 0 else {"edgecolor": "none"}
    for number, track in enumerate(("device", "host")):
        own = [p for p in data.slices if p.track == track and p.end_s >= low and p.start_s <= high]
        axes.broken_barh(
            [(p.start_s / divisor, (p.end_s - p.start_s) / divisor) for p in own], (number - 0.32, 0.64),
            facecolors=[KIND_COLOURS[kind_of(p)] for p in own], **edges,
        )  # fmt: skip
    axes.set_xlim(low / divisor, high / divisor)
    axes.set_yticks([0, 1], ["device", "host"])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"time since the start of the pass ({unit})")
    return divisor
