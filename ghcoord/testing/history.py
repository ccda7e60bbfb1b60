"""What clients asked for and were told, and whether one true history explains it."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


class Outcome(enum.Enum):
    """What the client knows of its operation."""

    IN_DOUBT = "in doubt"
    DONE = "done"
    REFUSED = "refused"


@dataclass
class Call:
    """One operation: in doubt from its invocation until the client is told otherwise."""

    id: str
    process: str
    outcome: Outcome = Outcome.IN_DOUBT
    value: Any = None

    def done(self, value: Any = None) -> None:
        """The client was told that it happened."""
        self.outcome, self.value = Outcome.DONE, value

    def refused(self, reason: object = None) -> None:
        """The client was told that it did not happen, and will not."""
        self.outcome, self.value = Outcome.REFUSED, reason


class Violation(AssertionError):
    """No true history explains what the clients were told."""


@dataclass
class History:
    """The calls of all processes, in the order of their invocation."""

    calls: list[Call] = field(default_factory=list)

    def invoke(self, process: str) -> Call:
        """Note that ``process`` begins an operation; its id is new."""
        call = Call(f"{process}-{len(self.calls)}", process)
        self.calls.append(call)
        return call

    def of(self, outcome: Outcome) -> list[Call]:
        """The calls with that outcome."""
        return [call for call in self.calls if call.outcome is outcome]

    def check_applied_once(self, applied: Iterable[str]) -> None:
        """``applied`` are the ids found in the final state.

        Every acknowledged call is there once, every refused one is not there,
        one in doubt is there at most once, and nothing else is there.
        """
        found = Counter(applied)
        for call in self.calls:
            times = found.pop(call.id, 0)
            if call.outcome is Outcome.DONE and times != 1:
                raise Violation(f"{call.id} was acknowledged and is there {times} times")
            if call.outcome is Outcome.REFUSED and times != 0:
                raise Violation(f"{call.id} was refused ({call.value}) and is there {times} times")
            if times > 1:
                raise Violation(f"{call.id} is there {times} times")
        if found:
            raise Violation(f"nobody asked for {sorted(found)}")

    def check_counter(self, final: int) -> None:
        """``final`` is what a counter ended at whose increments the calls were; values are what they returned."""
        done = [call.value for call in self.of(Outcome.DONE)]
        most = len(done) + len(self.of(Outcome.IN_DOUBT))
        if not len(done) <= final <= most:
            raise Violation(f"the counter ended at {final}, not between {len(done)} and {most}")
        repeated = [value for value, times in Counter(done).items() if times > 1]
        if repeated:
            raise Violation(f"two increments were both told {repeated[0]}")
        if done and max(done) > final:
            raise Violation(f"somebody was told {max(done)} and the counter ended at {final}")


def check_increasing(grants: Sequence[int], what: str = "revisions") -> None:
    """``grants``, in the order in which they were given, strictly increase, as fencing tokens must."""
    for before, after in pairwise(grants):
        if after <= before:
            raise Violation(f"{what} went from {before} to {after}")
