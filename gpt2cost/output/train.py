"""A training step and its run as rows, as a document, as text and as Markdown: the only list of its output fields.

A kernel's figures are those of one pass, over its `count` launches, so rows sum to the phase's totals; a phase comes
`count` times in a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

from gpt2cost.output import shared
from gpt2cost.output.field import Field, Record, attribute, attributes, record_of
from gpt2cost.output.formats import figures, sections
from gpt2cost.output.kernel_rows import kernel_records
from gpt2cost.output.page import Page
from gpt2cost.output.pass_text import pass_rows, pass_tables, sums_text
from gpt2cost.output.prediction import changes, slowest_kernels
from gpt2cost.output.record import FLOPS_CONVENTION, View, envelope
from gpt2cost.prediction.mfu import FlopsCount, mfu_conventions
from gpt2cost.prediction.train import Training, TrainPhase
from gpt2cost.prediction.train_explain import slowest, what_would_help
from gpt2cost.prediction.train_settings import one_dropout
from gpt2cost.table.citations import transformers_version
from gpt2cost.table.config_file import PDROPS
from gpt2cost.timing.overlap import Bucket
from gpt2cost.units import format_quantity

# ---------------------------------------------------------------------------------------------- fields


SETTINGS: tuple[Field[Training], ...] = (
    *attributes("gpus", "nodes", "micro_batch", "seq_len", "grad_accum", "global_batch", "global_tokens", of="batch"),
    attribute("precision", of="train"), *attributes("attn", "runtime", "impl", of="train.how"),
    *attributes("compile_inside_ddp", "optimizer", "clip_grad_norm", of="train"),
    Field("dropout", "", "", lambda training: one_dropout(training.model)), *attributes(*PDROPS, of="model"),
    *attributes("checkpointing", "zero", of="train"),
    *attributes("eval_every", "eval_batches", "price_per_hour", of="length"),
)  # fmt: skip
"""What was asked for. `dropout`: null where embeddings, attention and residuals have different probabilities."""
INPUTS = (attribute("model", path="model.name"), attribute("gpu", path="hardware.name"), *SETTINGS)
STEP_KEYS = (
    "step_s", "step_low_s", "step_high_s", "forward_s", "backward_s", "optimizer_s", "clip_s", "communication_s",
    "exposed_communication_s", "device_s", "host_s", "bound", "tokens_per_s", "tokens_per_s_per_gpu", "flops", "mfu",
    "mfu_convention", "hfu",
)  # fmt: skip
STEP: tuple[Field[Training], ...] = attributes(*STEP_KEYS, of="step")
MEMORY: tuple[Field[Training], ...] = (
    *attributes(
        "parameters_bytes", "gradients_bytes", "optimizer_bytes", "bucket_bytes", "casts_bytes", "activations_bytes",
        "logits_bytes", "total_bytes", "capacity_bytes", "fits", of="memory",
    ),
    attribute("max_micro_batch"), attribute("peak_at", of="memory"),
)  # fmt: skip
RUN: tuple[Field[Training], ...] = attributes(
    "tokens_per_step", "steps", "tokens", "time_s", "gpu_hours", "cost", of="run"
)
BUCKETS: tuple[Field[Bucket], ...] = (
    attribute("bytes", "bucket", "B", path="size_bytes"), attribute("ready_s", "ready", "s"),
    attribute("start_s", "start", "s"), attribute("end_s", "end", "s"),
)  # fmt: skip
MFU: tuple[Field[FlopsCount], ...] = (
    attribute("convention", "MFU as counted by"), attribute("formula", "FLOPs of a token"),
    attribute("flops_per_token", "", "FLOP"), attribute("mfu", "MFU", "%"),
)  # fmt: skip
"""L layers of width C, N parameters, T tokens of a sequence."""
RESULTS: tuple[Field[Training], ...] = (
    *attributes("step_s", "step_low_s", "step_high_s", of="step"), *attributes("trust", "trust_from"),
    attribute("step_bound", path="step.bound"), *attributes("tokens_per_s", "mfu", of="step"),
    *attributes("total_bytes", "fits", of="memory"),
    attribute("valid"),
    attribute("steps", of="run"), attribute("run_tokens", path="run.tokens"),
    attribute("run_time_s", path="run.time_s"), *attributes("gpu_hours", "cost", of="run"),
)  # fmt: skip
"""What every flat row has of the whole step and of the run."""

COPIES = ("accumulate", "to_buckets", "from_buckets")
"""Phases of one kernel a parameter, all alike, between or within the four of a step: people see a line."""

# ---------------------------------------------------------------------------------------------- records


def _rows(training: Training, group: str) -> Iterator[Record]:
    """One flat row per kernel and phase, with every input and the step's main results, for CSV and JSON lines."""
    inputs = {**record_of(INPUTS, training), "transformers_version": transformers_version()}
    results = record_of(RESULTS, training)
    for phase in training.phases:
        for row in _kernels(phase, group):
            yield {**inputs, "phase": phase.phase, "phase_count": phase.count, **row, **results}


def _document(training: Training, group: str, explained: bool) -> Record:
    phases = [_phase_document(phase, group) for phase in training.phases]
    if explained:
        for phase, document in zip(training.phases, phases, strict=True):
            document["slowest"] = list(map(dataclasses.asdict, slowest(training, phase)))
    copies = [document for document in phases if document["phase"] in COPIES]
    sensitivity = list(map(dataclasses.asdict, what_would_help(training))) if explained else []
    counts = [record_of(MFU, count) for count in mfu_conventions(training)] if explained else []
    head = shared.hardware_head(training.hardware, training.train.how.dtype)
    hardware = {**head, **record_of(attributes("trust", "trust_from"), training)}
    return {
        **envelope(training.model, training.hardware),
        "model": shared.model_record(training.model, training.train.how),
        "hardware": hardware,
        "settings": record_of(SETTINGS, training),
        "step": record_of(STEP, training),
        "memory": record_of(MEMORY, training),
        "run": record_of(RUN, training),
        "phases": [document for document in phases if document not in copies],
        "gradient_phases": copies,
        "buckets": [record_of(BUCKETS, bucket) for bucket in training.buckets],
        **({"mfu_conventions": counts, "sensitivity": sensitivity} if explained else {}),
        "warnings": list(training.warnings),
    }


def _kernels(phase: TrainPhase, group: str) -> list[Record]:
    return kernel_records(phase.kernels, phase.pass_.device_s, group)


def _phase_document(phase: TrainPhase, group: str) -> Record:
    return {
        "phase": phase.phase, "count": phase.count, "totals": dataclasses.asdict(phase.totals),
        "symbols": dict(phase.symbols), "kernels": _kernels(phase, group),
    }  # fmt: skip


def _markdown(training: Training, group: str, explained: bool) -> str:
    document = _document(training, group, explained)
    phases: list[tuple[str, list[Record]]] = []
    for phase in (*document["phases"], *document["gradient_phases"]):
        title = f"## {phase['phase']}, {_times(phase['count'])} per step"
        phases += [(title, phase["kernels"]), ("", figures(phase["totals"]))]
        phases += [(f"### {phase['phase']}: slowest", phase.get("slowest", []))]
    return sections(
        ("## step", figures(document["step"])),
        ("## memory", figures(document["memory"])),
        ("## run", figures(document["run"])),
        *phases,
        ("## buckets", document["buckets"]),
        ("## mfu_conventions", document.get("mfu_conventions", [])),
        ("## sensitivity", document.get("sensitivity", [])),
    )


# ---------------------------------------------------------------------------------------------- text


def _text(page: Page, training: Training, group: str, explained: bool, unfolded: bool) -> None:
    """The settings and the memory, a table per phase, then the step's figures and the run's."""
    page.line(f"{_heading(training)}; {FLOPS_CONVENTION}")
    for line in _memory(training):
        page.line(line)
    shown = [phase for phase in training.phases if phase.phase not in COPIES]
    rows = [pass_rows(phase.pass_, phase.totals, group, unfolded) for phase in shown]
    tables = dict(zip((phase.phase for phase in shown), pass_tables(page, rows, group)[0], strict=True))
    for phase in training.phases:
        if phase.phase in COPIES:
            page.line(f"\n{_phase_heading(phase)}, {format_quantity(phase.pass_.device_s, 's')}")
            continue
        page.line(f"\n{_phase_heading(phase)}\n", style="bold")
        page.table(tables[phase.phase])
        page.line(sums_text(phase.totals, training.hardware, training.train.how.dtype))
        if explained:
            slowest_kernels(page, slowest(training, phase))
    if training.buckets:
        page.line("\nall-reduce, bucket by bucket, from the start of the last backward pass\n", style="bold")
        page.fields(training.buckets, BUCKETS)
    if explained:
        page.line("\nL layers of width C, N parameters, T tokens of a sequence\n")
        page.fields(mfu_conventions(training), MFU)
        page.line()
        changes(page, what_would_help(training))
    page.line(f"\n{_headline(training)}", style="bold")
    page.line(_parts(training))
    page.line(_rates(training))
    if training.run.steps is not None:
        page.line(_run(training))
    shared.repeat_warnings(page, training.warnings)


def _heading(training: Training) -> str:
    how, batch = training.train, training.batch
    gpus = f"{batch.gpus} x " if batch.gpus > 1 else ""
    nodes = f" on {batch.nodes} nodes" if batch.nodes > 1 else ""
    inside = " inside DDP" if how.compile_inside_ddp and batch.gpus > 1 else ""
    clip = "no clipping" if how.clip_grad_norm is None else f"clip {how.clip_grad_norm:g}"
    more = [f"checkpointing {how.checkpointing}"] * (how.checkpointing != "none") + [f"ZeRO {how.zero}"] * (
        how.zero > 0
    )
    run = f"{how.precision}, {how.how.attn} attention, {how.how.runtime} runtime{inside}{shared.code_text(how.how)}"
    parts = [run, how.optimizer, clip, _dropout(training), *more]
    model = f"{training.model.name} ({format_quantity(training.model.parameters, '')} parameters)"
    return f"{model} on {gpus}{training.hardware.name}{nodes}, {', '.join(parts)}"


def _dropout(training: Training) -> str:
    one = one_dropout(training.model)
    if one is not None:
        return f"dropout {one:g}" if one else "no dropout"
    return ", ".join(f"{name} {getattr(training.model, name):g}" for name in PDROPS)


def _headline(training: Training) -> str:
    step, batch = training.step, training.batch
    low, high = (format_quantity(value, "s") for value in (step.step_low_s, step.step_high_s))
    trust = shared.trust_text(training.trust, training.trust_from, training.hardware)
    accum = f" x {batch.grad_accum} micro-steps" if batch.grad_accum > 1 else ""
    gpus = f" x {batch.gpus} GPUs" if batch.gpus > 1 else ""
    sizes = f"{batch.micro_batch} x {batch.seq_len} tokens{accum}{gpus} = {batch.global_tokens:,} tokens"
    return f"step: {format_quantity(step.step_s, 's')} ({low} to {high}, {trust}) for {sizes}"


def _parts(training: Training) -> str:
    step = training.step
    parts = {"forward": step.forward_s, "backward": step.backward_s, "clip": step.clip_s, "optimizer": step.optimizer_s}
    texts = [f"{name} {format_quantity(seconds, 's')}" for name, seconds in parts.items()]
    if training.batch.gpus > 1:
        waited, sent = (format_quantity(each, "s") for each in (step.exposed_communication_s, step.communication_s))
        out = [phase.totals.device_s for phase in training.phases if phase.phase == "from_buckets"]
        copied = f" (with {format_quantity(out[0], 's')} of copies out of buckets)" if out else ""
        texts.insert(2, f"communication not hidden {waited} of {sent}{copied}")
    return f"of which {', '.join(texts)}; {step.bound}-bound"


def _rates(training: Training) -> str:
    step = training.step
    each = f" ({format_quantity(step.tokens_per_s_per_gpu, '')} per GPU)" if training.batch.gpus > 1 else ""
    rate = f"{format_quantity(step.tokens_per_s, '')} tokens/s{each}"
    return f"{rate}, MFU {step.mfu:.1%} as nanoGPT counts, HFU {step.hfu:.1%}"


MEMORY_PARTS = {
    "parameters_bytes": "parameters", "gradients_bytes": "gradients", "optimizer_bytes": "optimizer",
    "bucket_bytes": "buckets", "casts_bytes": "casts", "activations_bytes": "activations", "logits_bytes": "logits",
}  # fmt: skip


def _memory(training: Training) -> Iterator[str]:
    memory = training.memory
    parts = ((name, getattr(memory, key)) for key, name in MEMORY_PARTS.items())
    shown = ", ".join(f"{name} {format_quantity(size, 'B')}" for name, size in parts if size)
    total, capacity = (format_quantity(size, "B") for size in (memory.total_bytes, memory.capacity_bytes))
    fits = "fits" if memory.fits else "does NOT fit"
    most = training.max_micro_batch
    largest = f"the largest micro-batch is {most}" if most else "not even a micro-batch of 1 does"
    yield f"memory: {total} of {capacity} usable, {fits}; {largest}"
    yield f"of which {shown}; at its peak in {memory.peak_at}"


def _phase_heading(phase: TrainPhase) -> str:
    kernels = dict.fromkeys(cost.attention_kernel for cost in phase.kernels if cost.attention_kernel)
    attention = f", attention by {', '.join(kernels)}" if kernels else ""
    each, launches = " each" if phase.count > 1 else "", sum(cost.count for cost in phase.kernels)
    return f"{phase.phase}: {_times(phase.count)} per step, {launches} launches{each}{attention}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _run(training: Training) -> str:
    run, length = training.run, training.length
    assert run.steps is not None
    assert run.time_s is not None
    assert run.gpu_hours is not None
    validated = f", validated {_times(length.evaluations)}" if length.evaluations else ""
    steps = "1 step" if run.steps == 1 else f"{run.steps:,} steps"
    cost = "" if run.cost is None else f", cost {run.cost:,.2f} at {length.price_per_hour:g} per GPU-hour"
    return (
        f"run: {steps} of {run.tokens_per_step:,} tokens, {run.tokens:,} in all:"
        f" {_duration(run.time_s)}{validated}, {run.gpu_hours:,.1f} GPU-hours{cost}"
    )


def _duration(seconds: float) -> str:
    """Days, hours or minutes, whichever is the largest that is not below one."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"


# ---------------------------------------------------------------------------------------------- views


def training_view(group: str = "kernel", explained: bool = False, unfolded: bool = False) -> View[Training]:
    """A training step with rows of one of `GROUPS`; the text of one that is `unfolded` names every kernel."""
    options: dict[str, Any] = {"group": group, "explained": explained}
    return View(
        partial(_rows, group=group),
        partial(_document, **options),
        partial(_text, **options, unfolded=unfolded),
        _summary,
        partial(_markdown, **options),
    )


def _summary(training: Training) -> tuple[str, str]:
    seconds = training.step.step_s
    text = format_quantity(seconds, "s") if isinstance(seconds, float) else f"a grid of {training.grid_shape}"
    return f"<Training: {_summary_heading(training)}", f" step {text}>"


def _summary_heading(training: Training) -> str:
    how = training.train
    run = f"{how.precision}, {how.how.runtime} runtime{shared.code_text(how.how)}"
    return f"{training.model.name} on {training.hardware.name}, {run}"


VIEWS: dict[type, View[Any]] = {Training: training_view()}
