"""The twin, its excerpt of the schema and the driver's requests hold against GitHub's own descriptions of its APIs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from graphql import build_schema, parse

from ghcoord.errors import Conflict
from ghcoord.store.base import Operation
from ghcoord.twin.graphql_execute import execute
from ghcoord.twin.graphql_schema import EXCERPT, load_schema
from ghcoord.twin.log import Recorded
from tests.store.github.twins import MODES, twin_hub
from tests.twin import make_schema_excerpt
from tests.twin.boxes import COMMIT, UPDATE_REFS, Box
from tests.twin.fetch_schemas import GRAPHQL, unpack
from tests.twin.official import (
    check_documents,
    check_excerpt,
    check_exchanges,
    find_schemas,
    official_graphql,
    require_schemas,
)


@pytest.fixture(autouse=True)
def _schemas() -> None:
    """Each of these tests needs them."""
    require_schemas()


@pytest.mark.slow
def test_excerpt_is_made_out_of_this_version() -> None:
    """The script, run on the official schema, gives the file that is shipped."""
    made = make_schema_excerpt.excerpt(parse(require_schemas().graphql.read_text()))
    assert made == EXCERPT.read_text()
    assert GRAPHQL.version in made


def test_excerpt_is_a_part_of_the_official_schema() -> None:
    """Every type, field, argument and default is GitHub's, with its nullability."""
    assert [] == check_excerpt(load_schema(), official_graphql())


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("  isTruncated: Boolean!", "  isTruncated: Boolean", "Blob.isTruncated is Boolean!, not Boolean"),
        ("  isTruncated: Boolean!", "  isCut: Boolean!", "Blob.isCut is not in it"),
        ("ref(qualifiedName: String!)", "ref(name: String!)", "Repository.ref(name) is not in it so"),
        ("ref(qualifiedName: String!)", "ref", "Repository.ref(qualifiedName) is demanded by it"),
        ("  force: Boolean = false\n  name", "  force: Boolean = true\n  name", "RefUpdate.force has another default"),
        ("  afterOid: GitObjectID!\n", "", "RefUpdate.afterOid is demanded by it"),
        ("type Tag implements GitObject", "type Twig implements GitObject", "Twig is not in it"),
        ("scalar GitRefname", "enum GitRefname { A }", "GitRefname is not in it, or is another kind"),
    ],
)
def test_an_excerpt_that_says_something_else_is_noticed(old: str, new: str, part: str) -> None:
    """The comparison finds each way in which an excerpt can be wrong."""
    text = EXCERPT.read_text()
    assert old in text
    wrong = check_excerpt(build_schema(text.replace(old, new), assume_valid_sdl=True), official_graphql())
    assert any(part in each for each in wrong), wrong


@pytest.mark.slow
def test_the_twin_executes_against_the_whole_official_schema(tmp_path: Path) -> None:
    """Given GitHub's own schema the answers are the same, and what the twin does not know is refused by name."""
    box = Box(tmp_path)
    head = box.start()
    whole = require_schemas().graphql
    query = '{ repository(owner: "me", name: "hub") { ref(qualifiedName: "main") { name target { oid } } } }'
    answer = box.ask(query)
    assert (200, answer.body) == execute(answer.context, {"query": query}, schema=whole)
    assert head == answer.data["repository"]["ref"]["target"]["oid"]
    _, refused = execute(answer.context, {"query": "{ viewer { bio } }"}, schema=whole)
    assert "The twin does not know User.bio." == refused["errors"][0]["message"]


@pytest.mark.parametrize("mode", MODES)
def test_what_the_driver_sends_is_as_github_describes_it(tmp_path: Path, mode: str) -> None:
    """Documents and REST requests of a driver that writes, loses a race and reads anew are valid in every mode."""
    hub = twin_hub(tmp_path, mode)
    hub.twin.exchanges.record = True
    store, other = hub.open(), hub.open()
    op = Operation(("one",), 1, 1_700_000_000, "me")
    first = store.commit({"a": None}, {"a": {"space.json": b"{}\n", "d/x": b"1", "e/\u00fc": b"\0"}}, op)["a"]
    assert {"a": first} == other.heads()
    second = other.commit({"a": first}, {"a": {"d/x": None, "d/y": b"2"}}, op)["a"]
    with pytest.raises(Conflict):
        store.commit({"a": first}, {"a": {"d/z": b"3"}}, op)
    fresh = hub.open()
    assert {"a": second} == fresh.heads()
    fresh.near(second, ["d/", "e/\u00fc", "none"])
    tree = fresh.tree(fresh.commit_info(second).tree)
    assert b"\0" == fresh.blob(fresh.tree(tree["e"].oid)["\u00fc"].oid)
    exchanges = hub.twin.exchanges
    assert exchanges.recorded
    assert [] == check_exchanges(exchanges.recorded)
    assert (mode == "rest") == (not exchanges.documents)
    assert [] == check_documents(exchanges.documents)


def test_documents_that_do_not_suit_are_noticed() -> None:
    """The tests' own documents are valid; an unknown field is not."""
    assert [] == check_documents([COMMIT, UPDATE_REFS])
    assert 1 == len(check_documents(["{ viewer { login nothing } }"]))


REFS = "/api/v3/repos/me/hub/git/refs"
CONTENTS = "/api/v3/repos/me/hub/contents/a/b.json"
REF = {
    "ref": "refs/heads/x",
    "node_id": "x",
    "url": "http://x",
    "object": {"type": "commit", "sha": "1" * 40, "url": "http://x"},
}


@pytest.mark.parametrize(
    ("method", "path", "request_", "status", "response", "part"),
    [
        ("POST", REFS, {"ref": "refs/heads/x", "sha": "1"}, 201, REF, None),
        ("POST", REFS, {"ref": "refs/heads/x"}, 201, REF, "'sha' is a required property"),
        ("POST", REFS, {"ref": "r", "sha": "1", "old": "2"}, 201, REF, "'old' is unknown"),
        ("POST", REFS, None, 201, REF, "needs a body"),
        ("POST", REFS, {"ref": "r", "sha": "1"}, 200, REF, "not listed"),
        ("POST", REFS, {"ref": "r", "sha": "1"}, 201, {**REF, "object": {}}, "'sha' is a required property"),
        ("POST", REFS, {"ref": "r"}, 422, {"message": "m", "documentation_url": "u"}, None),
        ("POST", REFS, {"ref": "r"}, 422, {"message": 1, "documentation_url": "u"}, "not of type 'string'"),
        ("POST", REFS, {"ref": "r", "sha": "1"}, 403, None, None),
        ("DELETE", f"{REFS}/heads/a/b", None, 204, None, None),
        ("DELETE", f"{REFS}/heads/a/b", None, 204, {}, "has no body"),
        ("DELETE", f"{REFS}/heads/a/b", {"sha": "1"}, 204, None, "takes no body"),
        ("GET", "/api/v3/repos/me/hub/git/matching-refs/heads/a/", None, 200, [REF], None),
        ("GET", "/api/v3/repos/me/hub/git/matching-refs/heads/a/", None, 200, [REF, {}], "required"),
        ("GET", "/api/v3/repos/me/hub/git/matching-refs/heads/a/?page=2", None, 200, [], None),
        ("GET", "/api/v3/repos/me/hub/git/ref/heads/a?page=2", None, 200, REF, "query's 'page' is unknown"),
        ("GET", "/api/v3/user/repos?per_page=x", None, 200, [], "query per_page"),
        ("GET", "/api/v3/nothing/at/all", None, 200, [], "no such operation"),
        ("GET", "/api/v3/nothing/at/all", None, 404, {}, None),
        ("PATCH", "/api/v3/user", {}, 500, None, None),
        ("PUT", CONTENTS, {"message": "m", "content": ""}, 409, {"message": "m"}, None),
        ("PUT", CONTENTS, {"message": "m", "content": ""}, 409, {"message": 1}, "not valid under any"),
    ],
)
def test_exchanges_are_held_to_the_openapi_description(
    method: str, path: str, request_: Any, status: int, response: Any, part: str | None
) -> None:
    """Path, query, request, status and answer are each looked at."""
    exchange = Recorded(method, "", path, request_, status, "application/json; charset=utf-8", response)
    found = check_exchanges([exchange])
    if part is None:
        assert [] == found
    else:
        assert any(part in each for each in found), found


def test_nulls_are_allowed_where_the_description_says_so() -> None:
    """``nullable`` of OpenAPI 3.0 is understood, and null elsewhere refused."""
    user: Mapping[str, Any] = {"message": None, "documentation_url": "u"}
    exchange = Recorded("GET", "", "/api/v3/repos/me/hub", None, 404, "application/json", user)
    assert ["None is not of type 'string'"] == [each.split(": ", 2)[-1] for each in check_exchanges([exchange])]
    exchange = Recorded("POST", "", "/api/v3/user/repos", {"name": "x", "description": None}, 201, "text/plain", None)
    assert "description" in check_exchanges([exchange])[0]


def test_without_the_packages_the_check_is_skipped_here_and_fails_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody believes to have checked what was not there."""
    monkeypatch.setenv("GHCOORD_SCHEMAS", str(tmp_path))
    monkeypatch.delenv("GHCOORD_CI", raising=False)
    monkeypatch.setattr("tests.twin.official.find_schemas", find_schemas.__wrapped__)
    with pytest.raises(pytest.skip.Exception, match="octokit"):
        require_schemas()
    monkeypatch.setenv("GHCOORD_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="octokit"):
        require_schemas()


def test_another_tarball_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    """What is fetched is what these tests were written against."""
    with pytest.raises(ValueError, match="SHA-256"):
        unpack(GRAPHQL, b"something else", tmp_path)
    assert [] == list(tmp_path.iterdir())
