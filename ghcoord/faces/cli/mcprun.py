"""``ghcoord mcp`` as it runs: the hub, the worker of this process, the transport, and how it all ends."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ghcoord.errors import GhcoordError, NoHub, Unavailable, UsageError
from ghcoord.faces.cli.context import hub_url, open_hub, settings, start_tracing, variable
from ghcoord.faces.cli.daemon import log_lines, make_worker, on_signals
from ghcoord.faces.cli.output import note

if TYPE_CHECKING:
    from ghcoord.clock import Event
    from ghcoord.config import Settings
    from ghcoord.faces.mcp.clients.base import WorkerClient
    from ghcoord.faces.mcp.serve import Stop
    from ghcoord.faces.mcp.server import McpServer
    from ghcoord.hub import Hub

NEEDS = ("mcp", "jwt", "uvicorn")
"""What the extra brings."""

LEAVE_IN = 10.0
"""Seconds that the worker gets to save its sessions when the client has gone; usually it needs a part of one.

Clients send SIGTERM after two seconds, which changes nothing, and some kill a server after four.
"""

PATIENCE = 30.0
"""Seconds that a call waits for a server's limits: clients give up after 60."""

GRACE = 0.5
"""Seconds between asking a call's processes to end and ending them, unless the settings say otherwise."""

Log = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What concerns the worker of this process."""

    max_sessions: int | None
    slots: int | None
    session_ttl: float | None
    sandbox: str | None
    unsafe_no_sandbox: bool


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What concerns HTTP."""

    address: str
    no_auth: bool
    token_file: Path | None
    jwks: Path | None
    issuer: str | None
    public_url: str | None
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    max_sessions_per_user: int | None


def run_server(
    *,
    toolsets: Sequence[str] | None,
    read_only: bool,
    tool_names: str,
    user: str | None,
    workspace_id: str | None,
    audit_log: str | None,
    log_level: str,
    worker: WorkerOptions | None,
    http: HttpOptions | None,
) -> None:
    """Serve until the client or a signal ends it. ``worker`` is ``None`` for the hub's workers, ``http`` for stdio.

    Raises ``UsageError``, and ``Unavailable`` when it cannot start or its worker ends by itself.
    """
    check_extra()
    start_tracing()
    from ghcoord.faces.mcp.audited import Audited
    from ghcoord.faces.mcp.auditlog import open_sink
    from ghcoord.faces.mcp.catalog import parse_toolsets
    from ghcoord.faces.mcp.serve import Stop
    from ghcoord.faces.mcp.server import build_server

    chosen = None if toolsets is None else parse_toolsets(toolsets)
    serve = transport(http)
    stop = Stop()
    with ExitStack() as stack:
        with starting():
            hub = stack.enter_context(
                own_hub() if worker is not None and not is_named() else open_hub(given=impatient())
            )
            log = log_lines(hub, log_level)

            def warn(text: str) -> None:
                log("warn", text)

            audit = Audited(hub, None if audit_log is None else open_sink(audit_log, warn), warn)
            stack.callback(audit.close)
            hurry = hub.runtime.event()
            stack.enter_context(on_signals(hub.runtime, stop, hurry.set))
            server = build_server(
                hub,
                workers=stack.enter_context(worker_client(hub, worker, stop, hurry, log)),
                audit=audit,
                toolsets=chosen,
                read_only=read_only,
                tool_names=tool_names,
                user=user,
                workspace=workspace_id,
                user_sessions=None if http is None else user_sessions(hub, worker, http.max_sessions_per_user),
                log=log,
            )
        serve(server, stop, log)


def check_extra() -> None:
    """Raise ``Unavailable`` unless the extra is installed."""
    if any(importlib.util.find_spec(name) is None for name in NEEDS):
        raise Unavailable("the MCP server needs more than is installed: pip install 'ghcoord[mcp,worker]'")


@contextmanager
def starting() -> Iterator[None]:
    """Whatever keeps the server from starting, but for the caller's mistakes, is ``Unavailable`` (reference: co:56)."""
    try:
        yield
    except (UsageError, Unavailable):
        raise
    except GhcoordError as error:
        raise Unavailable(f"the MCP server cannot start: {error.message}", code=error.code) from error


# -- the hub


def is_named() -> bool:
    """Whether anything names a hub."""
    try:
        hub_url()
    except NoHub:
        return False
    return True


def impatient() -> Settings:
    """The settings, but that calls wait no longer for the hub than clients do for calls, unless they say so."""
    given = settings()
    unset = given.budget.patience == type(given.budget)().patience
    budget = replace(given.budget, patience=PATIENCE) if unset else given.budget
    return replace(given, budget=budget, locks=replace(given.locks, retry_attempts=1))


@contextmanager
def own_hub() -> Iterator[Hub]:
    """This user's own hub, made if there is none, for those who have named no hub. Says where it is."""
    from ghcoord.bootstrap import create
    from ghcoord.faces.cli.context import say_wait

    path = own_hub_path()
    with create(path, impatient(), on_wait=say_wait)[0] as hub:
        note(f"no hub was named: using your own, {path}; name one with --hub or GHCOORD_HUB")
        yield hub


def own_hub_path() -> Path:
    """Where this user's own hub is."""
    state = variable("XDG_STATE_HOME")
    return (Path(state) if state else Path("~/.local/state").expanduser()).absolute() / "ghcoord" / "own-hub.git"


# -- who runs sessions


@contextmanager
def worker_client(
    hub: Hub, worker: WorkerOptions | None, stop: Callable[[], None], hurry: Event, log: Log
) -> Iterator[WorkerClient]:
    """The way to sessions: here, as a worker of the hub, or on the hub's workers.

    ``stop`` is called when the worker ends; once ``hurry`` is set nobody waits for sessions to be saved.
    """
    from ghcoord.faces.mcp.clients.remote import HubWorkerClient

    client: WorkerClient
    if worker is None:
        client = HubWorkerClient(hub)
        try:
            yield client
        finally:
            client.close()
        return
    from ghcoord.faces.mcp.clients.local import LocalWorkerClient
    from ghcoord.faces.mcp.hosting import hosting

    daemon = make_worker(
        hub,
        slots=worker.slots,
        max_sessions=worker.max_sessions,
        stale_after=worker.session_ttl,
        sandbox=worker.sandbox,
        unsafe_no_sandbox=worker.unsafe_no_sandbox,
        grace=hub.settings.worker.grace or GRACE,
        log=log,
    )
    named = (worker.sandbox or hub.settings.sandbox.driver) != "auto"
    tier = str(daemon.sandbox.tier) if named and daemon.sandbox is not None else "full"
    if daemon.sandbox is not None and str(daemon.sandbox.tier) not in (tier, "full"):
        note(f"no session can be made: {_weaker(hub, daemon.sandbox.name)}")
    with hosting(daemon, on_end=stop, leave_in=LEAVE_IN, hurry=hurry):
        client = LocalWorkerClient(daemon.sessions, sandbox=tier, fetches=worker.slots == 0)
        try:
            yield client
        finally:
            client.close()


def _weaker(hub: Hub, driver: str) -> str:
    """Why the sandbox is only ``driver``, and what helps."""
    from ghcoord.execution.sandbox.open import probe_all

    reason, fix = next((one.reason, one.fix) for name, one in probe_all(hub.runtime) if name == "bwrap")
    accept = "--sandbox landlock" if driver == "landlock" else f"--sandbox {driver} --unsafe-no-sandbox"
    return f"{reason}, and {driver} is weaker: {fix}, or start with {accept} to accept it"


def user_sessions(hub: Hub, worker: WorkerOptions | None, told: int | None) -> Callable[[], int]:
    """How many sessions a user may have at a time: as ``told``, else half of what this worker, or the hub's, take."""
    from ghcoord.faces.mcp.quota import half

    if told is not None:
        return lambda: told
    if worker is not None:
        here = worker.max_sessions or hub.settings.worker.max_sessions
        return lambda: half(here)
    return lambda: half(sum(one.max_sessions for one in hub.workers.list() if one.alive))


# -- the transport


def transport(http: HttpOptions | None) -> Callable[[McpServer, Stop, Log], None]:
    """What serves until the client has gone, or for HTTP until it is told to stop.

    Raises ``UsageError`` for an address or tokens that are not in order.
    """
    from ghcoord.faces.mcp.serve import serve_stdio

    if http is None:
        if sys.stdin.isatty():
            note("this speaks MCP on standard input and output, for a client that starts it; Ctrl-C ends it")
        return lambda server, stop, log: serve_stdio(server, stop)
    from ghcoord.bootstrap import token_file
    from ghcoord.clock import SystemRuntime
    from ghcoord.faces.mcp.http.choose import choose_auth
    from ghcoord.faces.mcp.http.serve import serve_http
    from ghcoord.faces.mcp.http.tokens import TokenFile
    from ghcoord.faces.mcp.http.urls import parse_address

    host, port = parse_address(http.address)
    auth = choose_auth(
        SystemRuntime(),
        usual_file=token_file,
        no_auth=http.no_auth,
        token_file=http.token_file,
        jwks=http.jwks,
        issuer=http.issuer,
        complain=note,
    )

    def started(url: str) -> None:
        note(f"serving on {url}")
        if isinstance(auth.verifier, TokenFile) and not auth.verifier.serves(url):
            where = ["--token-file", str(http.token_file)] if http.token_file is not None else []
            make = shlex.join(["ghcoord", "mcp", "token", "create", "--user", "NAME", "--resource", url, *where])
            note(f"no token is good for it yet: {make}")

    def serve(server: McpServer, stop: Stop, log: Log) -> None:
        serve_http(
            server,
            host=host,
            port=port,
            auth=auth,
            allowed_hosts=http.allowed_hosts,
            allowed_origins=http.allowed_origins,
            public_url=http.public_url,
            log=log,
            started=started,
            stop=stop,
        )

    return serve
