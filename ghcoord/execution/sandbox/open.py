"""Choose the sandbox once, at the start of a worker: what passes every canary, or nothing."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from ghcoord.clock import Runtime, SystemRuntime
from ghcoord.errors import SandboxError
from ghcoord.execution import process
from ghcoord.execution.sandbox.base import Sandbox, current_identity, system_python, worker_python
from ghcoord.execution.sandbox.bwrap import BwrapSandbox, find_bwrap
from ghcoord.execution.sandbox.none import NoSandbox

PROBE_TIMEOUT = 15.0
"""Seconds that the canaries may take; they take about 0.05."""

_CANARIES = r"""
outside=$1 port=$2 marker=$3 python=$4
try() {
  name=$1; shift
  if "$@" >/dev/null 2>&1; then echo "$name=breach"; else echo "$name=held"; fi
}
try outside-write sh -c ': > "$1/escaped"' sh "$outside"
try outside-read cat "$outside/secret"
try shadow-read cat /etc/shadow
try system-write test -w /usr
try kernel-write test -w /proc/sys/kernel/core_pattern
try worker-environment sh -c 'tr "\0" "\n" < /proc/1/environ | grep -Ev "^PATH=|^PWD=/\$"'
try privileges grep "^Cap[EPB][a-z]*:[[:space:]]*0*[1-9a-f]" /proc/self/status
try new-privileges grep "^NoNewPrivs:.*0" /proc/self/status
try groups grep "^Groups:.*[0-9]" /proc/self/status
: > written-inside
echo "network-namespace=$(readlink /proc/self/ns/net)"
echo "pid-namespace=$(readlink /proc/self/ns/pid)"
if [ -n "$python" ] && "$python" -c 'pass'; then
  echo "python=works"
  try host-loopback "$python" -c 'import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)' "$port"
fi
if command -v setsid >/dev/null; then setsid sleep "$marker" >/dev/null 2>&1 &
else sleep "$marker" >/dev/null 2>&1 & fi
echo "daemon=started"
"""

_REQUIRED = {
    "outside-write",
    "outside-read",
    "shadow-read",
    "system-write",
    "kernel-write",
    "worker-environment",
    "privileges",
    "new-privileges",
    "groups",
}

_USERNS_FIX = (
    "allow unprivileged user namespaces: 'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0', "
    "or an AppArmor profile for bwrap with 'userns,'"
)
_DOCKER_FIX = (
    "in a container, start it with '--security-opt seccomp=unconfined' or a profile that allows namespaces; "
    "elsewhere, raise user.max_user_namespaces and set kernel.unprivileged_userns_clone=1"
)
_FIXES = (
    ("setting up uid map: Permission denied", _USERNS_FIX),
    ("Failed RTM_NEWADDR", _USERNS_FIX),
    ("Creating new namespace failed", _DOCKER_FIX),
    ("No permissions to creat", _DOCKER_FIX),
    ("mount proc", "start the container with '--security-opt' unmask=ALL (Podman) or systempaths=unconfined (Docker)"),
    ("Unknown option", "install bubblewrap 0.8 or newer"),
    ("could not be started as user", "start the worker as an ordinary user, or give root CAP_SETUID and CAP_SETGID"),
    ("unshare", "start the worker as an ordinary user: root without CAP_SYS_ADMIN cannot show its own directories"),
)
_LEAK_FIX = "run no tasks that you do not trust here, and report this with the versions of bwrap and of the kernel"
_OTHER_FIX = "see 'bwrap --unshare-user --ro-bind / / true' for what the machine refuses"


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether tasks can be sandboxed here."""

    ok: bool
    reason: str
    """What was found, one sentence."""
    fix: str = ""
    """What to do about it; empty when ``ok`` and nothing is missing."""


def open_sandbox(*, unsafe: bool, runtime: Runtime) -> Sandbox | None:
    """The sandbox for a worker's tasks: bubblewrap if it passes every canary.

    If it does not, ``unsafe`` decides: no sandbox at all, as was asked for, or
    ``None``, and the worker refuses the tools that need one.  Probes once, so
    call it once.
    """
    _, sandbox = _probe(runtime, find_bwrap())
    if sandbox is None and unsafe:
        return NoSandbox(current_identity())
    return sandbox


def probe(runtime: Runtime | None = None) -> Probe:
    """What :func:`open_sandbox` would find, with the reason and the fix, for ``ghcoord doctor``."""
    found, _ = _probe(runtime or SystemRuntime(), find_bwrap())
    return found


def explain(refusal: str) -> Probe:
    """A set-up failure's text as a :class:`Probe` with the fix for it."""
    reason = " ".join(refusal.split())
    for sign, fix in _FIXES:
        if sign in reason:
            return Probe(False, reason, fix)
    return Probe(False, reason, _OTHER_FIX)


def _probe(runtime: Runtime, program: Path | None) -> tuple[Probe, BwrapSandbox | None]:
    if program is None:
        return Probe(False, "bubblewrap is not installed", "install it, e.g. 'apt-get install bubblewrap'"), None
    sandbox = BwrapSandbox(program, current_identity())
    answer = Probe(False, "no interpreter was tried")
    for interpreter in (worker_python(), system_python(), None):
        sandbox = replace(sandbox, interpreter=interpreter)
        try:
            breaches, python = run_canaries(sandbox, runtime)
        except SandboxError as why:
            answer = explain(why.message)
            continue
        if breaches:
            return Probe(False, f"the sandbox leaks: {', '.join(sorted(breaches))}", _LEAK_FIX), None
        if python:
            return Probe(True, f"bubblewrap works, with {interpreter}"), sandbox
        if interpreter is None:
            fix = "install python3, or start the worker as an ordinary user"
            return Probe(True, "bubblewrap works, but no Python can be reached inside: run.python is off", fix), sandbox
    return answer, None


def run_canaries(sandbox: Sandbox, runtime: Runtime) -> tuple[set[str], bool]:
    """Try to break out of ``sandbox``: the names of what succeeded, and whether its Python works.

    A canary that gives no answer counts as a breach.  Raises
    :class:`SandboxError` when the sandbox cannot be set up.
    """
    base = Path(tempfile.mkdtemp(prefix="ghcoord-probe-"))
    try:
        base.chmod(0o711)
        outside, workspace = base / "outside", base / "workspace"
        outside.mkdir()
        outside.chmod(0o777)
        (outside / "secret").write_text("secret")
        (outside / "secret").chmod(0o644)
        workspace.mkdir()
        marker = f"300.{runtime.randbits(60)}"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            port = str(listener.getsockname()[1])
            done = process.run(
                sandbox,
                ["/bin/sh", "-c", _CANARIES, "canaries", str(outside), port, marker, sandbox.python or ""],
                workspace=workspace,
                runtime=runtime,
                timeout=PROBE_TIMEOUT,
                grace=0.0,
            )
            accepted = _accepted(listener)
        said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        breaches = {name for name in _REQUIRED if said.get(name) != "held"}
        if sandbox.identity is None:
            # A user namespace keeps the worker's own groups; what they open is not mounted.
            breaches.discard("groups")
        for kind in ("net", "pid"):
            name = {"net": "network-namespace", "pid": "pid-namespace"}[kind]
            if said.get(name, "") in ("", os.readlink(f"/proc/self/ns/{kind}")):
                breaches.add(name)
        python = said.get("python") == "works"
        if accepted or (python and said.get("host-loopback") != "held"):
            breaches.add("host-loopback")
        if (outside / "escaped").exists():
            breaches.add("outside-write")
        written = workspace / "written-inside"
        if not written.exists():
            breaches.add("workspace-not-writable")
        elif written.stat().st_uid == 0:
            breaches.add("runs-as-root")
        if said.get("daemon") != "started" or done.leftover or _survives(marker):
            breaches.add("surviving-daemon")
        return breaches, python
    finally:
        shutil.rmtree(base, ignore_errors=True)


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
