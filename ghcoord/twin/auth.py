"""Who asks: the twin's users, tokens and apps, and what each may do to a repository."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Permission = Literal["contents", "administration", "metadata", "actions"]
Level = Literal["none", "read", "write"]
TokenKind = Literal["classic", "fine", "app", "actions", "jwt"]

_RANK = {"none": 0, "read": 1, "write": 2}


@dataclass(frozen=True, slots=True)
class Token:
    """A token of ``login``: what it may (``permissions``), where (``repositories``; ``None``: everywhere), until when.

    ``expires`` is in seconds since the epoch, ``None`` never. A ``jwt`` is the
    identity of an app itself, good only for asking for installation tokens.
    """

    value: str = field(repr=False)
    login: str
    kind: TokenKind = "classic"
    permissions: Mapping[str, Level] = field(default_factory=dict)
    repositories: frozenset[str] | None = None
    expires: float | None = None

    @property
    def fingerprint(self) -> str:
        """Tells tokens apart without being one."""
        return hashlib.sha256(self.value.encode()).hexdigest()[:12]

    def may(self, permission: str, level: Level, repository: str) -> bool:
        """Whether the token's own limits allow it there."""
        if self.repositories is not None and repository.lower() not in self.repositories:
            return False
        return _RANK[self.permissions.get(permission, "none")] >= _RANK[level]


@dataclass(frozen=True, slots=True)
class App:
    """A GitHub App: its number, PEM public key, and the installation that acts as ``login`` (``name[bot]``)."""

    number: int
    public_key: str = field(repr=False)
    installation: int
    login: str
    permissions: Mapping[str, Level]
    repositories: frozenset[str]


@dataclass
class User:
    """An account: ``kind`` User, Organization or Bot; ``grants`` say what it may in each ``owner/name``."""

    login: str
    number: int
    kind: str = "User"
    grants: dict[str, dict[str, Level]] = field(default_factory=dict)

    def may(self, permission: str, level: Level, repository: str) -> bool:
        """Whether the account itself has that permission there (its own repositories: all of them)."""
        if repository.split("/")[0].lower() == self.login.lower():
            return True
        granted = self.grants.get(repository.lower(), {})
        return _RANK[granted.get(permission, "none")] >= _RANK[level]


EVERYTHING: Mapping[str, Level] = {
    "contents": "write",
    "administration": "write",
    "metadata": "read",
    "actions": "write",
}


class BadCredentials(Exception):
    """The token is unknown or has expired."""


@dataclass
class Accounts:
    """All users and tokens of a twin. Logins are compared without case, as GitHub does."""

    users: dict[str, User] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    apps: dict[int, App] = field(default_factory=dict)

    def user(self, login: str, kind: str = "User") -> User:
        """The account of that name, made if there is none."""
        return self.users.setdefault(login.lower(), User(login, len(self.users) + 1, kind))

    def find(self, login: str) -> User | None:
        """The account of that name."""
        return self.users.get(login.lower())

    def add(self, token: Token) -> Token:
        """Make a token valid."""
        self.user(token.login)
        self.tokens[token.value] = token
        return token

    def identify(self, authorization: str | None, now: float) -> Token | None:
        """Whose ``Authorization`` header that is, ``None`` without one. Raises :class:`BadCredentials`."""
        if not authorization:
            return None
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() not in ("bearer", "token"):
            raise BadCredentials
        found = self.tokens.get(value.strip())
        if found is None or (found.expires is not None and found.expires <= now):
            raise BadCredentials
        return found
