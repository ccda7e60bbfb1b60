"""GraphQL's mutations of refs: createCommitOnBranch, updateRefs, createRef, updateRef and deleteRef."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pygit2.enums import FileMode

from ghcoord.twin.context import RequestContext
from ghcoord.twin.graphql_errors import Opaque, Refused
from ghcoord.twin.graphql_nodes import RefNode, find_node, git_node, ref_node
from ghcoord.twin.hosting import person
from ghcoord.twin.objects import AbsentPath, NewEntry, Oid, Person, is_oid
from ghcoord.twin.refusals import READ_ONLY, ref_write_refused
from ghcoord.twin.repository import ANY, RefRefused, RefUpdate, Repository

NULL_OID = "0" * 40
"""In updateRefs: no ref."""

Payload = dict[str, Any]
Input = Mapping[str, Any]


def create_commit_on_branch(_: Any, context: RequestContext, input: Input) -> Payload:
    """Append one commit to a branch, if that still is where the caller expects it."""
    repository, ref = _branch(context, input["branch"])
    _check_write(context, repository, "CreateCommitOnBranch")
    _check_ref(context, repository, ref)
    changes = input.get("fileChanges") or {}
    additions = {each["path"]: _decoded(each["contents"]) for each in changes.get("additions") or ()}
    deletions = [each["path"] for each in changes.get("deletions") or ()]
    _check_paths([each["path"] for each in changes.get("additions") or ()], deletions)
    if not additions and not deletions and not context.switches.empty_commits:
        raise Refused("UNPROCESSABLE", "A commit needs at least one file change.")
    with repository.lock:
        head = repository.head(ref)
        if head is None:
            raise Refused("NOT_FOUND", f'Could not resolve to a Branch with the name "{ref}".')
        if head != input["expectedHeadOid"]:
            raise _stale(context, expected=input["expectedHeadOid"], actual=head)
        commit = repository.create_commit(
            _tree(context, repository, head, additions, deletions),
            [head],
            _message(context, input["message"]),
            person(context.login, context.now),
            Person("GitHub", "noreply@github.com", int(context.now)),
        )
        update = RefUpdate(ref, head, commit)
        repository.update_refs([update], login=context.login, via="graphql", now=context.now)
    return {
        "clientMutationId": input.get("clientMutationId"),
        "commit": git_node(repository, commit),
        "ref": ref_node(repository, ref, commit),
    }


def update_refs(_: Any, context: RequestContext, input: Input) -> Payload:
    """Move many refs of one repository, or none."""
    repository = _by_id(context, input["repositoryId"], Repository, "Repository")
    _check_write(context, repository, "UpdateRefs")
    updates = list(_updates(context, repository, input["refUpdates"]))
    try:
        repository.update_refs(updates, login=context.login, via="graphql", now=context.now)
    except RefRefused as refused:
        raise _refused(context, refused) from None
    return {"clientMutationId": input.get("clientMutationId")}


def create_ref(_: Any, context: RequestContext, input: Input) -> Payload:
    """Create a ref, named in full."""
    repository = _by_id(context, input["repositoryId"], Repository, "Repository")
    return _move(context, repository, RefUpdate(input["name"], None, input["oid"]), "CreateRef", input)


def update_ref(_: Any, context: RequestContext, input: Input) -> Payload:
    """Move a ref, wherever it is."""
    ref = _by_id(context, input["refId"], RefNode, "Ref")
    update = RefUpdate(ref.full, ANY, input["oid"], bool(input.get("force")))
    return _move(context, ref.repository, update, "UpdateRef", input)


def delete_ref(_: Any, context: RequestContext, input: Input) -> Payload:
    """Delete a ref, wherever it is."""
    ref = _by_id(context, input["refId"], RefNode, "Ref")
    return _move(context, ref.repository, RefUpdate(ref.full, ANY, None), "DeleteRef", input)


MUTATIONS: Mapping[str, Callable[..., Payload]] = {
    "createCommitOnBranch": create_commit_on_branch,
    "updateRefs": update_refs,
    "createRef": create_ref,
    "updateRef": update_ref,
    "deleteRef": delete_ref,
}


def _move(context: RequestContext, repository: Repository, update: RefUpdate, name: str, input: Input) -> Payload:
    _check_write(context, repository, name)
    _check_ref(context, repository, update.ref, delete=update.new is None, force=update.force)
    try:
        repository.update_refs([update], login=context.login, via="graphql", now=context.now)
    except RefRefused as refused:
        raise Refused("UNPROCESSABLE", _words(refused)) from None
    moved = None if update.new is None else ref_node(repository, update.ref, update.new)
    return {"clientMutationId": input.get("clientMutationId"), "ref": moved}


# who may


Found = TypeVar("Found", Repository, RefNode)


def _by_id(context: RequestContext, id_: str, kind: type[Found], name: str) -> Found:
    found = find_node(context, id_)
    if not isinstance(found, kind):
        raise Refused("NOT_FOUND", f"Could not resolve to a {name} node with the global id of '{id_}'.")
    return found


def _branch(context: RequestContext, branch: Input) -> tuple[Repository, str]:
    """The repository and the branch's full name; whether the branch exists is not looked at."""
    if branch.get("id") is not None:
        ref = _by_id(context, branch["id"], RefNode, "Ref")
        if not ref.full.startswith("refs/heads/"):
            raise Refused("UNPROCESSABLE", f"{ref.full} is no branch.")
        return ref.repository, ref.full
    place, name = branch.get("repositoryNameWithOwner"), branch.get("branchName")
    if not place or not name:
        raise Refused("UNPROCESSABLE", "Either id, or repositoryNameWithOwner and branchName, must be given.")
    owner, _, repository_name = place.partition("/")
    repository = context.repository(owner, repository_name)
    if repository is None:
        raise Refused("NOT_FOUND", f"Could not resolve to a Repository with the name '{place}'.")
    return repository, f"refs/heads/{name.removeprefix('refs/heads/')}"


def _check_write(context: RequestContext, repository: Repository, mutation: str) -> None:
    if repository.archived:
        raise Refused("FORBIDDEN", READ_ONLY)
    if context.may(repository, "contents", "write"):
        return
    token = context.token
    if token is None or token.kind == "classic":
        message = f"{context.login} does not have the correct permissions to execute `{mutation}`"
    elif token.kind == "fine":
        message = "Resource not accessible by personal access token"
    else:
        message = "Resource not accessible by integration"
    raise Refused("FORBIDDEN", message)


def _check_ref(
    context: RequestContext, repository: Repository, ref: str, *, delete: bool = False, force: bool = False
) -> None:
    refused = ref_write_refused(context, repository, ref, delete=delete, force=force)
    if refused is None:
        return
    protected = ref.removeprefix("refs/heads/") in repository.protected
    raise Refused("BRANCH_PROTECTION_RULE_VIOLATION" if protected else "UNPROCESSABLE", refused)


# createCommitOnBranch


def _stale(context: RequestContext, expected: str, actual: Oid) -> Refused:
    named = actual if context.switches.stale_names_actual else expected
    return Refused(context.switches.stale_data_type, context.switches.stale_data_message.format(expected=named))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("UNPROCESSABLE", "The contents of a file addition are not valid base64.") from None


def _check_paths(additions: Sequence[str], deletions: Sequence[str]) -> None:
    for path, times in Counter([*additions, *deletions]).items():
        parts = path.split("/")
        if any(part in ("", ".", "..") or part.lower() == ".git" for part in parts) or "\0" in path:
            raise Refused("UNPROCESSABLE", f'The path "{path}" is malformed.')
        if times > 1:
            raise Refused("UNPROCESSABLE", f'The path "{path}" is given more than once.')


def _tree(
    context: RequestContext, repository: Repository, head: Oid, additions: Mapping[str, bytes], deletions: Sequence[str]
) -> Oid:
    """The tree of the new commit."""
    before = repository.commit(head)
    base = before.tree if before is not None else None
    for path in additions:
        _check_place(repository, base, path, additions, deletions)
    changes: dict[str, NewEntry | None] = dict.fromkeys(deletions)
    for path, content in additions.items():
        entry = repository.at_path(base, path) if base is not None else None
        # A file that is replaced stays executable.
        mode = entry.mode if entry is not None and entry.mode == FileMode.BLOB_EXECUTABLE else int(FileMode.BLOB)
        changes[path] = NewEntry(mode, repository.create_blob(content))
    try:
        return repository.edit_tree(base, changes, absent_is_error=context.switches.absent_file_deletion_is_error)
    except AbsentPath as absent:
        message = f"A path was requested for deletion which does not exist as of commit oid `{head}`: {absent.path}"
        raise Refused("UNPROCESSABLE", message) from None


def _check_place(
    repository: Repository, base: Oid | None, path: str, additions: Mapping[str, bytes], deletions: Sequence[str]
) -> None:
    """Refuse a file where a folder is, and one below a file that stays or comes."""
    folder = repository.at_path(base, path) if base is not None else None
    if folder is not None and folder.kind == "tree":
        raise Refused("UNPROCESSABLE", f'"{path}" is a folder.')
    parts = path.split("/")
    for above in ("/".join(parts[:length]) for length in range(1, len(parts))):
        entry = repository.at_path(base, above) if base is not None else None
        if above in additions or (entry is not None and entry.kind != "tree" and above not in deletions):
            raise Refused("UNPROCESSABLE", f'"{above}" is a file, so nothing can be at "{path}".')


def _message(context: RequestContext, message: Input) -> str:
    text = message["headline"] + (f"\n\n{message['body']}" if message.get("body") else "")
    return f"{text}\n" if context.switches.message_newline and not text.endswith("\n") else text


# updateRefs


def _updates(context: RequestContext, repository: Repository, entries: Sequence[Input]) -> Iterator[RefUpdate]:
    for name, times in Counter(each["name"] for each in entries).items():
        if times > 1:
            raise Refused("UNPROCESSABLE", f"{name} is given more than once.")
    for each in entries:
        before, after = each.get("beforeOid"), each["afterOid"]
        for oid in (before or NULL_OID, after):
            if not is_oid(oid):
                raise Refused("UNPROCESSABLE", f"{oid} is no object id.")
        update = RefUpdate(
            each["name"],
            ANY if before is None else None if before == NULL_OID else before,
            None if after == NULL_OID else after,
            bool(each.get("force")),
        )
        _check_ref(context, repository, update.ref, delete=update.new is None, force=update.force)
        if update.old == update.new and not context.switches.noop_update_compares:
            continue
        yield update


def _refused(context: RequestContext, refused: RefRefused) -> Exception:
    if context.switches.update_refs_opaque:
        return Opaque()
    return Refused(
        "STALE_DATA" if refused.reason in ("stale", "exists", "absent") else "UNPROCESSABLE", _words(refused)
    )


def _words(refused: RefRefused) -> str:
    words = {
        "stale": f"is not where it was expected, but at {refused.actual or 'nothing'}",
        "exists": "already exists in the repository",
        "absent": "does not exist",
        "not_fast_forward": "cannot be updated: not a fast forward",
        "prefix": "is in the way of another ref, or another of it",
        "missing_object": "cannot point to an object that does not exist",
        "bad_name": "is not a valid ref name",
        "not_commit": "can only point to a commit",
    }
    return f'A ref named "{refused.ref}" {words[refused.reason]}.'
