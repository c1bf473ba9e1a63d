"""The blocks of a large sweep, evaluated and made into what is asked for by several processes, in order.

Each of them is a fork that sends what it makes of every so many-th block through a pipe of its own, and waits while
that is full: memory does not grow, and a process whose reader is gone ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import IO, Any, TypeVar

import numpy as np

from gpt2cost.errors import Gpt2CostError
from gpt2cost.prediction.blocks import Block, Rows

WORTH = 200_000
"""From this many points on, processes save more than they take to start."""
ITEM, END, ERROR = "item", "end", "error"
"""What a process sends: something that was made of a block, that there is no more of it, and what went wrong."""

T = TypeVar("T")


def processes() -> int:
    """How many processes can work at once; 1 where there is no cheap way to start some."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def made_of_each(rows: Rows, make: Callable[[Block], Iterable[T]], workers: int | None = None) -> Iterator[Iterator[T]]:
    """For each block of a sweep what `make` makes of it, to be read before the next; by several processes where the
    sweep is large."""
    count = workers or (processes() if rows.points >= WORTH else 1)
    return (iter(make(block)) for block in rows.blocks()) if count < 2 else _received(rows, make, count)


def _received(rows: Rows, make: Callable[[Block], Iterable[T]], workers: int) -> Iterator[Iterator[T]]:
    pipes: list[IO[bytes]] = []
    children: list[int] = []
    try:
        with _held_signals():
            for number in range(workers):
                reader, writer = os.pipe()
                with warnings.catch_warnings():  # numpy's threads do nothing in the children
                    warnings.simplefilter("ignore", DeprecationWarning)
                    child = os.fork()
                if child == 0:
                    _work(rows, make, number, workers, writer, [reader, *(pipe.fileno() for pipe in pipes)])
                os.close(writer)
                children.append(child)
                pipes.append(open(reader, "rb"))  # noqa: PTH123, SIM115
        for number, _ in enumerate(rows.tasks()):
            yield _items(pipes[number % workers])
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
            with suppress(OSError):
                os.waitpid(child, 0)


def _handlers() -> dict[int, Any]:
    """A signal that ends a program -> what the program does instead."""
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return {number: handler for number in ends if callable(handler := signal.getsignal(number))}


@contextmanager
def _held_signals() -> Iterator[None]:
    """What ends the program waits until what is within is done.

    What a handler raises during a fork is lost in Python's own hooks, or leaves a process that nobody knows of, or is
    raised in that process too.
    """
    in_main = threading.current_thread() is threading.main_thread()  # in no other does a handler run
    handlers, came = _handlers() if in_main else {}, list[int]()
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _unheard(*_: Any) -> None:
    """Ctrl-C reaches each process of a terminal; the parent ends the others."""


def _at_once(*_: Any) -> None:
    os._exit(1)


def _items(pipe: IO[bytes]) -> Iterator[Any]:
    """What a process has made of one block."""
    while True:
        try:
            kind, item = pickle.load(pipe)
        except (EOFError, pickle.UnpicklingError):
            raise Gpt2CostError("a process of the sweep was killed, perhaps for the memory that it took") from None
        if kind == END:
            return
        if kind == ERROR:
            raise item
        yield item


def _work(
    rows: Rows, make: Callable[[Block], Iterable[Any]], number: int, workers: int, writer: int, readers: list[int]
) -> None:
    """What a child does: evaluate its blocks and send what is made of them. It never returns.

    `readers` are the parent's ends of pipes: while one is open here, no writer learns that the parent is gone.
    """
    try:
        for reader in readers:
            os.close(reader)
        for caught in _handlers():  # by functions: Python complains of one that came before SIG_IGN or SIG_DFL was set
            signal.signal(caught, _unheard if caught == signal.SIGINT else _at_once)
        keep_freed_memory()
        with open(writer, "wb") as pipe:

            def send(kind: str, item: Any = None) -> None:
                pickle.dump((kind, item), pipe, pickle.HIGHEST_PROTOCOL)

            try:
                for task in islice(rows.tasks(), number, None, workers):
                    for item in make(rows.block(task)):
                        send(ITEM, item)
                    send(END)
                    pipe.flush()
            except Exception as error:
                send(ERROR, error)
    except BrokenPipeError:
        pass
    finally:
        os._exit(0)


def keep_freed_memory() -> None:
    """Have the C library keep what arrays free for the next ones. As a rule it hands it back to the system, which
    clears each page before it gives it out again: a sixth of a sweep's time.

    glibc keeps twice as much as the largest block that was freed so far, of up to 32 MiB: of this one, never touched.
    """
    np.empty(31 << 20, np.uint8)
