"""The energy of results, beside what they say already: three columns of flat rows, a list in a document, a table for
people. What it is a bound of, `prediction.energy` says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from gpt2cost.output.field import Field, Record, attribute, attributes, record_of
from gpt2cost.output.formats import sections
from gpt2cost.output.page import Page
from gpt2cost.output.record import View
from gpt2cost.prediction.energy import ENERGY_COLUMNS, ENERGY_TEXT, EnergyBound, energy_bound
from gpt2cost.prediction.generate import Generation

J_PER_WH = 3600
NAMES = {"gpu": "device", "label": "candidate", "phase": "phase", "goal": "goal", "part": "of"}
"""What a bound may be of -> its header."""
COLUMNS = attributes(*ENERGY_COLUMNS)
RECORD: tuple[Field[EnergyBound], ...] = (COLUMNS[0], attribute("gpus"), *COLUMNS[1:])
POWER, GPUS = attribute("board_power_w", "power", "own W"), attribute("gpus", "GPUs", ",")
TIME, ENERGY = attribute("high_s", "time <=", "own s"), attribute("energy_bound_j", "energy <=", "own J")
TOKEN = attribute("energy_bound_j_per_token", "per token <=", "own J")
MILLION: Field[EnergyBound] = Field(
    "", "per M tokens <=", "own Wh", lambda bound: 1e6 * bound.energy_bound_j_per_token / J_PER_WH
)


def energy_view(inner: View[Any]) -> View[Any]:
    """The view of results that have `energy_bounds`, with them."""
    return dataclasses.replace(
        inner,
        rows=partial(_rows, inner=inner),
        document=lambda result: {**inner.document(result), "energy": _records(result)},
        text=partial(_text, inner=inner),
        markdown=inner.markdown and partial(_markdown, inner=inner),
    )


def _records(result: Any) -> list[Record]:
    return [{**bound.of, **record_of(RECORD, bound)} for bound in result.energy_bounds()]


def _markdown(result: Any, inner: View[Any]) -> str:
    assert inner.markdown is not None
    return f"{inner.markdown(result)}\n{sections(('## energy', _records(result)))}"


# ---------------------------------------------------------------------------------------------- rows


def _rows(result: Any, inner: View[Any]) -> Iterator[Record]:
    """Each row with the energy of the pass, step or run that it is of."""
    if isinstance(result, Generation):
        yield from _tokens(result, inner)
        return
    bounds = result.energy_bounds()
    parts = {bound.of["part"]: bound for bound in bounds if "part" in bound.of}  # of training
    more = {"run_energy_bound_j": parts["run"].energy_bound_j if "run" in parts else None} if parts else {}
    for row in inner.rows(result):
        yield {**row, **_columns(next((bound for bound in bounds if _is_of(bound, row)), None)), **more}


def _is_of(bound: EnergyBound, row: Record) -> bool:
    return all(row.get(name, value) == value for name, value in bound.of.items())


def _columns(bound: EnergyBound | None) -> Record:
    return dict.fromkeys(ENERGY_COLUMNS) if bound is None else record_of(COLUMNS, bound)


def _tokens(run: Generation, inner: View[Any]) -> Iterator[Record]:
    """A row is a turn, of which each replica has one: a token of each sequence."""
    tokens = run.gpus * run.settings.batch_size
    for row in inner.rows(run):
        bound = energy_bound(run.hardware, row["latency_high_s"], tokens, run.gpus)
        yield {**row, "gpus": run.gpus, **_columns(bound)}


# ---------------------------------------------------------------------------------------------- text


def _text(page: Page, result: Any, inner: View[Any]) -> None:
    inner.text(page, result)
    energy_table(page, result.energy_bounds())


def energy_table(page: Page, bounds: Sequence[EnergyBound]) -> None:
    """A line per bound, below a line that says what they are; nothing where there are none."""
    if not bounds:
        return
    page.line(f"\n{ENERGY_TEXT}\n")
    names = [_name(key, header) for key, header in NAMES.items() if any(key in bound.of for bound in bounds)]
    gpus = [GPUS] * any(bound.gpus > 1 for bound in bounds)
    start, end = [*names, POWER, *gpus], [ENERGY, TOKEN]
    page.fields(bounds, [*start, TIME, *end, MILLION], [*start, TIME, *end], [*start, *end])


def _name(key: str, header: str) -> Field[EnergyBound]:
    return Field(key, header, "", lambda bound: bound.of.get(key))


def of_each(results: Iterable[Any]) -> list[EnergyBound]:
    """The bounds of several devices' results, each with the name of its device."""
    each = ((getattr(result, "choice", result).hardware.name, result.energy_bounds()) for result in results)
    return [dataclasses.replace(bound, of={"gpu": name, **bound.of}) for name, own in each for bound in own]
