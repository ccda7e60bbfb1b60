"""Objects: how many requests reading costs, and that nothing is believed that is not what was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghcoord.errors import Corrupt, Unavailable
from ghcoord.store.base import Entry, Operation
from ghcoord.store.github.api import Answer, Api, GraphQLRefused
from ghcoord.store.heads import commits
from ghcoord.store.message import format_message
from ghcoord.store.objects import Tree, encode_commit, object_id
from ghcoord.twin.server import Twin
from tests.store.github.reading import Between, Hub, Reading, a_hub, content

QUERY = "Objects,repository 200"


@pytest.fixture(scope="module")
def twin() -> Iterator[Twin]:
    """One for all tests: a server takes half a second to stop."""
    with Twin() as made:
        yield made


@pytest.fixture
def hub(twin: Twin) -> Hub:
    """A new repository."""
    return a_hub(twin)


def polled(hub: Hub, **options: Any) -> Reading:
    """A reading half that has just read the heads; what it asks is counted from here."""
    reading = hub.open(**options)
    reading.heads.read()
    hub.asked()
    return reading


# -- how many requests


def test_what_is_brought_near_is_read_without_a_request(hub: Hub) -> None:
    """One query brings the trees on the way, the files, and the contents of a folder that is near."""
    files = {"a/b/c/d.json": b"1", "a/b/x.json": b"2", "e/f.json": b"3", "g/h.json": b"4"}
    head = hub.put("fleet", {"space.json": b"0", **files})
    reading = polled(hub)
    reading.objects.near(head, [*files, "no/such/thing", "e/f.json/below"])
    assert [QUERY] == hub.asked()
    snapshot = reading.snapshot(head)
    assert list(files.values()) == [snapshot.read(path) for path in files]
    assert [None, None] == [snapshot.read(path) for path in ("a/b/nothing", "a/nothing")]
    reading.objects.near(head, files)
    assert [] == hub.asked()


def test_an_unknown_head_comes_with_what_is_wanted_of_it(hub: Hub) -> None:
    """Of a head that only a poll told of, commit, record, trees and files are one query."""
    hub.put("fleet", {"space.json": b"0"})
    reading = polled(hub)
    head = hub.put("fleet", {"space.json": b"1", "a/b/c.json": b"2"})
    reading.objects.near(head, ["a/b/c.json"])
    assert (b"1", b"2") == (reading.snapshot(head).read("space.json"), reading.snapshot(head).read("a/b/c.json"))
    assert [QUERY] == hub.asked()


def test_a_folder_comes_with_its_files(hub: Hub) -> None:
    """A path that ends in a slash brings the files directly in it, in one query more where it is not known."""
    files = {f"a/b/{number}": b"%d" % number for number in range(60)}
    head = hub.put("fleet", {**files, "a/b/deeper/x": b"no"})
    reading = polled(hub)
    reading.objects.near(head, ["a/b/"])
    assert [QUERY] * 2 == hub.asked()
    assert files == {path: reading.snapshot(head).read(path) for path in files}
    assert [] == hub.asked()


def test_many_paths_are_several_queries(hub: Hub) -> None:
    """No query asks for more than 250 objects."""
    files = {f"{number:03d}/x": b"%d" % number for number in range(255)}
    head = hub.put("fleet", files)
    reading = polled(hub)
    reading.objects.near(head, files)
    asked = hub.asked()
    assert {QUERY} == set(asked)
    assert len(asked) in (2, 3)  # 255 trees, 255 blobs; in which order they are asked for is left to chance
    assert files == content(reading, head)


def test_a_walk_reads_ahead(hub: Hub) -> None:
    """Three hundred files of one folder, and 120 records in a fan-out of folders, take few requests."""
    flat = {f"index/{number:04d}": b"f%d" % number for number in range(300)}
    fan = {f"keys/{number % 16:02x}/{number * 7 % 256:02x}/{number}.json": b"r%d" % number for number in range(120)}
    head = hub.put("fleet", {**flat, **fan})
    reading = polled(hub)
    assert flat == content(reading, head, "index")
    assert 4 >= len(hub.asked())
    assert fan == content(reading, head, "keys")
    assert 12 >= len(hub.asked())


def test_records_read_one_after_the_other_come_together(hub: Hub) -> None:
    """Each of many transactions that reads a record in its own snapshot finds it near, once the folders are."""
    fan = {f"keys/{number:02x}/{number * 7 % 256:02x}/{number}.json": b"r%d" % number for number in range(60)}
    head = hub.put("fleet", fan)
    reading = polled(hub)
    snapshot = reading.snapshot(head)
    for path in [f"keys/{name}" for name in snapshot.entries("keys")]:
        for below in snapshot.entries(path):
            snapshot.entries(f"{path}/{below}")
    assert 20 >= len(hub.asked())
    assert fan == {path: reading.snapshot(head).read(path) for path in sorted(fan)}
    assert 3 >= len(hub.asked())


def test_reading_ahead_is_bounded_by_size(hub: Hub) -> None:
    """Neighbours come along up to half a megabyte, and not at all beyond what a query brings whole."""
    large = {f"a/{number:02d}": os.urandom(50_000).hex().encode() for number in range(40)}
    head = hub.put("fleet", {**large, "a/99": b"x" * 500_000})
    reading = polled(hub)
    snapshot = reading.snapshot(head)
    snapshot.entries("a")
    hub.asked()
    for path in sorted(large):
        assert large[path] == snapshot.read(path)
    assert [QUERY] * 8 == hub.asked()
    assert b"x" * 500_000 == snapshot.read("a/99")
    assert ["GET /repos/{owner}/{repo}/git/blobs/{sha} 200"] == hub.asked()


def test_history_comes_in_long_pieces(hub: Hub) -> None:
    """A hundred and forty commits are walked in a few requests, with and without GraphQL."""
    for number in range(140):
        head = hub.put("fleet", {"n": b"%d" % number})
    for graphql in (True, False):
        reading = polled(hub, graphql=graphql)
        assert 140 == len(list(commits(reading, head)))  # type: ignore[arg-type]
        assert 5 >= len(hub.asked())


def test_what_a_head_is_compared_with_comes_along(hub: Hub) -> None:
    """The parent of an unknown head comes with it: with the first reading, and with the first query about it."""
    heads = [hub.put("fleet", {"n": b"%d" % number}) for number in range(3)]
    reading = polled(hub)
    assert [heads[1], heads[2]] == [reading.commit_info(oid).oid for oid in (heads[1], heads[2])]
    assert [] == hub.asked()
    heads += [hub.put("fleet", {"n": b"%d" % number}) for number in range(3, 7)]
    reading.objects.near(heads[-1], ["n"])
    assert heads[2:] == [reading.commit_info(oid).oid for oid in heads[2:]]
    assert [QUERY] == hub.asked()


def test_a_second_process_finds_objects_on_disk(hub: Hub, tmp_path: Path) -> None:
    """What one process read, the next has without a request; a damaged file is asked for again."""
    files = {"space.json": b"0", "a/b/c.json": b"1", "a/b/d.bin": bytes(range(256))}
    head = hub.put("fleet", files)
    assert files == content(polled(hub, cache=tmp_path), head)
    hub.asked()
    reading = hub.open(cache=tmp_path)
    assert (files, "commit 1\n") == (content(reading, head), reading.commit_info(head).message)
    assert [] == hub.asked()
    for path in tmp_path.glob("*/*.*"):
        path.write_bytes(b"damaged")
    assert files == content(hub.open(cache=tmp_path), head)
    assert hub.asked()


def test_own_objects_are_known(hub: Hub) -> None:
    """What this process made is read without a request, with the actor of its commit."""
    reading = polled(hub)
    blob = object_id("blob", b"x")
    tree = Tree.of([Entry("a", blob, "100644")])
    message = format_message("fleet", Operation(("op",), 1, 5, "worker-1"), with_actor=True)
    data = encode_commit(object_id("tree", tree.encode()), (), "GitHub", 5, message)
    head = object_id("commit", data)
    made = {blob: b"x", object_id("tree", tree.encode()): tree.encode()}
    reading.objects.add({oid: ("tree" if oid != blob else "blob", data) for oid, data in made.items()})
    reading.objects.add({head: ("commit", data)})
    assert {"a": b"x"} == content(reading, head)
    assert ("worker-1", 5) == (reading.commit_info(head).author, reading.commit_info(head).time)
    assert [] == hub.asked()


# -- what comes out


ODD = {
    "space.json": b"{}",
    "empty": b"",
    "binary": bytes(range(256)),
    "latin": "ü".encode("latin-1"),
    "crlf": b"a\r\nb\rc\n",
    "nul": b"a\0b",
    "bom": b"\xef\xbb\xbfx",
    "surrogate": b"\xed\xa0\x80",
    "large": b"0123456789" * 60_000,
    "Ä ö/日本語/🙂": b"names",
    "-x/%2f~": b"names",
    'quo"te\\n/$x{y}': b"names",
}


@pytest.mark.parametrize("graphql", [True, False])
def test_any_content_comes_as_it_is(hub: Hub, graphql: bool) -> None:
    """Binary, cut off, odd: whatever a query cannot show is fetched in another way."""
    head = hub.put("fleet", ODD)
    reading = polled(hub, graphql=graphql)
    reading.objects.near(head, ODD)
    assert ODD == content(reading, head)


def test_names_that_are_not_utf8(hub: Hub) -> None:
    """A tree with names that are bytes only is read by those, so that a stranger's file is in nobody's way."""
    git = hub.repository.git
    blob = str(git.create_blob(b"x"))
    tree = Tree.of([Entry("fine", blob, "100644"), Entry(b"\xff\xfe".decode(errors="surrogateescape"), blob, "100644")])
    git.odb.write(2, tree.encode())
    data = encode_commit(object_id("tree", tree.encode()), (), "x", 1, "m")
    hub.move("fleet", str(git.odb.write(1, data)))
    reading = polled(hub)
    assert dict(tree) == dict(reading.tree(object_id("tree", tree.encode())))

    class Lossy(Between):
        def rest(self, verb: str, path: str, body: Any = None, **more: Any) -> Answer:
            answer = super().rest(verb, path, body, **more)
            for entry in answer.body["tree"]:
                entry["path"] = entry["path"].encode(errors="surrogateescape").decode(errors="replace")
            return answer

    with pytest.raises(Corrupt, match="UTF-8"):
        hub.open(graphql=False, wrap=Lossy).tree(object_id("tree", tree.encode()))


@pytest.mark.parametrize("graphql", [True, False])
def test_links_and_modes_are_kept(hub: Hub, graphql: bool) -> None:
    """Symbolic links, submodules and executable files are what they are."""
    git = hub.repository.git
    blob = str(git.create_blob(b"x"))
    modes = {"link": "120000", "exec": "100755", "file": "100644", "module": "160000"}
    tree = Tree.of([Entry(name, "1" * 40 if name == "module" else blob, mode) for name, mode in modes.items()])
    git.odb.write(2, tree.encode())
    data = encode_commit(object_id("tree", tree.encode()), (), "x", 1, "m")
    head = str(git.odb.write(1, data))
    hub.move("fleet", head)
    reading = polled(hub, graphql=graphql)
    reading.objects.near(head, modes)
    assert modes == {name: entry.mode for name, entry in reading.snapshot(head).entries("").items()}


@pytest.mark.parametrize("graphql", [True, False])
def test_commits_of_others(hub: Hub, graphql: bool) -> None:
    """Merges of many parents come with all of them; the author is who the trailer names, else git's."""
    parents = tuple(hub.put(f"memory/p{number}", {"n": b"%d" % number}) for number in range(20))
    merge = hub.put("fleet", {"a": b"1"}, "a merge\n\nwith a body\n", parents)
    acted = hub.put("fleet", {"a": b"2"}, "fleet: x\n\nGhcoord-Op: o\nGhcoord-Revision: 1\nGhcoord-Actor: me@host\n")
    reading = hub.open(graphql=graphql)
    assert (parents, "somebody", "a merge\n\nwith a body\n") == (
        reading.commit_info(merge).parents,
        reading.commit_info(merge).author,
        reading.commit_info(merge).message,
    )
    assert "me@host" == reading.commit_info(acted).author
    assert hub.repository.git[merge].author.time == reading.commit_info(merge).time


@pytest.mark.parametrize("graphql", [True, False])
def test_objects_of_another_kind(hub: Hub, graphql: bool) -> None:
    """Asking for a tree by a commit's id, and the like, is corruption and not what lies behind it."""
    head = hub.put("fleet", {"a": b"1"})
    reading = hub.open(graphql=graphql)
    ids = {"commit_info": head, "tree": reading.commit_info(head).tree, "blob": object_id("blob", b"1")}
    for read in ids:
        for kind, oid in {**ids, "missing": "1" * 40}.items():
            if read != kind:
                with pytest.raises(Corrupt):
                    getattr(hub.open(graphql=graphql), read)(oid)


@pytest.mark.parametrize("graphql", [True, False])
def test_what_a_new_head_needs_may_come_later(hub: Hub, graphql: bool) -> None:
    """An object missing below a head that has just moved is not there yet; a minute later it is lost."""
    hub.put("fleet", {"a": b"1"})
    reading = polled(hub, graphql=graphql)
    tree = Tree.of([Entry("a", "1" * 40, "100644")])
    hub.repository.git.odb.write(2, tree.encode())
    data = encode_commit(object_id("tree", tree.encode()), (), "x", 1, "m")
    head = str(hub.repository.git.odb.write(1, data))
    hub.move("fleet", head)
    assert {"fleet": head} == reading.heads.read()
    with pytest.raises(Unavailable):
        reading.snapshot(head).read("a")
    reading.clock.advance(60)
    with pytest.raises(Corrupt):
        reading.snapshot(head).read("a")


def test_a_long_recursive_listing_is_not_asked_for_again(hub: Hub) -> None:
    """Without GraphQL one listing brings the trees of a small space; of a large one they come one by one, all right."""
    listings: list[str] = []

    class Listing(Between):
        def rest(self, verb: str, path: str, body: Any = None, **more: Any) -> Answer:
            listings.extend([path] if "recursive" in path else [])
            return super().rest(verb, path, body, **more)

    files = {f"{number % 7}/{number}": b"%d" % (number % 3) for number in range(60)}
    head = hub.put("fleet", files)
    reading = polled(hub, graphql=False, wrap=Listing)
    assert files == content(reading, head)
    assert 1 == len(listings) == sum("trees" in line for line in hub.asked())
    hub.switch(tree_limit=20)
    for number in (60, 61):
        files[f"6/{number}"] = b"new"
        head = hub.put("fleet", {f"6/{number}": b"new"})
        reading.heads.read()
        assert files == content(reading, head)
    assert 2 == len(listings)


# -- answers that are wrong


class Forging(Between):
    """Changes what the server says of one kind of objects."""

    def __init__(self, inner: Api, change: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(inner)
        self.change = change

    def graphql(self, *of: Any, **more: Any) -> dict[str, Any]:
        data = super().graphql(*of, **more)
        self._walk(data)
        return data

    def _walk(self, node: Any) -> None:
        if isinstance(node, dict):
            self.change(node)
        for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            self._walk(below)


def _cut(node: dict[str, Any]) -> None:
    if isinstance(node.get("text"), str):
        node["text"] = node["text"][:-1]


def _drop(node: dict[str, Any]) -> None:
    if node.get("entries"):
        node["entries"].pop()


def _rename(node: dict[str, Any]) -> None:
    for entry in node.get("entries") or ():
        entry.update({"name": "other"})


@pytest.mark.parametrize("change", [_cut, _drop, _rename])
def test_what_does_not_fit_its_id_is_fetched_otherwise(hub: Hub, change: Callable[[dict[str, Any]], None]) -> None:
    """Text cut off, an entry left out or renamed: the id tells, and the right one is read."""
    files = {"space.json": b"0", "a/b": b"1", "a/c": b"2"}
    head = hub.put("fleet", files)
    assert files == content(hub.open(wrap=lambda api: Forging(api, change)), head)


def test_what_fits_nowhere_is_corrupt_and_alone(hub: Hub) -> None:
    """A damaged blob is reported as such, and its neighbours are read."""
    head = hub.put("fleet", {"a/b": b"1", "a/c": b"2"})
    damaged = object_id("blob", b"1")

    class Damaged(Between):
        def graphql(self, *of: Any, **more: Any) -> dict[str, Any]:
            data = super().graphql(*of, **more)
            for node in data["repository"].values():
                if node and node.get("oid") == damaged:
                    node["text"] = "?"
            return data

        def rest(self, verb: str, path: str, body: Any = None, **more: Any) -> Answer:
            answer = super().rest(verb, path, body, **more)
            return Answer(200, {}, {"content": "Pw==", "encoding": "base64"}) if damaged in path else answer

    reading = hub.open(wrap=Damaged)
    assert b"2" == reading.snapshot(head).read("a/c")
    with pytest.raises(Corrupt):
        reading.snapshot(head).read("a/b")


class Limited(Between):
    """Takes no query with more than a few objects."""

    def __init__(self, inner: Api, most: int, error: Exception) -> None:
        super().__init__(inner)
        self.most = most
        self.error = error

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        if query.count(": object(") > self.most:
            raise self.error
        return super().graphql(query, variables, **more)


def test_a_query_that_is_too_much_is_halved(hub: Hub) -> None:
    """Refused for its size, a query becomes two, until each passes or asks for one object only."""
    files = {f"a/{number}": b"%d" % number for number in range(40)}
    head = hub.put("fleet", files)
    refused = GraphQLRefused(("RESOURCE_LIMITS_EXCEEDED",), ("Resource limits for this query exceeded.",))
    for most in (12, 1, 0):
        reading = hub.open(wrap=partial(Limited, most=most, error=refused))
        reading.objects.near(head, files)
        assert files == content(reading, head)


def test_a_query_that_times_out_is_halved_twice_at_most(hub: Hub) -> None:
    """A server that is down is not asked a hundred times; one that is merely slow is asked for less."""
    files = {f"a/{number}": b"%d" % number for number in range(40)}
    head = hub.put("fleet", files)
    reading = polled(hub, wrap=partial(Limited, most=25, error=Unavailable("timed out")))
    reading.objects.near(head, files)
    assert files == content(reading, head)
    tried: list[int] = []

    class Down(Between):
        def graphql(self, *of: Any, **more: Any) -> dict[str, Any]:
            tried.append(1)
            raise Unavailable("down")

    with pytest.raises(Unavailable):
        hub.open(wrap=Down).objects.near(head, files)
    assert 3 >= len(tried)


# -- anything at all

NAMES = st.sampled_from(["a", "b", "a.b", "a-b", "ü", "space.json", "x y"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
FILES = st.dictionaries(PATHS, st.binary(max_size=8) | st.text(max_size=8).map(str.encode), min_size=1, max_size=12)


def _without_clashes(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Only files below which no other lies."""
    return {path: data for path, data in files.items() if not any(other.startswith(path + "/") for other in files)}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=FILES, second=FILES, wanted=st.lists(PATHS | PATHS.map("{}/".format), max_size=6), graphql=st.booleans())
def test_reading_never_depends_on_what_is_near(
    twin: Twin, first: dict[str, bytes], second: dict[str, bytes], wanted: list[str], graphql: bool
) -> None:
    """Whatever was brought near before, of this commit or another, every path reads as it was committed."""
    hub = a_hub(twin)
    before, after = _without_clashes(first), _without_clashes(second)
    old = hub.put("fleet", before)
    reading = polled(hub, graphql=graphql)
    reading.objects.near(old, wanted)
    new = hub.put("fleet", {**dict.fromkeys(before), **after})
    reading.objects.near(new, wanted)
    assert (before, after) == (content(reading, old), content(reading, new))
    snapshot = reading.snapshot(new)
    assert {path: after.get(path.rstrip("/")) for path in wanted} == {
        path: snapshot.read(path.rstrip("/")) for path in wanted
    }
