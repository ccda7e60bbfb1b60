"""The github driver: what a commit costs, which way it goes, and what it makes of every kind of answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ghcoord.errors import Conflict, Corrupt, Denied, NotFound, OutcomeUnknown, Unavailable, Unsupported, UsageError
from ghcoord.store.base import Oid, Operation
from ghcoord.store.github.api import Answer
from ghcoord.store.github.driver import GithubStore, Way
from ghcoord.store.message import read_stamp
from ghcoord.testing.contract import EPOCH, content
from ghcoord.twin.faults import FaultKind
from ghcoord.twin.messages import Incoming
from ghcoord.twin.repository import RefUpdate
from ghcoord.twin.switches import Switches
from tests.store.github.twins import TwinHub, twin_hub

WAYS = ["branch", "custom", "rest"]


@pytest.fixture(params=WAYS)
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> TwinHub:
    """A hub for each way of writing."""
    return twin_hub(tmp_path, request.param)


@pytest.fixture
def branch(tmp_path: Path) -> TwinHub:
    """A hub on branches."""
    return twin_hub(tmp_path, "branch")


def op(number: int = 1, actor: str = "me@host") -> Operation:
    return Operation((f"op{number}",), number, EPOCH + number, actor)


def begin(hub: TwinHub, space: str = "fleet") -> tuple[GithubStore, Oid]:
    """A handle that has made the first commit of a space."""
    store = hub.open()
    store.heads()
    return store, store.commit({space: None}, {space: {"a.json": b"1", "d/b.json": b"2"}}, op())[space]


def cost(hub: TwinHub, run: Callable[[], object]) -> list[str]:
    """The requests that ``run`` makes."""
    before = len(hub.twin.log)
    run()
    return [one.operation for one in hub.twin.log[before:]]


# -- ways


def test_what_a_commit_costs(hub: TwinHub) -> None:
    """One request on a branch, else three: a tree, a commit, the ref. Reading back what was written costs none."""
    store, head = begin(hub)
    change = {"fleet": {"a.json": b"2", "d/e/new.json": b"3", "d/b.json": None}}
    made: dict[str, Oid] = {}
    asked = cost(hub, lambda: made.update(store.commit({"fleet": head}, change, op(2))))
    assert {"branch": 1, "custom": 3, "rest": 3}[hub.mode] == len(asked), asked
    assert made["fleet"] == hub.head("fleet")
    assert [] == cost(hub, lambda: content(store, made["fleet"]))
    assert {"a.json": b"2", "d/e/new.json": b"3"} == content(hub.open(), made["fleet"])


def test_several_spaces_cost_two_more_each(branch: TwinHub) -> None:
    """Several spaces: a tree and a commit each, and one ``updateRefs``."""
    store, head = begin(branch)
    change = {"fleet": {"a.json": b"2"}, "locks": {"l": b"1"}}
    asked = cost(branch, lambda: store.commit({"fleet": head, "locks": None}, change, op(2)))
    assert 5 == len(asked), asked


def test_nothing_changed_is_a_commit_all_the_same(hub: TwinHub) -> None:
    """A change that changes nothing makes a commit with the same tree: its operation has to be found."""
    store, head = begin(hub)
    made = store.commit({"fleet": head}, {"fleet": {"a.json": b"1", "no/such": None}}, op(2))["fleet"]
    assert (head,) == store.commit_info(made).parents
    assert store.commit_info(head).tree == store.commit_info(made).tree


def test_the_actor_is_the_author(hub: TwinHub) -> None:
    """Who acts is told as the author, also where the server names another."""
    store, head = begin(hub)
    made = store.commit({"fleet": head}, {"fleet": {"a.json": b"2"}}, op(2, "worker 7"))["fleet"]
    for reader in (store, hub.open()):
        info = reader.commit_info(made)
        assert ("worker 7", frozenset({"op2"})) == (info.author, getattr(read_stamp(info.message), "ops", None))
    assert store.capabilities.keeps_author is (hub.mode != "branch")


@pytest.mark.parametrize(
    ("missing", "way"),
    [
        (Switches(missing_mutations=frozenset({"createCommitOnBranch"})), Way.REFS),
        (Switches(missing_mutations=frozenset({"updateRefs"})), Way.REST),
        (Switches(graphql=False), Way.REST),
    ],
)
def test_a_server_that_lacks_something(tmp_path: Path, missing: Switches, way: Way) -> None:
    """Without a mutation, or GraphQL, the next way is taken by itself, and what it cannot do is refused."""
    hub = twin_hub(tmp_path, switches=missing)
    store, head = begin(hub)
    head = store.commit({"fleet": head}, {"fleet": {"a.json": b"2"}}, op(2))["fleet"]
    assert (way, head) == (store.way, hub.head("fleet"))
    assert {"a.json": b"2", "d/b.json": b"2"} == content(hub.open(), head)
    with contextlib.nullcontext() if way is Way.REFS else pytest.raises(Unsupported, match=r"one space .*https?://"):
        store.commit({"fleet": head, "locks": None}, {"fleet": {"a.json": b"3"}, "locks": {"l": b"1"}}, op(3))
    assert store.capabilities.multi_space is (way is Way.REFS)


def test_what_is_not_offered(hub: TwinHub) -> None:
    """A space that would only be compared, raw objects and unknown ways of writing are refused, with nothing done."""
    store, head = begin(hub)
    with pytest.raises(Unsupported, match="locks would only be compared"):
        store.commit({"fleet": head, "locks": None}, {"fleet": {"a.json": b"2"}}, op(2))
    with pytest.raises(Unsupported, match="with git"):
        store.raw(head)
    with pytest.raises(UsageError, match="auto, refs, rest"):
        GithubStore(hub.api(), hub.runtime, write="contents")
    assert head == hub.head("fleet")


# -- what gets in


def test_a_commit_in_parts(hub: TwinHub) -> None:
    """What is too much for one tree, a file that is large, one that is no text and an empty one arrive as they are."""
    hub.twin.switches = replace(hub.twin.switches, payload_limit=3_500_000)
    store, head = begin(hub)
    files: dict[str, bytes] = {f"d{n % 7}/{n}.json": b"%d " % n * 40_000 for n in range(30)}
    files |= {"large.json": b"x" * 2_300_000, "binary": bytes(range(256)), "empty": b"", "zero": b"a\0b"}
    made = store.commit({"fleet": head}, {"fleet": files}, op(2))["fleet"]
    assert {"a.json": b"1", "d/b.json": b"2", **files} == content(hub.open(), made)


def test_the_first_commit_of_a_repository(hub: TwinHub) -> None:
    """An empty repository gets its first commit, once."""
    store, head = begin(hub)
    assert head == hub.head("fleet")
    store.commit({"locks": None}, {"locks": {"l": b"1"}}, op(2))
    assert 1 == len([one for one in hub.twin.log if one.operation.startswith("PUT")])


def test_files_and_directories_change_places(hub: TwinHub) -> None:
    """In one commit files become directories and directories files, at several levels."""
    store = hub.open()
    before = {"f/x": b"1", "d/d/y": b"2", "d/d/z/q": b"3", "kept/k": b"4", "deep/a/b": b"5"}
    head = store.commit({"fleet": None}, {"fleet": before}, op())["fleet"]
    change = {"f/x": None, "f/x/below/n": b"6", "d/d": b"7", "d/d/y": None, "deep/a": b"8", "f/y": b"9"}
    made = store.commit({"fleet": head}, {"fleet": change}, op(2))["fleet"]
    expected = {"f/x/below/n": b"6", "d/d": b"7", "kept/k": b"4", "deep/a": b"8", "f/y": b"9"}
    assert expected == content(hub.open(), made)
    assert [] == cost(hub, lambda: content(store, made)), "the server made another tree than was worked out"


class Tampering:
    """An access to the API that changes what is sent or answered."""

    def __init__(self, inner: Any, *, rest: Callable[..., Any] | None = None) -> None:
        self._inner = inner
        self._rest = rest

    def rest(self, verb: str, path: str, body: Any = None, **more: Any) -> Answer:
        if self._rest is not None:
            body = self._rest(verb, path, body)
        answer: Answer = self._inner.rest(verb, path, body, **more)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("mode", ["custom", "rest"])
def test_another_tree_is_not_committed(tmp_path: Path, mode: str) -> None:
    """A server that makes another tree of the changes is told the whole one; when that is wrong too, nothing moves."""
    hub = twin_hub(tmp_path, mode)
    _, head = begin(hub)

    def worse(verb: str, path: str, body: Any) -> Any:
        if path.endswith("/git/trees") and (every or "base_tree" in body):
            return {**body, "tree": [{**one, "mode": "100755"} for one in body["tree"] if one["type"] == "blob"]}
        return body

    api = Tampering(hub.api(), rest=worse)
    store = GithubStore(api, hub.runtime, hub.prefix, write=hub.write)
    every = False
    made = store.commit({"fleet": head}, {"fleet": {"d/c.json": b"3"}}, op(2))["fleet"]
    assert {"a.json": b"1", "d/b.json": b"2", "d/c.json": b"3"} == content(hub.open(), made)
    every = True
    with pytest.raises(Corrupt, match="nothing was committed"):
        store.commit({"fleet": made}, {"fleet": {"d/c.json": b"4"}}, op(3))
    assert made == hub.head("fleet")


# -- what became of it


def test_a_stale_head(hub: TwinHub) -> None:
    """Who is late gets a conflict, with at most one look, and the next reading brings the winner's commit along."""
    store, head = begin(hub)
    other = hub.open()
    won = other.commit({"fleet": head}, {"fleet": {"a.json": b"won"}}, op(2))["fleet"]

    def lose() -> None:
        with pytest.raises(Conflict):
            store.commit({"fleet": head}, {"fleet": {"a.json": b"lost"}}, op(3))

    asked = cost(hub, lose)
    assert {"branch": 1, "custom": 6, "rest": 6}[hub.mode] >= len(asked), asked
    assert {"fleet": won} == store.heads()
    assert b"won" == content(store, won)["a.json"]


FAULTS: list[tuple[FaultKind, bool]] = [
    ("reply_lost", False),
    ("request_lost", False),
    ("reset", False),
    ("truncated", False),
    ("late", False),
    ("conflict", False),
    ("status", False),
    ("status", True),
    ("opaque", False),
    ("opaque", True),
]


def nth(number: int) -> Callable[[Incoming], bool]:
    """Fits the request with that number, counted from 0."""
    countdown = iter([False] * number + [True])
    return lambda incoming: next(countdown, False)


@pytest.mark.parametrize(("kind", "after"), FAULTS)
def test_every_answer_may_be_lost(hub: TwinHub, kind: FaultKind, after: bool) -> None:
    """Whichever request of a commit goes wrong in whatever way, what the driver says is true."""
    said = set()
    for fail in range(1 if hub.mode == "branch" else 4):
        store, head = begin(hub, space := f"s{fail}")
        hub.twin.faults.add(kind, match=nth(fail), after=after, requests=9)
        try:
            made = store.commit({space: head}, {space: {"a.json": b"2"}}, op(2))[space]
            assert made == hub.head(space)
            said.add("made")
        except (Conflict, Unavailable):
            hub.twin.settle()
            assert head == hub.head(space)
            said.add("not made")
        except OutcomeUnknown:
            said.add("unknown")
        hub.twin.faults.clear()
    if kind in ("reply_lost", "reset", "truncated"):
        assert "unknown" not in said
    if kind in ("request_lost", "late"):
        assert "unknown" in said, "an open outcome was taken for certain"


@pytest.mark.parametrize("kind", ["reply_lost", "reset", "truncated"])
def test_a_commit_that_landed_is_found(hub: TwinHub, kind: FaultKind) -> None:
    """When the last answer is lost the commit is found by looking, also below others on top of it."""
    store, head = begin(hub)
    other = hub.open()

    def last(incoming: Incoming) -> bool:
        text = incoming.body.decode("utf-8", "replace")
        return incoming.method == "PATCH" or "mutation" in text

    hub.twin.faults.add(kind, match=last)
    head = store.commit({"fleet": head}, {"fleet": {"a.json": b"2"}}, op(2))["fleet"]
    assert head == hub.head("fleet")

    mine: list[Oid] = []

    def last_and_another(incoming: Incoming) -> bool:
        if (mine and incoming.method == "GET") or (mine and "query Heads" in incoming.body.decode("utf-8", "replace")):
            return False
        return last(incoming)

    hub.twin.faults.add(kind, match=last_and_another)
    read = store._heads.read

    def overtaken() -> dict[str, Oid]:
        if not mine:
            mine.append(str(hub.head("fleet")))
            for number in (4, 5):
                top = other.heads()["fleet"]
                other.commit({"fleet": top}, {"fleet": {"a.json": b"%d" % number}}, op(number))
        return read()

    store._heads.read = overtaken  # type: ignore[method-assign]
    made = store.commit({"fleet": head}, {"fleet": {"a.json": b"3"}}, op(3))["fleet"]
    assert [made] == mine
    assert made != hub.head("fleet")


def test_a_copy_of_the_message_is_not_the_commit(branch: TwinHub) -> None:
    """A person's commit with our message but another parent does not pass for ours."""
    store, head = begin(branch)
    repository = branch.repository

    def copied(incoming: Incoming) -> bool:
        if "createCommitOnBranch" not in incoming.body.decode("utf-8", "replace"):
            return False
        mine = repository.commit(head)
        assert mine is not None
        message = "fleet: update [skip ci]\n\nGhcoord-Op: op2\nGhcoord-Revision: 2\nGhcoord-Actor: me@host\n"
        one = repository.create_commit(mine.tree, [head], "by hand", mine.author, mine.committer)
        two = repository.create_commit(mine.tree, [one], message, mine.author, mine.committer)
        repository.update_refs([RefUpdate(branch.ref("fleet"), head, two)], login="me", via="push", now=0.0)
        return True

    branch.twin.faults.add("request_lost", match=copied)
    with pytest.raises(Conflict):
        store.commit({"fleet": head}, {"fleet": {"a.json": b"2"}}, op(2))


def test_a_head_that_was_collected_is_a_conflict(hub: TwinHub) -> None:
    """An expected head whose objects nobody has any more is a conflict when the space is elsewhere."""
    store, _ = begin(hub)
    with pytest.raises(Conflict):
        store.commit({"fleet": "1" * 40}, {"fleet": {"a.json": b"2"}}, op(2))


# -- refusals


def test_no_permission(hub: TwinHub) -> None:
    """A token that may only read, an archived repository and one that is not there are told apart."""
    _, head = begin(hub)
    guest = hub.twin.user("guest")
    hub.twin.grant("guest", "me/hub", contents="read")
    change = {"fleet": {"a.json": b"2"}}
    with pytest.raises(Denied, match="contents: write"):
        hub.open(guest).commit({"fleet": head}, change, op(2))
    hub.repository.archived = True
    with pytest.raises(Denied, match="archived"):
        hub.open().commit({"fleet": head}, change, op(3))
    assert head == hub.head("fleet")
    hub.twin.hosting.repositories.clear()
    with pytest.raises((NotFound, Corrupt)):
        hub.open().commit({"fleet": None}, change, op(4))


def test_an_answer_that_comes_late(hub: TwinHub) -> None:
    """Where others went on before the answer came, their head stays known: ours is not taken for the newest."""
    store, head = begin(hub)
    other = hub.open()
    wire = store._api._wire  # type: ignore[attr-defined]
    send = wire.send

    def slow(verb: str, path: str, body: Any = None, headers: Any = None) -> Any:
        answer = send(verb, path, body, headers)
        if hub.head("fleet") != head and not later:
            later["fleet"] = other.commit({"fleet": hub.head("fleet")}, {"fleet": {"a.json": b"3"}}, op(3))["fleet"]
            assert later == store.heads()
        return answer

    later: dict[str, Oid] = {}
    wire.send = slow
    made = store.commit({"fleet": head}, {"fleet": {"a.json": b"2"}}, op(2))["fleet"]
    assert made != later["fleet"]
    assert later == store.heads()
