"""Which device a driver means: `NVIDIA A100-SXM4-80GB` is a100-sxm-80gb."""

from __future__ import annotations

import re

from gpt2cost.device.catalog import list_hardware
from gpt2cost.device.hardware import Hardware


def device_called(name: str) -> Hardware | None:
    """The device of which the driver's `name` holds most; None where it is none that there is a file of."""
    given = _pieces(name)
    fitting = [
        (len(pieces), device) for device in list_hardware() for pieces in map(_pieces, device.names) if pieces <= given
    ]
    return max(fitting, key=lambda item: item[0])[1] if fitting else None


def _pieces(name: str) -> set[str]:
    """Its words and numbers: `rtx4090` is as good as `RTX 4090`, and `SXM4` is an SXM."""
    return set(re.findall(r"[a-z]+|\d+", name.casefold()))
