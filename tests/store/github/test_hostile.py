"""Answers that are not as they should be: each ends in an error of ours, or changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ghcoord.errors import GhcoordError, Unavailable
from ghcoord.store.github.create import create_on_github
from ghcoord.store.github.driver import GithubStore
from ghcoord.store.github.examine import examine
from ghcoord.store.github.probe import probe
from ghcoord.store.github.wire import Raw
from ghcoord.testing.clock import ManualRuntime
from tests.store.github.test_driver import begin, op
from tests.store.github.twins import twin_hub


class Fixed(ManualRuntime):
    """Always the same random numbers."""

    def randbits(self, bits: int) -> int:
        return 1


JUNK: list[Any] = [None, 7, [None], {"x": None}, "\ud800/\0"]
"""What stands where something else should."""

Place = tuple[str | int, ...]


class Replay:
    """A wire that answers as the twin did the first time; ``spoil`` makes something else of one place in one answer."""

    def __init__(self, wire: Any, known: dict[str, Raw]) -> None:
        self._wire = wire
        self._known = known
        self.spoil: tuple[str, Place, Any] | None = None
        self.asked: list[str] = []

    def send(self, verb: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Raw:
        key = f"{verb} {path} {json.dumps(body, sort_keys=True)} {'if-none-match' in str(headers).lower()}"
        if key not in self._known:
            self._known[key] = self._wire.send(verb, path, body, headers)
        self.asked.append(key)
        raw = self._known[key]
        if self.spoil is None or self.spoil[0] != key:
            return raw
        return Raw(raw.status, raw.headers, json.dumps(put(json.loads(raw.content), *self.spoil[1:])).encode())

    def close(self) -> None: ...


def put(body: Any, place: Place, value: Any) -> Any:
    """``body`` with ``value`` at ``place``."""
    if not place:
        return value
    body[place[0]] = put(body[place[0]], place[1:], value)
    return body


def places(body: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in ``body``; of a list its first two members'."""
    yield at
    if isinstance(body, dict):
        for name, value in body.items():
            yield from places(value, (*at, name))
    elif isinstance(body, list):
        for number, value in enumerate(body[:2]):
            yield from places(value, (*at, number))


def use(store: GithubStore) -> None:
    """Everything that reads, and a commit."""
    head = store.heads().get("fleet")
    if head is None:
        return
    store.near(head, ["d/b.json", "d/"])
    info = store.commit_info(head)
    for entry in store.tree(info.tree).values():
        if entry.is_file:
            store.blob(entry.oid)
        else:
            store.tree(entry.oid)
    for parent in info.parents:
        store.commit_info(parent)
    store.server_time()
    store.commit({"fleet": head}, {"fleet": {"a.json": b"3"}}, op(3))
    store.heads()


@pytest.mark.parametrize("mode", ["branch", "custom", "rest"])
def test_any_place_of_any_answer_may_be_anything(tmp_path: Path, mode: str) -> None:
    """Whatever stands anywhere in an answer, no foreign exception escapes."""
    hub = twin_hub(tmp_path, mode)
    store, head = begin(hub)
    store.commit({"fleet": head}, {"fleet": {"a.json": b"2"}}, op(2))
    known: dict[str, Raw] = {}

    def opened() -> tuple[GithubStore, Replay]:
        found = hub.open()
        wire = found._api._wire = Replay(found._api._wire, known)  # type: ignore[attr-defined]
        return found, wire

    fresh, wire = opened()
    use(fresh)
    bad: list[str] = []
    for key in dict.fromkeys(wire.asked):
        if not known[key].content.startswith((b"{", b"[")):
            continue
        for place in list(places(json.loads(known[key].content))):
            for junk in JUNK:
                fresh, wire = opened()
                wire.spoil = (key, place, junk)
                try:
                    use(fresh)
                except GhcoordError:
                    continue
                except Exception as error:
                    bad.append(f"{error!r} of {junk!r} at {place} of {key[:60]}")
    assert [] == bad


@pytest.mark.parametrize("what", ["login", "create", "examine", "probe", "collect"])
def test_the_other_questions_too(tmp_path: Path, what: str) -> None:
    """As above, for what is asked besides reading and committing."""
    hub = twin_hub(tmp_path)
    store, head = begin(hub)
    for number in (2, 3):
        head = store.commit({"fleet": head}, {"fleet": {"a.json": b"%d" % number}}, op(number))["fleet"]
    runtime = hub.runtime
    known: dict[str, Raw] = {}

    def ask(found: GithubStore) -> object:
        api = found._api
        if what == "login":
            return api.login()
        if what == "create":
            create_on_github(api, hub.prefix, create=True)
            return None
        if what == "examine":
            return examine(api, hub.prefix, runtime, "a test", lambda: None)
        if what == "probe":
            return probe(api, hub.prefix, Fixed())
        return found.collect([head], dry_run=True, tell=lambda text, done: None)

    def opened() -> tuple[GithubStore, Replay]:
        found = hub.open()
        wire = found._api._wire = Replay(found._api._wire, known)  # type: ignore[attr-defined]
        return found, wire

    fresh, wire = opened()
    ask(fresh)
    assert known
    bad: list[str] = []
    for key in dict.fromkeys(wire.asked):
        if not known[key].content.startswith((b"{", b"[")):
            continue
        for place in list(places(json.loads(known[key].content))):
            for junk in (None, 7, [None]):
                fresh, wire = opened()
                wire.spoil = (key, place, junk)
                try:
                    ask(fresh)
                except GhcoordError:
                    continue
                except Exception as error:
                    bad.append(f"{error!r} of {junk!r} at {place} of {key[:60]}")
    assert [] == bad


@pytest.mark.parametrize("mode", ["branch", "custom"])
@pytest.mark.parametrize("status", [200, 304])
def test_a_list_of_branches_that_cannot_be_read_is_not_empty(tmp_path: Path, mode: str, status: int) -> None:
    """A hub is not taken for gone, or for new, because its server answers something strange."""
    hub = twin_hub(tmp_path, mode)
    begin(hub)
    store = hub.open()
    wire = store._api._wire  # type: ignore[attr-defined]
    send = wire.send

    def strange(verb: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Raw:
        if verb == "POST":
            return Raw(200, {}, b'{"data": {"repository": {"refs": null}}}')
        return Raw(status, {}, b"null") if "matching-refs" in path else send(verb, path, body, headers)

    wire.send = strange
    with pytest.raises(Unavailable):
        store.heads()
