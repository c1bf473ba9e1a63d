"""The turns of a generation: what `generate` does before a pass, the pass, and what it does after, in one queue.

A turn is from one wait for the device to the next. Later tokens are evaluated as arrays, in blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from gpt2cost.checks import Size
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.one_pass import Pass, run_rows, symbol_values, table_options, table_rows
from gpt2cost.prediction.ranges import spread
from gpt2cost.prediction.settings import Number, Settings
from gpt2cost.table import generate_loop as generation
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.table.liveness import peak_bytes
from gpt2cost.table.options import TableOptions
from gpt2cost.timing.kernel import BOUNDS, largest
from gpt2cost.timing.queue import NOTHING, host_cost, pass_steps

BLOCK = 4096
"""Tokens evaluated at once, so that a long run needs little memory."""


@dataclass(frozen=True)
class GenerateSettings:
    """How text is generated. `padded`: some prompts are shorter, and filled up on the left."""

    batch_size: int
    prompt: int
    new_tokens: int
    dtype: str
    attn: str
    runtime: str
    sample: bool
    use_cache: bool
    cache_type: Literal["dynamic", "static"]
    padded: bool


@dataclass(frozen=True)
class Turn:
    """One turn of the loop, or many as arrays of shape (tokens,). Seconds.

    `latency_s` is from one wait for the device to the next; `pass_s` is the forward pass on its own, as `predict`
    gives it. `generate_s`, their difference, is what `generate` adds.
    """

    latency_s: Number
    latency_low_s: Number
    latency_high_s: Number
    pass_s: Number
    host_s: Number
    device_s: Number
    bound: Any

    @property
    def generate_s(self) -> Number:
        return self.latency_s - self.pass_s


@dataclass(frozen=True)
class LoopStep:
    """One step of what `generate` does in a turn around the pass: a kernel, a view, a call or a wait."""

    name: str
    op: str
    count: int
    host_s: float
    device_s: float
    read_bytes: int
    write_bytes: int
    source: str


@dataclass(frozen=True)
class Turns:
    """All the turns of one run."""

    model: Model
    hw: Hardware
    settings: GenerateSettings

    def options(self, in_generate: bool) -> TableOptions:
        s = self.settings
        plain = table_options(self.model, s.attn, "last", s.use_cache)
        return dataclasses.replace(plain, padded=s.padded, cache_type=s.cache_type, in_generate=in_generate)

    def values(self, seq: Size, cache: Size) -> dict[str, Number]:
        """The symbols of one turn; a static cache is attended to in its whole length."""
        s = self.settings
        values = symbol_values(self.model, s.dtype, s.batch_size, seq, cache)
        longest = s.prompt + s.new_tokens - 1
        return values | {"kv_len": longest} if s.cache_type == "static" else values

    def sizes(self, token: Size) -> tuple[Size, Size]:
        """(seq_len, cache_len) of the pass that gives new token number `token`, from 1 on."""
        prompt = self.settings.prompt
        return (1, prompt + token - 1) if self.settings.use_cache else (prompt + token, 0)

    def last(self) -> tuple[int, int]:
        """(seq_len, cache_len) of the last pass."""
        s = self.settings
        return self.sizes(s.new_tokens - 1) if s.new_tokens > 1 else (s.prompt, 0)

    def parts(self, first: bool) -> list[tuple[tuple[Row, ...], str]]:
        """What one turn runs, each with its runtime: the loop is always eager."""
        s, options = self.settings, self.options(in_generate=True)
        before = generation.setup(s.batch_size > 1) if first else ()
        return [
            ((*before, *generation.before(options)), "eager"),
            (table_rows(options, s.runtime), s.runtime),
            (generation.after(options, s.sample), "eager"),
        ]

    def turn(self, seq: Size, cache: Size, first: bool) -> Turn:
        s, hw = self.settings, self.hw
        settings = Settings(s.batch_size, seq, cache, s.dtype, s.attn, s.runtime, "last", s.use_cache)
        values, known = self.values(seq, cache), spread(hw, s.dtype)
        passes = [
            (run_rows(rows, values, hw, dataclasses.replace(settings, runtime=runtime)), runtime)
            for rows, runtime in self.parts(first)
        ]
        latency = partial(_latency, passes, hw)
        alone = run_rows(table_rows(self.options(in_generate=False), s.runtime), values, hw, settings)
        kernels = [kernel for one, _ in passes for kernel in one.kernels]
        device_s, host_s = sum(kernel.device_s for kernel in kernels), sum(one.times.host_s for one, _ in passes)
        by_bound = [sum(np.where(k.bound == bound, k.device_s, 0.0) for k in kernels) for bound in BOUNDS]
        waits = np.where(host_s > device_s, np.inf, 0.0)
        return Turn(
            latency_s=latency(1.0, 1.0),
            latency_low_s=latency(known.device_low, known.host_low),
            latency_high_s=latency(known.device_high, known.host_high),
            pass_s=alone.times.latency_s,
            host_s=host_s,
            device_s=device_s,
            bound=largest(("host", *BOUNDS), (waits, *by_bound)),
        )

    def first(self) -> Turn:
        """The first token, with the set-up and the prefill."""
        return self.turn(self.settings.prompt, 0, first=True)

    def rest(self) -> Turn:
        """All tokens after the first, as arrays."""
        tokens = np.arange(1, self.settings.new_tokens, dtype=np.float64)
        blocks = [tokens[start : start + BLOCK] for start in range(0, max(1, len(tokens)), BLOCK)]
        turns = [self.turn(*self.sizes(block), first=False) for block in blocks]

        def joined(name: str) -> Any:
            pieces = (getattr(turn, name) for turn in turns)
            return np.concatenate([np.broadcast_to(p, b.shape) for p, b in zip(pieces, blocks, strict=True)])

        return Turn(**{field.name: joined(field.name) for field in dataclasses.fields(Turn)})

    def peak(self) -> int:
        """Weights, KV cache and live activations of the run at their fullest, in bytes."""
        return max(self._peak(self.settings.prompt, 0), self._peak(*self.last()))

    def _peak(self, seq: int, cache: int) -> int:
        s, values = self.settings, self.values(seq, cache)
        size = ELEMENT_BYTES[s.dtype]
        cached = 2 * self.model.n_layer * self.model.n_embd * size * s.batch_size * values["kv_len"]
        rows = [row for rows, _ in self.parts(first=False) for row in rows]
        live = peak_bytes(rows, values, s.use_cache)
        return int(self.model.parameters * size + (cached if s.use_cache else 0) + live)

    def loop(self) -> Iterator[LoopStep]:
        """The steps around the last pass, in order."""
        s = self.settings
        seq, cache = self.last()
        values = self.values(seq, cache)
        settings = Settings(s.batch_size, seq, cache, s.dtype, s.attn, "eager", "last", s.use_cache)
        for rows, _ in self.parts(first=False)[::2]:
            yield from _loop_steps(run_rows(rows, values, self.hw, settings), self.hw)


def _latency(passes: list[tuple[Pass, str]], hw: Hardware, device: float, host: float) -> Number:
    """Seconds of the passes in a row, from idle to idle; the last of them ends with the host's wait."""
    whole, costs = NOTHING, hw.host.scaled(host)
    for one, runtime in passes:
        launch_s = [device * seconds for seconds in one.launch_s]
        whole = whole.then(pass_steps(one.rows, launch_s, one.symbols, costs, runtime)[1])
    return np.maximum(*whole.end())


def _loop_steps(one: Pass, hw: Hardware) -> Iterator[LoopStep]:
    for row, device_s in zip(one.rows, one.launch_s, strict=True):
        step = row.step
        if not step.when.evaluate(one.symbols):
            continue
        kernel = step if isinstance(step, Kernel) else None
        yield LoopStep(
            name=row.path,
            op=step.op,
            count=1 if kernel else step.count,  # type: ignore[union-attr]
            host_s=host_cost(step, hw.host, "eager"),
            device_s=float(device_s),
            read_bytes=kernel.reads.evaluate(one.symbols) if kernel else 0,
            write_bytes=kernel.writes.evaluate(one.symbols) if kernel else 0,
            source=str(kernel.source) if kernel else "",
        )
