"""Landlock and seccomp: no namespace and no program needed, so it works where user namespaces are refused.

The tier is ``partial``.  Kept apart: files (the system's are read-only, the
workspace is writable, ``/proc``, ``/sys``, ``/tmp`` and everything else cannot be
opened), the network with local sockets, kernel interfaces, and, from Landlock's
version 6 on (Linux 6.12), signals to what is outside.  Not kept apart is what
:data:`ghcoord.execution.sandbox.canaries.GAPS` lists.

The files of a workspace, of mounts and of the interpreter keep their paths, so
under root the task's user must be able to reach them.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox import landlock_launcher
from ghcoord.execution.sandbox.base import (
    LANG,
    SYSTEM_PATH,
    Identity,
    Launch,
    check_mounts,
    check_strings,
    prepare_workspace,
    reachable,
)
from ghcoord.execution.sandbox.cgroup import Groups
from ghcoord.execution.sandbox.job import Job, LimitSupport, Mount
from ghcoord.execution.sandbox.landlock_launcher import DEVICE, MIN_ABI, READ, WRITE, landlock_abi
from ghcoord.execution.sandbox.rlimits import resource_limits
from ghcoord.execution.sandbox.seccomp import Policy, filter_bytes
from ghcoord.execution.sandbox.supervised import Supervised
from ghcoord.execution.sandbox.watch import Watch
from ghcoord.model.limits import Limits

_MISSING = {
    errno.ENOSYS: (
        "the kernel has no Landlock",
        "use Linux 6.2 or newer with CONFIG_SECURITY_LANDLOCK; in a container, a newer engine, whose filter lets it by",
    ),
    errno.EOPNOTSUPP: (
        "Landlock was switched off when the machine started",
        "add 'landlock' to the kernel's parameter lsm=, which /sys/kernel/security/lsm shows, and start it again",
    ),
    errno.EPERM: (
        "a seccomp filter around the worker forbids Landlock",
        "start the container with a filter that allows landlock_create_ruleset, landlock_add_rule and "
        "landlock_restrict_self, as docker 23 and newer do",
    ),
}

_POLICY = Policy(network=False, unix=False, uncounted_memory=False, apart=False)
"""No sockets, System V IPC and message queues, as they would be the host's."""

_APART = 1  # processes of ours above each command: the launcher

_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")

_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/nsswitch.conf",
)

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True)
class LandlockSandbox:
    """Runs commands as processes of ``identity`` (``None``: the worker's own user) that Landlock confines."""

    identity: Identity | None
    interpreter: Path | None = None
    """The interpreter for ``run.python``; outside ``/usr`` the tree it is installed in can be read."""
    groups: Groups | None = None
    """Where cgroups can be made for commands."""

    name = "landlock"
    tier = "partial"

    @cached_property
    def limits(self) -> LimitSupport:
        """Memory and processes are hard where a cgroup keeps them."""
        if self.groups is not None:
            return LimitSupport("hard", "hard", "soft", "hard", "soft", "cgroup")
        return LimitSupport("soft", "soft", "soft", "hard", "soft", "rlimit and watching")

    @property
    def python(self) -> str | None:
        """The interpreter's own path."""
        return str(self.interpreter) if self.interpreter else None

    def inside(self, workspace: Path) -> str:
        """The workspace's own path."""
        return str(workspace.absolute())

    def where(self, workspace: Path, mount: Mount) -> str:
        """The source's own path."""
        return str(mount.source.absolute())

    def command(self, job: Job) -> Launch:
        """See :meth:`Sandbox.command`; ``job.argv[0]`` is a path. TMPDIR is below the workspace and goes at the end."""
        check_mounts(job.mounts)
        home, prefix = self.inside(job.workspace), self._prefix()
        path = f"{prefix}/bin:{SYSTEM_PATH}" if prefix else SYSTEM_PATH
        variables = {"PATH": path, "HOME": home, "LANG": LANG, **job.env}
        check_strings(job.argv, variables)
        prepare_workspace(job.workspace, self.identity)
        sources = [each.source.absolute() for each in job.mounts]
        for source in (job.workspace.absolute(), *sources):
            self._check_reachable(source)
        rules = [(READ, name) for name in (*_SYSTEM_FOLDERS, *_SYSTEM_FILES)]
        rules += [(DEVICE, name) for name in _DEVICES]
        rules = [(rights, name) for rights, name in rules if Path(name).exists()]
        if prefix:
            rules.append((READ, str(prefix)))
        for source, mount in zip(sources, job.mounts, strict=True):
            rules.append((WRITE if mount.writable else READ, str(source)))
        limits = [
            f"{which}:{soft}:{hard}" for which, (soft, hard) in resource_limits(job.limits, processes=False).items()
        ]
        owner = (str(self.identity.uid), str(self.identity.gid)) if self.identity else ("", "")
        spec = [
            *owner,
            "held" if self.groups else "",
            home,
            str(len(rules)),
            *(f"{rights} {name}" for rights, name in rules),
            " ".join(limits),
        ]
        spec += [str(len(job.argv)), *job.argv, *(f"{key}={value}" for key, value in variables.items())]
        data = [os.fsencode("\0".join(spec)), filter_bytes(_POLICY)]
        return _Confined(data, job, self.groups)

    def _prefix(self) -> Path | None:
        """Where an interpreter outside ``/usr`` is installed."""
        if self.interpreter is None or self.interpreter.is_relative_to("/usr"):
            return None
        return self.interpreter.parent.parent

    def _check_reachable(self, path: Path) -> None:
        if not reachable(path, self.identity):
            assert self.identity is not None
            raise SandboxError(
                f"{path} is below a directory that user {self.identity.uid}, whom root's tasks run as, may not enter, "
                "and the landlock sandbox cannot show it elsewhere: choose a place elsewhere, "
                "or chmod o+x what is above it"
            )


class _Confined(Supervised):
    """A command below the launcher; one that gets a cgroup is held until it is in it."""

    tells_cpu = True

    def __init__(self, data: Sequence[bytes], job: Job, groups: Groups | None) -> None:
        self._held = groups is not None

        def make_watch() -> Watch | None:
            if groups is None and job.limits == Limits():
                return None
            return Watch(job.limits, job.workspace, groups=groups, apart=0 if self._held else _APART)

        super().__init__(landlock_launcher.__file__, data, make_watch)

    def started(self, process: subprocess.Popen[bytes]) -> None:
        if not self._held:
            super().started(process)

    def feed(self, data: bytes, process: subprocess.Popen[bytes]) -> None:
        super().feed(data, process)
        if self._held and self.watch is not None and (child := self._reported("child ")):
            self._held = False
            self.watch.follow(int(child))
            self._order(b"G")


def check_landlock() -> None:
    """Raises :class:`SandboxError`, naming the fix, unless the kernel has what is needed."""
    abi = landlock_abi()
    if abi >= MIN_ABI:
        return
    if abi > 0:
        raise SandboxError(f"the kernel has version {abi} of Landlock and {MIN_ABI} is needed: use Linux 6.2 or newer")
    reason, fix = _MISSING.get(-abi, (f"Landlock is refused ({os.strerror(-abi)})", "use Linux 6.2 or newer"))
    raise SandboxError(f"{reason}: {fix}")
