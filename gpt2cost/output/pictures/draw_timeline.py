"""The timeline, drawn: the whole pass, then one layer on each track, while it is there."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from gpt2cost.output.apart import spread
from gpt2cost.output.colours import KIND_COLOURS
from gpt2cost.output.pictures.canvas import SMALL, labels_below, new_figure, note, short
from gpt2cost.output.pictures.plot_timeline import Group, Timeline, kind_of
from gpt2cost.timing.queue_steps import Slice
from gpt2cost.units import format_quantity, scale_for

OTHER_LAYER = "#C8C8C8"
MOST_NAMES = 60
"""Of the steps in a window, the longest."""
SAYS = {"host": "the host issues", "device": "the device runs"}


def draw_timeline(data: Timeline) -> Figure:
    tracks = list(data.windows)
    figure = new_figure(data, 3.05 + 2.3 * len(tracks), left=0.08)
    height = figure.get_figheight()

    def panel(top: float, tall: float) -> Any:
        """Axes from `top` inches below the upper edge on."""
        return figure.add_axes((0.08, 1 - (top + tall) / height, 0.89, tall / height))

    _whole(panel(1.28, 0.85), data)
    for number, track in enumerate(tracks):
        _close(panel(3.05 + 2.3 * number, 0.45), data, track)
    kinds = [kind for kind in KIND_COLOURS if any(kind_of(piece) == kind for piece in data.slices)]
    names = {"host": "no kernel: view, call, wait"}
    handles = [Patch(facecolor=KIND_COLOURS[kind], label=names.get(kind, kind)) for kind in kinds]
    handles.append(Patch(facecolor=OTHER_LAYER, hatch="////", edgecolor="white", label="another layer"))
    figure.legend(handles=handles, loc="lower center", ncols=5, bbox_to_anchor=(0.5, 0.0))
    return figure


def _whole(axes: Any, data: Timeline) -> None:
    """Both tracks from the start to the end, the layer framed, and what runs where."""
    divisor, unit = scale_for([data.latency_s], "s")
    for number, track in enumerate(("device", "host")):
        _bars(axes, [piece for piece in data.slices if piece.track == track], number, divisor, edge="none")
    for group in data.groups:
        if group.label == data.layer:
            number = 1 if group.track == "host" else 0
            width = (group.end_s - group.start_s) / divisor
            axes.add_patch(
                Rectangle((group.start_s / divisor, number - 0.4), width, 0.8, fill=False, linewidth=1.6, zorder=4)
            )
    axes.set_xlim(0, data.latency_s / divisor)
    axes.set_ylim(-0.5, 1.5)
    axes.set_yticks([0, 1], ["device", "host"])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"time since the start of the pass ({unit})", labelpad=1)
    axes.set_title(f"the whole pass; framed: {data.layer}", loc="left", fontsize=10, pad=20)
    _group_names(axes, [group for group in data.groups if group.track == "device" and group.label], data, divisor)


def _group_names(axes: Any, groups: list[Group], data: Timeline, divisor: float) -> None:
    """What the device runs, above both tracks: as many of the layers' names as there is room for."""
    axes.figure.canvas.draw()
    pixels = axes.figure.dpi / 72
    ends = [
        axes.transData.transform((seconds / divisor, 0))[0]
        for group in groups
        for seconds in (group.start_s, group.end_s)
    ]
    centres = [(a + b) / 2 for a, b in zip(ends[::2], ends[1::2], strict=True)]
    widths = [0.62 * SMALL * pixels * len(group.label) + 6 for group in groups]
    fits = [b - a >= width for a, b, width in zip(ends[::2], ends[1::2], widths, strict=True)]
    shown = [
        index for index, group in enumerate(groups)
        if fits[index] or group.label in ("embeddings", "lm_head", data.layer)
    ]  # fmt: skip
    places = spread([centres[i] for i in shown], [widths[i] for i in shown], axes.bbox.x0, axes.bbox.x1)
    for index, place in zip(shown, places, strict=True):
        middle = (groups[index].start_s + groups[index].end_s) / 2 / divisor
        note(
            axes, groups[index].label, (middle, 1.4), ((place - centres[index]) / pixels, 9), ha="center", va="bottom",
            arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def _close(axes: Any, data: Timeline, track: str) -> None:
    """One track while it has the layer: its steps in colour and named, those of others in grey."""
    low, high = data.windows[track]
    divisor, unit = scale_for([high], "s")
    own: list[Slice] = []
    for group in data.groups:
        if group.track != track or group.end_s <= low or group.start_s >= high:
            continue
        inside = [piece for piece in group.slices if piece.end_s > low and piece.start_s < high]
        if group.label == data.layer:
            _bars(axes, inside, 0, divisor, edge="#444444")
            own += inside
            continue
        if group.label:
            _bars(axes, inside, 0, divisor, edge="white", colour=OTHER_LAYER, hatch="////")
        else:
            _bars(axes, inside, 0, divisor, edge="none")
        start, end = max(group.start_s, low), min(group.end_s, high)
        if end - start > 0.009 * (len(group.label) + 1) * (high - low):
            axes.text(
                (start + end) / 2 / divisor, 0, group.label, fontsize=SMALL, ha="center", va="center", zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
    axes.set_xlim(low / divisor, high / divisor)
    axes.set_ylim(-0.4, 0.4)
    axes.set_yticks([0], [track])
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="x", top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.spines["bottom"].set_visible(False)
    first, last = own[0].start_s, own[-1].end_s
    busy = sum(piece.end_s - piece.start_s for piece in own)
    waits = f", {format_quantity(busy, 's')} of it busy" if busy < 0.99 * (last - first) else ""
    axes.set_title(
        f"{SAYS[track]} {data.layer} in {format_quantity(last - first, 's')}{waits}   (axis: {unit})", loc="left",
        fontsize=10,
    )  # fmt: skip
    longest = sorted(own, key=lambda piece: piece.start_s - piece.end_s)[:MOST_NAMES]
    named = [piece for piece in own if piece in longest]
    spots = [((piece.start_s + piece.end_s) / 2 / divisor, _name(piece, data.layer)) for piece in named]
    labels_below(axes, spots, -0.36)


def _bars(
    axes: Any, pieces: list[Slice], row: int, divisor: float, edge: str, colour: str = "", hatch: str | None = None
) -> None:
    axes.broken_barh(
        [(p.start_s / divisor, (p.end_s - p.start_s) / divisor) for p in pieces], (row - 0.32, 0.64),
        facecolors=[colour or KIND_COLOURS[kind_of(p)] for p in pieces], edgecolor=edge, linewidth=0.4, hatch=hatch,
    )  # fmt: skip


def _name(piece: Slice, layer: str) -> str:
    """A kernel's path inside the layer, or an op of the host."""
    if piece.track == "host":
        return short(piece.name.replace("aten::", ""))
    return short(piece.name.removeprefix(f"transformer.{layer}.").removeprefix("transformer.h."))
