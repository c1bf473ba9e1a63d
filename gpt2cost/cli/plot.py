"""`gpt2cost plot`: pictures of predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2cost.cli.flags import (
    AttnFlag,
    BatchFlag,
    CacheFlag,
    DtypeFlag,
    GpuFlag,
    GpusFlag,
    HwSetFlag,
    LogitsFlag,
    ModelFlag,
    NoCacheFlag,
    PhaseFlag,
    RuntimeFlag,
    SeqFlag,
    SetFlag,
    among,
    chosen_device,
    chosen_model,
    required,
)
from gpt2cost.errors import InputError
from gpt2cost.files import check_writable, write_bytes
from gpt2cost.output.sink import print_warnings

if TYPE_CHECKING:
    from gpt2cost.output.plot_data import Breakdown, Curve, Roofline, Timeline


app = typer.Typer(no_args_is_help=True, help="Draw predictions: PNG, SVG or PDF, by the suffix of -o.")


SUFFIXES = (".png", ".svg", ".pdf")


PictureFlag = Annotated[
    Path | None, typer.Option("-o", "--output", help="The file: .png, .svg or .pdf.", show_default=False)
]


OnePhaseFlag = Annotated[
    str, typer.Option("--phase", help="prefill or decode.", autocompletion=among("prefill", "decode"))
]


BatchesFlag = Annotated[str, typer.Option("--batch", "--batch-size", help="Sequences; a list or range sweeps it.")]


SeqsFlag = Annotated[str, typer.Option("--seq", "--seq-len", help="New tokens; a list or range sweeps it.")]


CachesFlag = Annotated[str, typer.Option("--cache", "--cache-len", help="Cached tokens; a list or range sweeps it.")]


@app.command()
def roofline(
    model: ModelFlag = None,
    gpu: GpuFlag = None,
    batch: BatchFlag = 1,
    seq: SeqFlag = 128,
    cache: CacheFlag = 0,
    dtype: DtypeFlag = "fp16",
    attn: AttnFlag = "sdpa",
    runtime: RuntimeFlag = "eager",
    phase: PhaseFlag = "both",
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    output: PictureFlag = None,
) -> None:
    """Kernels on the device's roofs: intensity against the rate that each attains."""
    path = _path(output)
    from gpt2cost.output.plot_data import roofline
    from gpt2cost.prediction.predict import predict

    prediction = predict(
        chosen_model(model, set_), chosen_device(gpu, hw_set), batch, seq, cache, dtype, attn, runtime, phase, logits,
        use_cache=not no_use_cache,
    )  # fmt: skip
    print_warnings(prediction.warnings)
    _write(path, lambda: roofline(prediction))


@app.command()
def breakdown(
    model: ModelFlag = None,
    gpu: GpuFlag = None,
    batch: BatchesFlag = "1",
    seq: SeqsFlag = "128",
    cache: CachesFlag = "0",
    dtype: DtypeFlag = "fp16",
    attn: AttnFlag = "sdpa",
    runtime: RuntimeFlag = "eager",
    phase: OnePhaseFlag = "prefill",
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    output: PictureFlag = None,
) -> None:
    """Time by kernel kind, stacked, over the size that is swept, such as --batch 1-64*2."""
    path = _path(output)
    from gpt2cost.output.plot_data import breakdown

    chosen, device = chosen_model(model, set_), chosen_device(gpu, hw_set)
    settings = {"dtype": dtype, "attn": attn, "runtime": runtime, "logits": logits, "use_cache": not no_use_cache}
    sizes: dict[str, object] = {"batch": batch, "seq": seq, "cache": cache}
    _write(path, lambda: breakdown(chosen, device, sizes, phase, **settings))


@app.command()
def curve(
    model: ModelFlag = None,
    gpu: GpusFlag = None,
    batch: BatchesFlag = "1",
    seq: SeqsFlag = "128",
    cache: CachesFlag = "0",
    dtype: DtypeFlag = "fp16",
    attn: AttnFlag = "sdpa",
    runtime: RuntimeFlag = "eager",
    phase: OnePhaseFlag = "decode",
    quantity: Annotated[
        str,
        typer.Option("--quantity", help="latency or throughput.", autocompletion=among("latency", "throughput")),
    ] = "latency",
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    output: PictureFlag = None,
) -> None:
    """Latency or throughput over the size that is swept, of one device or several, with the range of each."""
    path = _path(output)
    from gpt2cost.output.plot_data import curve

    chosen = chosen_model(model, set_)
    names = [name.strip() for name in required("--gpu", gpu).split(",")]
    devices = [chosen_device(name, hw_set) for name in dict.fromkeys(names)]
    settings = {"dtype": dtype, "attn": attn, "runtime": runtime, "logits": logits, "use_cache": not no_use_cache}
    sizes: dict[str, object] = {"batch": batch, "seq": seq, "cache": cache}
    _write(path, lambda: curve(chosen, devices, sizes, phase, quantity, **settings))


@app.command()
def timeline(
    model: ModelFlag = None,
    gpu: GpuFlag = None,
    batch: BatchFlag = 1,
    seq: SeqFlag = 128,
    cache: CacheFlag = 0,
    dtype: DtypeFlag = "fp16",
    attn: AttnFlag = "sdpa",
    runtime: RuntimeFlag = "eager",
    phase: OnePhaseFlag = "prefill",
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    output: PictureFlag = None,
) -> None:
    """The host's queue above the device's stream: the whole pass, and one layer closely."""
    path = _path(output)
    from gpt2cost.output.plot_data import timeline
    from gpt2cost.prediction.predict import predict

    prediction = predict(
        chosen_model(model, set_), chosen_device(gpu, hw_set), batch, seq, cache, dtype, attn, runtime, phase, logits,
        use_cache=not no_use_cache,
    )  # fmt: skip
    print_warnings(prediction.warnings)
    _write(path, lambda: timeline(prediction))


def _path(output: Path | None) -> Path:
    """The picture's file, checked before the work. Raises `InputError`, also where matplotlib is missing."""
    if output is None or output.suffix.lower() not in SUFFIXES:
        given = "" if output is None else f", got {output}"
        raise InputError(f"-o is required, and ends in {', '.join(SUFFIXES)}{given}")
    check_writable(output)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("plot needs matplotlib: pip install 'gpt2cost[plot]'") from None
    return output


def _write(path: Path, data: Callable[[], Roofline | Breakdown | Curve | Timeline]) -> None:
    from gpt2cost.output.plot import draw, rendered

    write_bytes([rendered(draw(data()), path.suffix.lower()[1:])], path)
