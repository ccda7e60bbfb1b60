"""``ghcoord balance``: every verb, once with success and once without."""

from __future__ import annotations

import io
import json

import pytest

from tests.cli.running import Cli

pytestmark = pytest.mark.usefixtures("hub")

SERVES = ("--type", "echo")


def _worker(cli: Cli, name: str, slots: int = 2) -> None:
    assert 0 == cli("worker", "register", name, "--slots", slots, *SERVES).code


def _tasks(cli: Cli, count: int, **more: object) -> None:
    """Tasks t0, t1 …"""
    lines = [json.dumps({"tool": "echo", "id": f"t{number}", **more}) for number in range(count)]
    assert 0 == cli("task", "submit", "--batch", "-", stdin="\n".join(lines)).code


def test_next(cli: Cli) -> None:
    """The task that the worker would get, which stays queued; nothing to get and an unknown worker exit 3."""
    _worker(cli, "w1")
    none = cli("balance", "next", "w1")
    assert (3, True) == (none.code, "no task for worker 'w1'" in none.error)
    _tasks(cli, 1)
    cli("task", "submit", "echo", "--id", "t9", "--priority", "9")
    assert "t9 (echo, priority 9)\n" == cli("balance", "next", "w1").out
    assert ("t9", "queued") == tuple(cli("balance", "next", "w1", "--json").json[key] for key in ("id", "state"))
    assert 3 == cli("balance", "next", "w9").code


def test_select(cli: Cli) -> None:
    """A worker for a task, as the strategy says; none exits 7, an unknown task 3."""
    _tasks(cli, 1)
    none = cli("balance", "select", "t0")
    assert (7, True) == (none.code, "no active worker with a free slot suits task 't0'" in none.error)
    for name in ("w1", "w2"):
        _worker(cli, name)
    assert "w1\n" == cli("balance", "select", "t0").out
    assert "w1" == cli("balance", "select", "t0", "--json").json["id"]
    assert None is cli("task", "show", "t0", "--json").json["worker"]
    assert 3 == cli("balance", "select", "t9").code


def test_select_and_assign(cli: Cli) -> None:
    """The task then waits for that worker; without room it exits 7, once it has ended 4, pinned 2."""
    _worker(cli, "w1", 1)
    _tasks(cli, 2)
    assert "task t0 waits for w1\n" == cli("balance", "select", "t0", "--assign").out
    assert "w1" == cli("task", "show", "t0", "--json").json["worker"]
    full = cli("balance", "select", "t1", "--assign")
    assert (7, True) == (full.code, "suits task t1 (tool echo)" in full.error)
    cli("task", "cancel", "t1")
    assert 4 == cli("balance", "select", "t1", "--assign").code
    cli("task", "submit", "echo", "--id", "t2", "--worker", "w1")
    assert 2 == cli("balance", "select", "t2", "--assign").code
    assert 3 == cli("balance", "select", "t9", "--assign").code


def test_show(cli: Cli) -> None:
    """A row a worker, the slots in use, and whether that is imbalanced; an argument too many exits 2."""
    assert "no workers that take tasks\n" == cli("balance", "show").out
    for name in ("w1", "w2"):
        _worker(cli, name)
    _tasks(cli, 1)
    even = "balanced: the most and the least used worker differ by 0 points"
    assert even == cli("balance", "show").out.splitlines()[-1]
    cli("balance", "select", "t0", "--assign")
    shown = cli("balance", "show").out.splitlines()
    assert ["w1", "0/2", "1", "50%"] == shown[1].split()
    assert "1 of 4 slots used (25%)" == shown[3]
    assert "imbalanced: the most and the least used worker differ by 50 points" == shown[4]
    found = cli("balance", "show", "--json").json
    assert (4, 1, 25.0, 50.0, True) == tuple(
        found[key] for key in ("total_capacity", "utilized_capacity", "utilization_percent", "spread", "imbalanced")
    )
    first = {"worker_id": "w1", "active_tasks": 0, "assigned": 1, "capacity": 2, "utilization_percent": 50.0}
    assert first == found["worker_loads"][0]
    assert 2 == cli("balance", "show", "w1").code


def test_strategy(cli: Cli) -> None:
    """Without a name it is shown, with one it is set for the hub; an unknown one exits 2 and changes nothing."""
    assert "least_loaded\n" == cli("balance", "strategy").out
    assert {"strategy": "affinity"} == cli("balance", "strategy", "affinity", "--json").json
    wrong = cli("balance", "strategy", "random")
    assert (2, True) == (wrong.code, "one of round_robin, least_loaded" in wrong.error)
    assert "affinity\n" == cli("balance", "strategy").out


def test_rebalance(cli: Cli) -> None:
    """It says what it moves; a dry run changes nothing; where nobody can answer it needs --yes."""
    _worker(cli, "w1")
    _tasks(cli, 4)
    assert "0 tasks moved: 0% of slots used\n" == cli("balance", "rebalance").out
    for number in range(4):
        cli("task", "assign", f"t{number}", "w1")
    _worker(cli, "w2")
    dry = cli("balance", "rebalance", "--dry-run")
    assert ["t3", "w1", "w2"] == dry.out.splitlines()[1].split()
    assert "2 tasks would be moved: 50% of slots used, then 100%" == dry.out.splitlines()[-1]
    refused = cli("balance", "rebalance")
    assert 2 == refused.code
    assert "2 tasks to move:\n  t3: from w1 to w2\n  t2: from w1 to w2\n" in refused.err
    assert "add --yes" in refused.err
    assert "w1" == cli("task", "show", "t3", "--json").json["worker"]
    done = cli("balance", "rebalance", "--yes", "--json").json
    assert {
        "tasks_moved": 2,
        "improved_utilization": True,
        "before_utilization": 50.0,
        "after_utilization": 100.0,
        "moves": [{"task_id": name, "from_worker": "w1", "to_worker": "w2"} for name in ("t3", "t2")],
    } == done
    assert "w2" == cli("task", "show", "t3", "--json").json["worker"]


def test_rebalance_asks_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows the first ones; a no moves nothing, a yes does; what no worker has room for goes to any."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    monkeypatch.setattr("ghcoord.faces.cli.balance.SHOWN", 2)
    _worker(cli, "w1", 3)
    _tasks(cli, 3)
    for number in range(3):
        cli("balance", "select", f"t{number}", "--assign")
    cli("worker", "drain", "w1")
    asked = cli("balance", "rebalance", stdin="n\n")
    assert 130 == asked.code
    first = "  t0: from w1 to any worker\n  t1: from w1 to any worker\n"
    assert f"3 tasks to move:\n{first}  … 1 more\n" in asked.err
    assert 3 == cli("balance", "rebalance", "--json", stdin="y\n").json["tasks_moved"]
    assert None is cli("task", "show", "t0", "--json").json["worker"]
