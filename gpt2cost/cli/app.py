"""The command line: which commands there are, and how it ends.

A command's room is imported when the command is asked for. stdout carries data, stderr everything else.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from gpt2cost.cli.plain_types import read_plainly
from gpt2cost.errors import Gpt2CostError, InputError
from gpt2cost.files import ClosedPipe, own_streams, unwritten, write_text
from gpt2cost.output.messages import input_warnings_printed, one_line, say
from gpt2cost.version import __version__

COMMANDS = {
    "predict": "gpt2cost.cli.predict:predict",
    "train": "gpt2cost.cli.train:train",
    "sweep": "gpt2cost.cli.sweep:sweep",
    "compare": "gpt2cost.cli.compare:compare",
    "fit": "gpt2cost.cli.capacity:fit",
    "generate": "gpt2cost.cli.generate:generate",
    "trace": "gpt2cost.cli.trace:trace",
    "calibrate": "gpt2cost.cli.calibrate:calibrate",
    "measure": "gpt2cost.cli.measure:measure",
    "validate": "gpt2cost.cli.validate:validate",
    "table": "gpt2cost.cli.table:table",
    "tree": "gpt2cost.cli.tree:tree",
    "explain": "gpt2cost.cli.explain:explain",
    "models": "gpt2cost.cli.models:models",
    "kernel": "gpt2cost.cli.kernel:kernel",
    "accuracy": "gpt2cost.cli.accuracy:accuracy",
    "hardware": "gpt2cost.cli.hardware:hardware",
    "plot": "gpt2cost.cli.plot:plot",
    "report": "gpt2cost.cli.report:report",
}
"""Each command, and each group of commands -> its room and its name there, in the order of the help."""

OTHER_NAMES = {
    "--dtype": "--precision",
    "--precision": "--dtype",
    "--batch": "--micro-batch",
    "--micro-batch": "--batch",
}
"""An option of a pass -> what a training step has in its place, and back."""


class Commands(TyperGroup):
    """The commands of `COMMANDS`: the one that is asked for, and of the others no more than the help needs."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.listed = False
        self.commands = {name: TyperCommand(name) for name in COMMANDS}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, None for an unknown one."""
        if cmd_name not in COMMANDS or self.listed:
            return self.commands.get(cmd_name)
        command = _built(cmd_name)
        read_plainly(command, ctx)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `gpt2cost.__main__`
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Typer's help."""
        self._list()
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Typer's completion of a command's name."""
        self._list()
        return super().shell_complete(ctx, incomplete)

    def _list(self) -> None:
        """From here on the commands have their names and their help alone: to build each takes milliseconds."""
        self.listed = True
        for name, command in self.commands.items():
            command.help = _help(name)


def _built(name: str) -> Any:
    """The command of a name, for which its room is imported."""
    module, _, attribute = COMMANDS[name].partition(":")
    command = getattr(import_module(module), attribute)
    if not isinstance(command, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name)(command)
        command = alone
    return typer.main.get_command(command)


def _help(name: str) -> str | None:
    """What a command says of itself, read from its room without importing it; of a group, what the room says."""
    module, _, function = COMMANDS[name].partition(":")
    room = ast.parse((Path(__file__).parent / f"{module.rpartition('.')[2]}.py").read_text("utf-8"))
    functions = (node for node in room.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return ast.get_docstring(next(functions, room))


ABOUT = "Predict the FLOPs, bytes and latency of GPT-2-class models, kernel by kernel."
EXITS = "Exit codes: 0 fine, 1 a failure of ours, 2 wrong usage or input, 3 --fail-on said no."

app = typer.Typer(
    name="gpt2cost",
    cls=Commands,
    no_args_is_help=True,
    help=f"{ABOUT}\n\n{EXITS}",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


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


# ---------------------------------------------------------------------------------------------- entry


def _click_exception() -> type[Exception]:
    """Typer brings its own click, or depends on it, by version; its public exceptions have the same ancestors."""
    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. A termination unwinds like any exit, so that no temporary file stays."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    own_streams()
    _join_completed()
    sys.exit(run(arguments))


def _join_completed() -> None:
    """bash gives `--gpu=a1` to its completion as three words, of which it replaces the last: as `--gpu a1` has two."""
    words = os.environ.get("COMP_WORDS", "")
    if os.environ.get("_GPT2COST_COMPLETE") == "complete_bash" and words:
        joined, count = re.subn(r"(?<=\s)(--[\w-]+)\s=(?=\s|$)(\s?)", r"\1\n", words)
        os.environ["COMP_WORDS"] = joined
        os.environ["COMP_CWORD"] = str(int(os.environ.get("COMP_CWORD", "0")) - count + words.endswith("="))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Every error is one line on stderr."""
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        command = typer.main.get_command(app)
        read_plainly(command)
        with input_warnings_printed():
            code = command(args=given, prog_name="gpt2cost", standalone_mode=False)
        sys.stdout.flush()  # help texts
        return int(code or 0)
    except _click_exception() as error:
        message = _other_name(error) or error.format_message()  # type: ignore[attr-defined]
        return _fail(message, 2) if message else 0  # without arguments, help was asked for and printed
    except InputError as error:
        return _fail(str(error), 2)
    except Gpt2CostError as error:
        _abandon_stdout()
        return _fail(str(error), 1)
    except (BrokenPipeError, ClosedPipe):
        _abandon_stdout()
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except OSError as error:  # a help text that cannot be written, say
        _abandon_stdout()
        return _fail(str(unwritten(error)), 1)


def _other_name(error: Exception) -> str:
    """What to say of an option that a command has under another name, else an empty string."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    other = OTHER_NAMES.get(option) if isinstance(option, str) and "possibilities" in vars(error) else None
    if context is None or not any(other in param.opts for param in context.command.params):
        return ""
    return f"No such option: {option}; here it is {other}"


def _fail(message: str, code: int) -> int:
    say(f"error: {one_line(message)}")
    return code


def _abandon_stdout() -> None:
    """Point stdout nowhere, so that Python's flush at exit does not complain again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
