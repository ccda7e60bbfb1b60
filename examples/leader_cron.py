"""Cron on several machines, where only the leader fires: leader_cron.py SECONDS COMMAND...

Needs GHCOORD_HUB. Start the same line on every machine. One leads and runs
COMMAND each SECONDS, at round times; when it stops or dies another one goes on.
What was fired last is a fenced write before the command: a leader that has been
replaced without knowing is refused there, so no time fires twice. A time whose
leader dies right after that write is missed, not repeated.

For tasks of the hub's own workers there is ``ghcoord schedule``, which needs no
leader. This is for what must run where you say.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time

import ghcoord
from ghcoord.coord.locks.leader import Term
from ghcoord.errors import GhcoordError, RevisionMismatch

KEY = "cron/fired"


def main(every: int, command: list[str]) -> None:
    with ghcoord.connect() as hub:

        def lead(term: Term) -> None:
            print(f"{term.id} leads under token {term.token}", flush=True)
            while not term.stop.is_set():
                due = int(hub.now().timestamp()) // every * every
                last = hub.memory.entry(KEY)
                if last is None or due > last.value:
                    try:
                        # Raises LeaseLost when another one leads by now: the term ends, and we stand again.
                        fence = (term.lock.name, term.token)
                        hub.memory.set(KEY, due, if_revision=last.revision if last else 0, fence=fence)
                    except RevisionMismatch:
                        continue  # what we read was old: the leader before us fired
                    code = subprocess.run(command, check=False).returncode
                    print(f"{time.strftime('%H:%M:%S', time.localtime(due))} fired, exit code {code}", flush=True)
                term.stop.wait(due + every - hub.now().timestamp())

        election = hub.leader.election("cron", lead, id=f"{hub.actor}/{os.getpid()}", ttl=15)
        # From a thread: the handler may interrupt code that holds what stop() needs.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: threading.Thread(target=election.stop).start())
        election.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, usage="%(prog)s SECONDS COMMAND...")
    parser.add_argument("seconds", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    if asked.seconds < 1 or not asked.command:
        parser.error("give the seconds, at least 1, and a command")
    try:
        main(asked.seconds, asked.command)
    except (GhcoordError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
