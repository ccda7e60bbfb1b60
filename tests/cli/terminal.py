"""A pseudo-terminal with a command in it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cli.running import command, environment


class Terminal:
    """``ghcoord ARGS``, or ``argv``, on a terminal of its own, what it writes kept. A context manager that ends it."""

    def __init__(
        self,
        *args: object,
        argv: Sequence[str] | None = None,
        columns: int = 80,
        rows: int = 24,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            argv or command(*args),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment({"TERM": "xterm-256color", **(extra or {})}),
            preexec_fn=lambda: os.login_tty(0),
        )
        os.close(theirs)
        self.seen = ""

    def read(self, timeout: float = 0.1) -> str:
        """What has come in the last ``timeout`` seconds."""
        new = b""
        while select.select([self._own], [], [], timeout)[0]:
            try:
                data = os.read(self._own, 65536)
            except OSError:
                break
            if not data:
                break
            new += data
            timeout = 0.0
        text = new.decode(errors="replace")
        self.seen += text
        return text

    def wait_for(self, text: str, timeout: float = 20.0) -> None:
        """Read until ``text`` has come since the start."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen[-2000:]!r}"
            assert self.read() or self.process.poll() is None, f"it ended: {self.seen[-2000:]!r}"

    def type(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def end(self, timeout: float = 20.0) -> int:
        """Wait for the end, reading on; the exit code."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        self.read()
        return self.process.wait(0.1)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._own)
