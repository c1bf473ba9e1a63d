"""Where the shipped data lies, the careful reading of small text files, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from gpt2cost.errors import InputError, OutputError, plain

SIZE_LIMIT = 1_000_000
"""Largest hardware or config file that is read, in bytes; real ones have a few thousand."""
STDIN = Path("/dev/stdin")
"""What a `-` in the place of a file is read from."""
PIPE_WAIT_S = 5.0
"""How long a pipe may be without a writer."""


def data_dir(kind: Literal["hardware", "configs"]) -> Path:
    """The folder of the shipped hardware files or model configs."""
    package = Path(__file__).resolve().parent
    shipped = package / "data" / kind
    return shipped if shipped.is_dir() else package.parent / kind


def read_text(path: Path, pipes: bool = False) -> str:
    """The text of a small UTF-8 file. InputError if it cannot be read, is over SIZE_LIMIT, or is not text.

    `pipes`: the user has named it, so that it may be a pipe, whose content is kept: it can be read once. One that is
    found may never end.
    """
    where = plain(str(path))
    try:
        is_pipe = path.is_fifo() or path == STDIN
        if (is_pipe and not pipes) or path.is_char_device():  # a read might never end
            raise InputError(f"{where}: expected a regular file")
        raw = _kept(path) if is_pipe else b""
        if not raw:
            with opened(path) as file:
                raw = file.read(SIZE_LIMIT + 1)
        if is_pipe:
            _KEPT[path] = (_stamp(path), raw)
    except InputError:  # which is a ValueError
        raise
    except OSError as error:
        raise InputError(f"{where}: cannot read this file: {error.strerror or error}") from None
    except ValueError:  # a NUL or a lone surrogate in the name
        raise InputError(f"{where}: not a possible file name") from None
    if len(raw) > SIZE_LIMIT:
        raise InputError(f"{where}: larger than {SIZE_LIMIT // 1_000_000} MB, so it is not such a file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start}); is it a binary file?") from None
    if "\0" in text:
        raise InputError(f"{where}: holds a NUL character; is it a binary file?")
    return text


_KEPT: dict[Path, tuple[tuple[int, int], bytes]] = {}
"""A pipe that was read -> what it was then, and what came through it."""


def _stamp(path: Path) -> tuple[int, int]:
    """What tells a pipe from another one, and from itself when more was written into it."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def _kept(path: Path) -> bytes:
    stamp, raw = _KEPT.get(path, ((0, 0), b""))
    return raw if raw and stamp == _stamp(path) else b""


def opened(path: Path) -> io.BufferedReader:
    """A file to read, or a pipe that has a writer or something in it. That of stdin may be a socket, which cannot be
    opened. Raises `InputError` for a pipe that nobody writes into, which would be waited for for ever.
    """
    if path == STDIN:
        return os.fdopen(os.dup(0), "rb")
    if not path.is_fifo():
        return path.open("rb")
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else it would wait for a writer here
    if not select.select([pipe], [], [], PIPE_WAIT_S)[0] and not _has_writer(pipe):
        os.close(pipe)
        raise InputError(f"{plain(str(path))}: cannot read: nobody wrote into this pipe in {PIPE_WAIT_S:g} s")
    os.set_blocking(pipe, True)
    return os.fdopen(pipe, "rb")


def _has_writer(pipe: int) -> bool:
    """Whether an empty pipe is open for writing, by a slow command say: without a writer it is at its end."""
    try:
        os.read(pipe, 1)
    except BlockingIOError:
        return True
    return False


class ClosedPipe(Exception):  # noqa: N818 (it is no error)
    """Whoever reads stdout has seen enough. A class of its own, because typer makes a broken pipe exit with 1."""


def check_writable(path: Path) -> None:
    """Raise `InputError` unless a file can be made at `path`."""
    where = plain(str(path))
    try:
        target = _target(path)
        is_folder, has_folder, exists = target.is_dir(), target.parent.is_dir(), target.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: cannot write: {getattr(error, 'strerror', None) or error}") from None
    if is_folder:
        raise InputError(f"{where}: cannot write: it is a folder")
    if not has_folder:
        raise InputError(f"{where}: cannot write: no folder {plain(str(target.parent))}")
    if not os.access(target if exists else target.parent, os.W_OK):
        raise InputError(f"{where}: cannot write: permission denied")


def write_text(text: str, path: Path | None) -> None:
    """Text to stdout, or to a file that appears whole or not at all."""
    write_chunks((text,), path)


def write_chunks(chunks: Iterable[str], path: Path | None) -> None:
    """Pieces of text, as they come, to stdout or to a file that appears whole or not at all.

    A file whose name ends in .gz is compressed. Raises `OutputError` where it cannot be written.
    """
    if path is not None:
        write_bytes((chunk.encode("utf-8", "replace") for chunk in chunks), path)
        return
    try:
        sys.stdout.writelines(chunks)
        sys.stdout.flush()
    except BrokenPipeError:
        raise ClosedPipe from None
    except OSError as error:
        raise unwritten(error) from None


def write_out(chunks: Iterable[bytes]) -> None:
    """Pieces of bytes to stdout."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(chunks)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise ClosedPipe from None
    except OSError as error:
        raise unwritten(error) from None


def unwritten(error: OSError) -> OutputError:
    """What is said where stdout does not take what is written."""
    reason = "stdout is closed" if error.errno == errno.EBADF else error.strerror or error
    return OutputError(f"cannot write: {reason}")


def write_bytes(chunks: Iterable[bytes], path: Path) -> None:
    """Pieces of a file that appears whole or not at all. Raises `OutputError` where it cannot be written."""
    if path.suffix.lower() == ".gz":
        chunks = _compressed(chunks)
    try:
        path = _target(path)
        if path.exists() and not path.is_file():  # a device or a pipe cannot be replaced
            with path.open("wb") as file:
                file.writelines(chunks)
            return
        temporary = path.parent / f".{path.name[:40]}.{os.urandom(6).hex()}"
        try:  # around the opening too: an interrupt may come as soon as the file is there
            with temporary.open("xb") as file:
                if path.exists():
                    temporary.chmod(path.stat().st_mode & 0o777)
                file.writelines(chunks)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{plain(str(path))}: cannot write: {error.strerror or error}") from None


def _target(path: Path) -> Path:
    """Where a link to a file leads, even if nothing is there yet, so that it stays a link; else the path itself."""
    follow = path.is_symlink() and (path.is_file() or not path.exists())
    return Path(os.path.realpath(path)) if follow else path


def _compressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces as gzip has them: the same content gives the same bytes, without a name or a time."""
    gzip = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS + 16)
    yield from map(gzip.compress, chunks)
    yield gzip.flush()


def own_streams() -> None:
    """Give the process a stdout and a stderr that lose nothing in silence.

    With PYTHONUNBUFFERED, stdout is a raw file, which may write less than it is given, and Python's text does not look:
    so there is a buffer in any case. What goes to a file or a pipe is UTF-8, as -o writes it. A stdout that was closed
    fails when it is written to, as that of any process; what a closed stderr would say is dropped, or it would land
    wherever the next file is opened.
    """
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: PTH123, SIM115
    else:
        with suppress(AttributeError, ValueError, OSError):  # it is no file, in a notebook say
            sys.stdout.flush()
            encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
            sys.stdout = open(sys.stdout.fileno(), "w", encoding=encoding, errors="replace", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    with suppress(AttributeError, ValueError):
        sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name; a name that no file can have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
