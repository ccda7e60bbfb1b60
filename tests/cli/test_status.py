"""``ghcoord status``: what is gathered, how it is drawn in little and in much room, and the view that stays open."""

from __future__ import annotations

import html
import io
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from ghcoord.bootstrap import connect, open_hub
from ghcoord.config import Settings
from ghcoord.coord.audit.events import Event
from ghcoord.errors import Unavailable
from ghcoord.faces.columns import Column, fit, fit_token, keep_end, lines, share
from ghcoord.faces.dashboard import STATES, Dashboard
from ghcoord.faces.live import Watch
from ghcoord.faces.overview import NOBODY, as_of, gather, recovery
from ghcoord.faces.phrases import phrase, together
from ghcoord.faces.views import in_use
from ghcoord.hub import Hub
from ghcoord.store.inmemory import MemoryStore
from ghcoord.testing.clock import ManualRuntime
from tests.cli import make_status_svg
from tests.cli.running import Cli, command, environment
from tests.cli.terminal import Terminal

KEYS = {"hub", "at", "revision", "revisions", "workers", "queue", "locks", "events", "recovery"}
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@pytest.fixture
def runtime() -> ManualRuntime:
    return ManualRuntime()


@pytest.fixture
def memory_hub(runtime: ManualRuntime) -> Iterator[Hub]:
    """A hub in memory whose clock stands still."""
    with open_hub(MemoryStore(runtime.now), runtime, Settings()) as hub:
        yield hub


def worker(name: str, **changes: Any) -> dict[str, Any]:
    """A worker as :func:`recovery` looks at it."""
    about = {"id": name, "status": "active", "silent": False, "ttl": 15.0, "lease_left": 10.0}
    return {**about, "capacity": {"active_tasks": 2, "max_tasks": 4}, **changes}


def drawn(view: dict[str, Any], width: int = 80, height: int = 24, **more: Any) -> list[str]:
    """The lines on a terminal of that size."""
    console = Console(record=True, width=width, height=height, file=io.StringIO(), force_terminal=True)
    console.print(Dashboard(view, height=height, **more))
    return console.export_text().splitlines()


def crowd(hub: Hub, workers: int, locks: int) -> None:
    """Many workers and locks with names that are too long, wide, or both."""
    for number in range(workers):
        hub.workers.register(f"{'worker-with-a-long-name' * 4}-{number}", capacity=number % 7, hostname="h" * 200)
    hub.tasks.submit("echo", {"message": "x"}, id="t" * 120)
    hub.runtime.sleep(1)
    for number in range(locks):
        hub.locks.acquire(f"{'部署' * 100}{number}", owner="o" * 250)


# -- what is gathered


def test_json_has_the_documented_keys(hub: Path, cli: Cli) -> None:
    """Scripts find workers, queue, locks, events and recovery under stable names."""
    with connect(hub) as opened:
        opened.workers.register("w1", capacity=3, ttl=60)
        lock = opened.locks.acquire("deploy", "ann")
        opened.tasks.submit("echo", {"message": "x"})
        revision = max(opened.revision("fleet"), opened.revision("locks"))
    assert lock is not None
    run = cli("status", "--json")
    assert 0 == run.code
    view = run.json
    assert set(view) == KEYS
    assert str(hub) == view["hub"]["url"]
    assert revision == view["revision"]
    assert ("w1", 3, False) == tuple(
        view["workers"][0][key] if key != "slots" else view["workers"][0]["capacity"]["max_tasks"]
        for key in ("id", "slots", "silent")
    )
    assert 0 <= view["workers"][0]["heartbeat_age"] <= 60 - view["workers"][0]["lease_left"] + 0.01
    assert {"queued": 1} == {state: count for state, count in view["queue"].items() if count}
    assert set(STATES) == set(view["queue"])
    assert ("deploy", "ann", lock.token) == tuple(view["locks"][0][key] for key in ("name", "owner", "token"))
    assert 0 < view["locks"][0]["lease_left"] <= 300
    assert {"lock acquired", "worker registered", "task submitted"} == {event["kind"] for event in view["events"]}
    assert {"seconds", "why", "pending"} == set(view["recovery"])


def test_ages_follow_the_clock(memory_hub: Hub, runtime: ManualRuntime) -> None:
    """What was gathered once can be shown later with the right ages, without reading again."""
    memory_hub.workers.register("w1", ttl=15)
    memory_hub.locks.acquire("deploy", "ann", ttl=60)
    view = gather(memory_hub)
    later = as_of(view, memory_hub.now() + timedelta(seconds=20))
    assert (20.0, -5.0, True) == tuple(later["workers"][0][key] for key in ("heartbeat_age", "lease_left", "silent"))
    assert 40.0 == later["locks"][0]["lease_left"]
    assert {20.0} == {event["age"] for event in later["events"]}
    runtime.advance(20)
    assert later == gather(memory_hub)


# -- recovery


def test_recovery_is_for_the_slowest_worker_and_says_why() -> None:
    """Lease, margin and two looks of the quickest other worker add up; the longest lease counts."""
    found = recovery([worker("a"), worker("b", ttl=90.0)], 2.0, 1.0)
    assert 90 + 2 + 2 * (1.0 + 1.0) == found["seconds"]
    assert "within 1m36s: lease 1m30s + margin 2 s + up to 4 s until another worker looks" in found["why"]


def test_a_lone_worker_has_nobody_to_notice_its_death() -> None:
    """No time is promised when the only live worker is the one that would die."""
    found = recovery([worker("a"), worker("b", status="offline")], 2.0, 1.0)
    assert found["seconds"] is None
    assert "nobody would notice the death of a" in found["why"]


def test_without_workers_nobody_notices() -> None:
    """An empty fleet says what to do."""
    assert {"seconds": None, "why": NOBODY, "pending": []} == recovery([], 2.0, 1.0)


def test_a_silent_worker_is_pending() -> None:
    """A lease that is over shows when its tasks come back: margin and two looks after its end."""
    found = recovery([worker("a", ttl=3.0), worker("dead", silent=True, lease_left=-1.0)], 2.0, 0.2)
    assert [{"worker": "dead", "tasks": 2, "seconds": 2.4}] == found["pending"]
    assert [{"worker": "dead", "tasks": 2, "seconds": None}] == recovery(
        [worker("dead", silent=True, lease_left=-1.0)], 2.0, 0.2
    )["pending"]


# -- the screen


def test_all_parts_are_on_a_small_screen(memory_hub: Hub) -> None:
    """80 by 24 shows every part of a busy hub, whatever the length of names, and tokens whole."""
    crowd(memory_hub, 30, 20)
    screen = drawn(gather(memory_hub))
    assert 24 >= len(screen)
    assert 80 >= max(map(cell_len, screen))
    for part in ("ghcoord memory:", f"hub {memory_hub.id}", "Workers 30 alive", "Queue", "queued 1", "Locks 20"):
        assert any(part in line for line in screen), part
    for part in ("Recent events", "Recovery", "more"):
        assert any(part in line for line in screen), part
    tokens = {str(lock.token) for lock in memory_hub.locks.list()}
    assert 2 <= sum(any(token in line.split() for token in tokens) for line in screen)
    assert any(line.endswith(f", token {token}") for line in screen for token in tokens)


@pytest.mark.parametrize("width", [40, 60, 80, 81, 133, 250])
@pytest.mark.parametrize("height", [12, 18, 24, 60])
def test_it_fits_every_size(memory_hub: Hub, width: int, height: int) -> None:
    """No size of terminal makes a line too long or the screen too high."""
    crowd(memory_hub, 9, 5)
    screen = drawn(gather(memory_hub), width, height, trouble="the hub has not answered for 5s " * 20)
    assert height >= len(screen)
    assert width >= max(map(cell_len, screen))


def test_more_room_shows_more(memory_hub: Hub) -> None:
    """A higher screen has more rows, a wider one more columns."""
    for number in range(20):
        memory_hub.workers.register(f"w{number:02}", hostname="the-host")
    view = gather(memory_hub)
    small, high, wide = drawn(view), drawn(view, height=60), drawn(view, width=160)
    assert not any(line.startswith("w19 ") for line in small)
    assert any(line.startswith("w19 ") for line in high)
    assert not any("the-host" in line for line in small)
    assert any("the-host" in line for line in wide)


def test_hostile_texts_are_harmless(memory_hub: Hub) -> None:
    """Control characters and markup in records reach the terminal as visible text only."""
    memory_hub.workers.register("w1")
    memory_hub.locks.acquire("deploy", "ann")
    hostile = "\x1b[2J\x07\u202e[red]x\n\ty"
    text = json.dumps(gather(memory_hub))
    for name in ("w1", "deploy", "ann"):
        text = text.replace(f'"{name}"', json.dumps(hostile))
    view = json.loads(text)
    view["hub"]["url"] = hostile
    view["workers"][0].update(status=hostile, hostname=hostile, sandbox={"driver": hostile, "tier": hostile})
    screen = drawn(view, width=200, trouble=hostile)
    assert not any(CONTROL.search(line) for line in screen)
    assert any("\\x1b[2J" in line and "[red]" in line for line in screen)


def test_an_empty_hub_says_what_to_do(hub: Path, cli: Cli) -> None:
    """The first look at a new hub explains itself."""
    run = cli("status")
    assert 0 == run.code
    assert "ghcoord worker start" in run.out
    assert "none is held" in run.out
    assert NOBODY[:40] in run.out


def test_without_a_terminal_nothing_is_left_out(hub: Path, cli: Cli) -> None:
    """Output into a file lists every worker in 80 columns, with no escape codes."""
    with connect(hub) as opened:
        for number in range(40):
            opened.workers.register(f"w{number:02}")
    run = cli("status")
    assert all(f"w{number:02} " in run.out for number in range(40))
    assert "\x1b" not in run.out
    assert 80 >= max(map(cell_len, run.out.splitlines()))


def test_rare_states_are_named_when_there_are_tasks_in_them(memory_hub: Hub) -> None:
    """Scheduled and blocked tasks show in the queue and its bar; where there are none nothing speaks of them."""
    view = gather(memory_hub)
    assert not any("scheduled" in line or "blocked" in line for line in drawn(view))
    view["queue"].update(scheduled=3, queued=1)
    screen = drawn(view)
    assert any("scheduled 3" in line and "queued 1" in line for line in screen)
    assert any(line == "█" * 80 for line in screen)


def test_a_terminal_without_unicode_gets_bars(memory_hub: Hub) -> None:
    """An ASCII terminal is sent ASCII."""
    memory_hub.workers.register("w1", capacity=2)
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=80, force_terminal=True)
    console.print(Dashboard(gather(memory_hub)))
    console.file.flush()
    assert "........ 0/2" in re.sub(r"\x1b\[[0-9;]*m", "", raw.getvalue().decode("ascii"))


def test_columns_keep_what_must_be_whole() -> None:
    """Room is taken from what may be cut, and what is extra goes first."""
    columns = [
        Column("Name", ["n" * 50], cut=True),
        Column("Token", ["1234567890123"]),
        Column("Host", ["h" * 30], extra=True),
    ]
    assert [f"{'Name':<25}  Token", "n" * 24 + "…  1234567890123"] == [line.plain for line in lines(columns, 40)]
    assert "h" * 30 in lines(columns, 100)[1].plain


@pytest.mark.parametrize(
    ("room", "wanted", "given"),
    [(10, [2, 3, 99], [2, 3, 5]), (9, [50, 50, 50], [3, 3, 3]), (4, [9, 1, 9], [2, 1, 1]), (20, [1, 1, 1], [1, 1, 1])],
)
def test_rows_are_shared(room: int, wanted: list[int], given: list[int]) -> None:
    """Small lists are whole, large ones get the same, and nobody gets more than it wants."""
    assert given == share(room, wanted, last=2)


def test_fitting_counts_cells() -> None:
    """Wide characters take two cells, and a path loses its beginning."""
    assert ("日本 …", "  x", "…b.git") == (fit("日本語です", 6), fit("x", 3, right=True), keep_end("/srv/hub.git", 6))


# -- events in words


def test_events_are_said_in_words() -> None:
    """Known kinds read as sentences, unknown ones still show everything."""
    assert "w1 took task t1, attempt 2" == phrase("task leased", {"task": "t1", "worker": "w1", "attempt": 2})
    assert "task t on w failed" not in phrase("task dead", {"task": "t", "worker": "w", "error": "boom"})
    assert phrase("task dead", {"task": "t", "worker": "w", "error": "boom"}).endswith("for good: boom")
    assert "odd thing, a 1, b {x}" == phrase("odd thing", {"a": 1, "b": "{x}"})
    assert "? joined" == phrase("worker registered", {})
    assert "de… locked by an…, token 1795244054406" == phrase(
        "lock acquired", {"token": 1795244054406, "owner": "anna", "lock": "deploy"}, longest=3
    )


def test_a_narrow_line_keeps_name_and_token() -> None:
    """What has no room is taken from between the lock's name and its token."""
    line = "deploy locked by ann, token 1795244054406"
    assert "deploy locke…, token 1795244054406" == fit_token(line, 34)
    assert line == fit_token(line, 60).rstrip()
    assert "deploy locked …" == fit_token(line, 15)
    assert "w1 joined, tok…" == fit_token("w1 joined, token of old", 15)


def test_tasks_leased_ahead_are_told_apart(memory_hub: Hub) -> None:
    """More tasks than slots show as the slots in use and how many are held beyond them."""
    assert ("2/3", "3/3", "3/3 +2") == tuple(in_use(tasks, 3) for tasks in (2, 3, 5))
    memory_hub.workers.register("w1", capacity=3)
    view = gather(memory_hub)
    view["workers"][0]["capacity"]["active_tasks"] = 5
    assert any("█ 3/3 +2  " in line for line in drawn(view))


def test_every_event_that_happens_has_words(memory_hub: Hub) -> None:
    """What the hub does in ordinary use is never shown as a bare kind with fields."""
    hub = memory_hub
    hub.workers.register("w1")
    hub.workers.drain("w1")
    hub.tasks.submit("echo", {"message": "x"}, id="t1")
    hub.tasks.cancel("t1")
    hub.tasks.retry("t1")
    hub.locks.acquire("deploy", "ann")
    hub.locks.force_unlock("deploy")
    hub.workers.deregister("w1")
    bare = [event for event in gather(hub)["events"] if event["text"].startswith(event["kind"] + ",")]
    assert [] == bare


def test_one_commit_of_one_worker_is_one_line() -> None:
    """Twenty leases of a tick do not push everything else out of sight."""
    events: list[dict[str, Any]] = [
        {"at": at, "kind": kind, "fields": {"worker": who, "task": f"t{number}", "attempt": 1}}
        for number, (at, kind, who) in enumerate(
            [("2", "task leased", "a"), ("2", "task leased", "a"), ("2", "task leased", "b"), ("1", "task leased", "b")]
        )
    ]
    expected = [("2", "a took 2 tasks"), ("2", "b took task t2, attempt 1"), ("1", "b took task t3, attempt 1")]
    assert expected == together(events)


# -- the view that stays open


def test_watch_survives_a_hub_that_is_away(
    memory_hub: Hub, runtime: ManualRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the store is shown with the age of what is seen, and gone when the hub is back."""
    memory_hub.workers.register("w1")
    with Watch(memory_hub, 1.0) as watch:
        runtime.advance(5)
        assert "" == watch.now()[1]
        with monkeypatch.context() as patch:
            patch.setattr(memory_hub, "heads", lambda: (_ for _ in ()).throw(Unavailable("the disk is away")))
            runtime.advance(7)
            view, trouble = watch.now()
            assert "what you see is 7s old: the disk is away" == trouble
            assert "w1" == view["workers"][0]["id"]
            assert any(trouble in line for line in drawn(view, trouble=trouble))
        memory_hub.workers.register("w2")
        runtime.advance(2)
        view, trouble = watch.now()
        assert ("", ["w1", "w2"]) == (trouble, [found["id"] for found in view["workers"]])


def test_watch_reads_records_only_when_heads_change(
    memory_hub: Hub, runtime: ManualRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle hub costs one look at its heads an interval."""
    reads: list[int] = []
    events = memory_hub.events

    def counted(limit: int = 20, *, task: str | None = None) -> list[Event]:
        reads.append(limit)
        return events(limit, task=task)

    monkeypatch.setattr(memory_hub, "events", counted)
    with Watch(memory_hub, 1.0) as watch:
        runtime.advance(10)
        assert 1 == len(reads)
        memory_hub.locks.acquire("deploy", "ann")
        runtime.advance(3)
        assert 2 == len(reads)
        assert ["deploy"] == [lock["name"] for lock in watch.now()[0]["locks"]]


def test_watch_does_not_hide_a_bug(memory_hub: Hub, runtime: ManualRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is no error of the hub ends the view rather than freezing it."""
    with Watch(memory_hub, 1.0) as watch:
        monkeypatch.setattr(memory_hub, "heads", lambda: 1 / 0)
        runtime.advance(3)
        with pytest.raises(ZeroDivisionError):
            watch.now()


def test_watch_on_a_terminal(hub: Path) -> None:
    """It draws in place on the alternate screen, follows a change, and Ctrl-C leaves cleanly with exit code 0."""
    with Terminal("status", "--watch", "--interval", "0.2s") as terminal:
        terminal.wait_for("Recovery")
        with connect(hub) as opened:
            opened.locks.acquire("brand-new-lock", "ann")
        terminal.wait_for("brand-new-lock")
        terminal.type("\x03")
        assert 0 == terminal.end()
    assert terminal.seen.startswith("\x1b[?1049h")
    assert "\x1b[?1049l" in terminal.seen
    assert "\x1b[?25h" in terminal.seen.rpartition("\x1b[?25l")[2]
    assert "\x1b[2J" not in terminal.seen
    assert "Traceback" not in terminal.seen


@pytest.mark.slow
def test_watch_is_cheap(hub: Path) -> None:
    """Left open on an idle hub of 50 workers it uses less than 2 % of a core."""
    with connect(hub) as opened:
        for number in range(50):
            opened.workers.register(f"w{number}")
    with Terminal("status", "--watch") as terminal:
        terminal.wait_for("Recovery")
        terminal.read(2.0)
        before = terminal.cpu_seconds()
        for _ in range(100):
            terminal.read(0.1)
        assert terminal.cpu_seconds() - before < 0.2
        terminal.process.send_signal(signal.SIGTERM)
        assert 0 == terminal.end()


@pytest.mark.parametrize("as_json", [False, True])
def test_watch_into_a_pipe(hub: Path, as_json: bool) -> None:
    """Without a terminal each change is printed once, as text between rules or as a line of JSON."""
    args = ["status", "--watch", "--interval", "0.1", *(["--json"] if as_json else [])]
    process = subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        with connect(hub) as opened:
            opened.locks.acquire("brand-new-lock", "ann")
        found = first
        while "brand-new-lock" not in found:
            found += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (0, "") == (process.returncode, errors)
    if as_json:
        views = [json.loads(line) for line in (found + rest).splitlines()]
        assert [[], ["brand-new-lock"]] == [[lock["name"] for lock in view["locks"]] for view in views]
    else:
        assert 1 == (found + rest).splitlines().count("-" * 79)
        assert "\x1b" not in found + rest


def test_watch_on_a_terminal_that_cannot_redraw(hub: Path) -> None:
    """A dumb terminal gets plain snapshots."""
    with Terminal("status", "--watch", extra={"TERM": "dumb"}) as terminal:
        terminal.wait_for("Recovery")
        terminal.type("\x03")
        assert 0 == terminal.end()
    assert "\x1b" not in terminal.seen


def test_interval_needs_watch(hub: Path, cli: Cli) -> None:
    """An option that would do nothing is refused."""
    run = cli("status", "--interval", "2s")
    assert (2, "--interval goes with --watch: add --watch") == (run.code, run.error)


def test_interval_has_a_least_value(hub: Path, cli: Cli) -> None:
    """A view that never rests is refused."""
    assert 2 == cli("status", "--watch", "--interval", "0").code


def test_no_hub(tmp_path: Path, cli: Cli) -> None:
    """A path without a hub is one clear line, with --watch too."""
    for extra in ([], ["--watch"]):
        run = cli("status", "--hub", tmp_path / "none.git", *extra)
        assert 3 == run.code
        assert "ghcoord init" in run.error


# -- the picture in the README


def test_the_picture_is_what_a_terminal_shows() -> None:
    """``docs/images/status.svg`` is ``status --watch`` at 80×24: else run ``python -m tests.cli.make_status_svg``."""
    picture = html.unescape(make_status_svg.PICTURE.read_text()).replace("\xa0", " ")
    shown = make_status_svg.draw().export_text().splitlines()
    assert 24 == len(shown)
    assert shown[0].startswith("ghcoord /srv/ghcoord/hub.git"), "it scrolled"
    words = set(" ".join(shown).split())
    assert {"build-1", "draining", "21", "hotfix"} <= {word.strip(",") for word in words}
    assert set() == {word for word in words if not set(word) <= {"█", "░"} and word not in picture}
