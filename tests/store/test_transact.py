"""``transact`` piece by piece: what a transaction sees, what is committed, and how a batch is queued."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from inspect import CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ghcoord
from ghcoord.clock import SystemRuntime
from ghcoord.errors import Denied, OutcomeUnknown, Throttled, TooLarge, Unavailable, Unsupported
from ghcoord.store.base import ROOT_RECORD, ChangeSet, Oid, Operation
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.message import MAX_EVENTS, read_events, read_summary
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.takeover import SCHEMA
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import MAX_EVENT, Overlay, SpaceView, Tx
from ghcoord.testing.clock import START, ManualRuntime
from ghcoord.testing.contract import in_threads
from ghcoord.testing.faults import CommitFault, FaultyStore
from ghcoord.testing.transact_contract import batch, increment, queued, value_of

PACKAGE = Path(ghcoord.__file__).parent


@pytest.fixture
def runtime() -> ManualRuntime:
    return ManualRuntime()


@pytest.fixture
def store(runtime: ManualRuntime) -> MemoryStore:
    return MemoryStore(runtime.now)


@pytest.fixture
def transactor(store: MemoryStore, runtime: ManualRuntime) -> Transactor:
    return Transactor(store, runtime)


def put(transactor: Transactor, files: Mapping[str, bytes]) -> None:
    """Write ``files`` to the space fleet."""
    transactor.transact(["fleet"], lambda tx: [tx.write("fleet", path, data) for path, data in files.items()])


def message(store: MemoryStore, space: str = "fleet") -> str:
    """The newest commit's message."""
    return store.commit_info(store.heads()[space]).message


# -- what a transaction sees


def test_reads_its_own_writes(transactor: Transactor) -> None:
    """A transaction sees the snapshot under its own writes and deletions."""
    put(transactor, {"d/a": b"1", "d/b": b"2", "e/c": b"3"})

    def look(tx: Tx) -> None:
        tx.write("fleet", "d/new", b"4")
        tx.delete("fleet", "d/a")
        tx.write("fleet", "d/b", b"5")
        tx.write("fleet", "deep/er/x", b"6")
        assert (None, b"5", b"4") == tuple(tx.read("fleet", f"d/{name}") for name in ("a", "b", "new"))
        assert ["b", "new"] == tx.names("fleet", "d")
        assert ["d", "deep", "e", ROOT_RECORD] == tx.names("fleet", "")
        assert ["er"] == tx.names("fleet", "deep")
        assert ["d/b", "d/new", "deep/er/x", "e/c", ROOT_RECORD] == list(tx.walk("fleet", ""))
        assert [] == tx.names("fleet", "nothing/here")

    transactor.transact(["fleet"], look)


def test_names_after_deletes(transactor: Transactor) -> None:
    """A file deleted and written again is named; an emptied directory lists as empty."""
    put(transactor, {"d/a": b"1", "e/f/g": b"2"})

    def look(tx: Tx) -> None:
        tx.delete("fleet", "d/a")
        assert [] == tx.names("fleet", "d")
        tx.write("fleet", "d/a", b"again")
        assert ["a"] == tx.names("fleet", "d")
        tx.delete("fleet", "e/f/g")
        assert [] == tx.names("fleet", "e/f")
        assert ["d/a", ROOT_RECORD] == list(tx.walk("fleet", ""))

    transactor.transact(["fleet"], look)
    assert ["d", ROOT_RECORD] == transactor.transact(["fleet"], lambda tx: tx.names("fleet", ""))


def test_later_transactions_see_earlier_ones_of_the_batch(store: MemoryStore) -> None:
    """In a batch each transaction sees what those before it wrote, deletions too, and nothing of failed ones."""
    transactor = Transactor(store, SystemRuntime())
    put(transactor, {"d/a": b"1"})

    def first(tx: Tx) -> None:
        tx.delete("fleet", "d/a")
        tx.write("fleet", "d/b", b"2")

    def failing(tx: Tx) -> None:
        tx.write("fleet", "d/c", b"3")
        raise ValueError("no")

    def last(tx: Tx) -> list[str]:
        tx.write("fleet", "d/d", b"4")
        return tx.names("fleet", "d")

    _, error, seen = batch(transactor, [first, failing, last])
    assert isinstance(error, ValueError)
    assert ["b", "d"] == seen


def test_only_opened_spaces(transactor: Transactor) -> None:
    """A space that the transaction was not opened over cannot be touched."""
    with pytest.raises(Unsupported, match="locks"):
        transactor.transact(["fleet"], lambda tx: tx.read("locks", "a"))
    assert (["fleet", "locks"], False) == transactor.transact(
        ["locks", "fleet"], lambda tx: (tx.spaces, tx.exists("fleet"))
    )


def test_the_overlay_keeps_names_of_changes() -> None:
    """An overlay knows the names below each directory that hold a change at any depth."""
    overlay = Overlay()
    for path in ("a/b/c", "a/b/d", "a/e", "f"):
        overlay.put(path, b"")
    overlay.put("a/e", None)
    assert [{"a", "f"}, {"b", "e"}, {"c", "d"}, set()] == [overlay.names(path) for path in ("", "a", "a/b", "a/b/c")]


def test_a_view_drops_what_changes_nothing(store: MemoryStore) -> None:
    """Writing what is there and deleting what is not are no changes."""
    view = SpaceView(Snapshot(store, "fleet", None), Overlay())
    view.write("a", None)
    assert {} == view.own.files
    view.write("a", b"1")
    view.write("a", b"1")
    assert {"a": b"1"} == view.own.files


# -- what is committed


def test_nothing_to_say_makes_no_commit(transactor: Transactor, store: MemoryStore) -> None:
    """Reading, writing what is there and deleting what is not leave no commit, and create no space."""
    assert None is transactor.transact(["fleet"], lambda tx: tx.read("fleet", "a"))
    assert {} == store.heads()
    put(transactor, {"a": b"1"})
    before = store.heads()

    def idle(tx: Tx) -> str:
        tx.write("fleet", "a", b"1")
        tx.delete("fleet", "b")
        return "result"

    assert "result" == transactor.transact(["fleet"], idle)
    assert (before, 1) == (store.heads(), transactor.commits)


def test_events_alone_are_committed(transactor: Transactor, store: MemoryStore) -> None:
    """A transaction that only records an event makes a commit with it, in that space alone."""
    revision = transactor.transact(
        ["fleet", "locks"], lambda tx: tx.event("locks", "lock refused", lock="x", note=None) or tx.revision
    )
    assert ["locks"] == list(store.heads())
    [event] = map(json.loads, read_events(message(store, "locks")))
    assert {"at": START, "kind": "lock refused", "lock": "x"} == event
    assert "locks: lock refused x" == read_summary(message(store, "locks"))
    root = Snapshot(store, "locks", store.heads()["locks"]).read(ROOT_RECORD)
    assert {"revision": revision, "schema": SCHEMA, "space": "locks"} == json.loads(root or b"")


def test_only_changed_spaces_are_written(transactor: Transactor, store: MemoryStore) -> None:
    """A space that was only read keeps its head."""
    put(transactor, {"a": b"1"})
    before = store.heads()["fleet"]
    transactor.transact(["fleet", "locks"], lambda tx: tx.write("locks", "b", tx.read("fleet", "a") or b""))
    assert {"fleet", "locks"} == set(store.heads())
    assert before == store.heads()["fleet"]


def test_a_space_that_was_read_is_compared(runtime: ManualRuntime) -> None:
    """When a space that was only read moves in between, the transaction is decided again."""
    memory = MemoryStore(runtime.now)
    other = Transactor(memory, runtime)
    calls = 0

    def follow(tx: Tx) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            other.transact(["fleet"], increment)
        tx.write("locks", "copy", tx.read("fleet", "count") or b"none")

    Transactor(memory, runtime).transact(["fleet", "locks"], follow)
    assert 2 == calls
    assert b"1" == Snapshot(memory, "locks", memory.heads()["locks"]).read("copy")


def test_many_and_long_events(transactor: Transactor, store: MemoryStore) -> None:
    """A commit's message stays bounded: events beyond the limit are counted, a long one keeps its short fields."""

    def much(tx: Tx) -> None:
        tx.event("fleet", "long", task="t1", text="x" * 10 * MAX_EVENT)
        for _ in range(MAX_EVENTS + 9):
            tx.event("fleet", "many")

    transactor.transact(["fleet"], much)
    events = [json.loads(line) for line in read_events(message(store))]
    assert MAX_EVENTS + 1 == len(events)
    assert ("long", "t1", True) == (events[0]["kind"], events[0]["task"], events[0]["cut"])
    assert {"kind": "events left out", "count": 10} == events[-1]
    assert len(message(store)) < MAX_EVENTS * 60


def test_revisions_follow_the_hub_clock(transactor: Transactor, runtime: ManualRuntime) -> None:
    """A revision is the hub's time in milliseconds, or one more than the last when that is not past it."""

    def grant(tx: Tx) -> int:
        increment(tx)
        return tx.revision

    assert [1000 * int(START), 1000 * int(START) + 1] == [transactor.transact(["fleet"], grant) for _ in range(2)]
    runtime.advance(60)
    assert 1000 * int(START + 60) == transactor.transact(["fleet"], grant)
    runtime.jump_wall(-3600)
    assert 1000 * int(START + 60) + 1 == transactor.transact(["fleet"], grant)


# -- batches


class Picky(MemoryStore):
    """Refuses commits that touch a path containing ``refused``."""

    error: Exception

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        if any("refused" in path for change in changes.values() for path in change):
            raise self.error
        return super().commit(expected, changes, op)


@pytest.mark.parametrize("error", [TooLarge("too large"), Denied("denied")])
def test_a_refused_batch_is_split(error: Exception) -> None:
    """One transaction that the store refuses gets the error, and the others of its batch are committed."""
    runtime = SystemRuntime()
    store = Picky(runtime.now)
    store.error = error
    transactor = Transactor(store, runtime)

    def refused(tx: Tx) -> None:
        tx.write("fleet", "refused", b"")

    results = batch(transactor, [increment, increment, refused, increment, increment])
    assert [1, 2, error, 3, 4] == results
    assert 4 == value_of(store)
    assert transactor.commits <= 3


def test_batches_are_of_one_set_of_spaces(store: MemoryStore) -> None:
    """Waiting transactions over other spaces leave in a commit of their own."""
    transactor = Transactor(store, SystemRuntime())
    results: list[Any] = []

    def other() -> None:
        results.append(transactor.transact(["locks"], lambda tx: increment(tx, "locks")))

    def first(tx: Tx) -> int:
        thread = threading.Thread(target=other, daemon=True)
        if not results:
            results.append(thread)
            thread.start()
            while not queued(transactor):
                thread.join(0.001)
        return increment(tx)

    assert 1 == transactor.transact(["fleet"], first)
    results[0].join(10)
    assert (1, 2) == (results[1], transactor.commits)


def test_losing_until_the_deadline(runtime: ManualRuntime) -> None:
    """A transaction that always loses says so at its deadline, and has changed nothing."""
    memory = MemoryStore(runtime.now)
    rival = Transactor(memory, runtime)
    transactor = Transactor(memory, runtime)

    def beaten(tx: Tx) -> None:
        rival.transact(["fleet"], increment)
        runtime.advance(0.4)
        tx.write("fleet", "mine", b"")

    begin = runtime.monotonic()
    with pytest.raises(Unavailable, match="others were faster"):
        transactor.transact(["fleet"], beaten, timeout=5)
    assert 5 <= runtime.monotonic() - begin < 7
    assert None is Snapshot(memory, "fleet", memory.heads()["fleet"]).read("mine")


def test_silence_until_the_deadline(runtime: ManualRuntime) -> None:
    """Without any answer until the deadline the outcome is unknown, not failed."""
    faulty = FaultyStore(MemoryStore(runtime.now))
    faulty.fail_commits(*[CommitFault.REQUEST_LOST] * 1000)
    begin = runtime.monotonic()
    with pytest.raises(OutcomeUnknown, match="operation"):
        Transactor(faulty, runtime).transact(["fleet"], increment, timeout=10)
    assert 10 <= runtime.monotonic() - begin < 30
    assert faulty.requests < 100


def test_a_refusal_after_silence_is_not_believed(runtime: ManualRuntime) -> None:
    """Once a request went unanswered, a later refusal of its repetition leaves the outcome unknown."""
    faulty = FaultyStore(MemoryStore(runtime.now))
    faulty.fail_commits(CommitFault.DELAYED, CommitFault.UNAVAILABLE)
    with pytest.raises(OutcomeUnknown):
        Transactor(faulty, runtime).transact(["fleet"], increment)
    faulty.land_delayed()
    assert 1 == value_of(faulty)


def test_a_long_throttle_is_reported(runtime: ManualRuntime) -> None:
    """Throttling beyond the deadline is reported with its end; nothing has happened."""
    faulty = FaultyStore(MemoryStore(runtime.now))
    faulty.fail_commits(CommitFault.THROTTLED)
    with pytest.raises(Throttled) as caught:
        Transactor(faulty, runtime).transact(["fleet"], increment, timeout=1)
    assert START + 5 == caught.value.until
    assert 0 == value_of(faulty)


class Interrupting(SystemRuntime):
    """Its events raise ``KeyboardInterrupt`` in the thread named ``victim`` once ``strike`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.strike = threading.Event()

    def event(self) -> Any:
        return _InterruptingEvent(self.strike)


class _InterruptingEvent(threading.Event):
    def __init__(self, strike: threading.Event) -> None:
        super().__init__()
        self._strike = strike

    def wait(self, timeout: float | None = None) -> bool:
        if threading.current_thread().name == "victim":
            assert self._strike.wait(20)
            raise KeyboardInterrupt
        return super().wait(timeout)


@pytest.mark.parametrize("when", ["while waiting", "after it was given the lead"])
def test_an_interrupted_waiter_does_not_stall_the_queue(store: MemoryStore, when: str) -> None:
    """A waiting thread that is interrupted leaves the queue, and those behind it go on."""
    runtime = Interrupting()
    transactor = Transactor(store, runtime)
    interrupted: list[str] = []
    inside, go = threading.Event(), threading.Event()

    def hold(tx: Tx) -> int:
        inside.set()
        assert go.wait(20)
        return increment(tx)

    def victim() -> None:
        try:
            transactor.transact(["locks"], lambda tx: increment(tx, "locks"))
        except KeyboardInterrupt:
            interrupted.append("victim")

    def started(run: Callable[[], object], name: str) -> threading.Thread:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    threads = [started(lambda: transactor.transact(["fleet"], hold), "leader")]
    assert inside.wait(20)
    threads.append(started(victim, "victim"))
    while queued(transactor) < 1:
        threads[1].join(0.001)
    threads.append(started(lambda: transactor.transact(["memory/x"], lambda tx: increment(tx, "memory/x")), "behind"))
    while queued(transactor) < 2:
        threads[2].join(0.001)
    if when == "while waiting":
        runtime.strike.set()
        threads[1].join(20)
        go.set()
    else:
        go.set()
        threads[0].join(20)
        runtime.strike.set()
    for thread in threads:
        thread.join(20)
    assert ([False] * 3, ["victim"]) == ([thread.is_alive() for thread in threads], interrupted)
    assert (1, 0, 1) == tuple(value_of(store, space=space) for space in ("fleet", "locks", "memory/x"))
    assert 2 == transactor.transact(["fleet"], increment)


def test_an_interrupt_at_any_moment_leaves_nothing_behind(store: MemoryStore) -> None:
    """Wherever ``KeyboardInterrupt`` strikes in a call, the next call gets through."""
    strikes = 0
    for moment in range(1000):
        transactor = Transactor(store, SystemRuntime())
        left = moment

        def strike(frame: FrameType, what: str, argument: object) -> None:
            nonlocal left
            closing = frame.f_code.co_flags & CO_GENERATOR  # what strikes there is not passed on
            if frame.f_code.co_filename.startswith(str(PACKAGE)) and not closing:
                left -= 1
                if left == -1:
                    raise KeyboardInterrupt

        before = sys.gettrace()
        sys.settrace(strike)
        try:
            transactor.transact(["fleet"], increment)
        except KeyboardInterrupt:
            strikes += 1
        finally:
            sys.settrace(before)
        after = threading.Thread(target=transactor.transact, args=(["fleet"], increment), daemon=True)
        after.start()
        after.join(20)
        assert not after.is_alive(), f"the call after an interrupt at {moment} waits for ever"
        if left >= 0:
            break
    assert strikes > 50


def test_an_interrupted_leader_frees_the_others(store: MemoryStore) -> None:
    """When the leading thread is interrupted in its commit, those that wait go on."""
    inside, go = threading.Event(), threading.Event()

    class Interrupted(FaultyStore):
        armed = False

        def commit(self, expected: Any, changes: Any, op: Any) -> dict[str, Oid]:
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt
            return super().commit(expected, changes, op)

    faulty = Interrupted(store)
    transactor = Transactor(faulty, SystemRuntime())
    outcomes: dict[str, object] = {}

    def call(name: str, run: Callable[[Tx], Any]) -> None:
        try:
            outcomes[name] = transactor.transact(["fleet"], run)
        except BaseException as error:
            outcomes[name] = type(error)

    def hold(tx: Tx) -> int:
        inside.set()
        assert go.wait(20)
        return increment(tx)

    threads = [threading.Thread(target=call, args=("first", hold), daemon=True)]
    threads[0].start()
    assert inside.wait(20)
    for name in ("second", "third"):
        threads.append(threading.Thread(target=call, args=(name, increment), daemon=True))
        threads[-1].start()
    while queued(transactor) < 2:
        threads[1].join(0.001)
    faulty.armed = True
    go.set()
    for thread in threads:
        thread.join(20)
    assert {"first": KeyboardInterrupt, "second": 1, "third": 2} == outcomes or {
        "first": KeyboardInterrupt,
        "second": 2,
        "third": 1,
    } == outcomes
    in_threads(lambda: call("after", increment))
    assert 3 == outcomes["after"]
