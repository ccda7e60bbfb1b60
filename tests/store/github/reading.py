"""A hub at the twin, its reading half, and a person who pushes to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ghcoord.clock import SystemRuntime
from ghcoord.store.base import Capabilities, ChangeSet, Oid
from ghcoord.store.budget.base import Budget, Kind
from ghcoord.store.github.api import Answer, Api, Repo
from ghcoord.store.github.credentials import TokenCredentials
from ghcoord.store.github.diskcache import DiskCache
from ghcoord.store.github.objects import Objects
from ghcoord.store.github.polling import Heads
from ghcoord.store.github.transport import GithubApi
from ghcoord.store.github.url import parse_github_url
from ghcoord.store.objects import TreeEditor, encode_commit, parse_tree
from ghcoord.store.snapshot import Snapshot
from ghcoord.testing.clock import ManualRuntime
from ghcoord.twin.repository import ANY, RefUpdate, Repository
from ghcoord.twin.server import Twin
from ghcoord.twin.switches import Switches
from tests.store.github.asking import Notes

PREFIX = "refs/heads/ghcoord/"


@dataclass
class Reading:
    """The reading half of a driver; ``clock`` is its own."""

    objects: Objects
    heads: Heads
    clock: ManualRuntime
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(requests_per_commit=1, far_objects=True))

    def near(self, head: Oid, paths: Collection[str]) -> None:
        self.objects.near(head, paths)

    def snapshot(self, head: Oid) -> Snapshot:
        """The commit ``head`` as the coordination reads it."""
        return Snapshot(self, "", head)  # type: ignore[arg-type]

    def commit_info(self, oid: Oid) -> Any:
        return self.objects.commit_info(oid)

    def tree(self, oid: Oid) -> Any:
        return self.objects.tree(oid)

    def blob(self, oid: Oid) -> bytes:
        return self.objects.blob(oid)


@dataclass
class Hub:
    """A repository of the twin, written to behind every driver's back."""

    twin: Twin
    repository: Repository
    token: str
    prefix: str = PREFIX
    commits: int = 0
    marks: dict[str, int] = field(default_factory=dict)

    def put(self, space: str, changes: ChangeSet, message: str | None = None, parents: tuple[Oid, ...] = ()) -> Oid:
        """Commit and push, as somebody else does."""
        git = self.repository.git
        ref = self.prefix + space
        old = self.repository.head(ref)
        editor = TreeEditor(lambda oid: parse_tree(git[oid].read_raw()))
        tree = editor.apply(str(git[old].tree_id) if old else None, changes)  # type: ignore[attr-defined]
        self.commits += 1
        text = message if message is not None else f"commit {self.commits}\n"
        above = ((old,) if old else ()) + parents
        head = editor.add("commit", encode_commit(tree, above, "somebody", 1_700_000_000 + self.commits, text))
        kinds = {"commit": 1, "tree": 2, "blob": 3}
        for kind, data in editor.objects.values():
            git.odb.write(kinds[kind], data)
        self.move(space, head)
        return head

    def move(self, space: str, head: Oid | None) -> None:
        """Set a space's branch, as a forced push does."""
        step = RefUpdate(self.prefix + space, ANY, head, force=True)
        self.repository.update_refs([step], login="somebody", via="push", now=self.twin.runtime.now())

    def open(
        self, *, graphql: bool = True, cache: Path | None = None, wrap: Callable[[Api], Api] = lambda api: api
    ) -> Reading:
        """The reading half of a driver without memory, with one on disk if ``cache`` is given.

        ``wrap`` puts something between it and the transport.
        """
        repo = parse_github_url(f"github://{self.twin.url.removeprefix('http://')}/{self.repository.full_name}", None)
        clock = ManualRuntime()
        api = wrap(GithubApi(repo, TokenCredentials(self.token, "GH_TOKEN"), Notes(), SystemRuntime()))
        disk = DiskCache(cache) if cache is not None else None
        objects = Objects(api, clock, graphql=graphql, disk=disk)
        return Reading(objects, Heads(api, self.prefix, objects, graphql=graphql), clock)

    def asked(self) -> list[str]:
        """The requests since this was last called."""
        log, start = self.twin.log, self.marks.get("log", 0)
        self.marks["log"] = len(log)
        return [f"{each.operation} {each.status}" for each in log[start:]]

    def switch(self, **changes: Any) -> None:
        """Have the twin behave otherwise."""
        self.twin.switches = replace(self.twin.switches, **changes)


class Between:
    """An API that passes everything on; tests override what goes wrong."""

    def __init__(self, inner: Api) -> None:
        self.inner = inner

    @property
    def repo(self) -> Repo:
        return self.inner.repo

    @property
    def budget(self) -> Budget:
        return self.inner.budget

    def rest(self, verb: str, path: str, body: Any = None, **more: Any) -> Answer:
        return self.inner.rest(verb, path, body, **more)

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None, *, kind: Kind = "read") -> dict[str, Any]:
        return self.inner.graphql(query, variables, kind=kind)

    def server_time(self) -> float:
        return self.inner.server_time()

    def login(self) -> str:
        return self.inner.login()

    def close(self) -> None:
        self.inner.close()


_numbers = itertools.count(1)


def a_hub(twin: Twin, *, empty: bool = False) -> Hub:
    """A new repository at ``twin``, which behaves as usual and whose log starts here."""
    twin.switches = Switches()
    repository = twin.repository("me", f"hub{next(_numbers)}", empty=empty)
    return Hub(twin, repository, twin.user("me"), marks={"log": len(twin.log)})


def content(reading: Reading, head: Oid, path: str = "") -> Mapping[str, bytes]:
    """All files of a commit below ``path``."""
    return {name: reading.blob(entry.oid) for name, entry in reading.snapshot(head).walk(path)}
