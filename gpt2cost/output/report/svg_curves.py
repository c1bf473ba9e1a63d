"""Quantities over a swept size as inline SVG: lines with their ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gpt2cost.output.pictures.plot_data import Curve, Line, Swept
from gpt2cost.output.pictures.plot_runs import Generated
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
from gpt2cost.units import scale_for

LEFT, RIGHT, TOP, BOTTOM = 52.0, WIDTH - 22, 32.0, 250.0
MARKED = 24
"""Up to so many sizes each has a mark with its numbers."""
FINEST = 48
"""The most sizes that a line goes through."""
WIDE = 8
"""The ratio from which on an axis is logarithmic."""
HOLLOW = "hollow: the host sets the pace"


def curve(data: Curve, here: float | None = None) -> str:
    """The chart: 480 units wide. `here`: the size that the reader asked for."""
    unit = "tokens/s" if data.quantity == "throughput" else "s"
    marked = {} if data.limit is None else {"beyond n_positions": float(data.limit)}
    if here is not None:
        marked["asked for"] = here
    return _lines(data, data.lines, data.quantity, unit, size_scale(data.sizes, LEFT, RIGHT), marked)


def generated(data: Generated) -> str:
    """The chart: 480 units wide."""
    x = Scale(0.0, max(2.0, float(data.sizes[-1])), LEFT, RIGHT)
    return _lines(data, data.lines, "time per token", "s", x, {})


def _lines(
    data: Swept, lines: Sequence[Line], quantity: str, unit: str, x: Scale, marked: Mapping[str, float]
) -> str:  # fmt: skip
    """A quantity in `unit` over the sizes; each line with its range. `marked`: sizes that have a name."""
    lowest, highest = min(float(line.low.min()) for line in lines), max(float(line.high.max()) for line in lines)
    first, last = data.sizes[0], data.sizes[-1]
    said = "; ".join(
        f"{line.label}: {quantity_text(line.values[0], unit)} at {first:,}, {quantity_text(line.values[-1], unit)} at"
        f" {last:,}"
        for line in lines
    )
    chart = Chart(f"{data.title}, over {data.axis_text}. {said}.")
    log = highest > WIDE * lowest > 0
    divisor, label = (1.0, unit) if unit == "tokens/s" else scale_for([lowest if log else highest], unit)
    y = Scale((lowest / 1.2 if log else 0.0) / divisor, highest * (1.2 if log else 1.05) / divisor, BOTTOM, TOP, log)
    chart.y_axis(y, LEFT, RIGHT, [(at, plain(at)) for at in y.ticks(6)], f"{quantity} ({label})")
    few = len(data.sizes) <= MARKED
    ticks = size_ticks(data.sizes.tolist()) if few else [(at, plain(at)) for at in x.ticks(8)]
    chart.x_axis(x, BOTTOM, TOP, ticks, data.axis_text)
    end = len(data.sizes) - 1
    kept = np.unique([0, min(1, end), *np.linspace(0, end, FINEST).round().astype(int)])  # a first step may be steep
    for index, line in enumerate(lines):
        up, down, along = (
            [(x(size), y(value / divisor)) for size, value in zip(data.sizes[kept], numbers[kept], strict=True)]
            for numbers in (line.high, line.low, line.values)
        )
        chart.add("path", class_=f"band l-{index}", d=path(up + down[::-1], closed=True))
        chart.add("path", tip(line.label), class_=f"line l-{index}", d=path(along))
    for index, line in enumerate(lines if few else ()):
        for at, size in enumerate(data.sizes.tolist()):
            middle, low, high = (quantity_text(values[at], unit) for values in (line.values, line.low, line.high))
            said = f"{line.label}, {size:,}: {middle} ({low} to {high})"
            class_ = f"{'hollow' if line.host_bound[at] else 'dot'} l-{index}"
            chart.add("circle", tip(said), class_=class_, cx=x(size), cy=y(line.values[at] / divisor), r=3.5)
    for name, size in marked.items():
        chart.add("path", tip(name), class_="limit", d=f"M{number(x(size))},{number(TOP)}V{number(BOTTOM)}")
        chart.text_at([(x(size), TOP - 5, anchor) for anchor in ("middle", "end", "start")], name, "tick")
    bottom = BOTTOM + 3 * LINE + 8
    if len(lines) > 1:
        bottom = chart.legend(bottom, [(f"swatch l-{index}", line.label) for index, line in enumerate(lines)])
    if few and any(line.host_bound.any() for line in lines):
        chart.text(4.0, bottom, HOLLOW, class_="tick")
        bottom += LINE
    chart.height = bottom - 6
    return chart.svg()
