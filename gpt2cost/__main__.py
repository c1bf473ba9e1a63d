"""`python -m gpt2cost` and the command `gpt2cost`: the command line."""

from __future__ import annotations

import signal
from importlib import import_module


def main() -> None:
    """Run the command line and exit.

    Until a command has begun, Ctrl-C ends the process as it ends any other, without a word: what it would interrupt are
    imports.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import_module("gpt2cost.cli.app").main()


if __name__ == "__main__":
    main()
