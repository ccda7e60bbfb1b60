"""Real processes for tests: the command line and worker daemons, always ended."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

GHCOORD = [sys.executable, "-m", "ghcoord"]


def cli(hub: Path | str, *args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run one command against ``hub`` and return what it said."""
    return subprocess.run(
        [*GHCOORD, "--hub", str(hub), *args], capture_output=True, text=True, timeout=timeout, check=False
    )


def call(hub: Path | str, *args: str) -> subprocess.CompletedProcess[str]:
    """As :func:`cli`, in this process: for many commands whose process does not matter."""
    from ghcoord.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["--hub", str(hub), *args])
    return subprocess.CompletedProcess([*args], code, out.getvalue(), err.getvalue())


class WorkerProcess:
    """A ``ghcoord worker start`` of its own process."""

    def __init__(self, hub: Path | str, worker_id: str, *args: str, before: tuple[str, ...] = ()) -> None:
        self.id = worker_id
        self.process = subprocess.Popen(
            [*before, *GHCOORD, "--hub", str(hub), "worker", "start", "--id", worker_id, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 60.0) -> tuple[int, str]:
        """Exit code and everything it printed."""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output

    def cpu_seconds(self) -> float:
        """User and system time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        for number in (signal.SIGCONT, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
        self.process.wait(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def workers(
    hub: Path | str, *ids: str, args: tuple[str, ...] = (), before: tuple[str, ...] = ()
) -> Iterator[list[WorkerProcess]]:
    """Worker processes that are gone afterwards, whatever happens. ``before`` is a command that starts them."""
    started = [WorkerProcess(hub, one, *args, before=before) for one in ids]
    try:
        yield started
    finally:
        for worker in started:
            worker.end()


def until(look: Callable[[], object], timeout: float = 20.0, every: float = 0.05) -> float:
    """Seconds until ``look`` is true; fails the test when it never is."""
    began = time.monotonic()
    while not look():
        if time.monotonic() - began > timeout:
            pytest.fail(f"not within {timeout} s")
        time.sleep(every)
    return time.monotonic() - began


def needs_program(name: str) -> None:
    """Skip where a program is missing, fail in CI."""
    if shutil.which(name) is None:
        if os.environ.get("CI") or os.environ.get("GHCOORD_CI"):
            pytest.fail(f"{name} is missing in CI")
        pytest.skip(f"{name} is not installed")


def matching(pattern: str) -> bool:
    """Whether a process with ``pattern`` in its command line exists."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if pattern in line and state != "Z":
                return True
    return False
