"""`gpt2cost fit`: what a device can hold, how fast it can go, and with which batch it holds a service level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from gpt2cost.cli.choices import choice
from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import PHASE_HELP, HowFlags, ModelFlags, OutputFlags, takes
from gpt2cost.cli.given import flag_of, is_given
from gpt2cost.cli.many import GivenSizeFlags, PricedDevicesFlags, ReplicasFlag, show_each, with_energy
from gpt2cost.errors import InputError
from gpt2cost.output.messages import print_warnings
from gpt2cost.output.sink import Sink
from gpt2cost.prediction.capacity import capacity
from gpt2cost.prediction.service import AT, service
from gpt2cost.prediction.settings import PHASES
from gpt2cost.prediction.several import ask_each
from gpt2cost.units import parse_quantity


@dataclass(eq=False, repr=False)
class LevelFlags:
    """A service level of `generate`: None where it is not given."""

    max_tpot: Annotated[str | None, typer.Option("--max-tpot", help="Mean time per later token, such as 50ms.")] = None
    max_ttft: Annotated[str | None, typer.Option("--max-ttft", help="Time to the first token, such as 500ms.")] = None
    prompt: Annotated[int | None, typer.Option("--prompt", help="Tokens of each prompt.", show_default="128")] = None
    new_tokens: Annotated[
        int | None, typer.Option("--new-tokens", help="Tokens to generate for each.", show_default="128")
    ] = None
    at: Annotated[
        str | None, choice("--at", AT, "The point of the range that holds the level.", show_default="high")
    ] = None
    sample: Annotated[bool, typer.Option("--sample", help="Draw from the 50 likeliest tokens; else greedy.")] = False
    padded: Annotated[bool, typer.Option("--padded", help="Prompts padded on the left.")] = False
    gpus: ReplicasFlag = 1

    def given(self) -> list[str]:
        """The flags that are."""
        given = {**vars(self), "gpus": None if self.gpus == 1 else self.gpus}
        return [flag_of(name) for name, value in given.items() if is_given(value)]


@takes
def fit(
    *,
    model: ModelFlags,
    devices: PricedDevicesFlags,
    sizes: GivenSizeFlags,
    how: HowFlags,
    phase: Annotated[str | None, choice("--phase", PHASES, f"{PHASE_HELP}.", show_default="both")] = None,
    max_latency: Annotated[str | None, typer.Option("--max-latency", help="Of one pass, such as 50ms.")] = None,
    level: LevelFlags,
    exits: ExitFlags,
    out: OutputFlags,
) -> None:
    """Find the largest batch at --seq and --cache, the largest context at --batch, and the best throughput.

    With --max-tpot, --max-ttft, --prompt or --new-tokens: the batch with which each device holds that service level,
    and with --price-per-hour the cheapest device.
    """
    sink = out.sink()
    if level.given():
        of_passes = {**vars(sizes), "phase": phase, "max_latency": max_latency}
        _refuse([name for name, value in of_passes.items() if value is not None], level)
        _fit_service(model, devices, how, level, exits, sink)
        return
    limit_s = _seconds("--max-latency", max_latency)
    given = {**sizes.or_usual(), **how.settings(), "phase": phase or "both"}
    loaded, chosen = model.load_model(), devices.load_devices()
    found = ask_each(
        chosen, devices.prices(), lambda device, _: capacity(loaded, device, **given, max_latency_s=limit_s)
    )
    print_warnings(found.warnings)
    show_each(sink, found, found.results[0].view, len(chosen), devices.energy)
    answers = [answer for each in found.results for answer in each.answers]
    exits.leave(
        oom=all(answer.prediction or answer.limited_by != "memory" for answer in answers),
        positions=all(answer.sizes.kv_len <= loaded.n_positions for answer in answers),
    )


def _refuse(of_passes: list[str], level: LevelFlags) -> None:
    """Raise `InputError` for flags of single passes beside those of a service level."""
    if of_passes:
        flags = ", ".join(map(flag_of, of_passes))
        raise InputError(f"{flags}: of single passes; {level.given()[0]} asks for a service level of generate")


def _seconds(flag: str, text: str | None) -> float | None:
    try:
        return None if text is None else parse_quantity(text, "s")
    except InputError as error:
        raise InputError(f"{flag}: {error}") from None


def _fit_service(
    model: ModelFlags, devices: PricedDevicesFlags, how: HowFlags, level: LevelFlags, exits: ExitFlags, sink: Sink
) -> None:
    """The batch with which each device holds a service level."""
    settings = how.settings()
    if settings.pop("logits") != "all":
        raise InputError("--logits: generate computes those of the last position alone")
    found = service(
        model.load_model(), devices.load_devices(), **settings,
        prompt_tokens=128 if level.prompt is None else level.prompt,
        new_tokens=128 if level.new_tokens is None else level.new_tokens,
        max_ttft_s=_seconds("--max-ttft", level.max_ttft), max_tpot_s=_seconds("--max-tpot", level.max_tpot),
        at=level.at or "high", sample=level.sample, padded=level.padded, gpus=level.gpus,
        price_per_hour=devices.prices(),
    )  # fmt: skip
    print_warnings(found.warnings)
    sink.show(with_energy(found.view, devices.energy), found)
    exits.leave(
        oom=all(offer.run or offer.limited_by != "memory" for offer in found.offers),
        positions=all(offer.run is None or offer.run.valid for offer in found.offers),
    )
