"""What GraphQL's resolvers hand on: things of a repository, each with the repository it is of, and their global ids."""

from __future__ import annotations

from dataclasses import dataclass

from ghcoord.twin.auth import User
from ghcoord.twin.context import RequestContext
from ghcoord.twin.objects import CommitData, Oid, Person, TreeEntry
from ghcoord.twin.repository import Protection, Repository


@dataclass(frozen=True, slots=True)
class RefNode:
    """A ref, named in full, at the commit where this request saw it; ``prefix`` is cut from its ``name``."""

    repository: Repository
    full: str
    target: Oid
    prefix: str

    @property
    def id(self) -> str:
        return encode_id("REF", self.repository.number, self.full)


@dataclass(frozen=True, slots=True)
class CommitNode:
    repository: Repository
    data: CommitData

    @property
    def oid(self) -> Oid:
        return self.data.oid


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A tree; ``path`` is where it was found below a commit, ``None`` if it was named by its id."""

    repository: Repository
    oid: Oid
    path: str | None = None


@dataclass(frozen=True, slots=True)
class BlobNode:
    repository: Repository
    oid: Oid
    content: bytes


@dataclass(frozen=True, slots=True)
class TagNode:
    repository: Repository
    oid: Oid


GitNode = CommitNode | TreeNode | BlobNode | TagNode


@dataclass(frozen=True, slots=True)
class EntryNode:
    """An entry of a tree, with its path from the root where that is known."""

    repository: Repository
    entry: TreeEntry
    path: str | None


@dataclass(frozen=True, slots=True)
class ActorNode:
    """Who made a commit, and when."""

    person: Person


@dataclass(frozen=True, slots=True)
class ProtectionNode:
    """A protected branch, and whether it is shown as a rule or as what the viewer may do."""

    repository: Repository
    branch: str
    protection: Protection


def git_node(repository: Repository, oid: str | None, path: str | None = None) -> GitNode | None:
    """The object ``oid`` of the repository, ``None`` where there is none."""
    kind = repository.kind(oid) if oid is not None else None
    if oid is None or kind is None:
        return None
    if kind == "commit":
        data = repository.commit(oid)
        return CommitNode(repository, data) if data is not None else None
    if kind == "tree":
        return TreeNode(repository, oid, path)
    if kind == "blob":
        return BlobNode(repository, oid, repository.blob(oid) or b"")
    return TagNode(repository, oid)


def ref_node(repository: Repository, full: str, target: Oid, prefix: str | None = None) -> RefNode:
    """A ref as GraphQL names it: without ``refs/heads/`` and the like, or without ``prefix``."""
    if prefix is None:
        prefix = next((one for one in ("refs/heads/", "refs/tags/") if full.startswith(one)), "refs/")
    return RefNode(repository, full, target, prefix)


def encode_id(kind: str, number: int, rest: str) -> str:
    """A global id for a thing of the repository ``number``."""
    return f"{kind}_twin{number}:{rest}"


def find_node(context: RequestContext, id_: str) -> Repository | RefNode | GitNode | User | None:
    """What a global id names, if this caller may see it."""
    kind, _, place = id_.partition("_twin")
    number, _, rest = place.partition(":")
    if kind == "U":
        return next((user for user in context.hosting.accounts.users.values() if user_id(user) == id_), None)
    repository = next((one for one in context.hosting.repositories.values() if str(one.number) == number), None)
    if repository is None or context.repository(repository.owner, repository.name) is None:
        return None
    if kind == "R":
        return repository
    if kind == "REF":
        target = context.refs(repository).get(rest)
        return ref_node(repository, rest, target) if target is not None else None
    return git_node(repository, rest)


def object_id(node: GitNode) -> str:
    """The global id of a git object."""
    kind = {CommitNode: "C", TreeNode: "T", BlobNode: "B", TagNode: "TA"}[type(node)]
    return encode_id(kind, node.repository.number, node.oid)


def user_id(user: User) -> str:
    """The global id of an account."""
    return f"U_twin{user.number}"
