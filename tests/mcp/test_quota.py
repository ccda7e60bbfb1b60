"""How many sessions one user of a shared server gets."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from ghcoord.bootstrap import connect
from ghcoord.config import Settings
from ghcoord.faces.cli.mcprun import WorkerOptions, user_sessions
from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.call import Call, Services
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.quota import SessionQuota, half
from tests.mcp.agents import Agent

ANN = Caller("ann", "work", "one", shared=True)
BOB = Caller("bob", "work", "two", shared=True)


def test_one_user_cannot_take_all(services: Services) -> None:
    """A further one is refused with what to do, in whatever workspace, also as a copy; others get theirs."""
    shared = replace(services, quota=SessionQuota(lambda: 2))
    ann, bob, elsewhere = (Agent(shared, who) for who in (ANN, BOB, replace(ANN, workspace_id="other", holder="x")))
    first = ann.session()
    ann("session_checkpoint", session_id=first)
    elsewhere.session()
    for agent, tool, arguments in (
        (ann, "session_create", {}),
        (elsewhere, "session_create", {}),
        (ann, "session_restore", {"session_id": first, "as_new": True}),
    ):
        with pytest.raises(Failure, match=r"you have 2 sessions.* 2 at most") as why:
            agent(tool, **arguments)
        assert ("NO_CAPACITY", True) == (why.value.code, why.value.retryable)
        assert "session_destroy" in why.value.next_step
    assert 2 == len({bob.session(), bob.session()})
    ann("session_restore", session_id=first)
    ann("session_destroy", session_id=first)
    ann.session()


def test_who_shares_with_nobody_has_no_limit(services: Services) -> None:
    """A server of one user, and one that was told of none, count nothing."""
    alone = Agent(replace(services, quota=SessionQuota(lambda: 1)), replace(ANN, shared=False))
    assert 2 == len({alone.session() for _ in range(2)})
    assert 2 == len({Agent(services, BOB).session() for _ in range(2)})


def test_many_calls_at_once_get_no_more(services: Services) -> None:
    """Ten at a time make two; none is refused that had room, and who gives up waits no longer."""
    quota = SessionQuota(lambda: 2)
    agent = Agent(replace(services, quota=quota), ANN)
    ended: list[str] = []

    def make() -> None:
        try:
            ended.append(agent.session())
        except Failure as why:
            ended.append(why.code)

    threads = [threading.Thread(target=make) for _ in range(10)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    assert (8, 10) == (ended.count("NO_CAPACITY"), len(ended))
    assert 2 == services.hub.sessions.count(user="ann")
    roomy = SessionQuota(lambda: 9)
    with (
        roomy.room(Call(ANN, services)),
        pytest.raises(Failure, match="given up"),
        roomy.room(Call(ANN, services, cancelled=lambda: True)),
    ):
        pass
    assert not roomy._turns


@pytest.mark.parametrize(("sessions", "each"), [(0, 1), (1, 1), (2, 1), (5, 3), (40, 20)])
def test_what_a_user_gets_unless_told_otherwise(sessions: int, each: int) -> None:
    """Half, rounded up: of two or more never all."""
    assert each == half(sessions)


def test_what_there_is_room_for() -> None:
    """Told, of this process's worker, by the settings, or of the hub's workers that live now."""
    options = WorkerOptions(None, None, None, None, False)
    with connect("memory:", Settings()) as hub:
        assert 7 == user_sessions(hub, options, 7)()
        assert 3 == user_sessions(hub, options, None)()
        assert 10 == user_sessions(hub, replace(options, max_sessions=20), None)()
        remote = user_sessions(hub, None, None)
        assert 1 == remote()
        hub.workers.register("w1", max_sessions=8)
        hub.workers.register("w2", max_sessions=4)
        assert 6 == remote()
        hub.workers.deregister("w1")
        assert 2 == remote()


def test_a_users_long_outputs_displace_none_of_anothers(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of who has most the oldest goes; what was kept last stays."""
    monkeypatch.setattr("ghcoord.faces.mcp.outputs.MAX_KEPT", 100)
    kept = services.outputs
    bobs = kept.keep(BOB, "b", "b" * 30)
    anns = [kept.keep(ANN, "a", "a" * 20) for _ in range(9)]
    assert kept.find(BOB, bobs) is not None
    assert [False] * 6 + [True] * 3 == [kept.find(ANN, one) is not None for one in anns]
    other = kept.keep(replace(BOB, user_id="eve"), "e", "e" * 80)
    assert kept.find(replace(BOB, user_id="eve"), other) is not None
    assert 100 >= sum(len(one.text) for one in kept._kept.values())
