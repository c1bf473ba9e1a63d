"""What devices cost: a price per hour for one, or one for each by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from gpt2cost.checks import check_positive
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo, nearest

Prices: TypeAlias = float | Mapping[str, float] | None
"""Per hour: of one device, of several by their names or aliases, in any currency."""


def prices_of(prices: Prices, devices: Sequence[Hardware]) -> list[float | None]:
    """The price per hour of each device, None where there is none.

    Raises `InputError` for a price that is no number above 0, for a name that is none of the devices', for a device
    with two prices, and for one price of several devices.
    """
    if prices is None:
        return [None] * len(devices)
    if not isinstance(prices, Mapping):
        if len(devices) != 1:
            each = ",".join(f"{device.name}=..." for device in devices)
            raise InputError(f"price_per_hour: expected a price of each device, {each}, got {echo(prices)}")
        return [check_positive("price_per_hour", prices)]
    found: list[float | None] = [None] * len(devices)
    names = [[name.casefold() for name in _names(device)] for device in devices]
    for name, price in prices.items():
        own = [place for place, known in enumerate(names) if str(name).casefold() in known]
        if not own:
            hint = nearest(str(name), (name for known in names for name in known))
            others = f"here are {', '.join(device.name for device in devices)}"
            raise InputError(f"price_per_hour: {echo(name)} is none of the devices; {hint or others}")
        for place in own:
            if found[place] is not None:
                raise InputError(f"price_per_hour: {devices[place].name} has two prices")
            found[place] = check_positive(f"price_per_hour of {name}", price)
    return found


def _names(device: Hardware) -> tuple[str, ...]:
    """A changed device keeps the names of what it was made of."""
    return device.names if device.unchanged is None else (device.name, *device.unchanged.names)


def without_price(prices: Sequence[float | None], devices: Sequence[Hardware]) -> list[str]:
    """A warning of the devices that have none, where others have."""
    missing = [device.name for price, device in zip(prices, devices, strict=True) if price is None]
    if not missing or len(missing) == len(devices):
        return []
    return [f"price_per_hour: none of {', '.join(missing)}, which cannot be compared by price"]
