"""The command line: what there is to say, and how it ends.

stdout carries data, stderr everything else. Exit codes: 0 fine, 1 a failure of ours, 2 wrong usage or input.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, cast

import typer
import typer.main

from gpt2cost.checks import check_choice
from gpt2cost.cli import calibrate as cli_calibrate
from gpt2cost.cli import capacity as cli_fit
from gpt2cost.cli import compare as cli_compare
from gpt2cost.cli import generate as cli_generate
from gpt2cost.cli import measure as cli_measure
from gpt2cost.cli import plot as cli_plot
from gpt2cost.cli import sweep as cli_sweep
from gpt2cost.cli import trace as cli_trace
from gpt2cost.cli import validate as cli_validate
from gpt2cost.cli.flags import (
    AttnFlag,
    BatchFlag,
    CacheFlag,
    DtypeFlag,
    FormatFlag,
    GpuFlag,
    HwSetFlag,
    LogitsFlag,
    ModelFlag,
    NoCacheFlag,
    OutputFlag,
    RuntimeFlag,
    SeqFlag,
    SetFlag,
    among,
    chosen_device,
    chosen_model,
    device_names,
)
from gpt2cost.cli.plain_types import read_plainly
from gpt2cost.device.catalog import list_hardware, load_hardware, validate_file
from gpt2cost.errors import Gpt2CostError, InputError
from gpt2cost.files import ClosedPipe, write_text
from gpt2cost.output import catalog
from gpt2cost.output import prediction as pages
from gpt2cost.output import table as cost_table_pages
from gpt2cost.output.formats import to_markdown
from gpt2cost.output.record import FLOPS_CONVENTION, Record, envelope
from gpt2cost.output.sink import Sink, input_warnings_printed, one_line, print_warnings
from gpt2cost.prediction.one_pass import symbol_values, table_options, table_rows
from gpt2cost.prediction.predict import predict as predict_run
from gpt2cost.prediction.ranges import evidence_model
from gpt2cost.prediction.settings import check_settings
from gpt2cost.table.config import load_model, preset_names
from gpt2cost.version import __version__

# Typer brings its own click, or depends on it, by version; its public exceptions have the same ancestors.
ClickException = cast(type[Exception], typer.BadParameter.__mro__[2])


app = typer.Typer(
    name="gpt2cost",
    no_args_is_help=True,
    help="Predict the FLOPs, bytes and latency of GPT-2-class models, kernel by kernel.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


hardware_app = typer.Typer(no_args_is_help=True, help="The devices that ship with the tool, and files of your own.")


app.add_typer(hardware_app, name="hardware")


def _print_version(value: bool) -> None:
    if value:
        write_text(f"gpt2cost {__version__}\n", None)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Predict the FLOPs, bytes and latency of GPT-2-class models, kernel by kernel."""


# ---------------------------------------------------------------------------------------------- predict


@app.command()
def predict(
    model: ModelFlag = None,
    gpu: GpuFlag = None,
    batch: BatchFlag = 1,
    seq: SeqFlag = 128,
    cache: CacheFlag = 0,
    dtype: DtypeFlag = "fp16",
    attn: AttnFlag = "sdpa",
    runtime: RuntimeFlag = "eager",
    phase: Annotated[
        str,
        typer.Option(
            "--phase",
            help="prefill (the pass of --seq tokens), decode (the next token) or both.",
            autocompletion=among("prefill", "decode", "both"),
        ),
    ] = "both",
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    group: Annotated[
        str,
        typer.Option("--group", help="A row a kernel, module or layer.", autocompletion=among(*pages.GROUPS)),
    ] = "kernel",
    explain: Annotated[
        bool, typer.Option("--explain", help="Add what bounds the slowest kernels, and what would help the pass.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Make a warning an error (exit 2).")] = False,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Predict one run: per-kernel FLOPs, bytes and latency of a prefill, and of the decode step after it."""
    check_choice("group", group, pages.GROUPS)
    sink = Sink(format, output)
    loaded, device = chosen_model(model, set_), chosen_device(gpu, hw_set)
    prediction = predict_run(
        loaded, device, batch, seq, cache, dtype, attn, runtime, phase, logits, use_cache=not no_use_cache
    )
    if strict and prediction.warnings:
        raise InputError("; ".join(prediction.warnings))
    print_warnings(prediction.warnings)
    if format in ("jsonl", "csv"):
        sink.rows(list(pages.flat_records(prediction, group)))
    else:
        document = pages.prediction_record(prediction, group, explain)
        sink.document(document, lambda page: pages.render_prediction(page, document), _prediction_markdown)


def _prediction_markdown(document: Record) -> str:
    def figures(values: Record) -> str:
        return to_markdown({"figure": name, "value": value} for name, value in values.items())

    parts = []
    for phase in document["phases"]:
        parts.append(f"## {phase['phase']}\n\n{to_markdown(phase['kernels'])}\n{figures(phase['totals'])}")
        for name, rows in phase.get("explanation", {}).items():
            parts.append(f"### {phase['phase']}: {name}\n\n{to_markdown(rows)}")
    return "\n".join([*parts, f"## memory\n\n{figures(document['memory'])}"])


app.command()(cli_sweep.sweep)


app.command()(cli_compare.compare)


app.command()(cli_fit.fit)


app.command()(cli_generate.generate)


app.command()(cli_trace.trace)


app.command()(cli_calibrate.calibrate)


app.command()(cli_measure.measure)


app.command()(cli_validate.validate)


app.add_typer(cli_plot.app, name="plot")


# ---------------------------------------------------------------------------------------------- the cost table


@app.command()
def table(
    model: ModelFlag = None,
    batch: BatchFlag = 1,
    seq: SeqFlag = 128,
    cache: CacheFlag = 0,
    dtype: DtypeFlag = "fp16",
    attn: AttnFlag = "sdpa",
    runtime: RuntimeFlag = "eager",
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    set_: SetFlag = None,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Print the cost table symbolically: each kernel's formulas and the source line they stand for.

    With --model, its kernels with their numbers at the sizes given.
    """
    sink = Sink(format, output)
    settings = check_settings(batch, seq, cache, dtype, attn, runtime, "both", logits, not no_use_cache)
    loaded = chosen_model(model if model is not None else "gpt2", set_)
    rows = table_rows(
        table_options(loaded, attn, logits, settings.use_cache and loaded.use_cache, (), runtime), runtime
    )
    symbols = None if model is None else symbol_values(loaded, dtype, batch, seq, cache)
    found = list(cost_table_pages.table_records(rows, symbols))
    if format in ("table", "json"):
        document = {
            **envelope(),
            "flops_convention": FLOPS_CONVENTION,
            "attn": attn,
            "symbols": symbols,
            "kernels": found,
        }
        sink.document(document, lambda page: cost_table_pages.render_cost_table(page, found))
    else:
        sink.rows(found)


# ---------------------------------------------------------------------------------------------- what there is


@app.command()
def models(format: FormatFlag = "table", output: OutputFlag = None) -> None:
    """List the presets."""
    found = [catalog.model_record(load_model(name)) for name in preset_names()]
    Sink(format, output).listing("models", found, lambda page: catalog.render_models(page, found))


@hardware_app.command("list")
def hardware_list(format: FormatFlag = "table", output: OutputFlag = None) -> None:
    """List the devices."""
    found = [catalog.hardware_summary(device) for device in list_hardware()]
    Sink(format, output).listing("hardware", found, lambda page: catalog.render_hardware_list(page, found))


@hardware_app.command("show")
def hardware_show(
    name: Annotated[str, typer.Argument(help="A device or a YAML file.", autocompletion=device_names)],
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Show all that is known of one device, with where each constant comes from."""
    record = catalog.hardware_record(load_hardware(name))
    Sink(format, output).listing("hardware", [record], lambda page: catalog.render_mapping(page, record))


@hardware_app.command("validate")
def hardware_validate(
    file: Annotated[Path, typer.Argument(help="A hardware YAML file.")],
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Check a hardware file: every problem in it is reported at once."""
    devices = validate_file(file)
    for device in devices:
        for row in device.evidence:
            evidence_model(device, row)
    found = [catalog.hardware_summary(device) for device in devices]
    Sink(format, output).listing("hardware", found, lambda page: catalog.render_hardware_list(page, found))


# ---------------------------------------------------------------------------------------------- one kernel


@app.command()
def kernel(
    kind: Annotated[
        str,
        typer.Argument(
            help="gemm, bmm, attention, elementwise, softmax, layer_norm or copy.",
            autocompletion=among("gemm", "bmm", "attention", "elementwise", "softmax", "layer_norm", "copy"),
        ),
    ],
    gpu: GpuFlag = None,
    dtype: DtypeFlag = "fp16",
    batch: Annotated[int | None, typer.Option(help="gemm, bmm, attention.", show_default=False)] = None,
    m: Annotated[int | None, typer.Option("--m", help="gemm, bmm: rows of the result.", show_default=False)] = None,
    n: Annotated[int | None, typer.Option("--n", help="gemm, bmm: columns of the result.", show_default=False)] = None,
    k: Annotated[int | None, typer.Option("--k", help="gemm, bmm: what is summed over.", show_default=False)] = None,
    heads: Annotated[int | None, typer.Option(help="attention.", show_default=False)] = None,
    head_dim: Annotated[int | None, typer.Option(help="attention.", show_default=False)] = None,
    new_tokens: Annotated[int | None, typer.Option(help="attention.", show_default=False)] = None,
    cached_tokens: Annotated[int | None, typer.Option(help="attention.", show_default=False)] = None,
    causal: Annotated[bool | None, typer.Option(help="attention.", show_default=False)] = None,
    write_cache: Annotated[
        bool | None, typer.Option(help="attention: the call writes the KV cache too (default).", show_default=False)
    ] = None,
    rows: Annotated[int | None, typer.Option(help="softmax, layer_norm.", show_default=False)] = None,
    columns: Annotated[int | None, typer.Option(help="softmax, layer_norm.", show_default=False)] = None,
    elements: Annotated[int | None, typer.Option(help="elementwise, copy.", show_default=False)] = None,
    inputs: Annotated[int | None, typer.Option(help="elementwise, copy: tensors read.", show_default=False)] = None,
    hw_set: HwSetFlag = None,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Predict one kernel on its own: FLOPs, bytes, latency in a busy stream, and what bounds it."""
    from gpt2cost.prediction.one_kernel import kernel_latency

    given = {
        "batch": batch, "m": m, "n": n, "k": k, "heads": heads, "head_dim": head_dim, "new_tokens": new_tokens,
        "cached_tokens": cached_tokens, "causal": causal, "write_cache": write_cache, "rows": rows, "columns": columns,
        "elements": elements,
        "inputs": inputs,
    }  # fmt: skip
    sink = Sink(format, output)
    shape = {name: value for name, value in given.items() if value is not None}
    record = catalog.kernel_record(kernel_latency(kind, chosen_device(gpu, hw_set), dtype, **shape))
    sink.listing("kernels", [record], lambda page: catalog.render_mapping(page, record))


# ---------------------------------------------------------------------------------------------- accuracy


@app.command()
def accuracy(
    measurements: Annotated[
        Path | None,
        typer.Option("--measurements", help="A folder of CSV files of kernel measurements.", show_default=False),
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Predict each device with every other device's constants.")
    ] = False,
    gpu: GpuFlag = None,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Put predictions beside measurements: the passes in the hardware files, or kernels in CSV files."""
    from gpt2cost.measure import kernel_files, score
    from gpt2cost.output import accuracy as results

    sink = Sink(format, output)
    if measurements is not None:
        rows = [results.kernel_result(result) for result in kernel_files.score_measurements(measurements)]
        sink.listing("kernels", rows, lambda page: results.render_rows(page, rows))
    elif leave_one_out:
        rows = [results.transfer_result(result) for result in score.leave_one_out()]
        sink.listing("transfer", rows, lambda page: results.render_rows(page, rows))
    else:
        evidence = score.score_evidence([load_hardware(gpu)] if gpu is not None else None)
        rows = [results.evidence_result(result) for result in evidence]
        summary = results.summaries(evidence)
        if format in ("table", "json"):
            document = {**envelope(), "evidence": rows, "devices": summary}
            sink.document(document, lambda page: results.render_accuracy(page, document))
        else:
            sink.rows(rows)


# ---------------------------------------------------------------------------------------------- entry


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. A termination unwinds like any exit, so that no temporary file stays."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Every error is one line on stderr."""
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        command = typer.main.get_command(_app_for(given))
        read_plainly(command)
        with input_warnings_printed():
            code = command(args=given, prog_name="gpt2cost", standalone_mode=False)
        return int(code or 0)
    except ClickException as error:
        message = error.format_message()  # type: ignore[attr-defined]
        return _fail(message, 2) if message else 0  # without arguments, help was asked for and printed
    except InputError as error:
        return _fail(str(error), 2)
    except Gpt2CostError as error:
        return _fail(str(error), 1)
    except (BrokenPipeError, ClosedPipe):
        _abandon_stdout()
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except OSError as error:  # stdout is full, say
        _abandon_stdout()
        return _fail(f"cannot write: {error.strerror or error}", 1)


def _app_for(arguments: list[str]) -> typer.Typer:
    """The command line without the commands that are not asked for: to build the parser of each takes milliseconds."""
    chosen = [
        each
        for each in app.registered_commands
        if each.callback and arguments and arguments[0] == (each.name or each.callback.__name__.replace("_", "-"))
    ]
    if not chosen:
        return app
    alone = copy.copy(app)
    alone.registered_commands, alone.registered_groups = chosen, []
    return alone


def _fail(message: str, code: int) -> int:
    with suppress(OSError):
        print(f"error: {one_line(message)}", file=sys.stderr)
    return code


def _abandon_stdout() -> None:
    """Point stdout nowhere, so that Python's flush at exit does not complain again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
