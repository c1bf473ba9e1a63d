"""Parts of a whole over a size as inline SVG: kinds of kernels in a pass, parts of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2cost.output.pictures.plot_data import KIND_TEXTS, Breakdown, Floats
from gpt2cost.output.pictures.plot_runs import StepSplit
from gpt2cost.output.report.svg_chart import (
    LINE,
    WIDTH,
    Chart,
    Scale,
    number,
    path,
    plain,
    quantity_text,
    size_scale,
    size_ticks,
    tip,
)
from gpt2cost.prediction.compare import WAITING
from gpt2cost.units import scale_for

LEFT, RIGHT = 52.0, WIDTH - 22
UPPER, LOWER = (32.0, 170.0), (212.0, 350.0)
"""Top and bottom of the two panels."""
BARS = 12
"""Up to so many sizes are bars, more are areas."""
FINEST = 64
"""The most sizes that the outline of an area goes through."""

Layers = Mapping[str, tuple[str, Floats]]
"""Class -> what it is, and how much of it there is at each size."""


@dataclass(frozen=True)
class Columns:
    """Where the sizes stand: side by side as bars if they are few, else along their scale."""

    sizes: NDArray[Any]

    @property
    def are_bars(self) -> bool:
        return len(self.sizes) <= BARS

    @property
    def scale(self) -> Scale:
        return Scale(-0.5, len(self.sizes) - 0.5, LEFT, RIGHT) if self.are_bars else size_scale(self.sizes, LEFT, RIGHT)

    @property
    def places(self) -> list[float]:
        values = range(len(self.sizes)) if self.are_bars else self.sizes.tolist()
        return [self.scale(value) for value in values]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        if self.are_bars:
            return [(float(index), f"{size:,}") for index, size in enumerate(self.sizes.tolist())]
        return size_ticks(self.sizes.tolist())


def breakdown(data: Breakdown) -> str:
    """The chart: 480 units wide; time above, shares below."""
    layers = {f"k-{kind}": (kind, seconds) for kind, seconds in data.kinds.items()}
    layers["k-waiting"] = (f"{WAITING} {KIND_TEXTS[WAITING]}", data.waiting)
    whole = sum((seconds for _, seconds in layers.values()), np.zeros(len(data.sizes)))
    first = max(layers.values(), key=lambda layer: layer[1][-1])
    chart = Chart(
        f"{data.title}, over {data.axis_text}. At {data.sizes[-1]:,} {first[0]} takes the most:"
        f" {first[1][-1] / whole[-1]:.0%} of {quantity_text(whole[-1], 's')}."
    )
    columns = Columns(data.sizes)
    _seconds(chart, columns, layers, whole, "time of the pass")
    shares = {class_: (name, 100 * seconds / whole) for class_, (name, seconds) in layers.items()}
    lower = Scale(0.0, 100.0, LOWER[1], LOWER[0])
    chart.y_axis(lower, LEFT, RIGHT, [(at, plain(at)) for at in lower.ticks(5)], "share of the pass (%)")
    chart.x_axis(columns.scale, lower.start, lower.start, columns.ticks, data.axis_text)
    _stacked(chart, columns, lower, shares, "%")
    entries = [(class_, name) for class_, (name, _) in layers.items()]
    chart.height = chart.legend(LOWER[1] + 3 * LINE + 8, entries) - 6
    return chart.svg()


def step_split(data: StepSplit) -> str:
    """The chart: 480 units wide; time above, efficiency below."""
    layers = {f"area l-{index}": part for index, part in enumerate(data.parts.items())}
    whole = sum(data.parts.values(), np.zeros(len(data.sizes)))
    first = max(data.parts, key=lambda name: data.parts[name][-1])
    chart = Chart(
        f"{data.title}, over {data.axis_text}. At {data.sizes[-1]:,} it takes {quantity_text(whole[-1], 's')}, the most"
        f" of it {first}; {data.efficiency_text}: {data.efficiency[-1]:.0%}."
    )
    columns = Columns(data.sizes)
    _seconds(chart, columns, layers, whole, "time of the step")
    top = max(1.0, float(data.efficiency.max())) if data.axis == "gpus" else 1.2 * float(data.efficiency.max())
    lower = Scale(0.0, 100 * top, LOWER[1], LOWER[0])
    chart.y_axis(lower, LEFT, RIGHT, [(at, plain(at)) for at in lower.ticks(5)], f"{data.efficiency_text} (%)")
    chart.x_axis(columns.scale, lower.start, lower.start, columns.ticks, data.axis_text)
    spots = [(x, lower(100 * share)) for x, share in zip(columns.places, data.efficiency, strict=True)]
    chart.add("path", class_="line l-6", d=path(spots))
    for (x, y), size, share, rate, fits in zip(
        spots, data.sizes, data.efficiency, data.tokens_per_s, data.fits, strict=True
    ):
        said = f"{size:,}: {share:.1%}, {rate:,.0f} tokens/s{'' if fits else '; does not fit the memory'}"
        chart.add("circle", tip(said), class_="dot l-6" if fits else "hollow l-6", cx=x, cy=y, r=3.5)
    entries = [(class_, name) for class_, (name, _) in layers.items()]
    bottom = chart.legend(LOWER[1] + 3 * LINE + 8, entries)
    if not data.fits.all():
        chart.text(4.0, bottom, "hollow: does not fit the memory of a GPU", class_="tick")
        bottom += LINE
    chart.height = bottom - 6
    return chart.svg()


def _seconds(chart: Chart, columns: Columns, layers: Layers, whole: Floats, label: str) -> None:
    """The upper panel."""
    divisor, unit = scale_for(whole.tolist(), "s")
    upper = Scale(0.0, 1.03 * float(whole.max()) / divisor, UPPER[1], UPPER[0])
    chart.y_axis(upper, LEFT, RIGHT, [(at, plain(at)) for at in upper.ticks(5)], f"{label} ({unit})")
    scaled = {class_: (name, seconds / divisor) for class_, (name, seconds) in layers.items()}
    _stacked(chart, columns, upper, scaled, unit)


def _stacked(chart: Chart, columns: Columns, y: Scale, layers: Layers, unit: str) -> None:
    """Bars or areas upon one another."""
    kept = np.unique(np.linspace(0, len(columns.sizes) - 1, FINEST).round().astype(int))
    x, sizes = [columns.places[index] for index in kept], columns.sizes[kept].tolist()
    below = np.zeros(len(kept))
    width = 0.8 * (RIGHT - LEFT) / len(sizes)
    for class_, (name, all_heights) in layers.items():
        heights = all_heights[kept]
        above = below + heights
        if columns.are_bars:
            bars = "".join(
                f"M{number(place)},{number(y(low))}V{number(y(high))}"
                for place, low, high in zip(x, below, above, strict=True)
                if y(low) - y(high) >= 0.05
            )
            said = ", ".join(f"{height:.3g} at {size:,}" for size, height in zip(sizes, heights, strict=True))
            if bars:
                chart.add("path", tip(f"{name} ({unit}): {said}"), class_=f"thick {class_}", d=bars, stroke_width=width)
        else:
            up, down = ([(at, y(value)) for at, value in zip(x, values, strict=True)] for values in (above, below))
            ends = f"{name} ({unit}): {heights[0]:.3g} at {sizes[0]:,}, {heights[-1]:.3g} at {sizes[-1]:,}"
            chart.add("path", tip(ends), class_=class_, d=path(up + down[::-1], closed=True))
        below = above
