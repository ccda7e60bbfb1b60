"""Hubs in a twin of GitHub for tests, reached without sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from requests.exceptions import ConnectionError as Cut

from ghcoord.clock import Runtime, SystemRuntime
from ghcoord.store.base import Capabilities
from ghcoord.store.budget.base import Kind, Pace, Report
from ghcoord.store.github.api import Repo
from ghcoord.store.github.driver import GithubStore
from ghcoord.store.github.transport import GithubApi
from ghcoord.store.github.wire import Raw
from ghcoord.testing.contract import HubUnderTest
from ghcoord.twin.messages import ConnectionLost, Incoming
from ghcoord.twin.repository import ANY, RefUpdate, Repository
from ghcoord.twin.server import Twin
from ghcoord.twin.switches import Switches
from tests.store.gitrepo import fsck, listing

BRANCHES = "refs/heads/ghcoord/"
CUSTOM = "refs/ghcoord/"

MODES = {
    "branch": (BRANCHES, "auto"),
    "custom": (CUSTOM, "auto"),
    "refs": (BRANCHES, "refs"),
    "rest": (BRANCHES, "rest"),
}
"""Prefix and ``write`` of each way of writing."""


class FreeBudget:
    """No limits."""

    account = "twin/me"

    def admit(self, kind: Kind) -> None: ...

    def note(self, status: int, headers: Mapping[str, str], *, resource: str = "core") -> None: ...

    def block(self, until: float, why: str) -> None: ...

    def write_ready_in(self) -> float:
        return 0.0

    def await_write(self) -> None: ...

    def share(self, workers: int, *, here: bool = True) -> None: ...

    def pace(self) -> Pace:
        return Pace(0.0, 1.0, 30.0)

    def report(self) -> Report:
        return Report(self.account, (), self.pace(), 0.0)


@dataclass
class FixedToken:
    """Credentials that never change."""

    value: str = field(repr=False)

    def token(self) -> str:
        return self.value

    def identity(self) -> str:
        return "test"

    def refresh(self) -> bool:
        return False


class InProcess:
    """Stands for a wire: hands requests to the twin."""

    def __init__(self, twin: Twin, token: str) -> None:
        self._twin = twin
        self._token = token

    def send(self, verb: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Raw:
        parts = urlsplit(path)
        inner = unquote(parts.path) if parts.netloc else "/api/v3" + unquote(parts.path)
        sent = {"authorization": f"Bearer {self._token}", **{k.lower(): v for k, v in (headers or {}).items()}}
        data = json.dumps(body).encode() if body is not None else b""
        try:
            reply = self._twin.handle(Incoming(verb, inner, parts.query, sent, data))
        except ConnectionLost as error:
            raise Cut("cut") from error
        content = reply.payload()
        if reply.truncated:
            content = content[: len(content) // 2]
        heads = {"content-type": reply.content_type, **{k.lower(): str(v) for k, v in reply.headers.items()}}
        return Raw(reply.status, heads, content)

    def close(self) -> None: ...


class Unbudgeted(GithubStore):
    """For contracts that throttle above the driver, where no budget hears of it."""

    @property
    def budget(self) -> None:
        return None


class Near(Unbudgeted):
    """Without a network between, clocks differ by the second that ``Date`` has: contracts need not wait for longer."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, clock_margin=1.2)


@dataclass
class TwinHub:
    """A hub at a twin: ``me/hub``, empty at first. ``mode`` is one of ``MODES``."""

    twin: Twin
    mode: str = "branch"
    runtime: Runtime = field(default_factory=SystemRuntime)
    cache: Path | None = None

    def __post_init__(self) -> None:
        self.prefix, self.write = MODES[self.mode]
        self.repository: Repository = self.twin.repository("me", "hub")
        self.token = self.twin.user("me")

    def api(self, token: str | None = None) -> GithubApi:
        repo = Repo("twin.local", "me", "hub", "http://twin.local/api/v3", "http://twin.local/api/graphql")
        used = token or self.token
        api = GithubApi(repo, FixedToken(used), FreeBudget(), self.runtime)
        api._wire = InProcess(self.twin, used)  # type: ignore[assignment]  # all that is asked of a wire
        return api

    def open(self, token: str | None = None) -> GithubStore:
        """A new handle, with nothing in memory."""
        return GithubStore(self.api(token), self.runtime, self.prefix, write=self.write, cache=self.cache)

    def ref(self, space: str) -> str:
        return self.prefix + space

    def head(self, space: str) -> str | None:
        """Where a space is in truth."""
        return self.repository.head(self.ref(space))

    def delete_space(self, space: str) -> None:
        """As a person does, on the web."""
        self.repository.update_refs([RefUpdate(self.ref(space), ANY, None)], login="me", via="rest", now=0.0)

    def under_test(self) -> HubUnderTest:
        path = Path(self.repository.folder)
        return HubUnderTest(
            open=lambda: Near(self.api(), self.runtime, self.prefix, write=self.write, cache=self.cache),
            delete_space=self.delete_space,
            check=lambda: fsck(path),
            listing=lambda head: listing(path, head),
        )


def twin_hub(folder: Path, mode: str = "branch", *, switches: Switches | None = None, **more: Any) -> TwinHub:
    """A hub at a new twin in ``folder``."""
    runtime = more.get("runtime")
    return TwinHub(Twin(folder, switches=switches or Switches(), runtime=runtime), mode, **more)
