"""A worker with a tool of its own: python_worker.py [SECONDS]

Needs GHCOORD_HUB. Submit to it from anywhere::

    ghcoord task submit words.count --arg text="to be or not to be" --wait

Ends after SECONDS (default 2) without any work in the hub, or on SIGTERM or
Ctrl-C, when what runs has finished.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

import ghcoord
from ghcoord.errors import GhcoordError
from ghcoord.model.tool import ToolContext


def main(until_idle: float) -> None:
    with ghcoord.connect() as hub:

        @hub.tools.register("words.count")
        def count(text: str, ctx: ToolContext) -> dict[str, int]:
            """Count the words of a text."""
            found: dict[str, int] = {}
            words = text.split()
            for number, word in enumerate(words, start=1):
                if ctx.cancelled():  # nobody can kill a function: it has to look
                    break
                found[word] = found.get(word, 0) + 1
                ctx.progress(number / len(words), word)
            return found

        worker = ghcoord.WorkerDaemon(hub, slots=2, until_idle=until_idle, log=lambda level, text: print(text))
        # From a thread: the handler may interrupt code that holds what stop() needs.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
        done = worker.run()
        print(f"{done.succeeded} succeeded, {done.failed} failed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=2.0)
    asked = parser.parse_args()
    try:
        main(asked.seconds)
    except GhcoordError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
