"""Makes ``ghcoord/twin/schema.graphql``: the part of GitHub's official GraphQL schema that the twin answers.

From the repository's root, once :mod:`tests.twin.fetch_schemas` has brought that::

    python -m tests.twin.make_schema_excerpt
"""

from __future__ import annotations

import sys
from pathlib import Path

from graphql import (
    DefinitionNode,
    DirectiveNode,
    DocumentNode,
    FieldDefinitionNode,
    InputObjectTypeDefinitionNode,
    InputValueDefinitionNode,
    InterfaceTypeDefinitionNode,
    NamedTypeNode,
    ObjectTypeDefinitionNode,
    TypeDefinitionNode,
    TypeNode,
    parse,
    print_ast,
)

from tests.twin.fetch_schemas import GRAPHQL
from tests.twin.official import MISSING, find_schemas

EXCERPT = Path(__file__).parents[2] / "ghcoord" / "twin" / "schema.graphql"

HEADER = f"""\
# The part of GitHub's GraphQL schema that ghcoord's twin answers. Do not edit: tests/twin/make_schema_excerpt.py
# makes it out of schema.graphql of the npm package {GRAPHQL.name} {GRAPHQL.version}.
# Types, arguments and nullability are GitHub's; descriptions and all other fields are dropped.
#
# Copyright (c) GitHub 2025 - Licensed as MIT.
#
# Permission is hereby granted, free of charge, to any person obtaining
# a copy of this software and associated documentation files (the
# "Software"), to deal in the Software without restriction, including
# without limitation the rights to use, copy, modify, merge, publish,
# distribute, sublicense, and/or sell copies of the Software, and to
# permit persons to whom the Software is furnished to do so, subject to
# the following conditions:
#
# The above copyright notice and this permission notice shall be
# included in all copies or substantial portions of the Software.
#
# THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND,
# EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
# MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
# NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
# LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION
# OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION
# WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

OBJECT = "abbreviatedOid commitResourcePath commitUrl id oid repository"
CONNECTION = "edges nodes pageInfo totalCount"

KEPT: dict[str, str] = {
    "Query": "node rateLimit repository viewer",
    "Mutation": "createCommitOnBranch createRef deleteRef updateRef updateRefs",
    "RateLimit": "cost limit nodeCount remaining resetAt used",
    "PageInfo": "endCursor hasNextPage hasPreviousPage startCursor",
    "Node": "id",
    "Actor": "login resourcePath url",
    "RepositoryOwner": "id login resourcePath url",
    "User": "databaseId id isViewer login name resourcePath url",
    "Repository": (
        "branchProtectionRules databaseId defaultBranchRef id isArchived isDisabled isEmpty isFork isLocked"
        " isPrivate name nameWithOwner object owner ref refs resourcePath url viewerCanAdminister viewerPermission"
        " visibility"
    ),
    "Ref": "branchProtectionRule id name prefix refUpdateRule repository target",
    "RefConnection": CONNECTION,
    "RefEdge": "cursor node",
    "BranchProtectionRule": (
        "allowsDeletions allowsForcePushes id isAdminEnforced lockBranch pattern requiresApprovingReviews"
        " requiresCommitSignatures requiresLinearHistory requiresStatusChecks restrictsPushes"
    ),
    "BranchProtectionRuleConnection": CONNECTION,
    "BranchProtectionRuleEdge": "cursor node",
    "RefUpdateRule": (
        "allowsDeletions allowsForcePushes pattern requiresLinearHistory requiresSignatures viewerCanPush"
    ),
    "GitObject": OBJECT,
    "Commit": (
        f"{OBJECT} author authoredDate committedDate committer file history message messageBody messageHeadline"
        " parents tree treeResourcePath treeUrl url resourcePath"
    ),
    "CommitConnection": CONNECTION,
    "CommitEdge": "cursor node",
    "CommitHistoryConnection": CONNECTION,
    "GitActor": "date email name user",
    "Tree": f"{OBJECT} entries",
    "TreeEntry": "extension mode name nameRaw object oid path pathRaw repository size type",
    "Tag": f"{OBJECT} message name tagger target",
    "Blob": f"{OBJECT} byteSize isBinary isTruncated text",
    "CreateCommitOnBranchPayload": "clientMutationId commit ref",
    "CreateRefPayload": "clientMutationId ref",
    "DeleteRefPayload": "clientMutationId",
    "UpdateRefPayload": "clientMutationId ref",
    "UpdateRefsPayload": "clientMutationId",
}
"""Which fields of which types; their arguments, and what these are made of, come along whole."""

DROPPED_ARGUMENTS = {"rateLimit": "dryRun"}
"""Arguments of fields that the twin would have to ignore."""


def excerpt(official: DocumentNode) -> str:
    """The text of the excerpt of the schema ``official``; raises ``KeyError`` for a type or field that it lacks."""
    types = {node.name.value: node for node in official.definitions if isinstance(node, TypeDefinitionNode)}
    kept: dict[str, DefinitionNode] = {}
    for name, fields in KEPT.items():
        kept[name] = _reduced(types[name], fields.split())
    todo = list(kept)
    while todo:
        for name in sorted(_named(kept[todo.pop()])):
            if name in kept or name not in types:  # the others are GraphQL's own scalars
                continue
            node = types[name]
            if isinstance(node, ObjectTypeDefinitionNode | InterfaceTypeDefinitionNode):
                raise KeyError(f"{name} is mentioned, and KEPT does not say which of its fields to keep")
            kept[name] = _bare(node)
            todo.append(name)
    return HEADER + "\n" + "\n\n".join(print_ast(kept[name]) for name in sorted(kept)) + "\n"


def _reduced(node: TypeDefinitionNode, names: list[str]) -> DefinitionNode:
    """``node`` with the fields ``names`` only, and the kept interfaces that these satisfy."""
    assert isinstance(node, ObjectTypeDefinitionNode | InterfaceTypeDefinitionNode)
    fields = {field.name.value: field for field in node.fields or ()}
    interfaces = tuple(
        one
        for one in node.interfaces or ()
        if one.name.value in KEPT and set(KEPT[one.name.value].split()) <= set(names)
    )
    return type(node)(
        name=node.name,
        interfaces=interfaces,
        fields=tuple(_field(fields[name]) for name in sorted(names)),
        directives=(),
    )


def _field(node: FieldDefinitionNode) -> FieldDefinitionNode:
    return FieldDefinitionNode(
        name=node.name,
        type=node.type,
        arguments=tuple(
            _input(one) for one in node.arguments or () if one.name.value != DROPPED_ARGUMENTS.get(node.name.value)
        ),
        directives=_deprecated(node.directives),
    )


def _input(node: InputValueDefinitionNode) -> InputValueDefinitionNode:
    return InputValueDefinitionNode(name=node.name, type=node.type, default_value=node.default_value, directives=())


def _deprecated(directives: tuple[DirectiveNode, ...] | None) -> tuple[DirectiveNode, ...]:
    return tuple(one for one in directives or () if one.name.value == "deprecated")


def _bare(node: TypeDefinitionNode) -> DefinitionNode:
    """An input, enumeration or scalar without descriptions and GitHub's own directives."""
    if isinstance(node, InputObjectTypeDefinitionNode):
        return InputObjectTypeDefinitionNode(
            name=node.name, fields=tuple(_input(one) for one in node.fields or ()), directives=()
        )
    values = getattr(node, "values", None)
    if values is None:
        return type(node)(name=node.name, directives=())
    return type(node)(
        name=node.name,
        values=tuple(type(one)(name=one.name, directives=_deprecated(one.directives)) for one in values),
        directives=(),
    )


def _named(node: DefinitionNode) -> set[str]:
    """Types that ``node``'s fields and their arguments mention."""
    mentioned = set()
    for field in getattr(node, "fields", None) or ():
        mentioned.add(_inner(field.type))
        mentioned.update(_inner(one.type) for one in getattr(field, "arguments", None) or ())
    return mentioned


def _inner(node: TypeNode) -> str:
    while not isinstance(node, NamedTypeNode):
        node = node.type  # type: ignore[attr-defined]
    return node.name.value


if __name__ == "__main__":
    schemas = find_schemas()
    if schemas is None:
        sys.exit(MISSING)
    EXCERPT.write_text(excerpt(parse(schemas.graphql.read_text())))
    print(f"{EXCERPT}: {len(EXCERPT.read_text().splitlines())} lines")
