"""The turns of a generation: what `generate` does before a pass, the pass, and what it does after, in one queue.

A turn is from one wait for the device to the next. Later tokens are evaluated as arrays, in blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpt2cost.checks import Size
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.one_pass import (
    Pass,
    bound_of_pass,
    buffers_bytes,
    cache_bytes,
    host_sets_pace,
    run_rows,
    symbol_values,
    table_options,
    table_rows,
    total,
    weights_bytes,
)
from gpt2cost.prediction.ranges import range_of
from gpt2cost.prediction.settings import How, Number, Sizes
from gpt2cost.table import generate_loop, nanogpt
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.table.liveness import peak_bytes
from gpt2cost.table.options import TableOptions
from gpt2cost.timing.queue import NOTHING, host_cost, pass_steps

BLOCK = 1 << 15
"""Tokens evaluated at once, so that a long run needs little memory."""


@dataclass(frozen=True)
class GenerateSettings:
    """How text is generated. `padded`: some prompts are shorter, and filled up on the left.

    `batch_size` may be an array of shape (batches, 1), none of them 1, whose set-up has other kernels.
    """

    batch_size: Size
    prompt_tokens: int
    new_tokens: int
    how: How
    sample: bool
    padded: bool

    @property
    def cache_type(self) -> str:
        return self.how.cache_type


@dataclass(frozen=True, eq=False)
class Turn:
    """One turn of the loop, or many as arrays of shape (tokens,), of many batches (batches, tokens). Seconds.

    `latency_s` is from one wait for the device to the next; `pass_s` is the forward pass on its own, as `predict`
    gives it. `generate_s`, their difference, is what `generate` adds.
    """

    latency_s: Number
    latency_low_s: Number
    latency_high_s: Number
    trust: Any
    trust_from: Any
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
    """All the turns of one run. At the end of a turn nanoGPT's loop does not wait; its last kernel is the end."""

    model: Model
    hw: Hardware
    settings: GenerateSettings

    def options(self, in_generate: bool) -> TableOptions:
        s = self.settings
        plain = table_options(self.model, s.how, self.hw)
        return dataclasses.replace(plain, padded=s.padded, in_generate=in_generate)

    def values(self, sizes: Sizes) -> dict[str, Number]:
        """The symbols of one turn; a static cache is attended to in its whole length."""
        s = self.settings
        values = symbol_values(self.model, s.how.dtype, sizes)
        longest = s.prompt_tokens + s.new_tokens - 1
        return values | {"kv_len": longest} if s.how.cache_type == "static" else values

    def sizes(self, token: Size) -> Sizes:
        """The sizes of the pass that gives new token number `token`, from 0 on: the first is the prompt's.

        nanoGPT's loop takes the last `block_size` tokens; `cache_len` are those before, which no pass reads.
        """
        s = self.settings
        if s.how.impl == "nanogpt":
            length = s.prompt_tokens + token
            window = (
                np.minimum(length, self.model.n_positions) if np.ndim(token) else min(length, self.model.n_positions)
            )
            return Sizes(s.batch_size, window, length - window)
        if not s.how.use_cache or (np.ndim(token) == 0 and token == 0):
            return Sizes(s.batch_size, s.prompt_tokens + token, 0)
        return Sizes(s.batch_size, 1, s.prompt_tokens + token - 1)

    def parts(self, first: bool) -> list[tuple[tuple[Row, ...], str]]:
        """What one turn runs, each with its runtime: the loop is always eager."""
        s, options = self.settings, self.options(in_generate=True)
        if s.how.impl == "nanogpt":
            loop = (nanogpt.before(), "eager"), (nanogpt.after(s.sample), "eager")
            return [loop[0], (table_rows(options, s.how.runtime), s.how.runtime), loop[1]]
        several, prompted = bool(np.all(s.batch_size > 1)), s.prompt_tokens > 1
        before = generate_loop.setup(options, several, prompted) if first else ()
        return [
            ((*before, *generate_loop.before(dataclasses.replace(options, traced=False))), "eager"),
            (table_rows(options, s.how.runtime), s.how.runtime),
            (generate_loop.after(options, s.sample), "eager"),
        ]

    def passes(self, sizes: Sizes, first: bool) -> list[Pass]:
        """What one turn runs, evaluated."""
        values = self.values(sizes)
        return [
            run_rows(rows, values, self.hw, self.settings.how.dtype, runtime) for rows, runtime in self.parts(first)
        ]

    def turn(self, sizes: Sizes, first: bool) -> Turn:
        how, values = self.settings.how, self.values(sizes)
        passes = self.passes(sizes, first)
        alone_rows = table_rows(self.options(in_generate=False), how.runtime)
        alone = run_rows(alone_rows, values, self.hw, how.dtype, how.runtime)
        kernels = [kernel for pass_ in passes for kernel in pass_.kernels]
        device_s, host_s = total(kernel.device_s for kernel in kernels), total(p.times.host_s for p in passes)

        def latency_at(device: float, host: float) -> Number:
            return _latency(passes, device, host)

        range_ = range_of(latency_at, self.hw, how, sizes, host_sets_pace(host_s, device_s))
        return Turn(
            latency_s=latency_at(1.0, 1.0),
            latency_low_s=range_.low_s,
            latency_high_s=range_.high_s,
            trust=range_.trust,
            trust_from=range_.trust_from,
            pass_s=alone.times.latency_s,
            host_s=host_s,
            device_s=device_s,
            bound=bound_of_pass(kernels, host_s, device_s),
        )

    def first(self) -> Turn:
        """The first token, with the set-up and the prefill."""
        return self.turn(self.sizes(0), first=True)

    def rest(self) -> Turn:
        """All tokens after the first, as arrays."""
        return self.later(np.arange(1, self.settings.new_tokens, dtype=np.float64))

    def later(self, tokens: Any) -> Turn:
        """Some of the tokens after the first, by their numbers, as arrays."""
        blocks = self._blocks(tokens)
        turns = [self.turn(self.sizes(block), first=False) for block in blocks]
        names = [field.name for field in dataclasses.fields(Turn)]
        return Turn(**{name: self._joined(blocks, [getattr(turn, name) for turn in turns]) for name in names})

    def seconds(self, name: str, tokens: Any) -> Any:
        """One of the three latencies of a `Turn`, of some of the tokens after the first, or (0) of the first."""
        if np.ndim(tokens) == 0:
            return self._seconds(name, self.sizes(tokens), first=True)
        blocks = self._blocks(tokens)
        return self._joined(blocks, [self._seconds(name, self.sizes(block), first=False) for block in blocks])

    def _seconds(self, name: str, sizes: Sizes, first: bool) -> Any:
        passes = self.passes(sizes, first)
        if name == "latency_s":
            return _latency(passes, 1.0, 1.0)
        range_ = range_of(partial(_latency, passes), self.hw, self.settings.how, sizes, False)
        return {"latency_low_s": range_.low_s, "latency_high_s": range_.high_s}[name]

    def _blocks(self, tokens: Any) -> list[Any]:
        step = max(1, BLOCK // np.size(self.settings.batch_size))
        return [tokens[start : start + step] for start in range(0, max(1, len(tokens)), step)]

    def _joined(self, blocks: list[Any], values: list[Any]) -> Any:
        """The values of each block, which may be the same for all its tokens or batches, side by side."""
        shapes = [np.broadcast_shapes(np.shape(self.settings.batch_size), block.shape) for block in blocks]
        return np.concatenate([np.broadcast_to(v, s) for v, s in zip(values, shapes, strict=True)], axis=-1)

    def peak(self) -> Number:
        """Weights, KV cache and live activations of the run at their fullest, in bytes."""
        first, last = (sum(self.memory(token)) for token in (0, self.settings.new_tokens - 1))
        return np.maximum(first, last)

    def memory(self, token: Size) -> tuple[Number, Number, Number]:
        """Weights, KV cache and live activations of the turn that gives a new token, at its fullest, in bytes."""
        how, sizes = self.settings.how, self.sizes(token)
        values = self.values(sizes)
        cached = cache_bytes(self.model, how, sizes.batch_size, values["kv_len"])
        rows = [row for rows, _ in self.parts(first=False) for row in rows]
        live = peak_bytes(rows, values, how.use_cache) + buffers_bytes(self.model, how, values)
        return weights_bytes(self.model, how.dtype), cached, live

    def loop(self) -> Iterator[LoopStep]:
        """The steps around the last pass, in order."""
        values = self.values(self.sizes(self.settings.new_tokens - 1))
        for rows, _ in self.parts(first=False)[::2]:
            yield from _loop_steps(run_rows(rows, values, self.hw, self.settings.how.dtype, "eager"))


def _latency(passes: list[Pass], device: float, host: float) -> Number:
    """Seconds of the passes in a row, from idle to idle; the last of them ends with the host's wait."""
    whole = NOTHING
    for pass_ in passes:
        launch_s = [device * seconds for seconds in pass_.launch_s]
        costs = pass_.host.scaled(host)
        whole = whole.then(pass_steps(pass_.rows, launch_s, pass_.symbols, costs, pass_.runtime)[1])
    return np.maximum(*whole.end())


def _loop_steps(pass_: Pass) -> Iterator[LoopStep]:
    for row, device_s in zip(pass_.rows, pass_.launch_s, strict=True):
        step = row.step
        if not step.when.evaluate(pass_.symbols):
            continue
        kernel = step if isinstance(step, Kernel) else None
        yield LoopStep(
            name=row.path,
            op=step.op,
            count=1 if kernel else step.count,  # type: ignore[union-attr]
            host_s=host_cost(step, pass_.host, "eager", pass_.symbols),
            device_s=float(device_s),
            read_bytes=kernel.reads.evaluate(pass_.symbols) if kernel else 0,
            write_bytes=kernel.writes.evaluate(pass_.symbols) if kernel else 0,
            source=str(kernel.source) if kernel else "",
        )
