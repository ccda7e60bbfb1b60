"""One request's surroundings: who asks, when, what it may see, and what it turned out to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ghcoord.twin.auth import Level, Token, User
from ghcoord.twin.objects import Oid
from ghcoord.twin.repository import TRUTH, Repository, View
from ghcoord.twin.switches import Switches

if TYPE_CHECKING:
    from ghcoord.twin.hosting import Hosting


@dataclass
class RequestContext:
    """What a handler of REST or GraphQL knows of its request.

    ``now`` is the server's clock (seconds since the epoch), one value for the
    whole request. A handler sets ``operations`` (of GraphQL: the operation's
    name and the mutations' fields), ``cost`` (points of GraphQL's primary limit)
    and ``nodes`` (how many a query may return).
    """

    hosting: Hosting
    token: Token | None
    now: float
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    base_url: str = "http://twin.local"
    view: View = TRUTH
    operations: list[str] = field(default_factory=list)
    cost: int = 1
    nodes: int = 0
    rate: Mapping[str, Any] = field(default_factory=dict)
    """Of GraphQL's primary limit, before this request: limit, remaining, used, reset (seconds since the epoch)."""
    rates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """All primary limits by resource (``core``, ``graphql``), empty where limits are off."""

    @property
    def switches(self) -> Switches:
        """The twin's switches."""
        return self.hosting.switches

    @property
    def login(self) -> str:
        """Who asks; empty for nobody."""
        return self.token.login if self.token is not None else ""

    @property
    def user(self) -> User | None:
        """The account that asks."""
        return self.hosting.accounts.find(self.login) if self.token is not None else None

    def repository(self, owner: str, name: str) -> Repository | None:
        """The repository, ``None`` where there is none or it is private and not this caller's to see."""
        found = self.hosting.repositories.get(f"{owner}/{name}".lower())
        if found is None or (found.private and not self.may(found, "metadata", "read")):
            return None
        return found

    def may(self, repository: Repository, permission: str, level: Level) -> bool:
        """Whether both the account and its token have that permission there."""
        if self.token is None or self.user is None:
            return level == "read" and not repository.private
        name = repository.full_name
        if level == "read" and not repository.private:
            return True
        return self.user.may(permission, level, name) and self.token.may(permission, level, name)

    def refs(self, repository: Repository, prefix: str = "refs/") -> dict[str, Oid]:
        """The refs as this request's reads see them: maybe the past."""
        return repository.refs_seen(prefix, self.view)
