"""The ops of passes that were profiled, as `profile` measurements hold them. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gpt2cost.errors import InputError
from gpt2cost.measure.observed import Observed, counts, table_op, wraps
from gpt2cost.measure.records import Measurement, is_microseconds, named

_PRIMITIVES = frozenset({"clamp_min", "copy_", "fill_", "index_select", "zero_"})
"""What `relu`, `clone`, `zeros` or `embedding` do their work with."""


def observed_of_profile(record: Measurement) -> list[Observed]:
    """The same from a `profile` measurement. Its ops are flat, in order of their start.

    `ops` are [op, input shapes as text, host us, [[kernel, us], ...]]. On a device they are those that launched
    kernels themselves, such as the `copy_` of a `clone`; where none is known there is `kernels`: [kernel, start us,
    us]. On a CPU they are all ops that are no views, the inner after the outer. Raises `InputError` for another form.
    """
    try:
        names, ops = record["kernel_names"], record["ops"]
        launching = [(name, us, kernels) for name, _, us, kernels in ops if kernels]
        if not launching and record.get("kernels"):
            return [Observed("", (names[i],), 1e-6 * us, 1e-6 * start_us) for i, start_us, us in record["kernels"]]
        return _in_sequence(
            (table_op(name), [names[i] for i, _ in kernels], sum(us for _, us in kernels) if kernels else op_us)
            for name, op_us, kernels in (launching if record.get("kernels") else _outer(ops))
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise InputError(f"{named(record)}: expected 'ops' and 'kernel_names' as measured") from None


def profile_record(head: Mapping[str, Any], passes: Iterable[Sequence[Observed]]) -> dict[str, Any]:
    """A `profile` measurement: what was run, and [op, us, [kernel names]] of every op of every recorded pass."""
    written = [[[op.op, round(1e6 * op.seconds, 3), list(op.kernels)] for op in observed] for observed in passes]
    return {"kind": "profile", **head, "observed": written}


def observed_passes(record: Measurement) -> list[list[Observed]]:
    """The recordings of a `profile` measurement, ours or a flat one. Raises `InputError` for another form."""
    if "observed" not in record:
        return [observed_of_profile(record)]
    try:
        return [_in_sequence((op, kernels, us) for op, us, kernels in ops) for ops in record["observed"]]
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{named(record)}: expected lists of [op, us, [kernels]] in 'observed'") from None


def _in_sequence(ops: Iterable[tuple[str, Sequence[str], float]]) -> list[Observed]:
    """Ops, each with its kernels and its microseconds, as if one began where the one before ended.

    Raises `ValueError` for names that are no text, where there are none, and for what is no time.
    """
    observed: list[Observed] = []
    start_s = 0.0
    for op, kernels, us in ops:
        if not isinstance(op, str) or isinstance(kernels, str) or not all(isinstance(name, str) for name in kernels):
            raise ValueError
        if not (op or kernels) or not is_microseconds(us):
            raise ValueError
        observed.append(Observed(op, tuple(kernels), 1e-6 * us, start_s))
        start_s += 1e-6 * us
    return observed


def _outer(ops: Sequence[Any]) -> Iterator[tuple[str, float, Any]]:
    """A flat list of a CPU's ops without those that run inside another one."""
    for i, (name, shapes, us, kernels) in enumerate(ops):
        op = name.removeprefix("aten::")
        inside = (
            op in _PRIMITIVES
            or (op == "arange" and "[0]" in shapes)  # writes what the outer one made
            or (op == "_to_copy" and shapes.startswith("[[],"))  # a Python number that becomes a tensor
            or (op == "where" and wraps([inner for inner, *_ in ops[i + 1 : i + 4]]))
        )
        if counts(name) and not inside and not shapes.startswith("[[0]"):
            yield name, us, kernels
