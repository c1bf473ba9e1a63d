"""Training steps that are measured: what was run, what its records say, and the prediction beside it. Needs no torch.

A record of kind `train_step` is a round of one step: `step_us` is the whole of it, undisturbed; `forward_us`,
`backward_us`, `clip_us` and `optimizer_us` are parts of other steps, which wait for the device after each of them. On
CUDA `peak_allocated_bytes` is the most that torch had allocated for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.measure.records import (
    Measurement,
    grouped,
    halves_difference,
    is_time,
    named,
    of_kind,
    times_of,
    trimmed_mean,
)
from gpt2cost.prediction.settings import check_implementation
from gpt2cost.prediction.train import Training, train_run
from gpt2cost.prediction.train_settings import (
    Batch,
    TrainHow,
    check_batch,
    check_train_how,
    one_dropout,
    with_dropout,
)
from gpt2cost.prediction.train_sweep import make_train_grid
from gpt2cost.table.config import Model, change_model, load_model

STEP = "train_step"
"""The kind of the records."""
PARTS = ("forward", "backward", "clip", "optimizer")
USUAL_PRECISION = {"cpu": "fp32", "cuda": "bf16-mixed", "mps": "fp32"}
"""Device -> the precision of its steps where none is asked for."""
ONLY_CUDA = ("tf32", "fp16-mixed", "flash_attention_2")
"""What other devices lack; fp16-mixed is measured with the gradient scaler that is CUDA's."""
NAMES = ("precision", "attn", "runtime", "impl", "optimizer", "checkpointing")


@dataclass(frozen=True)
class StepCase:
    """A training step to measure. `name` is what `load_model` takes; `model` is it as it is trained."""

    name: str
    model: Model
    train: TrainHow
    batch: Batch

    @property
    def title(self) -> str:
        how, batch = self.train, self.batch
        accum = f" x {batch.grad_accum}" if batch.grad_accum > 1 else ""
        return f"{self.name} {how.precision} {how.how.attn} {how.how.runtime} {batch.sizes.text}{accum}"

    def record(self) -> dict[str, Any]:
        """What a measurement says of the step."""
        how, batch, model = self.train, self.batch, self.model
        return {
            "kind": STEP, "model": self.name, "impl": how.how.impl, "precision": how.precision, "attn": how.how.attn,
            "runtime": how.how.runtime, "micro_batch": batch.micro_batch, "seq": batch.seq_len,
            "grad_accum": batch.grad_accum, "optimizer": how.optimizer, "clip_grad_norm": how.clip_grad_norm,
            "checkpointing": how.checkpointing, "dropout": one_dropout(model), "vocab_size": model.vocab_size,
        }  # fmt: skip

    def predicted(self, hw: Hardware) -> Training:
        """The step on a device. Raises `InputError` where it cannot run the step."""
        return train_run(self.model, hw, self.train, self.batch)


def step_cases(device: str, axes: Mapping[str, Any]) -> tuple[list[StepCase], tuple[str, ...]]:
    """Every choice on axes, as `make_train_grid` takes them, on a device of torch's; and what to say of the axes.

    Raises `InputError` for what is wrong or cannot run there, and for sequences that are too long for a model.
    """
    grid = make_train_grid(gpu=device, **{"precision": USUAL_PRECISION[device], **axes})
    sizes = [grid.axes[key] for key in ("micro_batch", "grad_accum", "seq")]
    points = [*itertools.product(*([None] if axis is None else axis.tolist() for axis in sizes))]
    cases = []
    for name, *own in itertools.product(*(grid.names[key] for key in ("model", *NAMES))):
        settings = dict(zip(NAMES, own, strict=True))
        for flag, value in settings.items():
            if value in ONLY_CUDA and device != "cuda":
                raise InputError(f"{flag}: {value} needs --device cuda, got {device}")
        for micro_batch, grad_accum, seq in points:
            sized = {"micro_batch": micro_batch, "grad_accum": grad_accum}
            clip = grid.clip_grad_norm
            cases.append(_case(name, {**settings, "clip_grad_norm": clip}, grid.dropout, sized, seq, {}))
    return cases, grid.notes


def _case(
    name: str, how: Mapping[str, Any], dropout: float | None, sizes: Mapping[str, Any], seq: Any,
    changes: Mapping[str, Any],
) -> StepCase:  # fmt: skip
    model = with_dropout(change_model(load_model(name), changes), dropout, how["impl"])
    if model.head != "lm" or model.add_cross_attention:
        raise InputError(
            f"model: steps of GPT2LMHeadModel without cross-attention are measured, which {model.name} is not"
        )
    train = check_train_how(**how).on(model)
    check_implementation(train.how)
    batch = check_batch(sizes, model.n_positions if seq is None else seq, 1, 1)
    if batch.seq_len > model.n_positions:
        raise InputError(f"seq: expected at most n_positions, {model.n_positions} of {model.name}, got {batch.seq_len}")
    return StepCase(name, model, train, batch)


# ---------------------------------------------------------------------------------------------- what was measured


@dataclass(frozen=True, eq=False)
class MeasuredStep:
    """The rounds of one step. Times are seconds, trimmed means over the rounds; of a part None where it has none."""

    case: StepCase
    rounds: tuple[Measurement, ...]

    @cached_property
    def step_s(self) -> float:
        seconds = self._seconds("step")
        assert seconds is not None
        return seconds

    @cached_property
    def parts(self) -> dict[str, float]:
        """The seconds of each part that was timed."""
        return {part: seconds for part in PARTS if (seconds := self._seconds(part)) is not None}

    @property
    def least_s(self) -> float:
        """The fastest step of all."""
        return 1e-6 * min(float(record.get("step_min_us", record["step_us"])) for record in self.rounds)

    @property
    def runs(self) -> int | None:
        """How many steps were timed as a whole; None if unknown."""
        runs = [record["runs"] for record in self.rounds if isinstance(record.get("runs"), int)]
        return sum(runs) if runs else None

    @property
    def repeat_difference(self) -> float | None:
        """By how much the even and the odd rounds differ; None for a single one."""
        return halves_difference([record["step_us"] for record in self.rounds]) if len(self.rounds) > 1 else None

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that was allocated; None on a CPU."""
        peaks = [int(peak) for record in self.rounds if (peak := record.get("peak_allocated_bytes"))]
        return max(peaks, default=None)

    @property
    def references_s(self) -> list[float]:
        """What the reference product took beside it."""
        return [1e-6 * time_us for record in self.rounds for time_us in times_of(record, "reference_us")]

    def _seconds(self, name: str) -> float | None:
        times = [record[f"{name}_us"] for record in self.rounds if is_time(record.get(f"{name}_us"))]
        return 1e-6 * trimmed_mean(times) if times else None


def measured_steps(records: Iterable[Measurement]) -> list[MeasuredStep]:
    """The steps among `records`, the rounds of each together. Raises `InputError` for one that lacks what it needs."""
    found = [(_case_of(record), record) for record in of_kind(records, STEP) if "error" not in record]
    return [
        MeasuredStep(case, tuple(record for _, record in rounds))
        for case, rounds in grouped(found, lambda pair: pair[0]).items()
    ]


def _case_of(record: Measurement) -> StepCase:
    """What a record is of. Older ones say `compile`, and leave out what was as usual."""
    try:
        if not is_time(record.get("step_us")):
            raise InputError("step_us: expected a time above 0")
        runtime = "compile" if record.get("compile") else "eager"
        how = {
            "precision": record["precision"], "attn": record.get("attn", "sdpa"),
            "runtime": record.get("runtime", runtime), "impl": record.get("impl", "hf"),
            "optimizer": record["optimizer"], "clip_grad_norm": record.get("clip_grad_norm"),
            "checkpointing": record.get("checkpointing", "none"),
        }  # fmt: skip
        sizes = {"micro_batch": record["micro_batch"], "grad_accum": record.get("grad_accum", 1)}
        model = load_model(record["model"])
        own = record.get("vocab_size", model.vocab_size)
        changes = {} if own == model.vocab_size else {"vocab_size": own}
        return _case(record["model"], how, record.get("dropout"), sizes, record["seq"], changes)
    except KeyError as error:
        raise InputError(f"{named(record)}: expected {error.args[0]!r}, which it lacks") from None
    except InputError as error:
        raise InputError(f"{named(record)}: {error}") from None


def asked_for(steps: Iterable[MeasuredStep], axes: Mapping[str, Any]) -> list[MeasuredStep]:
    """The steps that are on each of the axes that are given."""
    grid = make_train_grid(**{"model": "gpt2", "gpu": "none", **axes})
    values: dict[str, Any] = {key: grid.names[key] for key in NAMES if key in axes}
    if "model" in axes:
        values["model"] = tuple(load_model(name).name for name in grid.names["model"])
    values |= {key: (getattr(grid, key),) for key in ("clip_grad_norm", "dropout") if key in axes}
    values |= {key: axis for key, axis in grid.axes.items() if key in axes}

    def on_axes(case: StepCase) -> bool:
        how, batch = case.train, case.batch
        own = {**vars(how), **vars(how.how), "model": case.model.name, "dropout": one_dropout(case.model)}
        own |= {"micro_batch": batch.micro_batch, "grad_accum": batch.grad_accum, "seq": batch.seq_len}
        return all(own[key] in chosen for key, chosen in values.items())

    return [step for step in steps if on_axes(step.case)]
