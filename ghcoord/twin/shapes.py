"""The JSON of REST answers, with all keys that the official description demands."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ghcoord.twin.auth import User
from ghcoord.twin.objects import CommitData, Oid, Person, TreeEntry
from ghcoord.twin.repository import Repository

UNSIGNED = {"verified": False, "reason": "unsigned", "signature": None, "payload": None, "verified_at": None}
"""What is said of a commit without a signature."""

_LINKS = """
archive:/{archive_format}{/ref} assignees:/assignees{/user} blobs:/git/blobs{/sha}
branches:/branches{/branch} collaborators:/collaborators{/collaborator}
comments:/comments{/number} commits:/commits{/sha} compare:/compare/{base}...{head}
contents:/contents/{+path} contributors:/contributors deployments:/deployments
downloads:/downloads events:/events forks:/forks git_commits:/git/commits{/sha} git_refs:/git/refs{/sha}
git_tags:/git/tags{/sha} hooks:/hooks issue_comment:/issues/comments{/number} issue_events:/issues/events{/number}
issues:/issues{/number} keys:/keys{/key_id} labels:/labels{/name} languages:/languages merges:/merges
milestones:/milestones{/number} notifications:/notifications{?since,all,participating} pulls:/pulls{/number}
releases:/releases{/id} stargazers:/stargazers statuses:/statuses/{sha} subscribers:/subscribers
subscription:/subscription tags:/tags teams:/teams trees:/git/trees{/sha}"""


def stamp(seconds: float) -> str:
    """A moment as the API writes it."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def user(account: User, api: str) -> dict[str, Any]:
    """A simple user."""
    url = f"{api}/users/{quote(account.login)}"
    links = "followers following gists starred subscriptions organizations repos events received_events".split()
    return {
        "login": account.login,
        "id": account.number,
        "node_id": f"U_twin{account.number}",
        "avatar_url": f"{url}/avatar",
        "gravatar_id": "",
        "url": url,
        "html_url": f"{api.removesuffix('/api/v3')}/{account.login}",
        **{f"{name}_url": f"{url}/{name.replace('organizations', 'orgs')}" for name in links},
        "type": account.kind,
        "site_admin": False,
    }


def viewer(account: User, api: str) -> dict[str, Any]:
    """What a user is told about themself."""
    at = stamp(1_600_000_000)
    return {
        **user(account, api),
        **dict.fromkeys(("name", "company", "blog", "location", "email", "hireable", "bio", "twitter_username")),
        **dict.fromkeys(("public_repos", "public_gists", "followers", "following"), 0),
        "created_at": at,
        "updated_at": at,
    }


def repository(found: Repository, owner: User, api: str, permissions: dict[str, bool]) -> dict[str, Any]:
    """A full repository."""
    url = f"{api}/repos/{found.full_name}"
    html = f"{api.removesuffix('/api/v3')}/{found.full_name}"
    born, changed = stamp(1_600_000_000), stamp(found.landings[-1].time if found.landings else 1_600_000_000)
    counts = "forks forks_count open_issues open_issues_count stargazers_count watchers watchers_count size"
    return {
        "id": found.number,
        "node_id": found.node_id,
        "name": found.name,
        "full_name": found.full_name,
        "owner": user(owner, api),
        "private": found.private,
        "visibility": "private" if found.private else "public",
        "html_url": html,
        "description": None,
        "fork": False,
        "url": url,
        **{f"{name}_url": url + rest for name, _, rest in (each.partition(":") for each in _LINKS.split())},
        "clone_url": f"{html}.git",
        "git_url": f"{html}.git",
        "ssh_url": f"{html}.git",
        "svn_url": html,
        "mirror_url": None,
        "homepage": None,
        "language": None,
        "license": None,
        "topics": [],
        **dict.fromkeys(counts.split(), 0),
        "network_count": 0,
        "subscribers_count": 0,
        "default_branch": found.default_branch,
        **dict.fromkeys(("has_issues", "has_projects", "has_wiki", "has_pages", "has_discussions"), False),
        "archived": found.archived,
        "disabled": False,
        "pushed_at": changed,
        "created_at": born,
        "updated_at": changed,
        "permissions": permissions,
    }


def ref(found: Repository, name: str, oid: Oid, api: str) -> dict[str, Any]:
    """A git reference."""
    url = f"{api}/repos/{found.full_name}/git"
    kind = found.kind(oid) or "commit"
    return {
        "ref": name,
        "node_id": f"REF_twin{found.number}:{name}",
        "url": f"{url}/{quote(name)}",
        "object": {"type": kind, "sha": oid, "url": f"{url}/{kind}s/{oid}"},
    }


def _person(one: Person) -> dict[str, str]:
    return {"name": one.name, "email": one.email, "date": stamp(one.time)}


def commit(found: Repository, data: CommitData, api: str) -> dict[str, Any]:
    """A git commit."""
    url, html = f"{api}/repos/{found.full_name}/git", f"{api.removesuffix('/api/v3')}/{found.full_name}/commit"
    parents = [{"sha": each, "url": f"{url}/commits/{each}", "html_url": f"{html}/{each}"} for each in data.parents]
    return {
        "sha": data.oid,
        "node_id": f"C_twin{found.number}:{data.oid}",
        "url": f"{url}/commits/{data.oid}",
        "html_url": f"{html}/{data.oid}",
        "author": _person(data.author),
        "committer": _person(data.committer),
        "tree": {"sha": data.tree, "url": f"{url}/trees/{data.tree}"},
        "message": data.message,
        "parents": parents,
        "verification": UNSIGNED,
    }


def listed_commit(found: Repository, data: CommitData, api: str) -> dict[str, Any]:
    """A commit as lists of commits show it."""
    git = commit(found, data, api)
    url = f"{api}/repos/{found.full_name}/commits/{data.oid}"
    inner = {key: git[key] for key in ("url", "author", "committer", "message", "tree", "verification")}
    return {
        **{key: git[key] for key in ("sha", "node_id", "html_url", "parents")},
        "url": url,
        "comments_url": f"{url}/comments",
        "commit": {**inner, "comment_count": 0},
        "author": None,
        "committer": None,
    }


def tree(
    found: Repository, oid: Oid, entries: list[tuple[str, TreeEntry]], truncated: bool, api: str
) -> dict[str, Any]:
    """A tree with its entries."""
    url = f"{api}/repos/{found.full_name}/git"
    shown = []
    for path, entry in entries:
        one: dict[str, Any] = {"path": path, "mode": f"{entry.mode:06o}", "type": entry.kind, "sha": entry.oid}
        if entry.kind == "blob":
            one["size"] = found.blob_size(entry.oid)
        shown.append({**one, "url": f"{url}/{entry.kind}s/{entry.oid}"})
    return {"sha": oid, "url": f"{url}/trees/{oid}", "tree": shown, "truncated": truncated}


def file(found: Repository, path: str, entry: TreeEntry, size: int, api: str, at: str) -> dict[str, Any]:
    """A file or folder as the contents API shows it, without its content."""
    url = f"{api}/repos/{found.full_name}"
    html = f"{api.removesuffix('/api/v3')}/{found.full_name}"
    kind, place = ("dir", "tree") if entry.kind == "tree" else ("file", "blob")
    links = {
        "self": f"{url}/contents/{quote(path)}?ref={quote(at)}",
        "git": f"{url}/git/{place}s/{entry.oid}",
        "html": f"{html}/{place}/{quote(at)}/{quote(path)}",
    }
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "sha": entry.oid,
        "size": size,
        "url": links["self"],
        "html_url": links["html"],
        "git_url": links["git"],
        "download_url": None if kind == "dir" else f"{html}/raw/{quote(at)}/{quote(path)}",
        "type": kind,
        "_links": links,
    }
