"""The command line: the only place that prints or exits.

stdout carries data, stderr everything else. Exit codes: 0 fine, 1 a failure of ours, 2 wrong usage or input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from gpt2cost import __version__
from gpt2cost.errors import Gpt2CostError, InputError
from gpt2cost.records import Record

PIPED_WIDTH = 160
"""Columns of a table that does not go to a terminal: nothing is cut short."""

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


# ---------------------------------------------------------------------------------------------- flags


def _model_names(incomplete: str) -> list[str]:
    from gpt2cost.data import data_dir

    return sorted(path.stem for path in data_dir("configs").glob(f"{incomplete}*.json"))


def _device_names(incomplete: str) -> list[str]:
    from gpt2cost.hardware import hardware_names

    return [name for name in hardware_names() if name.startswith(incomplete)]


def _among(*choices: str) -> Callable[[str], list[str]]:
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


ModelFlag = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A preset (gpt2cost models), a folder, a config.json, or a hub id.",
        autocompletion=_model_names,
        show_default=False,
    ),
]
GpuFlag = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        "--hardware",
        help="A device (gpt2cost hardware list) or a YAML file.",
        autocompletion=_device_names,
        show_default=False,
    ),
]
BatchFlag = Annotated[int, typer.Option("--batch", "--batch-size", help="Sequences in the batch.")]
SeqFlag = Annotated[int, typer.Option("--seq", "--seq-len", help="New tokens a sequence in this forward pass.")]
CacheFlag = Annotated[int, typer.Option("--cache", "--cache-len", help="Tokens a sequence already in the KV cache.")]
DtypeFlag = Annotated[
    str,
    typer.Option("--dtype", help="fp32, tf32, fp16 or bf16.", autocompletion=_among("fp32", "tf32", "fp16", "bf16")),
]
AttnFlag = Annotated[
    str,
    typer.Option(
        "--attn", help="eager, sdpa or flash_attention_2.", autocompletion=_among("eager", "sdpa", "flash_attention_2")
    ),
]
RuntimeFlag = Annotated[
    str,
    typer.Option(
        "--runtime", help="eager, compile or cuda-graph.", autocompletion=_among("eager", "compile", "cuda-graph")
    ),
]
LogitsFlag = Annotated[
    str, typer.Option("--logits", help="lm_head on all positions or the last.", autocompletion=_among("all", "last"))
]
NoCacheFlag = Annotated[bool, typer.Option("--no-use-cache", help="Run without a KV cache; --cache must be 0.")]
FormatFlag = Annotated[
    str,
    typer.Option(
        "--format",
        help="table, json, jsonl, csv or markdown.",
        autocompletion=_among("table", "json", "jsonl", "csv", "markdown"),
    ),
]
OutputFlag = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write to this file instead of stdout.", show_default=False)
]


# ---------------------------------------------------------------------------------------------- commands


def _print_version(value: bool) -> None:
    if value:
        _write(f"gpt2cost {__version__}\n", None)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Predict the FLOPs, bytes and latency of GPT-2-class models, kernel by kernel."""


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
            autocompletion=_among("prefill", "decode", "both"),
        ),
    ] = "both",
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    group: Annotated[
        str,
        typer.Option(
            "--group", help="A row a kernel, module or layer.", autocompletion=_among("kernel", "module", "layer")
        ),
    ] = "kernel",
    strict: Annotated[bool, typer.Option("--strict", help="Make a warning an error (exit 2).")] = False,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Predict one run: per-kernel FLOPs, bytes and latency of a prefill, and of the decode step after it."""
    from gpt2cost import predict as predict_api
    from gpt2cost import records
    from gpt2cost.settings import check_choice

    check_choice("group", group, records.GROUPS)
    sink = _Sink(format, output)
    prediction = predict_api(
        _required("--model", model),
        _required("--gpu", gpu),
        batch,
        seq,
        cache,
        dtype,
        attn,
        runtime,
        phase,
        logits,
        not no_use_cache,
    )
    if strict and prediction.warnings:
        raise InputError("; ".join(prediction.warnings))
    _warn(prediction.warnings)
    if format in ("jsonl", "csv"):
        sink.rows(list(records.flat_records(prediction, group)))
    else:
        document = records.prediction_record(prediction, group)
        sink.document(document, lambda console: _render("render_prediction", console, document), _prediction_markdown)


def _prediction_markdown(document: Record) -> str:
    from gpt2cost.export import to_markdown

    parts = []
    for phase in document["phases"]:
        totals = [{"figure": name, "value": value} for name, value in phase["totals"].items()]
        parts.append(f"## {phase['phase']}\n\n{to_markdown(phase['kernels'])}\n{to_markdown(totals)}")
    memory = [{"figure": name, "value": value} for name, value in document["memory"].items()]
    return "\n".join([*parts, f"## memory\n\n{to_markdown(memory)}"])


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
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Print the cost table symbolically: each kernel's formulas and the source line they stand for.

    With --model, its kernels with their numbers at the sizes given.
    """
    from gpt2cost import records
    from gpt2cost.model import load_model
    from gpt2cost.passes import symbol_values, table_options, table_rows
    from gpt2cost.settings import check_settings

    sink = _Sink(format, output)
    settings = check_settings(batch, seq, cache, dtype, attn, runtime, "both", logits, not no_use_cache)
    loaded = load_model(model if model is not None else "gpt2")
    rows = table_rows(table_options(loaded, attn, logits, settings.use_cache), runtime)
    symbols = None if model is None else symbol_values(loaded, dtype, batch, seq, cache)
    found = list(records.table_records(rows, symbols))
    if format in ("table", "json"):
        document = {
            **records.envelope(),
            "flops_convention": records.FLOPS_CONVENTION,
            "attn": attn,
            "symbols": symbols,
            "kernels": found,
        }
        sink.document(document, lambda console: _render("render_cost_table", console, found))
    else:
        sink.rows(found)


@app.command()
def models(format: FormatFlag = "table", output: OutputFlag = None) -> None:
    """List the presets."""
    from gpt2cost import records
    from gpt2cost.model import load_model, preset_names

    found = [records.model_record(load_model(name)) for name in preset_names()]
    _Sink(format, output).listing("models", found, lambda console: _render("render_models", console, found))


@hardware_app.command("list")
def hardware_list(format: FormatFlag = "table", output: OutputFlag = None) -> None:
    """List the devices."""
    from gpt2cost import records
    from gpt2cost.hardware import list_hardware

    found = [records.hardware_summary(device) for device in list_hardware()]
    _Sink(format, output).listing("hardware", found, lambda console: _render("render_hardware_list", console, found))


@hardware_app.command("show")
def hardware_show(
    name: Annotated[str, typer.Argument(help="A device or a YAML file.", autocompletion=_device_names)],
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Show all that is known of one device, with where each constant comes from."""
    from gpt2cost import records
    from gpt2cost.hardware import load_hardware

    record = records.hardware_record(load_hardware(name))
    _Sink(format, output).listing("hardware", [record], lambda console: _render("render_mapping", console, record))


@hardware_app.command("validate")
def hardware_validate(
    file: Annotated[Path, typer.Argument(help="A hardware YAML file.")],
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Check a hardware file: every problem in it is reported at once."""
    from gpt2cost import records
    from gpt2cost.hardware import validate_file

    found = [records.hardware_summary(device) for device in validate_file(file)]
    _Sink(format, output).listing("hardware", found, lambda console: _render("render_hardware_list", console, found))


# ---------------------------------------------------------------------------------------------- output


def _required(flag: str, value: str | None) -> str:
    if value is not None:
        return value
    from gpt2cost.hardware import hardware_names
    from gpt2cost.model import preset_names

    choices = preset_names() if flag == "--model" else hardware_names()
    raise InputError(f"{flag} is required: one of {', '.join(choices)}")


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"warning: {_one_line(warning)}", file=sys.stderr)


def _render(renderer: str, console: Any, *arguments: Any) -> None:
    """Call one of `render`'s functions; the module loads rich, which the machine formats do without."""
    from gpt2cost import render

    getattr(render, renderer)(console, *arguments)


class _Sink:
    """Where the output goes, in which format. Made before the work: a wrong format or path costs no time."""

    def __init__(self, format: str, output: Path | None) -> None:
        from gpt2cost.export import FORMATS
        from gpt2cost.settings import check_choice

        check_choice("format", format, FORMATS)
        self.format, self.output = format, output
        if output is not None:
            _check_writable(output)

    def document(
        self, document: Record, render: Callable[[Any], None], markdown: Callable[[Record], str] | None = None
    ) -> None:
        """Write a document as JSON, as a table for people, or as Markdown."""
        from gpt2cost import export

        if self.format == "table":
            self._table(render)
        elif self.format == "markdown" and markdown:
            _write(markdown(document), self.output)
        else:
            _write(export.to_json(document), self.output)

    def rows(self, rows: Sequence[Record]) -> None:
        """Write flat rows as JSON lines, CSV or Markdown."""
        from gpt2cost import export

        write = {"jsonl": export.to_jsonl, "csv": export.to_csv, "markdown": export.to_markdown}[self.format]
        _write(write(rows), self.output)

    def listing(self, name: str, rows: Sequence[Record], render: Callable[[Any], None]) -> None:
        """Write a list of records: in JSON under `name`."""
        from gpt2cost.records import envelope

        if self.format in ("table", "json"):
            self.document({**envelope(), name: list(rows)}, render)
        else:
            self.rows(rows)

    def _table(self, render: Callable[[Any], None]) -> None:
        from rich.console import Console

        to_file = False if self.output else None  # None: as stdout is
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
        console = Console(
            width=width, force_terminal=to_file, color_system=None if "NO_COLOR" in os.environ else "auto", emoji=False
        )
        with console.capture() as capture:
            render(console)
        _write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()), self.output)


def _check_writable(path: Path) -> None:
    """Raise `InputError` unless a file can be made at `path`."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: cannot write: it is a folder")
        if not path.parent.is_dir():
            raise InputError(f"{path}: cannot write: no folder {path.parent}")
    except (OSError, ValueError) as error:
        raise InputError(f"{path!s}: cannot write: {getattr(error, 'strerror', None) or error}") from None
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise InputError(f"{path}: cannot write: permission denied")


def _write(text: str, path: Path | None) -> None:
    """Text to stdout, or to a file that appears whole or not at all."""
    if path is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    import tempfile

    try:
        if path.exists() and not path.is_file():  # a device or a pipe cannot be replaced
            path.write_text(text, "utf-8")
            return
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------------------------------------- entry


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    with suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Every error is one line on stderr."""
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="gpt2cost", standalone_mode=False)
        return int(code or 0)
    except ClickException as error:
        message = error.format_message()  # type: ignore[attr-defined]
        return _fail(message, 2) if message else 2  # without arguments the help has been printed
    except InputError as error:
        return _fail(str(error), 2)
    except Gpt2CostError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        _abandon_stdout()
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except OSError as error:  # stdout is full, say
        _abandon_stdout()
        return _fail(f"cannot write: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> int:
    with suppress(OSError):
        print(f"error: {_one_line(message)}", file=sys.stderr)
    return code


def _one_line(message: str) -> str:
    """A message as one printable line, whatever names of the user's are in it."""
    line = " ".join(message.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _abandon_stdout() -> None:
    """Point stdout nowhere, so that Python's flush at exit does not complain again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
