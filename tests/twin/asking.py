"""Asking the twin over REST, without sockets."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ghcoord.twin.messages import Incoming
from ghcoord.twin.rest import Reply
from ghcoord.twin.server import Twin

HUB = "/repos/me/hub"


@dataclass
class Asking:
    """Somebody with a token; an empty one is nobody."""

    twin: Twin
    token: str

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; ``if_none_match=…`` is a header."""
        inner, _, query = path.partition("?")
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            sent["authorization"] = f"Bearer {self.token}"
        data = b"" if body is None else json.dumps(body).encode()
        return self.twin.handle(Incoming(method, "/api/v3" + unquote(inner), query, sent, data))

    def graphql(self, query: str, **variables: Any) -> Reply:
        """One query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        return self.twin.handle(Incoming("POST", "/api/graphql", "", {"authorization": f"Bearer {self.token}"}, body))

    def head(self, branch: str = "main") -> str:
        """Where a branch is, as a read sees it."""
        return str(self("GET", f"{HUB}/git/ref/heads/{branch}").body["object"]["sha"])

    def put(self, path: str, text: str, **more: Any) -> Reply:
        """Write a file over the contents API."""
        content = base64.b64encode(text.encode()).decode()
        return self("PUT", f"{HUB}/contents/{path}", {"message": "m", "content": content, **more})

    def commit(self, parent: str, path: str = "a", text: str = "1") -> str:
        """A commit on top of another that no ref names yet."""
        entry = {"path": path, "mode": "100644", "type": "blob", "content": text}
        tree = self("POST", f"{HUB}/git/trees", {"base_tree": parent, "tree": [entry]}).body["sha"]
        body = {"message": f"{path} {text}", "tree": tree, "parents": [parent]}
        return str(self("POST", f"{HUB}/git/commits", body).body["sha"])

    def move(self, oid: str, branch: str = "main", **more: Any) -> Reply:
        """Move a branch."""
        return self("PATCH", f"{HUB}/git/refs/heads/{branch}", {"sha": oid, **more})

    def create(self, ref: str, oid: str) -> Reply:
        """Create a ref, named in full."""
        return self("POST", f"{HUB}/git/refs", {"ref": ref, "sha": oid})
