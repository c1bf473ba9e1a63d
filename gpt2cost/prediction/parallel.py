"""The blocks of a large sweep, evaluated by several processes, in order.

Each of them is a fork that sends every so many-th block through a pipe of its own, and waits while that is full: memory
does not grow, and a process whose reader is gone ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import IO

from gpt2cost.errors import Gpt2CostError
from gpt2cost.prediction.blocks import Block, Rows

WORTH = 200_000
"""From this many points on, processes save more than they take to start."""


def processes() -> int:
    """How many processes can work at once; 1 where there is no cheap way to start some."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def blocks_of(rows: Rows, workers: int | None = None) -> Iterator[Block]:
    """The blocks of a sweep, by several processes where it is large."""
    count = workers or (processes() if rows.points >= WORTH else 1)
    return rows.blocks() if count < 2 else _evaluated(rows, count)


def _evaluated(rows: Rows, workers: int) -> Iterator[Block]:
    pipes: list[IO[bytes]] = []
    children: list[int] = []
    try:
        for number in range(workers):
            reader, writer = os.pipe()
            with warnings.catch_warnings():  # numpy's threads do nothing in the children
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                _work(rows, number, workers, writer, [reader, *(pipe.fileno() for pipe in pipes)])
            os.close(writer)
            children.append(child)
            pipes.append(open(reader, "rb"))  # noqa: PTH123, SIM115
        for number, _ in enumerate(rows.tasks()):
            try:
                found = pickle.load(pipes[number % workers])
            except (EOFError, pickle.UnpicklingError):
                raise Gpt2CostError("a process of the sweep was killed, perhaps for the memory that it took") from None
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
            with suppress(OSError):
                os.waitpid(child, 0)


def _work(rows: Rows, number: int, workers: int, writer: int, readers: list[int]) -> None:
    """What a child does: evaluate its blocks and send them. It never returns.

    `readers` are the parent's ends of pipes: while one is open here, no writer learns that the parent is gone.
    """
    try:
        for reader in readers:
            os.close(reader)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with open(writer, "wb") as pipe:
            try:
                for task in islice(rows.tasks(), number, None, workers):
                    pickle.dump(rows.block(task), pipe, pickle.HIGHEST_PROTOCOL)
                    pipe.flush()
            except Exception as error:
                pickle.dump(error, pipe)
    except BrokenPipeError:
        pass
    finally:
        os._exit(0)
