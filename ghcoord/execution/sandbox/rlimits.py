"""The limits that the kernel keeps for each process."""

from __future__ import annotations

import math
import resource
import subprocess
from pathlib import Path

from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox.base import Identity
from ghcoord.model.limits import Limits

OPEN_FILES = (1024, 4096)
"""Descriptors of one process: what it gets, and to what it may raise that itself."""

_NAMES = {
    resource.RLIMIT_CORE: "core",
    resource.RLIMIT_NOFILE: "nofile",
    resource.RLIMIT_FSIZE: "fsize",
    resource.RLIMIT_CPU: "cpu",
    resource.RLIMIT_NPROC: "nproc",
}
_SEARCH = {"PATH": "/usr/bin:/bin"}
_TIMEOUT = 5.0
_MIB = 1024 * 1024


def resource_limits(limits: Limits, *, processes: bool, apart: int = 0) -> dict[int, tuple[int, int]]:
    """Each ``RLIMIT_…`` with its soft and hard value.

    ``processes``: with that of processes and threads, which counts those of one
    user in one user namespace, so it is only right inside a namespace of the
    command's own; ``apart`` more for the sandbox's.  CPU time is a process's
    own there: the sum over all is watched, and this ends one that is missed.
    """
    found = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    if limits.file_mb is not None:
        found[resource.RLIMIT_FSIZE] = (limits.file_mb * _MIB, limits.file_mb * _MIB)
    if limits.cpu_seconds is not None:
        seconds = math.ceil(limits.cpu_seconds) + 1
        found[resource.RLIMIT_CPU] = (seconds, seconds + 1)
    if processes and limits.processes is not None:
        found[resource.RLIMIT_NPROC] = (limits.processes + apart, limits.processes + apart)
    return found


def apply_limits(pid: int, wanted: dict[int, tuple[int, int]], identity: Identity | None) -> None:
    """Set them for a process of ``identity`` that we have started, none above what we have ourselves.

    Root in a container mostly lacks CAP_SYS_RESOURCE, and another user's
    limits are not its to change: then ``prlimit`` of util-linux does it as
    ``identity``, in about 3 ms.  Raises :class:`SandboxError`; a process that
    has ended already is left in peace.
    """
    values = {}
    for which, (soft, hard) in wanted.items():
        most = resource.getrlimit(which)[1]
        hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
        values[which] = (min(soft, hard), hard)
    try:
        for which, both in values.items():
            resource.prlimit(pid, which, both)
    except ProcessLookupError:
        return
    except PermissionError:
        if identity is None:
            raise SandboxError("the limits of the command could not be set: Operation not permitted") from None
        _apply_as(pid, values, identity)


def _apply_as(pid: int, values: dict[int, tuple[int, int]], identity: Identity) -> None:
    become = ["setpriv", f"--reuid={identity.uid}", f"--regid={identity.gid}", "--clear-groups"]
    options = [f"--{_NAMES[which]}={soft}:{hard}" for which, (soft, hard) in values.items()]
    try:
        done = subprocess.run(
            [*become, "prlimit", f"--pid={pid}", *options],
            env=_SEARCH,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as why:
        raise SandboxError(f"the limits of the command could not be set: {why}") from why
    if done.returncode != 0 and Path("/proc", str(pid)).exists():
        text = done.stderr.decode(errors="replace").strip()
        raise SandboxError(f"the limits of the command could not be set: {text}")
