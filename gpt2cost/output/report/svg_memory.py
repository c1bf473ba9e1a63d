"""Live bytes over a pass, over generated tokens or over a training step as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt2cost.output.pictures.plot_data import Floats
from gpt2cost.output.pictures.plot_memory import OTHERS, Memory, Section, Stack
from gpt2cost.output.report.svg_chart import LINE, WIDTH, Chart, Scale, cut_to, number, plain, tip
from gpt2cost.output.shared import short_name
from gpt2cost.units import format_quantity, scale_for

LEFT, RIGHT, TOP, HIGH = 52.0, WIDTH - 16, 84.0, 150.0
"""The panels' sides, the first one's top, and the height of a panel."""
FINEST = 1.5
"""Units that a position takes at least."""


def memory(data: Memory) -> str:
    """The chart: 480 units wide; everything above, the end of the pass by tensor below."""
    capacity = format_quantity(data.capacity_bytes, "B")
    peak = format_quantity(data.peak_bytes, "B")
    chart = Chart(
        f"{data.title}. The peak is {peak} of {capacity}, at {data.peak_text}"
        f"{'; ' if data.advice else ''}{data.advice}."
    )
    for index, line in enumerate((f"peak {peak} of {capacity}, at", data.peak_text, data.advice)):
        chart.text(4.0, 13.0 + index * LINE, cut_to(line, WIDTH - 8), class_="" if line is data.advice else "strong")
    kept = _kept(data.whole)
    x, y, bottom = _panel(chart, data.whole, kept, TOP, "live bytes")
    at = x(kept.index(min(kept, key=lambda index: abs(index - data.peak))) + 0.5)
    chart.add("circle", tip(f"peak: {peak}"), class_="dot l-6", cx=at, cy=y(data.peak_bytes), r=3.5)
    if data.close:
        _, _, bottom = _panel(chart, data.close, _kept(data.close), bottom + 2 * LINE + 6, data.close.title)
    chart.height = bottom
    return chart.svg()


def _kept(stack: Stack) -> list[int]:
    """The positions that are drawn: where they are finer than a unit, the fullest of each group of neighbours."""
    groups = np.array_split(np.arange(len(stack.positions)), min(len(stack.positions), int((RIGHT - LEFT) / FINEST)))
    total = stack.total
    return [int(group[np.argmax(total[group])]) for group in groups]


def _panel(
    chart: Chart, stack: Stack, kept: Sequence[int], top: float, label: str
) -> tuple[Scale, Scale, float]:  # fmt: skip
    """A stack below `top`: the scales of columns and of bytes, and where its legend ends."""
    bottom, most = top + HIGH, float(stack.total.max())
    divisor, unit = scale_for([most], "B")
    x, y = Scale(0.0, len(kept), LEFT, RIGHT), Scale(0.0, 1.05 * most, bottom, top)
    shown = Scale(0.0, 1.05 * most / divisor, bottom, top)
    chart.y_axis(shown, LEFT, RIGHT, [(at, plain(at)) for at in shown.ticks(5)], f"{label} ({unit})")
    below = np.zeros(len(stack.positions))
    entries: list[tuple[str, str]] = []
    for index, (name, sizes) in enumerate(stack.parts.items()):
        class_ = "other" if name == OTHERS else f"area l-{index}"
        above = below + sizes
        outline = f"{_steps(x, y, above, kept)}L{_steps(x, y, below, kept, back=True)[1:]}Z"
        chart.add("path", tip(f"{name}: at most {format_quantity(float(sizes.max()), 'B')}"), class_=class_, d=outline)
        entries.append((class_, short_name(name)))
        below = above
    if stack.names:
        _hits(chart, stack, kept, x, top)
        end = _sections(chart, stack.sections, kept, x, bottom)
    else:
        end = bottom + LINE
        ticks = Scale(float(stack.positions[0]), float(stack.positions[-1]), x(0.5), x(len(kept) - 0.5))
        for at in ticks.ticks(8) if len(kept) > 1 else ():
            chart.text_at([(ticks(at), end, "middle")], plain(at), "tick")
    if stack.axis_text:
        end += LINE
        chart.text((LEFT + RIGHT) / 2, end, stack.axis_text, "middle")
    return x, y, chart.legend(end + LINE + 4, entries) - LINE + 6


def _steps(x: Scale, y: Scale, sizes: Floats, kept: Sequence[int], back: bool = False) -> str:
    """A line from left to right that is level over each column, or the same from right to left."""
    levels = [number(y(float(sizes[index]))) for index in kept]
    edges = [index for index in range(1, len(levels)) if levels[index] != levels[index - 1]]
    if back:
        corners = "".join(f"H{number(x(edge))}V{levels[edge - 1]}" for edge in reversed(edges))
        return f"M{number(x(len(kept)))},{levels[-1]}{corners}H{number(x(0))}"
    corners = "".join(f"H{number(x(edge))}V{levels[edge]}" for edge in edges)
    return f"M{number(x(0))},{levels[0]}{corners}H{number(x(len(kept)))}"


def _hits(chart: Chart, stack: Stack, kept: Sequence[int], x: Scale, top: float) -> None:
    """Where columns are wide enough, each says what is alive while its kernel runs."""
    if x(1) - x(0) < 3:
        return
    for column, index in enumerate(kept):
        said = f"{short_name(stack.names[index])}: {format_quantity(float(stack.total[index]), 'B')}"
        chart.add(
            "rect", tip(said), class_="hit", x=x(column), y=top, width=x(1) - x(0), height=HIGH,
            data_kernel=stack.names[index],
        )  # fmt: skip


def _sections(chart: Chart, sections: Sequence[Section], kept: Sequence[int], x: Scale, y: float) -> float:
    """Brackets with names below the columns; where they end. Layers that have no room are one bracket."""
    spans = [(section.label, section.first, section.last) for section in sections]
    layers = [span for span in spans if span[0].startswith("h.")]
    if len(layers) > 4:
        first, last = spans.index(layers[0]), spans.index(layers[-1])
        spans[first : last + 1] = [(f"{len(layers)} layers", layers[0][1], layers[-1][2])]
    spans.sort(key=lambda span: (span[1] - span[2], -span[1]))  # the widest have their names first, then the last
    for label, first, last in spans:
        columns = [column for column, index in enumerate(kept) if first <= index <= last]
        if columns:
            low, high = x(columns[0]), x(columns[-1] + 1)
            chart.add("path", class_="lead", d=f"M{number(low + 0.3)},{number(y + 3)}v3H{number(high - 0.3)}v-3")
            chart.text_at(
                [((low + high) / 2, y + 18, "middle"), (low, y + 18, "start"), (high, y + 18, "end")], label
            )  # fmt: skip
    return y + 19
