"""Many processes count in one key, and no count is lost: compare_and_set.py [TIMES]

Needs GHCOORD_HUB. Run several at once.
"""

from __future__ import annotations

import sys

import ghcoord
from ghcoord.errors import RevisionMismatch


def increment(hub: ghcoord.Hub, key: str) -> int:
    """Add one to ``key``; returns the new number."""
    while True:
        entry = hub.memory.entry(key)
        number, revision = (entry.value, entry.revision) if entry is not None else (0, 0)
        try:
            hub.memory.set(key, number + 1, if_revision=revision)  # revision 0: only if not set
        except RevisionMismatch:
            continue  # somebody was first: read again
        return int(number) + 1


def main(times: int) -> None:
    with ghcoord.connect() as hub:
        for _ in range(times):
            number = increment(hub, "count")
        print(f"count is {number}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
