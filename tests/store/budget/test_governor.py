"""The governor: no request leaves before its turn."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path

import pytest

from ghcoord.config import BudgetSettings
from ghcoord.errors import Throttled
from ghcoord.store.budget.base import Kind
from ghcoord.store.budget.governor import Governor
from ghcoord.store.budget.limits import Limits
from ghcoord.testing.clock import ManualRuntime

ACCOUNT = "github.com/mona"
KINDS: tuple[Kind, ...] = ("poll", "read", "write", "push")


class World:
    """A governor on a manual clock, and what it said."""

    def __init__(self, limits: Limits | None = None, *, patience: float = 900.0, account: str = ACCOUNT) -> None:
        self.runtime = ManualRuntime()
        self.told: list[tuple[float, str]] = []
        self.governor = Governor(
            account,
            self.runtime,
            Limits.github() if limits is None else limits,
            settings=BudgetSettings(patience=patience),
            on_wait=lambda until, why: self.told.append((round(until - self.runtime.now(), 3), why)),
        )

    def waits(self, kind: Kind = "write") -> float:
        """Seconds that a request had to wait."""
        began = self.runtime.monotonic()
        self.governor.admit(kind)
        return round(self.runtime.monotonic() - began, 3)

    def headers(self, left: int, reset_in: float, *, ahead: float = 0.0, limit: int = 5000) -> dict[str, str]:
        """An answer's headers of a server whose clock is ``ahead``."""
        now = self.runtime.now() + ahead
        return {
            "date": formatdate(now, usegmt=True),
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(left),
            "x-ratelimit-reset": str(int(now + reset_in)),
        }


def test_a_second_lies_between_writes() -> None:
    """The first leaves at once, each other a second after the one before; nobody is told of that."""
    world = World()
    assert [0.0, 1.0, 1.0] == [world.waits() for _ in range(3)]
    world.runtime.advance(0.4)
    assert 0.6 == round(world.governor.write_ready_in(), 3)
    world.governor.await_write()
    assert 0.0 == world.governor.write_ready_in()
    assert 0.0 == world.waits()
    assert [] == world.told


def test_polls_and_readings_do_not_wait_for_writes() -> None:
    """The gap and the writes' limits hold for writes alone."""
    world = World()
    world.governor.admit("write")
    assert [0.0] * 3 == [world.waits(kind) for kind in ("poll", "read", "poll")]


def test_fewer_than_the_limit_in_any_minute_and_hour() -> None:
    """Whoever writes as fast as is let stays below both, and is told what he waits for."""
    world = World(Limits(write_gap=0.0), patience=4000.0)
    times = []
    for _ in range(700):
        world.governor.admit("write")
        times.append(world.runtime.monotonic())
    for limit, window in ((80, 60.0), (500, 3600.0)):
        assert all(late - early >= window for early, late in zip(times, times[limit - 1 :], strict=False))
    assert {
        "the 80 writes a minute that github.com allows are used up",
        "the 500 writes an hour that github.com allows are used up",
    } == {why for _, why in world.told}


def test_pushes() -> None:
    """Six pushes a minute at GitHub, any number elsewhere."""
    world = World(Limits.git_host("github.com"), account="git:github.com")
    assert [0.0] * 6 + [60.0] == [world.waits("push") for _ in range(7)]
    assert [(60.0, "github.com allows 6 pushes a minute")] == world.told
    assert 0.0 < world.governor.pace().write_every
    free = World(Limits.git_host("git.example.org"))
    assert [0.0] * 100 == [free.waits("push") for _ in range(100)]
    assert () == free.governor.report().usage


def test_points_a_minute() -> None:
    """Readings count 1, writes 5; a rush of readings waits until the minute is over."""
    world = World(Limits(write_gap=0.0))
    for _ in range(10):
        world.governor.admit("write")
    while not (waited := world.waits("read")):
        pass
    assert 61.0 >= waited >= 59.0
    assert "900 points" in world.told[0][1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [403, 429, 200])
def test_retry_after_is_obeyed_to_the_second(kind: Kind, status: int) -> None:
    """Nothing at all leaves before it has passed, also no poll, and everything does then."""
    world = World()
    world.governor.note(status, {"retry-after": "60"})
    assert 60.0 == world.waits(kind)
    assert [(60.0, "github.com asked for a pause of 1m00s")] == world.told
    assert 0.0 == world.waits("poll")


def test_retry_after_may_be_a_date() -> None:
    """It is the server's, whose clock may be wrong."""
    world = World()
    now = world.runtime.now() + 5000
    world.governor.note(403, {"retry-after": formatdate(now + 30, usegmt=True), "date": formatdate(now, usegmt=True)})
    assert 30.0 <= world.waits() <= 31.0


@pytest.mark.parametrize("text", ["", "soon", "-5", "1e9", "٣", "9" * 5000])
def test_strange_headers(text: str) -> None:
    """What is no number of seconds is no block, and none is for longer than a day."""
    world = World(patience=1e9)
    world.governor.note(200, {"retry-after": text, "x-ratelimit-limit": text, "x-ratelimit-remaining": text})
    assert world.waits() <= 86_400


def test_an_absurd_pause_is_one_of_a_day() -> None:
    """As the transport tells it: the headers, then until when that would be. No block at all would be worse."""
    world = World(patience=1e9)
    world.governor.note(429, {"retry-after": "999999999"})
    world.governor.block(world.runtime.now() + 999_999_999, "the server said so")
    assert 86_000 <= world.waits() <= 86_400


@pytest.mark.parametrize("name", ["limit", "remaining", "reset"])
@pytest.mark.parametrize("digits", [30, 400, 4000])
def test_absurd_counts(name: str, digits: int) -> None:
    """Numbers beyond all that can be are no reason to fail."""
    world = World()
    headers = {**world.headers(5, 100), f"x-ratelimit-{name}": "1" * digits}
    if name == "remaining":
        headers["x-ratelimit-limit"] = "1" * digits
    world.governor.note(200, headers)
    assert 0.0 == world.waits("read")
    assert world.governor.pace().poll_every < 3600
    world.governor.report()


def test_a_block_holds_for_everything() -> None:
    """As :meth:`block` says, until that very moment; a shorter one does not end it."""
    world = World()
    world.governor.block(world.runtime.now() + 10, "because")
    world.governor.block(world.runtime.now() + 5, "not that")
    assert 10.0 == world.waits("poll")
    assert [(10.0, "because")] == world.told


def test_a_longer_block_during_a_wait_is_waited_for_and_told() -> None:
    """Another process of the machine is told of more, while this one waits."""
    world = World()
    world.governor.block(world.runtime.now() + 20, "first")
    world.runtime.spawn(
        lambda: (world.runtime.sleep(7), world.governor.block(world.runtime.now() + 60, "more"))[0], "x"
    )
    world.runtime.settle()
    assert 67.0 == world.waits("poll")
    assert ["first", "more"] == [why for _, why in world.told]


def test_refusals_without_a_time_are_waited_for_longer_each_time() -> None:
    """A minute, then twice as long each, a quarter of an hour at most; several answers at once are one refusal."""
    world = World()
    waits = []
    for _ in range(6):
        for _ in range(3):
            world.governor.note(429, {})
            world.governor.block(world.runtime.now() + 60, "the secondary limit was hit")
        waits.append(world.waits("poll"))
    assert [60.0, 120.0, 240.0, 480.0, 900.0, 900.0] == waits
    world.runtime.advance(3600)
    world.governor.note(403, {})
    world.governor.block(world.runtime.now() + 60, "the secondary limit was hit")
    assert 60.0 == world.waits("poll")


def test_a_primary_limit_is_waited_for_by_the_servers_clock() -> None:
    """Used up: until its reset, however wrong this machine's clock is; polls do not wait for GraphQL."""
    world = World()
    world.governor.note(200, world.headers(0, 300, ahead=-100_000), resource="graphql")
    assert 0.0 == world.waits("poll")
    assert 300.0 <= world.waits("read") <= 302.0
    assert "the 5,000 GraphQL points an hour that github.com allows are used up" == world.told[0][1]
    assert 0.0 == world.waits("write")


def test_older_answers_do_not_give_back_what_is_used() -> None:
    """Answers overtake each other: the least that was told in the window counts."""
    world = World()
    for left in (10, 0, 8):
        world.governor.note(200, world.headers(left, 300))
    assert 299.0 <= world.waits("poll") <= 302.0
    world.governor.note(200, world.headers(4999, 3600))
    assert 0.0 == world.waits("poll")


def test_patience() -> None:
    """A wait that is longer is refused at once, saying what, for how long, and what to do."""
    world = World(patience=100.0)
    world.governor.note(403, {"retry-after": "250"})
    with pytest.raises(Throttled) as refused:
        world.governor.admit("poll")
    said = "github.com asked for a pause of 4m10s, for another 4m10s: try again then, or set budget.patience"
    assert refused.value.message.startswith(said)
    assert 250.0 == round(refused.value.until - world.runtime.now(), 3)
    assert [] == world.told
    with pytest.raises(Throttled):
        world.governor.await_write()


def test_no_patience_still_waits_for_the_gap() -> None:
    """A second between two writes is no limit that was hit."""
    world = World(patience=0.0)
    assert [0.0, 1.0] == [world.waits(), world.waits()]


def test_a_server_of_ones_own_without_limits_has_none() -> None:
    """GitHub Enterprise Server tells of no limits unless they are on: then nothing waits, until it refuses."""
    world = World(account="git.example.org/mona")
    world.governor.note(200, {"date": "x"})
    assert [0.0] * 3 == [world.waits() for _ in range(3)]
    assert 0.0 == world.governor.pace().write_every
    world.governor.note(403, {"retry-after": "10"})
    assert [10.0, 1.0] == [world.waits(), world.waits()]
    github = World()
    github.governor.note(200, {"date": "x"})
    assert [0.0, 1.0] == [github.waits(), github.waits()]


def test_the_pace_follows_workers_and_use() -> None:
    """Workers told, here or elsewhere, and a process that told nothing goes by what others told."""
    world = World()
    assert 60.0 == world.governor.pace().lease_ttl
    world.governor.share(40)
    assert (40, 1800.0, 60.0) == (
        (pace := world.governor.pace()).workers,
        pace.lease_ttl,
        pace.poll_every,
    )
    world.governor.share(0)
    assert 1 == world.governor.pace().workers
    world.governor.share(7, here=False)
    assert 7 == world.governor.pace().workers


def test_the_report() -> None:
    """What is used of each limit, when it is whole again, and the present rate."""
    world = World()
    for _ in range(5):
        world.governor.admit("write")
    world.governor.note(200, world.headers(4900, 1800))
    world.governor.block(world.runtime.now() + 30, "because")
    report = world.governor.report()
    now = world.runtime.now()
    found = {one.name: one for one in report.usage}
    assert ["writes a minute", "writes an hour", "requests an hour"] == list(found)
    assert (5, 500, 250, 3600.0, "counted") == (
        (hour := found["writes an hour"]).used,
        hour.limit,
        hour.planned,
        hour.window,
        hour.source,
    )
    assert 3600.0 == round((hour.resets_at or 0) - now, 2)
    assert (100, 5000, "server") == (
        (core := found["requests an hour"]).used,
        core.limit,
        core.source,
    )
    assert 1799.0 <= (core.resets_at or 0) - now <= 1801.0
    assert (30.0, "because", 30.0) == (report.forecast, report.why, round((report.blocked_until or 0) - now, 3))
    world.runtime.advance(3700)
    later = world.governor.report()
    assert (None, "", [0, 0]) == (later.blocked_until, later.why, [one.used for one in later.usage])


def test_the_account_is_found_out_later(tmp_path: Path) -> None:
    """What was counted for a token moves to its account, once, and is added to what was there."""
    runtime = ManualRuntime()

    def governor(account: str, name: str) -> Governor:
        return Governor(account, runtime, Limits.github(), file=tmp_path / name)

    first = governor("github.com/token-1", "one.json")
    first.admit("write")
    first.rename(ACCOUNT)
    runtime.advance(1)
    second = governor("github.com/token-2", "two.json")
    second.admit("write")
    second.rename(ACCOUNT)
    again = governor("github.com/token-2", "two.json")
    again.rename(ACCOUNT)
    assert ACCOUNT == again.account
    for one in (first, second, again):
        assert 2 == one.report().usage[0].used
