"""What ``ghcoord doctor`` asks GitHub about a hub. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ghcoord.clock import Runtime
from ghcoord.errors import GhcoordError
from ghcoord.store.github.api import Answer, Api
from ghcoord.store.github.url import git_url
from ghcoord.store.observation import ALMOST, Observation, clock, failed, limits

HINDRANCES = {
    "creation": "new branches",
    "update": "every change",
    "pull_request": "changes without a pull request",
    "required_status_checks": "changes without status checks",
    "required_deployments": "changes without a deployment",
    "merge_queue": "changes outside the merge queue",
    "required_signatures": "unsigned commits",
    "commit_message_pattern": "commit messages of another pattern",
    "commit_author_email_pattern": "other authors' addresses",
    "committer_email_pattern": "other committers' addresses",
    "branch_name_pattern": "branch names of another pattern",
    "file_path_restriction": "certain paths",
    "file_extension_restriction": "certain file extensions",
}
"""Types of rules in a ruleset that may refuse the hub's commits, and what they refuse."""

SMALL = 1000
"""Requests an hour that the token of a workflow has; a hub's workers can use them up."""


def examine(
    api: Api, prefix: str, runtime: Runtime, source: str, push_works: Callable[[], str | None]
) -> list[Observation]:
    """All there is to say about the way to the hub, the token and the repository.

    ``source`` says what token it is and where it is from; ``push_works`` tries whether git
    itself gets through and returns why not.
    """
    found: list[Observation] = []
    try:
        about = api.rest("GET", api.repo.path)
        login = api.login()
    except GhcoordError as error:
        return [failed("github", error)]
    body: Mapping[str, Any] = about.body if isinstance(about.body, Mapping) else {}
    found.append(_token(login, source, about))
    found += _permissions(api, body)
    for observations in (
        _rules(api, prefix),
        _clock(api, runtime),
        limits(api.budget, runtime),
        _driver(api, push_works),
    ):
        try:
            found += observations
        except GhcoordError as error:
            found.append(failed("github", error)._replace(level="warning"))
    return found


def _token(login: str, source: str, about: Answer) -> Observation:
    scopes = about.headers.get("x-oauth-scopes")
    ends = about.headers.get("github-authentication-token-expiration", "")
    parts = [f"{login}, by {source}"]
    if scopes is not None:
        parts.append(f"scopes {scopes or '(none)'}")
    if ends:
        parts.append(f"valid until {ends}")
    details = {"login": login, "source": source, "scopes": scopes, "expires": ends or None}
    return Observation("token", "ok", ", ".join(parts), details=details)


def _permissions(api: Api, about: Mapping[str, Any]) -> Iterator[Observation]:
    repo = api.repo
    name = about.get("full_name")
    if isinstance(name, str) and name.lower() != f"{repo.owner}/{repo.name}".lower():
        yield Observation(
            "repository", "warning", f"{repo.url} is called {name} now", f"name it {name}", {"name": name}
        )
    visible = about.get("visibility") or ("private" if about.get("private") else "public")
    if about.get("archived"):
        yield Observation(
            "repository", "error", f"{repo.url} is archived: it can be read only", "unarchive it in its settings"
        )
    elif about.get("disabled"):
        yield Observation("repository", "error", f"{repo.url} is disabled", "ask GitHub's support, or use another one")
    permissions = about.get("permissions")
    may_write = permissions.get("push") if isinstance(permissions, Mapping) else None
    if may_write is False:
        yield Observation(
            "permissions",
            "error",
            f"the token may read {repo.url} but not write to it",
            "it needs contents: write (classic tokens: the scope repo) and write access to the repository",
        )
    else:
        said = "may write" if may_write else "is visible; whether it may be written is not told"
        yield Observation(
            "permissions", "ok", f"{repo.url} ({visible}): the token {said}", details={"visibility": visible}
        )
    if visible == "public":
        yield Observation(
            "visibility",
            "warning",
            "the repository is public: anybody reads tasks, results and memory",
            "make it private, or keep secrets out of it",
        )


def _rules(api: Api, prefix: str) -> Iterator[Observation]:
    """Branch protection and rulesets that hold for the hub's branches."""
    if not prefix.startswith("refs/heads/"):
        yield Observation("rules", "ok", f"{prefix} is outside the branches: no protection holds there")
        return
    repo, branch = api.repo, prefix.removeprefix("refs/heads/")
    answer = api.rest("GET", f"{repo.path}/rules/branches/{quote(branch + 'fleet', safe='')}", expect=(403, 404))
    rules = answer.body if answer.status == 200 and isinstance(answer.body, list) else []
    types = sorted({str(rule.get("type")) for rule in rules if isinstance(rule, Mapping)} & set(HINDRANCES))
    listed = api.rest("GET", f"{repo.path}/branches?protected=true&per_page=100", expect=(403, 404))
    names = (
        [str(one.get("name")) for one in listed.body if isinstance(one, Mapping)]
        if isinstance(listed.body, list)
        else []
    )
    protected = [name for name in names if name.startswith(branch)]
    if types:
        refused = ", ".join(HINDRANCES[name] for name in types)
        yield Observation(
            "rules",
            "warning",
            f"a ruleset on {branch}* refuses {refused}",
            f"exclude {branch}** from it, let the token's user bypass it, or set another prefix",
            {"rules": types},
        )
    if protected:
        yield Observation(
            "rules",
            "warning",
            f"a branch protection holds for {', '.join(protected[:3])}",
            f"exclude {branch}** from it, or set another prefix",
            {"branches": protected},
        )
    if answer.status != 200:
        yield Observation("rules", "ok", "rulesets are not told to this token", details={"status": answer.status})
    elif not types and not protected:
        yield Observation("rules", "ok", f"no branch protection or ruleset is in the way of {branch}*")


def _clock(api: Api, runtime: Runtime) -> Iterator[Observation]:
    yield clock(api.server_time(), runtime)


def _driver(api: Api, push_works: Callable[[], str | None]) -> Iterator[Observation]:
    """Which of ``github:`` and ``https://`` suits."""
    hub, git = api.repo.url, git_url(api.repo)
    if (refused := push_works()) is not None:
        yield Observation("push", "warning", f"git push does not get through: {refused}", f"stay with {hub}")
        return
    for use in api.budget.report().usage:
        left = use.limit - use.used
        if use.source == "server" and use.limit and (use.limit <= SMALL or left < ALMOST * use.limit):
            yield Observation(
                "driver",
                "warning",
                f"{git} suits better: of {use.name} {left:,} of {use.limit:,} are left, and pushes do not count there",
                f"--hub {git}",
                {"suits": "https"},
            )
            return
    yield Observation(
        "driver",
        "ok",
        f"{hub} suits many short commands and machines without a copy; {git} suits a few long-running workers: "
        "it spares the API's limits, but needs git, a copy on disk and two requests for each push",
        details={"suits": "github"},
    )
