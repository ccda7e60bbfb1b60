"""Running ``git``: in a session of its own, so that it can ask nobody and is ended whole; its output kept in memory."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO

from ghcoord.clock import Runtime
from ghcoord.errors import Unavailable, Unsupported
from ghcoord.store.remote.environment import SETTINGS

GRACE = 2.0
"""Seconds between TERM, on which git removes its unfinished files, and KILL."""

_TRACE = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]+ [^ ]+\.c:[0-9]+ ")
_DATE = re.compile(r"<= Recv header:? ?[Dd]ate: (.*)")
_MOST = 64 * 1024 * 1024  # bytes of output that anybody looks at


@dataclass(frozen=True, slots=True)
class Done:
    """A call that ended. ``code`` is ``None`` where it was ended by the timeout; ``date`` is the server's, where known.

    ``began`` and ``ended`` are by this machine's clock.
    """

    code: int | None
    out: str
    err: str
    date: float | None
    began: float
    ended: float


class Git:
    """The ``git`` program, run with ``environment`` and nothing else of this process."""

    def __init__(self, environment: Mapping[str, str], runtime: Runtime) -> None:
        self._environment = dict(environment)
        self._runtime = runtime

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout: float,
        folder: Path,
        git_dir: Path | None = None,
        common: Path | None = None,
        extra: Mapping[str, str] | None = None,
        trace: bool = False,
        stdin: str = "",
    ) -> Done:
        """Run it in ``folder`` until it ends, at most ``timeout`` seconds.

        ``trace`` has it tell the headers of HTTP answers; git leaves
        credentials out there, and what it tells is never written to disk.
        Raises ``Unsupported`` where there is no git.
        """
        environment = {**self._environment, **(extra or {})}
        if git_dir is not None:
            environment["GIT_DIR"] = str(git_dir)
        if common is not None:
            environment["GIT_COMMON_DIR"] = str(common)
        if trace:
            environment.update(GIT_TRACE_CURL="2", GIT_TRACE_CURL_NO_DATA="1")
        settings = [part for setting in SETTINGS for part in ("-c", setting)]
        began = self._runtime.now()
        with _memory() as out, _memory() as err, _memory() as given:
            given.write(stdin.encode())
            given.seek(0)
            try:
                child = subprocess.Popen(
                    ["git", *settings, *arguments],
                    cwd=folder,
                    env=environment,
                    stdin=given,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                if not folder.is_dir():
                    raise Unavailable(f"{folder} is gone") from error
                raise Unsupported("hubs on a remote need the 'git' program: install git") from error
            except OSError as error:
                raise Unavailable(f"git cannot be started: {error.strerror or error}") from error
            try:
                ended = _wait(child, timeout)
            finally:
                _end(child)
            lines = _read(err).splitlines()
            traced = [line for line in lines if _TRACE.match(line)]
            return Done(
                child.returncode if ended else None,
                _read(out),
                "\n".join(line for line in lines if not _TRACE.match(line)),
                _date(traced),
                began,
                self._runtime.now(),
            )


@contextlib.contextmanager
def _memory() -> Iterator[BinaryIO]:
    """A file without a name, in memory: unlike a pipe, a child's child that stays does not keep us waiting."""
    with open(os.memfd_create("ghcoord"), "w+b", buffering=0) as file:
        yield file


def _read(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(_MOST).decode(errors="replace")


def _wait(child: subprocess.Popen[bytes], timeout: float) -> bool:
    """Whether ``child`` ended in time. ``Popen.wait`` looks every 50 ms; the kernel, where it can, tells at once."""
    try:
        fd = os.pidfd_open(child.pid)
    except OSError:
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout) * 1000))
    finally:
        os.close(fd)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's whole session, unless the child has ended by itself."""
    if child.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        # Not reaped yet, so its number cannot belong to anybody else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        _wait(child, GRACE)
    child.wait()


def _date(traced: Sequence[str]) -> float | None:
    for line in traced:
        match = _DATE.search(line)
        if match is not None:
            with contextlib.suppress(ValueError, TypeError):
                return parsedate_to_datetime(match[1].strip()).timestamp()
    return None
