"""HuggingFace's GPT-2 itself, with random weights: which passes are run, and how. Needs torch and transformers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from transformers import GPT2Config
from transformers.cache_utils import DynamicCache

from gpt2cost.errors import InputError
from gpt2cost.measure.bench import Bench, run_aside
from gpt2cost.measure.pool import DTYPES, Run
from gpt2cost.prediction.grid import Grid
from gpt2cost.prediction.settings import How, Sizes, check_how, check_sizes
from gpt2cost.schema import fields_of
from gpt2cost.table.config import Model, load_model
from gpt2cost.table.heads import CLASSES
from gpt2cost.table.options import COMPILED, GRAPHED
from gpt2cost.table.quantization_config import QUANTIZATION_KEYS

USUAL_SIZES = (
    (1, 1, 64), (1, 1, 512), (8, 1, 512), (1, 16, 0), (1, 128, 0), (1, 512, 0), (4, 128, 0), (2, 64, 448),
)  # fmt: skip
"""(batch, seq, cache) where none is asked for: decode steps, prompts, and a prompt's next part."""
MEMORY_SHARE = 0.4
"""Models are kept until they fill this much of the memory."""
RECOMPILATIONS = 512
"""torch.compile gives up after fewer by default; each case takes a few."""


@dataclass(frozen=True)
class PassCase:
    """A pass to measure. `model` is what `load_model` takes."""

    model: str
    how: How
    sizes: Sizes

    @property
    def title(self) -> str:
        how = self.how
        return f"{self.model} {how.dtype} {how.attn} {how.runtime} {self.sizes.text}"

    def record(self) -> dict[str, Any]:
        """What a measurement says of the pass."""
        how, sizes = self.how, self.sizes
        return {
            "model": self.model, "dtype": how.dtype, "attn": how.attn, "runtime": how.runtime,
            "use_cache": how.use_cache, "batch": sizes.batch_size, "seq": sizes.seq_len, "cache": sizes.cache_len,
        }  # fmt: skip


def pass_cases(grid: Grid, sizes: Iterable[tuple[int, int, int]] | None, device: str) -> list[PassCase]:
    """Every choice of a grid's model, dtype, attention and runtime at each of `sizes` (batch, seq, cache).

    None: at those of `USUAL_SIZES` that all the models can run. Raises `InputError` for what cannot run on the device
    or is too long for the model.
    """
    chosen = _usual_sizes(grid) if sizes is None else list(sizes)
    cases = []
    for name in grid.model:
        model = load_model(name)
        for dtype, attn, runtime in itertools.product(grid.dtype, grid.attn, grid.runtime):
            how = check_how(dtype or None, attn or None, runtime, "all", grid.use_cache).on(model)
            _check_runs(device, how.dtype, how.attn, runtime)
            if how.weights != "dtype":
                raise InputError(
                    f"model: {model.name} has {how.weights} weights, which are not measured; give a preset"
                )
            if how.impl != "hf":
                raise InputError(f"model: {model.name} is nanoGPT's, and HuggingFace's code is measured; give a preset")
            for size in chosen:
                checked = check_sizes(*size, how.use_cache)
                if checked.kv_len > model.n_positions:
                    raise InputError(
                        f"seq + cache: expected at most n_positions, {model.n_positions} of {model.name}, got"
                        f" {checked.seq_len} + {checked.cache_len}"
                    )
                cases.append(PassCase(name, how, checked))
    return cases


def _usual_sizes(grid: Grid) -> list[tuple[int, int, int]]:
    models = [load_model(model) for model in grid.model]
    cached = grid.use_cache and all(model.use_cache for model in models)
    longest = min(model.n_positions for model in models)
    sizes = [size for size in USUAL_SIZES if size[1] + size[2] <= longest and (cached or not size[2])]
    if not sizes:
        raise InputError(f"--case: required, because no usual size fits into {longest} positions")
    return sizes


def _check_runs(device: str, dtype: str, attn: str, runtime: str) -> None:
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype} is not measured; expected one of {', '.join(DTYPES)}")
    for flag, value in (("runtime", runtime), ("attn", attn)):
        if value in (*GRAPHED, "flash_attention_2") and device != "cuda":
            raise InputError(f"{flag}: {value} needs --device cuda, got {device}")


class Models:
    """Models with random weights on a device, each built once unless memory runs short."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._held: dict[tuple[str, str], Any] = {}
        self._compiled: dict[tuple[str, ...], Any] = {}

    def model(self, case: PassCase) -> Any:
        """The model of a case, with its attention. Raises `InputError` where that is not installed."""
        key = (case.model, case.how.dtype)
        if key not in self._held:
            if sum(_weight_bytes(*model) for model in (*self._held, key)) > MEMORY_SHARE * self.bench.memory_bytes:
                self.clear()
            self._held[key] = self._build(*key)
        model = self._held[key]
        try:
            model.set_attn_implementation(case.how.attn)
        except (ImportError, ValueError) as error:
            raise InputError(f"attn: {case.how.attn} cannot run here: {str(error).splitlines()[0][:200]}") from None
        return model

    def compiled(self, case: PassCase) -> Any:
        """The same, through torch.compile."""
        how = case.how
        model, key = self.model(case), (case.model, how.dtype, how.attn, how.runtime)
        if key not in self._compiled:
            torch._dynamo.config.recompile_limit = RECOMPILATIONS
            torch._dynamo.config.accumulated_recompile_limit = 8 * RECOMPILATIONS
            mode = how.runtime if how.runtime in GRAPHED else None
            self._compiled[key] = torch.compile(model, dynamic=False, mode=mode)
        return self._compiled[key]

    def clear(self) -> None:
        """Forget all models."""
        self._held.clear()
        self._compiled.clear()
        if self.bench.device == "cuda":
            torch.cuda.empty_cache()

    def _build(self, name: str, dtype: str) -> Any:
        transformers.logging.set_verbosity_error()
        model = load_model(name)
        config, cls = config_of(model), getattr(transformers, CLASSES[model.head])
        before = torch.get_default_dtype()
        torch.set_default_dtype(DTYPES[dtype])
        try:
            with torch.device(self.bench.device):
                return cls(config).eval()
        finally:
            torch.set_default_dtype(before)


def _weight_bytes(name: str, dtype: str) -> int:
    return load_model(name).parameters * int(DTYPES[dtype].itemsize)


def config_of(model: Model) -> Any:
    """The `GPT2Config` of a model, with all that changes what it costs."""
    keys = set(fields_of(Model)) - {"bias", "head", "encoder_len", *QUANTIZATION_KEYS}
    last = model.vocab_size - 1
    return GPT2Config(**{key: getattr(model, key) for key in keys}, bos_token_id=last, eos_token_id=last)


def pass_run(models: Models, case: PassCase) -> Run:
    """A function that runs one pass of a case. What is cached is random, and restored every time."""
    model = models.model(case)
    config, device = model.config, models.bench.device
    ids = torch.randint(0, config.vocab_size, (case.sizes.batch_size, case.sizes.seq_len), device=device)
    call = models.compiled(case) if case.how.runtime in COMPILED else model
    if case.sizes.cache_len:
        shape = (case.sizes.batch_size, config.n_head, case.sizes.cache_len, config.n_embd // config.n_head)
        layers = [torch.randn(2, *shape, device=device).to(DTYPES[case.how.dtype]) for _ in range(config.n_layer)]
        run = cached_run(call, ids, config, [layer.unbind() for layer in layers])
    else:
        run = partial(call, ids, use_cache=case.how.use_cache)
    if case.how.runtime in COMPILED:
        run()  # the compiler may turn to a second version once it has seen a cache
    if case.how.runtime == "reduce-overhead":
        run()  # a graph is warmed up, recorded, and only then replayed
    return _captured(run) if case.how.runtime == "cuda-graph" else run


def cached_run(call: Callable[..., object], ids: Any, config: Any, layers: Sequence[tuple[Any, Any]]) -> Run:
    """A function that calls a model on `ids` and a cache of the size of `layers`, which holds keys and values.

    On a CPU the cache's old part is memory that the last call wrote, as in a decode loop: a layer frees it once its new
    one is made, and the next layer's takes its place. Were all of it freed between the calls, glibc would hand it back
    to the system, and each call would fetch it again, page by page.
    """
    past = DynamicCache(config=config)
    for layer, (keys, values) in zip(past.layers, layers, strict=True):
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
    restore = _shortened(past) if ids.device.type == "cpu" else _put_back(past)

    def run() -> object:
        restore()
        return call(ids, past, use_cache=True)  # by place: 5.24 renamed past_key_values to cache

    return run


def _shortened(past: Any) -> Callable[[], None]:
    """What makes a cache as long as it is now: its tensors, contiguous, at the start of what they have grown to."""
    shape, strides = past.layers[0].keys.shape, past.layers[0].keys.stride()

    def shorten() -> None:
        for layer in past.layers:
            layer.keys, layer.values = layer.keys.as_strided(shape, strides), layer.values.as_strided(shape, strides)

    return shorten


def _put_back(past: Any) -> Callable[[], None]:
    """What puts the tensors that a cache holds now back into it."""
    held = [(layer, layer.keys, layer.values) for layer in past.layers]

    def put() -> None:
        for layer, keys, values in held:
            layer.keys, layer.values = keys, values

    return put


def _captured(run: Run) -> Run:
    run_aside(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay(keep: Run = run) -> object:  # what the graph reads must stay alive
        return graph.replay()

    return replay
