"""No sandbox: the command sees the machine as its user does. Only by the explicit unsafe flag.

What remains: an environment of its own, no privilege gained, another user when
the worker is root, and a whole tree that ends when it should (by
:mod:`ghcoord.execution.sandbox.launcher`, with its stated limit).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox import launcher
from ghcoord.execution.sandbox.base import (
    LANG,
    SYSTEM_PATH,
    Identity,
    Launch,
    check_mounts,
    check_strings,
    closing_on_error,
    data_fd,
    prepare_workspace,
    reachable,
    system_python,
    worker_python,
)
from ghcoord.execution.sandbox.job import Job, LimitSupport, Mount
from ghcoord.execution.sandbox.rlimits import resource_limits
from ghcoord.execution.sandbox.watch import Watch
from ghcoord.model.limits import Limits

APART = 1
"""Processes of ours above each command: the launcher."""


@dataclass(frozen=True)
class NoSandbox:
    """Runs commands as plain processes of ``identity``, or of the worker's own user when ``None``."""

    identity: Identity | None

    name = "none"
    tier = "none"

    @property
    def python(self) -> str | None:
        """The worker's interpreter, or the system's when ``identity`` cannot reach that one."""
        for path in (worker_python(), system_python()):
            if path is not None and reachable(path, self.identity):
                return str(path)
        return None

    def inside(self, workspace: Path) -> str:
        """The workspace's own path."""
        return str(workspace.absolute())

    @property
    def limits(self) -> LimitSupport:
        """All watched, but the size of a file; a process that leaves the tree's sight is not."""
        return LimitSupport("soft", "soft", "soft", "hard", "soft", "rlimit and watching")

    def where(self, workspace: Path, mount: Mount) -> str:
        """Its own path."""
        return str(mount.source.absolute())

    def command(self, job: Job) -> Launch:
        """See :meth:`Sandbox.command`; ``argv[0]`` is a path."""
        home = self.inside(job.workspace)
        variables = {"PATH": SYSTEM_PATH, "HOME": home, "LANG": LANG, "TMPDIR": "/tmp", **job.env}
        check_strings(job.argv, variables)
        check_mounts(job.mounts)
        prepare_workspace(job.workspace, self.identity)
        for what, path in [("the workspace", job.workspace), *((each.name, each.source) for each in job.mounts)]:
            if not reachable(path, self.identity):
                assert self.identity is not None
                raise SandboxError(
                    f"{what} {path} is below a directory that user {self.identity.uid}, "
                    "whom root's tasks run as, may not enter: choose a workspace elsewhere, or chmod o+x what is above"
                )
        owner = (str(self.identity.uid), str(self.identity.gid)) if self.identity else ("", "")
        wanted = resource_limits(job.limits, processes=False)
        limits = " ".join(f"{which}:{soft}:{hard}" for which, (soft, hard) in wanted.items())
        assignments = [f"{key}={value}" for key, value in variables.items()]
        spec = "\0".join([*owner, limits, home, str(len(job.argv)), *job.argv, *assignments])
        return _Supervised(spec.encode(), job)


class _Supervised(Launch):
    """A command below the launcher."""

    def __init__(self, spec: bytes, job: Job) -> None:
        fds: list[int] = []
        with closing_on_error(fds):
            fds.append(data_fd(spec))
            fds += os.pipe2(os.O_CLOEXEC)
            fds += os.pipe2(os.O_CLOEXEC)
            if job.limits != Limits():
                self.watch = Watch(job.limits, job.workspace, apart=APART)
        spec_fd, control_read, self._control, self.status_fd, status_write = fds
        self.pass_fds = (spec_fd, control_read, status_write)
        self.argv = [sys.executable, "-I", "-S", launcher.__file__, *map(str, self.pass_fds)]
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
        # The launcher reports the exit after the last process of the tree, so nothing is left to wait for.
        return self._reported("exit ") is not None or self._reported("error ") is not None

    def _reported(self, word: str) -> str | None:
        for line in self._status.decode(errors="replace").splitlines():
            if line.startswith(word):
                return line.removeprefix(word)
        return None

    def exit_code(self, returncode: int, stderr: str) -> int:
        if error := self._reported("error "):
            raise SandboxError(f"the command could not be started: {error}")
        if code := self._reported("exit "):
            return int(code)
        if returncode < 0:
            return 128 - returncode
        raise SandboxError(f"the launcher failed: {stderr.strip() or f'exit code {returncode}'}")

    def close(self) -> None:
        os.close(self._control)
        os.close(self.status_fd)
        if self.watch is not None:
            self.watch.close()
