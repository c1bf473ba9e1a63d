"""The same question asked of several devices: which they are, which can run it, and what each answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.grid import distinct, name_axis
from gpt2cost.prediction.prices import Prices, prices_of, without_price
from gpt2cost.result import Result

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Several(Result):
    """What several devices answer to one question: results of one kind, each with its device's price per hour."""

    shown_by = "several"

    results: tuple[Any, ...]
    prices: tuple[float | None, ...]
    warnings: tuple[str, ...]

    @property
    def priced(self) -> bool:
        """Whether there is any price."""
        return any(price is not None for price in self.prices)


def devices_of(gpu: object) -> list[Hardware]:
    """One device or several, each once: a name, text with commas, a list. Raises `InputError` for an unknown one."""
    names: tuple[Any, ...] = name_axis("gpu", gpu, [])
    return distinct(map(load_hardware, names), [], str)


def each_that_runs(devices: Sequence[Hardware], ask: Callable[[Hardware], T]) -> tuple[list[T], list[str]]:
    """The answers for the devices that can run what is asked, and a warning of the others.

    Raises `InputError` where none can.
    """
    answers, reasons = [], []
    for device in devices:
        try:
            answers.append(ask(device))
        except InputError as error:
            reasons.append(str(error))
    if not answers:
        raise InputError("; ".join(dict.fromkeys(reasons)))
    skipped = f"skipped {len(reasons)} of {len(devices)}: {'; '.join(dict.fromkeys(reasons))}"
    return answers, [skipped] if reasons else []


def ask_each(devices: Sequence[Hardware], prices: Prices, ask: Callable[[Hardware, float | None], Any]) -> Several:
    """What `ask` answers of each device, with its price. Raises `InputError` where none can run it."""
    own = dict(zip(devices, prices_of(prices, devices), strict=True))
    answers, skipped = each_that_runs(devices, lambda device: (device, ask(device, own[device])))
    asked = [device for device, _ in answers]
    results, priced = [result for _, result in answers], [own[device] for device in asked]
    shared = [note for note in results[0].warnings if all(note in result.warnings for result in results)]
    notes = [f"{device.name}: {note}" for device, own in answers for note in own.warnings if note not in shared]
    return Several(tuple(results), tuple(priced), (*shared, *skipped, *without_price(priced, asked), *notes))
