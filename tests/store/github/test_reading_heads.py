"""Heads: what a poll costs, what it brings along, and what is believed of servers that lag behind."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest

from ghcoord.errors import NotFound, Unavailable
from ghcoord.store.github.api import Answer, Api
from ghcoord.store.github.polling import LAG
from ghcoord.twin.repository import ANY, RefUpdate
from ghcoord.twin.server import Twin
from tests.store.github.reading import Between, Hub, Reading, a_hub, content

POLL = "GET /repos/{owner}/{repo}/git/matching-refs/{ref}"
QUERY = "Heads,viewer,repository 200"
AGAIN = "Heads,repository 200"


@pytest.fixture(scope="module")
def twin() -> Iterator[Twin]:
    """One for all tests: a server takes half a second to stop."""
    with Twin() as made:
        yield made


@pytest.fixture
def hub(twin: Twin) -> Hub:
    """A new repository."""
    return a_hub(twin)


def test_the_first_reading_is_one_query_with_all_that_everybody_reads(hub: Hub) -> None:
    """Heads, commits, root trees, root records, the hub's record and its settings cost one request together."""
    fleet = hub.put("fleet", {"space.json": b"1", "a/b": b"2"})
    meta = hub.put("meta", {"space.json": b"3", "hub.json": b"4", "settings.json": b"5"})
    reading = hub.open()
    assert {"fleet": fleet, "meta": meta} == reading.heads.read()
    assert "commit 1\n" == reading.commit_info(fleet).message
    assert b"1" == reading.snapshot(fleet).read("space.json")
    assert [b"3", b"4", b"5"] == [reading.snapshot(meta).read(f"{name}.json") for name in ("space", "hub", "settings")]
    assert [QUERY] == hub.asked()


def test_the_first_reading_tells_who_asks(hub: Hub) -> None:
    """The login comes with it, so that nobody has to ask for it."""
    told: list[str] = []

    class Listening(Between):
        def note_login(self, login: str) -> None:
            told.append(login)

    hub.open(wrap=Listening).heads.read()
    assert ["me"] == told


def test_polls_cost_nothing_while_nothing_changes(hub: Hub) -> None:
    """After the first conditional request all are answered 304, until a head moves."""
    hub.put("fleet", {"a": b"1"})
    reading = hub.open()
    reading.heads.read()
    hub.asked()
    for _ in range(3):
        reading.heads.read()
    assert [f"{POLL} 200", f"{POLL} 304", f"{POLL} 304"] == hub.asked()
    moved = hub.put("fleet", {"a": b"2"})
    assert {"fleet": moved} == reading.heads.read()
    assert {"fleet": moved} == reading.heads.read()
    assert [f"{POLL} 200", f"{POLL} 304"] == hub.asked()


def test_after_a_conflict_one_query_brings_what_changed(hub: Hub) -> None:
    """A reading that expects a change has the commits of others with it, and the history down to what was known."""
    hub.put("fleet", {"space.json": b"1"})
    reading = hub.open()
    reading.heads.read()
    heads = [hub.put("fleet", {"space.json": b"%d" % n}) for n in range(2, 6)]
    hub.asked()
    reading.heads.expect_change()
    assert {"fleet": heads[-1]} == reading.heads.read()
    assert ["commit 2\n", "commit 5\n"] == [reading.commit_info(head).message for head in (heads[0], heads[-1])]
    assert b"5" == reading.snapshot(heads[-1]).read("space.json")
    assert [AGAIN] == hub.asked()


def test_an_expected_change_stays_expected_while_reading_fails(hub: Hub) -> None:
    """A failed reading is no reading: the next one asks the same."""
    hub.put("fleet", {"a": b"1"})
    down = [True]

    class Down(Between):
        def graphql(self, *of: Any, **more: Any) -> dict[str, Any]:
            if down[0]:
                raise Unavailable("down")
            return super().graphql(*of, **more)

    reading = hub.open(wrap=Down)
    with pytest.raises(Unavailable):
        reading.heads.read()
    down[0] = False
    assert {"fleet"} == set(reading.heads.read())
    assert [QUERY] == hub.asked()


def test_only_spaces_count(hub: Hub) -> None:
    """Branches whose names merely begin alike, and refs that are no commits, are no spaces."""
    head = hub.put("memory/a%2fb", {"a": b"1"})
    hub.repository.update_refs(
        [RefUpdate(f"refs/heads/{name}", ANY, head) for name in ("ghcoord2/fleet", "ghcoordination", "main2")],
        login="me",
        via="push",
        now=1.0,
    )
    for reading in (hub.open(), hub.open(graphql=False)):
        assert {"memory/a%2fb": head} == reading.heads.read() == reading.heads.read()


@pytest.mark.parametrize("relative", [False, True])
def test_names_of_refs_may_come_with_or_without_the_prefix(hub: Hub, relative: bool) -> None:
    """However GraphQL cuts the names of refs, the space is the same."""
    hub.switch(ref_names_relative=relative)
    head = hub.put("memory/x", {"a": b"1"})
    assert {"memory/x": head} == hub.open().heads.read()


class Paging(Between):
    """Lists refs a hundred a page, each with an ETag, and links to the next one where that is not there again."""

    def __init__(self, inner: Api) -> None:
        super().__init__(inner)
        self.statuses: list[int] = []

    def rest(self, verb: str, path: str, body: Any = None, **more: Any) -> Answer:
        if "matching-refs" not in path:
            return super().rest(verb, path, body, **more)
        where, _, query = path.partition("?")
        number = int(parse_qs(query).get("page", ["1"])[0])
        condition = more.pop("headers").get("If-None-Match")
        refs = super().rest(verb, where, body, **more).body
        page = refs[100 * (number - 1) : 100 * number]
        etag = hashlib.sha256(repr(page).encode()).hexdigest()
        self.statuses.append(304 if condition == etag else 200)
        if condition == etag:
            return Answer(304, {"etag": etag})
        link = f'<https://x/{where}?per_page=100&page={number + 1}>; rel="next"' if len(refs) > 100 * number else ""
        return Answer(200, {"etag": etag, "link": link}, page)


@pytest.mark.parametrize("graphql", [True, False])
def test_more_refs_than_fit_on_a_page(hub: Hub, graphql: bool) -> None:
    """All pages are read, each under its own condition, and a change on any of them is seen."""
    head = hub.put("fleet", {"a": b"1"})
    names = [f"memory/n{number:03d}" for number in range(230)]
    steps = [RefUpdate(f"{hub.prefix}{name}", ANY, head) for name in names]
    hub.repository.update_refs(steps, login="me", via="push", now=1.0)
    expected = dict.fromkeys(["fleet", *names], head)
    made: list[Paging] = []

    def paging(api: Api) -> Api:
        made.append(Paging(api))
        return made[-1]

    reading = hub.open(graphql=graphql, wrap=paging)
    assert expected == reading.heads.read()
    assert (4 if graphql else 3) == len(hub.asked())
    assert expected == reading.heads.read()
    statuses = made[0].statuses
    statuses.clear()
    assert expected == reading.heads.read()
    assert [304] * 3 == statuses
    for name in ("memory/n229", "memory/n001"):
        expected[name] = hub.put(name, {"b": name.encode()})
        statuses.clear()
        assert expected == reading.heads.read()
        assert [200, 304, 304] == sorted(statuses)


@pytest.mark.parametrize("graphql", [True, False])
@pytest.mark.parametrize("refused", [True, False])
def test_an_empty_repository_has_no_heads(twin: Twin, graphql: bool, refused: bool) -> None:
    """A repository without a commit is an empty hub, however the server says it."""
    hub = a_hub(twin, empty=True)
    hub.switch(empty_refs_refused=refused)
    reading = hub.open(graphql=graphql)
    assert [{}, {}] == [reading.heads.read(), reading.heads.read()]


@pytest.mark.parametrize("graphql", [True, False])
def test_a_missing_repository_is_no_empty_hub(hub: Hub, graphql: bool) -> None:
    """Where there is no repository, or the token may not see it, nothing is read as «no spaces»."""
    hub.repository.private = True
    hub.token = hub.twin.user("stranger")
    with pytest.raises(NotFound):
        hub.open(graphql=graphql).heads.read()


def test_without_graphql_the_poll_does(hub: Hub) -> None:
    """A server without GraphQL costs one request more, once, and nothing else."""
    head = hub.put("fleet", {"space.json": b"1", "a/b": b"2"})
    hub.switch(graphql=False)
    reading = hub.open()
    assert {"fleet": head} == reading.heads.read()
    assert {"space.json": b"1", "a/b": b"2"} == content(reading, head)
    assert 1 == sum("matching-refs" not in line and "git/" not in line for line in hub.asked())


def test_a_custom_prefix_is_polled(hub: Hub) -> None:
    """Refs outside refs/heads, which GraphQL does not list, are polled; all heads then come with one query."""
    hub.prefix = "refs/ghcoord/"
    heads = {name: hub.put(name, {"space.json": name.encode()}) for name in ("fleet", "locks", "meta")}
    reading = hub.open()
    assert heads == reading.heads.read()
    assert [f"{POLL} 200"] == hub.asked()
    for name, head in heads.items():
        assert name.encode() == reading.snapshot(head).read("space.json")
    assert ["Objects,repository 200"] == hub.asked()


# -- servers that lag behind


def lagging(hub: Hub, **options: Any) -> tuple[Reading, list[dict[str, str]]]:
    """A reading half whose polls are answered with the last of a list, as long as there is one."""
    answers: list[dict[str, str]] = []

    class Lagging(Between):
        def rest(self, verb: str, path: str, body: Any = None, **more: Any) -> Answer:
            if "matching-refs" in path and answers:
                heads = answers[-1].items()
                refs = [{"ref": hub.prefix + name, "object": {"type": "commit", "sha": oid}} for name, oid in heads]
                return Answer(200, {}, refs)
            return super().rest(verb, path, body, **more)

    return hub.open(wrap=Lagging, **options), answers


def test_an_answer_from_before_the_own_commit_is_not_believed_for_a_while(hub: Hub) -> None:
    """The head before, or none, after an own commit counts as an old answer for a minute, and then as the truth."""
    old = hub.put("fleet", {"a": b"1"})
    reading, answers = lagging(hub)
    reading.heads.read()
    new, made = hub.put("fleet", {"a": b"2"}), hub.put("locks", {"b": b"1"})
    reading.heads.note({"fleet": new, "locks": made})
    answers.append({"fleet": old})
    reading.clock.advance(LAG - 1)
    assert {"fleet": new, "locks": made} == reading.heads.read()
    reading.clock.advance(1)
    assert {"fleet": old} == reading.heads.read()


def test_any_commit_below_the_own_one_is_old(hub: Hub) -> None:
    """An older head that was never read here is known as such from the history."""
    older, old = hub.put("fleet", {"a": b"1"}), hub.put("fleet", {"a": b"2"})
    reading, answers = lagging(hub)
    reading.heads.read()
    assert old == reading.commit_info(old).oid
    new = hub.put("fleet", {"a": b"3"})
    reading.objects.add_commit(reading.objects.commit_info(new))
    reading.heads.note({"fleet": new})
    answers.append({"fleet": older})
    assert {"fleet": new} == reading.heads.read()


def test_what_was_read_does_not_go_back_either(hub: Hub) -> None:
    """Two servers that lag differently do not make heads jump."""
    old = hub.put("fleet", {"a": b"1"})
    reading, answers = lagging(hub)
    reading.heads.read()
    new = hub.put("fleet", {"a": b"2"})
    reading.heads.expect_change()
    assert {"fleet": new} == reading.heads.read()
    answers.append({"fleet": old})
    assert {"fleet": new} == reading.heads.read()


def test_newer_heads_are_believed_at_once(hub: Hub) -> None:
    """Right after an own commit somebody else's is seen all the same."""
    hub.put("fleet", {"a": b"1"})
    reading = hub.open()
    reading.heads.read()
    reading.heads.note({"fleet": hub.put("fleet", {"a": b"2"})})
    theirs = hub.put("fleet", {"a": b"3"})
    assert {"fleet": theirs} == reading.heads.read()


def test_a_commit_before_the_first_reading_is_remembered(hub: Hub) -> None:
    """What this process made is known, though it never asked for the heads."""
    reading, answers = lagging(hub, graphql=False)
    made = hub.put("fleet", {"a": b"1"})
    reading.heads.note({"fleet": made})
    answers.append({"locks": "1" * 40})
    assert {"fleet": made, "locks": "1" * 40} == reading.heads.read()


def test_a_branch_that_was_deleted_is_gone_once_the_server_refused(hub: Hub) -> None:
    """After a conflict a space that is absent twice has been deleted, however new it was."""
    hub.put("fleet", {"a": b"1"})
    reading = hub.open()
    reading.heads.read()
    reading.heads.note({"fleet": hub.put("fleet", {"a": b"2"})})
    hub.move("fleet", None)
    assert ["fleet"] == list(reading.heads.read())
    reading.heads.expect_change()
    assert [["fleet"], []] == [list(reading.heads.read()) for _ in range(2)]


def test_a_branch_that_was_set_back_is_seen_where_nothing_was_done_lately(hub: Hub) -> None:
    """Who only reads sees a forced push at once."""
    old = hub.put("fleet", {"a": b"1"})
    hub.put("fleet", {"a": b"2"})
    reading = hub.open()
    reading.heads.read()
    hub.move("fleet", old)
    assert {"fleet": old} == reading.heads.read()


def test_who_waits_for_a_reading_takes_one_that_began_later(hub: Hub) -> None:
    """Of many threads that ask at once one asks for itself, and one for all that came meanwhile."""
    head = hub.put("fleet", {"a": b"1"})
    entered, leave = threading.Event(), threading.Event()

    class Slow(Between):
        def graphql(self, *of: Any, **more: Any) -> dict[str, Any]:
            entered.set()
            assert leave.wait(10)
            return super().graphql(*of, **more)

    def slow(api: Api) -> Api:
        return Slow(api)

    reading = hub.open(wrap=slow)
    found: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: found.append(reading.heads.read())) for _ in range(9)]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    threading.Event().wait(0.1)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert [{"fleet": head}] * 9 == found
    assert [QUERY, f"{POLL} 200"] == hub.asked()
