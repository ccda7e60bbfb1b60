"""Commits made object by object: trees, a commit a space, and then ``updateRefs`` moves all the refs at once.

``updateRefs`` compares each ref with the head that was expected.  Nothing is
visible before it, so only its outcome can be unknown.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ghcoord.errors import Corrupt, NotFound, OutcomeUnknown, StoreError, Unavailable
from ghcoord.store.base import FILE_MODE, TREE_MODE, CommitInfo, Entry, Oid
from ghcoord.store.github.api import Answer, Api
from ghcoord.store.github.create import create_on_github
from ghcoord.store.github.reading import commit_of_rest
from ghcoord.store.github.refusals import say
from ghcoord.store.github.writing import EMPTY_TREE, Draft
from ghcoord.store.objects import AUTHOR_EMAIL, clean_author, encode_commit, object_id

if TYPE_CHECKING:
    from ghcoord.store.github.objects import Objects

MAX_PAYLOAD = 2_000_000
"""Bytes of contents in one request that makes a tree: over 2.5 MB were refused [R]."""

MAX_ENTRIES = 1000
"""Entries in one such request; one that changes more becomes several."""

ZEROS = "0" * 40
"""Stands for a ref that is not there."""

MUTATION = """
mutation Move($input: UpdateRefsInput!) {
  updateRefs(input: $input) { clientMutationId }
}
"""

REPOSITORY = "query Repository($owner: String!, $name: String!) { repository(owner: $owner, name: $name) { id } }"


class ObjectWriter:
    """Makes trees and commits over REST. Unreferenced until a ref moves, they harm nobody."""

    def __init__(self, api: Api, objects: Objects, prefix: str) -> None:
        self._api = api
        self._objects = objects
        self._prefix = prefix

    def write(self, one: Draft) -> CommitInfo:
        """Make the commit of ``one`` and everything it needs; returns it as the server made it."""
        self.make_tree(one)
        parents = (one.parent,) if one.parent is not None else ()
        return self.commit(one.tree, parents, one.op.actor, one.op.time, one.message)

    def commit(self, tree: Oid, parents: tuple[Oid, ...], actor: str, time: int, message: str) -> CommitInfo:
        """Make one commit of a tree that is there."""
        author = clean_author(actor)
        who = {"name": author, "email": AUTHOR_EMAIL, "date": _date(time)}
        body = {"message": message, "tree": tree, "parents": list(parents), "author": who, "committer": who}
        made = self._post("commits", body)
        own = object_id("commit", encode_commit(tree, parents, actor, time, message))
        if made["sha"] == own:
            return CommitInfo(own, tree, parents, author, time, message)
        # Its date or line ends may be the server's own; its tree and parents not.
        info = commit_of_rest(made) or self._objects.commit_info(made["sha"])
        if (info.tree, info.parents) != (tree, parents):
            raise Corrupt("the server made another commit than it was sent: no branch was moved")
        return info

    # -- trees

    def make_tree(self, one: Draft) -> None:
        """Have the tree of ``one`` there. Raises ``Corrupt`` where the server makes another of the same changes."""
        if one.tree in (EMPTY_TREE, one.base):
            return
        contents = self._contents(one)
        if not one.swaps and self._on_base(one, contents) == one.tree:
            return
        if self._level(one, one.tree, one.base, contents) != one.tree:
            raise Corrupt("the server made another tree than it was sent: nothing was committed")

    def _contents(self, one: Draft) -> dict[Oid, dict[str, str]]:
        """How a tree's entry names each new blob: with its content, or by its id once it is there."""
        found: dict[Oid, dict[str, str]] = {}
        for data in one.files.values():
            oid = object_id("blob", data)
            if oid not in found:
                text = _text(data)
                if text is None:
                    self._blob(oid, data)
                found[oid] = {"content": text} if text is not None else {"sha": oid}
        return found

    def _blob(self, oid: Oid, data: bytes) -> None:
        made = self._post("blobs", {"content": base64.b64encode(data).decode(), "encoding": "base64"})
        if made["sha"] != oid:
            raise Corrupt("the server made another file than it was sent: nothing was committed")

    def _on_base(self, one: Draft, contents: Mapping[Oid, Mapping[str, str]]) -> Oid | None:
        """The tree that the server makes of the changes to the one before."""
        entries: list[dict[str, Any]] = [
            {"path": path, "mode": FILE_MODE, "type": "blob", **contents[object_id("blob", data)]}
            for path, data in one.files.items()
        ]
        entries += [{"path": path, "mode": FILE_MODE, "type": "blob", "sha": None} for path in one.gone]
        base = one.base if one.base != EMPTY_TREE else None
        for part in _parts(entries):
            made = self._post("trees", {"tree": part, **({"base_tree": base} if base is not None else {})})
            base = str(made["sha"])
        return base

    def _level(self, one: Draft, tree: Oid, base: Oid | None, contents: Mapping[Oid, Mapping[str, str]]) -> Oid:
        """Make ``tree`` entry by entry, the trees in it first; those of ``base`` are there."""
        new = one.editor.trees[tree]
        old: Mapping[str, Entry] = self._objects.tree(base) if base is not None else {}
        entries: list[dict[str, Any]] = []
        for name, entry in new.items():
            before = old.get(name)
            same = before is not None and before.oid == entry.oid
            named: Mapping[str, str] = {"sha": entry.oid}
            if entry.is_tree and not same and entry.oid in one.editor.trees:
                below = before.oid if before is not None and before.is_tree else None
                named = {"sha": self._level(one, entry.oid, below, contents)}
            elif not entry.is_tree and not same:
                named = contents.get(entry.oid, named)
            entries.append({"path": name, "mode": entry.mode.rjust(6, "0"), "type": _type(entry), **named})
        made: Oid | None = None
        for part in _parts(entries):
            made = str(self._post("trees", {"tree": part, **({"base_tree": made} if made is not None else {})})["sha"])
        return made or EMPTY_TREE

    def _post(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make one object; in a repository without any commit, that first."""
        path = f"{self._api.repo.path}/git/{kind}"
        answer = self._send(path, body)
        if answer.status == 404 or (answer.status == 409 and "empty" in say(answer.body).lower()):
            # An empty repository takes no git data [R]. Others may make its first commit too: the second try tells.
            with suppress(Unavailable, OutcomeUnknown):
                create_on_github(self._api, self._prefix, create=False)
            answer = self._send(path, body)
        if answer.status in (404, 409):
            why = say(answer.body) or f"status {answer.status}"
            if answer.status == 404:
                raise NotFound(f"{self._api.repo.url} is not there or the token may not write to it ({why})")
            raise Unavailable(f"{self._api.repo.host} could not take a {kind[:-1]} now: {why}")
        if not isinstance(answer.body, dict) or not isinstance(answer.body.get("sha"), str):
            raise Unavailable(f"{self._api.repo.host} does not say which {kind[:-1]} it made: nothing was committed")
        return answer.body

    def _send(self, path: str, body: Mapping[str, Any]) -> Answer:
        try:
            return self._api.rest("POST", path, body, kind="write", expect=(404, 409))
        except OutcomeUnknown as error:
            raise Unavailable(f"{error.message} No branch was moved, so nothing was committed") from error


def _text(data: bytes) -> str | None:
    """The content as it may stand in a tree's entry; ``None`` for what has to be sent by itself."""
    if not data or b"\0" in data or len(data) > MAX_PAYLOAD:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _type(entry: Entry) -> str:
    return "tree" if entry.mode == TREE_MODE else "commit" if entry.mode == "160000" else "blob"


def _parts(entries: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """``entries`` in portions that one request takes."""
    part: list[dict[str, Any]] = []
    size = 0
    for entry in entries:
        weight = len(str(entry.get("content", "")).encode()) + len(entry["path"].encode(errors="replace")) + 100
        if part and (size + weight > MAX_PAYLOAD or len(part) >= MAX_ENTRIES):
            yield part
            part, size = [], 0
        part.append(entry)
        size += weight
    if part:
        yield part


def _date(time: int) -> str:
    return datetime.fromtimestamp(max(time, 0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class RefsMover:
    """Moves refs together with ``updateRefs``."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._repository: str | None = None

    def move(self, refs: Mapping[str, tuple[Oid | None, Oid]], *, force: bool = False) -> None:
        """Move each ref from the first id to the second, all or none.

        Raises what :meth:`Api.graphql` raises; of what it refuses nothing can
        be told but by looking.
        """
        updates = [
            {"name": ref, "beforeOid": before or ZEROS, "afterOid": after, "force": force}
            for ref, (before, after) in refs.items()
        ]
        variables = {"input": {"repositoryId": self._id(), "refUpdates": updates}}
        self._api.graphql(MUTATION, variables, kind="write")

    def _id(self) -> str:
        """The repository's node id; asked for once."""
        if self._repository is None:
            repo = self._api.repo
            found = self._api.graphql(REPOSITORY, {"owner": repo.owner, "name": repo.name}).get("repository")
            if not isinstance(found, dict) or not isinstance(found.get("id"), str):
                raise StoreError(f"{repo.host} does not tell the id of {repo.url}")
            self._repository = found["id"]
        return self._repository
