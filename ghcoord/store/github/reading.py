"""Objects fetched from GitHub and proved: what does not hash to its id is asked for again in another way.

A commit cannot be proved: GitHub does not show all that its id is made of.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ghcoord.errors import Corrupt, NotFound, Unavailable, Unsupported
from ghcoord.store.base import CommitInfo, Entry, Oid
from ghcoord.store.github import queries
from ghcoord.store.github.api import Api, GraphQLRefused
from ghcoord.store.github.queries import Want
from ghcoord.store.message import read_actor
from ghcoord.store.objects import Tree, object_id

MOST = 250
"""Objects asked for in one query."""

GONE = (404, 409, 422)
"""Statuses of REST for an object that is not there, or is of another kind."""

_OID = re.compile(r"[0-9a-f]{40}")


@dataclass(slots=True)
class Found:
    """What came: proved trees and blobs, commits, sizes of blobs; ``others`` are objects of another kind by id.

    ``absent`` are the wants that came back null; ``doubtful`` ids that came, but not whole.
    """

    commits: dict[Oid, CommitInfo] = field(default_factory=dict)
    trees: dict[Oid, Tree] = field(default_factory=dict)
    blobs: dict[Oid, bytes] = field(default_factory=dict)
    sizes: dict[Oid, int] = field(default_factory=dict)
    others: dict[Oid, str] = field(default_factory=dict)
    absent: set[Want] = field(default_factory=set)
    doubtful: set[Oid] = field(default_factory=set)

    def take(self, node: Any) -> None:
        """Add what a node of an answer says, with all that is in it. Ignores what is not as it should be."""
        if not isinstance(node, Mapping):
            return
        kind = node.get("__typename")
        if kind == "Commit" or "message" in node:
            self._take_commit(node)
        elif kind == "Tree" or "entries" in node:
            self._take_tree(node)
        elif kind == "Blob" or "byteSize" in node:
            self._take_blob(node)

    def _take_commit(self, node: Mapping[str, Any]) -> None:
        oid = str(node.get("oid"))
        self.others[oid] = "commit"
        self.take(_at(node, "tree"))
        for name in ("record", *(f"meta{number}" for number in range(len(queries.META_RECORDS)))):
            self.take(_at(node, name, "object"))
        info = commit_of_node(node)
        if info is not None:
            self.commits[info.oid] = info
        else:
            self.doubtful.add(oid)
        for older in _list(node, "history", "nodes"):
            if isinstance(older, Mapping) and older.get("oid") != oid:
                self._take_commit(older)

    def _take_tree(self, node: Mapping[str, Any]) -> None:
        oid, entries = str(node.get("oid")), node.get("entries")
        if not isinstance(entries, list):
            return  # a commit names its tree without the entries
        self.others[oid] = "tree"
        tree = tree_of(oid, ((_at(entry, "name"), _at(entry, "oid"), _at(entry, "mode")) for entry in entries))
        if tree is None:
            self.doubtful.add(oid)
            return
        self.trees[oid] = tree
        for entry in entries:
            if isinstance(entry.get("size"), int) and str(entry.get("mode")).startswith("33"):
                self.sizes[entry["oid"]] = entry["size"]

    def _take_blob(self, node: Mapping[str, Any]) -> None:
        oid, text = str(node.get("oid")), node.get("text")
        self.others[oid] = "blob"
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else b""
        if object_id("blob", data) == oid:
            self.blobs[oid] = data
        else:
            self.doubtful.add(oid)


def _at(node: Any, *names: str) -> Any:
    """What is at ``names`` below ``node``; ``None`` where there is no such thing."""
    for name in names:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _list(node: Any, *names: str) -> list[Any]:
    """The list at ``names`` below ``node``; empty where there is none."""
    found = _at(node, *names)
    return found if isinstance(found, list) else []


def seconds(when: Any) -> int:
    """An ISO time in seconds since the epoch; 0 for what is none."""
    try:
        return int(datetime.fromisoformat(str(when)).timestamp())
    except (ValueError, OverflowError):
        return 0


def _made(oid: Any, tree: Any, parents: Sequence[Any], author: Any, when: Any, message: Any) -> CommitInfo | None:
    ids = (oid, tree, *parents)
    if not isinstance(message, str) or not all(isinstance(one, str) and _OID.fullmatch(one) for one in ids):
        return None
    actor = read_actor(message) or (author if isinstance(author, str) else "")
    return CommitInfo(ids[0], ids[1], tuple(parents), actor, seconds(when), message)


def commit_of_node(node: Mapping[str, Any]) -> CommitInfo | None:
    """A commit as GraphQL shows it; ``None`` where something is missing, such as the rest of many parents."""
    parents = [_at(parent, "oid") for parent in _list(node, "parents", "nodes")]
    if _at(node, "parents", "totalCount") != len(parents):
        return None
    author = _at(node, "author", "name")
    made_at, message = node.get("authoredDate"), node.get("message")
    return _made(node.get("oid"), _at(node, "tree", "oid"), parents, author, made_at, message)


def commit_of_rest(body: Any) -> CommitInfo | None:
    """A commit as ``git/commits`` shows it."""
    parents = [_at(parent, "sha") for parent in _list(body, "parents")]
    author = _at(body, "author", "name")
    made_at = _at(body, "author", "date")
    return _made(_at(body, "sha"), _at(body, "tree", "sha"), parents, author, made_at, _at(body, "message"))


def tree_of(oid: Oid, entries: Iterable[tuple[Any, Any, Any]]) -> Tree | None:
    """The tree of name, id and mode of each entry, if its id is ``oid``.

    Names are text or bytes; modes numbers, as GraphQL gives them, or octal text, as REST does.
    """
    made = []
    for name, below, mode in entries:
        text = name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
        octal = format(mode, "o") if isinstance(mode, int) else str(mode).lstrip("0")
        if not isinstance(text, str) or not isinstance(below, str) or not _OID.fullmatch(below):
            return None
        made.append(Entry(text, below, octal))
    try:
        tree = Tree.of(made)
    except UnicodeEncodeError:
        return None
    return tree if len(tree) == len(made) and object_id("tree", tree.encode()) == oid else None


class Reader:
    """Asks GitHub for objects. ``graphql`` turns false where there is none."""

    def __init__(self, api: Api, *, graphql: bool) -> None:
        self._api = api
        self.graphql = graphql

    # -- many at once

    def gather(self, wants: Sequence[Want]) -> Found:
        """All of ``wants``, a few hundred a query; a query that GitHub finds too much is halved.

        What is refused even alone is in no part of the answer.
        """
        found = Found()
        for start in range(0, len(wants), MOST):
            self._gather(list(wants[start : start + MOST]), found, 2)
        return found

    def _gather(self, wants: list[Want], found: Found, tries: int) -> None:
        """``tries`` is how often a failure that may come from the query's size is taken for that."""
        query, variables = queries.objects(self._api.repo, wants)
        try:
            data = self._api.graphql(query, variables)
        except Unsupported:
            self.graphql = False
            return
        except (GraphQLRefused, Unavailable) as error:
            failing = isinstance(error, Unavailable)
            if len(wants) == 1 or (failing and (tries == 0 or len(wants) < 4)):
                if failing:
                    raise
                return
            half = len(wants) // 2
            for part in (wants[:half], wants[half:]):
                self._gather(part, found, tries - failing)
            return
        nodes = _at(data, "repository")
        if nodes is None:
            raise NotFound(f"{self._api.repo.url} does not exist, or the token may not see it")
        for number, want in enumerate(wants):
            node = _at(nodes, f"o{number}")
            if node is None:
                found.absent.add(want)
            else:
                found.take(node)

    # -- one, over REST

    def commit(self, oid: Oid) -> CommitInfo | None:
        """The commit ``oid``; ``None`` where there is none."""
        body = self._rest(f"git/commits/{oid}")
        info = commit_of_rest(body)
        return info if info is not None and info.oid == oid else None

    def history(self, oid: Oid, count: int) -> list[CommitInfo]:
        """The commit ``oid`` and up to ``count`` - 1 of those before it, in one request."""
        body = self._rest(f"commits?sha={oid}&per_page={count}")
        found = []
        for item in body if isinstance(body, list) else ():
            made = _at(item, "commit")
            if isinstance(made, Mapping):
                info = commit_of_rest({**made, "sha": _at(item, "sha"), "parents": _at(item, "parents")})
                found += [info] if info is not None else []
        return found

    def tree(self, oid: Oid) -> Tree | None:
        """The tree ``oid``; ``None`` where there is none. Raises ``Corrupt`` when it cannot be read as it is."""
        if self.graphql:
            tree, there = self._raw_tree(oid)
            if tree is not None:
                return tree
        else:
            there = False
        body = self._rest(f"git/trees/{oid}")
        entries = _at(body, "tree")
        if not isinstance(entries, list):
            if there:
                raise Corrupt(f"tree {oid} cannot be read from {self._api.repo.url}")
            return None
        tree = tree_of(oid, ((_at(one, "path"), _at(one, "sha"), _at(one, "mode")) for one in entries))
        if tree is None:
            raise Corrupt(
                f"tree {oid} of {self._api.repo.url} cannot be read: is a name in it not UTF-8, or it no tree?"
            )
        return tree

    def _raw_tree(self, oid: Oid) -> tuple[Tree | None, bool]:
        """The tree ``oid`` by its names as bytes, and whether there is one."""
        query, variables = queries.raw_names(self._api.repo, oid)
        try:
            node = _at(self._api.graphql(query, variables), "repository", "object")
        except (GraphQLRefused, Unsupported):
            return None, False
        entries = _at(node, "entries")
        if not isinstance(entries, list):
            return None, False
        try:
            raw = [(base64.b64decode(_at(one, "nameRaw")), _at(one, "oid"), _at(one, "mode")) for one in entries]
        except (binascii.Error, ValueError, TypeError):
            return None, True
        return tree_of(oid, raw), True

    def listing(self, oid: Oid) -> tuple[dict[Oid, Tree], bool]:
        """The trees at and below the tree ``oid`` over REST, and whether one answer had them all."""
        body = self._rest(f"git/trees/{oid}?recursive=1")
        entries = _at(body, "tree")
        if not isinstance(entries, list):
            return {}, False
        below: dict[str, list[tuple[Any, Any, Any]]] = {"": []}
        ids: dict[str, Oid] = {"": oid}
        for one in entries:
            path, made, mode = _at(one, "path"), _at(one, "sha"), _at(one, "mode")
            if not isinstance(path, str) or not isinstance(made, str):
                continue
            folder, _, name = path.rpartition("/")
            below.setdefault(folder, []).append((name, made, mode))
            if mode == "040000":
                ids[path] = made
        made_of = {ids[path]: tree_of(ids[path], inside) for path, inside in below.items() if path in ids}
        found = {one: tree for one, tree in made_of.items() if tree is not None}
        return found, not _at(body, "truncated")

    def blob(self, oid: Oid) -> bytes | None:
        """The blob ``oid``; ``None`` where there is none. Raises ``Corrupt`` when what comes is something else."""
        body = self._rest(f"git/blobs/{oid}")
        text = _at(body, "content")
        if not isinstance(text, str):
            return None
        try:
            data = base64.b64decode(text) if _at(body, "encoding") == "base64" else text.encode()
        except (binascii.Error, ValueError):
            data = b""
        if object_id("blob", data) != oid:
            raise Corrupt(f"blob {oid} of {self._api.repo.url} came damaged")
        return data

    def _rest(self, path: str) -> Any:
        """The answer's body; ``None`` for an object that is not there."""
        answer = self._api.rest("GET", f"{self._api.repo.path}/{path}", expect=GONE)
        return answer.body if answer.status not in GONE else None
