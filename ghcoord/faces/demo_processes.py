"""The processes of ``ghcoord demo``: real ``ghcoord`` commands, all gone when it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

END_TIMEOUT = 5.0
"""Seconds that killed processes are waited for."""


class Processes:
    """Starts ``ghcoord`` commands on the hub ``url``, with everything that they write below ``folder``.

    Each is in a session of its own, so that Ctrl-C reaches only this process,
    which then ends them.  Leaving the context kills what still runs.
    """

    def __init__(self, folder: Path, url: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._url = url
        self._environment = environment
        self._running: list[subprocess.Popen[str]] = []

    def start(self, name: str, *args: str) -> subprocess.Popen[str]:
        """Start ``ghcoord ARGS``; output goes to ``NAME.out`` and ``NAME.log`` in the folder."""
        with open(self.folder / f"{name}.out", "w") as out, open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ghcoord", *args, "--hub", self._url],
                env=dict(self._environment),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def output(self, name: str) -> str:
        """What ``NAME`` has written to standard output so far."""
        return (self.folder / f"{name}.out").read_text(errors="replace")

    def complaint(self, name: str) -> str:
        """The last line that ``NAME`` has written to standard error."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL, as a crash or the kernel's memory killer would: no chance to say good-bye."""
        process.kill()
        process.wait(END_TIMEOUT)

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self._running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT)


def remove(folder: Path) -> None:
    """Remove ``folder``; what a dying process still writes is removed by another round."""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
