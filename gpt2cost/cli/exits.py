"""The exit code of an answer that is no: what does not fit, is beyond the positions, or was measured out of range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.choices import choices
from gpt2cost.prediction.grid import split_list

SAID_NO = 3
OOM, POSITIONS, RANGE = "oom", "positions", "range"


@dataclass(eq=False, repr=False)
class FailFlags:
    """When a command that has done its work ends as if it had failed. Raises `InputError` for a reason that it has not.

    `reasons`: those that the command has.
    """

    reasons: ClassVar[tuple[str, ...]]
    fail_on: str | None = None

    def __post_init__(self) -> None:
        self.asked = () if self.fail_on is None else split_list("fail_on", self.fail_on)
        for reason in self.asked:
            check_choice("fail_on", reason, self.reasons)

    def leave(self, **fine: bool) -> None:
        """End the command with `SAID_NO` where a reason that is asked for is not `fine`: after its output."""
        if not all(fine[reason] for reason in self.asked):
            raise typer.Exit(SAID_NO)


@dataclass(eq=False, repr=False)
class ExitFlags(FailFlags):
    """Of predictions."""

    reasons = OOM, POSITIONS

    fail_on: Annotated[
        str | None,
        choices(
            "--fail-on", reasons, None,
            "Exit 3 where something does not fit into the device's memory (oom) or is beyond the model's positions.",
        ),
    ] = None  # fmt: skip


@dataclass(eq=False, repr=False)
class RangeExitFlags(FailFlags):
    """Of predictions beside measurements."""

    reasons = (RANGE,)

    fail_on: Annotated[
        str | None, choices("--fail-on", reasons, None, "range: exit 3 where a measurement is outside its range.")
    ] = None
