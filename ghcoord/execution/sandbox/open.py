"""Choose the sandbox once, at the start of a worker: one that holds what its driver promises, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ghcoord.clock import Runtime, SystemRuntime
from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.sandbox.base import Sandbox, current_identity, reachable, system_python, worker_python
from ghcoord.execution.sandbox.bwrap import BwrapSandbox, find_bwrap
from ghcoord.execution.sandbox.canaries import leaks, run_canaries
from ghcoord.execution.sandbox.cgroup import find_groups
from ghcoord.execution.sandbox.container import (
    ContainerSandbox,
    ContainerSettings,
    check_engine,
    find_engine,
    remove_orphans,
)
from ghcoord.execution.sandbox.landlock import LandlockSandbox, check_landlock
from ghcoord.execution.sandbox.none import NoSandbox

CHOICES = ("auto", "bwrap", "landlock", "container", "none")
"""``auto``: bwrap, or landlock where that does not work."""

_IN_IMAGES = ("/usr/local/bin/python3", "/usr/bin/python3")

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
    ("setgroups", "start the worker as an ordinary user, or give root CAP_SETUID and CAP_SETGID"),
    ("limits of the command could not", "install util-linux (prlimit, setpriv), or give root CAP_SYS_RESOURCE"),
    ("unshare", "start the worker as an ordinary user: root without CAP_SYS_ADMIN cannot show its own directories"),
)
_LEAK_FIX = "run no tasks that you do not trust here, and report this with the versions of {name} and of the kernel"
_ENGINE_FIX = (
    "take from the options what lets it out, use the engine's own seccomp profile or one that is stricter "
    "('--security-opt=seccomp=FILE'), or another engine"
)
_OTHER_FIX = "see 'bwrap --unshare-user --ro-bind / / true' for what the machine refuses"
_NO_PYTHON_FIX = "install python3, or start the worker as an ordinary user"


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether tasks can be sandboxed here."""

    ok: bool
    reason: str
    """What was found, one sentence."""
    fix: str = ""
    """What to do about it; empty when ``ok`` and nothing is missing."""
    name: str = ""
    """The driver that this is about."""
    tier: str = "none"
    """What tasks are held to: that of the driver when ``ok``."""
    limits: dict[str, str] = field(default_factory=dict)
    """How each limit is kept, and by what, when ``ok``: see :class:`ghcoord.execution.sandbox.job.LimitSupport`."""


def open_sandbox(
    *, choice: str = "auto", unsafe: bool = False, runtime: Runtime, container: ContainerSettings | None = None
) -> Sandbox | None:
    """The sandbox for a worker's tasks, if it holds its canaries. Probes, so call it once.

    ``auto`` takes bubblewrap, or Landlock where bubblewrap does not work.  When
    neither does, ``unsafe`` decides: no sandbox at all, as was asked for, or
    ``None``, and the worker refuses the tools that need one.

    A driver that is named is never replaced.  Raises :class:`SandboxError`
    with the fix when it does not work, :class:`UsageError` for a choice that
    there is not and for ``none`` without ``unsafe``.
    """
    if choice not in CHOICES:
        raise UsageError(f"{choice[:40]!r} is no sandbox: one of {', '.join(CHOICES)}")
    if choice == "none":
        if not unsafe:
            raise UsageError("tasks without a sandbox need the flag --unsafe-no-sandbox as well")
        return NoSandbox(current_identity())
    for name in ("bwrap", "landlock") if choice == "auto" else (choice,):
        found, sandbox = _try(name, runtime, container)
        if sandbox is not None:
            return sandbox
        if choice != "auto":
            raise SandboxError(f"the sandbox {name} does not work here ({found.reason}): {found.fix}")
    return NoSandbox(current_identity()) if unsafe else None


def probe(runtime: Runtime | None = None) -> Probe:
    """What :func:`open_sandbox` would find by itself, with the reason and the fix; of bubblewrap when nothing works."""
    runtime = runtime or SystemRuntime()
    first, sandbox = _try("bwrap", runtime, None)
    if sandbox is not None:
        return first
    second, sandbox = _try("landlock", runtime, None)
    if sandbox is None:
        return first
    return replace(second, reason=f"{second.reason}; bwrap does not: {first.reason}", fix=first.fix)


def probe_all(runtime: Runtime | None = None, container: ContainerSettings | None = None) -> list[tuple[str, Probe]]:
    """Every driver with what was found; ``container`` only when it is configured. For ``ghcoord doctor``."""
    runtime = runtime or SystemRuntime()
    names = ["bwrap", "landlock", *(["container"] if container else [])]
    return [(name, _try(name, runtime, container)[0]) for name in names]


def explain(refusal: str, name: str = "bwrap") -> Probe:
    """A set-up failure's text as a :class:`Probe` with the fix for it."""
    reason = " ".join(refusal.split())
    for sign, fix in _FIXES:
        if sign in reason:
            return Probe(False, reason, fix, name)
    other = _OTHER_FIX if name == "bwrap" else "report this with the versions of the kernel and of ghcoord"
    return Probe(False, reason, other, name)


def _try(name: str, runtime: Runtime, container: ContainerSettings | None) -> tuple[Probe, Sandbox | None]:
    """What was found of a driver, and itself if it may be used."""
    try:
        candidates = list(_candidates(name, container))
    except SandboxError as why:
        reason, _, fix = why.message.rpartition(": ")
        return Probe(False, reason, fix, name), None
    answer = Probe(False, "no interpreter was tried", _NO_PYTHON_FIX, name)
    for sandbox in candidates:
        try:
            escaped, python = run_canaries(sandbox, runtime)
        except SandboxError as why:
            answer = explain(why.message, name)
            continue
        if not python and sandbox.python is not None:
            answer = Probe(False, f"{sandbox.python} does not start inside", _NO_PYTHON_FIX, name)
            continue
        if leaking := leaks(sandbox, escaped):
            reason = f"the sandbox leaks: {', '.join(sorted(leaking))}"
            fix = _ENGINE_FIX if name == "container" else _LEAK_FIX.format(name=name)
            return Probe(False, reason, fix, name), None
        limits = sandbox.limits.summary()
        if python:
            reason = f"{name} works, tier {sandbox.tier}, with {sandbox.python}"
            return Probe(True, reason, "", name, sandbox.tier, limits), sandbox
        reason = f"{name} works, tier {sandbox.tier}, but no Python can be reached inside: run.python is off"
        return Probe(True, reason, _NO_PYTHON_FIX, name, sandbox.tier, limits), sandbox
    return answer, None


def _candidates(name: str, container: ContainerSettings | None) -> Iterator[Sandbox]:
    """The driver with each interpreter that could work. Raises :class:`SandboxError`, ``REASON: FIX``."""
    who = current_identity()
    if name == "bwrap":
        program = find_bwrap()
        if program is None:
            raise SandboxError("bubblewrap is not installed: install it, e.g. 'apt-get install bubblewrap'")
        groups = find_groups()
        for interpreter in (worker_python(), system_python(), None):
            yield BwrapSandbox(program, who, interpreter, groups)
    elif name == "landlock":
        check_landlock()
        groups = find_groups()
        # Without Python most canaries cannot be tried, and there are no namespaces to answer for them.
        for interpreter in _reachable(worker_python(), system_python()):
            yield LandlockSandbox(who, interpreter, groups)
    else:
        if container is None:
            raise SandboxError("no container is configured: name an image and an engine, or choose another sandbox")
        program = find_engine(container)
        variables = check_engine(program, container)
        remove_orphans(program, container)
        for path in (*_IN_IMAGES, None):
            yield ContainerSandbox(program, container, who, path, variables)


def _reachable(*interpreters: Path | None) -> list[Path]:
    who = current_identity()
    return [each for each in interpreters if each is not None and reachable(each.resolve(), who)]
