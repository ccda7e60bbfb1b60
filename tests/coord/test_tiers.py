"""The sandbox that a task needs: who runs it, who does not, and what its submitter is told while it waits."""

from __future__ import annotations

from typing import Any

import pytest

from ghcoord.errors import NoCapacity, NotFound, UsageError
from ghcoord.hub import Capabilities, Health, Hub, Submission
from ghcoord.model.requirements import SANDBOXED, Need, Requirements, default_tier
from ghcoord.model.session import SessionReport
from ghcoord.model.tier import Tier
from ghcoord.model.worker import SandboxInfo
from tests.coord.sessions.checks import active, found, saved, worker
from tests.coord.world import World, ids, kinds

SHELL = {"command": "true"}


def test_tools_that_start_processes_need_a_full_sandbox() -> None:
    """Unless the task says less; others need none."""
    assert {"run.python", "shell", "exec", "pkg.install", "test.run", "python.prompt"} == SANDBOXED
    assert (Tier.FULL, Tier.NONE) == (default_tier("shell"), default_tier("fs.read"))
    assert Tier.FULL == Need.of("", "shell", Requirements(min_cpu_cores=1)).tier
    assert Tier.PARTIAL == Need.of("", "shell", Requirements(sandbox=Tier.PARTIAL)).tier


@pytest.mark.parametrize(("asked", "who"), [(None, "w3"), ("full", "w3"), ("partial", "w2 w3"), ("none", "w1 w2 w3")])
def test_a_weaker_worker_never_leases_it(world: World, asked: str | None, who: str) -> None:
    """Ticks, looks, the strategy's choice and pinning all honour it; other tasks go past it."""
    hub = world.open()
    able = []
    for name, tier in (("w1", "none"), ("w2", "partial"), ("w3", "full")):
        daemon = worker(hub, name, tier=tier)
        task = hub.tasks.submit("shell", SHELL, sandbox=asked, priority=5)
        pinned = hub.tasks.submit("shell", SHELL, sandbox=asked, priority=5, worker=name)
        hub.tasks.submit("echo", id=f"other-{name}")
        chosen = hub.balance.select_worker(task.id, [one for one in hub.workers.list() if one.id == name])
        first = hub.balance.get_next_task(name)
        leased = ids(daemon.lease(5))
        assert f"other-{name}" in leased
        assert (task.id in leased) is (pinned.id in leased) is (chosen is not None)
        assert (first is not None and first.id == task.id) is (task.id in leased)
        able += [name] if task.id in leased else []
        hub.tasks.cancel(task.id)
        hub.tasks.cancel(pinned.id)
    assert who == " ".join(able)
    world.check_index()


def test_assigning_asks_for_the_sandbox(hub: Hub) -> None:
    """A worker that is too weak is not chosen, and the message says what was needed."""
    worker(hub, tier="partial")
    task = hub.tasks.submit("shell", SHELL)
    with pytest.raises(NoCapacity, match="sandbox full"):
        hub.balance.assign(task.id)
    assert "w1" == getattr(hub.balance.assign(hub.tasks.submit("shell", SHELL, sandbox="partial").id), "worker", None)
    assert "w1" == hub.workers.find_with_capacity(Requirements(sandbox=Tier.PARTIAL)).id
    with pytest.raises(NoCapacity):
        hub.workers.find_with_capacity(Requirements(sandbox=Tier.FULL))


def test_a_worker_of_an_odd_tier_has_none(hub: Hub) -> None:
    """Records are hostile: what is no tier is the weakest."""
    hub.workers.register(
        "w1",
        capabilities=Capabilities(supported_task_types=("shell",)),
        sandbox=SandboxInfo(driver="x", tier="fullest"),
    )
    task = hub.tasks.submit("shell", SHELL)
    assert hub.balance.select_worker(task.id) is None


@pytest.mark.parametrize("option", [{"sandbox": "strong"}, {"requirements": {"sandbox": "strong"}}])
def test_an_unknown_tier_is_refused(hub: Hub, option: dict[str, Any]) -> None:
    """In either place."""
    with pytest.raises(UsageError, match="sandbox"):
        hub.tasks.submit("shell", SHELL, **option)


def test_schedules_name_a_sandbox(world: World, hub: Hub) -> None:
    """Their tasks need it."""
    hub.schedules.put("s", "every 1m", "shell", SHELL, sandbox="none")
    daemon = worker(hub, tier="none")
    world.runtime.advance(61)
    assert ["shell"] == [one.tool for one in daemon.lease(5)]


# -- why a task waits


def test_why_a_task_waits(world: World, hub: Hub) -> None:
    """The first thing that no worker offers, what they offer instead, and what helps."""
    why = hub.tasks.why_waits
    task = hub.tasks.submit("shell", SHELL)
    assert "no worker is alive: start one with 'ghcoord worker start'" == why(task)
    daemon = worker(hub, "w1", tier="partial")
    worker(hub, "w2", tier="none")
    assert (
        "needs a full sandbox; the workers offer: w1 partial, w2 none: "
        "start a worker with bubblewrap or submit with --sandbox partial" == why(task.id)
    )
    said: dict[str, dict[str, Any]] = {
        "needs the tool train; the workers offer: w1 echo/fs.read/shell/session.checkpoint": {"tool": "train"},
        "needs a worker that serves big; the workers offer": {"type": "big"},
        "needs 64 cores; the workers offer: w1 4, w2 4": {"requirements": {"min_cpu_cores": 64}},
        "needs 9000 MiB; the workers offer: w1 4096": {"requirements": {"min_memory_mb": 9000}},
        "needs gpu; the workers offer: w1 disk=ssd": {"requirements": {"required_capabilities": ["gpu"]}},
        "it is meant for w9, which is not alive": {},
        "needs a partial sandbox; the workers offer: w2 none": {"sandbox": "partial", "tool": "shell", "worker": "w2"},
    }
    worker(hub, "w9")
    for part, options in said.items():
        fields: dict[str, Any] = {"tool": "echo", **(options or {"worker": "w9"})}
        one = hub.tasks.submit(**fields)
        if not options:
            hub.workers.set_status("w9", "offline")
        assert part in why(one.id), part
    easy = hub.tasks.submit("echo")
    assert "" == why(easy.id), "somebody is about to take it"
    assert "" == why(hub.tasks.submit("echo", not_before=60.0)), "its record says what it waits for"
    for name, leased in {"w1": 10, "w2": 12}.items():  # two ahead
        hub.workers.set_status(name, "busy", {"active_tasks": leased})
    assert "all workers that could run it are busy: w1 10 of 10 slots, w2 10 of 10 slots" == why(easy.id)
    hub.workers.drain("w1")
    hub.workers.heartbeat("w2", health=Health(health_status="unhealthy"))
    assert "take nothing new: w1 is draining, w2 is unhealthy" in why(easy.id)
    with pytest.raises(NotFound):
        why("t999")
    assert daemon.token


def test_why_a_task_behind_a_gate_waits(hub: Hub) -> None:
    """The key and how many of its tasks run; or its rate."""
    daemon = worker(hub)
    tasks = hub.tasks.submit_many([Submission("echo", key="k", concurrency=1) for _ in range(2)])
    daemon.lease()
    assert "1 tasks of the key k run, which are all that may at a time" == hub.tasks.why_waits(tasks[1].id)
    tasks = hub.tasks.submit_many([Submission("echo", key="r", rate=(1, 60.0)) for _ in range(2)])
    daemon.lease()
    assert "the key r has reached its rate" in hub.tasks.why_waits(tasks[1].id)


def test_why_a_call_waits(world: World, hub: Hub) -> None:
    """Where its session is, and who could take it."""
    why = hub.tasks.why_waits
    daemon = worker(hub)
    made = active(hub, daemon, limits={"active_tasks": 1})
    hub.sessions.record_checkpoint("s1", made.epoch, saved(made))
    call, second = (hub.sessions.submit_call("s1", "echo", {"message": "x"}) for _ in range(2))
    assert "" == why(call)
    daemon.lease(1)
    assert "1 tasks of the key session/s1 run" in why(second)
    world.runtime.advance(60)
    assert "its session s1 is on w1, which is silent" in why(second)
    hub.workers.recover("w1")
    assert "its session s1 is parked and on no worker: start one with 'ghcoord worker start'" == why(second)
    weak = worker(hub, "w2", tier="none")
    assert "none can take it (w2 offers the sandbox tier none, not full)" in why(second)
    other = worker(hub, "w3")
    assert "the next one that asks for work takes it" in why(second)
    other.beat(0, adopt=1)
    taken = found(hub)
    queued = hub.tasks.get(call.id)
    assert queued is not None
    other.beat(sessions=[SessionReport(id="s1", epoch=taken.epoch, lost="its disk is broken")])
    assert "its session s1 is lost: its disk is broken" == why(queued)
    hub.sessions.destroy("s1")
    assert "its session s1 is gone: cancel it" == why(queued)
    assert weak.token
    assert "session lost" in kinds(hub)
