"""The exit code of what does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.flags import choice

DOES_NOT_FIT = 3
REASONS = ("oom",)


@dataclass(eq=False, repr=False)
class ExitFlags:
    """When a command that has done its work ends as if it had failed. Raises `InputError` for an unknown reason."""

    fail_on: Annotated[
        str | None, choice("--fail-on", REASONS, "oom: exit 3 where something does not fit into the device's memory.")
    ] = None

    def __post_init__(self) -> None:
        if self.fail_on is not None:
            check_choice("fail_on", self.fail_on, REASONS)

    def leave(self, fits: bool) -> None:
        """End the command with `DOES_NOT_FIT` where that is asked for: after its output."""
        if self.fail_on == "oom" and not fits:
            raise typer.Exit(DOES_NOT_FIT)
