"""What queries cost and which are too large, by the rules and examples of GitHub's documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from graphql import OperationDefinitionNode, build_schema, parse

from ghcoord.twin.graphql_cost import measure
from tests.twin.boxes import Box

DOCUMENTED = build_schema(
    """
    type Query { viewer: User }
    type User { login: String repositories(first: Int): RepositoryConnection followers(first: Int): UserConnection }
    type UserConnection { nodes: [User] }
    type RepositoryConnection { edges: [RepositoryEdge] }
    type RepositoryEdge { node: Repository }
    type Repository { id: ID pullRequests(first: Int): PullRequestConnection issues(first: Int): IssueConnection }
    type PullRequestConnection { nodes: [Commented] }
    type IssueConnection { nodes: [Commented] }
    type Commented { id: ID comments(first: Int): CommentConnection labels(first: Int): LabelConnection }
    type CommentConnection { nodes: [Comment] totalCount: Int }
    type LabelConnection { nodes: [Comment] }
    type Comment { id: ID }
    """
)

LARGE = """{ viewer {
  repositories(first: 50) { edges { repository: node {
    pullRequests(first: 20) { nodes { comments(first: 10) { nodes { id } } } }
    issues(first: 20) { nodes { ...Comments } }
  } } }
  followers(first: 10) { nodes { login } }
} }
fragment Comments on Commented { comments(first: 10) { nodes { id } } }
"""

COSTLY = """{ viewer { login repositories(first: 100) { edges { node {
  id issues(first: 50) { nodes { id labels(first: 60) { nodes { id } } } }
} } } } }"""


@pytest.mark.parametrize(("query", "nodes", "cost"), [(LARGE, 22_060, 21), (COSTLY, 305_100, 51)])
def test_the_documentations_own_examples(query: str, nodes: int, cost: int) -> None:
    """22,060 nodes, and 51 points, are what the documentation counts."""
    document = parse(query)
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    measured = measure(DOCUMENTED, document, operation, {})
    assert (nodes, cost) == (measured.nodes, measured.cost)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A repository as reported."""
    return Box(tmp_path)


def test_the_rate_is_told_as_it_is_after_the_query(box: Box) -> None:
    """``rateLimit`` says what this query costs, and what then is left until when."""
    answer = box.ask("{ rateLimit { cost limit remaining used resetAt nodeCount } }")
    expected = {"cost": 1, "limit": 5000, "remaining": 4989, "used": 11, "resetAt": "2023-11-14T22:23:20Z"}
    assert {**expected, "nodeCount": 0} == answer.data["rateLimit"]


def test_many_pages_within_pages_cost_more_points(box: Box) -> None:
    """Points grow with the requests that nested connections need; a variable's size counts as written out."""
    query = """query($size: Int = 100, $inner: Int!) { rateLimit { cost nodeCount }
      repository(owner: "me", name: "hub") { refs(refPrefix: "refs/heads/", first: $size) { nodes { target {
        ... on Commit { parents(first: $inner) { nodes { history(first: 1) { totalCount nodes { oid } } } } }
      } } } } }"""
    answer = box.ask(query, inner=3)
    assert {"cost": 4, "nodeCount": 100 + 300 + 300} == answer.data["rateLimit"]
    assert 4 == answer.context.cost


@pytest.mark.parametrize(
    ("field", "type_"),
    [
        ("refs(refPrefix: {p}) {{ nodes {{ name }} }}", "MISSING_PAGINATION_BOUNDARIES"),
        ("refs(refPrefix: {p}, first: 101) {{ nodes {{ name }} }}", "EXCESSIVE_PAGINATION"),
        ("refs(refPrefix: {p}, last: 0) {{ nodes {{ name }} }}", "EXCESSIVE_PAGINATION"),
        (
            "refs(refPrefix: {p}, first: 100) {{ nodes {{ target {{ ... on Commit {{ history(first: 100) {{ nodes {{"
            " parents(first: 50) {{ nodes {{ oid }} }} }} }} }} }} }} }}",
            "MAX_NODE_LIMIT_EXCEEDED",
        ),
    ],
)
def test_pages_must_be_bounded_and_nodes_few_enough(box: Box, field: str, type_: str) -> None:
    """A query beyond the documented bounds is refused whole, before anything is read."""
    inside = field.format(p='"refs/heads/"')
    answer = box.ask(f'{{ repository(owner: "me", name: "hub") {{ {inside} }} }}')
    assert type_ == answer.error["type"]
    assert "data" not in answer.body
    assert [] == answer.context.operations


def test_what_is_left_out_costs_nothing(box: Box) -> None:
    """A selection under ``@include`` or ``@skip`` counts only when it is made."""
    query = """query($more: Boolean!) { rateLimit { cost nodeCount } repository(owner: "me", name: "hub") {
      refs(refPrefix: "refs/heads/", first: 10) @include(if: $more) { nodes { name } }
      ... @skip(if: $more) { more: refs(refPrefix: "refs/heads/", first: 5) { nodes { name } } } } }"""
    assert 10 == box.ask(query, more=True).data["rateLimit"]["nodeCount"]
    assert 5 == box.ask(query, more=False).data["rateLimit"]["nodeCount"]


def test_a_count_alone_needs_no_page(box: Box) -> None:
    """``totalCount`` without nodes is no page."""
    box.start()
    assert {"refs": {"totalCount": 1}} == box.repository('refs(refPrefix: "refs/heads/") { totalCount }')
