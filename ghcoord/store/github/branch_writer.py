"""One commit on one branch with one request: ``createCommitOnBranch``.

The server compares ``expectedHeadOid`` and makes blobs, trees, commit and the
move of the branch itself.  It chooses the author, so the actor stands in the
message.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from ghcoord.errors import OutcomeUnknown
from ghcoord.store.base import CommitInfo
from ghcoord.store.github.api import Api
from ghcoord.store.github.reading import commit_of_node
from ghcoord.store.github.writing import EMPTY_TREE, Draft

BRANCHES = "refs/heads/"

STALE = "STALE_DATA"
"""The type of the error for a head that is not as expected [R]. Anything else is looked into."""

MUTATION = """
mutation Commit($input: CreateCommitOnBranchInput!) {
  createCommitOnBranch(input: $input) {
    commit {
      oid message authoredDate author { name } tree { oid }
      parents(first: 16) { totalCount nodes { oid } }
    }
  }
}
"""


def fits(one: Draft) -> bool:
    """Whether that request can make this commit.

    It changes files of branches that are there; what it makes of a file that
    becomes a directory, and of no change at all, is written nowhere.
    """
    if one.parent is None or not one.ref.startswith(BRANCHES):
        return False
    return bool(one.files or one.gone) and not one.swaps and one.tree != EMPTY_TREE


def commit_on_branch(api: Api, one: Draft) -> CommitInfo:
    """Make the commit. Raises what :meth:`Api.graphql` does, and ``OutcomeUnknown`` for an answer without a commit."""
    data = api.graphql(MUTATION, {"input": _input(api, one)}, kind="write")
    made = data.get("createCommitOnBranch")
    node = made.get("commit") if isinstance(made, Mapping) else None
    info = commit_of_node(node) if isinstance(node, Mapping) and "message" in node else None
    if info is None:
        raise OutcomeUnknown("the server's answer names no commit: it may have been made")
    return info


def _input(api: Api, one: Draft) -> dict[str, Any]:
    headline, _, body = one.message.partition("\n")
    return {
        "branch": {
            "repositoryNameWithOwner": f"{api.repo.owner}/{api.repo.name}",
            "branchName": one.ref.removeprefix(BRANCHES),
        },
        "message": {"headline": headline, "body": body.strip("\n")},
        "expectedHeadOid": one.parent,
        "fileChanges": {
            "additions": [
                {"path": path, "contents": base64.b64encode(data).decode()} for path, data in one.files.items()
            ],
            "deletions": [{"path": path} for path in one.gone],
        },
        "clientMutationId": one.op.ids[0] if one.op.ids else None,
    }
