"""What all charts of a page are made of: elements of SVG as text, scales with their ticks, and a frame with axes.

Charts have no style of their own but classes, so that a page's style sheet gives dark mode and print.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from numpy.typing import NDArray

from gpt2cost.units import format_quantity

WIDTH = 480.0
"""Units across a chart. Two stand side by side on a laptop's screen, one fills a phone's."""
SIZE = 12.0
"""Of texts, in units: the style sheet's."""
ANCHORS = {"start": "", "middle": "m", "end": "e"}
"""Where a text stands at its place -> its class."""
_NARROW, _BROAD = "fijlrt.,:;|'()[] ", "mwMW%@"
LINE = 15.0
"""Units between two lines of text."""


def number(value: float) -> str:
    """A place in units, to a tenth."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else re.sub(r"^(-?)0\.", r"\1.", text)


def tag(name: str, inside: str = "", /, **attributes: object) -> str:
    """An element around `inside`, which is SVG already. `data_kernel` is written as data-kernel, `class_` as class.

    Attributes are escaped; those that are None or empty are left out.
    """
    given = (
        f' {key.rstrip("_").replace("_", "-")}="{escape(number(value) if isinstance(value, float) else str(value))}"'
        for key, value in attributes.items()
        if value is not None and value != ""
    )
    return f"<{name}{''.join(given)}>{inside}</{name}>" if inside else f"<{name}{''.join(given)}/>"


def tip(text: str) -> str:
    """What a mark says where a pointer rests on it."""
    return tag("title", escape(text))


def path(points: Iterable[tuple[float, float]], closed: bool = False) -> str:
    """The `d` of a path along points."""
    steps = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f"M{steps}{'Z' if closed else ''}"


@dataclass(frozen=True)
class Scale:
    """From values between `low` and `high` to places between `start` and `end`, straight or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(number) if self.log else number for number in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """At most about `most` round numbers: 1, 2 or 5 times a power of ten."""
        if not self.log:
            step = _round_step((self.high - self.low) / most)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [float(f"{index * step:.12g}") for index in range(first, last + 1)]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = next((some for some in ((1, 2, 5), (1, 3)) if len(some) * (last - first) <= most), (1,))
        decades = range(first, last + 1, max(1, math.ceil((last - first) / most)))
        ticks = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
        return [tick for tick in ticks if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


@dataclass(frozen=True)
class Box:
    """What a text or a mark covers, in units."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )  # fmt: skip


def text_width(text: str) -> float:
    """Units that a text takes in a wide font of browsers (DejaVu Sans; Arial and Helvetica are narrower)."""
    return SIZE * sum(0.4 if c in _NARROW else 0.98 if c in _BROAD else 0.72 if c.isupper() else 0.64 for c in text)


def text_box(x: float, y: float, text: str, anchor: str = "start") -> Box:
    """What a text covers whose base line is at `y`."""
    width = text_width(text)
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return Box(left, y - 10, left + width, y + 3)


@dataclass
class Chart:
    """The elements of a chart, and what texts cover so far. `label`: what it shows, in a sentence.

    `height` in units is set before the end.
    """

    label: str
    height: float = math.inf
    parts: list[str] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)

    def add(self, name: str, inside: str = "", /, **attributes: object) -> None:
        """Add an element."""
        self.parts.append(tag(name, inside, **attributes))

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", class_: str = "", **attributes: object
    ) -> None:
        """Add a text, its base line at `y`."""
        self.taken.append(text_box(x, y, text, anchor))
        classes = " ".join(filter(None, (ANCHORS[anchor], class_)))
        self.add("text", escape(text), class_=classes, x=x, y=y, **attributes)

    def free(self, box: Box) -> bool:
        """Whether nothing that must be read stands there, and it is inside the chart."""
        inside = box.left >= 0 and box.right <= WIDTH and box.top >= 0 and box.bottom <= self.height
        return inside and not any(box.meets(other) for other in self.taken)

    def text_at(self, places: Iterable[tuple[float, float, str]], text: str, class_: str = "") -> bool:
        """Add a text at the first of some places (x, y, anchor) where it covers no other; whether there was one."""
        for x, y, anchor in places:
            if self.free(text_box(x, y, text, anchor)):
                self.text(x, y, text, anchor, class_)
                return True
        return False

    def x_axis(self, scale: Scale, y: float, top: float, ticks: Sequence[tuple[float, str]], label: str) -> None:
        """Grid lines from `top` to `y`, as many of the ticks' texts below as have room, and the label below them."""
        self.add("path", class_="grid", d="".join(f"M{number(scale(at))},{number(top)}V{number(y)}" for at, _ in ticks))
        for at, text in ticks:
            self.text_at([(scale(at), y + LINE, "middle")], text, "tick")
        self.text((scale.start + scale.end) / 2, y + 2 * LINE + 1, label, "middle")

    def y_axis(self, scale: Scale, x: float, right: float, ticks: Sequence[tuple[float, str]], label: str) -> None:
        """Grid lines from `x` to `right`, the ticks' texts on the left, and the label above."""
        self.add(
            "path", class_="grid", d="".join(f"M{number(x)},{number(scale(at))}H{number(right)}" for at, _ in ticks)
        )
        for at, text in ticks:
            self.text(x - 5, scale(at) + 4, text, "end", "tick")
        self.text(4.0, scale.end - 9, label)

    def legend(self, y: float, entries: Iterable[tuple[str, str]], left: float = 4.0) -> float:
        """Swatches (class, text) in lines from `y` on; where the next line would be."""
        x = left
        for class_, text in entries:
            width = 15 + text_width(text) + 12
            if x + width > WIDTH and x > left:
                x, y = left, y + LINE
            self.add("rect", class_=class_, x=x, y=y - 9, width=11.0, height=10.0)
            self.text(x + 15, y, text)
            x += width
        return y + LINE

    def svg(self) -> str:
        """The chart as one element of a page."""
        return tag(
            "svg", "".join(self.parts), class_="chart", viewBox=f"0 0 {number(WIDTH)} {number(self.height)}",
            role="img", aria_label=self.label,
        )  # fmt: skip


def plain(value: float) -> str:
    """A tick's number: 0.5, 200, 1,500, 20k, 3M, 100G, 2T."""
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= (10**power if power > 3 else 1e4):
            return f"{value / 10**power:,.10g}{prefix}"
    return f"{value:,.10g}"


def cut_to(text: str, width: float) -> str:
    """A text that takes at most `width` units."""
    if text_width(text) <= width:
        return text
    while text and text_width(text + "...") > width:
        text = text[:-1]
    return text + "..."


def size_ticks(sizes: Sequence[int]) -> list[tuple[float, str]]:
    """Swept sizes as ticks: all where they are few, else about eight of them."""
    step = max(1, math.ceil(len(sizes) / 9))
    return [(float(size), f"{size:,}") for size in sizes[::step]]


def size_scale(sizes: NDArray[Any], start: float, end: float) -> Scale:
    """Swept sizes: logarithmic where most of them are in the lower part of their range."""
    low, high, middle = float(sizes[0]), float(sizes[-1]), float(sizes[len(sizes) // 2])
    return Scale(low, high, start, end, log=low > 0 and 4 * middle < low + high)


def quantity_text(value: float, unit: str) -> str:
    """A number with its unit, in a sentence."""
    return f"{value:,.0f} tokens/s" if unit == "tokens/s" else format_quantity(float(value), unit)
