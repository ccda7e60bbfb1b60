"""The REST API's frame: routes, answers, refusals, and what each handler may ask of its call."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ghcoord.twin.auth import Level
from ghcoord.twin.context import RequestContext
from ghcoord.twin.repository import Repository

DOCUMENTATION = "https://docs.github.com/rest"


@dataclass
class Reply:
    """An answer: ``body`` is sent as JSON, or ``raw`` as it is. ``cost`` is charged to the primary limit.

    ``truncated``: only half of the body leaves.  ``foreign``: it is not GitHub's, and has none of its headers.
    """

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    content_type: str = "application/json; charset=utf-8"
    cost: int = 1
    truncated: bool = False
    foreign: bool = False

    def payload(self) -> bytes:
        """The bytes of the body."""
        if self.raw is not None:
            return self.raw
        return b"" if self.body is None else json.dumps(self.body).encode()


class Refused(Exception):
    """A request is answered with an error."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.more = more

    def reply(self) -> Reply:
        """As GitHub words it."""
        body = {"message": self.message, "documentation_url": DOCUMENTATION, "status": str(self.status), **self.more}
        return Reply(self.status, body, self.headers)


class ProxyRefused(Refused):
    """Something between client and GitHub refused: its answer is not GitHub's, and no JSON."""

    def __init__(self, what: str) -> None:
        super().__init__(403, f"Forbidden: {what} is not allowed by the policy of this environment\n")

    def reply(self) -> Reply:
        return Reply(403, raw=self.message.encode(), content_type="text/plain; charset=utf-8", foreign=True)


@dataclass
class Call:
    """One REST request on its way through a handler: ``args`` of the path, ``body`` the parsed JSON."""

    context: RequestContext
    args: Mapping[str, str]
    body: Any
    template: str
    size: int = 0

    @property
    def api(self) -> str:
        """The base of the API's URLs."""
        return f"{self.context.base_url}/api/v3"

    def repository(self, level: Level = "read", permission: str = "contents") -> Repository:
        """The repository of the path, once it is clear that the caller may do that there."""
        found = self.context.repository(self.args["owner"], self.args["repo"])
        if found is None:
            raise Refused(404, "Not Found")
        self.need(found, permission, level)
        if level == "write" and found.archived:
            raise Refused(403, "Repository was archived so is read-only.")
        return found

    def need(self, repository: Repository, permission: str, level: Level) -> None:
        """Refuse a caller without that permission."""
        token = self.context.token
        if self.context.may(repository, permission, level):
            return
        if token is None:
            raise Refused(401, "Requires authentication")
        who = "personal access token" if token.kind in ("classic", "fine") else "integration"
        accepted = {"x-accepted-github-permissions": f"{permission}={level}"}
        raise Refused(403, f"Resource not accessible by {who}", accepted)

    def text(self, key: str, default: str | None = None) -> str:
        """A text of the body. Refused with 422 when it is missing or something else."""
        value = self.body.get(key, default) if isinstance(self.body, dict) else default
        if not isinstance(value, str):
            raise Refused(422, f"Invalid request.\n\n{key!r} wasn't supplied.")
        return value

    def flag(self, key: str) -> bool:
        """A truth value of the body or the query."""
        inside = self.body.get(key) if isinstance(self.body, dict) else None
        return inside is True or self.context.query.get(key, "") not in ("", "0", "false")


def number(text: str | None, default: int) -> int:
    """A page's number or size, from 1 to 100, as a query gives it."""
    return min(100, max(1, int(text))) if text and text.isdecimal() else default


Handler = Callable[[Call], Reply]


@dataclass(frozen=True)
class Route:
    """A method and a path; ``content``: it creates content; ``objects``: but only git objects that no ref names."""

    method: str
    template: str
    pattern: re.Pattern[str]
    handler: Handler
    content: bool
    objects: bool


ROUTES: list[Route] = []


def route(method: str, template: str, *, content: bool = False, objects: bool = False) -> Callable[[Handler], Handler]:
    """Register a handler; ``{name}`` is one segment of the path, ``{name+}`` any number of them."""
    pattern = re.sub(r"\\\{(\w+)(\\\+)?\\\}", _placeholder, re.escape(template))

    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(method, template, re.compile(pattern), handler, content, objects))
        return handler

    return register


def _placeholder(found: re.Match[str]) -> str:
    return f"(?P<{found[1]}>{'.*' if found[2] else '[^/]+'})"


def find_route(method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
    """The route for a decoded path, with its arguments."""
    for each in ROUTES:
        found = each.pattern.fullmatch(path) if each.method == method else None
        if found:
            return each, found.groupdict()
    return None


def with_etag(reply: Reply, context: RequestContext) -> Reply:
    """The answer to a GET with its ETag, or 304 where the caller has it already."""
    if reply.status != 200 or context.method != "GET":
        return reply
    switches = context.switches
    mine = context.token.fingerprint if context.token is not None and switches.etags_differ_by_token else ""
    tag = reply.headers.get("etag") or f'"{hashlib.sha256(reply.payload() + mine.encode()).hexdigest()}"'
    reply.headers["etag"] = tag if not switches.etags_weak or "etag" in reply.headers else f"W/{tag}"
    asked = context.headers.get("if-none-match", "")
    if switches.not_modified and tag in [one.strip().removeprefix("W/") for one in asked.split(",")]:
        return Reply(304, None, {"etag": reply.headers["etag"]})
    return reply
