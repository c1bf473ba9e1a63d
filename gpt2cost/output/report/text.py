"""The page's sentences: what sets the pace, what would help, whether it fits, how far to trust it.

Each is written once, with names in braces; the page's script fills in those of another point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.kernel_rows import cost_records
from gpt2cost.output.report.points import Points
from gpt2cost.output.shared import trust_text
from gpt2cost.prediction.predict import MemoryUse, Phase, Prediction
from gpt2cost.prediction.trust import MEANING
from gpt2cost.table.kernel import short_path
from gpt2cost.units import format_quantity

LEAST_SHARE = 0.0005
"""The least share of a kind of kernel that the page names."""
LEAST_GAIN = 1.03
"""The least speed-up that the page speaks of."""

PHRASES: dict[str, str] = {
    "prefill": "prefill of {batch} x {seq} tokens",
    "decode": "a decode step of {batch} x 1 token",
    "takes": "{what} takes {latency} and is {bound}-bound",
    "range": "{low} to {high}",
    "host": "The host sets the pace: the device is busy for {busy} of the time and waits for launches in the rest.",
    "host_cpu": "Python and dispatch set the pace: kernels take {busy} of the time.",
    "compute": "Arithmetic sets the pace: products run at {flops} of the peak FLOP/s.",
    "memory": "DRAM sets the pace: its bandwidth is used to {bandwidth}.",
    "l2": "Traffic between the processors and L2 sets the pace; DRAM is used to {bandwidth}.",
    "latency": "Work that is too small for the whole device sets the pace: products run at {flops} of the peak FLOP/s.",
    "launch": "The fixed cost of {launches} launches sets the pace: the kernels are short.",
    "slowest": "{share} of the device's time goes to {kernel}.",
    "helps": "With {change} it would take {latency}, {speedup}x as fast.",
    "most": "What would help most: {changes}.",
    "change": "{phase} {speedup}x as fast",
    "trusts": "Trust: {words}.",
    "helps_not": "No other dtype, attention, runtime or choice of logits would make it much faster.",
    "fits": "It fits: {total} of the {capacity} that a process can use.",
    "fits_not": "It does not fit: {total} are needed, and a process can use {capacity}.",
    "shown": (
        "Shown: batch {size}, {dtype}, {attn} attention. Timeline, live memory, curves, devices, generate and training"
        " stay with the point that was asked for."
    ),
    "beyond": "kv_len {kv_len} exceeds n_positions {n_positions}: the real model cannot run this point.",
    **{f"trust_{word}": f"{meaning[0].upper()}{meaning[1:]}." for word, meaning in MEANING.items()},
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What a phase could be run with instead, and the seconds that it would take."""

    change: str
    latency_s: float


def best_change(points: Points, number: int) -> Change | None:
    """The dtype, attention, runtime or choice of logits that would help a phase of the asked point most."""
    own, attns = points.choices[points.own], len(points.axes.attn)
    assert own.prediction is not None
    now_s = float(points.at_asked(own.prediction.phases[number].totals.latency_s))
    found = [Change(name, float(points.at_asked(seconds))) for name, seconds in own.what_ifs[number].items()]
    for place, choice in enumerate(points.choices):
        alike = place // attns == points.own // attns, place % attns == points.own % attns  # in dtype, in attention
        if choice.prediction and sum(alike) == 1 and not points.at_asked(choice.fails):
            name = f"attn {choice.how.attn}" if alike[0] else f"dtype {choice.how.dtype}"
            seconds = points.at_asked(choice.prediction.phases[number].totals.latency_s)
            found.append(Change(name, float(seconds)))
    best = min(found, key=lambda change: change.latency_s, default=None)
    return best if best and now_s / best.latency_s >= LEAST_GAIN else None


def phrases(hw: Hardware) -> dict[str, str]:
    """The phrases of a device: a CPU is its own host."""
    return PHRASES | ({"host": PHRASES["host_cpu"]} if hw.vendor == "cpu" else {})


def takes(phase: Phase) -> str:
    """What a phase takes, and what bounds it: half a sentence."""
    what = PHRASES[phase.phase].format(batch=phase.batch_size, seq=phase.seq_len)
    latency = format_quantity(phase.totals.latency_s, "s")
    return PHRASES["takes"].format(what=what, latency=latency, bound=phase.totals.bound)


def pace(phase: Phase, hw: Hardware) -> str:
    """What sets the pace of a phase."""
    totals = phase.totals
    return phrases(hw)[totals.bound].format(
        busy=percent(min(1.0, totals.device_s / totals.latency_s)),
        flops=percent(totals.flops_utilization),
        bandwidth=percent(totals.bandwidth_utilization),
        launches=totals.launches,
    )


def slowest(phase: Phase) -> str:
    """Where most of a phase's device time goes."""
    row = max(cost_records(phase), key=lambda row: float(row["device_s"]))
    return PHRASES["slowest"].format(share=percent(row["share"]), kernel=short_path(row["name"]))


def lead(prediction: Prediction, points: Points) -> str:
    """The verdict: what each phase takes and what bounds it, whether it fits, what would help, how far to trust it."""
    halves = "; ".join(map(takes, prediction.phases))
    changes: dict[str, list[str]] = {}
    words: dict[str, list[str]] = {}
    for number, phase in enumerate(prediction.phases):
        if best := best_change(points, number):
            speedup = f"{phase.totals.latency_s / best.latency_s:.2f}"
            changes.setdefault(best.change, []).append(PHRASES["change"].format(phase=phase.phase, speedup=speedup))
        words.setdefault(trust(prediction, phase)[0], []).append(phase.phase)
    most = PHRASES["most"].format(changes=_listed(changes)) if changes else PHRASES["helps_not"]
    trusts = PHRASES["trusts"].format(words=_listed(words) if len(words) > 1 else next(iter(words)))
    return f"{halves[0].upper()}{halves[1:]}. {fits(prediction.memory)} {most} {trusts}"


def _listed(texts: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{key} ({', '.join(own)})" for key, own in texts.items())


def helps(points: Points, number: int, phase: Phase) -> str:
    """What would help a phase most."""
    best = best_change(points, number)
    if best is None:
        return PHRASES["helps_not"]
    latency, speedup = format_quantity(best.latency_s, "s"), phase.totals.latency_s / best.latency_s
    return PHRASES["helps"].format(change=best.change, latency=latency, speedup=f"{speedup:.2f}")


def fits(memory: MemoryUse) -> str:
    """Whether a run fits the device."""
    total, capacity = (format_quantity(size, "B") for size in (memory.total_bytes, memory.capacity_bytes))
    return PHRASES["fits" if memory.fits else "fits_not"].format(total=total, capacity=capacity)


def trust(prediction: Prediction, phase: Phase) -> tuple[str, str]:
    """How far to trust a phase's seconds: the word with whose constants they rest on, and what it means."""
    totals = phase.totals
    return trust_text(totals.trust, totals.trust_from, prediction.hardware), PHRASES[f"trust_{totals.trust}"]


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f}%"
