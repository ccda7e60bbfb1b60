"""Answers that are not as they should be: each ends in an error of ours, or changes nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from requests.exceptions import ConnectionError, ReadTimeout

from ghcoord.errors import GhcoordError, OutcomeUnknown, Unavailable
from ghcoord.store.github.create import create_on_github
from ghcoord.store.github.driver import GithubStore
from ghcoord.store.github.examine import examine
from ghcoord.store.github.probe import probe
from ghcoord.store.github.wire import Raw
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx
from ghcoord.store.wrappers import RetryingStore
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


MODES = ["branch", pytest.param("custom", marks=pytest.mark.slow), pytest.param("rest", marks=pytest.mark.slow)]


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


@pytest.mark.parametrize(
    "mode", ["branch", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("custom", "rest"))]
)
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


class Wild:
    """A wire on which requests and answers are lost, late, cut off, or changed in one place."""

    def __init__(self, wire: Any, chance: random.Random) -> None:
        self._wire = wire
        self._chance = chance
        self._late: list[tuple[Any, ...]] = []
        self.calm = True

    def send(self, *request: Any) -> Raw:
        chance = self._chance
        if self._late and chance.random() < 0.3:
            self.land(1)
        if self.calm or chance.random() > 0.35:
            return self._through(request)
        how = chance.choice(["lost", "late", "reply", "error", "empty", "spoilt", "spoilt", "spoilt"])
        if how == "lost":
            raise ConnectionError
        if how == "late":
            self._late.append(request)
            raise ReadTimeout
        raw = self._through(request)
        if how == "reply":
            raise ReadTimeout
        if how == "error":
            return Raw(502, {}, b"<html>")
        if how == "empty" or raw.content[:1] not in (b"{", b"["):
            return Raw(raw.status, raw.headers, b"")
        body = json.loads(raw.content)
        spoilt = put(body, chance.choice(list(places(body))), chance.choice(JUNK))
        return Raw(raw.status, raw.headers, json.dumps(spoilt).encode())

    def _through(self, request: tuple[Any, ...]) -> Raw:
        raw: Raw = self._wire.send(*request)
        return raw

    def land(self, count: int) -> None:
        """Let requests arrive that their callers gave up."""
        for _ in range(min(count, len(self._late))):
            self._through(self._late.pop(0))

    def close(self) -> None: ...


@pytest.mark.parametrize(
    "mode", ["branch", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("custom", "rest"))]
)
@pytest.mark.parametrize("seed", [1, 107, 123])
def test_strange_answers_make_no_wrong_outcome(tmp_path: Path, mode: str, seed: int) -> None:
    """What is reported as made is there once, what is reported as failed is not, whatever the server answers."""
    chance = random.Random(seed)
    runtime = ManualRuntime()
    hub = twin_hub(tmp_path, mode, runtime=runtime)
    handles = []
    for _ in range(3):
        store = hub.open()
        wire = store._api._wire = Wild(store._api._wire, chance)  # type: ignore[attr-defined]
        handles.append((Transactor(RetryingStore(store, runtime), runtime), wire))
    made: set[int] = set()
    failed: set[int] = set()
    for number in range(14):
        transactor, wire = chance.choice(handles)
        wire.calm = number < 2

        def append(tx: Tx, number: int = number) -> None:
            tx.write("fleet", "log", (tx.read("fleet", "log") or b"") + b"%d," % number)

        try:
            transactor.transact(["fleet"], append, timeout=chance.choice([1, 20]))
            made.add(number)
        except OutcomeUnknown:
            continue
        except GhcoordError:
            failed.add(number)
    for _, wire in handles:
        wire.land(100)
    found = hub.open()
    log = Snapshot(found, "fleet", found.heads()["fleet"]).read("log") or b""
    there = [int(number) for number in log.split(b",") if number]
    assert (len(there), set(), set()) == (len(set(there)), made - set(there), failed & set(there))
