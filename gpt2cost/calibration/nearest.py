"""Which known device a measured GPU is nearest to, by its name: where the fit of its constants starts."""

from __future__ import annotations

import re
from math import log

from gpt2cost.device.catalog import list_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo
from gpt2cost.measure.records import Measurement


def base_for(machine: Measurement) -> str:
    """The name of the device in reach that is nearest to the GPU that a machine record names.

    Raises InputError, which asks for `--like`, where the record names none or none is near.
    """
    gpu = machine.get("gpu")
    if not isinstance(gpu, str):
        raise InputError("the measurements name no GPU: name the most similar device with --like")
    wanted = _tokens(gpu)
    chips = {_chip(token) for token in wanted}

    def nearness(device: Hardware) -> tuple[float, ...]:
        """Larger is nearer: the exact chip, common words, words too many, the chip's main device, the memory's size."""
        names = set().union(*map(_tokens, device.names))
        size = machine.get("memory_bytes") or device.memory.capacity_bytes
        away = abs(log(size / device.memory.capacity_bytes))
        main = not wanted.isdisjoint(device.names)
        return (any(map(_chip, wanted & names)), len(wanted & names), -len(names - wanted), main, -away)

    near = [
        device
        for device in list_hardware()
        if device.vendor != "cpu" and chips & {_chip(word) for name in device.names for word in _tokens(name)} - {""}
    ]
    if not near:
        raise InputError(f"no known device is near to {echo(gpu)}: name the most similar one with --like")
    return max(near, key=nearness).name


def _tokens(text: str) -> set[str]:
    """The words of a name in lower case; `SXM4` is `sxm`."""
    return {re.sub(r"^sxm[0-9]$", "sxm", word) for word in re.split(r"[^a-z0-9]+", text.lower()) if word}


def _chip(token: str) -> str:
    """What names a chip in a word, such as `a10` in `a10g` and `4090`; empty for a word that names none."""
    match = re.fullmatch(r"([a-z]{0,3}[0-9]{1,4})[a-z]?", token)
    return match[1] if match and not re.fullmatch(r"[0-9]{1,3}[a-z]?|hbm[0-9][a-z]?", token) else ""
