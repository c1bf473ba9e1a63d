"""The pictures as inline SVG for a page: no library, no script, no style of their own; `STYLE` is theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpt2cost.output.colours import KIND_COLOURS, LINE_COLOURS
from gpt2cost.output.pictures.plot_data import Breakdown, Curve, Picture, Roofline
from gpt2cost.output.pictures.plot_memory import Memory
from gpt2cost.output.pictures.plot_runs import Generated, StepSplit
from gpt2cost.output.pictures.plot_timeline import Timeline
from gpt2cost.output.report.svg_curves import curve, generated
from gpt2cost.output.report.svg_memory import memory
from gpt2cost.output.report.svg_roofline import roofline
from gpt2cost.output.report.svg_stacks import breakdown, step_split
from gpt2cost.output.report.svg_timeline import timeline

_DARK = {"#D9D9D9": "#4d5560", "#000000": "#ffffff"}
"""What would not be seen on a dark page, or too well."""


def _rules() -> str:
    """A class for each kind of kernel and each line."""

    def both(colour: str) -> str:
        return f"light-dark({colour},{_DARK.get(colour, colour)})"

    kinds = "".join(f".k-{kind}{{--own:{both(colour)};fill:var(--own)}}" for kind, colour in KIND_COLOURS.items())
    lines = "".join(f".l-{index}{{--own:{both(colour)}}}" for index, colour in enumerate(LINE_COLOURS))
    return f"{kinds}\n{lines}"


STYLE = f"""
.chart{{display:block;width:100%;height:auto}}
.chart text{{font:12px system-ui,sans-serif;fill:var(--ink)}}
.chart .m{{text-anchor:middle}}
.chart .e{{text-anchor:end}}
.chart .halo{{paint-order:stroke;stroke:var(--paper);stroke-width:3px}}
.chart .strong{{font-weight:600}}
.chart .roof{{fill:none;stroke:var(--ink);stroke-width:1.3}}
.chart .second{{stroke-dasharray:3 3}}
.chart .strip{{fill:none;stroke:var(--line)}}
.chart .mark{{stroke:var(--ink);stroke-width:.6;fill-opacity:.9}}
.chart .tick{{fill:var(--muted)}}
.chart .grid,.chart .axis,.chart .lead{{fill:none;stroke:var(--line)}}
.chart .axis,.chart .lead{{stroke:var(--muted)}}
.chart .lead{{stroke-width:.6;pointer-events:none}}
.chart .frame{{fill:none;stroke:var(--ink);stroke-width:1.2}}
.chart .limit{{stroke:var(--muted);stroke-dasharray:4 3}}
.chart .other{{--own:var(--line);fill:var(--own)}}
.chart .band{{fill:var(--own);fill-opacity:.15}}
.chart .line{{fill:none;stroke:var(--own);stroke-width:2}}
.chart .dot,.chart .swatch,.chart .area{{fill:var(--own)}}
.chart .hollow{{fill:var(--paper);stroke:var(--own);stroke-width:1.5}}
.chart .hit{{fill:transparent}}
.chart .k-waiting{{--own:var(--line);fill:var(--own)}}
.chart .thick{{fill:none;stroke:var(--own)}}
.chart [data-kernel]{{cursor:pointer}}
.chart .scales,.chart.elsewhere .mark:not(.moved),.chart.elsewhere .number{{display:none}}
.chart .on{{stroke:var(--ink);stroke-width:2}}
{_rules()}
"""
"""The charts' classes. A page gives `--ink`, `--muted`, `--line` and `--paper`; `color-scheme` says light or dark."""


def draw(data: Picture) -> str:
    """The picture as an element of a page, 480 units wide: as wide as the place it is given."""
    drawings: dict[type[Picture], Callable[[Any], str]] = {
        Roofline: roofline, Timeline: timeline, Memory: memory, Breakdown: breakdown, Curve: curve,
        Generated: generated, StepSplit: step_split,
    }  # fmt: skip
    return drawings[type(data)](data)


def draw_curve(data: Curve, asked: float) -> str:
    """A curve on which the size that was asked for is marked."""
    return curve(data, asked)
