"""What the driver asks of GitHub: one REST request, or one GraphQL query. :mod:`.transport` does it over PyGithub."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ghcoord.store.budget.base import Budget, Kind


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository: ``host`` without a scheme, ``api`` the base URL of REST, ``graphql`` that of GraphQL."""

    host: str
    owner: str
    name: str
    api: str
    graphql: str

    @property
    def url(self) -> str:
        """The hub's URL as people write it."""
        if self.host == "github.com":
            return f"github:{self.owner}/{self.name}"
        return f"github://{self.host}/{self.owner}/{self.name}"

    @property
    def place(self) -> str:
        """What messages call the server: ``host``, unless the API was named and is elsewhere."""
        named = self.api.partition("://")[2].partition("/")[0]
        return self.host if named in ("", f"api.{self.host}") else named

    @property
    def path(self) -> str:
        """The start of REST paths about it."""
        return f"/repos/{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: ``headers`` with lower-case names, ``body`` the parsed JSON, ``None`` where there is none."""

    status: int
    headers: Mapping[str, str]
    body: Any = None


class GraphQLRefused(Exception):
    """A query was answered with errors and none of them is of our tree: ``types`` and ``messages`` as GitHub gave them.

    Never leaves the driver.
    """

    def __init__(self, types: tuple[str, ...], messages: tuple[str, ...]) -> None:
        super().__init__("; ".join(messages))
        self.types = types
        self.messages = messages


class Api(Protocol):
    """One account's access to one repository. Thread-safe; sends nothing twice.

    Raises errors of our tree only (and :class:`GraphQLRefused`): ``Denied`` with what is missing,
    ``Throttled``, ``NotFound``, ``Unavailable``, and ``OutcomeUnknown`` where ``kind`` is a write and it may have
    been done.
    """

    @property
    def repo(self) -> Repo: ...

    @property
    def budget(self) -> Budget: ...

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
        """One request; statuses from 200 to 299 and those in ``expect`` are returned, others raised as errors."""
        ...

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None, *, kind: Kind = "read") -> dict[str, Any]:
        """One query's ``data``. What is null without an error comes back as such.

        Raises ``GraphQLRefused`` for errors that only the caller can judge (``STALE_DATA``, «Something went
        wrong…» and unknown types), ``Unsupported`` where there is no GraphQL.
        """
        ...

    def server_time(self) -> float:
        """The server's clock, from the ``Date`` of answers; asks once if none came yet."""
        ...

    def login(self) -> str:
        """Who the token belongs to; asks once, and remembers across processes."""
        ...

    def close(self) -> None: ...
