"""One process of a job: what it printed, how it ended, and what it took to end it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.actions.commands import Annotation, Obeyed

INTERRUPT_FOR = 7.5
"""Seconds between SIGINT and SIGTERM when a job is cancelled."""
TERMINATE_FOR = 2.5
"""Seconds between SIGTERM and the end of all of the step's processes."""


@dataclass
class Done:
    """What became of a step: of a whole action, or of one of a composite's own steps."""

    name: str
    outcome: str = "success"
    """success, failure, cancelled or skipped."""
    code: int | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    obeyed: Obeyed = field(default_factory=Obeyed)
    summary: str = ""
    steps: list[Done] = field(default_factory=list)
    ended_by: str = ""
    """What it took to end it when the job was cancelled: SIGINT, SIGTERM, SIGKILL; else nothing."""
    took: float = 0.0

    @property
    def text(self) -> str:
        """Everything that it printed."""
        return "\n".join([*self.lines, *(one.text for one in self.steps)])

    @property
    def annotations(self) -> list[Annotation]:
        return [*self.obeyed.annotations, *(each for one in self.steps for each in one.annotations)]

    @property
    def summaries(self) -> str:
        return "\n".join(filter(None, [self.summary, *(one.summaries for one in self.steps)]))

    def step(self, key: str) -> Done:
        """The step of a composite with this id or name."""
        return next(one for one in self.steps if one.name == key)


def execute(done: Done, argv: list[str], cwd: Path, environment: Mapping[str, str], cancelled: threading.Event) -> Done:
    """Run a process to its end, or until the job is cancelled, and note in ``done`` what became of it."""
    began = time.monotonic()
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    reader = threading.Thread(target=_read, args=(process, done), daemon=True)
    reader.start()
    interrupted = _wait(process, done, cancelled)
    reader.join(timeout=5.0)
    done.took = time.monotonic() - began
    done.code = process.returncode
    assert process.stdout is not None
    if not reader.is_alive():
        process.stdout.close()
    if interrupted:
        done.outcome = "cancelled"
    elif process.returncode != 0:
        done.outcome = "failure"
    return done


def _wait(process: subprocess.Popen[bytes], done: Done, cancelled: threading.Event) -> bool:
    """Wait for its end; whether it was cancelled. Steps that run in a job that is cancelled already are not."""
    already = cancelled.is_set()
    while process.poll() is None and (already or not cancelled.is_set()):
        time.sleep(0.02)
    if process.poll() is not None:
        return False
    for number, patience in ((signal.SIGINT, INTERRUPT_FOR), (signal.SIGTERM, TERMINATE_FOR)):
        process.send_signal(number)
        done.ended_by = number.name
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return True
    done.ended_by = "SIGKILL"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10.0)
    return True


def _read(process: subprocess.Popen[bytes], done: Done) -> None:
    """Take the lines of a process; the runner ends a line at a carriage return too."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError):
        for raw in process.stdout:
            for line in re.split(r"\r\n|\r", raw.decode(errors="replace").rstrip("\n").rstrip("\r")):
                done.obeyed.line(line)
                done.lines.append(line)
