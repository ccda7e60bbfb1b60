"""The GraphQL endpoint: a request's body in, a status and a body out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    OperationDefinitionNode,
    execute_sync,
    get_operation_ast,
    parse,
    validate,
)

from ghcoord.twin.context import RequestContext
from ghcoord.twin.graphql_cost import measure
from ghcoord.twin.graphql_errors import (
    Opaque,
    RequestRefused,
    opaque_body,
    refusal,
    result_body,
    validation_body,
)
from ghcoord.twin.graphql_fields import resolve_field, resolve_type
from ghcoord.twin.graphql_schema import EXCERPT, load_schema
from ghcoord.twin.switches import OPAQUE


def execute(context: RequestContext, body: Any, *, schema: Path = EXCERPT) -> tuple[int, dict[str, Any]]:
    """Answer a request whose body was parsed, against the schema in a file. Notes in the context what it was."""
    try:
        document, operation, variables = _prepared(context, body, schema)
    except RequestRefused as refused:
        return refused.status, refused.body
    result = execute_sync(
        load_schema(schema),
        document,
        context_value=context,
        variable_values=dict(variables),
        operation_name=operation.name.value if operation.name is not None else None,
        field_resolver=resolve_field,
        type_resolver=resolve_type,
    )
    return 200, _answer(context, result)


def _prepared(
    context: RequestContext, body: Any, schema: Path
) -> tuple[DocumentNode, OperationDefinitionNode, Mapping[str, Any]]:
    """Parse, check and measure: nothing is done yet."""
    if not isinstance(body, Mapping):
        raise RequestRefused(400, {"message": "Problems parsing JSON"})
    query, variables = body.get("query"), body.get("variables") or {}
    if not isinstance(query, str):
        raise RequestRefused(200, refusal("A query attribute must be specified and must be a string."))
    if not isinstance(variables, Mapping):
        raise RequestRefused(200, refusal("Variables must be an object."))
    document, errors = _checked(schema, query)
    if document is None or errors:
        raise RequestRefused(200, validation_body(errors))
    operation = get_operation_ast(document, body.get("operationName"))
    if operation is None:
        raise RequestRefused(200, refusal("An operation name is required."))
    measured = measure(load_schema(schema), document, operation, variables)
    missing = context.switches.missing_mutations & set(measured.fields)
    if missing and measured.mutation:
        raise RequestRefused(200, refusal(f"Field '{min(missing)}' doesn't exist on type 'Mutation'"))
    context.operations[:] = [name for name in (measured.name, *measured.fields) if name]
    context.cost = measured.cost
    context.nodes = measured.nodes
    return document, operation, variables


@lru_cache(maxsize=512)
def _checked(schema: Path, query: str) -> tuple[DocumentNode | None, tuple[GraphQLError, ...]]:
    """The document, and what is wrong with it. Clients send the same few again and again."""
    try:
        document = parse(query)
    except GraphQLError as error:
        return None, (error,)
    return document, tuple(validate(load_schema(schema), document))


def _answer(context: RequestContext, result: ExecutionResult) -> dict[str, Any]:
    errors = result.errors or []
    if any(isinstance(error.original_error, Opaque) for error in errors):
        return opaque_body(OPAQUE, context.request_id)
    if result.data is None and errors and errors[0].path is None:
        # Variables that do not suit: nothing was executed.
        return validation_body(errors)
    return result_body(result.data, errors)
