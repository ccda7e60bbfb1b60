"""One account's access to one repository's API: sends, counts, judges. Sends nothing twice."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ghcoord.clock import Runtime
from ghcoord.errors import Denied, Throttled, Unavailable, Unsupported
from ghcoord.store.budget.base import Budget, Kind
from ghcoord.store.github.accounts import Accounts
from ghcoord.store.github.answers import Asked, judge, judge_graphql, no_answer
from ghcoord.store.github.api import Answer, GraphQLRefused, Repo
from ghcoord.store.github.credentials import Credentials, fingerprint
from ghcoord.store.github.refusals import server_date
from ghcoord.store.github.servertime import ServerClock
from ghcoord.store.github.wire import Raw, Wire, carry

REDIRECTS = 3
"""Redirects that a read follows; GitHub needs one for a renamed repository."""


_LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?:\[bot\])?")


class GithubApi:
    """See :class:`ghcoord.store.github.api.Api`. ``accounts`` is the file where logins are remembered."""

    def __init__(
        self,
        repo: Repo,
        credentials: Credentials,
        budget: Budget,
        runtime: Runtime,
        *,
        timeout: float = 30.0,
        accounts: Path | None = None,
    ) -> None:
        self._repo = repo
        self._credentials = credentials
        self._budget = budget
        self._runtime = runtime
        self._wire = Wire(repo, credentials.token, runtime, timeout=timeout)
        self._clock = ServerClock()
        self._accounts = Accounts(accounts)
        self._lock = threading.Lock()
        self._waits = 0
        self._login = self._accounts.login(repo.place, credentials.identity())
        if self._login is not None:
            self._name_account(self._login)

    @property
    def repo(self) -> Repo:
        return self._repo

    @property
    def budget(self) -> Budget:
        return self._budget

    @property
    def credentials(self) -> Credentials:
        """Where the token is from."""
        return self._credentials

    def rest(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        kind: Kind = "read",
        headers: Mapping[str, str] | None = None,
        expect: Collection[int] = (),
    ) -> Answer:
        """One request; see :meth:`Api.rest`. A read follows the redirect of a renamed repository."""
        asked = Asked(self._repo, verb, path, kind)
        for _ in range(REDIRECTS + 1):
            answer = self._answer(asked, path, body, headers)
            if answer.status in expect or not 300 <= answer.status < 400:
                break
            target = self._redirect(answer)
            if target is None or verb != "GET":
                self._moved(target)
            path = target or path
        if answer.status not in expect and (error := judge(asked, answer, self._runtime.now(), self._waits)):
            raise self._heard(error)
        self._waits = 0
        return answer

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None, *, kind: Kind = "read") -> dict[str, Any]:
        """One query's ``data``; see :meth:`Api.graphql`."""
        asked = Asked(self._repo, "POST", self._repo.graphql, kind, graphql=True)
        answer = self._answer(asked, self._repo.graphql, {"query": query, "variables": dict(variables or {})}, None)
        now = self._runtime.now()
        error = judge(asked, answer, now, self._waits) or judge_graphql(asked, answer, now, self._waits)
        if error is not None:
            raise self._heard(error)
        self._waits = 0
        data: dict[str, Any] = answer.body["data"]
        return data

    def server_time(self) -> float:
        """The server's clock; asks ``GET /rate_limit``, which costs nothing, if no answer came yet.

        Where answers have no ``Date`` it is this machine's: what is committed is
        protected by fencing tokens, and clocks only say when to give up on others.
        """
        if not self._clock.told and self._clock.offset() is None:
            self.rest("GET", "/rate_limit", kind="poll", expect=(404,))
        offset = self._clock.offset()
        return self._runtime.now() if offset is None else self._runtime.monotonic() + offset

    def login(self) -> str:
        """Who the token belongs to."""
        if self._login is not None:
            return self._login
        try:
            user = self.graphql("query{viewer{login}}").get("viewer")
        except (GraphQLRefused, Unsupported):
            user = self.rest("GET", "/user").body
        login = user.get("login") if isinstance(user, Mapping) else None
        if not isinstance(login, str) or not _LOGIN.fullmatch(login):
            raise Unavailable(f"{self._repo.host} does not tell whose the token is: try again later")
        self.note_login(login)
        return login

    def note_login(self, login: str) -> None:
        """The driver's query told who the token belongs to."""
        with self._lock:
            if login == self._login or not _LOGIN.fullmatch(login):
                return
            self._login = login
        self._accounts.remember(self._repo.place, self._credentials.identity(), login)
        self._name_account(login)

    def close(self) -> None:
        self._wire.close()

    def __repr__(self) -> str:
        return f"GithubApi({self._repo.url!r})"

    # -- inside

    def _name_account(self, login: str) -> None:
        rename = getattr(self._budget, "rename", None)
        if rename is not None:
            rename(f"{self._repo.place}/{login}")

    def _answer(self, asked: Asked, path: str, body: Any, headers: Mapping[str, str] | None) -> Answer:
        """One request, and a second one where the first was not accepted and there is another token."""
        used = fingerprint(self._credentials.token())
        answer = self._once(asked, path, body, headers)
        if answer.status != 401:
            return answer
        if used == fingerprint(self._credentials.token()) and not self._credentials.refresh():
            return answer
        return self._once(asked, path, body, headers)

    def _once(self, asked: Asked, path: str, body: Any, headers: Mapping[str, str] | None) -> Answer:
        self._budget.admit(asked.kind)
        before = self._runtime.monotonic()
        raw = carry(lambda: self._wire.send(asked.verb, path, body, headers), asked, self._runtime)
        after = self._runtime.monotonic()
        own = raw.status < 400 or "x-github-request-id" in raw.headers  # a proxy's page has the proxy's date
        self._clock.hear(server_date(raw.headers) if own else None, before, after)
        resource = raw.headers.get("x-ratelimit-resource", "graphql" if asked.graphql else "core")
        self._budget.note(raw.status, raw.headers, resource=resource)
        return Answer(raw.status, raw.headers, self._parse(asked, raw, headers or {}))

    def _parse(self, asked: Asked, raw: Raw, headers: Mapping[str, str]) -> Any:
        """The body; bytes where something else than JSON was asked for. Raises for a success without its body."""
        if raw.status in (204, 205, 304) or asked.verb == "HEAD":
            return None
        success = 200 <= raw.status < 300
        accepts = next((value for name, value in headers.items() if name.lower() == "accept"), "json")
        if success and "json" not in accepts and "json" not in raw.headers.get("content-type", ""):
            return raw.content
        try:
            return json.loads(raw.content)
        except (ValueError, RecursionError):
            if not success:
                return None
        if raw.status == 202 and not raw.content:
            return None
        raise no_answer(asked, "the answer was cut off or is no JSON")

    def _redirect(self, answer: Answer) -> str | None:
        """Where a redirect leads; ``None`` when not to the same API, which alone may see the token."""
        location = answer.headers.get("location", "")
        base = urlsplit(self._repo.api)
        try:
            parts = urlsplit(location)
            same = (parts.scheme, parts.netloc.lower()) == (base.scheme, base.netloc.lower())
        except ValueError:
            return None
        return location if same and parts.path.startswith(base.path + "/") else None

    def _moved(self, target: str | None) -> None:
        """Raise ``Denied``: a write to a repository that was renamed, or an API that is elsewhere."""
        name = None
        if target is not None:
            base = self._repo.api
            path = "/".join(target.removeprefix(base).split("/")[:3])
            body = self._answer(Asked(self._repo, "GET", path, "read"), base + path, None, None).body
            name = body.get("full_name") if isinstance(body, Mapping) else None
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
            raise Denied(f"{self._repo.host} sends requests elsewhere: set GHCOORD_GITHUB_API to where its API is")
        here = "github:" if self._repo.host == "github.com" else f"github://{self._repo.host}/"
        raise Denied(f"{self._repo.url} was renamed to {name}: use --hub {here}{name}")

    def _heard(self, error: Exception) -> Exception:
        """Take note of a limit."""
        if isinstance(error, Throttled):
            self._waits += 1
            self._budget.block(error.until, error.message)
        return error
