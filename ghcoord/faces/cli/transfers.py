"""Bytes between here and a hub: how far they are, and files that are there only when they are complete."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ghcoord.errors import UsageError
from ghcoord.faces.cli.context import invocation
from ghcoord.faces.cli.output import clean_text, console

if TYPE_CHECKING:
    from typing_extensions import Buffer

LONG = 2 * 1024 * 1024
"""Bytes from which on a terminal sees how far it is."""


def stdin_bytes() -> BinaryIO:
    """Standard input as bytes."""
    binary: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    return binary if binary is not None else io.BytesIO(sys.stdin.read().encode())


def stdout_bytes() -> BinaryIO:
    """Standard output as bytes; what was printed before goes first."""
    sys.stdout.flush()
    return sys.stdout.buffer


class _Joined(io.RawIOBase):
    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        room = memoryview(buffer).cast("B")
        piece, self._head = self._head[: len(room)], self._head[len(room) :]
        piece = piece or self._rest.read(len(room))
        room[: len(piece)] = piece
        return len(piece)


def joined(head: bytes, rest: BinaryIO) -> BinaryIO:
    """``head``, which was read already, then the rest."""
    return io.BufferedReader(_Joined(head, rest), 256 * 1024)


@contextmanager
def new_file(target: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """A file that has its name once the block has ended; whole, or not there.

    Raises ``UsageError`` where it cannot be written, or something has the name and ``replace`` is not set.
    """
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    try:
        with open(part, "xb") as file:
            yield file
        if replace:
            part.replace(target)
        else:
            _place(part, target)
    except FileExistsError:
        raise UsageError(f"{target} exists by now: name another file, or add --force") from None
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _place(part: Path, target: Path) -> None:
    """Give ``part`` its name; raises ``FileExistsError`` where something has it."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links there
        if os.path.lexists(target):
            raise FileExistsError from None
        part.replace(target)


def guard_terminal(force: bool) -> None:
    """Raise ``UsageError`` where bytes that could disturb a terminal would go to one, unless ``force``."""
    if sys.stdout.isatty() and not force:
        raise UsageError("what it holds could disturb the terminal: name a file, or add --force")


def print_content(content: bytes, force: bool) -> None:
    """Bytes to standard output as they are; to a terminal only text, cleaned, unless ``force``."""
    if sys.stdout.isatty() and not force:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            guard_terminal(force)
        else:
            print(clean_text(text), end="" if text.endswith("\n") or not text else "\n")
            return
    out = stdout_bytes()
    out.write(content)
    out.flush()


def _shown(total: int | None) -> bool:
    return (total is None or total >= LONG) and not invocation().json and sys.stderr.isatty()


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error where it takes long; nothing elsewhere. Yields what takes the bytes done.

    ``total`` is in bytes; ``None`` when nobody knows: it only shows that something goes on.
    """
    if not _shown(total):
        yield lambda done: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as shown:
        bar = shown.add_task(what, total=total)
        yield lambda done: shown.update(bar, completed=done)


@contextmanager
def busy(what: str, size: int | None = None) -> Iterator[None]:
    """A spinner on a terminal's standard error while the block runs; nothing elsewhere, or for a small ``size``."""
    if not _shown(size):
        yield
        return
    with console(stderr=True).status(what):
        yield
