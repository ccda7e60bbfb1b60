"""The pool: sessions are opened when needed, survive what they should, and leave nothing when they are over."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghcoord.errors import LeaseLost, NoCapacity, NotFound, SandboxError, SessionLost, Unavailable, UsageError
from ghcoord.execution.session.folder import read_marker
from ghcoord.hub import Hub
from ghcoord.model.session import SessionState
from tests.execution.session.conftest import CopyingCheckpoints, Station
from tests.processes import until

Make = Callable[..., Station]


def put(station: Station, session: str, text: str, path: str = "f") -> None:
    assert station.pool.call(session, "write", {"path": path, "text": text}).success


def got(station: Station, session: str, path: str = "f") -> str:
    result = station.pool.call(session, "read", {"path": path})
    assert result.success, result.error
    return result.output


def state(hub: Hub, session: str) -> SessionState | None:
    found = hub.sessions.get(session)
    return None if found is None else found.state


def in_thread(run: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run it beside the test; what it returned or raised is in the list when it has ended."""
    out: list[Any] = []

    def work() -> None:
        try:
            out.append(run())
        except Exception as error:
            out.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, out


# -- opening


def test_a_session_keeps_its_files_between_calls(hub: Hub, station: Make) -> None:
    """The folder is made at the first call, private, with the marker outside the workspace."""
    one = station()
    session = one.pool.create("s1", metadata={"a": 1})
    assert ("w1", {"a": 1}) == (session.worker_id, one.pool.metadata("s1"))
    put(one, "s1", "hello")
    assert "hello" == got(one, "s1")
    root = one.pool.home.root("s1")
    assert 0o700 == stat.S_IMODE((root / "workspace").stat().st_mode)
    marker = read_marker(root)
    assert marker is not None
    assert ("s1", session.epoch) == (marker.id, marker.epoch)
    one.tick()
    found = hub.sessions.get("s1")
    assert found is not None
    assert (SessionState.ACTIVE, 2, ["write", "read"]) == (found.state, found.calls, [n.tool for n in found.recent])


def test_a_session_in_use_keeps_its_worker_awake(station: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a minute after a call the worker looks for the next one more often, and no longer."""
    one = station()
    assert not one.pool.lively
    one.pool.create("s1")
    put(one, "s1", "hello")
    assert one.pool.lively
    monkeypatch.setattr("ghcoord.execution.session.pool.WARM", -1.0)
    assert not one.pool.lively


def test_a_restart_reattaches(hub: Hub, station: Make, checkpoints: CopyingCheckpoints) -> None:
    """Another process of the same worker goes on with the files that are there; nothing is restored."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "hello")
    one.tick()
    one.pool.close()
    again = station()
    again.tick()
    assert "hello" == got(again, "s1")
    assert [] == checkpoints.saved


def test_a_lost_session_is_taken_back(hub: Hub, station: Make) -> None:
    """A worker that was declared dead and comes back with the files has the session again."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "hello")
    one.tick()
    one.pool.close()
    hub.workers.deregister("w1", token=one.token)
    assert SessionState.LOST == state(hub, "s1")
    again = station()
    assert "hello" == got(again, "s1")
    assert SessionState.ACTIVE == state(hub, "s1")


def test_without_the_folder_it_is_restored(hub: Hub, station: Make, tmp_path: Path) -> None:
    """The latest checkpoint is what another base folder of the same worker starts from."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "saved")
    saved = one.pool.checkpoint("s1")
    put(one, "s1", "not saved")
    one.tick()
    one.pool.close()
    again = station(base=tmp_path / "elsewhere")
    assert "saved" == got(again, "s1")
    again.tick()
    found = hub.sessions.get("s1")
    assert found is not None
    assert saved.id == found.restored_from


def test_a_dead_workers_session_goes_on_elsewhere(hub: Hub, station: Make) -> None:
    """It is adopted when it has a call, and restored from its checkpoint; the old worker's files go when it returns."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "saved")
    one.pool.checkpoint("s1")
    one.tick()
    one.pool.close()
    hub.workers.deregister("w1", token=one.token)
    two = station("w2")
    hub.sessions.submit_call("s1", "read", {"path": "f"})
    two.tick()
    assert "saved" == got(two, "s1")
    two.tick()
    back = station()
    back.tick()
    until(lambda: not back.pool.home.root("s1").exists())
    with pytest.raises(NoCapacity, match="with worker w2"):
        back.pool.call("s1", "read", {"path": "f"})


def test_without_files_and_checkpoint_it_is_lost(hub: Hub, station: Make, tmp_path: Path) -> None:
    """The call says so, and so does the record after the next tick."""
    one = station()
    one.pool.create("s1")
    one.tick()
    one.pool.close()
    again = station(base=tmp_path / "elsewhere")
    again.tick()
    with pytest.raises(SessionLost, match="'s1' are gone"):
        again.pool.call("s1", "read", {"path": "f"})
    assert again.pool.news
    again.tick()
    assert SessionState.LOST == state(hub, "s1")
    with pytest.raises(SessionLost):
        again.pool.call("s1", "read", {"path": "f"})
    assert not again.pool.news


def test_a_fault_while_restoring_is_not_a_loss(
    hub: Hub, station: Make, checkpoints: CopyingCheckpoints, tmp_path: Path
) -> None:
    """It may be tried again, and nothing half restored is used."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "saved")
    one.pool.checkpoint("s1")
    one.tick()
    one.pool.close()
    again = station(base=tmp_path / "elsewhere")
    checkpoints.fail = OSError(28, "No space left on device")
    with pytest.raises(SandboxError, match="No space left"):
        again.pool.call("s1", "read", {"path": "f"})
    assert not again.pool.news
    checkpoints.fail = None
    assert "saved" == got(again, "s1")


def test_a_folder_without_marker_is_not_believed(hub: Hub, station: Make) -> None:
    """What a killed opening left is removed and made anew."""
    one = station()
    root = one.pool.home.root("s1")
    (root / "workspace").mkdir(parents=True)
    (root / "workspace" / "f").write_text("half")
    one.pool.create("s1")
    assert not one.pool.call("s1", "read", {"path": "f"}).success


def test_two_calls_open_it_once(hub: Hub, station: Make, checkpoints: CopyingCheckpoints, tmp_path: Path) -> None:
    """The second waits for the first one's opening, while another session goes on."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "saved")
    one.pool.checkpoint("s1")
    one.tick()
    one.pool.close()
    again = station(base=tmp_path / "elsewhere")
    begun, go = threading.Event(), threading.Event()
    opened: list[int] = []

    def slow() -> None:
        opened.append(1)
        begun.set()
        go.wait(10)

    checkpoints.before = slow
    started = [in_thread(lambda: got(again, "s1")) for _ in range(3)]
    assert begun.wait(5)
    again.pool.create("s2")
    put(again, "s2", "meanwhile")
    go.set()
    for thread, out in started:
        thread.join(10)
        assert ["saved"] == out
    assert [1] == opened


def test_only_one_process_has_the_folder(hub: Hub, station: Make) -> None:
    """A second process of the same id waits until the first has let go."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "hello")
    one.tick()
    two = station()
    assert not two.recovered
    assert 0 == two.pool.room
    with pytest.raises(SandboxError, match="another process"):
        two.pool.call("s1", "read", {"path": "f"})
    one.pool.close()
    assert two.pool.recover(two.token)
    assert "hello" == got(two, "s1")


# -- limits


def test_the_calls_of_a_session_are_limited(hub: Hub, station: Make) -> None:
    """Beyond active_tasks a local call is refused with the way out; calls through the hub are counted there."""
    one = station()
    one.pool.create("s1", limits={"active_tasks": 2})
    stop = threading.Event()
    running = [in_thread(lambda: one.pool.call("s1", "wait", {}, cancelled=stop.is_set)) for _ in range(2)]
    until(lambda: one.pool.status("s1").active_tasks == 2)
    with pytest.raises(NoCapacity, match="runs 2 calls"):
        one.pool.call("s1", "read", {"path": "f"})
    with one.pool.enter("s1", tool="read", task_id="t"):
        assert 3 == one.pool.status("s1").active_tasks
    stop.set()
    for thread, out in running:
        thread.join(5)
        assert "cancelled" == out[0].error
    assert 0 == one.pool.status("s1").active_tasks


def test_a_worker_has_room_for_so_many(hub: Hub, station: Make) -> None:
    """The hub refuses the third of two, and the pool asks for no more than it can take."""
    one = station(max_sessions=2)
    one.pool.create("s1")
    one.pool.create("s2")
    assert 0 == one.pool.room
    with pytest.raises(NoCapacity, match="no room"):
        one.pool.create("s3")
    one.pool.destroy("s1")
    assert 1 == one.pool.room
    one.pool.create("s3")


# -- calls


def test_a_local_call_streams(hub: Hub, station: Make) -> None:
    """Output and progress come as they are made; the result has duration and time."""
    one = station()
    one.pool.create("s1")
    said: list[tuple[str, str]] = []
    progress: list[tuple[float | None, str]] = []
    result = one.pool.call(
        "s1",
        "write",
        {"path": "f", "text": "x"},
        log=lambda stream, text: said.append((stream, text)),
        progress=lambda fraction, message: progress.append((fraction, message)),
    )
    assert [("stdout", "wrote f\n")] == said
    assert [(1.0, "done")] == progress
    assert result.completed_at is not None
    note = one.pool.status("s1").tasks[-1]
    assert ("write", True) == (note.tool, note.success)


@pytest.mark.parametrize(("tool", "says"), [("none", "no tool 'none': one of read, wait, write")])
def test_an_unknown_tool_is_named(hub: Hub, station: Make, tool: str, says: str) -> None:
    """With those there are."""
    one = station()
    one.pool.create("s1")
    with pytest.raises(UsageError, match=says):
        one.pool.call("s1", tool, {})
    with pytest.raises(NotFound, match="no session 's9'"):
        one.pool.call("s9", "read", {"path": "f"})


def test_a_call_with_a_key_runs_once(hub: Hub, station: Make) -> None:
    """The first result comes back, also after a restart and to a restored session; another call is refused."""
    one = station()
    one.pool.create("s1")
    args = {"path": "f", "text": "first"}
    first = one.pool.call("s1", "write", args, key="k")
    put(one, "s1", "later")
    assert first == one.pool.call("s1", "write", args, key="k")
    assert first != one.pool.call("s1", "write", args, sequence=1)
    put(one, "s1", "later")
    with pytest.raises(UsageError, match="another call"):
        one.pool.call("s1", "write", {"path": "f", "text": "other"}, key="k")
    one.tick()
    one.pool.checkpoint("s1")
    one.pool.close()
    again = station()
    assert first == again.pool.call("s1", "write", args, key="k")
    assert "later" == got(again, "s1")
    again.pool.restore("s1")
    assert first == again.pool.call("s1", "write", args, key="k")
    assert "later" == got(again, "s1")


def test_a_call_with_a_key_takes_json(hub: Hub, station: Make) -> None:
    """What cannot be compared with a later call is refused; so is a time that is none."""
    one = station()
    one.pool.create("s1")
    with pytest.raises(UsageError, match="JSON only"):
        one.pool.call("s1", "write", {"path": Path("f"), "text": "x"}, key="k")
    for timeout in (0, -1, float("nan"), 1e9):
        with pytest.raises(UsageError, match="timeout"):
            one.pool.call("s1", "read", {"path": "f"}, timeout=timeout)
    assert ["read", "wait", "write"] == [tool.name for tool in one.pool.tools()]


def test_the_same_call_twice_at_once_runs_once(hub: Hub, station: Make) -> None:
    """The second waits for the first and gets its result."""
    one = station()
    one.pool.create("s1")
    stop = threading.Event()
    begun = [in_thread(lambda: one.pool.call("s1", "wait", {}, key="k", cancelled=stop.is_set)) for _ in range(1)]
    until(lambda: one.pool.status("s1").active_tasks == 1)
    waiting = in_thread(lambda: one.pool.call("s1", "wait", {}, key="k", cancelled=stop.is_set))
    until(lambda: one.pool.status("s1").active_tasks == 2)
    stop.set()
    for thread, out in (*begun, waiting):
        thread.join(5)
        assert not out[0].success


# -- the end of a session


def test_destroy_stops_its_calls_and_removes_its_files(hub: Hub, station: Make) -> None:
    """The running call is cancelled, the folder goes after it; another session is untouched."""
    one = station()
    one.pool.create("s1")
    one.pool.create("s2")
    put(one, "s2", "stays")
    thread, out = in_thread(lambda: one.pool.call("s1", "wait", {}))
    until(lambda: one.pool.status("s1").active_tasks == 1)
    one.pool.destroy("s1")
    thread.join(5)
    assert "cancelled" == out[0].error
    until(lambda: not one.pool.home.root("s1").exists())
    assert "stays" == got(one, "s2")
    with pytest.raises(NotFound):
        one.pool.call("s1", "read", {"path": "f"})


def test_a_session_destroyed_by_another_client_goes_with_the_next_tick(hub: Hub, station: Make) -> None:
    """Open or not since the restart: its files are removed."""
    one = station()
    for name in ("s1", "s2"):
        one.pool.create(name)
        put(one, name, "x")
    one.tick()
    one.pool.close()
    again = station()
    put(again, "s1", "y")
    hub.sessions.destroy("s1")
    hub.sessions.destroy("s2")
    again.tick()
    until(lambda: not any(again.pool.home.root(name).exists() for name in ("s1", "s2")))
    until(lambda: not os.listdir(again.pool.home.folder / ".gone"))


def test_an_answer_from_before_does_not_close_a_new_session(hub: Hub, station: Make) -> None:
    """A reply that was on its way while the session was created does not know it."""
    one = station()
    before = hub.revision()
    one.pool.create("s1")
    put(one, "s1", "x")
    one.pool.follow({}, before)
    assert "x" == got(one, "s1")
    one.pool.follow({}, hub.revision())
    assert not one.pool.home.root("s1").exists()


def test_restore_goes_back(hub: Hub, station: Make) -> None:
    """The files are those of the checkpoint; with a new id they are another session's, and the first stays."""
    one = station()
    one.pool.create("s1", metadata={"m": 1})
    put(one, "s1", "old")
    first = one.pool.checkpoint("s1", "before")
    put(one, "s1", "new")
    one.tick()
    one.pool.restore("s1", first.id)
    assert "old" == got(one, "s1")
    put(one, "s1", "again")
    assert "again" == got(one, "s1")


def test_files_of_an_earlier_placement_are_not_believed(hub: Hub, station: Make) -> None:
    """Another client rolled the session back before it was opened here again: what lies here is not its files."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "old")
    first = one.pool.checkpoint("s1")
    put(one, "s1", "new")
    one.tick()
    one.pool.close()
    again = station()
    hub.sessions.restore("s1", first.id)
    assert "old" == got(again, "s1")


def test_restore_waits_for_calls(hub: Hub, station: Make) -> None:
    """While a call runs it is refused."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "old")
    one.pool.checkpoint("s1")
    with one.pool.enter("s1", tool="x", task_id="t"), pytest.raises(UsageError, match="1 calls"):
        one.pool.restore("s1")


# -- the worker's lease


def test_without_its_lease_a_worker_takes_no_calls(hub: Hub, station: Make) -> None:
    """What runs is stopped and does not count, what comes has to wait; afterwards it goes on."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "x")
    thread, out = in_thread(lambda: one.pool.call("s1", "wait", {}, key="k"))
    until(lambda: one.pool.status("s1").active_tasks == 1)
    one.pool.pause("lost its lease")
    thread.join(5)
    assert isinstance(out[0], LeaseLost)
    with pytest.raises(Unavailable, match="w1 lost its lease: try again"):
        one.pool.call("s1", "read", {"path": "f"})
    with one.pool.enter("s1", tool="x", task_id="t"):
        pass
    one.pool.resume()
    assert "x" == got(one, "s1")


# -- drain


def test_drain_saves_and_parks(hub: Hub, station: Make, checkpoints: CopyingCheckpoints, tmp_path: Path) -> None:
    """What changed is saved, what did not is not saved again, and another worker goes on with both."""
    one = station()
    for name in ("s1", "s2", "s3"):
        one.pool.create(name)
    put(one, "s1", "one")
    put(one, "s2", "two")
    saved = one.pool.checkpoint("s2")
    one.tick()
    one.pool.drain()
    assert 3 == len(checkpoints.saved)
    assert [SessionState.PARKED] * 3 == [state(hub, name) for name in ("s1", "s2", "s3")]
    assert saved.id in checkpoints.saved
    until(lambda: not one.pool.home.root("s1").exists())
    with pytest.raises(NoCapacity, match="draining"):
        one.pool.call("s1", "read", {"path": "f"})
    two = station("w2", tmp_path / "two")
    for name in ("s1", "s2"):
        hub.sessions.submit_call(name, "read", {"path": "f"})
    two.tick()
    assert ["one", "two"] == [got(two, name) for name in ("s1", "s2")]


def test_drain_after_a_restart_saves_what_was_not_opened(
    hub: Hub, station: Make, checkpoints: CopyingCheckpoints
) -> None:
    """Files that no checkpoint has are not left behind because nobody called since."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "one")
    one.tick()
    one.pool.close()
    again = station()
    again.tick()
    again.pool.drain()
    assert 1 == len(checkpoints.saved)
    assert SessionState.PARKED == state(hub, "s1")


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), SandboxError("broken"), RuntimeError("x")])
def test_what_cannot_be_saved_stays(hub: Hub, station: Make, checkpoints: CopyingCheckpoints, fault: Exception) -> None:
    """The log says so, and the worker takes it back when it returns."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "one")
    one.tick()
    checkpoints.fail = fault
    one.pool.drain()
    assert any("s1 could not be saved" in line for line in one.said)
    assert SessionState.ACTIVE == state(hub, "s1")
    one.pool.close()
    checkpoints.fail = None
    hub.workers.deregister("w1", token=one.token)
    again = station()
    assert "one" == got(again, "s1")


def test_checkpoints_that_stay_here_do_not_park(hub: Hub, station: Make, tmp_path: Path) -> None:
    """Nobody else could restore them: the session stays with its worker."""
    local = CopyingCheckpoints(tmp_path / "local", hub, publish=False)
    one = station(checkpoints=local)
    one.pool.create("s1")
    put(one, "s1", "one")
    one.tick()
    one.pool.drain()
    assert 1 == len(local.saved)
    assert SessionState.ACTIVE == state(hub, "s1")
    assert one.pool.home.root("s1").exists()


def test_drain_ends_in_time(
    hub: Hub, station: Make, checkpoints: CopyingCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that takes for ever holds nobody up."""
    monkeypatch.setattr("ghcoord.execution.session.parking.PARK_AT_MOST", 0.2)
    one = station()
    one.pool.create("s1")
    put(one, "s1", "one")
    one.tick()
    go = threading.Event()

    def hang() -> None:
        go.wait(10)

    checkpoints.before = hang
    one.pool.drain()
    assert any("not all sessions" in line for line in one.said)
    assert SessionState.ACTIVE == state(hub, "s1")
    go.set()


# -- chores and reports


def test_leftovers_of_workers_that_are_gone_are_removed(hub: Hub, station: Make) -> None:
    """Only what no session may come back for, and nothing that a process holds."""
    gone, living, me = station("gone"), station("living"), station("me")
    for one, name in ((gone, "s1"), (gone, "s2"), (living, "s3")):
        one.pool.create(name)
        put(one, name, name)
        one.tick()
    gone.pool.close()
    hub.sessions.destroy("s1")
    hub.sessions.destroy("s3")
    assert 1 == me.pool.sweep()
    assert not gone.pool.home.root("s1").exists()
    assert gone.pool.home.root("s2").exists()
    assert living.pool.home.root("s3").exists()
    hub.sessions.destroy("s2")
    assert 1 == me.pool.sweep()
    assert not gone.pool.home.folder.exists()


def test_checkpoints_of_sessions_that_are_no_more_are_removed(
    hub: Hub, station: Make, checkpoints: CopyingCheckpoints
) -> None:
    """At once when the session is destroyed here, with the next sweep when it was destroyed elsewhere."""
    one = station()
    for name in ("s1", "s2", "s3"):
        one.pool.create(name)
        one.pool.checkpoint(name)
    one.pool.destroy("s1")
    assert ["s2", "s3"] == checkpoints.sessions()
    hub.sessions.destroy("s2")
    one.pool.sweep()
    assert ["s3"] == checkpoints.sessions()


def test_reports_say_what_is_new(hub: Hub, station: Make) -> None:
    """Nothing twice; a session that was opened is news that does not wait."""
    one = station()
    one.pool.create("s1")
    assert one.pool.news
    put(one, "s1", "x")
    until(lambda: one.pool.status("s1").disk is not None)
    assert ["s1"] == [report.id for report in one.pool.reports()]
    one.tick()
    assert ([], False) == (one.pool.reports(), one.pool.news)
    put(one, "s1", "y")
    assert 2 == one.pool.reports()[0].calls
    assert not one.pool.news


def test_a_session_that_is_being_closed_has_no_status(hub: Hub, station: Make) -> None:
    """Once it is destroyed it is not found, also while its files are still put away."""
    one = station()
    one.pool.create("s1")
    hub.sessions.destroy("s1")
    one.pool._entries["s1"].closing = "it was destroyed or moved"
    with pytest.raises(NotFound):
        one.pool.status("s1")


def test_status_is_quick(hub: Hub, station: Make) -> None:
    """From memory: far below a millisecond, whatever runs."""
    import time

    one = station()
    one.pool.create("s1")
    put(one, "s1", "x")
    began = time.perf_counter()
    for _ in range(200):
        one.pool.status("s1")
    assert (time.perf_counter() - began) / 200 < 0.001
