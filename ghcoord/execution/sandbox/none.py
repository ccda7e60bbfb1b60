"""No sandbox: the command sees the machine as its user does. Only by the explicit unsafe flag.

What remains: an environment of its own, no privilege gained, another user when
the worker is root, and a whole tree that ends when it should (by
:mod:`ghcoord.execution.sandbox.launcher`, with its stated limit).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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
    prepare_workspace,
    reachable,
    system_python,
    worker_python,
)
from ghcoord.execution.sandbox.job import Job, LimitSupport, Mount
from ghcoord.execution.sandbox.rlimits import resource_limits
from ghcoord.execution.sandbox.supervised import Supervised
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
        return _Unconfined(spec.encode(), job)


class _Unconfined(Supervised):
    """A command below the launcher."""

    tells_cpu = True

    def __init__(self, spec: bytes, job: Job) -> None:
        watched = job.limits != Limits()
        make_watch = partial(Watch, job.limits, job.workspace, apart=APART) if watched else lambda: None
        super().__init__(launcher.__file__, [spec], make_watch)
