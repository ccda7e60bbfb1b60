"""Commits that were made, reported as if they were not: what must not happen."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

from ghcoord.errors import GhcoordError, NotFound, OutcomeUnknown, Unavailable
from ghcoord.store.github.answers import Asked, judge_failure, judge_graphql
from ghcoord.store.github.api import Answer, Repo
from ghcoord.store.github.wire import Raw, carry
from ghcoord.testing.clock import ManualRuntime
from tests.store.github.test_driver import begin, op
from tests.store.github.twins import MODES, twin_hub

REPO = Repo("github.com", "me", "hub", "https://api.github.com", "https://api.github.com/graphql")
WRITE = Asked(REPO, "POST", "/graphql", "write", graphql=True)


def refused() -> Exception:
    return urllib3.exceptions.NewConnectionError(None, "[Errno 111] Connection refused")  # type: ignore[arg-type]


def timed_out() -> Raw:
    try:
        raise TimeoutError
    except TimeoutError as error:
        raise requests.exceptions.ReadTimeout(error) from error


@pytest.mark.parametrize(
    "before", [ConnectionRefusedError(), socket.gaierror(), refused()], ids=lambda e: type(e).__name__
)
def test_what_the_caller_handles_meanwhile_does_not_count(before: Exception) -> None:
    """A write in an ``except`` or ``with`` block of somebody whose own connection failed is not taken for unsent."""

    def write_meanwhile() -> None:
        try:
            raise before
        except type(before):
            carry(timed_out, WRITE, ManualRuntime())

    with pytest.raises(OutcomeUnknown):
        write_meanwhile()


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED])
def test_a_network_that_goes_away_leaves_it_open(number: int) -> None:
    """These errors also come on a connection over which a request was sent; only a failure to connect is certain."""
    reason = urllib3.exceptions.ProtocolError("Connection aborted.", OSError(number, "gone"))
    assert isinstance(judge_failure(WRITE, requests.exceptions.ConnectionError(reason), 0.0), OutcomeUnknown)


@pytest.mark.parametrize(
    "error",
    [
        {"type": "FORBIDDEN", "message": "Resource not accessible by integration"},
        {"type": "RATE_LIMITED", "message": "API rate limit exceeded"},
        {"type": "STALE_DATA", "message": "Expected branch to point to"},
        {"type": "NOT_FOUND", "message": "Could not resolve to a Repository"},
        {"message": "Cannot query field"},
    ],
    ids=lambda error: str(error.get("type")),
)
def test_an_error_beside_a_mutation_that_was_made(error: dict[str, Any]) -> None:
    """Where only what a mutation returns could not be shown, it may have been made."""
    body = {"data": {"createCommitOnBranch": {"commit": None}}, "errors": [error]}
    assert isinstance(judge_graphql(WRITE, Answer(200, {}, body), 0.0), OutcomeUnknown)
    body = {"data": {"createCommitOnBranch": None}, "errors": [error]}
    assert not isinstance(judge_graphql(WRITE, Answer(200, {}, body), 0.0), OutcomeUnknown)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "error", [NotFound("no repository"), Unavailable("no"), GhcoordError("x")], ids=lambda e: type(e).__name__
)
def test_a_look_that_fails_leaves_it_open(tmp_path: Path, mode: str, error: Exception) -> None:
    """An answer was lost and nothing can be seen: that is no failure of the commit."""
    hub = twin_hub(tmp_path, mode)
    store, head = begin(hub)
    hub.twin.faults.add("reply_lost", match=lambda one: one.method == "PATCH" or b"mutation" in one.body)

    def fail() -> dict[str, str]:
        raise error

    store._heads.read = fail  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        store.commit({"fleet": head}, {"fleet": {"a.json": b"2"}}, op(2))
    assert head != hub.head("fleet")
