"""How a flag that takes words or sizes is made: its help, its default as the help shows it, and its completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from gpt2cost.device.catalog import hardware_names
from gpt2cost.files import data_dir
from gpt2cost.prediction.settings import SIZE_FIELDS
from gpt2cost.table.config import CONFIG_KEYS


def either(choices: Sequence[str]) -> str:
    """Choices as a help text names them: `a, b or c`."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def model_names(incomplete: str) -> list[str]:
    """Shell completion of presets."""
    return sorted(path.stem for path in data_dir("configs").glob(f"{incomplete}*.json"))


def device_names(incomplete: str) -> list[str]:
    """Shell completion of devices."""
    return [name for name in hardware_names() if name.startswith(incomplete)]


def config_keys(incomplete: str) -> list[str]:
    """Shell completion of what --set sets."""
    return [f"{key}=" for key in CONFIG_KEYS if key.startswith(incomplete)]


def among(*choices: str) -> Callable[[str], list[str]]:
    """Shell completion of a flag that takes one of `choices`."""
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def several(complete: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Shell completion of the last of several values that commas separate."""

    def completed(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + choice for choice in complete(last)]

    return completed


def choice(flag: str, choices: Sequence[str], help: str = "", **more: Any) -> Any:
    """A flag that takes one of `choices`; without `help` that names them."""
    return typer.Option(flag, help=help or f"{either(choices)}.", autocompletion=among(*choices), **more)


def choices(flag: str, names: Sequence[str], default: str | None, help: str = "") -> Any:
    """A flag that takes one or more of `names`, `default` where it is not given."""
    complete = several(among(*names))
    text = help or f"Of {', '.join(names)} one or more."
    return typer.Option(flag, help=text, show_default=default or True, autocompletion=complete)


def size(name: str, help: str, **more: Any) -> Any:
    """The flag of one of `SIZE_FIELDS`, under both of its names."""
    return typer.Option(f"--{name}", f"--{SIZE_FIELDS[name].replace('_', '-')}", help=help, **more)
