"""The pictures as inline SVG for a page: no library, no script, no style of their own; `STYLE` is theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpt2cost.output.colours import KIND_COLOURS, LINE_COLOURS
from gpt2cost.output.plot_data import Breakdown, Curve, Picture
from gpt2cost.output.svg_curves import breakdown, curve

_DARK = {"#D9D9D9": "#4d5560", "#000000": "#ffffff"}
"""What would not be seen on a dark page, or too well."""


def _rules() -> str:
    """A class for each kind of kernel and each line."""

    def both(colour: str) -> str:
        return f"light-dark({colour},{_DARK.get(colour, colour)})"

    kinds = "".join(f".k-{kind}{{fill:{both(colour)}}}" for kind, colour in KIND_COLOURS.items())
    lines = "".join(f".l-{index}{{--own:{both(colour)}}}" for index, colour in enumerate(LINE_COLOURS))
    return f"{kinds}\n{lines}"


STYLE = f"""
.chart{{display:block;width:100%;height:auto}}
.chart text{{font:12px system-ui,sans-serif;fill:var(--ink)}}
.chart .tick{{fill:var(--muted)}}
.chart .grid,.chart .axis,.chart .lead{{fill:none;stroke:var(--line)}}
.chart .axis,.chart .lead{{stroke:var(--muted)}}
.chart .lead{{stroke-width:.6}}
.chart .frame{{fill:none;stroke:var(--ink);stroke-width:1.2}}
.chart .limit{{stroke:var(--muted);stroke-dasharray:4 3}}
.chart .other{{fill:var(--line)}}
.chart .band{{fill:var(--own);fill-opacity:.15}}
.chart .line{{fill:none;stroke:var(--own);stroke-width:2}}
.chart .dot,.chart .swatch{{fill:var(--own)}}
.chart .k-waiting{{fill:none;stroke:var(--muted);stroke-width:.6}}
.chart [data-kernel]{{cursor:pointer}}
.chart .on{{stroke:var(--ink);stroke-width:2}}
{_rules()}
"""
"""The charts' classes. A page gives `--ink`, `--muted`, `--line` and `--paper`; `color-scheme` says light or dark."""


def draw(data: Picture) -> str:
    """The picture as an element of a page, 480 units wide: as wide as the place it is given."""
    drawings: dict[type[Picture], Callable[[Any], str]] = {Breakdown: breakdown, Curve: curve}
    return drawings[type(data)](data)
