"""What ``ghcoord demo`` saw, and what it may claim because of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from ghcoord.faces.demo_tasks import FLAKY_ID

if TYPE_CHECKING:
    from ghcoord.model.task import Task


class Claim(NamedTuple):
    """Something that the demo shows, and whether it really happened."""

    text: str
    ok: bool
    detail: str = ""


@dataclass(slots=True)
class Facts:
    """What was seen. Whatever was not reached keeps the value that proves nothing."""

    submitted: int = 0
    tasks: Sequence[Task] = ()
    victim: str = ""
    survivor: str = ""
    held: tuple[str, ...] = ()
    """Tasks that the killed worker held when it was dead."""
    recovered_after: float | None = None
    """Seconds from the kill to the last of them being back in the queue."""
    tokens: tuple[int, ...] = ()
    """Fencing tokens in the order of their grants."""
    refused_with: int | None = None
    """Exit code of the write with the old token; 5 is a refusal."""
    allowed_with: int | None = None
    """Exit code of the write with the present token."""
    kept: Any = None
    """The value that the hub holds after both."""
    wanted: Any = "new"
    survivor_exit: int | None = None
    commits: int = 0
    seconds: float = 0.0
    history: list[str] = field(default_factory=list)
    stuck: str = ""
    """Why the demo did not get to its end; empty when it did."""

    @property
    def attempts(self) -> int:
        return sum(task.attempt for task in self.tasks)

    @property
    def lost(self) -> int:
        return sum(task.lost for task in self.tasks)

    @property
    def returned(self) -> int:
        return sum(one.outcome == "given back" for task in self.tasks for one in task.history)

    @property
    def retried(self) -> int:
        return sum(task.failures for task in self.tasks)


def claims(facts: Facts) -> list[Claim]:
    """Everything that the demo is there to show, each judged by ``facts``."""
    found = [_exactly_once(facts), _priorities(facts), _retry(facts), _recovery(facts), _tokens(facts), _fence(facts)]
    found.append(
        Claim(
            f"{facts.survivor or 'the other worker'} finished its work on SIGTERM and ended with exit code 0",
            facts.survivor_exit == 0,
            f"exit code {facts.survivor_exit}",
        )
    )
    if facts.stuck:
        found.append(Claim("the demo came to its end", False, facts.stuck))
    return found


def _exactly_once(facts: Facts) -> Claim:
    wrong = [
        f"{task.id} is {task.state}"
        for task in facts.tasks
        if task.state != "succeeded" or sum(one.outcome == "succeeded" for one in task.history) != 1
    ]
    missing = facts.submitted - len(facts.tasks)
    if missing:
        wrong.append(f"{missing} tasks are missing")
    text = f"all {facts.submitted} tasks succeeded, each exactly once"
    return Claim(text, facts.submitted > 0 and not wrong, ", ".join(wrong[:5]))


def _priorities(facts: Facts) -> Claim:
    first = sorted((task.history[0].token, -task.priority, task.id) for task in facts.tasks if task.history)
    broken = [f"{late[2]} after {early[2]}" for early, late in pairwise(first) if late[1] < early[1]]
    ok = len(first) == facts.submitted > 0 and not broken
    return Claim("higher priorities were taken first", ok, ", ".join(broken[:3]))


def _retry(facts: Facts) -> Claim:
    flaky = next((task for task in facts.tasks if task.id == FLAKY_ID), None)
    history = () if flaky is None else flaky.history
    ended = tuple(one.outcome for one in history if one.outcome in ("failed", "succeeded"))
    return Claim(
        "a task that failed was tried again after its back-off, and succeeded",
        ended == ("failed", "succeeded"),
        f"its attempts: {', '.join(ended) or 'none'}",
    )


def _recovery(facts: Facts) -> Claim:
    by_id = {task.id: task for task in facts.tasks}
    wrong = []
    for task_id in facts.held:
        history = by_id[task_id].history if task_id in by_id else ()
        lost = any(one.worker == facts.victim and one.outcome == "lost" for one in history)
        if not (lost and history[-1].worker == facts.survivor and history[-1].outcome == "succeeded"):
            wrong.append(f"{task_id}: {', '.join(f'{one.outcome} on {one.worker}' for one in history) or 'no attempt'}")
    after = "" if facts.recovered_after is None else f" {facts.recovered_after:.1f} s later"
    text = (
        f"{facts.victim or 'a worker'}, killed while it held {len(facts.held)} tasks, lost them{after}, "
        f"and {facts.survivor or 'the other one'} finished them"
    )
    return Claim(text, bool(facts.held) and not wrong, "; ".join(wrong[:3]))


def _tokens(facts: Facts) -> Claim:
    grown = len(facts.tokens) >= 2 and all(a < b for a, b in pairwise(facts.tokens))
    shown = " → ".join(map(str, facts.tokens)) or "no token"
    return Claim(f"two processes wanted one lock and got it one after the other, tokens {shown}", grown, shown)


def _fence(facts: Facts) -> Claim:
    ok = facts.refused_with == 5 and facts.allowed_with == 0 and facts.kept == facts.wanted
    detail = f"exit codes {facts.refused_with} and {facts.allowed_with}, the value is {facts.kept!r}"
    return Claim("the write with the old token was refused, the one with the new token was done", ok, detail)
