"""GraphQL's fields about git objects: commits, trees and blobs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from ghcoord.twin.auth import User
from ghcoord.twin.context import RequestContext
from ghcoord.twin.graphql_errors import Refused
from ghcoord.twin.graphql_nodes import BlobNode, CommitNode, EntryNode, GitNode, TreeNode, git_node, user_id
from ghcoord.twin.graphql_pages import Page, page
from ghcoord.twin.objects import CommitData, Person
from ghcoord.twin.repository import Repository

BINARY_SNIFF = 8000
"""Bytes at the start of a blob in which git, and GitHub, look for a NUL."""


def list_history(
    commit: CommitNode,
    context: RequestContext,
    since: str | None = None,
    until: str | None = None,
    path: str | None = None,
    author: Mapping[str, Any] | None = None,
    **bounds: Any,
) -> Page:
    """The commit and its ancestors, newest first."""
    low, high = _seconds(since, float("-inf")), _seconds(until, float("inf"))
    found = [
        CommitNode(commit.repository, data)
        for data in commit.repository.history(commit.oid)
        if low <= data.committer.time <= high
        and (path is None or _changed(commit.repository, data, path))
        and (author is None or _wrote(context, data, author))
    ]
    return page(found, **bounds)


def _changed(repository: Repository, data: CommitData, path: str) -> bool:
    """Whether a commit left something else at the path than its parents had."""
    here = repository.at_path(data.tree, path)
    before = [repository.commit(parent) for parent in data.parents]
    if not data.parents:
        return here is not None
    return all(parent is None or repository.at_path(parent.tree, path) != here for parent in before)


def _wrote(context: RequestContext, data: CommitData, author: Mapping[str, Any]) -> bool:
    if author.get("emails"):
        return data.author.email in author["emails"]
    user = account_of(data.author, context)
    return user is not None and author.get("id") == user_id(user)


def list_parents(commit: CommitNode, context: RequestContext, **bounds: Any) -> Page:
    """The parents of a commit."""
    return page([git_node(commit.repository, parent) for parent in commit.data.parents], **bounds)


def find_file(commit: CommitNode, context: RequestContext, path: str) -> EntryNode | None:
    """The entry at a path of a commit."""
    entry = commit.repository.at_path(commit.data.tree, path)
    return EntryNode(commit.repository, entry, path) if entry is not None and path.strip("/") else None


def list_entries(tree: TreeNode, context: RequestContext) -> list[EntryNode]:
    """What is directly in a tree."""
    prefix = None if tree.path is None else f"{tree.path}/".lstrip("/")
    return [
        EntryNode(tree.repository, each, None if prefix is None else prefix + each.name)
        for each in tree.repository.tree(tree.oid) or ()
    ]


def object_of_entry(entry: EntryNode, context: RequestContext) -> GitNode | None:
    """An entry's object; none for a submodule."""
    # A submodule's commit is of another repository.
    return None if entry.entry.kind == "commit" else git_node(entry.repository, entry.entry.oid, entry.path)


def size_of_entry(entry: EntryNode, context: RequestContext) -> int:
    """A file's size in bytes."""
    return entry.repository.blob_size(entry.entry.oid) if entry.entry.kind == "blob" else 0


def extension_of_entry(entry: EntryNode, context: RequestContext) -> str:
    """The end of the name, with its dot."""
    stem, dot, end = entry.entry.name.rpartition(".")
    return f".{end}" if dot and stem else ""


def is_binary(blob: BlobNode, context: RequestContext) -> bool:
    """Whether git would call it binary."""
    return b"\0" in blob.content[:BINARY_SNIFF]


def is_truncated(blob: BlobNode, context: RequestContext) -> bool:
    """Whether the text is cut."""
    return not is_binary(blob, context) and len(blob.content) > context.switches.blob_text_limit


def text_of_blob(blob: BlobNode, context: RequestContext) -> str | None:
    """The content as text: none if binary, cut beyond the limit, transcoded if not UTF-8."""
    if is_binary(blob, context):
        return None
    limit = context.switches.blob_text_limit
    content = blob.content[:limit]
    try:
        # A character that the limit cuts in two is left out.
        return content.decode(errors="ignore" if len(blob.content) > limit and _is_utf8(blob.content) else "strict")
    except UnicodeDecodeError:
        # Text in another encoding arrives transcoded, so that its bytes are not the blob's.
        return content.decode("latin-1")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def account_of(person: Person, context: RequestContext) -> User | None:
    """The account that a person of a commit is."""
    login = person.email.removesuffix("@users.noreply.github.com")
    return context.hosting.accounts.find(login) if login != person.email else None


def utc(seconds: float) -> str:
    """A DateTime."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def zoned(person: Person) -> str:
    """A GitTimestamp."""
    return datetime.fromtimestamp(person.time, timezone(timedelta(minutes=person.offset))).isoformat()


def _seconds(text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(None, f"`{text}` is not a valid ISO-8601 date.") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
