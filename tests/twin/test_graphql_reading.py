"""What the twin's GraphQL API answers to queries: refs, objects, history, pages, and what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ghcoord.twin.objects import NewEntry, Person
from ghcoord.twin.repository import Protection, View
from tests.twin.boxes import NOW, NULL, Box

LIST = "refs(refPrefix: {}, first: 100) {{ totalCount nodes {{ name prefix target {{ oid }} }} }}"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A repository as reported."""
    return Box(tmp_path)


def test_one_query_reads_all_spaces(box: Box) -> None:
    """Heads with their commits, root trees and records come in one answer, pinned to each commit."""
    first = box.start({"space.json": b'{"n": 1}\n', "d/x": b"1"}, "refs/heads/ghcoord/a")
    second = box.make({"space.json": b'{"n": 2}\n'}, first)
    box.put("refs/heads/ghcoord/b", second)
    box.put("refs/heads/main", first)
    query = """
    query Spaces {
      viewer { login }
      repository(owner: "ME", name: "Hub") {
        refs(refPrefix: "refs/heads/ghcoord/", first: 100) {
          nodes { name prefix target { oid ... on Commit {
            message parents(first: 5) { nodes { oid } } tree { oid entries { name mode type size path } }
            root: file(path: "space.json") { oid object { ... on Blob { oid text byteSize isTruncated isBinary } } }
            none: file(path: "space.json/x") { oid }
          } } }
        }
      }
    }
    """
    answer = box.ask(query)
    assert {"login": "me"} == answer.data["viewer"]
    a, b = answer.data["repository"]["refs"]["nodes"]
    assert ("refs/heads/ghcoord/a", "refs/heads/ghcoord/b") == (a["prefix"] + a["name"], b["prefix"] + b["name"])
    assert (first, second) == (a["target"]["oid"], b["target"]["oid"])
    assert [{"oid": first}] == b["target"]["parents"]["nodes"]
    assert {"name": "d", "mode": 0o40000, "type": "tree", "size": 0, "path": "d"} == a["target"]["tree"]["entries"][0]
    assert {"name": "space.json", "mode": 0o100644, "type": "blob", "size": 9, "path": "space.json"} == (
        a["target"]["tree"]["entries"][1]
    )
    root = b["target"]["root"]["object"]
    assert ('{"n": 2}\n', 9, False, False) == (
        root["text"],
        root["byteSize"],
        root["isTruncated"],
        root["isBinary"],
    )
    assert None is b["target"]["none"]
    assert ["Spaces", "viewer", "repository"] == answer.context.operations


def test_names_of_refs_below_a_longer_prefix_are_a_switch(tmp_path: Path) -> None:
    """``prefix`` and ``name`` together are the whole name, wherever they are cut."""
    for relative, expected in ((False, ("refs/heads/", "g/a")), (True, ("refs/heads/g/", "a"))):
        box = Box(tmp_path / str(relative), ref_names_relative=relative)
        box.start(ref="refs/heads/g/a")
        (node,) = box.repository(LIST.format('"refs/heads/g/"'))["refs"]["nodes"]
        assert expected == (node["prefix"], node["name"])


def test_refs_outside_heads_and_tags_are_null_as_reported(tmp_path: Path) -> None:
    """A custom ref is not to be had by name, unless the switch says so; its objects are."""
    for hidden in (True, False):
        box = Box(tmp_path / str(hidden), ref_null_outside_heads=hidden)
        oid = box.start(ref="refs/ghcoord/a")
        found = box.repository(
            'ref(qualifiedName: "refs/ghcoord/a") { target { oid } } '
            + LIST.format('"refs/ghcoord/"')
            + f' object(oid: "{oid}") {{ __typename }}'
        )
        assert hidden == (found["ref"] is None)
        assert (0 if hidden else 1) == found["refs"]["totalCount"]
        assert {"__typename": "Commit"} == found["object"]


def test_refs_are_listed_in_pages(box: Box) -> None:
    """``first``/``after`` and ``last``/``before`` walk through all refs once, in either direction."""
    head = box.start({})
    for letter in "edcba":
        box.put(f"refs/heads/x/{letter}", head)
    page = "refs(refPrefix: {}, {}) {{ nodes {{ name }} edges {{ cursor }} pageInfo {{ {} }} totalCount }}"
    info = "startCursor endCursor hasNextPage hasPreviousPage"
    seen: list[str] = []
    bounds = "first: 2"
    while True:
        found = box.repository(page.format('"refs/heads/x/"', bounds, info))["refs"]
        assert 5 == found["totalCount"]
        assert found["edges"][-1]["cursor"] == found["pageInfo"]["endCursor"]
        seen += [each["name"] for each in found["nodes"]]
        if not found["pageInfo"]["hasNextPage"]:
            break
        bounds = f'first: 2, after: "{found["pageInfo"]["endCursor"]}"'
    assert ["x/a", "x/b", "x/c", "x/d", "x/e"] == seen
    assert found["pageInfo"]["hasPreviousPage"]
    last = box.repository(page.format('"refs/heads/x/"', "last: 2", info))["refs"]
    assert ["x/d", "x/e"] == [each["name"] for each in last["nodes"]]
    before = box.repository(
        page.format('"refs/heads/x/"', f'last: 1, before: "{last["pageInfo"]["startCursor"]}"', info)
    )
    assert ["x/c"] == [each["name"] for each in before["refs"]["nodes"]]
    down = box.repository('refs(refPrefix: "refs/heads/x", first: 1, direction: DESC) { nodes { name } }')
    assert [{"name": "x/e"}] == down["refs"]["nodes"]
    bad = box.ask(
        '{ repository(owner: "me", name: "hub") { refs(refPrefix: "x/", first: 1, after: "?") { totalCount } } }'
    )
    assert "INVALID_CURSOR_ARGUMENTS" == bad.error["type"]


def test_objects_by_id_and_by_expression_under_aliases(box: Box) -> None:
    """Many objects come in one query; what is not there is null and no error."""
    head = box.start({"d/x.json": b"1"})
    found = box.repository(
        f"""
        a: object(expression: "{head}:d/x.json") {{ oid ... on Blob {{ text }} }}
        b: object(expression: "main:d") {{ ... on Tree {{ entries {{ path extension object {{ __typename }} }} }} }}
        c: object(expression: "refs/heads/main") {{ __typename oid abbreviatedOid }}
        d: object(oid: "{"1" * 40}") {{ oid }}
        e: object(expression: "nothing:here") {{ oid }}
        f: object(expression: "main:d/none") {{ oid }}
        """
    )
    assert "1" == found["a"]["text"]
    assert [{"path": "d/x.json", "extension": ".json", "object": {"__typename": "Blob"}}] == found["b"]["entries"]
    assert {"__typename": "Commit", "oid": head, "abbreviatedOid": head[:7]} == found["c"]
    assert [None] * 3 == [found[key] for key in "def"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"plain\r\n", ("plain\r\n", False, False)),
        ("größe".encode(), ("größe", False, False)),
        (b"", ("", False, False)),
        (b"a\0b", (None, True, False)),
        (b"caf\xe9", ("café", False, False)),
        (b"x" * 101, ("x" * 100, False, True)),
        (b"x" * 99 + "é".encode(), ("x" * 99, False, True)),
    ],
    ids=["text", "utf-8", "empty", "binary", "latin-1 is transcoded", "over the limit", "cut within a character"],
)
def test_what_a_blobs_text_is(tmp_path: Path, content: bytes, expected: Any) -> None:
    """Text is null for binary, cut beyond the limit, and not the blob's bytes where these were no UTF-8."""
    box = Box(tmp_path, blob_text_limit=100)
    head = box.start({"f": content})
    blob = box.repository(f'object(expression: "{head}:f") {{ ... on Blob {{ text isBinary isTruncated byteSize }} }}')[
        "object"
    ]
    assert expected == (blob["text"], blob["isBinary"], blob["isTruncated"])
    assert len(content) == blob["byteSize"]


def test_history_since_until_path_and_author(box: Box) -> None:
    """History is counted and cut by time, by path and by who wrote it."""
    one = box.make({"a": b"1"}, time=NOW)
    two = box.make({"a": b"1", "b": b"1"}, one, time=NOW + 60)
    three = box.make({"a": b"2", "b": b"1"}, two, time=NOW + 120)
    box.put("refs/heads/main", three)

    def history(arguments: str) -> tuple[int, list[str]]:
        target = box.repository(
            'ref(qualifiedName: "refs/heads/main") { target { ... on Commit { '
            f"history({arguments}) {{ totalCount nodes {{ oid }} }} }} }} }}"
        )["ref"]["target"]
        return target["history"]["totalCount"], [each["oid"] for each in target["history"]["nodes"]]

    assert (3, [three, two]) == history("first: 2")
    assert (2, [three, two]) == history('first: 5, since: "2023-11-14T22:14:20Z"')
    assert (1, [one]) == history('first: 5, until: "2023-11-14T23:13:30+01:00"')
    assert (2, [three, one]) == history('first: 5, path: "a"')
    assert (3, [three, two, one]) == history('first: 5, author: {emails: ["ann@example.org"]}')
    assert (0, []) == history('first: 5, author: {emails: ["bob@example.org"]}')


def test_dates_and_authors_are_as_the_commit_has_them(box: Box) -> None:
    """GitTimestamp keeps the author's zone, DateTime is UTC; a stranger's commit is no account's."""
    box.start()
    commit = box.repository(
        'object(expression: "main") { ... on Commit { authoredDate author { name email date user { login } } } }'
    )["object"]
    assert "2023-11-14T22:13:20Z" == commit["authoredDate"]
    assert {"name": "Ann", "email": "ann@example.org", "date": "2023-11-14T23:13:20+01:00", "user": None} == (
        commit["author"]
    )


def test_tags_and_submodules_are_shown_as_what_they_are(box: Box) -> None:
    """An annotated tag is its own object; a submodule has no object here."""
    head = box.start()
    git = box.hub.git
    signature = git.get(head).author
    tag = str(git.create_tag("v1", head, 1, signature, "one"))
    box.hub.reload(login="me", via="push", now=NOW)
    tree = box.hub.edit_tree(None, {"sub": NewEntry(0o160000, "2" * 40)})
    box.put("refs/heads/main", box.hub.create_commit(tree, [head], "x", Person("a", "b", int(NOW))))
    found = box.repository(
        'ref(qualifiedName: "refs/tags/v1") { name prefix'
        " target { __typename oid ... on Tag { name target { oid } } } }"
        ' object(expression: "main:") { ... on Tree { entries { name type mode object { oid } } } }'
    )
    assert ("v1", "refs/tags/") == (found["ref"]["name"], found["ref"]["prefix"])
    assert {"__typename": "Tag", "oid": tag, "name": "v1", "target": {"oid": head}} == found["ref"]["target"]
    assert [{"name": "sub", "type": "commit", "mode": 0o160000, "object": None}] == found["object"]["entries"]


def test_what_a_repository_says_of_itself(box: Box) -> None:
    """Empty, archived, permission and protection are told as the caller may know them."""
    fields = "id isEmpty isArchived isPrivate visibility viewerPermission viewerCanAdminister defaultBranchRef { name }"
    about = box.repository(fields)
    assert (True, None, "ADMIN", True) == tuple(
        about[key] for key in ("isEmpty", "defaultBranchRef", "viewerPermission", "viewerCanAdminister")
    )
    box.start()
    box.hub.archived = True
    box.hub.protected["main"] = Protection(allow=frozenset({"writer"}), rules={"requiresLinearHistory": True})
    assert {"isArchived": True, "isEmpty": False} == box.repository("isArchived isEmpty")
    rules = "branchProtectionRules(first: 10) { nodes { pattern requiresLinearHistory lockBranch } }"
    assert [{"pattern": "main", "requiresLinearHistory": True, "lockBranch": False}] == (
        box.repository(rules)["branchProtectionRules"]["nodes"]
    )
    writer = box.as_("writer", contents="write", metadata="read")
    assert [] == box.repository(rules, writer)["branchProtectionRules"]["nodes"]
    rule = "defaultBranchRef { refUpdateRule { pattern viewerCanPush allowsForcePushes } branchProtectionRule { id } }"
    assert {"pattern": "main", "viewerCanPush": True, "allowsForcePushes": False} == (
        box.repository(rule, writer)["defaultBranchRef"]["refUpdateRule"]
    )
    assert None is box.repository(rule, writer)["defaultBranchRef"]["branchProtectionRule"]
    assert not box.repository(rule)["defaultBranchRef"]["refUpdateRule"]["viewerCanPush"]
    assert "WRITE" == box.repository("viewerPermission", writer)["viewerPermission"]
    assert "READ" == box.repository("viewerPermission", box.as_("guest"))["viewerPermission"]


def test_a_repository_that_one_may_not_see_is_not_there(box: Box) -> None:
    """Private to others and missing look the same: NOT_FOUND, with null for data."""
    box.hub.private = True
    for name, token in (("hub", box.as_("stranger")), ("other", None)):
        answer = box.ask(f'{{ repository(owner: "me", name: "{name}") {{ id }} }}', token)
        assert 200 == answer.status
        assert {"repository": None} == answer.body["data"]
        assert "NOT_FOUND" == answer.error["type"]
        assert ["repository"] == answer.error["path"]
        assert f"Could not resolve to a Repository with the name 'me/{name}'." == answer.error["message"]


def test_global_ids_lead_back_to_what_they_are_of(box: Box) -> None:
    """``node`` finds each thing by its id, and refuses what is none or not the caller's to see."""
    head = box.start()
    ids = [box.hub.node_id, box.ask("{ viewer { id } }").data["viewer"]["id"]]
    tree = "... on Commit { tree { id entries { object { id } } } }"
    found = box.repository(f'ref(qualifiedName: "main") {{ id target {{ id {tree} }} }}')["ref"]
    ids += [found["id"], found["target"]["id"], found["target"]["tree"]["id"]]
    ids += [found["target"]["tree"]["entries"][0]["object"]["id"]]
    kinds = []
    for each in ids:
        node = box.ask("query($id: ID!) { node(id: $id) { __typename id } }", id=each).data["node"]
        assert each == node["id"]
        kinds.append(node["__typename"])
    assert ["Repository", "User", "Ref", "Commit", "Tree", "Blob"] == kinds
    for bad in ("nonsense", f"C_twin1:{NULL}", "C_twin9:" + head, ""):
        assert "NOT_FOUND" == box.ask("query($id: ID!) { node(id: $id) { id } }", id=bad).error["type"]
    box.hub.private = True
    answer = box.ask("query($id: ID!) { node(id: $id) { id } }", box.as_("stranger"), id=f"C_twin1:{head}")
    assert "NOT_FOUND" == answer.error["type"]


def test_reads_may_show_the_past(box: Box) -> None:
    """A lagging replica shows old refs to all of one query, and new objects by their id."""
    first = box.start()
    box.now = NOW + 10
    second = box.make({"x": b""}, first)
    box.put("refs/heads/main", second)
    box.put("refs/heads/new", second)
    box.view = View(as_of=(NOW + 5, 0))
    found = box.repository(f'{LIST.format(chr(34) + "refs/heads/" + chr(34))} object(oid: "{second}") {{ oid }}')
    assert [("main", first)] == [(each["name"], each["target"]["oid"]) for each in found["refs"]["nodes"]]
    assert second == found["object"]["oid"]


def test_what_no_query_is_gets_errors_and_no_data(box: Box) -> None:
    """Broken documents, unknown fields and unfit variables are told as errors of the request."""
    for query in ("{", "{ nothing }", "query A { viewer { login } } query B { viewer { login } }"):
        answer = box.ask(query)
        assert 200 == answer.status
        assert ["errors"] == list(answer.body)
    wrong = box.ask("query($id: ID!) { node(id: $id) { id } }")
    assert ["errors"] == list(wrong.body)
    assert "$id" in wrong.error["message"]
