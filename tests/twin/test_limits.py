"""The twin's limits: what they count, how they refuse, and that going on is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord.testing.clock import ManualRuntime
from ghcoord.twin.limits import TwinLimits
from ghcoord.twin.server import Twin
from ghcoord.twin.switches import Switches
from tests.twin.asking import HUB, Asking

QUERY = "{viewer{login}}"


def _limited(folder: Path, runtime: ManualRuntime, limits: TwinLimits, switches: Switches | None = None) -> Asking:
    twin = Twin(folder / "twin", limits=limits, runtime=runtime, switches=switches)
    twin.repository("me", "hub", empty=False)
    return Asking(twin, twin.user("me"))


def test_off_there_is_no_limit_to_see(me: Asking) -> None:
    """Without limits no headers, and the endpoint says so."""
    assert 404 == me("GET", "/rate_limit").status
    assert not [name for name in me("GET", "/user").headers if name.startswith("x-ratelimit")]


def test_the_primary_limit_is_told_shared_and_reset(tmp_path: Path, runtime: ManualRuntime) -> None:
    """All tokens of a user share it; beyond it comes 403 with the reset, and who goes on is noted; then it is whole."""
    me = _limited(tmp_path, runtime, TwinLimits(rest_per_hour=3))
    other = Asking(me.twin, me.twin.user("me"))
    assert "2" == me("GET", "/user").headers["x-ratelimit-remaining"]
    tag = other("GET", HUB).headers["etag"]
    assert 304 == other("GET", HUB, if_none_match=tag).status
    assert "1" == other("GET", HUB, if_none_match=tag).headers["x-ratelimit-remaining"]
    assert "0" == me("GET", "/user").headers["x-ratelimit-remaining"]
    refused = other("GET", "/user")
    assert (403, "0") == (refused.status, refused.headers["x-ratelimit-remaining"])
    assert "retry-after" not in refused.headers
    assert "API rate limit exceeded" in refused.body["message"]
    assert not me.twin.violations
    assert 200 == me("GET", "/rate_limit").status
    assert 403 == me("GET", "/user").status
    assert 1 == len(me.twin.violations)
    runtime.advance(float(refused.headers["x-ratelimit-reset"]) - runtime.now() + 1)
    assert "2" == me("GET", "/user").headers["x-ratelimit-remaining"]


def test_a_304_may_cost(tmp_path: Path, runtime: ManualRuntime) -> None:
    """By the switch a 304 is charged as any other answer."""
    me = _limited(tmp_path, runtime, TwinLimits(rest_per_hour=10), Switches(not_modified_free=False))
    tag = me("GET", HUB).headers["etag"]
    assert "8" == me("GET", HUB, if_none_match=tag).headers["x-ratelimit-remaining"]


def test_graphql_has_points_of_its_own(tmp_path: Path, runtime: ManualRuntime) -> None:
    """Its primary limit is refused with 200 and errors, and leaves REST alone."""
    me = _limited(tmp_path, runtime, TwinLimits(rest_per_hour=10, graphql_per_hour=2))
    assert "graphql" == me.graphql(QUERY).headers["x-ratelimit-resource"]
    assert {"data": {"viewer": {"login": "me"}}} == me.graphql(QUERY).body
    refused = me.graphql(QUERY)
    assert (200, "RATE_LIMITED") == (refused.status, refused.body["errors"][0]["type"])
    assert "10" == me("GET", "/rate_limit").headers["x-ratelimit-remaining"]


@pytest.mark.parametrize("status", [403, 429])
def test_content_is_limited_by_the_minute(tmp_path: Path, runtime: ManualRuntime, status: int) -> None:
    """The 81st content-creating request of a minute is refused, with retry-after, and everything is until it passes."""
    me = _limited(tmp_path, runtime, TwinLimits.published(), Switches(secondary_status=status))
    blobs = f"{HUB}/git/blobs"
    assert {201} == {me("POST", blobs, {"content": str(each)}).status for each in range(80)}
    refused = me("POST", blobs, {"content": "x"})
    assert (status, "60") == (refused.status, refused.headers["retry-after"])
    assert "secondary rate limit" in refused.body["message"]
    assert not me.twin.violations
    runtime.advance(59)
    assert status == me("GET", "/user").status
    assert 1 == len(me.twin.violations)
    runtime.advance(2)
    assert 201 == me("POST", blobs, {"content": "x"}).status


def test_content_is_limited_by_the_hour(tmp_path: Path, runtime: ManualRuntime) -> None:
    """500 an hour: attempts count, also refused ones; by the switch only what succeeded."""
    limits = TwinLimits(content_per_hour=5)
    me = _limited(tmp_path, runtime, limits)
    for _ in range(5):
        assert 422 == me.create("refs/heads/main", me.head()).status
    assert 403 == me.create("refs/heads/x", "0" * 40).status
    kind = _limited(tmp_path / "other", runtime, limits, Switches(failed_writes_count=False, retry_after=False))
    for _ in range(9):
        assert 422 == kind.create("refs/heads/main", kind.head()).status
    for each in range(5):
        assert 201 == kind.create(f"refs/heads/x{each}", kind.head()).status
    refused = kind.create("refs/heads/y", "0" * 40)
    assert 403 == refused.status
    assert "retry-after" not in refused.headers


def test_objects_may_not_count(tmp_path: Path, runtime: ManualRuntime) -> None:
    """By the switch blobs, trees and commits are no content; refs are."""
    me = _limited(tmp_path, runtime, TwinLimits(content_per_minute=1), Switches(objects_count=False))
    head = me.head()
    child = me.commit(me.commit(head))
    assert 200 == me.move(child).status
    assert 403 == me.move(child).status


def test_points_by_endpoint(tmp_path: Path, runtime: ManualRuntime) -> None:
    """900 points a minute for one endpoint, a read being one; another endpoint has its own."""
    me = _limited(tmp_path, runtime, TwinLimits(rest_points=3))
    assert [200, 200, 200] == [me("GET", "/user").status for _ in range(3)]
    assert 200 == me("GET", HUB).status
    assert 403 == me("GET", "/user").status


@pytest.mark.parametrize("status", [200, 403])
def test_graphql_points(tmp_path: Path, runtime: ManualRuntime, status: int) -> None:
    """2,000 points a minute; the refusal is 200 with errors or 403, by the switch."""
    me = _limited(tmp_path, runtime, TwinLimits(graphql_points=2), Switches(graphql_secondary_status=status))
    assert [200, 200] == [me.graphql(QUERY).status for _ in range(2)]
    refused = me.graphql(QUERY)
    assert (status, "60") == (refused.status, refused.headers["retry-after"])
    assert ("errors" in refused.body) == (status == 200)


def test_a_workflow_has_a_thousand(tmp_path: Path, runtime: ManualRuntime) -> None:
    """GITHUB_TOKEN has a limit of its own in its repository."""
    me = _limited(tmp_path, runtime, TwinLimits.published())
    me.twin.grant("github-actions[bot]", "me/hub", contents="write")
    bot = Asking(me.twin, me.twin.user("github-actions[bot]", kind="actions", repositories=["me/hub"]))
    assert ("1000", "5000", "60") == tuple(
        one("GET", HUB).headers["x-ratelimit-limit"] for one in (bot, me, Asking(me.twin, ""))
    )


def test_concurrent_requests(tmp_path: Path, runtime: ManualRuntime) -> None:
    """A request beyond those allowed at once is refused."""
    me = _limited(tmp_path, runtime, TwinLimits(concurrent=1))
    inner: list[int] = []
    get = me.twin.hosting.accounts.find
    me.twin.hosting.accounts.find = (  # type: ignore[method-assign]
        lambda login: inner.append(Asking(me.twin, me.token)("GET", "/meta").status) or get(login)  # type: ignore[func-returns-value]
    )
    assert 200 == me("GET", "/user").status
    assert 403 in inner
