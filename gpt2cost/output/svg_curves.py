"""Quantities over a swept size as inline SVG: lines with their ranges, and stacked shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2cost.output.plot_data import Breakdown, Curve, Floats, Swept
from gpt2cost.output.svg_chart import LINE, WIDTH, Chart, Scale, number, path, plain, size_ticks, tip
from gpt2cost.units import format_quantity, scale_for

LEFT, RIGHT, TOP, BOTTOM = 52.0, WIDTH - 22, 32.0, 250.0
MARKED = 24
"""Up to so many sizes each has a mark with its numbers."""
WIDE = 8
"""The ratio from which on an axis is logarithmic."""
WAITING = "waiting for host and launches"


def curve(data: Curve) -> str:
    """The chart: 480 units wide."""
    unit = "tokens/s" if data.quantity == "throughput" else "s"
    return lines_chart(data, {line.label: (line.values, line.low, line.high) for line in data.lines}, data.quantity,
                       unit, data.axis_text, data.limit)  # fmt: skip


def lines_chart(
    data: Swept, lines: Mapping[str, tuple[Floats, Floats, Floats]], quantity: str, unit: str, axis: str,
    limit: int | None = None,
) -> str:  # fmt: skip
    """Lines (values, low, high) of a quantity in `unit` over the sizes."""
    lowest, highest = min(low.min() for _, low, _ in lines.values()), max(high.max() for _, _, high in lines.values())
    said = "; ".join(
        f"{name}: {_amount(values[0], unit)} at {data.sizes[0]:,}, {_amount(values[-1], unit)} at {data.sizes[-1]:,}"
        for name, (values, _, _) in lines.items()
    )
    chart = Chart(f"{data.title}, over {axis}. {said}.")
    x, log = x_scale(data.sizes), highest > WIDE * lowest > 0
    divisor, label = (1.0, unit) if unit == "tokens/s" else scale_for([highest if not log else lowest], unit)
    y = Scale((lowest / 1.2 if log else 0.0) / divisor, highest * (1.2 if log else 1.05) / divisor, BOTTOM, TOP, log)
    chart.y_axis(y, LEFT, RIGHT, [(at, plain(at)) for at in y.ticks(6)], f"{quantity} ({label})")
    chart.x_axis(x, BOTTOM, TOP, size_ticks(data.sizes.tolist()), axis)
    for index, (values, low, high) in enumerate(lines.values()):
        up, down, along = ([(x(size), y(value / divisor)) for size, value in zip(data.sizes, numbers, strict=True)]
                           for numbers in (high, low, values))  # fmt: skip
        chart.add("path", class_=f"band l-{index}", d=path(up + down[::-1], closed=True))
        chart.add("path", class_=f"line l-{index}", d=path(along))
    for index, (name, (values, low, high)) in enumerate(lines.items()):
        for size, *numbers in zip(data.sizes, values, low, high, strict=True) if len(data.sizes) <= MARKED else ():
            middle, least, most = (_amount(value, unit) for value in numbers)
            text = f"{name}, {size:,}: {middle} (range {least} to {most})"
            chart.add("circle", tip(text), class_=f"dot l-{index}", cx=x(size), cy=y(numbers[0] / divisor), r=3.0)
    if limit is not None:
        chart.add("path", class_="limit", d=f"M{number(x(limit))},{number(TOP)}V{number(BOTTOM)}")
        chart.text(x(limit), TOP - 5, "beyond n_positions", "middle" if x(limit) < 400 else "end", "tick")
    y_end = BOTTOM + 2 * LINE + 8
    if len(lines) > 1:
        y_end = chart.legend(y_end + LINE, [(f"swatch l-{index}", name) for index, name in enumerate(lines)]) - 6
    chart.height = y_end
    return chart.svg()


def breakdown(data: Breakdown) -> str:
    """The chart: 480 units wide; time above, shares below."""
    layers = {**{f"k-{kind}": seconds for kind, seconds in data.kinds.items()}, "k-waiting": data.waiting}
    names = {f"k-{kind}": kind for kind in data.kinds} | {"k-waiting": WAITING}
    whole = sum(layers.values(), np.zeros(len(data.sizes)))
    largest = {name: 100 * float(layers[name][-1] / whole[-1]) for name in layers}
    first = max(largest, key=largest.__getitem__)
    chart = Chart(
        f"{data.title}, over {data.axis_text}. At {data.sizes[-1]:,} {names[first]} takes the most:"
        f" {largest[first]:.0f} % of {_amount(whole[-1], 's')}."
    )
    divisor, unit = scale_for(whole.tolist(), "s")
    upper = Scale(0.0, 1.03 * float(whole.max()) / divisor, 170.0, TOP)
    lower = Scale(0.0, 100.0, 350.0, 212.0)
    x = x_scale(data.sizes)
    chart.y_axis(upper, LEFT, RIGHT, [(at, plain(at)) for at in upper.ticks(5)], f"time of the pass ({unit})")
    chart.y_axis(lower, LEFT, RIGHT, [(at, plain(at)) for at in lower.ticks(5)], "share of the pass (%)")
    chart.x_axis(x, lower.start, lower.end, size_ticks(data.sizes.tolist()), data.axis_text)
    stacked(chart, x, upper, data.sizes, {name: (names[name], value / divisor) for name, value in layers.items()}, unit)
    shares = {name: (names[name], 100 * value / whole) for name, value in layers.items()}
    stacked(chart, x, lower, data.sizes, shares, "%")
    chart.height = chart.legend(lower.start + 3 * LINE + 8, [(class_, names[class_]) for class_ in layers]) - 6
    return chart.svg()


def stacked(
    chart: Chart, x: Scale, y: Scale, sizes: NDArray[Any], layers: Mapping[str, tuple[str, Floats]],
    unit: str,
) -> None:  # fmt: skip
    """Areas upon one another: class -> (name, heights at the sizes)."""
    below = np.zeros(len(sizes))
    for class_, (name, heights) in layers.items():
        above = below + heights
        up, down = ([(x(size), y(value)) for size, value in zip(sizes, values, strict=True)]
                    for values in (above, below))  # fmt: skip
        ends = f"{name}: {heights[0]:.3g} {unit} at {sizes[0]:,}, {heights[-1]:.3g} {unit} at {sizes[-1]:,}"
        chart.add("path", tip(ends), class_=class_, d=path(up + down[::-1], closed=True))
        below = above


def x_scale(sizes: NDArray[Any]) -> Scale:
    """The swept sizes: logarithmic where they span more than a factor of 8."""
    low, high = float(sizes[0]), float(sizes[-1])
    return Scale(low, high, LEFT, RIGHT, log=low > 0 and high >= WIDE * low)


def _amount(value: float, unit: str) -> str:
    return f"{value:,.0f} tokens/s" if unit == "tokens/s" else format_quantity(float(value), unit)
