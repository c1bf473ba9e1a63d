"""Memory over a pass, over generated tokens or over a training step, and a generation's time per token, drawn."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gpt2cost.output.apart import spread
from gpt2cost.output.colours import LINE_COLOURS
from gpt2cost.output.pictures.canvas import SMALL, labels_below, new_figure, note, short
from gpt2cost.output.pictures.draw_sweeps import draw_line, line_legend, value_axis
from gpt2cost.output.pictures.plot_memory import OTHERS, Memory, Stack
from gpt2cost.output.pictures.plot_runs import Generated
from gpt2cost.units import format_quantity, scale_for

PART_COLOURS = {
    "weights": "#0072B2", "parameters": "#0072B2", "optimizer": "#56B4E9", "bucket": "#999999", "gradients": "#CC79A7",
    "casts": "#F0E442", "KV cache": "#E69F00", "activations": "#009E73", "logits": "#D55E00", OTHERS: "#D9D9D9",
}  # fmt: skip
PART_TEXTS = {
    "optimizer": "optimizer: moments", "bucket": "buckets of DDP", "casts": "weights in 16 bit",
    "logits": "logits, loss",
}  # fmt: skip
MANY = 300
"""Steps from which on their borders would hide them."""


def draw_memory(data: Memory) -> Figure:
    figure = new_figure(data, 7.4 if data.close else 5.4, left=0.085)
    height = figure.get_figheight()
    whole = figure.add_axes(
        (0.085, 1 - 3.3 / height if data.close else 0.15, 0.70, 2.2 / height if data.close else 0.66)
    )
    divisor = _stack(whole, data.whole, PART_COLOURS, data.peak_bytes * 1.22)
    whole.set_xlabel(data.whole.axis_text, labelpad=18 if data.whole.names else 4)
    _peak(whole, data, divisor)
    _sections(whole, data.whole)
    device = f"the device can give {format_quantity(data.capacity_bytes, 'B')}"
    if data.capacity_bytes < 1.22 * data.peak_bytes:
        device = f"dashed: {device}"
        whole.axhline(data.capacity_bytes / divisor, color="#D55E00", linestyle="--", linewidth=1.2)
    at_peak = {PART_TEXTS.get(name, name): float(sizes[data.peak]) for name, sizes in data.whole.parts.items()}
    colours = [PART_COLOURS[name] for name in data.whole.parts]
    _legend(figure, "at the peak", at_peak, colours, whole.get_position().y1, device)
    if data.close is not None:
        names = [name for name in data.close.parts if name != OTHERS]
        by_tensor = {**{name: LINE_COLOURS[i % len(LINE_COLOURS)] for i, name in enumerate(names)}, OTHERS: "#D9D9D9"}
        close = figure.add_axes((0.085, 1.35 / height, 0.70, 1.75 / height))
        _stack(close, data.close, by_tensor, float(np.max(data.close.total)) * 1.06)
        close.set_xticks([])
        close.set_title(data.close.title, loc="left", fontsize=10)
        spots = [(x + 0.5, short(name)) for x, name in zip(data.close.positions, data.close.names, strict=True)]
        labels_below(close, [(x, name.removeprefix("h.")) for x, name in spots], close.get_ylim()[0])
        largest = {name: float(np.max(sizes)) for name, sizes in data.close.parts.items()}
        _legend(figure, "largest size", largest, list(by_tensor.values()), close.get_position().y1, "")
    return figure


def _stack(axes: Any, data: Stack, colours: dict[str, str], highest: float) -> float:
    """The parts as steps, each as wide as its position; the bytes of the axis' unit."""
    divisor, unit = scale_for([highest], "B")
    edges = np.append(data.positions, data.end)
    bottom = np.zeros(len(data.positions))
    for name, sizes in data.parts.items():
        top = bottom + sizes / divisor
        axes.fill_between(
            edges, np.append(bottom, bottom[-1]), np.append(top, top[-1]), step="post", facecolor=colours[name],
            edgecolor="white", linewidth=0.3 if len(edges) < MANY else 0,
        )  # fmt: skip
        bottom = top
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(min(0.0, float(np.min(bottom))), highest / divisor)
    axes.set_ylabel(f"live bytes ({unit})")
    axes.grid(axis="x", visible=False)
    return divisor


def _peak(axes: Any, data: Memory, divisor: float) -> None:
    """What stands at the peak, and what would lower it, above it on the side where there is room."""
    edges = np.append(data.whole.positions, data.whole.end)
    x, y = (edges[data.peak] + edges[data.peak + 1]) / 2, data.peak_bytes / divisor
    text = f"peak {format_quantity(data.peak_bytes, 'B')} at {short(data.peak_text.partition(':')[0])}"
    rest = data.peak_text.partition(":")[2]
    text += f":{rest}" * bool(rest) + f"\n{data.advice}" * bool(data.advice)
    is_right = x > (edges[0] + edges[-1]) / 2
    axes.plot([x], [y], marker="v", color="#000000", markersize=6, clip_on=False, zorder=5)
    note(
        axes, text, (x, y), (-9 if is_right else 9, 3), ha="right" if is_right else "left", va="bottom", zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _sections(axes: Any, data: Stack) -> None:
    """The sections' names below the axis, as many as have room, and their borders."""
    if not data.names:
        return
    axes.set_xticks([])
    axes.figure.canvas.draw()
    pixels = axes.figure.dpi / 72
    edges = np.append(data.positions, data.end)
    spans = [(edges[section.first], edges[section.last + 1], section.label) for section in data.sections]
    at = [[axes.transData.transform((x, 0))[0] for x in (start, end)] for start, end, _ in spans]
    widths = [0.6 * SMALL * pixels * len(label) + 5 for *_, label in spans]
    always = [label for *_, label in spans if not label.startswith("h.") and label != "ln_f"]
    shown = [i for i, (a, b) in enumerate(at) if b - a >= widths[i] or spans[i][2] in always]
    middles = [sum(at[i]) / 2 for i in shown]
    places = spread(middles, [widths[i] for i in shown], axes.bbox.x0, axes.bbox.x1 + 30)
    for start, *_ in spans[1:]:
        axes.axvline(start, color="#CCCCCC", linewidth=0.6, zorder=0)
    for i, middle, place in zip(shown, middles, places, strict=True):
        x = (spans[i][0] + spans[i][1]) / 2
        note(
            axes, spans[i][2], (x, axes.get_ylim()[0]), ((place - middle) / pixels, -6), ha="center", va="top",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def _legend(figure: Figure, title: str, sizes: dict[str, float], colours: list[str], top: float, more: str) -> None:
    """The parts with a size of each, from the top of the stack down."""
    handles = [
        Patch(facecolor=colour, label=f"{name}\n{format_quantity(size, 'B')}")
        for (name, size), colour in reversed(list(zip(sizes.items(), colours, strict=True)))
    ]
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.795, top + 0.015), title=title, alignment="left",
        fontsize=SMALL, labelspacing=0.35,
    )  # fmt: skip
    if more:
        figure.canvas.draw()
        bottom = legend.get_window_extent().y0 / figure.bbox.height
        figure.text(0.805, bottom - 0.005, more.replace("give ", "give\n"), fontsize=SMALL, color="#555555", va="top")


# ---------------------------------------------------------------------------------------------- a generation


def draw_generated(data: Generated) -> Figure:
    figure = new_figure(data, 6.2, right=0.74, hspace=0.14, bottom=0.10, top=0.85)
    upper, lower = figure.subplots(2, 1, sharex=True)
    divisor, unit = scale_for([float(np.median(line.values)) for line in data.lines], "s")
    for number, line in enumerate(data.lines):
        draw_line(upper, data.sizes, line, divisor, number)
    upper.set_ylabel(f"time per token ({unit})")
    value_axis(upper, data.lines)
    whole = [np.cumsum(line.values) for line in data.lines]
    divisor, unit = scale_for([float(total[-1]) for total in whole], "s")
    for number, total in enumerate(whole):
        lower.plot(data.sizes, total / divisor, color=LINE_COLOURS[number], linewidth=1.8)
    lower.set_ylabel(f"time until the token ({unit})")
    lower.set_ylim(0, None)
    _ends(lower, data.sizes[-1], [float(total[-1]) for total in whole], divisor)
    lower.set_xlabel(data.axis_text)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    line_legend(figure, data.lines, (0.75, 0.86), "generation")
    if data.missing:
        figure.text(0.76, 0.3, fill(f"not shown: {data.missing}", 30), fontsize=SMALL, color="#555555", va="top")
    return figure


def _ends(axes: Any, x: float, seconds: list[float], divisor: float) -> None:
    """The last value of each line, beside it, and apart from the others."""
    axes.figure.canvas.draw()
    order = sorted(range(len(seconds)), key=lambda number: seconds[number])
    heights = [float(axes.transData.transform((x, seconds[number] / divisor))[1]) for number in order]
    pixels = axes.figure.dpi / 72
    places = spread(heights, [1.5 * SMALL * pixels] * len(order), axes.bbox.y0, axes.bbox.y1)
    for number, height, place in zip(order, heights, places, strict=True):
        note(
            axes, format_quantity(seconds[number], "s"), (x, seconds[number] / divisor), (5, (place - height) / pixels),
            va="center", annotation_clip=False, color=LINE_COLOURS[number],
        )  # fmt: skip
