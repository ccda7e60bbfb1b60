"""A repository behind the GraphQL API, without HTTP: what tests of it share."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ghcoord.twin.auth import EVERYTHING, Level, Token, TokenKind
from ghcoord.twin.context import RequestContext
from ghcoord.twin.graphql_execute import execute
from ghcoord.twin.hosting import Hosting
from ghcoord.twin.objects import NewEntry, Oid, Person
from ghcoord.twin.repository import RefUpdate, Repository, View
from ghcoord.twin.switches import Switches

NOW = 1_700_000_000.0
NULL = "0" * 40

COMMIT = """
mutation Commit($input: CreateCommitOnBranchInput!) {
  createCommitOnBranch(input: $input) {
    clientMutationId
    ref { name prefix target { oid } }
    commit {
      oid message messageHeadline messageBody tree { oid } parents(first: 10) { nodes { oid } }
      author { name email date user { login } } committer { name email }
    }
  }
}
"""

UPDATE_REFS = "mutation Move($input: UpdateRefsInput!) { updateRefs(input: $input) { clientMutationId } }"


class Answer:
    """An answer with its data and errors at hand."""

    def __init__(self, status: int, body: Mapping[str, Any], context: RequestContext) -> None:
        self.status = status
        self.body = body
        self.context = context

    @property
    def data(self) -> Any:
        """The data of an answer that has no errors."""
        assert "errors" not in self.body, self.body
        return self.body["data"]

    @property
    def error(self) -> Mapping[str, Any]:
        """The only error."""
        assert 1 == len(self.body["errors"])
        return self.body["errors"][0]


class Box:
    """A hosting with one repository, ``me/hub``, and its owner's token."""

    def __init__(self, folder: Path, **switches: Any) -> None:
        self.hosting = Hosting(folder, replace(Switches(), **switches))
        self.hub = self.hosting.create("me", "hub")
        self.token = self.hosting.accounts.add(Token("secret", "me", permissions=EVERYTHING))
        self.now = NOW
        self.view = View()

    def as_(self, login: str, kind: TokenKind = "classic", **permissions: Level) -> Token:
        """Another account, with these permissions in the repository; its token."""
        self.hosting.grant(login, "me/hub", permissions)
        return self.hosting.accounts.add(Token(f"secret-{login}", login, kind, permissions))

    def ask(self, query: str, token: Token | None = None, **variables: Any) -> Answer:
        """Send a query."""
        context = RequestContext(
            hosting=self.hosting,
            token=token or self.token,
            now=self.now,
            method="POST",
            path="/api/graphql",
            request_id="TW1N:1",
            view=self.view,
            rate={"limit": 5000, "remaining": 4990, "used": 10, "reset": NOW + 600},
        )
        return Answer(*execute(context, {"query": query, "variables": variables}), context)

    def repository(self, fields: str, token: Token | None = None) -> Any:
        """What the repository's fields are."""
        return self.ask(f'{{ repository(owner: "me", name: "hub") {{ {fields} }} }}', token).data["repository"]

    def commit(
        self,
        expected: Oid,
        additions: Mapping[str, bytes] | None = None,
        deletions: Iterable[str] = (),
        *,
        branch: str = "main",
        headline: str = "Change",
        body: str | None = None,
        token: Token | None = None,
    ) -> Answer:
        """createCommitOnBranch."""
        changes = {
            "additions": [
                {"path": path, "contents": base64.b64encode(content).decode()}
                for path, content in (additions or {}).items()
            ],
            "deletions": [{"path": path} for path in deletions],
        }
        message = {"headline": headline} | ({} if body is None else {"body": body})
        where = {"repositoryNameWithOwner": "me/hub", "branchName": branch}
        value = {"branch": where, "expectedHeadOid": expected, "message": message, "fileChanges": changes}
        return self.ask(COMMIT, token, input=value)

    def move(self, *updates: tuple[str, str | None, str] | tuple[str, str | None, str, bool], **more: Any) -> Answer:
        """updateRefs with updates of name, before, after and force."""
        entries = [
            {"name": name, "afterOid": after, "force": bool(force)} | ({} if before is None else {"beforeOid": before})
            for name, before, after, *force in updates
        ]
        return self.ask(UPDATE_REFS, input={"repositoryId": self.hub.node_id, "refUpdates": entries}, **more)

    def make(self, files: Mapping[str, bytes], *parents: Oid, time: float = NOW, message: str = "made\n") -> Oid:
        """A commit of exactly these files, at no ref."""
        hub = self.hub
        tree = hub.edit_tree(None, {path: NewEntry(0o100644, hub.create_blob(each)) for path, each in files.items()})
        return hub.create_commit(tree, list(parents), message, Person("Ann", "ann@example.org", int(time), 60))

    def put(self, ref: str, oid: Oid) -> None:
        """Set a ref, named in full."""
        before = self.hub.head(ref)
        self.hub.update_refs([RefUpdate(ref, before, oid, True)], login="me", via="rest", now=self.now)

    def start(self, files: Mapping[str, bytes] | None = None, ref: str = "refs/heads/main") -> Oid:
        """A ref with a first commit, which is returned."""
        oid = self.make({"a.json": b"{}\n"} if files is None else files)
        self.put(ref, oid)
        return oid


def files_of(repository: Repository, oid: Oid) -> dict[str, bytes]:
    """All files of a commit."""
    commit = repository.commit(oid)
    assert commit is not None
    entries, _ = repository.walk(commit.tree, 1000)
    return {path: repository.blob(entry.oid) or b"" for path, entry in entries if entry.kind == "blob"}
