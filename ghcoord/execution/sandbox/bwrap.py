"""Bubblewrap: a namespace of everything, a private root of read-only system files, the workspace writable.

The profile was measured and probed against escapes (Debian 12, kernel 6.18,
bubblewrap 0.8; the oldest release with ``--disable-userns``).  Under root the
process becomes an unprivileged user *before* bubblewrap starts: root in a user
namespace still owns root's files.

A seccomp filter takes away what no namespace covers.  The first process inside
waits until it is under its limits: in its cgroup, or watched, and with its
``RLIMIT_…``; that of processes is set inside the namespace of users, where it
counts this command's and nobody else's.

Limits stated: without a cgroup, memory that belongs to no process and no file
system (buffers of sockets and pipes) is not counted.  A worker that is killed
by SIGKILL in the 10 to 20 ms in which a sandbox is being set up can leave that
one launch behind, sandboxed and without its soft limits: the kernel tells
bubblewrap of its parent's death only from then on.  A worker of the same
machine ends it (:mod:`ghcoord.execution.sandbox.orphans`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ghcoord.errors import SandboxError
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
)
from ghcoord.execution.sandbox.cgroup import Groups
from ghcoord.execution.sandbox.job import Job, LimitSupport, Mount
from ghcoord.execution.sandbox.launcher import descendants, parent_of
from ghcoord.execution.sandbox.orphans import MARK
from ghcoord.execution.sandbox.rlimits import apply_limits, resource_limits
from ghcoord.execution.sandbox.seccomp import Policy, filter_bytes
from ghcoord.execution.sandbox.watch import Watch
from ghcoord.model.limits import Limits

WORKSPACE = "/workspace"
MOUNTS = "/opt/ghcoord"
"""Where a job's mounts are found inside."""

APART = 1
"""Processes of ours in each sandbox: bubblewrap's first one."""

DEV_SHM_BYTES = 64 * 1024 * 1024
TMP_BYTES = 256 * 1024 * 1024

_NAMESPACES = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"),
    *("--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
    *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv"),
)

_SYSTEM_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")

_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)

_MADE_FILES = {
    "/etc/passwd": b"sandbox:x:1000:1000:sandbox:/workspace:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "/etc/group": b"sandbox:x:1000:\nnogroup:x:65534:\n",
    "/etc/hosts": b"127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
    "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
}

_STAGES = ("/mnt", "/media", "/srv", "/opt")

_STAGE_SCRIPT = """set -e
stage=$1 uid=$2 gid=$3 count=$4; shift 4
mount -t tmpfs -o mode=0755,size=64k ghcoord "$stage"
while [ "$count" -gt 0 ]; do
  if [ -d "$1" ]; then mkdir "$stage/$count"; else : >"$stage/$count"; fi
  mount --bind "$1" "$stage/$count"
  count=$((count - 1)); shift
done
exec setpriv --reuid="$uid" --regid="$gid" --clear-groups --no-new-privs "$@"
"""
"""Under root, in a mount namespace of its own: bind what is needed where ``uid`` can reach it, become it."""


def find_bwrap() -> Path | None:
    """The ``bwrap`` program in the system's directories; ``None`` when it is not installed."""
    found = shutil.which("bwrap", path=SYSTEM_PATH)
    return Path(found) if found else None


@dataclass(frozen=True)
class BwrapSandbox:
    """Runs commands under ``program`` (bubblewrap)."""

    program: Path
    identity: Identity | None
    interpreter: Path | None = None
    """The interpreter for ``run.python``; outside ``/usr`` the tree it is installed in is shown, read-only."""
    groups: Groups | None = None
    """Where cgroups can be made for commands."""

    name = "bwrap"
    tier = "full"

    @property
    def python(self) -> str | None:
        """The interpreter's path, the same inside and outside."""
        return str(self.interpreter) if self.interpreter else None

    def inside(self, workspace: Path) -> str:
        """Always ``/workspace``."""
        return WORKSPACE

    @cached_property
    def limits(self) -> LimitSupport:
        """Memory is hard where a cgroup keeps it; the namespace of users makes that of processes hard everywhere."""
        if self.groups is not None:
            return LimitSupport("hard", "hard", "soft", "hard", "soft", "cgroup")
        return LimitSupport("soft", "hard", "soft", "hard", "soft", "rlimit and watching")

    def where(self, workspace: Path, mount: Mount) -> str:
        """Below :data:`MOUNTS`."""
        return f"{MOUNTS}/{mount.name}"

    def command(self, job: Job) -> Launch:
        """See :meth:`Sandbox.command`; ``argv[0]`` is a path inside."""
        prefix = self._prefix()
        path = f"{prefix}/bin:{SYSTEM_PATH}" if prefix else SYSTEM_PATH
        variables = {"PATH": path, "HOME": WORKSPACE, "LANG": LANG, "TMPDIR": "/tmp", **job.env}
        check_strings(job.argv, variables)
        check_mounts(job.mounts)
        prepare_workspace(job.workspace, self.identity)
        workspace = job.workspace.resolve()
        sources = {each: each.source.resolve() for each in job.mounts}
        used = dict.fromkeys([workspace, *([prefix] if prefix else []), *sources.values()])
        hidden = [each for each in used if not reachable(each, self.identity)]
        stage = _stage_for(hidden) if hidden else None
        shown = {each: f"{stage}/{len(hidden) - at}" for at, each in enumerate(hidden)}
        options = [*_NAMESPACES]
        for key, value in variables.items():
            options += ["--setenv", key, value]
        options += _system_mounts(job.limits)
        if prefix:
            options += ["--ro-bind", shown.get(prefix, str(prefix)), str(prefix)]
        for mount, source in sources.items():
            kind = "--bind" if mount.writable else "--ro-bind"
            options += [kind, shown.get(source, str(source)), f"{MOUNTS}/{mount.name}"]
        options += ["--bind", shown.get(workspace, str(workspace)), WORKSPACE, "--chdir", WORKSPACE]
        launch = _Bwrapped([str(self.program)], options, job, self)
        if stage and self.identity:
            numbers = map(str, (self.identity.uid, self.identity.gid, len(hidden)))
            staging = ["/bin/sh", "-c", _STAGE_SCRIPT, "ghcoord-stage", stage, *numbers, *map(str, hidden)]
            launch.argv = ["unshare", "--mount", "--", *staging, *launch.argv]
        else:
            launch.identity = self.identity
        return launch

    def _prefix(self) -> Path | None:
        """Where an interpreter outside ``/usr`` is installed."""
        if self.interpreter is None or self.interpreter.is_relative_to("/usr"):
            return None
        return self.interpreter.parent.parent


def _stage_for(sources: list[Path]) -> str:
    """An existing directory that is above none of ``sources`` and below none of them."""
    for stage in map(Path, _STAGES):
        if stage.is_dir() and not any(each.is_relative_to(stage) or stage.is_relative_to(each) for each in sources):
            return str(stage)
    raise SandboxError(f"{sources[0]} is not reachable for root's tasks, and none of {', '.join(_STAGES)} is free")


def _system_mounts(limits: Limits) -> list[str]:
    options = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    for file in _SYSTEM_FILES:
        options += ["--ro-bind-try", file, file]
    options += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    most = TMP_BYTES if limits.memory_mb is None else limits.memory_mb * 1024 * 1024
    shm, tmp = (str(min(size, most)) for size in (DEV_SHM_BYTES, TMP_BYTES))
    options += ["--perms", "1777", "--size", shm, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    return [*options, "--perms", "1777", "--size", tmp, "--tmpfs", "/tmp"]


class _Bwrapped(Launch):
    """A command below bubblewrap; its options travel in memory, so that ``ps`` shows no variable's value."""

    def __init__(self, program: list[str], options: list[str], job: Job, sandbox: BwrapSandbox) -> None:
        limits, groups = job.limits, sandbox.groups
        fds: list[int] = []
        with closing_on_error(fds):
            for path, content in _MADE_FILES.items():
                fds.append(data_fd(content))
                options = [*options, "--ro-bind-data", str(fds[-1]), path]
            self.status_fd, status_write = os.pipe2(os.O_CLOEXEC)
            fds += [self.status_fd, status_write]
            read_end, self._block = os.pipe2(os.O_CLOEXEC)
            fds += [read_end, self._block]
            # Open for both, so that it has no end when we die: then the command is never started.
            fds.append(block := os.open(f"/proc/self/fd/{read_end}", os.O_RDWR | os.O_CLOEXEC))
            os.close(read_end)
            fds.remove(read_end)
            policy = Policy(uncounted_memory=limits.memory_mb is None or groups is not None)
            fds.append(data_fd(filter_bytes(policy)))
            options = [*options, "--remount-ro", "/", "--json-status-fd", str(status_write)]
            options += ["--block-fd", str(block), "--seccomp", str(fds[-1])]
            fds.append(data_fd(b"".join(each.encode() + b"\0" for each in options)))
            if limits != Limits():
                folders = ("/tmp", "/dev/shm")
                self.watch = Watch(limits, job.workspace, groups=groups, apart=APART, memory_folders=folders)
        self.pass_fds = tuple(fd for fd in fds if fd not in (self.status_fd, self._block))
        self.argv = [*program, *MARK, "--args", str(fds[-1]), "--", *job.argv]
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        self._limits = limits
        self._identity = sandbox.identity
        self._status = b""
        self._init_pid: int | None = None
        self._init_fd: int | None = None
        self._killed = False

    def feed(self, data: bytes, process: subprocess.Popen[bytes]) -> None:
        self._status += data
        if self.watch is not None and self._reported("exit-code") is not None:
            self.watch.sample()
        if self._init_pid is None and (found := self._reported("child-pid")) is not None:
            self._init_pid = found
            try:
                fd = os.pidfd_open(found)
            except ProcessLookupError:
                return
            if parent_of(found) == process.pid:
                self._init_fd = fd
                self._hold(found)
            else:
                os.close(fd)

    def _hold(self, pid: int) -> None:
        """Put the first process inside under its limits, then let it go on: it waits before it starts the command."""
        if self.watch is not None:
            self.watch.follow(pid)
        apply_limits(pid, resource_limits(self._limits, processes=True, apart=APART), self._identity)
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        with contextlib.suppress(BrokenPipeError):
            os.write(self._block, b"G")

    def _reported(self, key: str) -> int | None:
        for line in self._status.splitlines(keepends=True):
            if line.endswith(b"\n"):
                record = json.loads(line)
                if key in record:
                    return int(record[key])
        return None

    def terminate(self, process: subprocess.Popen[bytes]) -> None:
        if self._init_pid is None or self._init_fd is None:
            self.kill(process)
            return
        for each in descendants(self._init_pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGTERM)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        if self._init_fd is not None:
            # The first process of a pid namespace takes all others with it, and the bubblewrap outside ends by itself.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
            if not self._killed:
                self._killed = True
                return
        elif process.poll() is None:
            # Before bubblewrap has reported, its child may be waiting for it without knowing that it died (measured:
            # 1 in 20 such kills left one behind). Stopped, it can neither start another nor let a pid be used again.
            process.send_signal(signal.SIGSTOP)
            if process.returncode is None:
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            for each in descendants(process.pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(each, signal.SIGKILL)
        process.kill()

    def gone(self, timeout: float) -> bool:
        if self._init_fd is None:
            return True
        poll = select.poll()
        poll.register(self._init_fd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def exit_code(self, returncode: int, stderr: str) -> int:
        code = self._reported("exit-code")
        if code is not None:
            return code
        if returncode < 0:
            return 128 - returncode
        raise SandboxError(f"the sandbox could not be set up: {stderr.strip() or f'exit code {returncode}'}")

    def close(self) -> None:
        os.close(self.status_fd)
        os.close(self._block)
        if self.watch is not None:
            self.watch.close()
        if self._init_fd is not None:
            # A worker that is a container's first process is the one to whom what bubblewrap has left falls.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._init_fd, os.WEXITED | os.WNOHANG)
            os.close(self._init_fd)
