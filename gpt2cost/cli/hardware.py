"""The devices that ship with the tool, and files of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.cli.choices import device_names
from gpt2cost.cli.flags import OutputFlags, takes
from gpt2cost.device.catalog import list_hardware, load_hardware, validate_file
from gpt2cost.output.catalog import DEVICES, ONE_DEVICE
from gpt2cost.prediction.evidence_pass import evidence_model

hardware = typer.Typer(name="hardware", no_args_is_help=True, add_completion=False, help=__doc__)


@hardware.command("list")
@takes
def list_devices(*, out: OutputFlags) -> None:
    """List the devices."""
    out.sink().show(DEVICES, list_hardware())


@hardware.command()
@takes
def show(
    name: Annotated[str, typer.Argument(help="A device or a YAML file; - is stdin.", autocompletion=device_names)],
    *,
    out: OutputFlags,
) -> None:
    """Show all that is known of one device, with where each constant comes from."""
    out.sink().show(ONE_DEVICE, load_hardware(name))


@hardware.command()
@takes
def validate(
    file: Annotated[Path, typer.Argument(help="A hardware YAML file; - is stdin.")],
    *,
    out: OutputFlags,
) -> None:
    """Check a hardware file: every problem in it is reported at once."""
    sink, devices = out.sink(), validate_file(file, pipes=True)
    for device in devices:
        for row in device.evidence:
            evidence_model(device, row)
    sink.show(DEVICES, devices)
