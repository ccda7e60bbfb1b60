"""Settle live what is only reported of GitHub: ``ghcoord doctor --probe`` writes refs of its own and deletes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ghcoord.clock import Runtime
from ghcoord.errors import GhcoordError, StoreError
from ghcoord.store.github.api import Answer, Api, GraphQLRefused
from ghcoord.store.github.refusals import say
from ghcoord.store.observation import Observation

ANY = tuple(range(300, 500))
"""Statuses that are an answer here, not an error."""

ZEROS = "0" * 40
NOWHERE = "1" * 40
"""A head that no ref is at."""

CUSTOM = "refs/ghcoord-probe/"

UPDATE = "mutation($input: UpdateRefsInput!) { updateRefs(input: $input) { clientMutationId } }"
COMMIT = "mutation($input: CreateCommitOnBranchInput!) { createCommitOnBranch(input: $input) { commit { oid } } }"
ID = "query($owner: String!, $name: String!) { repository(owner: $owner, name: $name) { id } }"


def probe(api: Api, prefix: str, runtime: Runtime) -> list[Observation]:
    """Try what the driver builds on in a space ``<prefix>probe-…``; it is deleted whatever happens.

    Each answer is an observation: ``ok`` as reported, a warning where the
    driver has to go another way, which it does by itself.
    """
    return list(_Probe(api, prefix, runtime).run())


class _Probe:
    def __init__(self, api: Api, prefix: str, runtime: Runtime) -> None:
        self._api = api
        name = f"probe-{runtime.randbits(40):010x}"
        self._ref = prefix + name
        self._other = f"{prefix}{name}-b"
        self._custom = CUSTOM + name
        self._made: list[str] = []
        self._commits: list[str] = []

    def run(self) -> Iterator[Observation]:
        steps: tuple[Callable[[], Iterator[Observation]], ...] = (
            self._objects,
            self._create,
            self._polling,
            self._stale_rest,
            self._custom_rest,
            self._update_refs,
            self._on_branch,
        )
        try:
            for step in steps:
                try:
                    yield from step()
                except (GhcoordError, GraphQLRefused) as error:
                    yield _found(step.__name__.strip("_").replace("_", " "), f"could not be tried: {error}", False)
                    if step in (self._objects, self._create):
                        return
        finally:
            left = self._clean()
        if left:
            fix = "delete them: " + ", ".join(f"git push REMOTE :{ref}" for ref in left)
            yield Observation("probe", "warning", f"not deleted: {', '.join(left)}", fix)
        else:
            yield _found("clean-up", "every probe ref was deleted")

    # -- steps

    def _objects(self) -> Iterator[Observation]:
        tree = self._oid(self._write("POST", "git/trees", {"tree": [_entry("probe.txt", "1\n")]}))
        for number in range(3):
            parents = self._commits[:1] if number else []
            body = {"message": f"probe {number} [skip ci]", "tree": tree, "parents": parents}
            self._commits.append(self._oid(self._write("POST", "git/commits", body)))
        yield _found("trees and commits over REST", "accepted")
        absent = {"base_tree": tree, "tree": [{**_entry("absent.txt", ""), "sha": None}]}
        del absent["tree"][0]["content"]  # type: ignore[attr-defined]
        yield _found("deleting an absent path in a tree", _words(self._write("POST", "git/trees", absent)))

    def _create(self) -> Iterator[Observation]:
        answer = self._new(self._ref, self._commits[0])
        if answer.status != 201:
            raise StoreError(f"{self._ref} is not accepted: {_words(answer)}")
        yield _found("ref prefix", f"{self._ref} was created")
        read = self._read(f"git/ref/{_below(self._ref)}")
        yield _found(
            "a ref read right after its creation", "there" if read.status == 200 else _words(read), read.status == 200
        )
        again = self._new(self._ref, self._commits[0])
        yield _found("creating a ref that exists", _words(again), again.status == 422)
        inside = self._new(f"{self._ref}/inside", self._commits[0])
        yield _found("a ref below another one", _words(inside), inside.status >= 400)

    def _polling(self) -> Iterator[Observation]:
        path = f"git/matching-refs/{_below(self._ref)}"
        first = self._read(path)
        names = [one.get("ref") for one in _list(first.body) if isinstance(one, Mapping)]
        yield _found(
            "matching-refs", "lists the new ref" if self._ref in names else f"lists {names}", self._ref in names
        )
        tag = first.headers.get("etag")
        if tag is None:
            yield _found("polling", "answers have no ETag: every poll counts", False)
            return
        second = self._read(path, {"If-None-Match": tag})
        if second.status != 304:
            yield _found("polling", f"an ETag is answered with status {second.status}: every poll counts", False)
            return
        used = [answer.headers.get("x-ratelimit-used") for answer in (first, second)]
        if None in used:
            yield _found("polling", "an ETag is answered with 304; whether it counts is not told")
        else:
            free = used[0] == used[1]
            text = "it costs nothing" if free else "it counts, or another program asked meanwhile"
            yield _found("polling", f"an ETag is answered with 304, {text} (used {used[0]}, then {used[1]})", free)

    def _stale_rest(self) -> Iterator[Observation]:
        moved = self._write("PATCH", f"git/refs/{_below(self._ref)}", {"sha": self._commits[1], "force": False})
        yield _found("moving a ref over REST", _words(moved), moved.status == 200)
        stale = self._write("PATCH", f"git/refs/{_below(self._ref)}", {"sha": self._commits[2], "force": False})
        yield _found("a stale head over REST", _words(stale), stale.status in (409, 422))

    def _custom_rest(self) -> Iterator[Observation]:
        made = self._new(self._custom, self._commits[0])
        if made.status != 201:
            yield _found("custom refs over REST", f"refused: {_words(made)}; use branches", False)
            return
        listed = self._read(f"git/matching-refs/{_below(self._custom)}")
        seen = listed.status == 200 and bool(listed.body)
        yield _found("custom refs over REST", "accepted and listed" if seen else "accepted, but not listed", seen)

    def _update_refs(self) -> Iterator[Observation]:
        repo = self._api.repo
        found = _map(self._api.graphql(ID, {"owner": repo.owner, "name": repo.name}).get("repository"))
        at, child = self._commits[0], self._commits[1]

        def move(**refs: tuple[str, str]) -> str:
            updates = [
                {"name": getattr(self, f"_{which}"), "beforeOid": before, "afterOid": after}
                for which, (before, after) in refs.items()
            ]
            return self._mutate(UPDATE, {"repositoryId": found.get("id"), "refUpdates": updates})

        self._made.append(self._other)
        created = move(other=(ZEROS, at))
        yield _found("updateRefs", created or "creates a ref", not created)
        if created:
            return
        stale = move(other=(NOWHERE, child))
        yield _found("a stale head in updateRefs", stale or "was moved all the same!", bool(stale))
        both = move(ref=(NOWHERE, child), other=(at, child))
        state = self._read(f"git/ref/{_below(self._other)}").body
        still = _map(_map(state).get("object")).get("sha") == at
        yield _found(
            "updateRefs of two refs, one stale",
            "moves neither" if both and still else "moved one!",
            bool(both) and still,
        )
        if self._custom in self._made:
            custom = move(custom=(at, child))
            yield _found("updateRefs of custom refs", custom or "accepted", not custom)

    def _on_branch(self) -> Iterator[Observation]:
        if not self._ref.startswith("refs/heads/"):
            return
        repo = self._api.repo
        where = {
            "repositoryNameWithOwner": f"{repo.owner}/{repo.name}",
            "branchName": self._ref.removeprefix("refs/heads/"),
        }

        def commit(head: str, **changes: Any) -> str:
            message = {"headline": "probe [skip ci]"}
            given = {"branch": where, "message": message, "expectedHeadOid": head, "fileChanges": changes}
            return self._mutate(COMMIT, given)

        add = [{"path": "probe.txt", "contents": "Mgo="}]
        head = self._commits[1]
        made = commit(head, additions=add)
        yield _found("createCommitOnBranch", made or "commits", not made)
        if made:
            return
        stale = commit(head, additions=add)
        yield _found("a stale head in createCommitOnBranch", stale or "was committed all the same!", bool(stale))
        now = self._read(f"git/ref/{_below(self._ref)}").body
        present = _map(_map(now).get("object")).get("sha")
        absent = commit(str(present), deletions=[{"path": "absent.txt"}])
        yield _found("createCommitOnBranch that deletes an absent path", absent or "commits")

    # -- requests

    def _mutate(self, document: str, given: Mapping[str, Any]) -> str:
        """Empty where it was done, else exactly what was answered."""
        try:
            self._api.graphql(document, {"input": given}, kind="write")
        except GraphQLRefused as refused:
            return "; ".join(
                f"{kind or 'no type'}: {text}" for kind, text in zip(refused.types, refused.messages, strict=True)
            )
        except GhcoordError as error:
            return error.message
        return ""

    def _new(self, ref: str, oid: str) -> Answer:
        self._made.append(ref)
        answer = self._write("POST", "git/refs", {"ref": ref, "sha": oid})
        if answer.status != 201 and self._made.count(ref) == 1:
            self._made.remove(ref)
        return answer

    def _write(self, verb: str, path: str, body: Any = None) -> Answer:
        return self._api.rest(verb, f"{self._api.repo.path}/{path}", body, kind="write", expect=ANY_BUT_LIMITS)

    def _read(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self._api.rest(
            "GET", f"{self._api.repo.path}/{path}", kind="poll", headers=headers, expect=ANY_BUT_LIMITS
        )

    def _oid(self, answer: Answer) -> str:
        if answer.status != 201 or not isinstance(answer.body, Mapping):
            raise StoreError(f"objects are not accepted over REST: {_words(answer)}")
        return str(answer.body.get("sha"))

    def _clean(self) -> list[str]:
        """Delete what was made; returns what is left."""
        left = []
        for ref in dict.fromkeys(self._made):
            status = 0
            with contextlib.suppress(GhcoordError):
                status = self._write("DELETE", f"git/refs/{_below(ref)}").status
            if status not in (204, 404, 422):
                left.append(ref)
        return left


ANY_BUT_LIMITS = tuple(status for status in ANY if status not in (401, 403, 429))
"""Those three are errors here as elsewhere: a wrong token, a permission, a limit."""


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _below(ref: str) -> str:
    return quote(ref.removeprefix("refs/"))


def _entry(path: str, content: str) -> dict[str, Any]:
    return {"path": path, "mode": "100644", "type": "blob", "content": content}


def _words(answer: Answer) -> str:
    """An answer as it came."""
    text = say(answer.body)
    return f"{answer.status}{f' «{text}»' if text else ''}"


def _found(what: str, text: str, usual: bool = True) -> Observation:
    return Observation(
        "probe", "ok" if usual else "warning", f"{what}: {text}", details={"question": what, "answer": text}
    )
