"""What all pictures share: the figure with its title, axes of sizes and times, and places for texts that keep apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from gpt2cost.output.apart import spread
from gpt2cost.output.pictures.plot_data import Picture
from gpt2cost.output.shared import short_name

STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True,
    "grid.color": "#E5E5E5", "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 9,
    "svg.hashsalt": "gpt2cost", "pdf.fonttype": 42, "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a model's name may have dollar signs
}  # fmt: skip
SMALL = 8.5
"""Points of the texts inside a picture."""
MARKERS = {"prefill": "o", "decode": "^"}
"""A phase's mark, whatever is drawn beside it."""
BARS = 24
"""Up to this many sizes are bars, or have marks; more are areas, or plain lines."""


def new_figure(data: Picture, height: float, left: float = 0.09, right: float = 0.97, **margins: float) -> Figure:
    """A figure with the picture's title, `height` inches high."""
    figure = Figure(figsize=(9.5, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=left, right=right, **margins)
    figure.text(0.02, 1 - 0.15 / height, data.title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.02, 1 - 0.45 / height, data.subtitle, fontsize=9, color="#555555", va="top", linespacing=1.35)
    return figure


def note(axes: Any, text: str, spot: tuple[float, float], offset: tuple[float, float], **style: Any) -> Text:
    """A text beside a spot of the picture, `offset` points from it."""
    own = {"textcoords": "offset points", "fontsize": SMALL, **style}
    written: Text = axes.annotate(text, spot, xytext=offset, **own)
    return written


def size_axis(axes: Any, sizes: Any) -> None:
    """The swept size: a logarithmic axis where it spans more than a factor of 8, in steps that are not alike."""
    steps = np.diff(sizes)
    if sizes[0] > 0 and sizes[-1] >= 8 * sizes[0] and np.max(steps) > 1.5 * np.min(steps):
        axes.set_xscale("log", base=2)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def short(name: str) -> str:
    """A kernel's name where room is scarce."""
    return short_name(name)[:34]


def stacked(axes: Any, sizes: Any, layers: dict[str, tuple[Any, dict[str, Any]]]) -> Any:
    """Layers, (heights, fill) by name, on top of each other over the sizes; where on the x axis each size stands."""
    bottom, bars = np.zeros(len(sizes)), len(sizes) <= BARS
    spots = np.arange(len(sizes)) if bars else sizes
    for name, (heights, fill) in layers.items():
        if bars:
            axes.bar(spots, heights, 0.8, bottom, label=name, **fill)
        else:
            axes.fill_between(spots, bottom, bottom + heights, label=name, **fill)
        bottom = bottom + heights
    if bars:
        axes.set_xticks(spots, [f"{size:,.0f}" for size in sizes], rotation=0 if len(spots) <= 12 else 45)
        axes.grid(axis="x", visible=False)
    else:
        size_axis(axes, sizes)
        axes.set_xlim(sizes[0], sizes[-1])
    return spots


# ---------------------------------------------------------------------------------------------- texts that keep apart


def boxes_of(text: Text) -> list[Bbox]:
    """The pixels of a text without its arrow: one box, or, where it is turned by some angle, several along it."""
    angle = text.get_rotation()
    if isinstance(text, Annotation):
        canvas: Any = text.figure.canvas
        text.update_positions(canvas.get_renderer())
    whole = Text.get_window_extent(text)
    if angle % 90 == 0:
        return [whole]
    text.set_rotation(0)
    flat = Text.get_window_extent(text)
    text.set_rotation(angle)
    side, along = flat.height, np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    centre = np.array([(whole.x0 + whole.x1) / 2, (whole.y0 + whole.y1) / 2])
    steps = np.linspace(-0.5, 0.5, max(2, int(flat.width / side) + 1)) * (flat.width - side)
    return [square(centre + step * along, side) for step in steps]


def square(spot: Any, side: float) -> Bbox:
    """A box around a pixel."""
    x, y = spot
    return Bbox.from_extents(x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def overlap(boxes: np.ndarray, taken: Sequence[Bbox]) -> float:
    """How many square pixels of boxes, of shape (boxes, 4), are taken."""
    edges = np.array([box.extents for box in taken]).reshape(-1, 4)
    low = np.maximum(boxes[:, None, :2], edges[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], edges[None, :, 2:])
    return float(np.sum(np.prod(np.clip(high - low, 0, None), axis=-1)))


GAP = 3
"""Pixels between two texts."""


@dataclass
class Room:
    """What a picture's pixels hold already: `texts`, which no text may touch, and `marks`, which it should not."""

    inside: Bbox
    marks: list[Bbox]
    texts: list[Bbox] = field(default_factory=list)

    def settle(self, text: Text, offsets: Sequence[tuple[float, float]]) -> None:
        """Put a note at the first of some offsets, in points, where nothing is, or where least is."""
        text.set_position(offsets[0])
        pixels = text.figure.dpi / 72
        boxes = np.array([box.extents for box in boxes_of(text)])
        best, least, there = offsets[0], np.inf, boxes
        for offset in offsets:
            moved = boxes + np.tile(np.subtract(offset, offsets[0]) * pixels, 2)
            beyond = float(np.sum(np.prod(moved[:, 2:] - moved[:, :2], axis=1))) - overlap(moved, [self.inside])
            area = overlap(moved, self.marks) + 100 * (overlap(moved, self.texts) + beyond)
            if area < least - 1e-6:
                best, least, there = offset, area, moved
            if area <= 1e-6:
                break
        text.set_position(best)
        self.texts += [Bbox.from_extents(*box).padded(GAP) for box in there]


def labels_below(axes: Any, spots: Sequence[tuple[float, str]], y: float, **style: Any) -> None:
    """Upright names below spots of the x axis at height `y`, moved aside where they would touch, each with a line."""
    figure = axes.figure
    figure.canvas.draw()
    to_pixels = axes.transData
    height = SMALL * figure.dpi / 72 * 1.15
    centres = [to_pixels.transform((x, y))[0] for x, _ in spots]
    places = spread(centres, [height] * len(spots), axes.bbox.x0, axes.bbox.x1)
    for (x, name), centre, place in zip(spots, centres, places, strict=True):
        aside = (place - centre) * 72 / figure.dpi
        note(
            axes, name, (x, y), (aside, -13), rotation=90, ha="center", va="top",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0,
                        "relpos": (0.5, 1.0)}, **style,
        )  # fmt: skip
