"""``ledger_service.py``: a database that checks the fencing token refuses a writer whose lock is another's."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.examples.conftest import Start, ended
from tests.processes import until

pytestmark = pytest.mark.slow


def database(path: Path) -> sqlite3.Connection:
    """Two accounts, 100 in each."""
    opened = sqlite3.connect(path, isolation_level=None)
    opened.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0))")
    opened.execute("INSERT INTO accounts VALUES ('ann', 100), ('bob', 100)")
    return opened


def balances(opened: sqlite3.Connection) -> dict[str, int]:
    return dict(opened.execute("SELECT name, balance FROM accounts"))


def test_two_services(hub: Hub, start: Start, tmp_path: Path) -> None:
    """Two of them do their orders one after the other, and the token in the database is the later one's."""
    opened = database(tmp_path / "ledger.db")
    several = [start("ledger_service.py", tmp_path / "ledger.db", "ann:bob:10", "ann:bob:5") for _ in range(2)]
    tokens = [int(ended(one).splitlines()[0].split()[-1]) for one in several]
    assert {"ann": 70, "bob": 130} == balances(opened)
    assert [(max(tokens),)] == opened.execute("SELECT token FROM fence").fetchall()


def test_paused_service(hub: Hub, start: Start, tmp_path: Path) -> None:
    """One that is paused between its check and its write wakes up to a newer token, and moves nothing."""
    hub.config.set("locks.ttl", 1)
    opened = database(tmp_path / "ledger.db")
    mine = hub.locks.acquire("ledger", "test", ttl=600)
    assert mine is not None
    paused = start("ledger_service.py", tmp_path / "ledger.db", "ann:bob:50")
    assert paused.stdout is not None
    until(lambda: hub.locks.waiters("ledger"))
    opened.execute("BEGIN IMMEDIATE")  # its write waits for this, after its check
    hub.locks.release("ledger", "test")
    assert "working under token" in paused.stdout.readline()
    paused.send_signal(signal.SIGSTOP)
    opened.execute("COMMIT")
    assert "moved 1 from ann to bob" in ended(start("ledger_service.py", tmp_path / "ledger.db", "ann:bob:1"))
    paused.send_signal(signal.SIGCONT)
    assert "stopped: the database has seen a newer token" in ended(paused, code=1)
    assert {"ann": 99, "bob": 101} == balances(opened)
