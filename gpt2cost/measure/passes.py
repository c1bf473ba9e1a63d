"""HuggingFace's GPT-2 itself, with random weights, run and timed on the machine at hand. Needs torch and transformers.

All cases are measured in every round, so that a slow minute of the machine touches all alike; the rounds' halves, put
beside each other, say how well the machine repeats itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import DynamicCache

from gpt2cost.errors import InputError
from gpt2cost.measure.bench import Bench, run_aside
from gpt2cost.measure.pool import DTYPES, Run
from gpt2cost.measure.records import Measurement, trimmed_mean
from gpt2cost.measure.torch_trace import Observed, profile_record, read_trace
from gpt2cost.prediction.grid import Grid
from gpt2cost.prediction.settings import How, Sizes, check_how, check_sizes
from gpt2cost.table.config import Model, load_model

BUDGET_S = 0.1
"""A case is timed for this long in a round, and at least once. A machine's bad moments last for seconds, so that many
short rounds tell more than a few long ones."""


PROFILED = 5
"""Passes of which kernels are profiled."""


MEMORY_SHARE = 0.4
"""Models are kept until they fill this much of the memory."""


RECOMPILATIONS = 512
"""torch.compile gives up after fewer by default; each case takes a few."""


Tell = Callable[[str], None]


@dataclass(frozen=True)
class PassCase:
    """A pass to measure. `model` is what `load_model` takes."""

    model: str
    how: How
    sizes: Sizes

    @property
    def title(self) -> str:
        how, sizes = self.how, self.sizes
        cached = f"+{sizes.cache_len}" if sizes.cache_len else ""
        return f"{self.model} {how.dtype} {how.attn} {how.runtime} {sizes.batch_size}x{sizes.seq_len}{cached}"

    def record(self) -> dict[str, Any]:
        """What a measurement says of the pass."""
        how, sizes = self.how, self.sizes
        return {
            "model": self.model, "dtype": how.dtype, "attn": how.attn, "runtime": how.runtime,
            "use_cache": how.use_cache, "batch": sizes.batch_size, "seq": sizes.seq_len, "cache": sizes.cache_len,
        }  # fmt: skip


def pass_cases(grid: Grid, sizes: Iterable[tuple[int, int, int]], device: str) -> list[PassCase]:
    """Every choice of a grid's model, dtype, attention and runtime at each of `sizes` (batch, seq, cache).

    Raises `InputError` for what cannot run on the device or is too long for the model.
    """
    chosen = list(sizes)
    cases = []
    for name in grid.model:
        model = load_model(name)
        for dtype, attn, runtime in itertools.product(grid.dtype, grid.attn, grid.runtime):
            _check_runs(device, dtype, attn, runtime)
            how = check_how(dtype, attn, runtime, "all", grid.use_cache).on(model)
            for size in chosen:
                checked = check_sizes(*size, how.use_cache)
                if checked.kv_len > model.n_positions:
                    raise InputError(
                        f"seq + cache: expected at most n_positions, {model.n_positions} of {model.name}, got"
                        f" {checked.seq_len} + {checked.cache_len}"
                    )
                cases.append(PassCase(name, how, checked))
    return cases


def _check_runs(device: str, dtype: str, attn: str, runtime: str) -> None:
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype} is not measured; expected one of {', '.join(DTYPES)}")
    if runtime == "cuda-graph" and device != "cuda":
        raise InputError(f"runtime: cuda-graph needs --device cuda, got {device}")
    if attn == "flash_attention_2" and device != "cuda":
        raise InputError(f"attn: flash_attention_2 needs --device cuda, got {device}")


class Models:
    """Models with random weights on a device, each built once unless memory runs short."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.memory_bytes = bench.machine()["memory_bytes"]
        self._held: dict[tuple[str, str], Any] = {}
        self._compiled: dict[tuple[str, str, str], Any] = {}

    def model(self, case: PassCase) -> Any:
        """The model of a case, with its attention. Raises `InputError` where that is not installed."""
        key = (case.model, case.how.dtype)
        if key not in self._held:
            loaded = load_model(case.model)
            if self._bytes(loaded, case.how.dtype) + self._bytes_held() > MEMORY_SHARE * self.memory_bytes:
                self.clear()
            self._held[key] = self._build(loaded, case.how.dtype)
        model = self._held[key]
        try:
            model.set_attn_implementation(case.how.attn)
        except (ImportError, ValueError) as error:
            raise InputError(f"attn: {case.how.attn} cannot run here: {str(error).splitlines()[0][:200]}") from None
        return model

    def compiled(self, case: PassCase) -> Any:
        """The same, through torch.compile."""
        model, key = self.model(case), (case.model, case.how.dtype, case.how.attn)
        if key not in self._compiled:
            torch._dynamo.config.recompile_limit = RECOMPILATIONS
            torch._dynamo.config.accumulated_recompile_limit = 8 * RECOMPILATIONS
            self._compiled[key] = torch.compile(model, dynamic=False)
        return self._compiled[key]

    def clear(self) -> None:
        """Forget all models."""
        self._held.clear()
        self._compiled.clear()
        if self.bench.device == "cuda":
            torch.cuda.empty_cache()

    def _bytes_held(self) -> int:
        return sum(self._bytes(load_model(name), dtype) for name, dtype in self._held)

    def _bytes(self, model: Model, dtype: str) -> int:
        return model.parameters * int(DTYPES[dtype].itemsize)

    def _build(self, model: Model, dtype: str) -> Any:
        transformers.logging.set_verbosity_error()
        before = torch.get_default_dtype()
        torch.set_default_dtype(DTYPES[dtype])
        try:
            with torch.device(self.bench.device):
                return GPT2LMHeadModel(config_of(model)).eval()
        finally:
            torch.set_default_dtype(before)


def config_of(model: Model) -> Any:
    """The `GPT2Config` of a model, with all that changes what it costs."""
    keys = {field.name for field in dataclasses.fields(model)} - {"name", "notes", "changes"}
    last = model.vocab_size - 1
    return GPT2Config(**{key: getattr(model, key) for key in keys}, bos_token_id=last, eos_token_id=last)


def pass_run(models: Models, case: PassCase) -> Run:
    """A function that runs one pass of a case. What is cached is random, and restored every time."""
    model = models.model(case)
    config, device = model.config, models.bench.device
    ids = torch.randint(0, config.vocab_size, (case.sizes.batch_size, case.sizes.seq_len), device=device)
    call = models.compiled(case) if case.how.runtime == "compile" else model
    if not case.sizes.cache_len:

        def run() -> object:
            return call(ids, use_cache=case.how.use_cache)
    else:
        shape = (case.sizes.batch_size, config.n_head, case.sizes.cache_len, config.n_embd // config.n_head)
        kept = [
            torch.randn(2, *shape, device=device).to(DTYPES[case.how.dtype]).unbind() for _ in range(config.n_layer)
        ]
        past = DynamicCache(config=config)
        for layer, (keys, values) in enumerate(kept):
            past.update(keys, values, layer)

        def run() -> object:
            for layer, (keys, values) in zip(past.layers, kept, strict=True):
                layer.keys, layer.values = keys, values
            return call(ids, past, use_cache=True)  # by place: 5.24 renamed past_key_values to cache

    if case.how.runtime == "compile":
        run()  # the compiler may turn to a second version once it has seen a cache
    return _captured(run) if case.how.runtime == "cuda-graph" else run


def _captured(run: Run) -> Run:
    run_aside(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay(keep: Run = run) -> object:  # what the graph reads must stay alive
        return graph.replay()

    return replay


# ------------------------------------------------------------------------------------------------ passes


def measure_passes(
    bench: Bench, cases: Sequence[PassCase], rounds: int, budget_s: float = BUDGET_S, tell: Tell = print
) -> list[Measurement]:
    """A record of kind `pass` per case, timed in `rounds` rounds over all cases; one that cannot run has `error`.

    `rounds_us` has each round's median, `reference_us` what the reference took after it, and `wall_us` is the
    `trimmed_mean` of the rounds. Raises `InputError` for an attention that is not installed.
    """
    models = Models(bench)
    times: dict[PassCase, list[dict[str, Any]]] = defaultdict(list)
    errors: dict[PassCase, str] = {}
    with torch.no_grad():
        for number in range(rounds):
            for index, case in enumerate(cases, 1):
                if case in errors:
                    continue
                tell(f"round {number + 1}/{rounds}, {index}/{len(cases)} {case.title}")
                try:
                    once = bench.sample(pass_run(models, case), budget_s, least=1)
                    times[case].append(once | {"reference_us": bench.reference()["wall_us"]})
                except (RuntimeError, NotImplementedError) as error:  # too large, say: a finding, not an end
                    errors[case] = _reason(error)
                    models.clear()
    return [
        {"kind": "pass", **case.record()} | ({"error": errors[case]} if case in errors else _times(times[case]))
        for case in cases
    ]


def _times(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    medians = [times["wall_us"] for times in rounds]
    return {
        "wall_us": trimmed_mean(medians),
        "wall_min_us": min(times["wall_min_us"] for times in rounds),
        "runs": sum(times["runs"] for times in rounds),
        "rounds_us": medians,
        "reference_us": [times["reference_us"] for times in rounds],
    }


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


# ------------------------------------------------------------------------------------------------ profiles


def profile_pass(bench: Bench, models: Models, case: PassCase, passes: int = PROFILED) -> list[list[Observed]]:
    """The ops or kernels of one pass, recorded `passes` times, each after one that is not recorded."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it reports every start and stop
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.device == "cuda" else [])
    recordings: list[list[Observed]] = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "trace.json"

        def read(profiler: Any) -> None:
            profiler.export_chrome_trace(str(path))
            recordings.append(read_trace(path))

        run = pass_run(models, case)
        run()
        bench.sync()
        plan = schedule(wait=0, warmup=1, active=1, repeat=passes)
        with profile(activities=activities, schedule=plan, on_trace_ready=read, acc_events=True) as profiler:
            for _ in range(2 * passes):
                run()
                bench.sync()
                profiler.step()
    return recordings


def profile_passes(
    bench: Bench, cases: Sequence[PassCase], passes: int = PROFILED, tell: Tell = print
) -> list[Measurement]:
    """A record of kind `profile` per case; one that cannot run has `error`."""
    models = Models(bench)
    records: list[Measurement] = []
    for index, case in enumerate(cases, 1):
        tell(f"profile {index}/{len(cases)} {case.title}")
        head = case.record()
        try:
            records.append(profile_record(head, profile_pass(bench, models, case, passes)))
        except (RuntimeError, NotImplementedError) as error:
            records.append({"kind": "profile", **head, "error": _reason(error)})
            models.clear()
    return records
