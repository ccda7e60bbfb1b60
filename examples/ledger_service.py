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

import argparse
import sqlite3
import sys

import ghcoord
from ghcoord.errors import GhcoordError, LeaseLost

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


def order(text: str) -> tuple[str, str, int]:
    source, target, amount = text.split(":")
    return source, target, int(amount)


def main(path: str, orders: list[tuple[str, str, int]]) -> None:
    database = sqlite3.connect(path, timeout=30)
    database.executescript(SCHEMA)
    with ghcoord.connect() as hub, hub.locks.hold("ledger", wait=600, fair=True) as held:
        print(f"working under token {held.token}", flush=True)
        for source, target, amount in orders:
            held.check()  # raises LeaseLost when that is known already; a pause may strike right after it
            transfer(database, source, target, amount, held.token)
            print(f"moved {amount} from {source} to {target}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database")
    parser.add_argument("orders", nargs="+", type=order, metavar="FROM:TO:AMOUNT")
    asked = parser.parse_args()
    try:
        main(asked.database, asked.orders)
    except LeaseLost as lost:
        sys.exit(f"stopped: {lost}")
    except (GhcoordError, sqlite3.Error) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
