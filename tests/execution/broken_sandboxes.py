"""Sandboxes that are wrong on purpose: each breaks one promise of the port.

They prove that the contract catches what it is for.  They run the command
below bubblewrap or as it is, by a launch that knows nothing of trees.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ghcoord.execution.sandbox.base import SYSTEM_PATH, Identity, Launch, check_strings, prepare_workspace
from ghcoord.execution.sandbox.job import Job, LimitSupport, Mount

SHOWS = "--unshare-all --die-with-parent --new-session --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp".split()


class PlainLaunch(Launch):
    """A process in a group of its own."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self.status_fd, write = os.pipe()
        self.pass_fds = (write,)
        self.argv, self.env = ["/usr/bin/env", "-C", str(cwd), *argv], env

    def feed(self, data: bytes, process: subprocess.Popen[bytes]) -> None:
        """Nothing is reported."""

    def terminate(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGTERM)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)

    def gone(self, timeout: float) -> bool:
        return True

    def exit_code(self, returncode: int, stderr: str) -> int:
        return returncode if returncode >= 0 else 128 - returncode

    def close(self) -> None:
        os.close(self.status_fd)


@dataclass
class Broken:
    """Says of itself that it is full. ``below`` is what the command is started with."""

    below: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "TMPDIR": "/tmp"})
    name: str = "broken"
    tier: str = "full"
    identity: Identity | None = None
    python: str | None = "/usr/bin/python3"
    limits: LimitSupport = field(
        default_factory=lambda: LimitSupport("hard", "hard", "hard", "hard", "hard", "nothing")
    )

    def inside(self, workspace: Path) -> str:
        return str(workspace)

    def where(self, workspace: Path, mount: Mount) -> str:
        return str(mount.source)

    def command(self, job: Job) -> Launch:
        check_strings(job.argv, job.env)
        prepare_workspace(job.workspace, self.identity)
        variables = {**self.env, "HOME": str(job.workspace), **job.env}
        writable = ["--bind", str(job.workspace), str(job.workspace), "--chdir", str(job.workspace)]
        below = ["/usr/bin/bwrap", *self.below, *writable, "--"] if self.below else []
        return PlainLaunch([*below, *job.argv], variables, job.workspace)


def leaves_daemons() -> Broken:
    """Ends the group of the command, and no more."""
    return Broken()


def leaks_environment() -> Broken:
    """Passes on what the worker has."""
    return Broken(env={**os.environ, "TMPDIR": "/tmp"})


def root_is_writable() -> Broken:
    """Shows the host's files, to be written."""
    return Broken(below=[*(each if each != "--ro-bind" else "--bind" for each in SHOWS)][:-2])


def root_is_readable() -> Broken:
    """Shows the host's files, to be read."""
    return Broken(below=SHOWS[:-2])


def shares_the_network() -> Broken:
    """Has namespaces of everything but the network."""
    return Broken(below=[*SHOWS, "--share-net"])


def shares_processes() -> Broken:
    """Has no namespace of processes."""
    return Broken(below=["--unshare-net", "--unshare-user", "--ro-bind", "/", "/", "--dev", "/dev"])


class LeakyLaunch(PlainLaunch):
    """Keeps a descriptor for ever."""

    def close(self) -> None:
        os.dup(self.status_fd)
        super().close()


class Leaky(Broken):
    """Its launches keep a descriptor."""

    def command(self, job: Job) -> Launch:
        launch = super().command(job)
        launch.__class__ = LeakyLaunch
        return launch


class LyingLaunch(PlainLaunch):
    """Takes every end for a success."""

    def exit_code(self, returncode: int, stderr: str) -> int:
        return 0


class Lying(Broken):
    """Its launches say that all went well."""

    def command(self, job: Job) -> Launch:
        launch = super().command(job)
        launch.__class__ = LyingLaunch
        return launch


class Shared(Broken):
    """Leaves the workspace open, as it finds it."""

    def command(self, job: Job) -> Launch:
        launch = super().command(job)
        job.workspace.chmod(0o777)
        return launch


class ArgumentsShow(Broken):
    """Gives the command its variables by ``env``, where everybody sees them."""

    def command(self, job: Job) -> Launch:
        launch = super().command(job)
        given = [f"{key}={value}" for key, value in job.env.items()]
        launch.argv = [*launch.argv[:3], "/bin/sh", "-c", '"$@"', "sh", "/usr/bin/env", *given, *launch.argv[3:]]
        return launch


def clean_up(base: Path) -> None:
    """End what the broken ones leave: processes whose folder is below ``base``."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder.joinpath("cwd").readlink()).startswith(f"{base}/"):
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            continue
