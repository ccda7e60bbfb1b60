"""What each field of the schema's excerpt answers. :data:`FIELDS` is by type and field name.

A field that the schema has and the table lacks is refused by name: the twin
never makes up an answer.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any

from graphql import GraphQLResolveInfo

from ghcoord.twin.auth import User
from ghcoord.twin.graphql_errors import Refused
from ghcoord.twin.graphql_mutations import MUTATIONS
from ghcoord.twin.graphql_nodes import (
    ActorNode,
    BlobNode,
    CommitNode,
    RefNode,
    TagNode,
    TreeNode,
    git_node,
    object_id,
    user_id,
)
from ghcoord.twin.graphql_objects import (
    account_of,
    extension_of_entry,
    find_file,
    is_binary,
    is_truncated,
    list_entries,
    list_history,
    list_parents,
    object_of_entry,
    size_of_entry,
    text_of_blob,
    zoned,
)
from ghcoord.twin.graphql_repositories import (
    default_branch,
    find_by_id,
    find_object,
    find_ref,
    find_repository,
    list_refs,
    list_rules,
    protection_of,
    rate_limit,
    rule_of_ref,
    viewer_permission,
)
from ghcoord.twin.objects import Person
from ghcoord.twin.repository import Repository
from ghcoord.twin.shapes import stamp

Resolver = Callable[..., Any]
"""Takes the source, the request's context and the field's arguments by name."""


def resolve_field(source: Any, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
    """The resolver of every field."""
    found = FIELDS.get(info.parent_type.name, {}).get(info.field_name)
    if found is None:
        raise Refused("TWIN", f"The twin does not know {info.parent_type.name}.{info.field_name}.")
    return found(source, info.context, **arguments)


TYPES = {
    CommitNode: "Commit",
    TreeNode: "Tree",
    BlobNode: "Blob",
    TagNode: "Tag",
    RefNode: "Ref",
    Repository: "Repository",
    User: "User",
}


def resolve_type(source: Any, *_: Any) -> str:
    """Which type of an interface a source is."""
    return TYPES[type(source)]


# the table


def _attribute(name: str) -> Resolver:
    return lambda source, context: getattr(source, name)


def _item(name: str) -> Resolver:
    return lambda source, context: source[name]


def _items(names: str) -> dict[str, Resolver]:
    return {name: _item(name) for name in names.split()}


def _constant(value: Any) -> Resolver:
    return lambda source, context: value


def _of(get: Callable[[Any], Any]) -> Resolver:
    return lambda source, context: get(source)


def _address(part: Callable[[Any], str], whole: bool) -> Resolver:
    """A path on the web site, or with its host."""
    return lambda source, context: (context.base_url if whole else "") + part(source)


def _git(name: str) -> dict[str, Resolver]:
    def place(node: Any) -> str:
        return f"/{node.repository.full_name}/{name}/{node.oid}"

    def commit(node: Any) -> str:
        return f"/{node.repository.full_name}/commit/{node.oid}"

    return {
        "oid": _attribute("oid"),
        "abbreviatedOid": _of(lambda node: node.oid[:7]),
        "id": _of(object_id),
        "repository": _attribute("repository"),
        "commitResourcePath": _address(commit, whole=False),
        "commitUrl": _address(commit, whole=True),
        "resourcePath": _address(place, whole=False),
        "url": _address(place, whole=True),
    }


def _rule(names: Iterable[str]) -> dict[str, Resolver]:
    return {name: _of(lambda node, name=name: bool(node.protection.rules.get(name, False))) for name in names}  # type: ignore[misc]


def _tree_place(node: CommitNode) -> str:
    return f"/{node.repository.full_name}/tree/{node.oid}"


def _tag(part: Callable[[Any], Any]) -> Resolver:
    return lambda tag, context: part(tag.repository.git.get(tag.oid))


def _tagger(tag: Any) -> ActorNode | None:
    found = tag.tagger
    return None if found is None else ActorNode(Person(found.name, found.email, found.time, found.offset))


_CONNECTION: dict[str, Resolver] = {
    "nodes": _of(lambda part: list(part.items)),
    "edges": _attribute("edges"),
    "pageInfo": _attribute("info"),
    "totalCount": _attribute("total"),
}
_EDGE: dict[str, Resolver] = {"cursor": _attribute("cursor"), "node": _attribute("node")}
_PAYLOAD = _items("clientMutationId ref")

FIELDS: dict[str, dict[str, Resolver]] = {
    "Query": {
        "viewer": lambda source, context: context.user,
        "repository": find_repository,
        "node": find_by_id,
        "rateLimit": rate_limit,
    },
    "Mutation": dict(MUTATIONS),
    "RateLimit": _items("cost limit nodeCount remaining resetAt used"),
    "PageInfo": _items("endCursor hasNextPage hasPreviousPage startCursor"),
    "User": {
        "id": _of(user_id),
        "login": _attribute("login"),
        "name": _attribute("login"),
        "databaseId": _attribute("number"),
        "isViewer": lambda user, context: user is context.user,
        "resourcePath": _address(lambda user: f"/{user.login}", whole=False),
        "url": _address(lambda user: f"/{user.login}", whole=True),
    },
    "Repository": {
        "id": _attribute("node_id"),
        "databaseId": _attribute("number"),
        "name": _attribute("name"),
        "nameWithOwner": _attribute("full_name"),
        "owner": lambda repository, context: context.hosting.accounts.user(repository.owner),
        "isArchived": _attribute("archived"),
        "isDisabled": _constant(False),
        "isEmpty": _attribute("is_empty"),
        "isFork": _constant(False),
        "isLocked": _constant(False),
        "isPrivate": _attribute("private"),
        "visibility": _of(lambda repository: "PRIVATE" if repository.private else "PUBLIC"),
        "viewerPermission": viewer_permission,
        "viewerCanAdminister": lambda repository, context: viewer_permission(repository, context) == "ADMIN",
        "ref": find_ref,
        "refs": list_refs,
        "object": find_object,
        "defaultBranchRef": default_branch,
        "branchProtectionRules": list_rules,
        "resourcePath": _address(lambda repository: f"/{repository.full_name}", whole=False),
        "url": _address(lambda repository: f"/{repository.full_name}", whole=True),
    },
    "Ref": {
        "id": _attribute("id"),
        "name": _of(lambda ref: ref.full.removeprefix(ref.prefix)),
        "prefix": _attribute("prefix"),
        "repository": _attribute("repository"),
        "target": _of(lambda ref: git_node(ref.repository, ref.target)),
        "branchProtectionRule": rule_of_ref,
        "refUpdateRule": _of(lambda ref: protection_of(ref.repository, ref.full)),
    },
    "BranchProtectionRule": {
        **_rule(
            "isAdminEnforced lockBranch requiresApprovingReviews requiresCommitSignatures requiresLinearHistory"
            " requiresStatusChecks".split()
        ),
        "id": _of(lambda node: f"BPR_twin{node.repository.number}_{node.branch}"),
        "pattern": _attribute("branch"),
        "allowsDeletions": _constant(False),
        "allowsForcePushes": _of(lambda node: node.protection.allow_force),
        "restrictsPushes": _constant(True),
    },
    "RefUpdateRule": {
        **_rule(["requiresLinearHistory"]),
        "pattern": _attribute("branch"),
        "allowsDeletions": _constant(False),
        "allowsForcePushes": _of(lambda node: node.protection.allow_force),
        "requiresSignatures": _of(lambda node: bool(node.protection.rules.get("requiresCommitSignatures", False))),
        "viewerCanPush": lambda node, context: context.login in node.protection.allow,
    },
    "Commit": {
        **_git("commit"),
        "author": _of(lambda commit: ActorNode(commit.data.author)),
        "committer": _of(lambda commit: ActorNode(commit.data.committer)),
        "authoredDate": _of(lambda commit: stamp(commit.data.author.time)),
        "committedDate": _of(lambda commit: stamp(commit.data.committer.time)),
        "file": find_file,
        "history": list_history,
        "message": _of(lambda commit: commit.data.message),
        "messageHeadline": _of(lambda commit: commit.data.message.partition("\n")[0]),
        "messageBody": _of(lambda commit: commit.data.message.partition("\n")[2].strip("\n")),
        "parents": list_parents,
        "tree": _of(lambda commit: TreeNode(commit.repository, commit.data.tree, "")),
        "treeResourcePath": _address(_tree_place, whole=False),
        "treeUrl": _address(_tree_place, whole=True),
    },
    "GitActor": {
        "name": _of(lambda actor: actor.person.name),
        "email": _of(lambda actor: actor.person.email),
        "date": _of(lambda actor: zoned(actor.person)),
        "user": lambda actor, context: account_of(actor.person, context),
    },
    "Tree": {**_git("tree"), "entries": list_entries},
    "TreeEntry": {
        "name": _of(lambda node: node.entry.name),
        "nameRaw": _of(lambda node: base64.b64encode(node.entry.name.encode()).decode()),
        "mode": _of(lambda node: node.entry.mode),
        "oid": _of(lambda node: node.entry.oid),
        "type": _of(lambda node: node.entry.kind),
        "path": _attribute("path"),
        "pathRaw": _of(lambda node: None if node.path is None else base64.b64encode(node.path.encode()).decode()),
        "repository": _attribute("repository"),
        "extension": extension_of_entry,
        "object": object_of_entry,
        "size": size_of_entry,
    },
    "Blob": {
        **_git("blob"),
        "byteSize": _of(lambda blob: len(blob.content)),
        "isBinary": is_binary,
        "isTruncated": is_truncated,
        "text": text_of_blob,
    },
    "Tag": {
        **_git("tag"),
        "name": _tag(lambda tag: tag.name),
        "message": _tag(lambda tag: tag.message),
        "tagger": _tag(_tagger),
        "target": lambda tag, context: git_node(tag.repository, str(tag.repository.git.get(tag.oid).target)),
    },
    "CreateCommitOnBranchPayload": _items("clientMutationId commit ref"),
    "CreateRefPayload": _PAYLOAD,
    "UpdateRefPayload": _PAYLOAD,
    "DeleteRefPayload": _items("clientMutationId"),
    "UpdateRefsPayload": _items("clientMutationId"),
    "RefConnection": _CONNECTION,
    "CommitConnection": _CONNECTION,
    "CommitHistoryConnection": _CONNECTION,
    "BranchProtectionRuleConnection": _CONNECTION,
    "RefEdge": _EDGE,
    "CommitEdge": _EDGE,
    "BranchProtectionRuleEdge": _EDGE,
}
