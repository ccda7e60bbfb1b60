"""createCommitOnBranch, updateRefs and the single-ref mutations of the twin behave as the fact sheet says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ghcoord.twin.objects import NewEntry, Person
from ghcoord.twin.repository import Protection
from tests.twin.boxes import NOW, NULL, Box, files_of


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A repository as reported."""
    return Box(tmp_path)


def test_commit_is_a_child_of_the_expected_head_by_the_viewer(box: Box) -> None:
    """Files come and go in one commit whose author is who asks and whose committer is GitHub."""
    head = box.start({"a.json": b"1", "b/c.json": b"2", "b/d.json": b"3"})
    answer = box.commit(head, {"b/c.json": b"new", "x/y": b"\0\xff"}, ["a.json", "b/d.json"], headline="h", body="b\nc")
    made = answer.data["createCommitOnBranch"]
    commit = made["commit"]
    assert {"b/c.json": b"new", "x/y": b"\0\xff"} == files_of(box.hub, commit["oid"])
    assert commit["oid"] == box.hub.head("refs/heads/main")
    assert {"name": "main", "prefix": "refs/heads/", "target": {"oid": commit["oid"]}} == made["ref"]
    assert [{"oid": head}] == commit["parents"]["nodes"]
    assert ("h\n\nb\nc", "h", "b\nc") == (commit["message"], commit["messageHeadline"], commit["messageBody"])
    assert {"login": "me"} == commit["author"]["user"]
    assert "2023-11-14T22:13:20+00:00" == commit["author"]["date"]
    assert {"name": "GitHub", "email": "noreply@github.com"} == commit["committer"]
    assert ["Commit", "createCommitOnBranch"] == answer.context.operations


def test_stale_head_is_refused_with_200_and_changes_nothing(box: Box) -> None:
    """A lost race is STALE_DATA in the words reported, with null beside it."""
    old = box.start()
    new = box.commit(old, {"b": b"1"}).data["createCommitOnBranch"]["commit"]["oid"]
    answer = box.commit(old, {"b": b"2"})
    assert 200 == answer.status
    assert {"createCommitOnBranch": None} == answer.body["data"]
    assert "STALE_DATA" == answer.error["type"]
    assert ["createCommitOnBranch"] == answer.error["path"]
    assert f'Expected branch to point to "{old}" but it did not. Pull and try again.' == answer.error["message"]
    assert new == box.hub.head("refs/heads/main")


@pytest.mark.parametrize(
    ("switches", "type_", "message"),
    [
        ({"stale_data_type": None}, None, 'Expected branch to point to "{old}" but'),
        ({"stale_data_message": "Out of date"}, "STALE_DATA", "Out of date"),
        ({"stale_names_actual": True}, "STALE_DATA", 'Expected branch to point to "{new}" but'),
    ],
)
def test_other_forms_of_a_stale_head(tmp_path: Path, switches: dict[str, Any], type_: str | None, message: str) -> None:
    """Each switch changes the refusal's form, and never that it is one."""
    box = Box(tmp_path, **switches)
    old = box.start()
    new = box.commit(old, {"b": b"1"}).data["createCommitOnBranch"]["commit"]["oid"]
    error = box.commit(old, {"b": b"2"}).error
    assert type_ == error.get("type")
    assert error["message"].startswith(message.format(old=old, new=new))
    assert new == box.hub.head("refs/heads/main")


def test_branch_must_exist(box: Box) -> None:
    """A commit cannot make a branch."""
    head = box.start()
    assert "NOT_FOUND" == box.commit(head, {"b": b"1"}, branch="other").error["type"]
    assert ["refs/heads/main"] == list(box.hub.refs())


def test_branch_by_its_global_id(box: Box) -> None:
    """The id that a query told names the branch; a tag's does not."""
    head = box.start()
    box.put("refs/tags/v1", head)
    ids = box.repository('branch: ref(qualifiedName: "main") { id } tag: ref(qualifiedName: "refs/tags/v1") { id }')
    query = "mutation($input: CreateCommitOnBranchInput!) { createCommitOnBranch(input: $input) { commit { oid } } }"
    value = {"branch": {"id": ids["branch"]["id"]}, "expectedHeadOid": head, "message": {"headline": "x"}}
    made = box.ask(query, input=value).data["createCommitOnBranch"]["commit"]["oid"]
    assert made == box.hub.head("refs/heads/main")
    assert files_of(box.hub, head) == files_of(box.hub, made)
    tag = {**value, "branch": {"id": ids["tag"]["id"]}}
    assert "no branch" in box.ask(query, input=tag).error["message"]


@pytest.mark.parametrize(
    ("additions", "deletions", "part"),
    [
        ({"a.json/b": b""}, [], "is a file"),
        ({"n": b"", "n/m": b""}, [], "is a file"),
        ({"d": b""}, [], "is a folder"),
        ({"a.json": b""}, ["a.json"], "more than once"),
        ({"/x": b""}, [], "malformed"),
        ({"x/../y": b""}, [], "malformed"),
        ({".git/config": b""}, [], "malformed"),
        ({}, [""], "malformed"),
        ({}, ["nothing"], "does not exist as of commit"),
    ],
)
def test_impossible_changes_are_refused_whole(
    box: Box, additions: dict[str, bytes], deletions: list[str], part: str
) -> None:
    """Nothing of a change set is done when one part cannot be."""
    head = box.start({"a.json": b"1", "d/e": b"2"})
    answer = box.commit(head, {"good": b"1", **additions}, deletions)
    assert part in answer.error["message"]
    assert head == box.hub.head("refs/heads/main")


def test_contents_must_be_base64(box: Box) -> None:
    """What is no base64 is refused."""
    head = box.start()
    query = "mutation($input: CreateCommitOnBranchInput!) { createCommitOnBranch(input: $input) { commit { oid } } }"
    value = {
        "branch": {"repositoryNameWithOwner": "me/hub", "branchName": "main"},
        "expectedHeadOid": head,
        "message": {"headline": "x"},
        "fileChanges": {"additions": [{"path": "x", "contents": "no base64!"}]},
    }
    assert "base64" in box.ask(query, input=value).error["message"]


def test_a_file_may_become_a_folder_in_one_commit(box: Box) -> None:
    """A path below a file that the same commit deletes is possible."""
    head = box.start({"a": b"1"})
    made = box.commit(head, {"a/b": b"2"}, ["a"]).data["createCommitOnBranch"]["commit"]["oid"]
    assert {"a/b": b"2"} == files_of(box.hub, made)


@pytest.mark.parametrize(
    ("switch", "deletions", "value"),
    [("absent_file_deletion_is_error", ["nothing"], False), ("empty_commits", [], True)],
)
def test_switches_of_change_sets(tmp_path: Path, switch: str, deletions: list[str], value: bool) -> None:
    """Deleting what is not there, and changing nothing, go through or are refused as the switch says."""
    for number, setting in enumerate((value, not value)):
        box = Box(tmp_path / str(number), **{switch: setting})
        answer = box.commit(box.start(), {}, deletions)
        assert (setting is value) == ("errors" not in answer.body)


def test_what_commits_end_with_is_a_switch(tmp_path: Path) -> None:
    """The server may end messages with a newline."""
    box = Box(tmp_path, message_newline=True)
    made = box.commit(box.start(), {"x": b""}, headline="one", body="two")
    assert "one\n\ntwo\n" == made.data["createCommitOnBranch"]["commit"]["message"]


def test_executable_files_stay_so(box: Box) -> None:
    """Replacing a file's content keeps its mode."""
    hub = box.hub
    head = box.start()
    commit = hub.commit(head)
    assert commit is not None
    tree = hub.edit_tree(commit.tree, {"run": NewEntry(0o100755, hub.create_blob(b"1"))})
    head = hub.create_commit(tree, [head], "x", Person("a", "b", int(NOW)))
    box.put("refs/heads/main", head)
    made = box.commit(head, {"run": b"2"}).data["createCommitOnBranch"]["commit"]["tree"]["oid"]
    entry = hub.at_path(made, "run")
    assert entry is not None
    assert 0o100755 == entry.mode


def test_who_may_not_write(box: Box) -> None:
    """No permission, a narrow token, an archived and an unseen repository are each told apart."""
    head = box.start()
    reader = box.as_("reader", contents="read", metadata="read")
    narrow = box.as_("narrow", "fine", contents="read", metadata="read")
    app = box.as_("app[bot]", "app", contents="read", metadata="read")
    refused = [box.commit(head, {"b": b""}, token=each).error for each in (reader, narrow, app)]
    assert ["FORBIDDEN"] * 3 == [each["type"] for each in refused]
    assert "does not have the correct permissions to execute `CreateCommitOnBranch`" in refused[0]["message"]
    assert "Resource not accessible by personal access token" == refused[1]["message"]
    assert "Resource not accessible by integration" == refused[2]["message"]
    box.hub.private = True
    assert "NOT_FOUND" == box.commit(head, {"b": b""}, token=box.as_("stranger")).error["type"]
    box.hub.archived = True
    assert {"type": "FORBIDDEN", "message": "Repository was archived so is read-only."} == {
        key: box.commit(head, {"b": b""}).error[key] for key in ("type", "message")
    }
    assert head == box.hub.head("refs/heads/main")


def test_protected_branches(box: Box) -> None:
    """A protected branch is refused to all but those allowed."""
    head = box.start()
    box.hub.protected["main"] = Protection()
    assert "BRANCH_PROTECTION_RULE_VIOLATION" == box.commit(head, {"b": b""}).error["type"]
    assert "BRANCH_PROTECTION_RULE_VIOLATION" == box.move(("refs/heads/main", head, NULL)).error["type"]
    box.hub.protected["main"] = Protection(allow=frozenset({"me"}))
    assert "errors" not in box.commit(head, {"b": b""}).body


# updateRefs


def test_update_refs_is_all_or_nothing(box: Box) -> None:
    """Creations, moves and deletions happen together; one lost comparison stops all of them."""
    first = box.start(ref="refs/ghcoord/a")
    second = box.make({"x": b""}, first)
    box.put("refs/ghcoord/old", first)
    wrong = box.move(
        ("refs/ghcoord/a", first, second), ("refs/ghcoord/new", NULL, second), ("refs/ghcoord/old", second, NULL)
    )
    assert {"refs/ghcoord/a": first, "refs/ghcoord/old": first} == box.hub.refs()
    assert None is wrong.body["data"]
    right = box.move(
        ("refs/ghcoord/a", first, second), ("refs/ghcoord/new", NULL, second), ("refs/ghcoord/old", first, NULL)
    )
    assert {"updateRefs": {"clientMutationId": None}} == right.data
    assert {"refs/ghcoord/a": second, "refs/ghcoord/new": second} == box.hub.refs()


@pytest.mark.parametrize("case", ["stale", "exists", "absent", "not a fast forward", "object that does not exist"])
def test_lost_comparisons_are_opaque_or_told(tmp_path: Path, case: str) -> None:
    """As reported all look like a fault of the server's; with the switch off they say what it was."""
    for number, opaque in enumerate((True, False)):
        box = Box(tmp_path / str(number), update_refs_opaque=opaque)
        first = box.start(ref="refs/heads/a")
        child, other = box.make({"x": b""}, first), box.make({"y": b""})
        update = {
            "stale": ("refs/heads/a", child, child),
            "exists": ("refs/heads/a", NULL, child),
            "absent": ("refs/heads/b", first, child),
            "not a fast forward": ("refs/heads/a", first, other),
            "object that does not exist": ("refs/heads/b", NULL, "1" * 40),
        }[case]
        answer = box.move(update)
        assert {"refs/heads/a": first} == box.hub.refs()
        assert 200 == answer.status
        if opaque:
            assert {"data": None, "errors": [{"message": answer.error["message"]}]} == answer.body
            assert answer.error["message"].startswith("Something went wrong while executing your query")
        else:
            assert ["updateRefs"] == answer.error["path"]
            assert "Something went wrong" not in answer.error["message"]


def test_force_and_no_comparison(box: Box) -> None:
    """``force`` moves a ref anywhere, and without ``beforeOid`` nothing is compared."""
    first = box.start(ref="refs/heads/a")
    other = box.make({"y": b""})
    assert "errors" not in box.move(("refs/heads/a", first, other, True)).body
    child = box.make({"z": b""}, other)
    assert "errors" not in box.move(("refs/heads/a", None, child)).body
    assert child == box.hub.head("refs/heads/a")


def test_whether_an_entry_that_moves_nothing_is_compared_is_a_switch(tmp_path: Path) -> None:
    """``beforeOid == afterOid`` may guard another ref, or not."""
    for number, compared in enumerate((True, False)):
        box = Box(tmp_path / str(number), noop_update_compares=compared)
        first = box.start(ref="refs/heads/a")
        child = box.make({"x": b""}, first)
        answer = box.move(("refs/heads/a", child, child), ("refs/heads/b", NULL, child))
        assert compared == ("errors" in answer.body)
        assert (None if compared else child) == box.hub.head("refs/heads/b")


def test_names_must_be_whole_allowed_and_given_once(tmp_path: Path) -> None:
    """Short, reserved and repeated names are refused; custom ones by a switch."""
    box = Box(tmp_path / "a", update_refs_opaque=False)
    first = box.start()
    assert "not a valid ref name" in box.move(("a", NULL, first)).error["message"]
    assert "reserved" in box.move(("refs/pull/1/head", NULL, first)).error["message"]
    twice = box.move(("refs/heads/a", NULL, first), ("refs/heads/a", NULL, first))
    assert "more than once" in twice.error["message"]
    closed = Box(tmp_path / "b", custom_refs=False)
    assert "must be below refs/heads" in closed.move(("refs/x/y", NULL, closed.start())).error["message"]
    assert ["refs/heads/main"] == list(box.hub.refs()) == list(closed.hub.refs())


def test_single_ref_mutations(box: Box) -> None:
    """createRef, updateRef and deleteRef work by id, without a comparison."""
    first = box.start()
    child, other = box.make({"x": b""}, first), box.make({"y": b""})
    create = "mutation($input: CreateRefInput!) { createRef(input: $input) { ref { id name target { oid } } } }"
    value = {"repositoryId": box.hub.node_id, "name": "refs/heads/b/c", "oid": first}
    ref = box.ask(create, input=value).data["createRef"]["ref"]
    assert ("b/c", first) == (ref["name"], ref["target"]["oid"])
    assert "already exists" in box.ask(create, input=value).error["message"]
    update = "mutation($input: UpdateRefInput!) { updateRef(input: $input) { ref { target { oid } } } }"
    moved = box.ask(update, input={"refId": ref["id"], "oid": child})
    assert child == moved.data["updateRef"]["ref"]["target"]["oid"]
    assert "fast forward" in box.ask(update, input={"refId": ref["id"], "oid": other}).error["message"]
    assert "errors" not in box.ask(update, input={"refId": ref["id"], "oid": other, "force": True}).body
    delete = "mutation($input: DeleteRefInput!) { deleteRef(input: $input) { clientMutationId } }"
    gone = box.ask(delete, input={"refId": ref["id"], "clientMutationId": "7"})
    assert {"deleteRef": {"clientMutationId": "7"}} == gone.data
    assert ["refs/heads/main"] == list(box.hub.refs())
    assert "NOT_FOUND" == box.ask(delete, input={"refId": ref["id"]}).error["type"]


def test_an_older_server_lacks_a_mutation(tmp_path: Path) -> None:
    """A mutation that is switched off is unknown, and nothing is done."""
    box = Box(tmp_path, missing_mutations=frozenset({"updateRefs"}))
    answer = box.move(("refs/heads/a", NULL, box.start()))
    assert "Field 'updateRefs' doesn't exist on type 'Mutation'" == answer.error["message"]
    assert "data" not in answer.body
    assert ["refs/heads/main"] == list(box.hub.refs())
