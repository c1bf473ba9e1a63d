"""What was measured or traced before, for `gpt2cost validate`: which records are asked for, and of which size a trace
is. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, plain
from gpt2cost.measure.evidence import PASSES, run_of
from gpt2cost.measure.records import Measurement
from gpt2cost.measure.score import Validation, score_trace
from gpt2cost.measure.torch_trace import Observed, trace_sizes
from gpt2cost.prediction.settings import LEAST, SIZE_FIELDS, How, Sizes
from gpt2cost.table.config import Model, load_model


@dataclass(frozen=True)
class RecordFilter:
    """Which recorded passes are asked for: of a size in `cases` or on the axes, and with one of the values of an axis.

    `axes`: model, dtype, attn, runtime, batch, seq, cache; one that is missing takes every value. `cases`: sizes
    (batch, seq, cache). `uncached`: only passes without a KV cache.
    """

    cases: Collection[tuple[int, int, int]]
    axes: Mapping[str, Collection[object]]
    uncached: bool

    def accepts(self, record: Measurement) -> bool:
        """Whether a record is of a pass, or the profile of one, that is asked for."""
        if record["kind"] not in (*PASSES, "profile"):
            return False
        how, sizes = run_of(record)
        size = sizes.batch_size, sizes.seq_len, sizes.cache_len
        on_axes = [value in self.axes[name] for name, value in zip(LEAST, size, strict=True) if name in self.axes]
        fits = size in self.cases or (all(on_axes) if on_axes else not self.cases)
        names = {"model": _name_of(record["model"]), "dtype": how.dtype, "attn": how.attn, "runtime": how.runtime}
        chosen = all(name in self.axes[axis] for axis, name in names.items() if axis in self.axes)
        return chosen and fits and not (self.uncached and how.use_cache)


def _name_of(model: str) -> str:
    """A model's name; of one that is not at hand, what the record calls it."""
    try:
        return load_model(model).name
    except InputError:
        return model


def size_of_trace(path: Path, sizes: Sequence[tuple[int, int, int]] | None) -> Sizes:
    """The size of the passes in a trace: the one of `sizes`, else the one that was recorded.

    Raises `InputError` where there is none, or several, and where they are not the recorded one.
    """
    where, recorded = plain(str(path)), trace_sizes(path)
    chosen = sizes or ([recorded] if recorded else None)
    if chosen is None:
        raise InputError(f"{where}: no shapes were recorded; give --batch, --seq and --cache")
    if len(chosen) != 1:
        raise InputError(f"{where}: expected one size for a trace, got {len(chosen)}")
    certain = 3 if recorded and recorded[2] else 2  # a static cache leaves no trace of how full it is
    if recorded is not None and recorded[:certain] != chosen[0][:certain]:
        names = ", ".join(list(SIZE_FIELDS)[:certain])
        raise InputError(f"{where}: its {names} are {recorded[:certain]}, got {chosen[0][:certain]}")
    return Sizes(*chosen[0])


def validate_trace(hw: Hardware, model: Model, how: How, sizes: Sizes, observed: Sequence[Observed]) -> Validation:
    """The kernels of a trace beside their predictions, as a validation without passes."""
    return Validation(hw, (), (score_trace(hw, model, how, sizes, observed),), {})
