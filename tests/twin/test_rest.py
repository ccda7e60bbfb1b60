"""The twin's REST API does what the fact sheet says."""

from __future__ import annotations

import base64
from dataclasses import replace

from ghcoord.twin.server import Twin
from ghcoord.twin.switches import Switches
from tests.twin.asking import HUB, Asking


def test_a_ref_update_checks_fast_forward_only(me: Asking) -> None:
    """Of two commits on one head the second is refused, and forced it wins: a CAS only among direct children."""
    head = me.head()
    first, second = me.commit(head, text="1"), me.commit(head, text="2")
    assert 200 == me.move(first).status
    refused = me.move(second)
    assert (422, "Update is not a fast forward") == (refused.status, refused.body["message"])
    assert first == me.head()
    assert 200 == me.move(second, force=True).status
    assert second == me.head()
    assert (422, "Object does not exist") == (me.move("1" * 40).status, me.move("1" * 40).body["message"])


def test_creating_and_deleting_refs(me: Asking) -> None:
    """A ref is created once, in any namespace but refs/pull; deletion asks nothing, and twice is refused."""
    head = me.head()
    assert 201 == me.create("refs/ghcoord/locks", head).status
    again = me.create("refs/ghcoord/locks", head)
    assert (422, "Reference already exists") == (again.status, again.body["message"])
    below = me.create("refs/ghcoord/locks/x", head)
    assert (422, "Reference update failed") == (below.status, below.body["message"])
    assert 422 == me.create("refs/ghcoord", head).status
    assert 422 == me.create("refs/pull/1/head", head).status
    assert 204 == me("DELETE", f"{HUB}/git/refs/ghcoord/locks").status
    assert 422 == me("DELETE", f"{HUB}/git/refs/ghcoord/locks").status
    assert 404 == me("GET", f"{HUB}/git/ref/ghcoord/locks").status


def test_matching_refs_is_a_prefix_of_characters(me: Asking) -> None:
    """``pr/87`` lists ``pr/872`` too, in the order of names."""
    for name in ("pr/872", "pr/87", "pr/9"):
        me.create(f"refs/{name}", me.head())
    found = me("GET", f"{HUB}/git/matching-refs/pr/87").body
    assert ["refs/pr/87", "refs/pr/872"] == [one["ref"] for one in found]
    assert [] == me("GET", f"{HUB}/git/matching-refs/none").body


def test_an_etag_answers_304_until_something_moves(me: Asking, twin: Twin) -> None:
    """The same token gets a free 304, another token and a moved ref a 200."""
    path = f"{HUB}/git/matching-refs/heads/"
    tag = me("GET", path).headers["etag"]
    assert tag.startswith('W/"')
    assert 304 == me("GET", path, if_none_match=tag).status
    assert [True, False] == [entry.counted for entry in twin.log[-2:]]
    assert ["poll", "poll"] == [entry.kind for entry in twin.log[-2:]]
    other = Asking(twin, twin.user("me"))
    assert 200 == other("GET", path, if_none_match=tag).status
    me.move(me.commit(me.head()))
    assert 200 == me("GET", path, if_none_match=tag).status
    twin.switches = Switches(etags_differ_by_token=False)
    assert 304 == other("GET", path, if_none_match=me("GET", path).headers["etag"]).status
    twin.switches = Switches(not_modified=False)
    assert 200 == me("GET", path, if_none_match=me("GET", path).headers["etag"]).status


def test_the_commits_id_is_its_etag(me: Asking) -> None:
    """With the media type for ids, the answer is the id and so is the ETag."""
    reply = me("GET", f"{HUB}/commits/main", accept="application/vnd.github.sha")
    assert (me.head(), f'"{me.head()}"') == (reply.payload().decode(), reply.headers["etag"])
    assert (
        304
        == me(
            "GET", f"{HUB}/commits/main", accept="application/vnd.github.sha", if_none_match=reply.headers["etag"]
        ).status
    )


def test_trees_take_inline_content_and_delete_by_null(me: Asking, twin: Twin) -> None:
    """Entries go on top of base_tree; deleting what is absent is refused, or ignored by the switch."""
    head = me.head()
    one = me.commit(head, "a/b/c.json", "{}")
    me.move(me.commit(one, "a/d.json", "2"))
    tree = me("GET", f"{HUB}/git/trees/main?recursive=1").body
    assert ["a", "a/b", "a/b/c.json", "a/d.json"] == [entry["path"] for entry in tree["tree"]]
    gone = [{"path": "a/b/c.json", "mode": "100644", "type": "blob", "sha": None}]
    body = {"base_tree": tree["sha"], "tree": gone}
    smaller = me("POST", f"{HUB}/git/trees", body).body["sha"]
    assert ["a/d.json"] == [e["path"] for e in me("GET", f"{HUB}/git/trees/{smaller}?recursive=1").body["tree"]][1:]
    assert 422 == me("POST", f"{HUB}/git/trees", {"base_tree": smaller, "tree": gone}).status
    twin.switches = Switches(absent_delete_is_error=False)
    assert smaller == me("POST", f"{HUB}/git/trees", {"base_tree": smaller, "tree": gone}).body["sha"]
    twin.switches = Switches(tree_limit=2)
    cut = me("GET", f"{HUB}/git/trees/main?recursive=1").body
    assert (True, 2) == (cut["truncated"], len(cut["tree"]))


def test_a_blob_and_a_commit_come_back_as_they_were_given(me: Asking, twin: Twin) -> None:
    """Binary content, author and date survive; a server may choose the date instead."""
    data = base64.b64encode(b"\0\xff").decode()
    blob = me("POST", f"{HUB}/git/blobs", {"content": data, "encoding": "base64"}).body["sha"]
    assert b"\0\xff" == base64.b64decode(me("GET", f"{HUB}/git/blobs/{blob}").body["content"])
    tree = me("GET", f"{HUB}/git/trees/main").body["sha"]
    author = {"name": "Ada", "email": "ada@example.org", "date": "1999-01-02T03:04:05Z"}
    body = {"message": "said\n", "tree": tree, "parents": [me.head()], "author": author}
    made = me("POST", f"{HUB}/git/commits", body).body
    assert (author, "said\n") == (made["author"], made["message"])
    assert made == me("GET", f"{HUB}/git/commits/{made['sha']}").body
    twin.switches = Switches(commit_dates_free=False)
    assert "2023" == me("POST", f"{HUB}/git/commits", body).body["author"]["date"][:4]
    assert 422 == me("POST", f"{HUB}/git/commits", {**body, "tree": "1" * 40}).status


def test_the_contents_api_compares_blobs(me: Asking, twin: Twin) -> None:
    """A new file is 201, an update needs the blob's id: without it 422, with an old one 409."""
    made = me.put("a.json", "1")
    assert 201 == made.status
    old = made.body["content"]["sha"]
    assert 422 == me.put("a.json", "2").status
    assert 200 == me.put("a.json", "2", sha=old).status
    assert (409, f"a.json does not match {old}") == (
        me.put("a.json", "3", sha=old).status,
        me.put("a.json", "3", sha=old).body["message"],
    )
    assert 201 == me.put("new.json", "1", sha=old).status
    twin.switches = Switches(contents_sha_ignored_when_absent=False)
    assert 409 == me.put("other.json", "1", sha=old).status
    shown = me("GET", f"{HUB}/contents/a.json").body
    assert (b"2", "file") == (base64.b64decode(shown["content"]), shown["type"])
    assert 200 == me("DELETE", f"{HUB}/contents/a.json", {"message": "m", "sha": shown["sha"]}).status
    assert ["new.json"] == [entry["name"] for entry in me("GET", f"{HUB}/contents/").body]


def test_two_writers_of_different_files_meet_on_the_branch(me: Asking, twin: Twin) -> None:
    """Whoever loses the branch in between is told 409 «is at … but expected …», or served, by the switch."""
    repository = twin.hosting.repositories["me/hub"]
    make = repository.create_commit

    def meanwhile(*args: object) -> str:
        """Somebody else commits before the ref moves, once."""
        repository.create_commit = make  # type: ignore[method-assign]
        made = make(*args)  # type: ignore[arg-type]
        me.put("theirs.json", "x")
        return made

    repository.create_commit = meanwhile  # type: ignore[method-assign, assignment]
    lost = me.put("mine.json", "1")
    assert 409 == lost.status
    assert "but expected" in lost.body["message"]
    twin.switches = replace(twin.switches, contents_serialise=False)
    repository.create_commit = meanwhile  # type: ignore[method-assign, assignment]
    sha = me("GET", f"{HUB}/contents/theirs.json").body["sha"]
    me("DELETE", f"{HUB}/contents/theirs.json", {"message": "m", "sha": sha})
    repository.create_commit = meanwhile  # type: ignore[method-assign, assignment]
    assert 201 == me.put("mine.json", "1").status
    assert ["mine.json", "theirs.json"] == [entry["name"] for entry in me("GET", f"{HUB}/contents/").body]


def test_an_empty_repository_takes_only_a_file(twin: Twin) -> None:
    """Git data are refused with 409 until the contents API made the first commit."""
    me = Asking(twin, twin.user("me"))
    twin.repository("me", "hub")
    refused = me("GET", f"{HUB}/git/matching-refs/heads")
    assert (409, "Git Repository is empty.") == (refused.status, refused.body["message"])
    assert 409 == me("POST", f"{HUB}/git/blobs", {"content": "x"}).status
    assert 409 == me.create("refs/heads/x", "1" * 40).status
    twin.switches = Switches(empty_refs_refused=False)
    assert [] == me("GET", f"{HUB}/git/matching-refs/heads").body
    assert 201 == me.put("a.json", "1").status
    assert 1 == len(me("GET", f"{HUB}/git/matching-refs/heads").body)


def test_history_comes_in_pages(me: Asking) -> None:
    """The list of commits starts at the newest and goes on with ``page``."""
    made = [me.head()]
    for text in "123":
        made.append(me.commit(made[-1], text=text))
        me.move(made[-1])
    pages = [me("GET", f"{HUB}/commits?sha=main&per_page=3&page={page}").body for page in (1, 2)]
    assert list(reversed(made)) == [commit["sha"] for page in pages for commit in page]


def test_too_big_a_tree_is_refused(me: Asking, twin: Twin) -> None:
    """A body above the limit gets the status that the switch says."""
    twin.switches = Switches(payload_limit=100, payload_status=502)
    body = {"tree": [{"path": "a", "mode": "100644", "type": "blob", "content": "x" * 200}]}
    assert 502 == me("POST", f"{HUB}/git/trees", body).status


def test_what_nobody_knows_is_not_found(me: Asking) -> None:
    """Unknown paths are 404, broken JSON is 400."""
    assert 404 == me("GET", "/nothing").status
    assert 422 == me("POST", f"{HUB}/git/refs", []).status
