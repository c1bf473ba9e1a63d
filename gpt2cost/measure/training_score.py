"""Published training steps beside their predictions. See `training_rows` for what is read of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2cost.errors import InputError
from gpt2cost.measure.training_rows import TrainingRow, read_training_rows
from gpt2cost.prediction.train import Training, train
from gpt2cost.table.config import change_model, load_model
from gpt2cost.table.kernel import FusedAttention, Gemm


@dataclass(frozen=True, eq=False)
class TrainingScore:
    """A measured step, or a part of one, beside its prediction, in seconds; or its memory, in bytes.

    `fitted`: the constants that were fitted to this very row, by the provenance of the device's file and by `FITTED`.
    """

    row: TrainingRow
    predicted: float
    low: float
    high: float
    roofline: float
    fitted: str = ""
    repeat: float | None = None

    @property
    def operation(self) -> str:
        """What was timed, in short: `train step, compile, sdpa, 8 GPUs`."""
        row = self.row
        gpus = f", {row.gpus} GPUs" if row.gpus > 1 else ""
        return f"train {row.timed}, {row.runtime}, {row.attn}{gpus}"

    @property
    def measured(self) -> float:
        own = self.row.measured_bytes
        return self.row.measured_s if own is None else own

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1.0

    @property
    def roofline_error(self) -> float:
        return self.roofline / self.measured - 1.0

    @property
    def inside(self) -> bool:
        """Whether the measurement lies within the predicted range; memory has none."""
        return self.low <= self.measured <= self.high


def score_training(folder: Path) -> tuple[list[TrainingScore], Counter[str]]:
    """The training steps of a folder's CSV files, predicted; and why rows were passed over -> how many.

    Raises `InputError` for a folder or a file that cannot be read.
    """
    rows, skipped = read_training_rows(folder)
    return list(score_rows(rows, skipped)), skipped


def score_rows(rows: Iterable[TrainingRow], skipped: Counter[str]) -> Sequence[TrainingScore]:
    """The rows beside their predictions; counts in `skipped` why one was passed over."""
    scored = []
    for row in rows:
        try:
            training = predict_row(row)
        except InputError as error:
            skipped[str(error)] += 1
            continue
        step = training.step
        if row.timed == "memory":
            held = float(training.memory.total_bytes)
            scored.append(TrainingScore(row, held, held, held, held))
            continue
        if step.hfu * step.step_s > row.measured_s and row.timed == "step":
            skipped["faster than the peak of its precision: it must have been another"] += 1
            continue
        parts = {"step": step.step_s, "forward": step.forward_s, "backward": step.backward_s}
        predicted_s = float(parts.get(row.timed, step.forward_s + step.backward_s))
        low, high = (float(end / step.step_s) for end in (step.step_low_s, step.step_high_s))
        names = {"step": None, "forward": ("forward",), "backward": ("backward",)}.get(
            row.timed, ("forward", "backward")
        )
        scored.append(
            TrainingScore(
                row,
                predicted_s,
                low * predicted_s,
                high * predicted_s,
                roofline_s(training, names),
                _fitted(training, row),
            )
        )
    return scored


def predict_row(row: TrainingRow) -> Training:
    """What is predicted of what a row ran. Raises `InputError` where that is impossible."""
    changes = {name: value for name, value in (("vocab_size", row.vocab_size), ("bias", row.bias)) if value is not None}
    dropout = 0.0 if row.dropout is None and row.impl == "nanogpt" else row.dropout
    return train(
        change_model(load_model(row.model), changes),
        row.gpu,
        gpus=row.gpus,
        nodes=row.nodes,
        micro_batch=row.micro_batch,
        seq=row.seq,
        grad_accum=row.grad_accum,
        precision=row.precision,
        attn=row.attn,
        runtime=row.runtime,
        compile_inside_ddp=row.compile_inside_ddp,
        optimizer=row.optimizer,
        clip_grad_norm=row.clip_grad_norm,
        dropout=dropout,
        zero=row.zero,
        impl=row.impl,
    )


def roofline_s(training: Training, phases: tuple[str, ...] | None) -> float:
    """The longer of FLOPs over peak and operand bytes over DRAM bandwidth, summed over the kernels of some phases."""
    hw = training.hardware
    peak = hw.compute.peak_flop_per_s[training.train.numbers.dtype]
    seconds = (
        float(phase.count)
        * max(
            cost.flops / peak if isinstance(cost.kernel.shape, Gemm | FusedAttention) else 0.0,
            cost.moved_bytes / hw.memory.bandwidth_bytes_per_s,
        )
        for phase in training.phases
        if phases is None or phase.phase in phases
        for cost in phase.kernels
    )
    return float(sum(seconds))


def _fitted(training: Training, row: TrainingRow) -> str:
    """The constants that were fitted to the row's source: of the device, as its provenance says, and of the code."""
    source = row.source.rpartition(", ")[2].partition(":")[0]
    path = "compute.sustained_fp32" if training.train.how.dtype == "fp32" else "compute.sustained"
    text = training.hardware.provenance.get(path, "")
    names = [path] if text.startswith("fitted") and source in text else []
    own = (row.runtime, row.precision, row.source)
    names += [name for name, words in FITTED.items() if all(map(re.search, words, own))]
    return ", ".join(names)


FITTED = {
    "ODD_ROWS": ("eager", "bf16|fp16", r"classcentral\.com|44747638439|26176040529|nanoGPT:README"),
    "PARAMETER": ("compile", "bf16|fp16", r"Jjschwartz/gollem@9bdf113:experiments/gpt2/5_"),
}
"""A constant in the code that was fitted to published steps -> patterns of their runtime, precision and source."""
