"""A trace of torch.profiler beside the predictions of its passes. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, plain
from gpt2cost.measure.observed import Observed
from gpt2cost.measure.plan import usual_dtype
from gpt2cost.measure.profile_score import ProfileScore, score_trace
from gpt2cost.measure.score import Validation
from gpt2cost.measure.torch_trace import Size, Trace
from gpt2cost.measure.trace_says import Said, check_attention, check_forward, check_model, differences, said_by
from gpt2cost.prediction.settings import SIZE_FIELDS, How, check_device, check_how, check_single_sizes
from gpt2cost.table.config import Model, change_model

MOST_SIZES = 8
"""How many sizes of passes are scored where none is asked for: `generate` has one per token."""


def validate_trace(
    trace: Trace, path: Path, hw: Hardware, model: Model, sizes: Sequence[Size] | None = None, *,
    dtype: str | None = None, attn: str | None = None, runtime: str | None = None, use_cache: bool = True,
) -> tuple[Validation, list[str]]:  # fmt: skip
    """The kernels of a trace beside their predictions, a profile for each size of its passes, and warnings.

    `sizes`: the one that is meant; by default all that were recorded. What else is None is as the trace says. Raises
    `InputError` for a trace of another model or attention, or of other sizes, and where there is no whole pass.
    """
    where, said = plain(str(path)), said_by(trace)
    check_forward(trace, where)
    if switched := {name: value for name, value in said.switches.items() if value != getattr(model, name)}:
        model = change_model(model, switched)
    how = how_of(said, hw, model, dtype, attn, runtime, use_cache)
    chosen = [
        (check_single_sizes(*size, how.use_cache), observed)
        for size, observed in chosen_passes(trace, where, sizes).items()
    ]
    unlike = list(differences(said, hw, how))
    check_model(said, model, where, unlike)
    check_attention(said, how, where)
    check_device(hw, how, model.head_dim)
    warnings = [f"{where}: {text}" for text in (trace.note, *unlike) if text]
    if dtype is None and how.dtype in said.dtypes and how.dtype != usual_dtype(hw.vendor == "cpu"):
        warnings.append(f"{where}: it was recorded in {how.dtype}, which is taken for --dtype")
    if hw.vendor != "cpu" and not trace.on_device:
        warnings.append(f"{where}: no kernels of a device in it: its ops' times are the host's")
    if len(chosen) > MOST_SIZES:
        warnings.append(
            f"{where}: passes of {len(chosen)} sizes in it: the first {MOST_SIZES} are scored; --case picks one"
        )
    profiles: list[ProfileScore] = []
    refused: list[InputError] = []
    for size, observed in chosen[:MOST_SIZES]:
        try:
            profiles.append(score_trace(hw, model, how, size, observed))
        except InputError as error:
            refused.append(InputError(f"{where}: {str(error).removeprefix('trace: ')}"))
    if not profiles:
        raise refused[0]
    return Validation(hw, (), tuple(profiles), {}), [*warnings, *map(str, refused)]


def how_of(
    said: Said, hw: Hardware, model: Model, dtype: str | None, attn: str | None, runtime: str | None, use_cache: bool
) -> How:
    """How the passes of a trace ran: as is given, else as the trace says, else as the model's config does, or usual."""
    settings = said.settings
    recorded = next((own for own in said.dtypes if own in hw.compute.peak_flop_per_s), None)
    return check_how(
        dtype or recorded or model.dtype or usual_dtype(hw.vendor == "cpu"),
        attn or settings.get("attn"),
        runtime or settings.get("runtime", "eager"),
        settings.get("logits", "all"),
        use_cache and settings.get("use_cache", True),
        settings.get("cache_type", "dynamic"),
        settings.get("impl"),
    ).on(model)


def chosen_passes(trace: Trace, where: str, sizes: Sequence[Size] | None) -> dict[Size, list[Observed]]:
    """What was observed of the passes that are meant, by size. Raises `InputError` where that is not clear."""
    recorded = trace.by_size
    known = {size: observed for size, observed in recorded.items() if size is not None}
    if sizes is None:
        if not known:
            raise InputError(f"{where}: {_lacking(trace)}; give --batch, --seq and --cache")
        return known
    if len(sizes) != 1:
        raise InputError(f"{where}: expected one size for a trace, got {len(sizes)}")
    (asked,) = sizes
    if not known:
        return {asked: recorded[None]}
    uncertain = (*asked[:2], 0)  # a static cache leaves no trace of how full it is
    if asked in known or uncertain in known:
        return {asked: known[asked if asked in known else uncertain]}
    certain = 3 if any(cached for *_, cached in known) else 2
    names = ", ".join(list(SIZE_FIELDS)[:certain])
    have = " or ".join(str(size[:certain]) for size in list(known)[:MOST_SIZES])
    raise InputError(f"{where}: its {names} are {have}, got {asked[:certain]}")


def _lacking(trace: Trace) -> str:
    """Which shapes the sizes of a pass would come from."""
    if any("GraphLaunch" in event.name for event in trace.file.slices):
        return "its kernels are those of a CUDA graph, of which no shapes are recorded"
    if not any(op.dims for op in (*trace.ops, *trace.observed)):
        return "no shapes were recorded, as torch.profiler does with record_shapes=True"
    return "shapes were recorded, but of no embedding of token ids (batch, tokens), which says the sizes"
