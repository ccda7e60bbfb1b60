"""The twin itself: an app to call, or a server on loopback."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import Any

from ghcoord.clock import Runtime, SystemRuntime
from ghcoord.twin.actions import Actions
from ghcoord.twin.app import Dispatcher
from ghcoord.twin.auth import EVERYTHING, App, Level, Token, TokenKind
from ghcoord.twin.faults import Faults
from ghcoord.twin.hosting import Hosting, person
from ghcoord.twin.limits import Limiter, TwinLimits
from ghcoord.twin.log import Exchange, Log
from ghcoord.twin.messages import ConnectionLost, Incoming
from ghcoord.twin.repository import Landing, Protection, RefUpdate, Repository
from ghcoord.twin.rest import Reply
from ghcoord.twin.sockets import Listener, incoming_from
from ghcoord.twin.switches import Switches

StartResponse = Callable[..., Any]


class Twin:
    """A GitHub of one's own. Limits are off unless given; time and chance come from ``runtime``.

    Without ``folder`` its repositories live in a temporary one, removed by :meth:`stop`.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        switches: Switches | None = None,
        limits: TwinLimits | None = None,
        runtime: Runtime | None = None,
        record: bool = False,
    ) -> None:
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="ghcoord-twin-"))
        self.runtime = runtime or SystemRuntime()
        self.hosting = Hosting(self.folder, switches or Switches())
        self.limiter = Limiter(limits, self.hosting.switches)
        self.faults = Faults()
        self.exchanges = Log(record=record)
        self.dispatcher = Dispatcher(self.hosting, self.runtime, self.limiter, self.faults, self.exchanges)
        self.place: str | None = None
        """Host and port at which :mod:`ghcoord.twin.inprocess` offers it."""
        self._listener: Listener | None = None
        self._thread: Any = None

    # what it holds

    @property
    def switches(self) -> Switches:
        """How it behaves; may be set while it runs."""
        return self.hosting.switches

    @switches.setter
    def switches(self, value: Switches) -> None:
        self.hosting.switches = value
        self.limiter.switches = value

    def user(
        self,
        login: str,
        token: str | None = None,
        *,
        kind: TokenKind = "classic",
        permissions: Mapping[str, Level] | None = None,
        repositories: Iterable[str] | None = None,
        expires: float | None = None,
    ) -> str:
        """An account and a new token of it, by default one that may all the account may."""
        value = token or f"ghp_twin{self.hosting.next_number()}{login}"
        only = None if repositories is None else frozenset(each.lower() for each in repositories)
        allowed = EVERYTHING if permissions is None else permissions
        self.hosting.accounts.add(Token(value, login, kind, dict(allowed), only, expires))
        return value

    def revoke(self, token: str) -> None:
        """Make a token invalid."""
        self.hosting.accounts.tokens.pop(token, None)

    def organization(self, login: str, *admins: str) -> None:
        """An organization, in which ``admins`` may create repositories."""
        self.hosting.accounts.user(login, "Organization")
        for admin in admins:
            self.hosting.grant(admin, f"{login}/*", EVERYTHING)

    def app_installation(
        self,
        number: int,
        public_key: str,
        *repositories: str,
        installation: int = 1,
        permissions: Mapping[str, Level] | None = None,
    ) -> str:
        """A GitHub App with the PEM public key, installed on those repositories; returns the login it acts as."""
        login = f"app{number}[bot]"
        allowed: dict[str, Level] = dict(permissions or {"contents": "write", "metadata": "read"})
        names = frozenset(each.lower() for each in repositories)
        self.hosting.accounts.user(login, "Bot")
        for name in names:
            self.hosting.grant(login, name, allowed)
        self.hosting.accounts.apps[number] = App(number, public_key, installation, login, allowed, names)
        return login

    def repository(
        self,
        owner: str,
        name: str,
        *,
        empty: bool = True,
        private: bool = False,
        archived: bool = False,
        protected: Mapping[str, Protection] | None = None,
    ) -> Repository:
        """A repository; unless ``empty`` with a first commit on ``main``. A folder that has one is taken up."""
        made = self.hosting.create(owner, name, private=private)
        if not empty and made.is_empty:
            now = self.dispatcher.now()
            first = made.create_commit(made.edit_tree(None, {}), [], "Initial commit", person(owner, now))
            made.update_refs([RefUpdate("refs/heads/main", None, first)], login=owner, via="rest", now=now)
        made.archived = archived
        made.protected.update(protected or {})
        return made

    def grant(self, login: str, repository: str, **permissions: Level) -> None:
        """What an account may in ``owner/name``, such as ``contents="write"``."""
        self.hosting.grant(login, repository, {"metadata": "read", **permissions})

    @property
    def actions(self) -> Actions:
        """Its workflows and their runs; ``actions.on_dispatch`` stands for the runners."""
        return self.hosting.actions

    # what was asked of it

    @property
    def log(self) -> list[Exchange]:
        """All requests so far, oldest first."""
        return self.exchanges.entries

    def requests(self, since: float | int = 0, **filters: Any) -> list[Exchange]:
        """Requests that fit; see :meth:`ghcoord.twin.log.Log.requests`."""
        return self.exchanges.requests(since, **filters)

    def commits(self, since: float = 0.0) -> list[Landing]:
        """Atomic steps of refs that were applied, each by one request or push."""
        found = [each for one in self.hosting.repositories.values() for each in one.landings if each.time >= since]
        return sorted(found, key=lambda one: one.time)

    @property
    def violations(self) -> list[tuple[float, str, str]]:
        """Requests sent though a limit had refused the account: when, by whom, which limit."""
        return self.limiter.violations

    @property
    def refusals(self) -> int:
        """How many requests limits refused."""
        return len(self.limiter.refusals)

    def settle(self) -> None:
        """Let all late requests take effect."""
        self.dispatcher.settle()

    # being called

    def handle(self, incoming: Incoming) -> Reply:
        """Answer a request without sockets. Raises :class:`ConnectionLost`."""
        return self.dispatcher.handle(incoming)

    def app(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI application. Raises :class:`ConnectionLost`, also in the middle of a body."""
        reply = self.handle(incoming_from(environ))
        body = reply.payload()
        headers = {"content-type": reply.content_type, **reply.headers}
        if reply.status in (204, 304):
            del headers["content-type"]
        else:
            headers["content-length"] = str(len(body))
        start_response(f"{reply.status} .", list(headers.items()))
        return _cut(body) if reply.truncated else [body]

    @property
    def url(self) -> str:
        """Where it listens: REST below ``/api/v3``, GraphQL at ``/api/graphql``, git at ``/OWNER/NAME.git``."""
        if self._listener is not None:
            return f"http://127.0.0.1:{self._listener.port}"
        return f"http://{self.place or 'twin.local'}"

    def start(self, port: int = 0) -> None:
        """Listen on loopback, on a free port by default."""
        self._listener = Listener(self.app, port)
        self._thread = SystemRuntime().spawn(self._listener.serve, "ghcoord-twin")

    def stop(self) -> None:
        """Stop listening, and remove what was temporary."""
        if self._listener is not None:
            self._listener.stop()
            self._thread.join()
            self._listener = None
        if self._own_folder:
            rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Twin:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _cut(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionLost
