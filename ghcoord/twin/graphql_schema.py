"""The schema that the twin executes against: the excerpt that it ships, or GitHub's whole one where it is at hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from graphql import GraphQLSchema, build_schema

EXCERPT = Path(__file__).with_name("schema.graphql")


@cache
def load_schema(file: Path = EXCERPT) -> GraphQLSchema:
    """The schema in ``file`` (SDL). Reading GitHub's whole one takes a second, once."""
    # GitHub's schema has descriptions and directives that the library's own checks need not judge again.
    return build_schema(file.read_text(), assume_valid=True, assume_valid_sdl=True)
