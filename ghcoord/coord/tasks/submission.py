"""What a submitter says about a task, checked, and the task that it becomes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from ghcoord.coord.queue.uniqueness import digest_of
from ghcoord.coord.tasks import calls
from ghcoord.errors import TooLarge, UsageError
from ghcoord.ids import check_id, check_name
from ghcoord.model.codec import check_value, sane, stamp, to_json
from ghcoord.model.requirements import Requirements
from ghcoord.model.session import Session
from ghcoord.model.task import (
    ENDED,
    MAX_CONCURRENCY,
    MAX_PERIOD,
    MAX_RATE,
    Assignment,
    Backoff,
    Dependencies,
    IfFailed,
    Limit,
    State,
    Task,
    Unique,
)
from ghcoord.model.tier import check_tier
from ghcoord.tracing import checked
from ghcoord.units import MAX_DURATION

MAX_PAYLOAD = 880_000
"""Bytes of arguments and metadata as a record holds them: what happens to the task must fit beside them."""

MAX_AFTER = 100
"""Tasks that one task may wait for."""

OPEN = tuple(state for state in State if state not in ENDED)
"""States of tasks that have not ended: those in which a unique key counts unless said otherwise."""

PREFER_FOR = 30.0
"""Seconds that a task waits for the worker that it prefers."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What to run and how. All durations in seconds.

    ``priority`` 0 to 9, higher first.  ``retries`` is how many more times a
    failure is tried, after an exponential back-off from ``backoff`` to
    ``backoff_cap`` seconds.  ``timeout`` ends an attempt.  ``id`` is optional;
    submitting the same id and content again is harmless.  ``type`` is what
    workers declare to serve, the tool's name unless given; ``requirements`` is
    the least that a worker must have.  ``estimated_duration`` is kept for
    placement.

    ``not_before`` is an aware datetime, or seconds from now.  ``after`` are ids
    of tasks that must end first; ``if_failed`` says what becomes of this one
    when one of those ends without success: ``cancel``, ``run`` or ``wait``
    until that one is retried and succeeds.

    ``key`` with ``concurrency`` and ``rate`` limits how many tasks of that key
    run at a time, and how many start, ``rate`` being (number, seconds).  A key
    has one limit: what its latest submission says.

    ``unique`` keeps the task from being queued beside another of the same
    type, tool and arguments, or of the same ``unique_key``.  The other counts
    while it is in one of ``unique_states`` (default: until it has ended) and,
    with ``unique_for``, for so long after it was submitted (then also when it
    has succeeded).

    ``worker`` is the only worker that may run it, for as long as that one is
    registered; ``prefer`` the one that may have it first, for ``prefer_for``
    seconds.

    ``sandbox`` is the least sandbox that the worker must have: ``full``,
    ``partial`` or ``none``; without it tools that start processes need a full
    one, others none.  With ``session`` the task is a call in that session, which
    only the session's worker runs.  ``trace`` is a W3C traceparent to pass on.
    """

    tool: str
    args: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    retries: int = 0
    backoff: float = 2.0
    backoff_cap: float = 300.0
    timeout: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    type: str | None = None
    estimated_duration: float | None = None
    requirements: Requirements | Mapping[str, Any] | None = None
    not_before: datetime | float | None = None
    after: Sequence[str] = ()
    if_failed: str = "cancel"
    key: str | None = None
    concurrency: int | None = None
    rate: tuple[int, float] | None = None
    unique: bool = False
    unique_key: str | None = None
    unique_for: float | None = None
    unique_states: Collection[str] | None = None
    worker: str | None = None
    prefer: str | None = None
    prefer_for: float = PREFER_FOR
    sandbox: str | None = None
    session: str | None = None
    trace: str = ""

    def check(self) -> int:
        """The bytes of args and metadata. Raises ``UsageError`` naming what is wrong first, or ``TooLarge``."""
        for name, what in ((self.tool, "tool name"), (self.id, "task id"), (self.type, "task type")):
            _id(name, what)
        _whole(self.priority, "priority", 0, 9)
        _whole(self.retries, "retries", 0, 999)
        for seconds, what in ((self.backoff, "back-off"), (self.backoff_cap, "back-off")):
            _number(seconds, what)
        if not 0 <= self.backoff <= 86400 or not 0 <= self.backoff_cap <= 7 * 86400:
            raise UsageError("back-off is out of range: give 0 to 86400 s, its cap up to 7 days")
        if not isinstance(self.unique, bool):
            raise UsageError(f"unique is true or false, not {self.unique!r}")
        _number(self.prefer_for, "time that a worker is preferred for")
        for given, what in (
            (self.timeout, "timeout"),
            (self.estimated_duration, "estimated duration"),
            (self.unique_for, "period of a unique key"),
            (self.prefer_for, "time that a worker is preferred for"),
        ):
            _positive(given, what)
        self._check_rest()
        checked(self.trace)
        for what, value in (("args", self.args), ("metadata", self.metadata)):
            if not isinstance(value, Mapping):
                raise UsageError(f"{what} must be a JSON object")
            check_value(dict(value), what)
        size = len(to_json([dict(self.args), dict(self.metadata)]).encode())
        if size > MAX_PAYLOAD:
            raise TooLarge(f"args and metadata have {size} bytes: at most {MAX_PAYLOAD} are accepted")
        return size

    def _check_rest(self) -> None:
        """What few submissions have."""
        if self.requirements is not None:
            requirements_of(self.requirements)
        if self.not_before is not None:
            _check_time(self.not_before)
        if self.after:
            _check_after(self.after)
        if self.if_failed not in tuple(IfFailed):
            raise UsageError(f"if_failed {self.if_failed!r} is unknown: one of {', '.join(IfFailed)}")
        if self.key is not None or self.concurrency is not None or self.rate is not None:
            self._check_limit()
        if self.unique_key is not None:
            check_name(_text(self.unique_key, "unique key"), "unique key")
        if self.unique_states is not None:
            _check_states(self.unique_states)
        if self.worker is not None or self.prefer is not None:
            _id(self.worker, "worker id")
            _id(self.prefer, "worker id")
            if self.worker is not None and self.prefer is not None:
                raise UsageError("a task that one worker must run prefers no other: give worker or prefer")
        if self.sandbox is not None:
            check_tier(self.sandbox)
        if self.session is not None:
            _id(self.session, "session id")
            calls.check_options(self)

    def _check_limit(self) -> None:
        if self.key is None:
            raise UsageError("a limit needs a key: tasks of the same key share it")
        check_name(_text(self.key, "key"), "key")
        if self.key.startswith(calls.GATE):
            raise UsageError(f"keys that begin with {calls.GATE!r} are those of sessions: choose another")
        if self.concurrency is None and self.rate is None:
            raise UsageError(f"say how many tasks of the key {self.key[:40]!r} may run: give concurrency, rate or both")
        if self.concurrency is not None:
            _whole(self.concurrency, "concurrency", 1, MAX_CONCURRENCY)
        if self.rate is not None:
            if isinstance(self.rate, str) or not isinstance(self.rate, Sequence) or len(self.rate) != 2:
                raise UsageError(f"the rate {self.rate!r} is not (number, seconds)")
            _whole(self.rate[0], "number of a rate", 1, MAX_RATE)
            _number(self.rate[1], "period of a rate")
            if not 0.001 <= self.rate[1] <= MAX_PERIOD:
                raise UsageError("the period of a rate is out of range: give 0.001 s to 366 days")

    @property
    def is_unique(self) -> bool:
        """Whether it must not stand beside another."""
        return bool(self.unique or self.unique_key or self.unique_for or self.unique_states)

    def unique_terms(self) -> Unique | None:
        """The unique key, as the task's record keeps it."""
        if not self.is_unique:
            return None
        if self.unique_key is not None:
            digest = digest_of("key", check_name(self.unique_key, "unique key"))
        else:
            digest = digest_of("args", self.type or self.tool, self.tool, plain(self.args))
        default = (*OPEN, State.SUCCEEDED) if self.unique_for is not None else OPEN
        states = default if self.unique_states is None else tuple(sorted({State(one) for one in self.unique_states}))
        return Unique(digest=digest, period=self.unique_for, states=states)


# -- the task


def build(
    one: Submission,
    task_id: str,
    sequence: int,
    *,
    now: float,
    actor: str,
    after: Sequence[str] = (),
    waiting_for: Sequence[str] = (),
    batch: str | None = None,
    schedule: str | None = None,
    session: Session | None = None,
) -> Task:
    """The task that ``one`` becomes at the hub's time ``now`` (seconds): queued, scheduled, or blocked.

    ``after`` are the tasks that it depends on, ``waiting_for`` those that it has to wait for.
    ``session`` is the record of the session that it names.
    """
    not_before = None if one.not_before is None else moment_of(one.not_before, now)
    later = not_before is not None and not_before.timestamp() > now
    state = State.BLOCKED if waiting_for else State.SCHEDULED if later else State.QUEUED
    task = Task(
        id=task_id,
        tool=one.tool,
        type=one.type or one.tool,
        args=plain(one.args),
        state=state,
        priority=one.priority,
        sequence=sequence,
        created_at=stamp(now),
        submitted_by=actor,
        timeout=one.timeout,
        max_failures=one.retries + 1,
        backoff=Backoff(base=one.backoff, cap=one.backoff_cap),
        estimated_duration=one.estimated_duration,
        requirements=_requirements(one),
        not_before=not_before,
        due_at=not_before if state is State.SCHEDULED else None,
        dependencies=_dependencies(one, after, waiting_for),
        limit=_limit(one),
        unique=one.unique_terms(),
        assigned=_assignment(one, now),
        schedule=schedule,
        batch=batch,
        trace=checked(one.trace),
        metadata=plain(one.metadata),
    )
    return task if session is None else calls.bound(task, session)


def _requirements(one: Submission) -> Requirements | None:
    given = None if one.requirements is None else requirements_of(one.requirements)
    if one.sandbox is None:
        return given
    return (given or Requirements()).model_copy(update={"sandbox": check_tier(one.sandbox)})


def _dependencies(one: Submission, after: Sequence[str], waiting_for: Sequence[str]) -> Dependencies | None:
    if not after:
        return None
    return Dependencies(after=tuple(after), waiting_for=tuple(waiting_for), if_failed=IfFailed(one.if_failed))


def _limit(one: Submission) -> Limit | None:
    if one.key is None:
        return None
    number, period = (None, None) if one.rate is None else one.rate
    return Limit(key=check_name(one.key, "key"), concurrency=one.concurrency, rate=number, period=period)


def _assignment(one: Submission, now: float) -> Assignment | None:
    if one.worker is not None:
        return Assignment(worker=one.worker, at=stamp(now), pinned=True)
    if one.prefer is not None:
        return Assignment(worker=one.prefer, at=stamp(now), until=stamp(now + one.prefer_for))
    return None


def moment_of(when: datetime | float, now: float) -> datetime:
    """``when`` as a time: seconds count from ``now``."""
    return when if isinstance(when, datetime) else stamp(now + when)


def requirements_of(given: Requirements | Mapping[str, Any]) -> Requirements:
    """What is required, checked; raises ``UsageError``."""
    if not isinstance(given, Requirements | Mapping):
        raise UsageError(f"requirements are Requirements or an object, not {given!r}")
    if isinstance(given, Mapping):
        known = set(Requirements.model_fields)
        for name in given:
            if name not in known:
                raise UsageError(f"{name!r} is no requirement: one of {', '.join(sorted(known))}")
    try:
        found = Requirements.model_validate(dict(given) if isinstance(given, Mapping) else given.model_dump())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"requirements: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for capability in found.required_capabilities:
        check_name(capability, "capability")
    return found


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` as it is read back: tuples are lists."""
    return dict(json.loads(json.dumps(dict(value)))) if value else {}


# -- checks


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"the {what} {value!r} is not a text")
    return value


def _id(name: object, what: str) -> None:
    if name is not None:
        check_id(_text(name, what), what)


def _whole(value: object, what: str, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{what} {value!r} is out of range: give {least} to {most}")


def _number(value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"the {what} {value!r} is not a number of seconds")


def _positive(value: float | None, what: str) -> None:
    if value is not None:
        _number(value, what)
        if not 0 < value <= MAX_DURATION:
            raise UsageError(f"a {what} of {value!r} s is out of range: give more than 0, at most ten years")


def _check_time(when: object) -> None:
    if not isinstance(when, datetime):
        _number(when, "time not_before")
        assert isinstance(when, int | float)
        if not 0 <= when <= MAX_DURATION:
            raise UsageError(f"not_before {when!r} s is out of range: give 0 to {MAX_DURATION:.0f} s, or a datetime")
        return
    if when.tzinfo is None:
        raise UsageError("not_before has no time zone: give an aware datetime, or seconds from now")
    try:
        sane(when)
    except ValueError as error:
        raise UsageError(f"not_before: {error}") from None


def _check_after(after: object) -> None:
    if isinstance(after, str) or not isinstance(after, Sequence):
        raise UsageError("after must be a list of task ids")
    if len(after) > MAX_AFTER:
        raise UsageError(f"a task waits for at most {MAX_AFTER} others, not {len(after)}: let one in between wait")
    for one in after:
        _id(_text(one, "task id"), "task id")
    if len(set(after)) < len(after):
        raise UsageError("after names a task twice")


def _check_states(states: object) -> None:
    if isinstance(states, str) or not isinstance(states, Collection) or not states:
        raise UsageError(f"unique states must be a list of states: {', '.join(State)}")
    for one in states:
        if one not in tuple(State):
            raise UsageError(f"unique state {one!r} is unknown: one of {', '.join(State)}")


def options_of(one: Submission) -> Iterator[tuple[str, Any]]:
    """The options that differ from the defaults, by name, as JSON values; tool, args and id are not among them."""
    default = Submission(one.tool)
    for name in Submission.__dataclass_fields__:
        value = getattr(one, name)
        if name in ("tool", "args", "id") or value == getattr(default, name):
            continue
        if name == "requirements":
            value = requirements_of(value).model_dump(mode="json", exclude_defaults=True)
        elif isinstance(value, Collection) and not isinstance(value, str | Mapping):
            value = list(value)
        yield name, value
