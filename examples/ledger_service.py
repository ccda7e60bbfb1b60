"""A service whose database refuses writers that lost their lock: ledger_service.py DATABASE ORDER...

Needs GHCOORD_HUB. An order is FROM:TO:AMOUNT. Of several such services, on
machines that share the database, one works at a time; the others wait in the
lock's queue. The lock alone cannot stop one that was paused for longer than its
lease and wakes up in the middle of a transfer: it still believes that it holds
the lock. So each UPDATE carries the fencing token, and the database keeps the
highest one that it has seen. Tokens only grow: the older one changes nothing.

Any database will do: the check is in the UPDATE, in the same transaction.
"""

from __future__ import annotations

import sqlite3
import sys

import ghcoord
from ghcoord.errors import LeaseLost

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0));
CREATE TABLE IF NOT EXISTS fence (one INTEGER PRIMARY KEY CHECK (one = 1), token INTEGER NOT NULL);
INSERT OR IGNORE INTO fence VALUES (1, 0);
"""


def transfer(database: sqlite3.Connection, source: str, target: str, amount: int, token: int) -> None:
    """Move ``amount`` at once or not at all; raises ``LeaseLost`` under a token that is not the newest."""
    with database:  # one transaction: rolled back by an exception
        fenced = database.execute("UPDATE fence SET token = ? WHERE token <= ?", (token, token))
        if fenced.rowcount == 0:
            raise LeaseLost(f"the database has seen a newer token than {token}: another service works now")
        database.execute("UPDATE accounts SET balance = balance - ? WHERE name = ?", (amount, source))
        database.execute("UPDATE accounts SET balance = balance + ? WHERE name = ?", (amount, target))


def main(path: str, orders: list[str]) -> None:
    database = sqlite3.connect(path, timeout=30)
    database.executescript(SCHEMA)
    with ghcoord.connect() as hub, hub.locks.hold("ledger", wait=600, fair=True) as held:
        print(f"working under token {held.token}", flush=True)
        for order in orders:
            source, target, amount = order.split(":")
            held.check()  # raises LeaseLost when that is known already; a pause may strike right after it
            transfer(database, source, target, int(amount), held.token)
            print(f"moved {amount} from {source} to {target}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except LeaseLost as lost:
        sys.exit(f"stopped: {lost}")
