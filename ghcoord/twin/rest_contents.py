"""REST: the contents API, which commits one file to a branch."""

from __future__ import annotations

import base64

from ghcoord.twin import shapes
from ghcoord.twin.hosting import person
from ghcoord.twin.objects import CommitData, NewEntry
from ghcoord.twin.refusals import ref_write_refused
from ghcoord.twin.repository import RefRefused, RefUpdate, Repository, resolve
from ghcoord.twin.rest import Call, Refused, Reply, route
from ghcoord.twin.rest_objects import add_commit, check_size, decode, good_path

CONTENTS = "/repos/{owner}/{repo}/contents/{path+}"
MEGABYTE = 1_000_000
MAX_LISTED = 1_000


@route("GET", CONTENTS)
def get_contents(call: Call) -> Reply:
    """A file with its content up to 1 MB, or up to 1,000 entries of a folder."""
    repository = call.repository()
    at = call.context.query.get("ref") or repository.default_branch
    path = call.args["path"].strip("/")
    found = resolve(repository, at, call.context.refs(repository))
    commit = repository.commit(found) if found is not None else None
    if repository.is_empty:
        raise Refused(404, "This repository is empty.")
    if commit is None:
        raise Refused(404, f"No commit found for the ref {at}")
    entry = repository.at_path(commit.tree, path)
    if entry is None:
        raise Refused(404, "Not Found")
    if entry.kind == "tree":
        listed = list(repository.tree(entry.oid) or ())[:MAX_LISTED]
        prefix = f"{path}/" if path else ""
        return Reply(
            200,
            [
                shapes.file(repository, prefix + one.name, one, repository.blob_size(one.oid), call.api, at)
                for one in listed
            ],
        )
    data = repository.blob(entry.oid) or b""
    if "raw" in call.context.headers.get("accept", ""):
        return Reply(200, raw=data, content_type="application/vnd.github.raw; charset=utf-8")
    body = shapes.file(repository, path, entry, len(data), call.api, at)
    small = len(data) <= MEGABYTE
    body["encoding"] = "base64" if small else "none"
    body["content"] = base64.encodebytes(data).decode() if small else ""
    return Reply(200, body)


@route("PUT", CONTENTS, content=True)
def put_contents(call: Call) -> Reply:
    """Create or replace a file; ``sha`` is the blob that is replaced."""
    repository = call.repository("write")
    check_size(call)
    path, branch = _target(call, repository)
    content = decode(call.text("content"))
    call.text("message")
    data, created = _change(call, repository, path, branch, content)
    entry = repository.at_path(data.tree, path)
    assert entry is not None
    shown = shapes.file(repository, path, entry, len(content), call.api, branch)
    return Reply(201 if created else 200, {"content": shown, "commit": shapes.commit(repository, data, call.api)})


@route("DELETE", CONTENTS, content=True)
def delete_contents(call: Call) -> Reply:
    """Delete a file; ``sha`` is its blob."""
    repository = call.repository("write")
    if not isinstance(call.body, dict):
        # Parameters of a DELETE may come in the query.
        call.body = dict(call.context.query)
    path, branch = _target(call, repository)
    call.text("sha")
    data, _ = _change(call, repository, path, branch, None)
    return Reply(200, {"content": None, "commit": shapes.commit(repository, data, call.api)})


def _target(call: Call, repository: Repository) -> tuple[str, str]:
    path, branch = call.args["path"], call.text("branch", repository.default_branch).removeprefix("refs/heads/")
    if not good_path(path):
        raise Refused(422, "path contains a malformed path component")
    ref = f"refs/heads/{branch}"
    refused = ref_write_refused(call.context, repository, ref)
    if refused is not None:
        raise Refused(409, f"Could not update file: {refused}")
    if repository.head(ref) is None and not repository.is_empty:
        raise Refused(404, f"Branch {branch} not found")
    return path, branch


def _change(
    call: Call, repository: Repository, path: str, branch: str, content: bytes | None
) -> tuple[CommitData, bool]:
    """Commit it; whether the file is new. The branch may move in between, as on a server with many processes."""
    context, ref = call.context, f"refs/heads/{branch}"
    while True:
        head = repository.head(ref)
        commit = repository.commit(head) if head is not None else None
        tree = commit.tree if commit is not None else None
        entry = repository.at_path(tree, path) if tree is not None else None
        _compare(call, path, entry.oid if entry is not None else None, delete=content is None)
        change = None if content is None else NewEntry(0o100644, repository.create_blob(content))
        me = person(context.login, context.now)
        made = repository.edit_tree(tree, {path: change})
        data = add_commit(call, repository, made, [head] if head is not None else [], call.text("message", ""), me, me)
        try:
            repository.update_refs([RefUpdate(ref, head, data.oid)], login=context.login, via="rest", now=context.now)
            return data, entry is None
        except RefRefused as refused:
            if refused.reason == "prefix":
                raise Refused(422, context.switches.prefix_message) from None
            if context.switches.contents_serialise:
                raise Refused(409, f"{ref} is at {refused.actual} but expected {head}") from None


def _compare(call: Call, path: str, actual: str | None, *, delete: bool) -> None:
    given = call.body.get("sha")
    if actual is None:
        if delete:
            raise Refused(404, "Not Found")
        if given is not None and not call.context.switches.contents_sha_ignored_when_absent:
            raise Refused(409, f"{path} does not match {given}")
    elif given is None:
        raise Refused(422, 'Invalid request.\n\n"sha" wasn\'t supplied.')
    elif given != actual:
        raise Refused(409, f"{path} does not match {given}")
