"""A launch below a supervisor: a program of its own that outlives neither its command nor its worker.

Such a program is started as ``python -I -S PROGRAM DATA… CONTROL STATUS``, or
imported to the same effect; all of these are descriptors.  It ends the whole tree when the command ends, when CONTROL
says ``K`` or closes, asks it to end at ``T``, and reports on STATUS once nothing
is left: ``error TEXT`` when the command was never started, else ``exit N``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox.base import SYSTEM_PATH, Launch, closing_on_error, data_fd
from ghcoord.execution.sandbox.watch import Watch

_START = """if True:
    import os, sys
    folder, name = os.path.split(sys.argv[1])
    sys.path.append(folder)
    sys.exit(__import__(name.removesuffix(".py")).main(sys.argv[2:]))"""
"""Imports the program, so that its compiled form is kept: 3 ms less than starting it as a script."""


class Supervised(Launch):
    """A command below ``program``, which reads each of ``data`` from a descriptor of its own.

    ``make_watch`` makes what watches the supervisor's tree, if anything does.
    """

    def __init__(self, program: str, data: Sequence[bytes], make_watch: Callable[[], Watch | None]) -> None:
        fds: list[int] = []
        with closing_on_error(fds):
            for each in data:
                fds.append(data_fd(each))
            fds += os.pipe2(os.O_CLOEXEC)
            fds += os.pipe2(os.O_CLOEXEC)
            self.watch = make_watch()
        *contents, control_read, self._control, self.status_fd, status_write = fds
        self.pass_fds = (*contents, control_read, status_write)
        self.argv = [sys.executable, "-I", "-S", "-c", _START, program, *map(str, self.pass_fds)]
        self.env = {"PATH": SYSTEM_PATH}
        self._status = b""

    def started(self, process: subprocess.Popen[bytes]) -> None:
        if self.watch is not None:
            self.watch.follow(process.pid)

    def feed(self, data: bytes, process: subprocess.Popen[bytes]) -> None:
        self._status += data

    def terminate(self, process: subprocess.Popen[bytes]) -> None:
        self._order(b"T")

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        self._order(b"K")

    def _order(self, order: bytes) -> None:
        try:
            os.write(self._control, order)
        except BrokenPipeError:
            return

    def gone(self, timeout: float) -> bool:
        # The supervisor reports the exit after the last process of the tree, so nothing is left to wait for.
        return self._reported("exit ") is not None or self._reported("error ") is not None

    def _reported(self, word: str) -> str | None:
        for line in self._status.decode(errors="replace").splitlines(keepends=True):
            if line.startswith(word) and line.endswith("\n"):
                return line[len(word) : -1]
        return None

    def exit_code(self, returncode: int, stderr: str) -> int:
        if error := self._reported("error "):
            raise SandboxError(f"the command could not be started: {error}")
        if code := self._reported("exit "):
            return int(code)
        if returncode < 0:
            return 128 - returncode
        raise SandboxError(f"the supervisor failed: {stderr.strip() or f'exit code {returncode}'}")

    def close(self) -> None:
        os.close(self._control)
        os.close(self.status_fd)
        if self.watch is not None:
            self.watch.close()
