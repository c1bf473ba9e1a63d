"""What a timeline shows: a pass on the host queue and the device stream, and one layer of it closely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from gpt2cost.output.chrome_trace import slices_of
from gpt2cost.output.pictures.plot_data import Picture, how_line, pass_line
from gpt2cost.prediction.predict import Prediction
from gpt2cost.table.heads import HEAD_MODULES
from gpt2cost.table.kernel import Kernel
from gpt2cost.timing.queue_steps import Slice

TRACKS = ("host", "device")
AROUND = 0.06
"""Of a layer's span, as much is shown of what comes before it and after it."""


@dataclass(frozen=True)
class Group:
    """Slices of one track that follow one another and belong together.

    `label`: `embeddings` (with the masks), a layer such as `h.3`, `ln_f`, `lm_head`; "" for calls around the pass.
    """

    track: str
    label: str
    slices: tuple[Slice, ...]

    @property
    def start_s(self) -> float:
        return self.slices[0].start_s

    @property
    def end_s(self) -> float:
        return self.slices[-1].end_s


@dataclass(frozen=True)
class Timeline(Picture):
    """A pass on the host queue and the device stream, in seconds.

    `layer`: the label of the group that is looked at closely. `windows`: of each track that has steps of that layer,
    from its first to its last, and a little of what comes before and after.
    """

    slices: tuple[Slice, ...]
    groups: tuple[Group, ...]
    latency_s: float
    layer: str
    windows: dict[str, tuple[float, float]]


def timeline(prediction: Prediction) -> Timeline:
    """The first phase of a single-point prediction, and the middle one of its layers to look at closely.

    Raises `InputError` where it has too many slices.
    """
    phase = prediction.phases[0]
    (slices,) = slices_of(phase)
    layer = f"h.{prediction.model.n_layer // 2}"
    groups = tuple(group for track in TRACKS for group in _groups(slices, track, prediction.model.n_layer))
    own = {group.track: group for group in groups if group.label == layer}
    end_s = slices[-1].end_s
    beyond = {track: AROUND * (group.end_s - group.start_s) for track, group in own.items()}
    return Timeline(
        title=f"Timeline of {prediction.model.name} on {prediction.hardware.name}: predicted {phase.phase}",
        subtitle=f"{pass_line(phase)}\n{how_line(prediction.how)}",
        warnings=prediction.warnings,
        slices=tuple(slices),
        groups=groups,
        latency_s=end_s,
        layer=layer,
        windows={
            track: (max(0.0, group.start_s - beyond[track]), min(end_s, group.end_s + beyond[track]))
            for track, group in own.items()
        },
    )


def kind_of(piece: Slice) -> str:
    """The kernel kind of a slice; `host` for what launches none."""
    return piece.row.step.kind if piece.row is not None and isinstance(piece.row.step, Kernel) else "host"


def _groups(slices: Sequence[Slice], track: str, layers: int) -> Iterator[Group]:
    seen: set[str] = set()

    def label(piece: Slice) -> str:
        names = piece.module.removeprefix("transformer").removeprefix(".").split(".")
        is_layer = names[:1] == ["h"] and len(names) > 1
        if is_layer and names[1].isdecimal():
            own = f"h.{names[1]}"
        elif is_layer:  # what a compiler has taken out of the first block or out of the last
            own = f"h.{layers - 1}" if "h.0" in seen else "h.0"
        elif names[0] in ("ln_f", *HEAD_MODULES):
            own = names[0]
        else:
            begins = "h.0" not in seen and (piece.module or kind_of(piece) != "host")
            own = "embeddings" if begins else ""
        seen.add(own)
        return own

    for own, pieces in groupby((piece for piece in slices if piece.track == track), key=label):
        yield Group(track, own, tuple(pieces))
