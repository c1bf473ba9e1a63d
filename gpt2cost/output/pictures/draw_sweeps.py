"""Pictures over a size, drawn: time by kernel kind, curves of several devices, a training step's parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gpt2cost.output.colours import KIND_COLOURS, LINE_COLOURS
from gpt2cost.output.pictures.canvas import BARS, SMALL, new_figure, size_axis, stacked
from gpt2cost.output.pictures.plot_data import KIND_TEXTS, Breakdown, Curve, Line
from gpt2cost.output.pictures.plot_runs import HOST_ALONE, StepSplit
from gpt2cost.prediction.compare import WAITING
from gpt2cost.units import format_quantity, scale_for

MARKS = ("o", "s", "^", "D", "v", "P", "X")
PART_COLOURS = {
    "forward": "#0072B2", "backward": "#56B4E9", "communication": "#D55E00", "gradient clipping": "#F0E442",
    "optimizer": "#009E73",
}  # fmt: skip
WIDELY = 8
"""Where the largest of several times is so many times the smallest, bars show them per token."""
HOST_BOUND = "hollow: host-bound,\nthe host takes longer to\nissue the pass than the\ndevice to run it"


HATCHES = {"reduction": "....", "copy": "\\\\\\", "gather": "xxxx", "optimizer": "....", "communication": "\\\\\\"}
"""Of kinds and parts whose colours are alike in grey."""


def _fill_of(name: str, colour: str) -> dict[str, Any]:
    if not colour:
        return {"facecolor": "white", "edgecolor": "#999999", "hatch": "////", "linewidth": 0.4}
    return {"facecolor": colour, "edgecolor": "white", "hatch": HATCHES.get(name), "linewidth": 0.4}


# ---------------------------------------------------------------------------------------------- breakdown


def draw_breakdown(data: Breakdown) -> Figure:
    layers = {**data.kinds, WAITING: data.waiting}
    fills = {name: _fill_of(name, KIND_COLOURS.get(name, "")) for name in layers}
    figure = new_figure(data, 6.6, right=0.74, hspace=0.2, bottom=0.10, top=0.85)
    upper, lower = figure.subplots(2, 1, sharex=True)
    whole = sum(data.kinds.values()) + data.waiting
    _times(upper, data, whole, layers, fills, "the pass", "new token")
    stacked(lower, data.sizes, {name: (100 * own / whole, fills[name]) for name, own in layers.items()})
    lower.set_ylabel("share of the pass (%)")
    lower.set_ylim(0, 100)
    lower.set_xlabel(data.axis_text)
    handles = [Patch(label=f"{name}\n{KIND_TEXTS[name]}", **fills[name]) for name in reversed(layers)]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.745, 0.87), title="kernel kind", alignment="left",
        labelspacing=0.8,
    )  # fmt: skip
    return figure


def _times(
    axes: Any, data: Any, whole: Any, layers: dict[str, Any], fills: dict[str, Any], what: str, token: str
) -> None:
    """Stacked times, per token where they differ much, so that small sizes are seen too; on top the whole time."""
    per_token = bool(np.max(whole) > WIDELY * np.min(whole))
    by = data.tokens if per_token else np.ones(len(whole))
    divisor, unit = scale_for((whole / by).tolist(), "s")
    spots = stacked(axes, data.sizes, {name: (own / by / divisor, fills[name]) for name, own in layers.items()})
    axes.set_ylabel(f"time per {token} ({unit})" if per_token else f"time of {what} ({unit})")
    highest = float(np.max(whole / by)) / divisor
    axes.set_ylim(0, 1.12 * highest)
    if len(data.sizes) <= BARS:
        long = len(data.sizes) > 8
        for spot, seconds, height in zip(spots, whole.tolist(), (whole / by / divisor).tolist(), strict=True):
            axes.text(
                spot, height + 0.015 * highest, format_quantity(seconds, "s", 2 if long else 3), ha="center",
                va="bottom", fontsize=7 if long else SMALL, rotation=90 if len(data.sizes) > 12 else 0,
            )  # fmt: skip
        if len(data.sizes) > 12:
            axes.set_ylim(0, 1.3 * highest)
        axes.set_title(f"above the bars: time of {what}" * per_token, loc="right", fontsize=SMALL, color="#555555")


# ---------------------------------------------------------------------------------------------- curve


def draw_curve(data: Curve) -> Figure:
    figure = new_figure(data, 5.4, right=0.74, bottom=0.12, top=0.79)
    axes = figure.add_subplot()
    divisor, unit, quantity = 1.0, "tokens/s", "throughput of the batch"
    if data.quantity == "latency":
        divisor, unit = scale_for([float(np.median(line.values)) for line in data.lines], "s")
        quantity = "latency of the pass"
    axes.set_ylabel(f"{quantity} ({unit})")
    for number, line in enumerate(data.lines):
        draw_line(axes, data.sizes, line, divisor, number)
    axes.set_xlabel(data.axis_text)
    size_axis(axes, data.sizes)
    value_axis(axes, data.lines)
    if data.limit is not None:
        axes.axvline(data.limit, color="#777777", linestyle="--", linewidth=1)
        low, high = axes.get_xlim()
        is_right = axes.transData.transform((data.limit, 1))[0] > (axes.bbox.x0 + axes.bbox.x1) / 2
        axes.text(
            data.limit, 1.01, "beyond n_positions \u2192" if not is_right else "from here on beyond n_positions",
            transform=axes.get_xaxis_transform(), fontsize=SMALL, color="#555555", ha="right" if is_right else "left",
        )  # fmt: skip
        axes.set_xlim(low, high)
    line_legend(figure, data.lines, (0.75, 0.80), "device")
    return figure


def draw_line(axes: Any, sizes: Any, line: Line, divisor: float, number: int) -> None:
    """One line with its range; hollow marks, or a broken line, where the host sets the pace."""
    colour, marked = LINE_COLOURS[number % len(LINE_COLOURS)], len(sizes) <= BARS
    values = line.values / divisor
    axes.fill_between(sizes, line.low / divisor, line.high / divisor, color=colour, alpha=0.15, linewidth=0)
    mark = MARKS[number % len(MARKS)] if marked else ""
    axes.plot(sizes, values, color=colour, linewidth=1.8, label=line.label, markersize=5, marker=mark)
    if marked:
        axes.scatter(
            sizes[line.host_bound], values[line.host_bound], s=25, marker=mark, facecolors="white", edgecolors=colour,
            linewidths=1.3, zorder=3,
        )  # fmt: skip
    else:
        axes.plot(sizes, np.where(line.host_bound, values, np.nan), color="white", linewidth=0.8, linestyle=(0, (4, 3)))


def value_axis(axes: Any, lines: Any) -> None:
    """A logarithmic axis where the values differ much."""
    lowest, highest = min(line.low.min() for line in lines), max(line.high.max() for line in lines)
    if highest > WIDELY * lowest:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))


def line_legend(figure: Figure, lines: Any, corner: tuple[float, float], title: str) -> None:
    """The lines by name, and what hollow marks mean where there are some."""
    axes = figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    if any(np.any(line.host_bound) for line in lines):
        marked = len(lines[0].values) <= BARS
        style: dict[str, Any] = (
            {"marker": "o", "markerfacecolor": "white", "linestyle": "none"} if marked else {"linestyle": "--"}
        )
        handle: Artist = Line2D([], [], color="#555555", **style)
        handles.append(handle)
        labels.append(HOST_BOUND if marked else HOST_BOUND.replace("hollow", "broken"))
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=corner, title=title, alignment="left", labelspacing=0.7
    )


# ---------------------------------------------------------------------------------------------- a training step


def draw_split(data: StepSplit) -> Figure:
    figure = new_figure(data, 6.6, right=0.77, hspace=0.2, bottom=0.10, top=0.85)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    fills = {name: _fill_of(name, PART_COLOURS.get(name, "")) for name in data.parts}
    whole = sum(data.parts.values())
    _times(upper, data, whole, data.parts, fills, "the step", "token")
    bars = len(data.sizes) <= BARS
    spots = np.arange(len(data.sizes)) if bars else data.sizes
    percent = 100 * data.efficiency
    lower.plot(spots, percent, color="#333333", linewidth=1.8, marker="o" if bars else "", markersize=5)
    lower.set_ylabel(f"{data.efficiency_text} (%)")
    lower.set_title(data.efficiency_note, loc="right", fontsize=SMALL, color="#555555")
    lower.set_ylim(0, 1.25 * max(float(np.max(percent)), 1e-9))
    if bars:
        for spot, share in zip(spots, percent.tolist(), strict=True):
            lower.annotate(
                f"{share:.1f}", (spot, share), xytext=(0, 7), textcoords="offset points", fontsize=SMALL, ha="center"
            )
    for spot, fits in zip(spots, data.fits.tolist(), strict=True):
        if not fits and bars:
            upper.axvspan(spot - 0.45, spot + 0.45, color="#D55E00", alpha=0.13, zorder=0)
    lower.set_xlabel(data.axis_text)
    texts = {"communication": "communication,\nnot hidden", HOST_ALONE: "host, before and\nafter the kernels"}
    handles = [Patch(label=texts.get(name, name), **fills[name]) for name in reversed(data.parts)]
    if not np.all(data.fits):
        handles.append(Patch(facecolor="#D55E00", alpha=0.13, label="does not fit the memory"))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.775, 0.87), title="part of the step", alignment="left"
    )
    return figure
