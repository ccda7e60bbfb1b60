"""Every GraphQL document that reads. Whatever comes from outside travels in variables; only aliases are made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ghcoord.store.base import ROOT_RECORD, Oid
from ghcoord.store.github.api import Repo

PAGE = 100
"""Refs in one page: the most that GitHub gives."""

FIRST_PAGE = 20
"""Refs in the first page, which is all there is of most hubs: 100, with the commits before each, cost ten points."""

META_RECORDS = ("hub.json", "settings.json")
"""Records at the top of the hub's own space that every process reads first; elsewhere they are not there."""

_MADE = """
fragment Made on Commit {
  oid message authoredDate author { name } tree { oid }
  parents(first: 16) { totalCount nodes { oid } }
}"""
_LISTED = "\nfragment Listed on Tree { oid entries { name oid mode size } }"
_TEXT = "\nfragment Text on Blob { oid byteSize isBinary isTruncated text }"
_TOP = f"""
fragment Top on Commit {{
  ...Made
  tree {{ ...Listed }}
  record: file(path: "{ROOT_RECORD}") {{ object {{ ...Text }} }}
}}"""

Shape = Literal["commit", "tree", "any"]
"""A commit with its root tree and root record; a tree; a tree or a blob."""


@dataclass(frozen=True, slots=True)
class Want:
    """One object asked for: by its id, or by the ``path`` in the commit ``oid``.

    ``back`` is how many commits of its history come along with a commit, itself included.
    """

    shape: Shape
    oid: Oid
    path: str | None = None
    back: int = 0


def heads(repo: Repo, prefix: str, after: str | None, *, viewer: bool, back: int) -> tuple[str, dict[str, Any]]:
    """All spaces' heads with their commits, root trees and records, a page at a time.

    ``viewer`` asks who the token belongs to; ``back`` are the commits of each space's history that come along.
    """
    meta = "\n".join(
        f'          meta{number}: file(path: "{name}") {{ object {{ ...Text }} }}'
        for number, name in enumerate(META_RECORDS)
    )
    document = f"""
query Heads($owner: String!, $name: String!, $prefix: String!, $after: String, $page: Int!, $viewer: Boolean!,
    $back: Int!) {{
  viewer @include(if: $viewer) {{ login }}
  repository(owner: $owner, name: $name) {{
    refs(refPrefix: $prefix, first: $page, after: $after) {{
      pageInfo {{ hasNextPage endCursor }}
      nodes {{
        name prefix
        target {{
          __typename oid
          ... on Commit {{
            ...Top
            history(first: $back) {{ nodes {{ ...Made }} }}
{meta}
          }}
        }}
      }}
    }}
  }}
}}{_TOP}{_MADE}{_LISTED}{_TEXT}
"""
    variables = {
        "owner": repo.owner,
        "name": repo.name,
        "prefix": prefix,
        "after": after,
        "page": FIRST_PAGE if after is None else PAGE,
        "viewer": viewer,
        "back": back,
    }
    return document, variables


_SHAPES = {"tree": "...Listed", "any": "...Listed ...Text"}


def objects(repo: Repo, wants: Sequence[Want]) -> tuple[str, dict[str, Any]]:
    """The objects ``wants`` as ``o0``, ``o1``, …; null for those that are not there."""
    declared, fields = ["$owner: String!", "$name: String!"], []
    variables: dict[str, Any] = {"owner": repo.owner, "name": repo.name}
    used = set()
    for number, want in enumerate(wants):
        if want.path is None:
            declared.append(f"$i{number}: GitObjectID!")
            variables[f"i{number}"] = want.oid
            which = f"oid: $i{number}"
        else:
            declared.append(f"$e{number}: String!")
            variables[f"e{number}"] = f"{want.oid}:{want.path}"
            which = f"expression: $e{number}"
        if want.shape == "commit":
            inside = "...Top"
            if want.back > 0:
                declared.append(f"$b{number}: Int!")
                variables[f"b{number}"] = want.back
                inside += f" ... on Commit {{ history(first: $b{number}) {{ nodes {{ ...Made }} }} }}"
            used |= {_TOP, _MADE, _LISTED, _TEXT}
        else:
            inside = _SHAPES[want.shape]
            used |= {_LISTED, _TEXT} if want.shape == "any" else {_LISTED}
        fields.append(f"    o{number}: object({which}) {{ __typename oid {inside} }}")
    body = "\n".join(fields)
    document = f"""
query Objects({", ".join(declared)}) {{
  repository(owner: $owner, name: $name) {{
{body}
  }}
}}{"".join(sorted(used))}
"""
    return document, variables


def raw_names(repo: Repo, oid: Oid) -> tuple[str, dict[str, Any]]:
    """A tree with its names as bytes: what ``name`` shows of those that are not UTF-8 is not what they are."""
    document = """
query RawNames($owner: String!, $name: String!, $oid: GitObjectID!) {
  repository(owner: $owner, name: $name) {
    object(oid: $oid) { __typename oid ... on Tree { entries { nameRaw oid mode } } }
  }
}
"""
    return document, {"owner": repo.owner, "name": repo.name, "oid": oid}
