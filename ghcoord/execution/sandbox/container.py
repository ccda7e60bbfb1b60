"""A container of docker or podman, of an image that is on the machine already.

The tier is ``full`` when the canaries find it so.  The engine's own seccomp
profile counts; what it must forbid is among the canaries.  The daemon is the
engine's business: whoever may use it is root on this machine, so neither its
socket nor its client ever reaches a task.

Limits stated: CPU time is held to each process alone, by the kernel; variables
that contain a line break pass through the client's arguments, which other users
of the machine can see.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.sandbox import container_launcher
from ghcoord.execution.sandbox.base import (
    LANG,
    SYSTEM_PATH,
    Identity,
    Launch,
    check_mounts,
    check_strings,
    prepare_workspace,
)
from ghcoord.execution.sandbox.container_launcher import VARIABLES_HERE
from ghcoord.execution.sandbox.job import Job, LimitSupport, Mount
from ghcoord.execution.sandbox.supervised import Supervised
from ghcoord.execution.sandbox.tree import read_process
from ghcoord.execution.sandbox.watch import MIB, Verdict, Watch
from ghcoord.model.limits import Limits
from ghcoord.model.session import Usage

WORKSPACE = "/workspace"
MOUNTS = "/mnt"
LABEL = "ghcoord.worker"
TMP_BYTES = 256 * MIB
SHM_BYTES = 64 * MIB

_PREFIX = "ghcoord-"
_CHECK_SECONDS = 20
_CLIENT_VARIABLES = {"PATH": f"/usr/sbin:/sbin:{SYSTEM_PATH}", "LANG": LANG}
_count = itertools.count(1)


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """Which containers to run tasks in."""

    image: str
    """Must be on the machine: nothing is pulled. It needs ``/bin/sh``, and Python for ``run.python``."""
    engine: str = "docker"
    """``docker`` or ``podman``, or the path of a program that takes the same arguments."""
    extra: tuple[str, ...] = ()
    """More options of ``run``, such as ``--runtime=runsc`` or ``--security-opt=seccomp=FILE``."""
    client_env: tuple[tuple[str, str], ...] = ()
    """Variables for the client, such as ``DOCKER_HOST`` or podman's ``XDG_RUNTIME_DIR``."""


@dataclass(frozen=True)
class ContainerSandbox:
    """Runs commands in containers that ``program`` makes."""

    program: Path
    settings: ContainerSettings
    identity: Identity | None
    interpreter: str | None = None
    """The interpreter for ``run.python``, a path in the image."""
    variables: frozenset[str] = frozenset()
    """What the image brings, each as ``NAME=value``."""

    name = "container"
    tier = "full"

    @cached_property
    def limits(self) -> LimitSupport:
        """Memory and processes by the engine's cgroup."""
        return LimitSupport(
            memory="hard", processes="hard", cpu="none", file_size="hard", workspace="soft", by="the engine's cgroup"
        )

    @property
    def python(self) -> str | None:
        """The interpreter's path in the image."""
        return self.interpreter

    def inside(self, workspace: Path) -> str:
        """Always ``/workspace``."""
        return WORKSPACE

    def where(self, workspace: Path, mount: Mount) -> str:
        """Below ``/mnt``."""
        return f"{MOUNTS}/{mount.name}"

    def command(self, job: Job) -> Launch:
        """See :meth:`Sandbox.command`; ``job.argv[0]`` is a path in the image, or a name that its PATH has."""
        check_mounts(job.mounts)
        variables = {"PATH": SYSTEM_PATH, "HOME": WORKSPACE, "LANG": LANG, "TMPDIR": "/tmp", **job.env}
        check_strings(job.argv, variables)
        prepare_workspace(job.workspace, self.identity)
        name = f"{_PREFIX}{os.getpid()}-{_birth(os.getpid())}-{next(_count)}"
        arguments = ["run", "--name", name, "--label", f"{LABEL}={os.getpid()}", *self._profile(), *_kept(job.limits)]
        arguments += ["--mount", _bind(job.workspace, WORKSPACE, writable=True), "--workdir", WORKSPACE]
        for mount in job.mounts:
            arguments += ["--mount", _bind(mount.source, self.where(job.workspace, mount), writable=mount.writable)]
        plain = {key: value for key, value in variables.items() if "\n" not in value and "\r" not in value}
        for key, value in variables.items():
            if key not in plain:
                arguments += ["--env", f"{key}={value}"]
        arguments += ["--env-file", VARIABLES_HERE, *self.settings.extra]
        arguments += ["--entrypoint", job.argv[0], self.settings.image, *job.argv[1:]]
        client = [f"{key}={value}" for key, value in {**_CLIENT_VARIABLES, **dict(self.settings.client_env)}.items()]
        spec = "\0".join([str(self.program), name, str(len(client)), *client, *arguments])
        lines = "".join(f"{key}={value}\n" for key, value in plain.items())
        return _Contained([os.fsencode(spec), lines.encode()], job)

    def _profile(self) -> list[str]:
        who = self.identity or Identity(os.geteuid(), os.getegid())
        options = [
            "--pull",
            "never",
            "--interactive",
            "--init",
            "--network",
            "none",
            "--read-only",
            "--cap-drop",
            "ALL",
        ]
        options += ["--security-opt", "no-new-privileges", "--user", f"{who.uid}:{who.gid}", "--hostname", "sandbox"]
        options += ["--tmpfs", f"/tmp:rw,nosuid,nodev,mode=1777,size={TMP_BYTES}", "--shm-size", str(SHM_BYTES)]
        options += ["--ulimit", "core=0", "--log-driver", "none"]
        if self.program.name == "podman" and os.geteuid() != 0:
            options += ["--userns", "keep-id"]
        return options


def find_engine(settings: ContainerSettings) -> Path:
    """The engine's program. Raises :class:`SandboxError` naming the fix."""
    found = shutil.which(settings.engine, path=_CLIENT_VARIABLES["PATH"])
    if found is None:
        raise SandboxError(f"{settings.engine} is not installed: install it, or choose another sandbox than container")
    return Path(found)


def check_engine(program: Path, settings: ContainerSettings) -> frozenset[str]:
    """The variables that the image brings, each as ``NAME=value``.

    Raises :class:`SandboxError`, naming the fix, unless the engine answers and
    has the image.
    """
    if not settings.image or settings.image.startswith("-"):
        raise SandboxError("the container sandbox has no image: name one that has /bin/sh and python3")
    try:
        _ask(program, settings, "version")
    except SandboxError as why:
        group = "" if os.geteuid() == 0 or program.name == "podman" else ", and let this user use it (group docker)"
        raise SandboxError(f"{settings.engine} does not answer ({why.message}): start its daemon{group}") from None
    try:
        said = _ask(program, settings, "image", "inspect", "--format", "{{json .Config.Env}}", settings.image)
    except SandboxError as why:
        fix = f"'{settings.engine} pull {settings.image}'"
        raise SandboxError(f"the image cannot be used ({why.message}): {fix}") from None
    try:
        return frozenset(map(str, json.loads(said) or ()))
    except (ValueError, TypeError):
        raise SandboxError(f"{settings.engine} is neither docker nor podman: choose another engine") from None


def remove_orphans(program: Path, settings: ContainerSettings) -> int:
    """Remove containers whose worker and supervisor both died; returns how many."""
    try:
        names = _ask(program, settings, "ps", "--all", "--filter", f"label={LABEL}", "--format", "{{.Names}}").split()
        dead = [name for name in names if _is_orphan(name)]
        if dead:
            _ask(program, settings, "rm", "--force", *dead)
    except SandboxError:
        return 0  # the next worker tries again
    return len(dead)


def _is_orphan(name: str) -> bool:
    """Whether the worker that named a container has died: a process id alone could be another's by now."""
    pid, _, rest = name.removeprefix(_PREFIX).partition("-")
    return name.startswith(_PREFIX) and pid.isdecimal() and rest.partition("-")[0] != str(_birth(int(pid)))


def _birth(pid: int) -> int | None:
    process = read_process(pid)
    return process.started if process else None


def _ask(program: Path, settings: ContainerSettings, *arguments: str) -> str:
    """What the engine answers. Raises :class:`SandboxError` with its reason, in one line."""
    try:
        done = subprocess.run(
            [program, *arguments],
            env={**_CLIENT_VARIABLES, **dict(settings.client_env)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CHECK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise SandboxError(f"no answer in {_CHECK_SECONDS} s") from None
    except OSError as why:
        raise SandboxError(f"it cannot be started, {why.strerror}") from None
    if done.returncode != 0:
        raise SandboxError(" ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}")
    return done.stdout


def _bind(source: Path, target: str, *, writable: bool) -> str:
    path = str(source.absolute())
    if any(sign in path for sign in ',"\n'):
        raise UsageError(f"a path with a comma, a quote or a line break cannot be shown in a container: {path!r}")
    return f"type=bind,source={path},target={target}" + ("" if writable else ",readonly")


def _kept(limits: Limits) -> list[str]:
    """The limits that the engine keeps, as its options."""
    options = []
    if limits.memory_mb is not None:
        options += ["--memory", f"{limits.memory_mb}m", "--memory-swap", f"{limits.memory_mb}m"]
    if limits.processes is not None:
        # One more for the engine's init.
        options += ["--pids-limit", str(limits.processes + 1)]
    if limits.file_mb is not None:
        options += ["--ulimit", f"fsize={limits.file_mb * MIB}"]
    if limits.cpu_seconds is not None:
        options += ["--ulimit", f"cpu={math.ceil(limits.cpu_seconds)}"]
    return options


class _Contained(Supervised):
    """A container below its supervisor."""

    def __init__(self, data: Sequence[bytes], job: Job) -> None:
        super().__init__(container_launcher.__file__, data, lambda: _ContainerWatch(job))

    def feed(self, data: bytes, process: subprocess.Popen[bytes]) -> None:
        super().feed(data, process)
        if isinstance(self.watch, _ContainerWatch) and self._reported("memory") is not None:
            self.watch.out_of_memory = True

    def exit_code(self, returncode: int, stderr: str) -> int:
        if code := self._reported("refused "):
            said = " ".join(stderr.split())[-500:] or f"exit code {code}"
            raise SandboxError(f"the container could not be started: {said}")
        return super().exit_code(returncode, stderr)


class _ContainerWatch(Watch):
    """Watches the workspace alone: the engine keeps the rest, and its processes are not below the client."""

    out_of_memory = False

    def __init__(self, job: Job) -> None:
        super().__init__(Limits(workspace_mb=job.limits.workspace_mb), job.workspace)

    def finished(self, cpu_seconds: float) -> Verdict:
        """``memory`` when the engine said so."""
        return "memory" if self.out_of_memory else ""

    def usage(self) -> Usage:
        """Of the workspace; what the client used is not the command's."""
        return Usage(disk_mb=super().usage().disk_mb)
