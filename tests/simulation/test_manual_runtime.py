"""The manual runtime: time moves only when the test moves it, for every thread."""

from __future__ import annotations

import time

import pytest

from ghcoord.testing import clock
from ghcoord.testing.clock import START, ManualRuntime


def test_time_moves_by_hand() -> None:
    """Sleeping and advancing move both clocks; the wall clock can be set apart; the seed gives the randomness."""
    runtime = ManualRuntime(seed=1)
    begin = runtime.monotonic()
    runtime.sleep(5)
    runtime.advance(2.5)
    runtime.jump_wall(-3600)
    assert (7.5, START + 7.5 - 3600) == (runtime.monotonic() - begin, runtime.now())
    assert ManualRuntime(seed=1).randbits(100) == runtime.randbits(100)


def test_waiting_in_the_test_moves_time() -> None:
    """In the test's own thread a wait with a timeout advances at most that far."""
    runtime = ManualRuntime()
    event = runtime.event()
    assert not event.wait(3)
    assert START + 3 == runtime.now()
    event.set()
    assert event.wait(3)
    assert START + 3 == runtime.now()


def test_a_spawned_thread_lives_in_manual_time() -> None:
    """A spawned thread runs at every moment it waits for while time advances over it, and never in between."""
    runtime = ManualRuntime()
    stop, ticks = runtime.event(), []

    def tick() -> None:
        while not stop.wait(10):
            ticks.append(runtime.now() - START)

    thread = runtime.spawn(tick, "ticker")
    runtime.advance(9)
    assert [] == ticks
    runtime.advance(26)
    assert [10, 20, 30] == ticks
    started = time.monotonic()
    runtime.advance(10_000)
    assert 1003 == len(ticks)
    assert time.monotonic() - started < 5
    stop.set()
    thread.join()
    assert (False, []) == (thread.is_alive(), runtime.failures)


def test_waiting_for_a_thread_advances_to_it() -> None:
    """The test's wait for an event ends when a spawned thread sets it, at that moment of manual time."""
    runtime = ManualRuntime()
    event = runtime.event()

    def later() -> None:
        runtime.sleep(7)
        event.set()

    runtime.spawn(later, "later")
    assert event.wait(60)
    assert START + 7 == runtime.now()


def test_failures_and_hangs_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a spawned thread raises is kept, and a wait that nothing can end is an error."""
    runtime = ManualRuntime()
    runtime.spawn(lambda: [][0], "bad").join()
    assert [IndexError] == [type(error) for error in runtime.failures]
    monkeypatch.setattr(clock, "STUCK_LIMIT", 0.05)
    with pytest.raises(RuntimeError, match="waited"):
        runtime.event().wait()
