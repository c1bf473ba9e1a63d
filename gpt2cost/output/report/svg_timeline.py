"""The host's queue above the device's stream as inline SVG: the whole pass, and one layer closely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

from gpt2cost.output.apart import spread
from gpt2cost.output.colours import KIND_COLOURS
from gpt2cost.output.pictures.plot_timeline import TRACKS, Group, Timeline, kind_of
from gpt2cost.output.report.svg_chart import (
    LINE,
    WIDTH,
    Chart,
    Scale,
    cut_to,
    number,
    path,
    plain,
    text_width,
    tip,
)
from gpt2cost.output.shared import short_name
from gpt2cost.table.kernel import short_path
from gpt2cost.timing.queue_steps import Slice
from gpt2cost.units import format_quantity, scale_for

LEFT, RIGHT = 54.0, WIDTH - 16
ROW = 20.0
"""Height of a track."""
FINEST = 0.5
"""Units below which a slice is drawn together with its neighbours."""
OWN = 6.0
"""Units from which on a slice of the whole pass is a mark of its own, with its name where a pointer rests on it."""
NAMED = 28
"""The most kernels of a layer that are named."""
GAP = 14.0
"""Between two names that are turned."""


@dataclass
class _Run:
    """Slices that follow one another and are drawn as one, in units; `widths`: class -> units."""

    start: float
    end: float
    widths: dict[str, float]
    only: Slice | None

    @property
    def class_(self) -> str:
        """That of what takes the most of it."""
        return max(self.widths, key=self.widths.__getitem__)


def timeline(data: Timeline) -> str:
    """The chart: 480 units wide."""
    busy = sum(piece.end_s - piece.start_s for piece in data.slices if piece.track == "device")
    chart = Chart(
        f"{data.title}. The pass takes {format_quantity(data.latency_s, 's')}; the device is busy for"
        f" {format_quantity(busy, 's')} of it."
    )
    bottom = _layer(chart, data, _whole(chart, data) + 2 * LINE)
    kinds = {kind_of(piece) for piece in data.slices}
    names = {"host": "no kernel: view, call, wait"}
    entries = [(f"k-{kind}", names.get(kind, kind)) for kind in KIND_COLOURS if kind in kinds]
    chart.height = chart.legend(bottom + LINE + 6, [*entries, ("other", "other layers")]) - 8
    return chart.svg()


def _whole(chart: Chart, data: Timeline) -> float:
    """The whole pass from the top on; where its axis ends."""
    scale = Scale(0.0, data.latency_s, LEFT, RIGHT)
    chart.text(4.0, 12.0, f"the whole pass; framed: {data.layer}, which is below")
    for index, track in enumerate(TRACKS):
        y = LINE + 6 + index * (ROW + 4)
        own = [piece for piece in data.slices if piece.track == track]
        _track(chart, _runs(own, scale), y, track, OWN)
        if track in data.windows:
            group = next(group for group in data.groups if group.track == track and group.label == data.layer)
            low, high = scale(group.start_s), scale(group.end_s)
            chart.add("rect", class_="frame", x=low, y=y - 1, width=max(high - low, 1.0), height=ROW + 2)
    bottom = LINE + 6 + 2 * ROW + 4
    layers = [group for group in data.groups if group.track == "device" and group.label.startswith("h.")]
    spans = [(group.start_s, group.end_s, group.label) for group in data.groups if group.track == "device"]
    if layers:
        spans = [span for span in spans if not span[2].startswith("h.")]
        spans.append((layers[0].start_s, layers[-1].end_s, f"{len(layers)} layers"))
    for start_s, end_s, label in sorted(spans, key=lambda span: span[0] - span[1]):
        low, high = scale(start_s), scale(end_s)
        if label and high - low >= 3:
            chart.add("path", class_="lead", d=f"M{number(low + 0.5)},{number(bottom + 3)}v3H{number(high - 0.5)}v-3")
            middle = (low + high) / 2
            chart.text_at(
                [(middle, bottom + 18, "middle"), (low, bottom + 18, "start"), (high, bottom + 18, "end")], label
            )
    return _time_axis(chart, scale, bottom + 24)


def _layer(chart: Chart, data: Timeline, top: float) -> float:
    """One layer of each track that has its steps, with the kernels' names; where they end."""
    chart.text(4.0, top, f"one layer: {data.layer}")
    y = top + 6
    for track, (low_s, high_s) in data.windows.items():
        scale = Scale(low_s, high_s, LEFT, RIGHT)
        groups = [
            group for group in data.groups if group.track == track and group.start_s < high_s and group.end_s > low_s
        ]
        own, others = ([group for group in groups if (group.label == data.layer) is inside] for inside in (True, False))
        _track(chart, _runs([piece for group in own for piece in group.slices], scale), y, track, FINEST)
        rest = [piece for group in others for piece in group.slices if piece.start_s < high_s and piece.end_s > low_s]
        _track(chart, _runs(rest, scale, "other"), y, "", WIDTH)
        for group in others:
            _other_name(chart, group, scale, y)
        bottom = y + ROW
        if track == "device" or "device" not in data.windows:
            bottom = _names(chart, data, [piece for group in own for piece in group.slices], scale, bottom)
        y = _time_axis(chart, scale, bottom + 4) + 6
    return y


def _other_name(chart: Chart, group: Group, scale: Scale, y: float) -> None:
    """What follows the layer inside its window, named in place where there is room."""
    low, high = (scale(min(max(at, scale.low), scale.high)) for at in (group.start_s, group.end_s))
    if group.label and text_width(group.label) + 6 < high - low:
        chart.text((low + high) / 2, y + 14, group.label, "middle")


def _names(chart: Chart, data: Timeline, inside: list[Slice], scale: Scale, y: float) -> float:
    """The names of the layer's longest kernels below `y`, turned; where they end."""
    longest = sorted((p for p in inside if p.launch is not None), key=lambda piece: piece.start_s - piece.end_s)[:NAMED]
    longest.sort(key=lambda piece: piece.start_s)
    names = [cut_to(short_name(piece.name).removeprefix(f"{data.layer}."), 150.0) for piece in longest]
    middles = [scale((piece.start_s + piece.end_s) / 2) for piece in longest]
    places = spread(middles, [GAP] * len(middles), LEFT - GAP / 2, RIGHT + GAP / 2)
    for piece, text, middle, place in zip(longest, names, middles, places, strict=True):
        chart.add("path", class_="lead", d=path([(middle, y), (place, y + 12)]))
        turn = f"rotate(90 {number(place - 4)} {number(y + 15)})"
        chart.add("text", escape(text), x=place - 4, y=y + 15, transform=turn, data_kernel=_kernel(piece))
    return y + 15 + max(map(text_width, names), default=0.0)


def _time_axis(chart: Chart, scale: Scale, y: float) -> float:
    """Ticks of the time since the pass began, at `y`; where their texts end."""
    divisor, unit = scale_for([scale.high], "s")
    units = Scale(scale.low / divisor, scale.high / divisor, scale.start, scale.end)
    ticks = units.ticks(6)
    marks = "".join(f"M{number(units(at))},{number(y)}v4" for at in ticks)
    chart.add("path", class_="axis", d=f"M{number(scale.start)},{number(y)}H{number(scale.end)}{marks}")
    for at in ticks:
        chart.text_at([(units(at), y + LINE, "middle")], plain(at), "tick")
    chart.text(4.0, y + LINE, unit, class_="tick")
    return y + LINE


def _track(chart: Chart, runs: Iterable[_Run], y: float, track: str, least: float) -> None:
    """The slices of a track: those of at least `least` units as marks of their own, the others as a path per class."""
    chart.text(LEFT - 6, y + 14, track, "end")
    together: dict[str, list[str]] = {}
    ends: dict[str, float] = {}  # of each path so far: what follows is written from there on
    for run in runs:
        width = max(sum(run.widths.values()), 0.1)  # of what runs, without the gaps between
        if run.only and width >= (least if run.only.launch is not None else max(least, OWN)):
            chart.add(
                "rect", tip(_said(run.only)), class_=run.class_, x=run.start, y=y, width=width, height=ROW,
                data_kernel=_kernel(run.only),
            )  # fmt: skip
        else:
            class_, start, width = run.class_, round(run.start, 1), round(width, 1)
            move = f"m{number(start - ends[class_])},0" if class_ in ends else f"M{number(start)},{number(y + ROW / 2)}"
            together.setdefault(class_, []).append(f"{move}h{number(width)}")
            ends[class_] = start + width
    for class_, lines in together.items():
        chart.add("path", class_=f"thick {class_}", d="".join(lines), stroke_width=ROW)


def _runs(slices: Iterable[Slice], scale: Scale, class_: str = "") -> Iterator[_Run]:
    """The slices between the scale's ends, neighbours narrower than `FINEST` as one."""
    run: _Run | None = None
    for piece in slices:
        start, end = (scale(min(max(at, scale.low), scale.high)) for at in (piece.start_s, piece.end_s))
        own, fine = class_ or f"k-{kind_of(piece)}", end - start < FINEST
        if run and fine and run.end - run.start < FINEST and start - run.end < FINEST:
            run.widths[own] = run.widths.get(own, 0.0) + end - start
            run.end, run.only = end, None
        else:
            if run:
                yield run
            run = _Run(start, end, {own: end - start}, piece)
    if run:
        yield run


def _kernel(piece: Slice) -> str | None:
    """The name of the row that the slice runs or issues."""
    return None if piece.launch is None or piece.row is None else short_path(piece.row.path)


def _said(piece: Slice) -> str:
    kind = kind_of(piece)
    name = short_path(piece.name)
    lasts, starts = (format_quantity(seconds, "s") for seconds in (piece.end_s - piece.start_s, piece.start_s))
    return f"{name}{'' if kind == 'host' else f' ({kind})'}: {lasts}, from {starts}"
