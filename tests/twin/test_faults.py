"""Faults: each kind over a socket and within the process, on demand and by seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from ghcoord.testing.clock import ManualRuntime
from ghcoord.twin.faults import KINDS
from ghcoord.twin.inprocess import connection_classes, in_process
from ghcoord.twin.messages import ConnectionLost
from ghcoord.twin.server import Twin
from ghcoord.twin.switches import Switches
from tests.twin.asking import HUB, Asking

CREATE = "mutation($i:CreateCommitOnBranchInput!){createCommitOnBranch(input:$i){commit{oid}}}"


def _commit_input(head: str) -> dict[str, object]:
    return {
        "branch": {"repositoryNameWithOwner": "me/hub", "branchName": "main"},
        "expectedHeadOid": head,
        "message": {"headline": "m"},
        "fileChanges": {"additions": [{"path": "a", "contents": "MQ=="}]},
    }


@pytest.fixture(params=["socket", "in process"])
def session(request: pytest.FixtureRequest, me: Asking) -> Iterator[requests.Session]:
    """A session that reaches the twin either way."""
    with ExitStack() as stack:
        stack.enter_context(me.twin if request.param == "socket" else in_process(me.twin))
        made = stack.enter_context(requests.Session())
        made.headers["Authorization"] = f"Bearer {me.token}"
        yield made


def _create(session: requests.Session, twin: Twin, name: str, oid: str) -> requests.Response:
    return session.post(f"{twin.url}/api/v3{HUB}/git/refs", json={"ref": f"refs/heads/{name}", "sha": oid}, timeout=5)


@pytest.mark.parametrize(
    ("kind", "done", "error"),
    [
        ("reply_lost", True, requests.ConnectionError),
        ("reset", True, requests.ConnectionError),
        ("request_lost", False, requests.ConnectionError),
        ("truncated", True, requests.exceptions.ChunkedEncodingError),
        ("late", False, requests.ConnectionError),
    ],
)
def test_a_lost_answer(session: requests.Session, me: Asking, kind: str, done: bool, error: type[Exception]) -> None:
    """The client sees a broken connection, whether the request took effect or not; the next one works."""
    me.twin.faults.add(kind, on="write", seconds=60)  # type: ignore[arg-type]
    head = me.head()
    with pytest.raises(error):
        _create(session, me.twin, "x", head)
    assert done == (head == me.twin.hosting.repositories["me/hub"].head("refs/heads/x"))
    assert kind == me.twin.log[-1].fault
    assert 201 == _create(session, me.twin, "y", head).status_code


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_error(session: requests.Session, me: Asking, status: int, after: bool) -> None:
    """The answer is the server's page for people, before or after the effect."""
    me.twin.faults.add("status", on="write", status=status, after=after)
    answer = _create(session, me.twin, "x", me.head())
    assert status == answer.status_code
    assert "html" in answer.headers["content-type"]
    assert after == ("refs/heads/x" in me.twin.hosting.repositories["me/hub"].refs())


def test_a_late_request_lands_after_the_caller_looked(me: Asking, runtime: ManualRuntime) -> None:
    """It is not there when looked for at once; once its time has come and enough others came in, it is."""
    head = me.head()
    child = me.commit(head)
    me.twin.faults.add("late", match=lambda incoming: incoming.method == "PATCH", seconds=30, requests=1)
    with pytest.raises(ConnectionLost):
        me.move(child)
    assert head == me.head()
    runtime.advance(31)
    assert child == me.head()
    other = me.commit(child, text="2")
    me.twin.faults.add("late", match=lambda incoming: incoming.method == "PATCH", seconds=1e9)
    with pytest.raises(ConnectionLost):
        me.move(other)
    me.twin.settle()
    assert other == me.head()


def test_a_late_request_may_lose(me: Asking) -> None:
    """What lands late is judged when it lands: a head that moved meanwhile refuses it."""
    head = me.head()
    mine, theirs = me.commit(head, text="mine"), me.commit(head, text="theirs")
    me.twin.faults.add("late", on="write", requests=3)
    with pytest.raises(ConnectionLost):
        me.move(mine)
    assert 200 == me.move(theirs).status
    me.twin.settle()
    assert theirs == me.head()


def test_reads_go_stale(me: Asking, runtime: ManualRuntime) -> None:
    """For a while REST and GraphQL show the head of before; a write still compares with the truth."""
    head = me.head()
    child = me.commit(head)
    me.twin.faults.add("stale", seconds=10)
    assert head == me.head()
    assert 200 == me.move(child).status
    query = '{repository(owner:"me",name:"hub"){ref(qualifiedName:"refs/heads/main"){target{oid}}}}'
    assert head == me.head()
    assert head == me.graphql(query).body["data"]["repository"]["ref"]["target"]["oid"]
    assert "errors" in me.graphql(CREATE, i=_commit_input(head)).body
    assert "errors" not in me.graphql(CREATE, i=_commit_input(child)).body
    runtime.advance(10)
    assert me.twin.commits()[-1].moves[0].after == me.head()


@pytest.mark.parametrize("by_switch", [False, True])
def test_a_created_ref_is_not_found_at_first(me: Asking, runtime: ManualRuntime, by_switch: bool) -> None:
    """It appears to reads only later, by a fault or always."""
    head = me.head()
    if by_switch:
        me.twin.switches = Switches(created_ref_404=5)
    else:
        me.twin.faults.add("absent_after_create", seconds=5)
        me("GET", "/meta")
    assert 201 == me.create("refs/heads/x", head).status
    assert 404 == me("GET", f"{HUB}/git/ref/heads/x").status
    assert 422 == me.create("refs/heads/x", head).status
    runtime.advance(6)
    assert 200 == me("GET", f"{HUB}/git/ref/heads/x").status


def test_reads_lag_by_the_switch(me: Asking, runtime: ManualRuntime) -> None:
    """All reads show what was so many seconds ago."""
    runtime.advance(10)
    head = me.head()
    child = me.commit(head)
    me.twin.switches = Switches(read_lag=5)
    me.move(child)
    assert head == me.head()
    runtime.advance(6)
    assert child == me.head()


def test_a_spurious_conflict_and_an_opaque_failure(me: Asking) -> None:
    """A 409 though nothing moved; «Something went wrong», before or after the effect."""
    head = me.head()
    me.twin.faults.add("conflict", on="write")
    assert 409 == me.create("refs/heads/x", head).status
    assert 404 == me("GET", f"{HUB}/git/ref/heads/x").status
    me.twin.faults.add("opaque")
    assert 201 == me.create("refs/heads/x", head).status
    refused = me.graphql(CREATE, i=_commit_input(head))
    assert "Something went wrong while executing your query" in refused.body["errors"][0]["message"]
    assert head == me.head()
    me.twin.faults.add("opaque", after=True)
    assert "errors" in me.graphql(CREATE, i=_commit_input(head)).body
    assert head != me.head()


def test_limits_as_faults_hold_on(me: Asking, runtime: ManualRuntime) -> None:
    """A refusal on demand lasts its seconds, though limits are off, and who goes on is noted."""
    for kind, header in (("secondary", "retry-after"), ("primary", "x-ratelimit-reset")):
        me.twin.faults.add(kind, seconds=30)  # type: ignore[arg-type]
        before = len(me.twin.violations)
        refused = me("GET", "/user")
        assert 403 == refused.status
        assert float(refused.headers[header]) in (30, runtime.now() + 30)
        assert before == len(me.twin.violations)
        assert 403 == me("GET", "/user").status
        assert before + 1 == len(me.twin.violations)
        runtime.advance(31)
        assert 200 == me("GET", "/user").status


def test_a_delay_longer_than_the_clients_patience(me: Asking, runtime: ManualRuntime) -> None:
    """A patient client gets the answer; an impatient one a timeout, and the effect comes afterwards."""
    head, start = me.head(), runtime.now()
    with in_process(me.twin), requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {me.token}"
        me.twin.faults.add("delay", seconds=3)
        assert 201 == _create(session, me.twin, "x", head).status_code
        assert start + 3 == runtime.now()
        me.twin.faults.add("delay", seconds=8)
        with pytest.raises(requests.exceptions.ReadTimeout):
            _create(session, me.twin, "y", head)
    assert start + 8 == runtime.now()
    assert 404 == me("GET", f"{HUB}/git/ref/heads/y").status
    runtime.advance(4)
    assert 200 == me("GET", f"{HUB}/git/ref/heads/y").status


def test_a_seed_repeats(tmp_path: Path) -> None:
    """The same seed does the same to the same requests, another one something else; every kind occurs."""

    def run(name: str, seed: int) -> list[tuple[float, str, str]]:
        twin = Twin(tmp_path / name, runtime=ManualRuntime())
        me = Asking(twin, twin.user("me"))
        twin.repository("me", "hub", empty=False)
        head = me.head()
        twin.faults.seed(seed, dict.fromkeys(KINDS, 0.04))
        for each in range(150):
            for ask in (lambda n=each: me.create(f"refs/heads/{n}", head), lambda: me.graphql("{viewer{login}}")):
                try:
                    ask()
                except ConnectionLost:
                    continue
        twin.faults.clear()
        twin.settle()
        return [(time, kind, path) for time, kind, path in twin.faults.met]

    first = run("one", 1)
    assert first == run("two", 1)
    assert first != run("three", 2)
    assert set(KINDS) == {kind for _, kind, _ in first}


def test_pygithub_reaches_it_within_the_process(me: Asking) -> None:
    """The connection classes serve PyGithub's Requester, lost answers included."""
    from github import Auth, Github
    from github.Requester import Requester

    Requester.injectConnectionClasses(*connection_classes(me.twin))
    try:
        client = Github(auth=Auth.Token(me.token), base_url="http://twin.local/api/v3", retry=None)
        assert "me" == client.get_user().login
        me.twin.faults.add("reply_lost")
        with pytest.raises(requests.ConnectionError):
            client.get_repo("me/hub")
        assert me.head() == client.get_repo("me/hub").get_git_ref("heads/main").object.sha
        client.close()
    finally:
        Requester.resetConnectionClasses()
