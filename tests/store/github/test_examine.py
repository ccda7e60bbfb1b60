"""What doctor says of the token, the repository, its rules and limits, from GitHub's answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import responses

from ghcoord.clock import SystemRuntime
from ghcoord.store.budget.base import Report, Usage
from ghcoord.store.github.examine import examine
from ghcoord.store.observation import Observation
from tests.store.github.asking import BASE, FROM_GITHUB, Notes, api

PREFIX = "refs/heads/ghcoord/"
RUNTIME = SystemRuntime()
ABOUT: dict[str, Any] = {"full_name": "me/hub", "private": True, "visibility": "private", "permissions": {"push": True}}


@dataclass
class Limited(Notes):
    """A budget that reports one limit."""

    usage: tuple[Usage, ...] = ()
    until: float | None = None
    other: list[str] = field(default_factory=list)

    def report(self) -> Report:
        return Report(self.account, self.usage, self.pace(), 0.0, self.until, "a secondary limit was hit")


@pytest.fixture
def github() -> Iterator[responses.RequestsMock]:
    """GitHub, with a login."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.post(f"{BASE}/graphql", json={"data": {"viewer": {"login": "octo"}}}, headers=FROM_GITHUB)
        yield mock


def look(
    github: responses.RequestsMock,
    about: dict[str, Any] | None = None,
    *,
    headers: dict[str, str] | None = None,
    rules: Any = (),
    protected: Any = (),
    notes: Notes | None = None,
    push: str | None = None,
    prefix: str = PREFIX,
) -> dict[str, Observation]:
    """The observations, the worst of each check."""
    given = {**FROM_GITHUB, **(headers or {})}
    github.get(f"{BASE}/repos/me/hub", json={**ABOUT, **(about or {})}, headers=given)
    status = 200 if isinstance(rules, list | tuple) else rules
    github.get(f"{BASE}/repos/me/hub/rules/branches/ghcoord%2Ffleet", json=rules, status=status, headers=FROM_GITHUB)
    github.get(f"{BASE}/repos/me/hub/branches?protected=true&per_page=100", json=list(protected), headers=FROM_GITHUB)
    github.get(f"{BASE}/rate_limit", json={}, headers=FROM_GITHUB)
    found = examine(api(notes=notes), prefix, RUNTIME, "a classic token from GH_TOKEN", lambda: push)
    order = {"ok": 0, "warning": 1, "error": 2}
    return {one.check: one for one in sorted(found, key=lambda one: order[one.level])}


def test_all_is_well(github: responses.RequestsMock) -> None:
    """Who, with which scopes and until when; nothing is wrong."""
    headers = {"x-oauth-scopes": "repo, gist", "github-authentication-token-expiration": "2027-01-01 00:00:00 UTC"}
    found = look(github, headers=headers)
    assert {"ok"} == {one.level for one in found.values()}
    expected = "octo, by a classic token from GH_TOKEN, scopes repo, gist, valid until 2027-01-01 00:00:00 UTC"
    assert expected == found["token"].message
    assert "github" == found["driver"].details["suits"]


@pytest.mark.parametrize(
    ("about", "check", "level", "words"),
    [
        ({"archived": True}, "repository", "error", "archived"),
        ({"disabled": True}, "repository", "error", "disabled"),
        ({"full_name": "me/renamed"}, "repository", "warning", "is called me/renamed now"),
        ({"permissions": {"push": False, "pull": True}}, "permissions", "error", "not write"),
        ({"permissions": None}, "permissions", "ok", "not told"),
        ({"visibility": "public", "private": False}, "visibility", "warning", "anybody reads"),
    ],
)
def test_what_the_repository_tells(
    github: responses.RequestsMock, about: dict[str, Any], check: str, level: str, words: str
) -> None:
    """Archived, disabled, renamed, read-only and public repositories are each named."""
    found = look(github, about)[check]
    assert (level, True) == (found.level, words in found.message)
    assert found.fix or level == "ok"


def test_rules_in_the_way(github: responses.RequestsMock) -> None:
    """Rules that refuse the hub's commits are named, others are not."""
    rules = [{"type": "pull_request"}, {"type": "deletion"}, {"type": "required_signatures"}, 7, {}]
    found = look(github, rules=rules)["rules"]
    assert "warning" == found.level
    assert "refuses changes without a pull request, unsigned commits" in found.message
    assert ["pull_request", "required_signatures"] == found.details["rules"]


def test_protected_branches(github: responses.RequestsMock) -> None:
    """Branches of the hub that are protected are named, others are none of our business."""
    found = look(github, protected=[{"name": "main"}, {"name": "ghcoord/locks"}])["rules"]
    assert "a branch protection holds for ghcoord/locks" == found.message


@pytest.mark.parametrize(("rules", "words"), [([{"type": "deletion"}], "no branch protection"), (403, "not told")])
def test_no_rules_in_the_way(github: responses.RequestsMock, rules: Any, words: str) -> None:
    """Harmless rules, and rules that this token may not see, are no warning."""
    found = look(github, rules=rules)["rules"]
    assert ("ok", True) == (found.level, words in found.message)


def test_custom_refs_have_no_rules(github: responses.RequestsMock) -> None:
    """Outside of the branches nothing is asked."""
    assert "ok" == look(github, prefix="refs/ghcoord/")["rules"].level
    assert not any("rules" in call.request.url for call in github.calls)


def usage(used: int, limit: int) -> tuple[Usage, ...]:
    return (Usage("requests an hour", used, limit, limit, 3600.0, None, "server"),)


@pytest.mark.parametrize(
    ("used", "limit", "push", "budget", "suits"),
    [
        (100, 5000, None, "ok", "github"),
        (4900, 5000, None, "warning", "https"),
        (10, 1000, None, "ok", "https"),
        (4900, 5000, "status 403", "warning", None),
    ],
)
def test_limits_and_the_driver_that_suits(
    github: responses.RequestsMock, used: int, limit: int, push: str | None, budget: str, suits: str | None
) -> None:
    """Where the API's limit is small or nearly used up git is advised, unless pushes do not get through."""
    found = look(github, notes=Limited(usage=usage(used, limit)), push=push)
    assert budget == found["budget"].level
    if suits is None:
        assert "git push does not get through: status 403" == found["push"].message
        assert "driver" not in found
    else:
        assert suits == found["driver"].details["suits"]


def test_a_limit_that_holds_now(github: responses.RequestsMock) -> None:
    """Doctor says how long nothing goes, and why."""
    found = look(github, notes=Limited(until=RUNTIME.now() + 90))["budget"]
    assert "warning" == found.level
    assert " s more: a secondary limit was hit" in found.message


def test_one_question_refused_leaves_the_others(github: responses.RequestsMock) -> None:
    """An answer that is broken becomes a warning, and the other checks run."""
    found = look(github, rules=500)
    assert "warning" == found["github"].level
    assert "ok" == found["driver"].level


def test_no_access_at_all(github: responses.RequestsMock) -> None:
    """A wrong token is the only finding."""
    github.get(f"{BASE}/repos/me/hub", status=401, json={"message": "Bad credentials"}, headers=FROM_GITHUB)
    found = examine(api(), PREFIX, RUNTIME, "x", lambda: None)
    assert [("github", "error")] == [(one.check, one.level) for one in found]
    assert found[0].fix.startswith("make a new one")
