"""Run one command in a sandbox to its end, whatever it does.

One thread does it all: the calling one, which must outlive the command
(``PR_SET_PDEATHSIG`` fires when the *thread* that started a process ends).
Nothing of the command is left when :func:`run` returns.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ghcoord.clock import Runtime
from ghcoord.errors import SandboxError
from ghcoord.execution.capture import Capture
from ghcoord.execution.sandbox.base import Launch, Sandbox
from ghcoord.execution.sandbox.job import Job, Mount
from ghcoord.execution.sandbox.watch import Verdict
from ghcoord.model.limits import Limits
from ghcoord.model.session import Usage

LOG_CAP = 1024 * 1024 * 1024
"""Bytes of each stream that the tools pass on as they come: who listens bounds what is kept of them."""

OUTPUT_CAP = 256 * 1024
"""Bytes kept of each of stdout and stderr: the first half and the last."""

GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL."""

TICK = 0.05
"""Seconds at most between two looks at ``cancelled``."""

END_TIMEOUT = 5.0
"""Seconds to wait for killed processes to be gone; only one stuck inside the kernel takes longer."""

_CHUNK = 65536
_REST = 5.0  # how many times longer than a look is the time to the next one,
_LONGEST_REST = 0.5  # up to so many seconds: a command cannot keep its worker busy with looking at it

Stopped = Literal["", "timeout", "cancelled", "memory", "cpu", "processes", "workspace"]


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended."""

    exit_code: int | None
    """128 + n when signal n ended it; ``None`` when we stopped it."""
    stdout: str
    stderr: str
    truncated: bool
    """Whether the middle of stdout or of stderr was left out."""
    stopped: Stopped
    """Why we stopped it: ``memory`` and what follows are the limit that it passed."""
    leftover: bool
    """Whether processes of the command may still be there."""
    usage: Usage = field(default_factory=Usage)
    """What it used, as far as was seen: most of it is looked at only under limits."""


def run(
    sandbox: Sandbox,
    argv: Sequence[str],
    *,
    workspace: Path,
    runtime: Runtime,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
    grace: float = GRACE,
    cap: int | None = None,
    limits: Limits | None = None,
    mounts: tuple[Mount, ...] = (),
    stdin_fd: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    log: Callable[[str, str], None] = lambda stream, text: None,
    log_cap: int | None = None,
) -> Completed:
    """Run ``argv`` in ``sandbox`` and wait for it.

    After ``timeout`` seconds, or once ``cancelled()`` is true (asked every
    50 ms), the whole tree gets SIGTERM and, ``grace`` seconds later, SIGKILL.
    A tree that passes one of ``limits`` gets SIGKILL; ``limits.timeout`` is one
    more timeout, without grace for none.  Output beyond ``cap`` bytes a stream
    (or ``limits.output_kb``, or :data:`OUTPUT_CAP`; the least that is given) is
    read and dropped; ``log(stream, text)`` gets each stream's first ``log_cap``
    bytes as they come, as many as are kept by default.  ``stdin_fd`` is given to
    the command as its input instead of ``stdin``, and closed here, whatever
    happens; without both the command reads ``/dev/null``.

    Raises :class:`UsageError` when the arguments cannot be passed to a program
    and :class:`SandboxError` when the sandbox could not be set up: the command
    has not started then.  What ``cancelled`` or ``log`` raise comes through
    after the tree was killed.
    """
    limits = limits or Limits()
    timeout = min((each for each in (timeout, limits.timeout) if each is not None), default=None)
    caps = [cap, None if limits.output_kb is None else limits.output_kb * 1024]
    most = min((each for each in caps if each is not None), default=OUTPUT_CAP)
    try:
        launch = sandbox.command(Job(argv, workspace, env or {}, limits, mounts))
    except BaseException:
        if stdin_fd is not None:
            os.close(stdin_fd)
        raise
    running = _Running(launch, runtime, sandbox, stdin, stdin_fd, most, log, log_cap)
    try:
        running.start()
        return running.watch(timeout, grace, cancelled)
    finally:
        running.close()


class _Running:
    """A launch with its pipes."""

    def __init__(
        self,
        launch: Launch,
        runtime: Runtime,
        sandbox: Sandbox,
        stdin: bytes | None,
        stdin_fd: int | None,
        cap: int,
        log: Callable[[str, str], None],
        log_cap: int | None,
    ) -> None:
        self._launch = launch
        self._runtime = runtime
        self._identity = sandbox.identity
        self._stdin = memoryview(stdin) if stdin else None
        self._log = log
        self._log_cap = cap if log_cap is None else log_cap
        self._cap = cap
        self._kept = {name: Capture(cap) for name in ("stdout", "stderr")}
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in self._kept}
        self._logged = dict.fromkeys(self._kept, 0)
        self._selector = selectors.DefaultSelector()
        self._process: subprocess.Popen[bytes] | None = None
        self._child_fds = [*launch.pass_fds, *([] if stdin_fd is None else [stdin_fd])]
        self._stdin_fd = stdin_fd
        self._cpu_seconds: float | None = None
        self._own_fds: set[int] = set()

    # -- starting

    def start(self) -> None:
        """Start the first process. Raises :class:`SandboxError`."""
        launch, become = self._launch, self._launch.identity
        try:
            stdout, stderr = self._pipe("stdout"), self._pipe("stderr")
            stdin = self._standard_input()
            os.set_blocking(launch.status_fd, False)
            self._selector.register(launch.status_fd, selectors.EVENT_READ, "status")
            self._process = subprocess.Popen(
                list(launch.argv),
                env=dict(launch.env),
                cwd="/",
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=launch.pass_fds,
                start_new_session=True,
                user=become.uid if become else None,
                group=become.gid if become else None,
                extra_groups=[] if become else None,
            )
            exited = os.pidfd_open(self._process.pid)
            self._own_fds.add(exited)
            self._selector.register(exited, selectors.EVENT_READ, "exited")
            launch.started(self._process)
        except (OSError, subprocess.SubprocessError) as why:
            whom = f" as user {become.uid}" if become else ""
            raise SandboxError(f"{launch.argv[0]} could not be started{whom}: {why}") from why
        finally:
            for fd in self._child_fds:
                os.close(fd)
            self._child_fds.clear()

    def _pipe(self, name: str) -> int:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        self._own_fds.add(ours)
        self._child_fds.append(theirs)
        self._give(theirs)
        os.set_blocking(ours, False)
        self._selector.register(ours, selectors.EVENT_READ, name)
        return theirs

    def _standard_input(self) -> int:
        if self._stdin_fd is not None:
            if stat.S_ISFIFO(os.fstat(self._stdin_fd).st_mode):
                self._give(self._stdin_fd)
            return self._stdin_fd
        if self._stdin is None:
            return subprocess.DEVNULL
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        self._own_fds.add(ours)
        self._child_fds.append(theirs)
        self._give(theirs)
        os.set_blocking(ours, False)
        self._selector.register(ours, selectors.EVENT_WRITE, "stdin")
        return theirs

    def _give(self, fd: int) -> None:
        """Without this ``>/dev/stderr`` is refused to a command that runs as another user."""
        if self._identity is not None:
            os.fchown(fd, self._identity.uid, self._identity.gid)

    # -- running

    def watch(self, timeout: float | None, grace: float, cancelled: Callable[[], bool]) -> Completed:
        """Serve the pipes until the command has ended or was made to."""
        assert self._process is not None
        started = self._runtime.monotonic()
        stopped: Stopped = ""
        next_step = started
        killed = False
        while not self._ended():
            now = self._runtime.monotonic()
            limit = "" if killed else self._look(now)
            if limit:
                stopped, next_step = stopped or limit, now
            if not stopped:
                if timeout is not None and now - started >= timeout:
                    stopped = "timeout"
                elif now >= next_step:
                    next_step = now + TICK
                    if cancelled():
                        stopped = "cancelled"
                if stopped:
                    self._launch.terminate(self._process)
                    next_step = now + grace
            elif now >= next_step:
                if killed:
                    break
                self._launch.kill(self._process)
                killed, next_step = True, now + END_TIMEOUT
            until = next_step
            if timeout is not None and not stopped:
                until = min(until, started + timeout)
            if self._launch.watch is not None and not killed:
                until = min(until, self._launch.watch.due)
            self._serve(min(max(until - now, 0.0), TICK))
        returncode = self._process.returncode
        self._drain()
        leftover = returncode is None or not self._launch.gone(END_TIMEOUT)
        stopped = stopped or self._limit_at_the_end()
        # A command that has ended by itself while SIGTERM was on its way counts as stopped: its work was cut.
        exit_code = None if stopped or returncode is None else self._launch.exit_code(returncode, self._text("stderr"))
        return Completed(
            exit_code,
            self._text("stdout"),
            self._text("stderr"),
            any(each.truncated for each in self._kept.values()),
            stopped,
            leftover,
            self._usage(),
        )

    def _ended(self) -> bool:
        """Whether the first process has; what it has used is kept where that is what all have."""
        process = self._process
        assert process is not None
        if process.returncode is None:
            try:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
            except ChildProcessError:
                return process.poll() is not None
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                if self._launch.tells_cpu:
                    self._cpu_seconds = used.ru_utime + used.ru_stime
        return process.returncode is not None

    def _look(self, now: float) -> Verdict:
        watch = self._launch.watch
        if watch is None or now < watch.due:
            return ""
        limit = watch.look(now)
        took = self._runtime.monotonic() - now
        watch.due = max(watch.due, now + min(_REST * took, _LONGEST_REST))
        return limit

    def _limit_at_the_end(self) -> Verdict:
        watch = self._launch.watch
        return "" if watch is None else watch.finished(self._cpu_seconds or 0.0)

    def _usage(self) -> Usage:
        watch = self._launch.watch
        if watch is not None:
            return watch.usage()
        return Usage(cpu_seconds=None if self._cpu_seconds is None else round(self._cpu_seconds, 3))

    def _text(self, name: str) -> str:
        return self._kept[name].text()

    def _drain(self) -> None:
        """Read what is left in the pipes; a process that escaped could hold them open, so not for ever."""
        deadline = self._runtime.monotonic() + 1.0
        while len(self._own_fds) > 0 and self._runtime.monotonic() < deadline:
            waiting = [key for key in self._selector.get_map().values() if key.data in ("stdout", "stderr", "status")]
            if not waiting:
                return
            self._serve(TICK)

    def _serve(self, timeout: float) -> None:
        """Move bytes for at most ``timeout`` seconds, or until something moved."""
        for key, _ in self._selector.select(timeout):
            if key.data == "stdin":
                self._write(key.fd)
            elif key.data == "exited":
                self._forget(key.fd)
            else:
                self._read(key.fd, key.data)

    def _write(self, fd: int) -> None:
        assert self._stdin is not None
        try:
            self._stdin = self._stdin[os.write(fd, self._stdin[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._stdin = memoryview(b"")
        if not self._stdin:
            self._forget(fd)

    def _read(self, fd: int, name: str) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if name == "status":
            assert self._process is not None
            if data:
                self._launch.feed(data, self._process)
            else:
                self._selector.unregister(fd)
            return
        self._kept[name].add(data)
        self._pass_on(name, data)
        if not data:
            self._forget(fd)

    def _pass_on(self, name: str, data: bytes) -> None:
        room = self._log_cap - self._logged[name]
        if room <= 0:
            return
        self._logged[name] += len(data)
        text = self._decoders[name].decode(data[:room], final=not data)
        if text:
            self._log(name, text)

    def _forget(self, fd: int) -> None:
        self._selector.unregister(fd)
        self._own_fds.discard(fd)
        os.close(fd)

    # -- the end

    def close(self) -> None:
        """End what still runs and let go of everything."""
        process = self._process
        if process is not None and process.poll() is None:
            self._launch.kill(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT)
            self._launch.gone(END_TIMEOUT)
        self._selector.close()
        for fd in self._own_fds:
            os.close(fd)
        self._launch.close()
