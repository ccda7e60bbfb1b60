"""Many processes count in one key, and no count is lost: compare_and_set.py [TIMES]

Needs GHCOORD_HUB. Run several at once.
"""

from __future__ import annotations

import argparse
import sys

import ghcoord
from ghcoord.errors import GhcoordError, RevisionMismatch


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
            increment(hub, "count")
        print(f"count is {hub.memory.get('count')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("times", nargs="?", type=int, default=10)
    asked = parser.parse_args()
    try:
        main(asked.times)
    except GhcoordError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
