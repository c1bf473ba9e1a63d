"""The energy of a pass, of a step or of a run, as a bound.

    energy_bound_j = board power of the device x upper end of the range of the time x number of GPUs

It takes the upper end (`latency_high_s`), since whoever pays for power or provides it has to rely on it: the bound
holds wherever the pass ends within its range, and is no surer than that. It is no estimate: the device can draw its
board power and usually draws less, far less where it waits for the host. It is of the boards alone, without the host,
fans and power supplies; of a Mac it is the whole machine's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError

ENERGY_COLUMNS = ("board_power_w", "energy_bound_j", "energy_bound_j_per_token")
"""What is known of the energy of a row, in every command."""
ENERGY_TEXT = "energy, a bound: board power x upper end of the range; usually less is drawn"
"""What people are told of it."""


@dataclass(frozen=True, eq=False)
class EnergyBound:
    """The energy of something that takes at most `high_s`, on each of `gpus` devices, for `tokens` in all.

    Numbers, or arrays that broadcast. `of`: the columns of the rows that it is of, such as `{"phase": "decode"}`.
    """

    board_power_w: float
    high_s: Any
    tokens: Any
    gpus: Any = 1
    of: Mapping[str, str] = field(default_factory=dict)

    @property
    def energy_bound_j(self) -> Any:
        return self.board_power_w * self.high_s * self.gpus

    @property
    def energy_bound_j_per_token(self) -> Any:
        return self.energy_bound_j / self.tokens


def energy_bound(hardware: Hardware, high_s: Any, tokens: Any, gpus: Any = 1, **of: str) -> EnergyBound:
    """The bound on a device. Raises `InputError` where its file has no board power."""
    check_board_power([hardware])
    assert hardware.board_power_w is not None
    return EnergyBound(hardware.board_power_w, high_s, tokens, gpus, of)


def check_board_power(devices: Iterable[Hardware]) -> None:
    """Raise `InputError` unless every device has a board power in its file."""
    every = list(dict.fromkeys(devices))
    lacking = [device.name for device in every if device.board_power_w is None]
    if len(every) == len(lacking) == 1:
        raise InputError(
            f"energy: {lacking[0]} has no board_power in its YAML; --hw-set board_power='60 W' says what it may draw at"
            " most"
        )
    if lacking:
        raise InputError(
            f"energy: no board_power in the YAML of {', '.join(lacking)}: leave out what has none, or take a file with"
            " board_power: 60 W"
        )
