"""What a twin holds: accounts, repositories and switches, without any protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Lock

from ghcoord.twin.actions import Actions
from ghcoord.twin.auth import Accounts, Level
from ghcoord.twin.objects import Person
from ghcoord.twin.repository import Repository
from ghcoord.twin.switches import Switches

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class NameTaken(Exception):
    """There is a repository of that name."""


@dataclass
class Hosting:
    """All state of a twin. Repositories by ``owner/name`` in lower case."""

    folder: Path
    switches: Switches = field(default_factory=Switches)
    accounts: Accounts = field(default_factory=Accounts)
    repositories: dict[str, Repository] = field(default_factory=dict)
    actions: Actions = field(default_factory=Actions)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _lock: Lock = field(default_factory=Lock)

    def next_number(self) -> int:
        """A number that was never given before."""
        return next(self._numbers)

    def create(self, owner: str, name: str, *, private: bool = False) -> Repository:
        """Make an empty repository (or take up the one that lies in its folder). Raises :class:`NameTaken`."""
        if not _NAME.fullmatch(owner) or not _NAME.fullmatch(name) or name in (".", ".."):
            raise ValueError(f"no name of a repository: {owner}/{name}")
        key = f"{owner}/{name}".lower()
        self.accounts.user(owner)
        where = self.folder / owner / f"{name}.git"
        with self._lock:
            if key in self.repositories:
                raise NameTaken(key)
            where.parent.mkdir(parents=True, exist_ok=True)
            made = Repository(where, owner, name, len(self.repositories) + 1, private=private)
            self.repositories[key] = made
            return made

    def grant(self, login: str, repository: str, permissions: Mapping[str, Level]) -> None:
        """Set what an account may in ``owner/name``."""
        self.accounts.user(login).grants[repository.lower()] = dict(permissions)


def person(login: str, now: float) -> Person:
    """The author that GitHub writes for an account."""
    return Person(login or "ghost", f"{login or 'ghost'}@users.noreply.github.com", int(now))
