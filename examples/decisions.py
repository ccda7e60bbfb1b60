"""Decisions that all agents of a project share: decisions.py decide | change | list | follow

    decisions.py decide QUESTION ANSWER WHY   the first answer holds; a later one learns it
    decisions.py change QUESTION ANSWER WHY   replaces the answer that you saw
    decisions.py list                         all of them
    decisions.py follow                       those too, and then each as it is made

Needs GHCOORD_HUB. Every decision is a file and a commit in the hub's branch:
``ghcoord memory history QUESTION --namespace decisions`` tells who changed it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import ghcoord
from ghcoord.errors import GhcoordError, RevisionMismatch

SPACE = "decisions"


def show(question: str, decision: dict[str, Any]) -> None:
    print(f"{question}: {decision['answer']} ({decision['why']}; {decision['by']})", flush=True)


def decide(hub: ghcoord.Hub, question: str, answer: str, why: str, revision: int = 0) -> None:
    decision = {"answer": answer, "why": why, "by": hub.actor}
    try:
        hub.memory.set(question, decision, SPACE, if_revision=revision)  # 0: only if there is none
    except RevisionMismatch:
        show(question, hub.memory.get(question, SPACE))
        sys.exit("that was decided already: keep to it, or change it")
    show(question, decision)


def change(hub: ghcoord.Hub, question: str, answer: str, why: str) -> None:
    seen = hub.memory.entry(question, SPACE)
    if seen is None:
        sys.exit("nothing was decided yet: decide it")
    show(question, seen.value)
    decide(hub, question, answer, why, seen.revision)


def list_all(hub: ghcoord.Hub) -> int:
    """Print all; returns the highest revision among them."""
    known = hub.memory.entries(namespace=SPACE)
    for entry in known:
        show(entry.key, entry.value)
    return max((entry.revision for entry in known), default=0)


def follow(hub: ghcoord.Hub) -> None:
    heard = list_all(hub)
    for change in hub.memory.watch("", namespace=SPACE, prefix=True, since=heard):
        if change.kind == "set" and change.revision > heard:  # what was heard last is told again
            show(change.key, change.value)


VERBS: dict[str, Callable[..., object]] = {"decide": decide, "change": change, "list": list_all, "follow": follow}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in VERBS:
        verb = verbs.add_parser(name)
        for word in ("question", "answer", "why") if name in ("decide", "change") else ():
            verb.add_argument(word)
    given = vars(parser.parse_args())
    try:
        with ghcoord.connect() as opened:
            VERBS[given.pop("verb")](opened, **given)
    except GhcoordError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
