"""Real training steps on the machine at hand, timed as a whole and by their parts. Needs torch and transformers.

As with passes, all steps are measured in every round, so that a slow minute of the machine touches all alike.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GPT2LMHeadModel

from gpt2cost.checks import check_size
from gpt2cost.errors import InputError
from gpt2cost.measure.bench import Bench, Tell, Warn, reason
from gpt2cost.measure.journal import Journal
from gpt2cost.measure.nanogpt import GPT
from gpt2cost.measure.passes import MEMORY_SHARE, RECOMPILATIONS, config_of
from gpt2cost.measure.plan import MOST_ROUNDS
from gpt2cost.measure.pool import DTYPES
from gpt2cost.measure.records import Measurement
from gpt2cost.measure.train_records import PARTS, StepCase
from gpt2cost.prediction.train_settings import TrainHow
from gpt2cost.table.config import Model

BUDGET_S = 0.1
"""A step is timed for this long in a round, and at least once; and so are its parts."""
WARM_UP = 2
"""Steps that are not timed where a batch has a new size: the first makes moments and compiled code."""
LEARNING_RATE, WEIGHT_DECAY = 1e-9, 0.1
"""So small a rate that the numbers stay what they are, and no step takes longer for what it computes."""
TRAINED_BYTES = 16
"""Of each parameter: itself, its gradient and its two moments, in float32."""

Mark = Callable[[str], None]
"""What is called at the end of each part of a step, with its name."""


class Trainer:
    """A model with random weights and its optimiser, on a device."""

    def __init__(self, device: str, case: StepCase) -> None:
        how = case.train
        self.device, self.how = device, how
        self.model = _built(case.model, how, device)
        self.call = self.model
        if how.how.runtime == "compile":
            torch._dynamo.config.recompile_limit = RECOMPILATIONS
            torch._dynamo.config.accumulated_recompile_limit = 8 * RECOMPILATIONS
            self.call = torch.compile(self.model, dynamic=False)
        parameters = [*self.model.parameters()]
        groups = [
            {"params": [one for one in parameters if (one.dim() > 1) is decays], "weight_decay": decay}
            for decays, decay in ((True, WEIGHT_DECAY), (False, 0.0))
        ]
        kernels = {"fused": True} if how.optimizer == "adamw-fused" else {"foreach": True}
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], LEARNING_RATE, **kernels)
        self.scaler = torch.amp.GradScaler(device) if how.precision == "fp16-mixed" else None
        self.seen: set[tuple[Any, Any]] = set()  # sizes of batches

    def step(self, batch: Any, grad_accum: int, mark: Mark = lambda part: None) -> float:
        """One optimiser step on `batch`, token ids (micro_batch, seq) on the host; the loss."""
        torch.backends.cuda.matmul.allow_tf32 = self.how.precision == "tf32"
        for _ in range(grad_accum):
            loss = self._forward(batch.to(self.device))
            mark("forward")
            scaled = loss if grad_accum == 1 else loss / grad_accum
            (scaled if self.scaler is None else self.scaler.scale(scaled)).backward()
            mark("backward")
        if (norm := self.how.clip_grad_norm) is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), norm, foreach=True)
            mark("clip")
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        mark("optimizer")
        return float(loss.detach())

    def _forward(self, ids: Any) -> Any:
        with self._autocast():
            if isinstance(self.model, GPT):
                return self.call(ids, ids)
            return self.call(ids, labels=ids).loss

    def _autocast(self) -> AbstractContextManager[Any]:
        numbers = self.how.numbers
        if not numbers.autocast:
            return nullcontext()
        cast: AbstractContextManager[Any] = torch.autocast(self.device, DTYPES[numbers.dtype])
        return cast

    @property
    def held_bytes(self) -> int:
        """What stays on the device from one step to the next."""
        moments = (value for state in self.optimizer.state.values() for value in state.values())
        held = (*self.model.parameters(), *self.model.buffers(), *moments)
        return sum(one.nbytes for one in held if one.device.type == self.device)


def _built(model: Model, how: TrainHow, device: str) -> Any:
    """The module. Raises `InputError` for an attention that is not installed."""
    transformers.logging.set_verbosity_error()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if how.numbers.w_bytes == 4 else torch.bfloat16)
    try:
        with torch.device(device):
            if how.how.impl == "nanogpt":
                return GPT(model, how.how.attn == "sdpa", how.checkpointing == "block").train()
            own = GPT2LMHeadModel(config_of(model)).train()
    finally:
        torch.set_default_dtype(before)
    try:
        own.set_attn_implementation(how.how.attn)
    except (ImportError, ValueError) as error:
        raise InputError(f"attn: {how.how.attn} cannot run here: {str(error).splitlines()[0][:200]}") from None
    if how.checkpointing == "block":
        enable = getattr(own, "activation_checkpointing_enable", own.gradient_checkpointing_enable)  # its later name
        enable()
    return own


class Trainers:
    """Trainers on a device, each built once unless memory runs short."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._held: dict[tuple[Any, ...], Trainer] = {}

    def of(self, case: StepCase) -> Trainer:
        """The one that runs a case; those of other sizes share it."""
        key = case.model, case.train
        if key not in self._held:
            models = [model for model, _ in (*self._held, key)]
            if TRAINED_BYTES * sum(model.parameters for model in models) > MEMORY_SHARE * self.bench.memory_bytes:
                self.clear()
            self._held[key] = Trainer(self.bench.device, case)
        return self._held[key]

    def beside(self, own: Trainer) -> int:
        """Bytes on the device that the others hold."""
        return sum(trainer.held_bytes for trainer in self._held.values() if trainer is not own)

    def clear(self) -> None:
        """Forget all of them."""
        self._held.clear()
        if self.bench.device == "cuda":
            torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------- rounds


def measure_steps(
    cases: Sequence[StepCase], device: str, threads: int | None, rounds: int, path: Path | None, tell: Tell, warn: Warn
) -> list[Measurement]:
    """The record of the machine, and one of each step and round.

    In the file at `path`, if there is one, each is as soon as it is measured: a run that was stopped goes on. `tell` is
    called with progress (empty at the end), `warn` with what failed. Raises `InputError` where no step could be run.
    """
    check_size("rounds", rounds, 1, MOST_ROUNDS)
    bench = Bench(device, threads)
    journal = Journal(path, bench.machine())
    if journal.set_aside is not None:
        tell(f"{path} is of a run that was complete or other than this one: kept as {journal.set_aside}")
    if len(journal.records) > 1:
        tell(f"goes on with {len(journal.records) - 1} measurements in {path}")
    trainers = Trainers(bench)
    errors: dict[StepCase, str] = {}
    for sweep in range(rounds):
        for index, case in enumerate(cases, 1):
            record = {**case.record(), "sweep": sweep}
            if case in errors or journal.has(record):
                continue
            tell(f"round {sweep + 1}/{rounds}, {index}/{len(cases)} {case.title}")
            try:
                journal.add([record | measure_step(trainers, case)])
            except RuntimeError as error:  # too large, say: a finding, not an end
                errors[case] = reason(error)
                journal.add([record | {"error": errors[case]}])
                trainers.clear()
    tell("")
    warn(f"{case.title}: {error}" for case, error in errors.items())
    if len(errors) == len(cases):
        raise InputError(f"measure: no step could be run: {errors[cases[0]]}")
    journal.end()
    return journal.records


def measure_step(trainers: Trainers, case: StepCase, budget_s: float = BUDGET_S) -> dict[str, Any]:
    """One round of a step, in microseconds: whole, then by its parts; on CUDA its peak of memory."""
    bench, trainer = trainers.bench, trainers.of(case)
    size = (case.batch.micro_batch, case.batch.seq_len)
    ids = torch.randint(0, case.model.vocab_size, size)
    accum = int(case.batch.grad_accum)
    if size not in trainer.seen:
        trainer.seen.add(size)
        for _ in range(WARM_UP):
            trainer.step(ids, accum)
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = bench.sample(lambda: trainer.step(ids, accum), budget_s, least=1)
    record = {"step_us": times["wall_us"], "step_min_us": times["wall_min_us"], "runs": times["runs"]}
    if bench.device == "cuda":
        record["peak_allocated_bytes"] = torch.cuda.max_memory_allocated() - trainers.beside(trainer)
    parts = _parts(bench, lambda mark: trainer.step(ids, accum, mark), budget_s)
    return record | parts | {"reference_us": [bench.reference()["wall_us"]]}


def _parts(bench: Bench, step: Callable[[Mark], float], budget_s: float) -> dict[str, float]:
    """The medians of what each part of a step takes, if the device is waited for after it."""
    times: dict[str, list[float]] = defaultdict(list)
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < budget_s:
        seconds = dict.fromkeys(PARTS, 0.0)
        last = time.perf_counter()

        def mark(part: str, seconds: dict[str, float] = seconds) -> None:
            nonlocal last
            bench.sync()
            now = time.perf_counter()
            seconds[part] += now - last
            last = now

        step(mark)
        for part, taken in seconds.items():
            times[part].append(taken)
    return {f"{part}_us": 1e6 * statistics.median(taken) for part, taken in times.items() if max(taken) > 0.0}
