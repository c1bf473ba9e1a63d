"""The pictures, drawn with matplotlib (extra `plot`), from plain numbers to a figure and its file."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from gpt2cost.output.pictures.canvas import STYLE
from gpt2cost.output.pictures.draw_memory import draw_generated, draw_memory
from gpt2cost.output.pictures.draw_roofline import draw_roofline
from gpt2cost.output.pictures.draw_sweeps import draw_breakdown, draw_curve, draw_split
from gpt2cost.output.pictures.draw_timeline import draw_timeline
from gpt2cost.output.pictures.plot_data import Breakdown, Curve, Picture, Roofline
from gpt2cost.output.pictures.plot_memory import Memory
from gpt2cost.output.pictures.plot_runs import Generated, StepSplit
from gpt2cost.output.pictures.plot_timeline import Timeline

COLOURS = 256
"""Of a PNG: a few, and the shades that smooth their edges."""
DRAWINGS: dict[type[Picture], Callable[[Any], Figure]] = {
    Roofline: draw_roofline, Breakdown: draw_breakdown, Curve: draw_curve, Timeline: draw_timeline,
    Memory: draw_memory, Generated: draw_generated, StepSplit: draw_split,
}  # fmt: skip


def draw(data: Picture) -> Figure:
    """The figure of `data`."""
    with matplotlib.rc_context(STYLE):
        return DRAWINGS[type(data)](data)


def rendered(figure: Figure, format: str) -> bytes:
    """The figure as `png`, `svg` or `pdf`; the same figure gives the same bytes. A PNG has a palette, for its size."""
    out = io.BytesIO()
    undated: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format=format, dpi=120, metadata=undated[format])
    if format == "png":
        drawn, out = Image.open(out).convert("RGB"), io.BytesIO()
        drawn.quantize(COLOURS, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return out.getvalue()
