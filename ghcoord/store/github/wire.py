"""One HTTP request over PyGithub's Requester: sent once, judged by nobody here.

Requester would follow a 301 with the same request, sleep and ask again after a
202, and log answers.  It never sees one: it talks to an exchange of ours that
keeps the answer and shows it an empty 200.
"""

from __future__ import annotations

import base64
import contextlib
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from github.Auth import Auth
from github.Requester import HTTPRequestsConnectionClass, HTTPSRequestsConnectionClass, Requester
from requests import Response

from ghcoord.clock import Runtime
from ghcoord.errors import GhcoordError
from ghcoord.store.github.answers import Asked, judge_failure
from ghcoord.store.github.api import Repo
from ghcoord.store.github.url import is_loopback
from ghcoord.version import __version__

API_VERSION = "2022-11-28"
ACCEPT = "application/vnd.github+json"
CONNECT_TIMEOUT = 10.0
"""Seconds for a connection to be there; shorter than that for an answer, since nothing was sent yet."""

IDLE = 25.0
"""Seconds after which a connection is not used again: servers and middleboxes drop idle ones without a word."""


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer as it came: header names in lower case, ``content`` decoded from its transfer encodings."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class TokenAuth(Auth):
    """Whatever token there is when a request leaves; ``basic`` as git sends it. Shows it to nobody else."""

    def __init__(self, token: Callable[[], str], basic: bool) -> None:
        self._read = token
        self._basic = basic

    @property
    def token_type(self) -> str:
        return "Basic" if self._basic else "Bearer"

    @property
    def token(self) -> str:
        if self._basic:
            return base64.b64encode(f"x-access-token:{self._read()}".encode()).decode()
        return self._read()

    @property
    def _masked_token(self) -> str:
        return "(token removed)"

    def __repr__(self) -> str:
        return "TokenAuth(…)"


class _Shell:
    """What Requester is shown of every answer."""

    status = 200

    def read(self) -> str:
        return ""

    def getheaders(self) -> tuple[()]:
        return ()


class _Line:
    """A Requester with its connection; used by one thread at a time."""

    def __init__(self, repo: Repo, auth: TokenAuth, timeout: float) -> None:
        self._requester = Requester(
            auth=auth,
            base_url=repo.api,
            timeout=round(timeout),
            user_agent=f"ghcoord/{__version__}",
            per_page=100,
            verify=True,
            retry=None,
            pool_size=1,
            seconds_between_requests=0,
            seconds_between_writes=0,
            api_version=API_VERSION,
        )
        secure = self._requester.scheme == "https"
        make = HTTPSRequestsConnectionClass if secure else HTTPRequestsConnectionClass
        host = self._requester.hostname
        self._connection = make(f"[{host}]" if ":" in host else host, urlsplit(repo.api).port, retry=None, pool_size=1)
        self._connection.timeout = (CONNECT_TIMEOUT, timeout)  # type: ignore[assignment]  # what requests takes
        self._connection.session.trust_env = not is_loopback(host)
        self._answer: Response | None = None
        self.used_at = 0.0

    def request(self, verb: str, url: str, body: str | None, headers: dict[str, str], stream: bool = False) -> None:
        """As Requester calls it."""
        self._connection.request(verb, url, body, headers, stream)  # type: ignore[arg-type]  # None or str, both work

    def getresponse(self) -> _Shell:
        """As Requester calls it."""
        self._answer = self._connection.getresponse().response
        return _Shell()

    def send(self, verb: str, path: str, body: Any, headers: Mapping[str, str]) -> Raw:
        self._answer = None
        self._requester.requestJson(
            verb,
            path,
            headers={"Accept": ACCEPT, **headers},
            input=body,
            cnx=self,  # type: ignore[arg-type]  # all that is asked of a connection
        )
        answer = self._answer
        if answer is None:
            raise ValueError("nothing was sent")
        return Raw(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, answer.content)

    def close(self) -> None:
        self._connection.close()


def carry(send: Callable[[], Raw], asked: Asked, runtime: Runtime) -> Raw:
    """What ``send`` returns; its exceptions become ours, and nothing of a foreign one hangs on those.

    Not even in a local variable: it may hold headers, and so the token.
    """
    handled = sys.exception()
    try:
        return send()
    except GhcoordError:
        raise
    except Exception as failure:
        error = judge_failure(asked, failure, runtime.now(), handled)
    raise error


class Wire:
    """Requests to one API in one name. Thread-safe: a connection for each request under way, kept for the next.

    ``basic`` authenticates as git does.
    """

    def __init__(
        self, repo: Repo, token: Callable[[], str], runtime: Runtime, *, timeout: float, basic: bool = False
    ) -> None:
        self._repo = repo
        self._auth = TokenAuth(token, basic)
        self._runtime = runtime
        self._timeout = timeout
        self._idle: deque[_Line] = deque()

    def send(self, verb: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Raw:
        """Send one request, once. Raises whatever PyGithub, requests and urllib3 raise."""
        line = self._take()
        try:
            raw = line.send(verb, path, body, headers or {})
        except BaseException:
            line.close()
            raise
        line.used_at = self._runtime.monotonic()
        self._idle.append(line)
        return raw

    def _take(self) -> _Line:
        while True:
            try:
                line = self._idle.pop()
            except IndexError:
                return _Line(self._repo, self._auth, self._timeout)
            if self._runtime.monotonic() - line.used_at < IDLE:
                return line
            line.close()

    def close(self) -> None:
        """Close the connections that nobody uses now."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()
