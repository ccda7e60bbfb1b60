"""Install packages into a session's environment: uv, inside the sandbox, through the relay.

Installing runs the environment's own interpreter and what packages put into
it (``.pth`` files, build scripts), so nothing of it happens outside.  The
cache is the session's own: what one session puts there, no other one reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution import process
from ghcoord.execution.environment.addresses import Resolve, resolve
from ghcoord.execution.environment.certificates import find_certificates
from ghcoord.execution.environment.failures import explain
from ghcoord.execution.environment.lock import ENVIRONMENT, read_lock
from ghcoord.execution.environment.make import make_environment
from ghcoord.execution.environment.network import open_network
from ghcoord.execution.environment.requirements import check_requirements
from ghcoord.execution.environment.space import Space, held_to
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.job import Mount
from ghcoord.execution.tools.executing import cap_of, stop_error, timeout_of
from ghcoord.model.limits import Limits
from ghcoord.model.tool import ToolContext

if TYPE_CHECKING:
    from ghcoord.execution.tools.kit import Kit

UV_MISSING = "the worker has no uv, which installs packages: pip install 'ghcoord[worker]' there"

_ENV = {
    "UV_CONCURRENT_DOWNLOADS": "8",
    "UV_CONCURRENT_BUILDS": "2",
    "UV_HTTP_TIMEOUT": "30",
    "UV_HTTP_RETRIES": "2",
}
"""Fewer connections than the relay takes at a time; nothing of the session's variables."""

_OPTIONS = (
    *("--no-config", "--no-python-downloads", "--link-mode", "copy", "--no-progress", "--color", "never"),
    *("--keyring-provider", "disabled"),
)


@dataclass(frozen=True, slots=True)
class InstallOutcome:
    """How an installation ended."""

    installed: tuple[str, ...]
    """``name==version`` of what is new or has another version than before."""
    completed: Completed
    """How uv ended; what it reports is in ``stderr``."""
    lock: tuple[str, ...] = ()
    """``name==version`` of everything in the environment now."""
    error: str = ""
    """Why it failed, in a sentence; empty on success."""


def install(
    kit: Kit,
    ctx: ToolContext,
    requirements: Sequence[str],
    *,
    no_deps: bool = False,
    only_binary: bool = True,
    ask: Resolve = resolve,
) -> InstallOutcome:
    """Install ``requirements`` into the environment of ``ctx.workspace``, which is made if need be.

    ``no_deps`` is for a lock: nothing but the requirements, and from the
    session's cache without any network where they all are.  With
    ``only_binary`` nothing is built.  Raises :class:`UsageError` for
    requirements that are not taken, and where the worker or its sandbox cannot
    install; :class:`SandboxError` when the sandbox could not be set up.
    """
    wanted = check_requirements(requirements)
    sandbox = kit.sandbox
    if sandbox is None:
        raise UsageError("the worker has no sandbox, in which packages are installed")
    program = find_uv()
    if program is None:
        raise UsageError(UV_MISSING)
    reach = kit.packages.reach.also(ctx.allow)
    make_environment(ctx.workspace, sandbox, kit.runtime)
    limits = ctx.limits.under(kit.limits)
    most = None if limits.workspace_mb is None else limits.workspace_mb * 1024 * 1024
    refused: list[str] = []
    failed: list[str] = []
    with Files(ctx.workspace, sandbox.identity) as files, held_to(partial(_keep, ctx), most, kit.runtime) as cache:
        before = read_lock(files)
        uv = _Uv(kit, ctx, limits, sandbox, program, cache, wanted, no_deps, only_binary)
        done = uv.run_offline() if no_deps else None
        if done is None or (done.exit_code and not done.stopped):
            with open_network(sandbox, ctx.workspace, reach, kit.runtime, ask=ask) as network:
                done = uv.run(network.argv(uv.command()), network.mounts, trusted=find_certificates())
            if network.relay is not None:
                refused, failed = network.relay.refused, network.relay.failed
        after = read_lock(files)
    if cache.over:
        error = f"the downloaded packages take more than the limit workspace_mb allows: {limits.workspace_mb} MiB"
    else:
        error = stop_error(done, ctx) or explain(done, only_binary=only_binary, refused=refused, failed=failed)
    return InstallOutcome(tuple(sorted(set(after) - set(before))), done, after, error)


def _keep(ctx: ToolContext) -> Path:
    try:
        return ctx.keep("uv")
    except OSError as why:
        raise SandboxError(f"the folder for downloaded packages could not be made: {why.strerror}") from why


@lru_cache(maxsize=1)
def find_uv() -> Path | None:
    """The program of the package ``uv``; ``None`` without it."""
    try:
        import uv

        return Path(uv.find_uv_bin()).resolve()
    except (ImportError, FileNotFoundError):
        return None


@dataclass(frozen=True, slots=True)
class _Uv:
    """One ``uv pip install``, to be run once or twice."""

    kit: Kit
    ctx: ToolContext
    limits: Limits
    sandbox: Sandbox
    program: Path
    cache: Space
    requirements: Sequence[str]
    no_deps: bool
    only_binary: bool

    def mounts(self) -> tuple[Mount, Mount]:
        return (Mount(self.program, "uv"), Mount(self.cache.folder, "cache", writable=True))

    def command(self) -> list[str]:
        workspace = self.ctx.workspace
        program, cache = (self.sandbox.where(workspace, mount) for mount in self.mounts())
        python = f"{self.sandbox.inside(workspace)}/{ENVIRONMENT}/bin/python"
        argv = [program, "pip", "install", *_OPTIONS, "--python", python, "--cache-dir", cache]
        argv += ["--default-index", self.kit.packages.index]
        if self.no_deps:
            argv.append("--no-deps")
        if self.only_binary:
            argv += ["--only-binary", ":all:"]
        return [*argv, "--", *self.requirements]

    def run_offline(self) -> Completed:
        """With what the cache has. Its complaints about what is not there are nobody's business."""
        command = self.command()
        command.insert(command.index("--"), "--offline")
        return self.run(command, log=False)

    def run(
        self, argv: Sequence[str], mounts: tuple[Mount, ...] = (), *, trusted: Path | None = None, log: bool = True
    ) -> Completed:
        kit, ctx = self.kit, self.ctx
        env = dict(_ENV)
        if trusted is not None:
            certificates = Mount(trusted, "certificates.pem")
            env["SSL_CERT_FILE"] = self.sandbox.where(ctx.workspace, certificates)
            mounts = (*mounts, certificates)
        return process.run(
            self.sandbox,
            argv,
            workspace=ctx.workspace,
            runtime=kit.runtime,
            env=env,
            timeout=timeout_of(ctx),
            grace=kit.grace,
            cap=cap_of(kit, self.limits),
            limits=self.limits,
            mounts=(*self.mounts(), *mounts),
            cancelled=lambda: self.cache.over or ctx.cancelled(),
            log=ctx.log if log else lambda stream, text: None,
        )
