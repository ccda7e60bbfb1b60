"""Worker daemons as real processes: killed, stopped, drained, cancelled, idle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time

import pytest

from ghcoord.coord.tasks.tasks import Submission
from ghcoord.coord.workers.tick import RENEWED
from ghcoord.hub import Hub
from ghcoord.store.heads import walk
from ghcoord.store.message import read_events
from tests.processes import matching, needs_program, until, workers

FAST = ("--ttl", "3", "--poll", "0.2s")


def registered(hub: Hub, *ids: str) -> bool:
    return {worker.id for worker in hub.workers.list("active")} >= set(ids)


def all_event_kinds(hub: Hub) -> list[str]:
    """Kinds of every event in the history of the fleet, newest first."""
    store = hub._context.transactor.store
    lines = [line for info, _ in walk(store, hub.heads()["fleet"]) for line in read_events(info.message)]
    return [json.loads(line)["kind"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 1000])
def test_every_task_ends_succeeded_once_though_a_worker_is_killed(hub: Hub, count: int) -> None:
    """Three workers, one killed with SIGKILL while it holds leases: each task succeeds exactly once in the record."""
    slow = [Submission("shell", {"command": "sleep 0.4"}, priority=9) for _ in range(6)]
    quick = [Submission("echo", {"message": str(n)}) for n in range(count - 6)]
    hub.tasks.submit_many(slow + quick)
    needs_program("bwrap")
    with workers(hub.url, "w1", "w2", "w3", args=("--slots", "2", "--until-idle", "1s", *FAST)) as started:
        until(lambda: any(task.worker == "w1" for task in hub.tasks.list("leased")), every=0.005)
        started[0].signal(signal.SIGKILL)
        for worker in started[1:]:
            assert 0 == worker.wait(90)[0]
    assert {"succeeded": count} == {state: n for state, n in hub.tasks.counts().items() if n}
    tasks = hub.tasks.list("succeeded")
    assert count == len({task.id for task in tasks})
    for task in tasks:
        assert 1 == sum(attempt.outcome == "succeeded" for attempt in task.history)
        assert "succeeded" == task.history[-1].outcome
    assert sum(task.lost for task in tasks) > 0
    assert count == all_event_kinds(hub).count("task succeeded")
    assert 0 == subprocess.run(["git", "-C", hub.url, "fsck", "--strict"], capture_output=True, check=False).returncode


@pytest.mark.slow
def test_a_stopped_worker_has_its_late_result_refused_and_audited(hub: Hub) -> None:
    """SIGSTOP beyond the lease, SIGCONT: the result is refused, an event says so, the record is untouched."""
    needs_program("bwrap")
    with workers(hub.url, "w1", args=FAST) as [stopped]:
        until(lambda: registered(hub, "w1"))
        task = hub.tasks.submit("shell", {"command": "sleep 1; echo first"})
        until(lambda: hub.tasks.list("leased"))
        stopped.signal(signal.SIGSTOP)
        with workers(hub.url, "w2", args=FAST):
            result = hub.tasks.wait(task.id, 30)
            before = hub.tasks.get(task.id)
            stopped.signal(signal.SIGCONT)
            until(lambda: [e for e in hub.events(50) if e.kind in ("task result refused", "task return refused")])
            assert before == hub.tasks.get(task.id)
            assert result.success
            assert before is not None
            assert (2, 1, "w2") == (before.attempt, before.lost, before.worker)
            until(lambda: registered(hub, "w1", "w2"))


def test_sigterm_drains(hub: Hub) -> None:
    """SIGTERM with running and waiting tasks: exit 0, the running one finishes, the rest is queued, none is lost."""
    needs_program("bwrap")
    with workers(hub.url, "w1", args=FAST) as [worker]:
        tasks = hub.tasks.submit_many([Submission("shell", {"command": "sleep 1"}) for _ in range(4)])
        until(lambda: hub.tasks.list("leased"))
        time.sleep(0.3)
        worker.signal(signal.SIGTERM)
        code, output = worker.wait()
    assert 0 == code, output
    counts = hub.tasks.counts()
    assert 4 == counts["succeeded"] + counts["queued"]
    assert counts["succeeded"] >= 1
    assert [] == hub.workers.list()
    assert all(task.failures == 0 for task in filter(None, (hub.tasks.get(t.id) for t in tasks)))


@pytest.mark.slow
def test_a_second_sigterm_cancels_and_gives_back(hub: Hub) -> None:
    """The second signal stops what runs; its task is queued again and counts neither as failed nor as lost."""
    needs_program("bwrap")
    with workers(hub.url, "w1", args=FAST) as [worker]:
        task = hub.tasks.submit("shell", {"command": "sleep 987.25"})
        until(lambda: matching("sleep 987.25"))
        worker.signal(signal.SIGTERM)
        time.sleep(0.3)
        worker.signal(signal.SIGTERM)
        code, output = worker.wait(20)
    assert 0 == code, output
    assert not matching("sleep 987.25")
    found = hub.tasks.get(task.id)
    assert found is not None
    assert ("queued", 0, 0) == (found.state, found.failures, found.lost)


def test_cancel_kills_the_process_tree_within_two_seconds(hub: Hub) -> None:
    """A cancelled task's whole tree is gone within 2 s, a daemon that it detached included."""
    needs_program("bwrap")
    with workers(hub.url, "w1", args=("--ttl", "3")):
        task = hub.tasks.submit("shell", {"command": "(setsid sleep 987.5 &); sleep 987.5"})
        until(lambda: matching("sleep 987.5"))
        time.sleep(0.5)
        hub.tasks.cancel(task.id)
        assert until(lambda: not matching("sleep 987.5")) < 2.0
        until(lambda: hub.tasks.list("cancelled"))


def test_a_killed_worker_leaves_no_process_behind(hub: Hub) -> None:
    """SIGKILL of the worker ends its sandboxed children too."""
    needs_program("bwrap")
    with workers(hub.url, "w1", args=FAST) as [worker]:
        hub.tasks.submit("shell", {"command": "sleep 987.75"})
        until(lambda: matching("sleep 987.75"))
        time.sleep(0.5)  # docs/security.md: a launch that is just being set up may outlive its worker
        worker.signal(signal.SIGKILL)
        until(lambda: not matching("sleep 987.75"), 5)


@pytest.mark.slow
def test_an_idle_hub_starts_a_task_within_one_poll(hub: Hub) -> None:
    """With the default poll of one second a submitted task is leased within it (and the commit's time)."""
    with workers(hub.url, "w1"):
        until(lambda: registered(hub, "w1"))
        for _ in range(3):
            time.sleep(0.6)
            hub.tasks.submit("echo", {"message": "now"})
            queued = until(lambda: not hub.tasks.list("queued"), every=0.01)
            assert queued < 1.0 + 0.3


@pytest.mark.slow
def test_an_idle_worker_only_renews_and_hardly_uses_the_processor(hub: Hub) -> None:
    """At rest: no commit but renewals at a third of the ttl, under 1 % of a core."""
    with workers(hub.url, "w1", args=("--ttl", "6")) as [worker]:
        until(lambda: registered(hub, "w1"))
        time.sleep(1.5)
        known = len(all_event_kinds(hub))
        used, began = worker.cpu_seconds(), time.monotonic()
        time.sleep(5)
        share = (worker.cpu_seconds() - used) / (time.monotonic() - began)
        kinds = all_event_kinds(hub)
        new = kinds[: len(kinds) - known]
    assert {RENEWED} == set(new)
    assert 2 <= len(new) <= 3
    assert share < 0.01


@pytest.mark.slow
def test_a_new_registration_of_the_id_stops_the_older_process(hub: Hub) -> None:
    """Two processes with one id: the newer goes on, the older exits with 5 and its lease is requeued."""
    needs_program("bwrap")
    with workers(hub.url, "same", args=FAST) as [older]:
        task = hub.tasks.submit("shell", {"command": "sleep 2"})
        until(lambda: hub.tasks.list("leased"))
        with workers(hub.url, "same", args=FAST):
            code, output = older.wait(20)
            assert 5 == code
            assert "newer registration" in output
            assert hub.tasks.wait(task.id, 30).success


@pytest.mark.slow
def test_until_idle_waits_for_back_off_and_max_runtime_ends(hub: Hub) -> None:
    """--until-idle outlasts a retry's back-off; --max-runtime drains a worker that still has work."""
    needs_program("bwrap")
    task = hub.tasks.submit("shell", {"command": "exit 3"}, retries=1, backoff=1.0)
    with workers(hub.url, "w1", args=("--until-idle", "0.5s", *FAST)) as [worker]:
        assert 0 == worker.wait()[0]
    found = hub.tasks.get(task.id)
    assert found is not None
    assert ("dead", 2, 2) == (found.state, found.failures, found.attempt)
    with workers(hub.url, "w1", args=("--max-runtime", "1s", *FAST)) as [worker]:
        code, output = worker.wait()
    assert 0 == code
    assert "its time is over" in output


@pytest.mark.skipif(os.getuid() != 0, reason="hides bwrap in a mount namespace, which takes root")
@pytest.mark.slow
def test_a_driver_that_is_named_is_not_replaced(hub: Hub) -> None:
    """Where bubblewrap is missing, --sandbox bwrap starts nothing; --unsafe-no-sandbox is what the record says."""
    hidden = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null "$(command -v bwrap)"; exec "$@"', "sh")
    task = hub.tasks.submit("shell", {"command": "/bin/true"}, sandbox="none")
    with workers(hub.url, "w1", args=("--sandbox", "bwrap", *FAST), before=hidden) as [worker]:
        code, output = worker.wait()
    assert 7 == code
    assert "bwrap does not work here" in output
    assert "queued" == getattr(hub.tasks.get(task.id), "state", None)
    with workers(hub.url, "w2", args=("--sandbox", "none", "--unsafe-no-sandbox", *FAST), before=hidden):
        assert hub.tasks.wait(task.id, 20).success
        info = hub.workers.get("w2")
        assert info is not None
        assert info.sandbox is not None
        assert ("none", "none") == (info.sandbox.driver, info.sandbox.tier)


def test_the_log_names_what_happens(hub: Hub) -> None:
    """A worker prints its id, slots and sandbox at start, and no token."""
    with workers(hub.url, "w1", args=("--until-idle", "0.2s", *FAST)) as [worker]:
        code, output = worker.wait()
    assert 0 == code
    assert re.search(r"worker w1 registered: 1 slots", output)
