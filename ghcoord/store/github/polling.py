"""The spaces' heads: one conditional request that costs nothing while nothing changes, or one query with all of them.

Servers may answer from a copy that lags behind.  A head that this process knows
to be outdated is not believed until :data:`LAG` has passed since it was.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ghcoord.errors import NotFound, Unavailable, Unsupported
from ghcoord.store.base import Oid
from ghcoord.store.github import queries
from ghcoord.store.github.api import Api, GraphQLRefused
from ghcoord.store.github.objects import HEAD_BACK, LOOK_BACK, Objects

LAG = 60.0
"""Seconds for which an outdated head, or none, is taken for an old answer. Users report 10 s; nobody promises any."""

GONE_AFTER = 2
"""Answers without a space that was known, after the server refused what is known, until it counts as gone."""

_OID = re.compile(r"[0-9a-f]{40}")
_SPACE = re.compile(r"[^/\s\x00-\x1f\x7f~^:?*\[\\]+(?:/[^/\s\x00-\x1f\x7f~^:?*\[\\]+)*")
_NEXT = re.compile(r'<[^>]*[?&]page=([0-9]{1,6})(?![0-9])[^>]*>; *rel="next"')


@dataclass(slots=True)
class _Page:
    """A page as last answered, with its ETag; ``following`` is the number of the next one."""

    etag: str | None
    heads: dict[str, Oid]
    following: int | None


class Heads:
    """Reads the refs below ``prefix``. Thread-safe: who waits while another asks takes that answer if it is new enough.

    ``graphql`` lets the first reading, and one after :meth:`expect_change`, be
    a query that also fills ``objects``; that works for branches only.
    """

    def __init__(self, api: Api, prefix: str, objects: Objects, *, graphql: bool) -> None:
        self._api = api
        self._prefix = prefix
        self._objects = objects
        self._queries = graphql and prefix.startswith("refs/heads/")
        self._runtime = objects.runtime
        self._asking = threading.Lock()
        self._mutex = threading.Lock()
        self._begun = 0
        self._answered = 0
        self._known: dict[str, Oid] = {}
        self._read = False
        self._refuted = False
        self._absent: Counter[str] = Counter()
        self._pages: dict[int, _Page] = {}
        self._moved: dict[str, float] = {}
        self._outdated: dict[str, dict[Oid, float]] = {}
        self._changed = True
        self._viewer = True

    def read(self) -> dict[str, Oid]:
        """The present head of each space, by name."""
        with self._mutex:
            arrived = self._begun
        with self._asking:
            with self._mutex:
                if self._answered > arrived and not self._changed:
                    return dict(self._known)
                self._begun += 1
                begun = self._begun
                query, self._changed = self._changed and self._queries, False
            try:
                answer = self._query() if query else None
                if answer is None:
                    answer = self._poll()
            except BaseException:
                with self._mutex:
                    self._changed = self._changed or query
                raise
            with self._mutex:
                self._answered = begun
                return self._settle(answer)

    def expect_change(self) -> None:
        """The server did not accept what is known here: the next reading brings the objects of what is there along.

        A space that :data:`GONE_AFTER` answers do not show from then on is deleted, however new it is.
        """
        with self._mutex:
            self._changed = self._refuted = True
            self._absent.clear()

    def note(self, moved: Mapping[str, Oid], onto: Mapping[str, Oid | None] | None = None) -> None:
        """This process moved these spaces to these heads, from those in ``onto``.

        Where another head is known by now, others went on from there before the answer came.
        """
        with self._mutex:
            self._refuted = False
            for space, head in moved.items():
                known = self._known.get(space)
                if onto is None or known is None or known == onto.get(space):
                    self._move(space, head)

    # -- what to believe

    def _move(self, space: str, head: Oid) -> None:
        now, old = self._runtime.monotonic(), self._known.get(space)
        outdated = {one: since for one, since in self._outdated.get(space, {}).items() if now - since < LAG}
        if old is not None:
            outdated[old] = now
        outdated.pop(head, None)
        self._outdated[space] = outdated
        self._moved[space] = now
        self._known[space] = head
        self._objects.follow(space, head)

    def _settle(self, answer: Mapping[str, Oid]) -> dict[str, Oid]:
        """What is known after ``answer``, parts of which may be old."""
        for space in {*answer, *self._known}:
            old, new = self._known.get(space), answer.get(space)
            if old == new or (old is not None and self._is_old(space, old, new)):
                continue
            if new is None:
                del self._known[space]
            elif self._read:
                self._move(space, new)
            else:
                self._known[space] = new
                self._objects.follow(space, new)
        self._read = True
        return dict(self._known)

    def _is_old(self, space: str, known: Oid, answered: Oid | None) -> bool:
        """Whether the answer that ``space`` is at ``answered`` is older than what is known of it."""
        moved = self._moved.get(space)
        if moved is None or self._runtime.monotonic() - moved >= LAG:
            return False
        if answered is None:
            self._absent[space] += 1
            return not (self._refuted and self._absent[space] >= GONE_AFTER)
        return answered in self._outdated.get(space, {}) or self._objects.is_below(answered, known)

    # -- asking

    def _query(self) -> dict[str, Oid] | None:
        """The heads by the one query, all objects of which are kept; ``None`` where it does not work."""
        heads: dict[str, Oid] = {}
        after: str | None = None
        back = HEAD_BACK if self._read else LOOK_BACK
        while True:
            document, variables = queries.heads(self._api.repo, self._prefix, after, viewer=self._viewer, back=back)
            try:
                data = self._api.graphql(document, variables)
            except Unsupported:
                self._queries = False
                self._objects.do_without_graphql()
                return None
            except GraphQLRefused:
                self._viewer = False  # a token that may not ask who it is is one reason
                return None
            if self._viewer:
                self._viewer = False
                self._note_login(data)
            repository = data.get("repository")
            if not isinstance(repository, Mapping):
                raise NotFound(f"{self._api.repo.url} does not exist, or the token may not see it")
            refs = repository.get("refs")
            nodes, page = (refs.get("nodes"), refs.get("pageInfo")) if isinstance(refs, Mapping) else (None, None)
            if not isinstance(nodes, list) or not isinstance(page, Mapping):
                return None
            for node in nodes:
                if not isinstance(node, Mapping):
                    return None
                full = f"{node.get('prefix')}{node.get('name')}"
                if not full.startswith(self._prefix):  # the name alone is what is below the prefix that was asked for
                    full = f"{self._prefix}{node.get('name')}"
                space, target = self._space(full), node.get("target")
                if space is not None and isinstance(target, Mapping) and target.get("__typename") == "Commit":
                    if not _is_oid(target.get("oid")):
                        return None
                    heads[space] = target["oid"]
                    self._objects.take(target)
            if not page.get("hasNextPage"):
                self._pages = {}
                return heads
            before, after = after, page.get("endCursor")
            if not isinstance(after, str) or after == before:
                return None

    def _note_login(self, data: Mapping[str, Any]) -> None:
        viewer = data.get("viewer")
        note = getattr(self._api, "note_login", None)
        if isinstance(viewer, Mapping) and isinstance(viewer.get("login"), str) and note is not None:
            note(viewer["login"])

    def _poll(self) -> dict[str, Oid]:
        """The heads by ``matching-refs``, a page at a time, each under its condition."""
        heads: dict[str, Oid] = {}
        pages: dict[int, _Page] = {}
        number: int | None = 1
        while number is not None and number not in pages:
            page = self._page(number, self._pages.get(number))
            if page is None:
                break
            pages[number] = page
            heads.update(page.heads)
            number = page.following
        self._pages = pages
        return heads

    def _page(self, number: int, known: _Page | None) -> _Page | None:
        path = f"{self._api.repo.path}/git/matching-refs/{quote(self._prefix.removeprefix('refs/'))}?per_page=100"
        if number > 1:
            path += f"&page={number}"
        condition = {"If-None-Match": known.etag} if known is not None and known.etag else {}
        answer = self._api.rest("GET", path, kind="poll", headers=condition, expect=(304, 404, 409))
        if answer.status == 404:
            self._api.rest("GET", self._api.repo.path)  # raises what is wrong with the repository, if anything
        if answer.status == 304 and known is not None:
            return known
        if answer.status in (404, 409) and number == 1:
            return None
        heads = {}
        for ref in answer.body if isinstance(answer.body, list) else (None,):
            target = ref.get("object") if isinstance(ref, Mapping) else None
            if not isinstance(ref, Mapping) or not isinstance(target, Mapping):
                raise Unavailable(f"{self._api.repo.host} gave a list of branches that cannot be read: try again later")
            space = self._space(str(ref.get("ref")))
            if space is not None and target.get("type") == "commit" and _is_oid(target.get("sha")):
                heads[space] = target["sha"]
        following = _NEXT.search(answer.headers.get("link", ""))
        return _Page(answer.headers.get("etag"), heads, int(following[1]) if following else None)

    def _space(self, ref: str) -> str | None:
        """The space behind a ref's full name; ``None`` for refs that are none."""
        space = ref.removeprefix(self._prefix)
        return space if ref.startswith(self._prefix) and _SPACE.fullmatch(space) else None


def _is_oid(value: object) -> bool:
    return isinstance(value, str) and _OID.fullmatch(value) is not None
