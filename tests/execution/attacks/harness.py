"""Runs attempts as a worker would, by whom and in what is asked for, and tells which succeeded.

The worker is a process of its own with a controlling terminal: forked, so that
it may become another user whatever that one could import.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ghcoord.clock import SystemRuntime
from ghcoord.errors import GhcoordError
from ghcoord.execution import process
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.seccomp import MACHINES
from ghcoord.model.limits import Limits
from tests.execution.attacks.attempt import BREACH, Attempt
from tests.execution.attacks.stage import SECRET, VARIABLE, Stage

PYTHON = "/usr/bin/python3"
TIMEOUT = 20.0
"""Seconds of one attempt; those that last are ended by a limit or their own sleep."""

NUMBERS = json.dumps(MACHINES[os.uname().machine][1])

Outcome = dict[str, tuple[bool, str]]
"""By attempt: whether it succeeded, and what it printed."""


def unsandboxed(stage: Stage, attempts: Sequence[Attempt]) -> Outcome:
    """Each attempt as a plain child of the worker, with what a careless worker would hand on."""

    def run(attempt: Attempt, folder: Path) -> str:
        held = os.open(stage.facts["secret_file"], os.O_RDONLY)
        done = subprocess.Popen(
            [PYTHON, "-c", attempt.program(), json.dumps(stage.facts), NUMBERS],
            cwd=folder,
            env={**os.environ, VARIABLE: SECRET, "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(held,),
            process_group=None if attempt.terminal else 0,
        )
        try:
            return done.communicate(timeout=TIMEOUT)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(done.pid, signal.SIGKILL)
            return done.communicate()[0].decode(errors="replace") + " (timed out)"
        finally:
            os.close(held)

    return _each(stage, attempts, run)


def sandboxed(make: Callable[[], Sandbox]) -> Callable[[Stage, Sequence[Attempt]], Outcome]:
    """The same in the sandbox that ``make`` makes."""

    def runner(stage: Stage, attempts: Sequence[Attempt]) -> Outcome:
        sandbox = make()
        os.environ[VARIABLE] = SECRET
        held = os.open(stage.facts["secret_file"], os.O_RDONLY)
        os.set_inheritable(held, True)

        def run(attempt: Attempt, folder: Path) -> str:
            try:
                done = process.run(
                    sandbox,
                    [str(sandbox.python), "-c", attempt.program(), json.dumps(stage.facts), NUMBERS],
                    workspace=folder,
                    runtime=SystemRuntime(),
                    timeout=TIMEOUT,
                    grace=0.2,
                    limits=Limits.model_validate(dict(attempt.limits)),
                )
            except GhcoordError as refused:
                return f"the sandbox failed: {refused.message}"
            left = " (processes are left)" if done.leftover else ""
            return done.stdout + done.stderr + f" ({done.stopped or done.exit_code})" + left

        return _each(stage, attempts, run)

    return runner


def _each(stage: Stage, attempts: Sequence[Attempt], run: Callable[[Attempt, Path], str]) -> Outcome:
    found: Outcome = {}
    for number, attempt in enumerate(attempts):
        folder = stage.base / "workspaces" / str(number)
        folder.mkdir(mode=0o700)
        stage.forget()
        said = run(attempt, folder)
        succeeded = attempt.seen(stage) if attempt.seen is not None else BREACH in said.split()
        found[attempt.name] = (succeeded, said)
        stage.kill_survivors()
        _mend(stage)
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _mend(stage: Stage) -> None:
    """As it was before: an attempt that succeeded must not help the next one."""
    outside = stage.base / "outside"
    for name in ("written", "signalled", "hard"):
        with contextlib.suppress(OSError):
            (outside / name).unlink()
    with contextlib.suppress(OSError):
        (outside / "github_env").write_text("")
        (stage.base / "cache" / "idna.whl").write_text("wheel")


def as_worker(uid: int, work: Callable[[], Outcome], seconds: float) -> Outcome:
    """``work`` in a process of user ``uid`` with a terminal of its own. Fails when that takes longer than it may."""
    reading, writing = os.pipe()
    pid, terminal = pty.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            if uid != os.geteuid():
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                sys.executable = PYTHON  # a worker of that user would run with one that it can reach
            with os.fdopen(writing, "wb") as out:
                pickle.dump(work(), out)
            code = 0
        except BaseException as error:
            os.write(1, repr(error).encode())
        finally:
            os._exit(code)
    os.close(writing)
    return _collect(pid, terminal, reading, time.monotonic() + seconds)


def _collect(pid: int, terminal: int, reading: int, deadline: float) -> Outcome:
    parts: list[bytes] = []
    shown = b""
    waiting = [reading, terminal]
    try:
        while reading in waiting and time.monotonic() < deadline:
            for fd in select.select(waiting, [], [], 1.0)[0]:
                try:
                    data = os.read(fd, 65536)
                except OSError:
                    data = b""
                if not data:
                    waiting.remove(fd)
                elif fd == reading:
                    parts.append(data)
                else:
                    shown += data
    finally:
        os.close(reading)
        if reading in waiting:
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        os.close(terminal)  # before, the worker would get SIGHUP
    assert 0 == status, f"{status}: {shown[-2000:].decode(errors='replace')}"
    found: Outcome = pickle.loads(b"".join(parts))
    return found
