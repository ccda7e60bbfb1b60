"""Attempts to break out of a sandbox, made once at the start of a worker with the profile that tasks get.

A sandbox is used only when every canary that its driver promises to hold is held. :data:`GAPS` is the one list of
what is not promised.  A canary that gives no answer counts as escaped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ghcoord.clock import Runtime
from ghcoord.execution import process
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.container import ContainerSandbox
from ghcoord.execution.sandbox.landlock_launcher import SCOPES_ABI, landlock_abi
from ghcoord.execution.sockets import bind

PROBE_TIMEOUT = 15.0
"""Seconds that the canaries may take; they take about 0.1."""

CANARIES: Mapping[str, str] = MappingProxyType(
    {
        "outside-write": "write a file outside of the workspace, in a folder open to everybody",
        "outside-read": "read a file outside of the workspace, open to everybody",
        "outside-names": "learn that a file outside of the workspace exists",
        "outside-metadata": "change the mode of a file of its own user outside of the workspace",
        "shadow-read": "read /etc/shadow",
        "system-write": "write below /usr",
        "kernel-write": "write /proc/sys/kernel/core_pattern",
        "worker-environment": "read variables of the worker below /proc",
        "worker-arguments": "read the worker's arguments below /proc",
        "worker-signal": "send the worker a signal",
        "worker-memory": "read the worker's memory",
        "privileges": "have a capability",
        "new-privileges": "gain privileges by a setuid program",
        "groups": "be in one of the worker's groups",
        "seccomp": "call the kernel without a filter",
        "ptrace": "trace a process",
        "user-namespace": "make a user namespace",
        "host-loopback": "connect to 127.0.0.1 of the host",
        "abstract-socket": "connect to an abstract socket of the host",
        "path-socket": "connect to a socket of the host in a folder open to everybody",
        "vsock": "make a socket to the hypervisor",
        "network-namespace": "be in the host's network namespace",
        "pid-namespace": "be in the host's namespace of processes",
        "host-name": "learn the host's name",
        "surviving-daemon": "leave a process behind",
        "runs-as-root": "write the workspace's files as root",
        "workspace-not-writable": "fail to write in the workspace",
    }
)
"""Every canary, and what has been shown when it escapes."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A canary that a driver does not hold, and why tasks may run there all the same."""

    canary: str
    why: str
    before_abi: int = 0
    """Only where Landlock's version is lower; 0 for everywhere."""


GAPS: Mapping[str, tuple[Gap, ...]] = MappingProxyType(
    {
        "bwrap": (),
        "container": (
            Gap("ptrace", "engines allow it, among the container's own processes alone"),
            Gap("vsock", "some engines' filters allow the socket; what can be reached is the hypervisor's to say"),
        ),
        "landlock": (
            Gap("network-namespace", "it is the host's, but no socket can be made in it"),
            Gap("pid-namespace", "ids of processes are the host's; nothing below /proc can be opened"),
            Gap("host-name", "it is the host's, and so are the names of users in /etc/passwd"),
            Gap("outside-names", "stat and readlink tell of any path that the task's user may pass through"),
            Gap("outside-metadata", "mode, times and attributes of files that the task's user owns elsewhere"),
            Gap(
                "worker-signal",
                "processes of the same user can be signalled: other sessions', and the worker's unless it is root",
                before_abi=SCOPES_ABI,
            ),
        ),
    }
)
"""What each driver does not hold; ``none`` is not probed, for it holds nothing."""

_SHELL = r"""
outside=$1 port=$2 marker=$3 python=$4 worker=$5 pids=$6 code=$7 host=$8
try() {
  name=$1; shift
  if "$@" >/dev/null 2>&1; then echo "$name=breach"; else echo "$name=held"; fi
}
try outside-write sh -c ': > "$1/escaped"' sh "$outside"
try outside-read cat "$outside/secret"
try outside-names test -e "$outside/secret"
try outside-metadata chmod 600 "$outside/owned"
try groups sh -c 'test "$(id -G)" != "$(id -g)"'
try host-name test "$(uname -n)" = "$host"
try shadow-read cat /etc/shadow
try system-write sh -c ': > "/usr/$1" && rm "/usr/$1"' sh "$marker"
try kernel-write sh -c ': >> /proc/sys/kernel/core_pattern'
cat /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | sed 's/^/environ=/'
if [ "$(readlink /proc/self/ns/pid)" = "$pids" ]; then
  try worker-arguments cat "/proc/$worker/cmdline"
  try worker-signal kill -0 "$worker"
else
  echo worker-arguments=held; echo worker-signal=held; echo worker-memory=held
fi
if [ -r /proc/self/status ]; then
  try privileges grep "^Cap[EPA][a-z]*:[[:space:]]*0*[1-9a-f]" /proc/self/status
  try new-privileges grep "^NoNewPrivs:.*0" /proc/self/status
  try seccomp grep "^Seccomp:[[:space:]]*[01]" /proc/self/status
fi
if command -v unshare >/dev/null; then try user-namespace unshare -U true; fi
: > written-inside
echo "network-namespace=$(readlink /proc/self/ns/net)"
echo "pid-namespace=$(readlink /proc/self/ns/pid)"
if [ -n "$python" ]; then "$python" -I -S -c "$code" "$outside" "$port" "$marker" "$worker" "$pids"; fi
if command -v setsid >/dev/null; then setsid sleep "$marker" >/dev/null 2>&1 &
else sleep "$marker" >/dev/null 2>&1 & fi
echo "daemon=started"
"""

_PYTHON = r"""
import ctypes, os, socket, sys
outside, port, marker, worker, pids = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def show(name, breach):
    print(f"{name}={'breach' if breach else 'held'}", flush=True)
def connects(family, address):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as made:
            made.settimeout(2)
            made.connect(address)
        return True
    except OSError:
        return False
def finds(folder, name):
    try:
        # By descriptor: a path may be longer than a socket's address.
        return connects(socket.AF_UNIX, f"/proc/self/fd/{os.open(folder, os.O_PATH)}/{name}")
    except OSError:
        return False
def can(action, *arguments):
    try:
        action(*arguments)
        return True
    except (OSError, OverflowError):
        return False
show("host-loopback", connects(socket.AF_INET, ("127.0.0.1", int(port))))
show("abstract-socket", connects(socket.AF_UNIX, "\0" + marker))
show("path-socket", finds(outside, "socket"))
show("vsock", can(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()))
held = (ctypes.c_uint32 * 6)()
if libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), held) == 0:
    show("privileges", any(held[at] for at in (0, 1, 3, 4)))
show("new-privileges", libc.prctl(39, 0, 0, 0, 0) != 1)
show("groups", bool(set(os.getgroups()) - {os.getgid()}))
show("seccomp", libc.prctl(21, 0, 0, 0, 0) != 2)
if pids == os.readlink("/proc/self/ns/pid"):
    show("worker-memory", can(open, f"/proc/{worker}/mem", "rb"))
    show("worker-signal", can(os.kill, int(worker), 0))
child = os.fork()
if child == 0:
    os._exit(1 if libc.unshare(0x10000000) == 0 else 0)
show("user-namespace", os.waitpid(child, 0)[1] != 0)
child = os.fork()
if child == 0:
    os._exit(1 if libc.ptrace(0, 0, None, None) == 0 else 0)
show("ptrace", os.waitpid(child, 0)[1] != 0)
print("python=works", flush=True)
"""

_IN_PYTHON = frozenset(
    {"host-loopback", "abstract-socket", "path-socket", "vsock", "worker-memory", "ptrace", "user-namespace"}
)
"""Only tried where there is Python inside; without it, namespaces have to answer for them."""

_PUBLIC = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_", "VIRTUAL_ENV", "HOSTNAME"})
"""Variables that may be the same inside as the worker's."""


def run_canaries(sandbox: Sandbox, runtime: Runtime) -> tuple[set[str], bool]:
    """Try to break out of ``sandbox``: the names of what succeeded, and whether its Python works.

    Gaps are not left out: see :func:`leaks`.  Raises :class:`SandboxError` when
    the sandbox cannot be set up.
    """
    base = Path(tempfile.mkdtemp(prefix="ghcoord-probe-"))
    try:
        base.chmod(0o711)
        outside, workspace = base / "outside", base / "workspace"
        outside.mkdir()
        outside.chmod(0o777)
        (outside / "secret").write_text("secret")
        (outside / "secret").chmod(0o644)
        (outside / "owned").touch()
        if sandbox.identity is not None:
            os.chown(outside / "owned", sandbox.identity.uid, sandbox.identity.gid)
        workspace.mkdir()
        marker = f"300.{runtime.randbits(60)}"
        with _listening(outside / "socket", marker) as listeners:
            port = str(listeners["host-loopback"].getsockname()[1])
            pids = os.readlink("/proc/self/ns/pid")
            arguments = [str(outside), port, marker, sandbox.python or "", str(os.getpid()), pids, _PYTHON]
            arguments.append(os.uname().nodename)
            done = process.run(
                sandbox,
                ["/bin/sh", "-c", _SHELL, "canaries", *arguments],
                workspace=workspace,
                runtime=runtime,
                timeout=PROBE_TIMEOUT,
                grace=0.0,
            )
            reached = {name for name, listener in listeners.items() if _accepted(listener)}
        lines = [line.split("=", 1) for line in done.stdout.splitlines() if "=" in line]
        escaped = reached | _judge(lines, sandbox)
        if (outside / "escaped").exists():
            escaped.add("outside-write")
        written = workspace / "written-inside"
        if not written.exists():
            escaped.add("workspace-not-writable")
        elif written.stat().st_uid == 0:
            escaped.add("runs-as-root")
        if done.leftover or _survives(marker):
            escaped.add("surviving-daemon")
        return escaped, ["python", "works"] in lines
    finally:
        shutil.rmtree(base, ignore_errors=True)


def leaks(sandbox: Sandbox, escaped: set[str]) -> set[str]:
    """What of ``escaped`` the driver promises to hold."""
    abi = max(0, landlock_abi())
    gaps = {each.canary for each in GAPS.get(sandbox.name, ()) if not each.before_abi or abi < each.before_abi}
    return escaped - gaps


def _judge(lines: list[list[str]], sandbox: Sandbox) -> set[str]:
    """The canaries that by their own report escaped, or of which there is none."""
    said: dict[str, str] = {}
    for name, value in lines:
        if said.get(name) != "breach":
            said[name] = value
    by_value = {"network-namespace", "pid-namespace"}
    elsewhere = {"surviving-daemon", "runs-as-root", "workspace-not-writable", "worker-environment"}
    tried = set(CANARIES) - by_value - elsewhere
    if said.get("python") != "works":
        tried -= _IN_PYTHON - set(said)
    escaped = {name for name in tried if said.get(name) != "held"}
    if sandbox.identity is None:
        # A user namespace keeps the worker's own groups; what they open is not shown.
        escaped.discard("groups")
    for kind in ("net", "pid"):
        name = {"net": "network-namespace", "pid": "pid-namespace"}[kind]
        if said.get(name, "") in ("", os.readlink(f"/proc/self/ns/{kind}")):
            escaped.add(name)
    if said.get("daemon") != "started":
        escaped.add("surviving-daemon")
    seen = {value for name, value in lines if name == "environ"}
    public = sandbox.variables if isinstance(sandbox, ContainerSandbox) else frozenset[str]()
    if (seen & _own_variables()) - public:
        escaped.add("worker-environment")
    return escaped


def _own_variables() -> set[str]:
    """This process's variables as ``/proc`` shows them to whoever may look."""
    lines = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
    return {each for each in lines if each and each.partition("=")[0] not in _PUBLIC}


@contextlib.contextmanager
def _listening(path: Path, name: str) -> Iterator[dict[str, socket.socket]]:
    """Sockets of the host, for each canary that tries to reach one."""
    with (
        socket.create_server(("127.0.0.1", 0)) as loopback,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as by_path,
    ):
        abstract.bind(f"\0{name}")
        bind(by_path, path)
        path.chmod(0o777)
        found = {"host-loopback": loopback, "abstract-socket": abstract, "path-socket": by_path}
        for each in found.values():
            each.listen()
            each.setblocking(False)
        yield found


def _accepted(listener: socket.socket) -> bool:
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return False
    connection.close()
    return True


def _survives(marker: str) -> bool:
    """Whether a process with ``marker`` among its arguments runs on this machine."""
    wanted = marker.encode()
    for command_line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted in command_line.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False
