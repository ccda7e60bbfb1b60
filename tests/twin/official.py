"""GitHub's official schemas, from the npm packages that Octokit publishes: where they are, and what breaks them.

They are looked for below the folder that ``GHCOORD_SCHEMAS`` names, else below ``~/.cache/ghcoord-schemas``;
``.ci/run`` fetches them.  Where they are missing the checks are skipped, or fail when ``GHCOORD_CI`` is set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import pytest
from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    build_schema,
    is_specified_scalar_type,
    parse,
    print_ast,
    validate,
)

from ghcoord.twin.log import Recorded
from tests.twin.fetch_schemas import GRAPHQL, OPENAPI, schemas_folder
from tests.twin.openapi import OpenApi

MISSING = (
    f"{OPENAPI.name} {OPENAPI.version} and {GRAPHQL.name} {GRAPHQL.version} are not below $GHCOORD_SCHEMAS, nor "
    "~/.cache/ghcoord-schemas: `python -m tests.twin.fetch_schemas` fetches them"
)


@dataclass(frozen=True, slots=True)
class Schemas:
    """Where the two files are."""

    openapi: Path
    graphql: Path


@cache
def find_schemas(folder: Path | None = None) -> Schemas | None:
    """The schemas of the packages of the right versions unpacked anywhere below ``folder``, ``None`` without them."""
    found: dict[str, Path] = {}
    for manifest in sorted((folder or schemas_folder()).glob("**/package.json")):
        package = json.loads(manifest.read_text())
        found[f"{package.get('name')} {package.get('version')}"] = manifest.parent
    openapi = found.get(f"{OPENAPI.name} {OPENAPI.version}")
    graphql = found.get(f"{GRAPHQL.name} {GRAPHQL.version}")
    if openapi is None or graphql is None:
        return None
    return Schemas(openapi / "generated" / "api.github.com.json", graphql / "schema.graphql")


def require_schemas() -> Schemas:
    """The schemas. Without them the test is skipped with the reason, and fails in CI."""
    found = find_schemas()
    if found is not None:
        return found
    if os.environ.get("GHCOORD_CI"):
        pytest.fail(MISSING)
    pytest.skip(MISSING)


@cache
def official_graphql() -> GraphQLSchema:
    """GitHub's whole GraphQL schema; a second the first time."""
    return build_schema(require_schemas().graphql.read_text(), assume_valid=True, assume_valid_sdl=True)


@cache
def official_openapi() -> OpenApi:
    """GitHub's whole description of its REST API."""
    return OpenApi(require_schemas().openapi)


def check_exchanges(exchanges: Iterable[Recorded]) -> list[str]:
    """What in REST exchanges is not as GitHub describes its API."""
    api = official_openapi()
    return [each for exchange in exchanges for each in api.violations(exchange)]


def check_documents(documents: Iterable[str]) -> list[str]:
    """What in GraphQL documents does not suit GitHub's schema."""
    return [each for document in documents for each in _document_violations(document)]


@lru_cache(maxsize=1024)
def _document_violations(document: str) -> tuple[str, ...]:
    errors = validate(official_graphql(), parse(document))
    return tuple(f"{error.message} in: {' '.join(document.split())[:200]}" for error in errors)


def check_excerpt(part: GraphQLSchema, whole: GraphQLSchema) -> list[str]:
    """What a schema has that another lacks, or has with another type, nullability or default."""
    wrong = []
    for name, mine in part.type_map.items():
        if name.startswith("__") or is_specified_scalar_type(mine):
            continue
        theirs = whole.type_map.get(name)
        if theirs is None or type(theirs) is not type(mine):
            wrong.append(f"{name} is not in it, or is another kind of type")
            continue
        wrong.extend(f"{name}.{each}" for each in _differences(mine, theirs))
    return wrong


def _differences(mine: GraphQLNamedType, theirs: GraphQLNamedType) -> list[str]:
    if isinstance(mine, GraphQLScalarType):
        return []
    if isinstance(mine, GraphQLEnumType):
        assert isinstance(theirs, GraphQLEnumType)
        return [] if set(mine.values) == set(theirs.values) else ["its values differ"]
    wrong = []
    if isinstance(mine, GraphQLObjectType):
        assert isinstance(theirs, GraphQLObjectType)
        extra = {one.name for one in mine.interfaces} - {one.name for one in theirs.interfaces}
        wrong += [f"interface {one} is not its" for one in sorted(extra)]
    fields = theirs.fields  # type: ignore[attr-defined]  # of all types that are left
    for name, field in mine.fields.items():  # type: ignore[attr-defined]
        other = fields.get(name)
        if other is None:
            wrong.append(f"{name} is not in it")
        elif str(field.type) != str(other.type):
            wrong.append(f"{name} is {other.type}, not {field.type}")
        elif isinstance(mine, GraphQLInputObjectType):
            if _default(field) != _default(other):
                wrong.append(f"{name} has another default")
        else:
            for argument, value in field.args.items():
                known = other.args.get(argument)
                if known is None or str(known.type) != str(value.type) or _default(known) != _default(value):
                    wrong.append(f"{name}({argument}) is not in it so")
            wrong += [
                f"{name}({argument}) is demanded by it"
                for argument, value in other.args.items()
                if str(value.type).endswith("!") and argument not in field.args
            ]
    if isinstance(mine, GraphQLInputObjectType):
        wrong += [
            f"{name} is demanded by it"
            for name, field in fields.items()
            if str(field.type).endswith("!") and name not in mine.fields
        ]
    return wrong


def _default(node: GraphQLArgument | GraphQLInputField) -> str | None:
    """The default as it is written."""
    written = node.ast_node.default_value if node.ast_node is not None else None
    return None if written is None else print_ast(written)
