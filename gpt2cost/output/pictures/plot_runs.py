"""What pictures of whole runs show: a generation token by token, and a training step along one of its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2cost.checks import check_point
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.output.pictures.plot_data import BANDS, MOST_POINTS, Floats, Line, Swept, how_line, step_line
from gpt2cost.prediction.generate import generate
from gpt2cost.prediction.grid import size_axis
from gpt2cost.prediction.settings import How
from gpt2cost.prediction.train import Step, check_gpus, train_run
from gpt2cost.prediction.train_settings import Batch, TrainHow, check_batch
from gpt2cost.table.config import Model

WITH_CACHE, WITHOUT_CACHE = "with a KV cache", "without"
STEP_PARTS = {
    "forward": "forward_s", "backward": "backward_s", "communication": "exposed_communication_s",
    "gradient clipping": "clip_s", "optimizer": "optimizer_s",
}  # fmt: skip
"""The parts of a training step on the device. Of communication: what the backward pass does not hide."""
HOST_ALONE = "host before and after"
"""The rest of the step: what the host takes before the first kernel and after the last."""
STEP_AXES = {
    "micro_batch": "micro-batch (sequences per pass and GPU)", "gpus": "GPUs", "seq": "tokens per sequence",
    "grad_accum": "micro-steps per step",
}  # fmt: skip


@dataclass(frozen=True)
class Generated(Swept):
    """Seconds of each new token of a generation, with and without a KV cache.

    `missing`: why one of the two cannot be predicted, "" where both are.
    """

    lines: tuple[Line, ...]
    missing: str


@dataclass(frozen=True)
class StepSplit(Swept):
    """Seconds of a training step by its parts, which add up, over one size.

    `efficiency` is a share, and `efficiency_text` its name: over GPUs scaling efficiency, else MFU. `fits`: where the
    step fits the memory of a GPU. `tokens`: of a step, on all GPUs.
    """

    parts: dict[str, Floats]
    efficiency: Floats
    efficiency_text: str
    efficiency_note: str
    tokens_per_s: Floats
    tokens: Floats
    fits: NDArray[np.bool_]


def generated(model: Model, hw: Hardware, **settings: Any) -> Generated:
    """A generation with a KV cache and one without, token by token. `settings` as `generate` takes them.

    Raises `InputError` for bad input, and where neither runs.
    """
    lines, reasons, new_tokens = [], [], 0
    warnings: list[str] = []
    for label, use_cache in ((WITH_CACHE, True), (WITHOUT_CACHE, False)):
        try:
            run = generate(model, hw, **settings, use_cache=use_cache)
        except InputError as error:
            reasons.append(error)
            continue
        if use_cache and not run.settings.how.use_cache:  # nanoGPT's code has none
            reasons.append(InputError(f"{run.settings.how.impl}'s code has no KV cache"))
            continue
        turns = (run.first, run.rest)
        middle, low, high = (
            np.concatenate([np.atleast_1d(getattr(turn, name)) for turn in turns]).astype(np.float64)
            for name in ("latency_s", "latency_low_s", "latency_high_s")
        )
        waits = np.concatenate([np.atleast_1d(turn.bound) == "host" for turn in turns])
        lines.append(Line(label, middle, low, high, waits))
        warnings += run.warnings
        shown, new_tokens = run.settings, run.settings.new_tokens
    if not lines:
        raise reasons[0]
    how: How = replace(shown.how, use_cache=True)
    return Generated(
        title=f"Time per token of {model.name} on {hw.name}: predicted generation",
        subtitle=f"batch {shown.batch_size}, prompts of {shown.prompt_tokens} tokens\n{how_line(how)}; {BANDS}",
        warnings=tuple(dict.fromkeys(warnings)),
        axis="token",
        axis_text="new token (the first takes the whole prompt)",
        sizes=np.arange(1, new_tokens + 1),
        lines=tuple(lines),
        missing=str(reasons[0]) if reasons else "",
    )


def step_parts(step: Step) -> dict[str, Any]:
    """The seconds of a training step by its parts, which add up."""
    parts = {label: getattr(step, name) for label, name in STEP_PARTS.items()}
    return {**parts, HOST_ALONE: np.maximum(0.0, step.step_s - sum(parts.values()))}


def step_split(model: Model, hw: Hardware, how: TrainHow, sizes: Mapping[str, object]) -> StepSplit:
    """A training step along the one of `STEP_AXES` in `sizes` that has several values.

    `sizes` are those of `train`: values, lists or ranges; what is None follows from the others. Over GPUs as many nodes
    are taken as they need. Raises `InputError` for bad input.
    """
    axis, values, given = _swept(sizes)
    seq = given.pop("seq", None) or model.n_positions
    gpus, nodes = given.pop("gpus", 1), given.pop("nodes", None)
    batches = []
    for value in values.tolist():
        own = {**given, "seq": seq, "gpus": gpus, axis: value}
        own_seq, own_gpus = own.pop("seq"), own.pop("gpus")
        batch = check_batch(own, own_seq, own_gpus, _nodes(hw, own_gpus) if nodes is None else nodes)
        check_gpus(hw, how, batch)
        batches.append(batch)
    names = ("micro_batch", "seq_len", "grad_accum", "gpus", "nodes")
    training = train_run(model, hw, how, Batch(*(np.array([getattr(b, n) for b in batches], float) for n in names)))
    step = training.step

    def spread(numbers: Any) -> Floats:
        return np.asarray(np.broadcast_to(numbers, values.shape), np.float64)

    parts = {label: spread(seconds) for label, seconds in step_parts(step).items()}
    per_gpu = spread(step.tokens_per_s_per_gpu)
    over_gpus = axis == "gpus"
    return StepSplit(
        title=f"Where a training step of {model.name} spends its time on {hw.name}: predicted",
        subtitle=f"{_fixed(axis, batches)}\n{step_line(training.train)}",
        warnings=training.warnings,
        axis=axis,
        axis_text=STEP_AXES[axis],
        sizes=values,
        parts={label: seconds for label, seconds in parts.items() if np.any(seconds)},
        efficiency=per_gpu / per_gpu[0] if over_gpus else spread(step.mfu),
        efficiency_text="scaling efficiency" if over_gpus else "MFU",
        efficiency_note=f"tokens/s per GPU, over those with {values[0]}" if over_gpus else "model FLOPs utilization",
        tokens_per_s=spread(step.tokens_per_s),
        tokens=spread(training.batch.global_tokens),
        fits=np.broadcast_to(np.asarray(training.memory.fits), values.shape),
    )


def _swept(sizes: Mapping[str, object]) -> tuple[str, NDArray[np.int64], dict[str, Any]]:
    """The size with several values, those, and what is given of the others."""
    axes = {name: size_axis(name, value, 1, []) for name, value in sizes.items() if value is not None}
    axes = {name: np.unique(values) for name, values in axes.items()}
    several = [name for name, values in axes.items() if len(values) > 1]
    if len(several) != 1 or several[0] not in STEP_AXES:
        flags = ", ".join(STEP_AXES)
        raise InputError(
            f"exactly one of {flags} must have several values, such as 1-64*2; got {' and '.join(several) or 'none'}"
        )
    (axis,) = several
    if len(axes[axis]) > MOST_POINTS:
        raise InputError(f"{axis}: a picture takes at most {MOST_POINTS} values, got {len(axes[axis])}")
    given = {name: check_point(name, int(values[0]), 1) for name, values in axes.items() if name != axis}
    return axis, axes[axis].astype(np.int64), given


def _nodes(hw: Hardware, gpus: int) -> int:
    """As many nodes as so many GPUs need."""
    return 1 if hw.interconnect is None else -(-gpus // hw.interconnect.links.gpus)


def _fixed(axis: str, batches: list[Batch]) -> str:
    """The sizes that are the same everywhere."""
    texts = {
        "micro_batch": "micro-batch {}", "seq_len": "{} tokens per sequence", "grad_accum": "{} micro-steps",
        "gpus": "{} GPUs", "nodes": "{} nodes",
    }  # fmt: skip
    same = {name: {getattr(batch, name) for batch in batches} for name in texts}
    usual = ("grad_accum", "gpus", "nodes")
    shown = (
        text.format(*same[name])
        for name, text in texts.items()
        if len(same[name]) == 1 and (name not in usual or same[name] != {1})
    )
    nodes = ", as many nodes as they need" if len(same["nodes"]) > 1 else ""
    return ", ".join(shown) + nodes
