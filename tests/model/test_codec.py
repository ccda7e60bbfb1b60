"""Records as files: what people write by hand is read or refused by name, and nothing is lost on the way."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghcoord.errors import Corrupt, NewerSchema, TooLarge, UsageError
from ghcoord.model import steps as model
from ghcoord.model.codec import (
    FORMAT,
    MAX_DEPTH,
    MAX_RECORD,
    Record,
    check_value,
    decode,
    encode,
    stamp,
)
from ghcoord.model.gate import Gate
from ghcoord.model.lock import Grant, LockRecord, Mode, Waiter
from ghcoord.model.lock_paths import PathClaim
from ghcoord.model.lock_stats import LockStats
from ghcoord.model.memory import Fence, MemoryEntry
from ghcoord.model.requirements import Requirements
from ghcoord.model.task import (
    TIMED,
    Assignment,
    Attempt,
    Backoff,
    Dependencies,
    IfFailed,
    Limit,
    Progress,
    State,
    Task,
    TaskLease,
    TaskResult,
    Unique,
)
from ghcoord.model.worker import Capabilities, Capacity, Health, SandboxInfo, Worker, WorkerStatus

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Other work on the machine must not fail a test."""

ENTRY: dict[str, Any] = {
    "format": 1,
    "key": "k",
    "value": 5,
    "revision": 3,
    "updated_at": "2026-01-02T03:04:05Z",
}


def entry(**changes: Any) -> bytes:
    return json.dumps({**ENTRY, **changes}).encode()


def with_value(text: str) -> bytes:
    """An entry whose value is ``text``, JSON or not."""
    return entry(value="@").replace(b'"@"', text.encode())


# -- round trips

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
times = st.integers(0, 4_000_000_000_000).map(lambda ms: stamp(ms / 1000))
seconds = st.floats(0.001, 86400)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(texts, below, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=3)
counts = st.integers(0, 10**6)
tokens = st.integers(1, 2**53)
attempt_numbers = st.integers(1, 10**9)

results = st.builds(
    TaskResult,
    success=st.booleans(),
    output=texts,
    error=texts,
    exit_code=st.none() | st.integers(0, 255),
    duration=seconds,
    data=objects,
    truncated=st.booleans(),
    artifacts=st.lists(texts, max_size=2).map(tuple),
    completed_at=st.none() | times,
)
attempts = st.builds(
    Attempt, attempt=counts, worker=texts, token=tokens, started_at=times, ended_at=times, outcome=texts, error=texts
)

needs = st.builds(
    Requirements,
    min_cpu_cores=counts,
    min_memory_mb=counts,
    required_capabilities=st.lists(texts, max_size=3).map(tuple),
)
limits = st.builds(Limit, key=names, concurrency=st.none() | st.integers(1, 10_000)) | st.builds(
    Limit, key=names, rate=st.integers(1, 1000), period=seconds
)
uniques = st.builds(
    Unique,
    digest=st.text("0123456789abcdef", min_size=40, max_size=40),
    period=st.none() | seconds,
    states=st.lists(st.sampled_from(State), max_size=3).map(tuple),
)
assignments = st.builds(Assignment, worker=names, at=times, until=st.none() | times, pinned=st.booleans())


@st.composite
def dependencies(draw: st.DrawFn, state: State) -> Dependencies | None:
    after = tuple(draw(st.lists(names, min_size=1, max_size=3)))
    blocked = state is State.BLOCKED
    if not blocked and draw(st.booleans()):
        return None
    return Dependencies(after=after, waiting_for=after if blocked else (), if_failed=draw(st.sampled_from(IfFailed)))


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    state = draw(st.sampled_from(State))
    return Task(
        id=draw(names),
        tool=draw(names),
        type=draw(texts),
        estimated_duration=draw(st.none() | seconds),
        requirements=draw(st.none() | needs),
        not_before=draw(st.none() | times),
        dependencies=draw(dependencies(state)),
        limit=draw(st.none() | limits),
        unique=draw(st.none() | uniques),
        assigned=draw(st.none() | assignments),
        schedule=draw(st.none() | names),
        batch=draw(st.none() | names),
        args=draw(objects),
        state=state,
        priority=draw(st.integers(0, 9)),
        sequence=draw(counts),
        created_at=draw(times),
        submitted_by=draw(texts),
        timeout=draw(st.none() | seconds),
        max_failures=draw(st.integers(1, 1000)),
        backoff=draw(st.builds(Backoff, base=st.floats(0, 100), cap=st.floats(0, 100))),
        metadata=draw(objects),
        attempt=draw(counts),
        failures=draw(counts),
        lost=draw(counts),
        lease=draw(st.builds(TaskLease, worker=names, token=tokens, attempt=attempt_numbers, at=times))
        if state is State.LEASED
        else None,
        due_at=draw(times) if state in TIMED else None,
        cancel_requested=draw(st.booleans()),
        cancel_reason=draw(texts),
        progress=draw(
            st.none() | st.builds(Progress, fraction=st.none() | st.floats(0, 1), message=texts, tail=texts, at=times)
        ),
        result=draw(st.none() | results),
        ended_at=draw(st.none() | times),
        history=tuple(draw(st.lists(attempts, max_size=2))),
    )


workers = st.builds(
    Worker,
    id=names,
    token=tokens,
    hostname=texts,
    pid=st.none() | counts,
    status=st.sampled_from(WorkerStatus),
    drain_requested=st.booleans(),
    registered_at=times,
    last_heartbeat=times,
    renewal=tokens,
    ttl=seconds,
    capacity=st.builds(Capacity, max_tasks=counts, active_tasks=counts),
    capabilities=st.builds(
        Capabilities,
        cpu_cores=counts,
        memory_mb=counts,
        supported_task_types=st.lists(texts, max_size=2).map(tuple),
        labels=st.dictionaries(texts, texts, max_size=2),
    ),
    sandbox=st.none() | st.builds(SandboxInfo, driver=texts, tier=texts),
    max_sessions=counts,
    active_sessions=counts,
    session_ids=st.lists(texts, max_size=2).map(tuple),
    health=st.none() | st.builds(Health, cpu=st.none() | seconds, health_status=st.just("degraded")),
    metadata=objects,
)
grants = st.builds(
    Grant,
    owner=names,
    token=tokens,
    mode=st.sampled_from(Mode),
    ttl=seconds,
    acquired_at=times,
    renewed_at=times,
    renewal=tokens,
    depth=st.integers(1, 10**6),
    metadata=objects,
)
waiters = st.builds(
    Waiter,
    id=st.just("w1"),
    owner=names,
    mode=st.sampled_from(Mode),
    since=times,
    deadline=times,
    poll=st.floats(0.001, 600),
    offered_at=st.none() | times,
)
locks = st.builds(
    LockRecord,
    name=names,
    permits=st.integers(1, 1000),
    latest=st.none() | tokens,
    grants=st.lists(grants, max_size=2).map(tuple),
    waiters=st.lists(waiters, max_size=2).map(tuple),
)
claims = st.builds(
    PathClaim,
    patterns=st.lists(st.sampled_from(["src/**", "a/*.py", "[!x]?"]), min_size=1, max_size=3).map(tuple),
    grant=grants,
)
figures = st.builds(LockStats, name=names, acquisitions=counts, held_total=seconds, updated_at=times)
gates = st.builds(
    Gate,
    key=names,
    concurrency=st.none() | st.integers(1, 10_000),
    rate=st.none() | st.integers(1, 1000),
    period=st.none() | seconds,
    running=counts,
    starts=st.lists(times, max_size=3).map(tuple),
    exposed=st.lists(texts, max_size=2).map(tuple),
    reopens_at=st.none() | times,
    forget_at=st.none() | times,
)
entries = st.builds(
    MemoryEntry,
    key=names,
    value=values,
    revision=tokens,
    updated_at=times,
    updated_by=texts,
    ttl=st.none() | seconds,
)
fences = st.builds(Fence, lock=texts, token=tokens)


@relaxed
@given(st.one_of(tasks(), workers, locks, claims, figures, gates, entries, fences))
def test_what_is_written_is_read(record: Record) -> None:
    """Every kind of record survives the file unchanged, and the same record always gives the same bytes."""
    data = encode(record)
    assert record == decode(type(record), data, "p")
    assert data == encode(decode(type(record), data, "p"))


def test_the_file_reads_well() -> None:
    """Sorted keys, indented, unescaped letters, a newline at the end: it diffs and reads well."""
    written = encode(decode(MemoryEntry, entry(value={"b": "é", "a": None}), "p")).decode()
    assert written == json.dumps(json.loads(written), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert '"é"' in written
    assert '"a": null' in written, "null inside of a value is content"


@pytest.mark.parametrize("kind", [Task, Worker, LockRecord, LockStats, Gate, MemoryEntry, Fence])
def test_keys_added_by_hand_survive(kind: type[Record]) -> None:
    """A note that a person adds to a record is still there after ghcoord wrote it again."""
    common = {"token": 1, "ttl": 5.0, "renewal": 1, "revision": 1}
    stamps = dict.fromkeys(["acquired_at", "renewed_at", "registered_at", "last_heartbeat"], "2026-01-01T00:00:00Z")
    record = {
        "id": "x",
        "name": "x",
        "key": "x",
        "lock": "x",
        "owner": "x",
        "tool": "echo",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        **common,
        **stamps,
        "note": {"by": "a person", "list": [1, 2]},
    }
    again = json.loads(encode(decode(kind, json.dumps(record).encode(), "p")))
    assert {"by": "a person", "list": [1, 2]} == again["note"]


# -- what people break


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "p is not JSON"),
        (b"{", "p is not JSON"),
        (b"<<<<<<< HEAD\n{}\n", "p is not JSON"),
        (b"\xff\xfe\x00", "p is not"),
        (b"\xef\xbb\xbf{}", "p is not"),
        (b"[]", "p is not a valid memoryentry"),
        (b"null", "p is not a valid memoryentry"),
        (b"5", "p is not a valid memoryentry"),
        (b"{}", "key: Field required"),
        (entry(key=""), "key: .*at least 1"),
        (entry(key=7), "key: .*string"),
        (entry(revision=0), "revision"),
        (entry(revision=-1), "revision"),
        (entry(revision="x"), "revision"),
        (entry(revision=1.5), "revision"),
        (entry(revision=None), "revision"),
        (entry(updated_at="yesterday"), "updated_at"),
        (entry(updated_at="2026-01-02T03:04:05"), "updated_at: .*timezone"),
        (entry(ttl=0), "ttl"),
        (entry(ttl=-5), "ttl"),
        (with_value("NaN"), "NaN"),
        (with_value("[Infinity]"), "Infinity"),
        (with_value("-Infinity"), "Infinity"),
        (with_value("1e400"), "1e400"),
        (with_value("1" * 5000), "p is not JSON"),
        (with_value('"\\ud800"'), "p is not"),
        (with_value("[" * 100_000), "p is not JSON"),
        (with_value("[" * 300 + "]" * 300), "p is not"),
        (with_value('"' + "x" * MAX_RECORD + '"'), f"at most {MAX_RECORD}"),
    ],
)
def test_what_people_break_is_named(data: bytes, why: str) -> None:
    """Whatever a file holds, reading it gives a record or ``Corrupt`` with the path and the defect."""
    with pytest.raises(Corrupt, match=why) as caught:
        decode(MemoryEntry, data, "p")
    assert caught.value.message.startswith("p ")
    assert "\n" not in caught.value.message.replace("memoryentry", "")


@relaxed
@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_no_content_raises_anything_else(data: bytes) -> None:
    """No file can raise something that callers do not expect."""
    for kind in (Task, Worker, LockRecord, PathClaim, LockStats, Gate, MemoryEntry, Fence):
        try:
            decode(kind, data, "p")
        except (Corrupt, NewerSchema):
            continue


def test_a_newer_format_is_not_guessed_at() -> None:
    """A record of a newer ghcoord is refused as such, whatever else it holds; an older or missing one is read."""
    with pytest.raises(NewerSchema, match=f"p has format {FORMAT + 1}: upgrade"):
        decode(MemoryEntry, json.dumps({"format": FORMAT + 1, "all": "new"}).encode(), "p")
    without = {key: value for key, value in ENTRY.items() if key != "format"}
    assert FORMAT == decode(MemoryEntry, json.dumps(without).encode(), "p").format


MONTH = 30 * 86400.0


@pytest.mark.parametrize(
    ("when", "ttl", "over"),
    [
        ("9999-12-29T23:59:59Z", MONTH, False),
        ("9999-12-29T09:59:59-14:00", 1e300, False),
        ("2026-01-01T00:00:00Z", 1e30, False),
        ("2026-01-01T00:00:00Z", MONTH, True),
        ("1970-01-01T14:00:00+14:00", MONTH, True),
        ("1970-01-01T14:00:00+14:00", 1e30, False),
    ],
)
def test_the_ends_of_the_calendar_are_no_accident(when: str, ttl: float, over: bool) -> None:
    """A date or a ttl that leaves the calendar means never or long ago, and raises nothing."""
    one = decode(MemoryEntry, entry(updated_at=when, ttl=ttl), "p")
    assert over is one.expired(1_800_000_000.0)
    lock = Grant(
        owner="o",
        token=1,
        ttl=min(ttl, MONTH),
        acquired_at=datetime(2026, 1, 1, tzinfo=UTC),
        renewed_at=one.updated_at,
        renewal=1,
    )
    assert lock.lease.expires_at.tzinfo is not None


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00"])
def test_dates_that_cannot_be_counted_with_are_refused(when: str) -> None:
    """No view of a record overflows, in any time zone."""
    with pytest.raises(Corrupt, match=r"than or equal to (1970|9999-12-30)"):
        decode(MemoryEntry, entry(updated_at=when), "p")


@pytest.mark.parametrize(
    ("field", "most"),
    [("attempt", 10**9), ("failures", 10**9), ("lost", 10**9), ("sequence", 2**53), ("max_failures", 1000)],
)
def test_numbers_are_bounded(field: str, most: int) -> None:
    """A number edited by hand is no longer than what file names and other JSON readers take; one step on it is read."""
    raw = {"id": "t1", "tool": "echo", "created_at": "2026-01-01T00:00:00Z"}
    task = decode(Task, json.dumps({**raw, field: most}).encode(), "p")
    leased = model.lease(task, "w", now=0, revision=2**53 - 1)
    for after in (leased, model.lose(leased, "x", now=0), model.finish(leased, TaskResult(success=False), now=0)):
        assert after == decode(Task, encode(after), "p")
    for much in (most + 1, 10**300):
        with pytest.raises(Corrupt, match=field):
            decode(Task, json.dumps({**raw, field: much}).encode(), "p")


# -- what users bring


def test_a_record_that_is_too_large_is_refused() -> None:
    """Nothing over the limit is written."""
    big = MemoryEntry(key="k", value="x" * MAX_RECORD, revision=1, updated_at=stamp(0))
    with pytest.raises(TooLarge, match=f"at most {MAX_RECORD}"):
        encode(big)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {1: 2},
        {None: 1},
        {"a": {1, 2}},
        b"bytes",
        pytest.param(object(), id="object"),
        "\ud800",
        {"\udfff": 1},
    ],
    ids=str,
)
def test_what_is_not_json_is_refused(value: Any) -> None:
    """Values that JSON has no word for are the caller's mistake, before anything is written."""
    with pytest.raises(UsageError, match="the value"):
        check_value(value, "value")


def test_depth_and_size_are_bounded() -> None:
    """A value of the greatest depth passes; a deeper, circular or larger one does not."""
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert deep is check_value(deep, "value")
    with pytest.raises(UsageError, match="nested deeper"):
        check_value([deep], "value")
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(UsageError, match="nested deeper"):
        check_value(circle, "value")
    with pytest.raises(TooLarge, match="the value has"):
        check_value("é" * 500_000, "value")


@relaxed
@given(st.integers(1, 240_000))
def test_a_value_that_passes_fits_into_its_record(length: int) -> None:
    """Indentation counts: what ``check_value`` lets pass can be written."""
    value = [1] * length
    try:
        check_value(value, "value")
    except TooLarge:
        return
    encode(MemoryEntry(key="k" * 256, value=value, revision=2**53, updated_at=stamp(0), updated_by="x" * 256))


def test_stamps_are_to_the_millisecond() -> None:
    """Times are UTC and readable."""
    assert "2023-11-14T22:13:20.123000+00:00" == stamp(1_700_000_000.1234).isoformat()
