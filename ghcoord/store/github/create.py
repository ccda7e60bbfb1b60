"""Make sure that there is a repository with a first commit, for ``ghcoord init``."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ghcoord.errors import Denied, NotFound, Unavailable, UsageError
from ghcoord.store.github.api import Api
from ghcoord.store.github.refusals import say

README = """# {name}

The branches below `{prefix}` are a hub of [ghcoord](https://pypi.org/project/ghcoord/): locks, workers, tasks and
shared memory. They change often and have nothing to do with this branch.
"""


def create_on_github(api: Api, prefix: str, *, create: bool, private: bool = True) -> bool:
    """Leave a repository in which the refs below ``prefix`` can be made; whether there is none yet.

    A repository that is missing is made only with ``create``, else ``NotFound``
    names both ways.  An empty one gets its first commit, a README on its
    default branch, since GitHub makes no refs before.  Raises ``Denied`` for
    one that is archived or that the token may not write to, ``UsageError`` where a ref stands in the way.
    """
    repo = api.repo
    found = api.rest("GET", repo.path, expect=(404,))
    if found.status == 404:
        if not create:
            raise NotFound(
                f"{repo.url} is not there or the token may not see it: make it on {repo.host}, "
                "or let 'ghcoord init --create' make it (private)"
            )
        _make(api, private)
        found = api.rest("GET", repo.path)
    about: Mapping[str, Any] = found.body if isinstance(found.body, Mapping) else {}
    if about.get("archived"):
        raise Denied(f"{repo.url} is archived and cannot be written: unarchive it in its settings, or name another")
    permissions = about.get("permissions")
    if isinstance(permissions, Mapping) and not permissions.get("push", True):
        raise Denied(
            f"the token lacks the permission contents: write on {repo.url}: "
            "ask for write access, or use a token that has it"
        )
    branch = str(about.get("default_branch") or "main")
    if api.rest("GET", f"{repo.path}/git/ref/heads/{quote(branch)}", expect=(404, 409)).status != 200:
        _first_commit(api, prefix)
    return _is_free(api, prefix)


def _is_free(api: Api, prefix: str) -> bool:
    """Whether there is no hub yet; raises ``UsageError`` for a ref in the way, as GitHub does not say it later."""
    repo = api.repo
    parent = prefix.rstrip("/")
    answer = api.rest("GET", f"{repo.path}/git/matching-refs/{quote(parent.removeprefix('refs/'))}", expect=(404, 409))
    listed = answer.body if answer.status == 200 and isinstance(answer.body, list) else []
    names = [str(one.get("ref")) for one in listed if isinstance(one, Mapping)]
    if parent in names:
        raise UsageError(
            f"{parent} of {repo.url} stands in the way of the hub's {prefix}*: "
            "rename or delete it, or choose another prefix"
        )
    return not any(name.startswith(prefix) for name in names)


def _make(api: Api, private: bool) -> None:
    repo = api.repo
    mine = api.login().lower() == repo.owner.lower()
    body = {"name": repo.name, "private": private, "description": "A hub of ghcoord", "has_wiki": False}
    where = "/user/repos" if mine else f"/orgs/{repo.owner}/repos"
    answer = api.rest("POST", where, body, kind="write", expect=(403, 404, 422))
    if answer.status == 201:
        return
    if answer.status == 422:
        if api.rest("GET", repo.path, expect=(404,)).status == 200:
            return  # made by someone else in the meantime
        raise Denied(f"{repo.host} does not make {repo.url} ({say(answer.body)}): name another repository")
    owner = "your account" if mine else f"the organization {repo.owner}"
    raise Denied(
        f"the token may not make repositories for {owner} ({say(answer.body) or 'not found'}): "
        f"make {repo.owner}/{repo.name} on {repo.host} by hand, then run 'ghcoord init' again"
    )


def _first_commit(api: Api, prefix: str) -> None:
    """A README; whoever was faster is as good."""
    repo = api.repo
    text = README.format(name=repo.name, prefix=prefix.removeprefix("refs/heads/"))
    body = {"message": "README [skip ci]", "content": base64.b64encode(text.encode()).decode()}
    answer = api.rest("PUT", f"{repo.path}/contents/README.md", body, kind="write", expect=(404, 409, 422))
    if answer.status == 404:
        raise Unavailable(f"{repo.url} is not there yet: run 'ghcoord init' again in a moment")
    if answer.status == 422 and "sha" not in say(answer.body).lower():
        raise Denied(f"{repo.host} takes no first commit in {repo.url} ({say(answer.body)}): make one by hand")
