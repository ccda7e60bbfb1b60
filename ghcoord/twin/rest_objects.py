"""REST: git blobs, trees and commits."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Any

from ghcoord.twin import shapes
from ghcoord.twin.hosting import person
from ghcoord.twin.objects import AbsentPath, CommitData, MissingObject, NewEntry, Oid, Person
from ghcoord.twin.repository import Repository, resolve
from ghcoord.twin.rest import Call, Refused, Reply, number, route

GIT = "/repos/{owner}/{repo}/git"
MODES = {"100644": 0o100644, "100755": 0o100755, "040000": 0o040000, "160000": 0o160000, "120000": 0o120000}


def writable(call: Call) -> Repository:
    """The repository for a write of objects, which an empty one does not take."""
    repository = call.repository("write")
    if repository.is_empty:
        raise Refused(409, "Git Repository is empty.")
    return repository


def check_size(call: Call) -> None:
    """Refuse a body that is too big."""
    switches = call.context.switches
    if call.size > switches.payload_limit:
        message = "Sorry, your input was too large to process. Consider creating the tree in parts."
        raise Refused(switches.payload_status, message)


@route("POST", GIT + "/blobs", content=True, objects=True)
def create_blob(call: Call) -> Reply:
    """Store a blob."""
    repository = writable(call)
    check_size(call)
    content = call.text("content")
    data = decode(content) if call.text("encoding", "utf-8") == "base64" else content.encode()
    oid = repository.create_blob(data)
    return Reply(201, {"sha": oid, "url": f"{call.api}/repos/{repository.full_name}/git/blobs/{oid}"})


@route("GET", GIT + "/blobs/{sha}")
def get_blob(call: Call) -> Reply:
    """A blob, whole, as base64 or raw."""
    repository = call.repository()
    oid = call.args["sha"]
    data = repository.blob(oid)
    if data is None:
        raise Refused(404, "Not Found")
    if "raw" in call.context.headers.get("accept", ""):
        return Reply(200, raw=data, content_type="application/vnd.github.raw; charset=utf-8")
    body = {
        "sha": oid,
        "node_id": f"B_twin{repository.number}:{oid}",
        "size": len(data),
        "url": f"{call.api}/repos/{repository.full_name}/git/blobs/{oid}",
        "content": base64.encodebytes(data).decode(),
        "encoding": "base64",
    }
    return Reply(200, body)


@route("POST", GIT + "/trees", content=True, objects=True)
def create_tree(call: Call) -> Reply:
    """A tree of entries with inline content or object ids, on top of ``base_tree``; a null ``sha`` deletes."""
    repository = writable(call)
    check_size(call)
    entries = call.body.get("tree") if isinstance(call.body, dict) else None
    if not isinstance(entries, list):
        raise Refused(422, "Invalid tree info")
    base = call.body.get("base_tree") or None
    if base is not None:
        commit = repository.commit(str(base))
        base = commit.tree if commit is not None else str(base)
    with repository.lock:
        changes = dict(_entry(repository, each) for each in entries)
        try:
            strict = call.context.switches.absent_delete_is_error
            oid = repository.edit_tree(base, changes, absent_is_error=strict)
        except AbsentPath:
            raise Refused(422, "GitRPC::BadObjectState") from None
        except MissingObject as missing:
            raise Refused(422, f"tree.sha {missing.oid} is not a valid object") from None
        shown = [(one.name, one) for one in repository.tree(oid) or ()]
        return Reply(201, shapes.tree(repository, oid, shown, False, call.api))


def _entry(repository: Repository, given: Any) -> tuple[str, NewEntry | None]:
    if not isinstance(given, dict) or not isinstance(given.get("path"), str) or not good_path(given["path"]):
        raise Refused(422, "tree.path contains a malformed path component")
    path = given["path"]
    mode = MODES.get(str(given.get("mode")))
    if mode is None:
        raise Refused(422, "Must supply a valid tree.mode")
    if isinstance(given.get("content"), str):
        return path, NewEntry(mode, repository.create_blob(given["content"].encode()))
    if "sha" not in given:
        raise Refused(422, "Must supply either tree.sha or tree.content")
    return path, None if given["sha"] is None else NewEntry(mode, str(given["sha"]))


def good_path(path: str) -> bool:
    """Whether git takes it as a path of a file."""
    return bool(path) and all(part not in ("", ".", "..", ".git") for part in path.split("/")) and "\0" not in path


@route("GET", GIT + "/trees/{sha+}")
def get_tree(call: Call) -> Reply:
    """A tree's entries, with ``recursive`` all below it, cut at a limit."""
    repository = call.repository()
    if repository.is_empty:
        raise Refused(409, "Git Repository is empty.")
    found = resolve(repository, call.args["sha"], call.context.refs(repository))
    commit = repository.commit(found) if found is not None else None
    oid = commit.tree if commit is not None else found
    entries = repository.tree(oid) if oid is not None else None
    if oid is None or entries is None:
        raise Refused(404, "Not Found")
    if "recursive" in call.context.query:
        listed, truncated = repository.walk(oid, call.context.switches.tree_limit)
        return Reply(200, shapes.tree(repository, oid, listed, truncated, call.api))
    return Reply(200, shapes.tree(repository, oid, [(one.name, one) for one in entries], False, call.api))


@route("POST", GIT + "/commits", content=True, objects=True)
def create_commit(call: Call) -> Reply:
    """A commit that no ref names yet, with any author and dates."""
    repository = writable(call)
    message, tree = call.text("message"), call.text("tree")
    parents = call.body.get("parents") or []
    if not isinstance(parents, list):
        raise Refused(422, "Invalid request.\n\nparents is not an array.")
    author = _given_person(call, call.body.get("author"), None)
    committer = _given_person(call, call.body.get("committer"), author)
    data = add_commit(call, repository, tree, [str(each) for each in parents], message, author, committer)
    return Reply(201, shapes.commit(repository, data, call.api))


def add_commit(
    call: Call,
    repository: Repository,
    tree: Oid,
    parents: list[Oid],
    message: str,
    author: Person,
    committer: Person,
) -> CommitData:
    """Store a commit with the message as the server keeps it."""
    try:
        oid = repository.create_commit(tree, parents, stored_message(call, message), author, committer)
    except MissingObject as missing:
        what = (
            "Tree SHA does not exist" if missing.oid == tree else "Parent SHA does not exist or is not a commit object"
        )
        raise Refused(422, what) from None
    data = repository.commit(oid)
    assert data is not None
    return data


def stored_message(call: Call, message: str) -> str:
    """The message as the server keeps it."""
    return message.rstrip("\n") + "\n" if call.context.switches.message_newline else message


def _given_person(call: Call, given: Any, default: Person | None) -> Person:
    mine = default or person(call.context.login, call.context.now)
    if not isinstance(given, dict):
        return mine
    time = mine.time
    if isinstance(given.get("date"), str) and call.context.switches.commit_dates_free:
        try:
            time = int(datetime.fromisoformat(given["date"]).timestamp())
        except ValueError:
            raise Refused(422, "Invalid date") from None
    return Person(str(given.get("name") or mine.name), str(given.get("email") or mine.email), time)


@route("GET", GIT + "/commits/{sha}")
def get_commit(call: Call) -> Reply:
    """One commit."""
    repository = call.repository()
    data = repository.commit(call.args["sha"])
    if data is None:
        raise Refused(404, "Not Found")
    return Reply(200, shapes.commit(repository, data, call.api))


@route("GET", "/repos/{owner}/{repo}/commits/{ref+}")
def show_commit(call: Call) -> Reply:
    """The commit that a ref names; as ``application/vnd.github.sha`` only its id, which is its ETag too."""
    repository = call.repository()
    if repository.is_empty:
        raise Refused(409, "Git Repository is empty.")
    found = resolve(repository, call.args["ref"], call.context.refs(repository))
    data = repository.commit(found) if found is not None else None
    if data is None:
        raise Refused(422, f"No commit found for SHA: {call.args['ref']}")
    if "sha" in call.context.headers.get("accept", ""):
        etag = {"etag": f'"{data.oid}"'}
        return Reply(200, headers=etag, raw=data.oid.encode(), content_type="application/vnd.github.sha; charset=utf-8")
    return Reply(200, shapes.listed_commit(repository, data, call.api))


@route("GET", "/repos/{owner}/{repo}/commits")
def list_commits(call: Call) -> Reply:
    """A page of the history of ``sha`` (default: the default branch)."""
    repository = call.repository()
    if repository.is_empty:
        raise Refused(409, "Git Repository is empty.")
    query = call.context.query
    found = resolve(repository, query.get("sha") or "HEAD", call.context.refs(repository))
    if found is None or repository.commit(found) is None:
        raise Refused(404, "Not Found")
    size, page = number(query.get("per_page"), 30), number(query.get("page"), 1)
    shown: list[dict[str, Any]] = []
    for index, data in enumerate(repository.history(found)):
        if index >= size * page:
            break
        if index >= size * (page - 1):
            shown.append(shapes.listed_commit(repository, data, call.api))
    return Reply(200, shown)


def decode(text: str) -> bytes:
    """Base64 as the API takes it: line breaks are welcome."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "content is not valid Base64") from None
