"""What a GraphQL query asks for, before it is executed: its nodes, and its points of the primary limit.

Rules and numbers: GitHub's «Rate limits and query limits for the GraphQL API».
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    type_from_ast,
)
from graphql.utilities import value_from_ast_untyped

from ghcoord.twin.graphql_errors import RequestRefused, refusal

NODE_LIMIT = 500_000
PAGE_LIMIT = 100
REQUESTS_A_POINT = 100


@dataclass(frozen=True, slots=True)
class Measured:
    """``cost`` in points, ``nodes`` at most returned, ``fields`` at the top by their real names."""

    mutation: bool
    name: str
    fields: tuple[str, ...]
    cost: int
    nodes: int


def measure(
    schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode, variables: Mapping[str, Any]
) -> Measured:
    """Measure a valid document. Raises :class:`RequestRefused` for pages and numbers of nodes beyond the limits."""
    walker = _Walker(schema, document, _with_defaults(operation, variables))
    root = schema.get_root_type(operation.operation)
    assert root is not None  # the document is valid
    walker.walk(operation.selection_set, root, 1)
    if walker.nodes > NODE_LIMIT:
        message = (
            f"This query requests up to {walker.nodes:,} possible nodes which exceeds the maximum limit of "
            f"{NODE_LIMIT:,}."
        )
        raise RequestRefused(200, refusal(message, "MAX_NODE_LIMIT_EXCEEDED"))
    return Measured(
        mutation=operation.operation is OperationType.MUTATION,
        name=operation.name.value if operation.name is not None else "",
        fields=tuple(field.name.value for field, _ in walker.fields(operation.selection_set, root)),
        cost=max(1, round(walker.requests / REQUESTS_A_POINT)),
        nodes=walker.nodes,
    )


def _with_defaults(operation: OperationDefinitionNode, variables: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(variables)
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        if name not in given and definition.default_value is not None:
            given[name] = value_from_ast_untyped(definition.default_value)
    return given


class _Walker:
    """Adds up what a selection asks for."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, variables: Mapping[str, Any]) -> None:
        self._schema = schema
        self._variables = variables
        self._fragments = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self.nodes = 0
        self.requests = 0

    def walk(self, selected: SelectionSetNode, parent: GraphQLNamedType, times: int) -> None:
        """Add a selection on ``parent`` that is made ``times`` times."""
        for field, owner in self.fields(selected, parent):
            if field.selection_set is None:
                continue
            declared = getattr(owner, "fields", {}).get(field.name.value)
            if declared is None:  # __schema and its like, which lists nothing of GitHub's
                continue
            kind = get_named_type(declared.type)
            below = times
            if kind.name.endswith("Connection") and self._lists(field.selection_set, kind):
                below = times * self._page(field)
                self.nodes += below
                self.requests += times
            self.walk(field.selection_set, kind, below)

    def fields(
        self, selected: SelectionSetNode, parent: GraphQLNamedType
    ) -> Iterator[tuple[FieldNode, GraphQLNamedType]]:
        """The fields of a selection and those of its fragments, each with the type it is a field of."""
        for each in selected.selections:
            if not self._included(each):
                continue
            if isinstance(each, FieldNode):
                yield each, parent
            elif isinstance(each, InlineFragmentNode):
                yield from self.fields(each.selection_set, self._narrowed(each, parent))
            elif isinstance(each, FragmentSpreadNode):
                fragment = self._fragments[each.name.value]
                yield from self.fields(fragment.selection_set, self._narrowed(fragment, parent))

    def _included(self, node: SelectionNode) -> bool:
        for directive in node.directives or ():
            wanted = {"include": True, "skip": False}.get(directive.name.value)
            if wanted is not None:
                (condition,) = directive.arguments or ()
                if bool(self._value(condition.value)) != wanted:
                    return False
        return True

    def _value(self, node: ValueNode) -> Any:
        if isinstance(node, VariableNode):
            return self._variables.get(node.name.value)
        return value_from_ast_untyped(node)

    def _narrowed(
        self, node: InlineFragmentNode | FragmentDefinitionNode, parent: GraphQLNamedType
    ) -> GraphQLNamedType:
        if node.type_condition is None:
            return parent
        found = type_from_ast(self._schema, node.type_condition)
        assert found is not None  # the document is valid
        return found

    def _lists(self, selected: SelectionSetNode, kind: GraphQLNamedType) -> bool:
        return any(field.name.value in ("nodes", "edges", "pageInfo") for field, _ in self.fields(selected, kind))

    def _page(self, field: FieldNode) -> int:
        """How many nodes one page of the connection has at most."""
        name = field.name.value
        arguments = {each.name.value: each.value for each in field.arguments or ()}
        for bound in ("first", "last"):
            if bound not in arguments:
                continue
            size = self._value(arguments[bound])
            if size is None:
                continue
            if not 1 <= size <= PAGE_LIMIT:
                message = (
                    f"Requesting {size} records on the `{name}` connection exceeds the `{bound}` limit of "
                    f"{PAGE_LIMIT} records."
                )
                raise RequestRefused(200, refusal(message, "EXCESSIVE_PAGINATION"))
            return int(size)
        message = f"You must provide a `first` or `last` value to properly paginate the `{name}` connection."
        raise RequestRefused(200, refusal(message, "MISSING_PAGINATION_BOUNDARIES"))
