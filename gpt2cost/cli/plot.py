"""Draw predictions: PNG, SVG or PDF, by the suffix of -o."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2cost.cli.extras import load
from gpt2cost.cli.flags import (
    DeviceFlags,
    HostFactorFlag,
    HowFlags,
    HwSetFlag,
    ModelFlags,
    PhaseFlag,
    RunFlags,
    choice,
    either,
    hardware_changes,
    required,
    takes,
)
from gpt2cost.cli.many import GpusFlag, SizeListFlags
from gpt2cost.device.catalog import change_hardware, load_hardware
from gpt2cost.errors import InputError
from gpt2cost.files import check_writable, write_bytes
from gpt2cost.output import plot_data, plot_timeline
from gpt2cost.output.messages import print_warnings
from gpt2cost.prediction.grid import split_list
from gpt2cost.prediction.predict import Prediction, predict_run
from gpt2cost.prediction.settings import LEAST, PHASES

SUFFIXES = (".png", ".svg", ".pdf")

plot = typer.Typer(name="plot", no_args_is_help=True, add_completion=False, help=__doc__)

PictureFlag = Annotated[Path | None, typer.Option("-o", "--output", help=f"The file: {either(SUFFIXES)}.")]
OnePhaseFlag = Annotated[str, choice("--phase", PHASES[:2])]


@dataclass(eq=False, repr=False)
class SweptFlags(HowFlags, SizeListFlags):
    """Passes along one size, the one that is a list or a range."""

    def sizes(self) -> dict[str, object]:
        """The sizes as `make_grid` takes them."""
        return {name: getattr(self, name) for name in LEAST}


@plot.command()
@takes
def roofline(*, run: RunFlags, phase: PhaseFlag = "both", output: PictureFlag = None) -> None:
    """Kernels on the device's roofs: intensity against the rate that each attains."""
    picture = _Picture(output)
    picture.write(plot_data.roofline(_predicted(run, phase)))


@plot.command()
@takes
def breakdown(
    *,
    model: ModelFlags,
    device: DeviceFlags,
    swept: SweptFlags,
    phase: OnePhaseFlag = "prefill",
    output: PictureFlag = None,
) -> None:
    """Time by kernel kind, stacked, over the size that is swept, such as --batch 1-64*2."""
    picture = _Picture(output)
    loaded, hardware = model.load_model(), device.load_device()
    picture.write(plot_data.breakdown(loaded, hardware, swept.sizes(), phase, **swept.settings()))


@plot.command()
@takes
def curve(
    *,
    model: ModelFlags,
    gpu: GpusFlag = None,
    hw_set: HwSetFlag = None,
    host_factor: HostFactorFlag = None,
    swept: SweptFlags,
    phase: OnePhaseFlag = "decode",
    quantity: Annotated[str, choice("--quantity", plot_data.QUANTITIES)] = "latency",
    output: PictureFlag = None,
) -> None:
    """Latency or throughput over the size that is swept, of one device or several, with the range of each."""
    picture = _Picture(output)
    loaded = model.load_model()
    names = split_list("gpu", required("--gpu", gpu))
    changes = hardware_changes(hw_set, host_factor)
    devices = [change_hardware(load_hardware(name), changes) for name in dict.fromkeys(names)]
    picture.write(plot_data.curve(loaded, devices, swept.sizes(), phase, quantity, **swept.settings()))


@plot.command()
@takes
def timeline(*, run: RunFlags, phase: OnePhaseFlag = "prefill", output: PictureFlag = None) -> None:
    """The host's queue above the device's stream: the whole pass, and one layer closely."""
    picture = _Picture(output)
    picture.write(plot_timeline.timeline(_predicted(run, phase)))


def _predicted(run: RunFlags, phase: str) -> Prediction:
    prediction = predict_run(run.load_model(), run.load_device(), run.how(), run.sizes(), phase)
    print_warnings(prediction.warnings)
    return prediction


class _Picture:
    """The picture's file, checked before the work. Raises `InputError`, also where matplotlib is missing."""

    def __init__(self, output: Path | None) -> None:
        if output is None or output.suffix.lower() not in SUFFIXES:
            given = "" if output is None else f", got {output}"
            raise InputError(f"-o is required, and ends in {', '.join(SUFFIXES)}{given}")
        check_writable(output)
        self.path, self.drawing = output, load("gpt2cost.output.plot", "plot")

    def write(self, data: Any) -> None:
        """Draw `data`, and write the file whole or not at all."""
        write_bytes([self.drawing.rendered(self.drawing.draw(data), self.path.suffix.lower()[1:])], self.path)
