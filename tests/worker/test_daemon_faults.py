"""What a daemon must live through: hostile workspaces, odd results, vanished folders, attempts that overlap."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ghcoord.bootstrap as bootstrap
from ghcoord.clock import SystemRuntime
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.errors import Unavailable
from ghcoord.execution.worker import Summary
from ghcoord.execution.workspace import Workspaces
from ghcoord.hub import Hub
from ghcoord.model.tool import ToolContext, ToolResult
from ghcoord.store.local import LocalStore
from ghcoord.store.odb import REOPEN_AFTER
from ghcoord.store.transact import Transactor
from tests.processes import needs_program, until


def test_a_workspace_of_a_thousand_levels_is_removed(hub: Hub, work: Callable[..., Summary], tmp_path: Path) -> None:
    """A task that nests directories beyond recursion and path limits costs neither its slot nor the next start.

    It may be ended for it: what lies so deep counts as too much.
    """
    needs_program("bwrap")
    code = "import os\nfor n in range(1500):\n    os.mkdir('d' * 20); os.chdir('d' * 20)"
    deep = hub.tasks.submit("run.python", {"code": code})
    after = hub.tasks.submit("echo", {"message": "on"})
    summary = work()
    assert 2 == summary.succeeded + summary.failed
    assert hub.tasks.wait(after.id, 1).success
    assert "workspace_mb" in (hub.tasks.wait(deep.id, 1).error or "workspace_mb")
    assert [] == list((tmp_path / "work").iterdir())


def test_a_directory_closed_to_its_owner_is_removed(tmp_path: Path) -> None:
    """A directory of mode 0000 with something in it goes too."""
    spaces = Workspaces(tmp_path / "work")
    made = spaces.make("t1", 1)
    (made / "closed").mkdir()
    (made / "closed" / "file").touch()
    (made / "closed").chmod(0)
    spaces.remove(made)
    assert not made.exists()
    spaces.close()


def test_what_a_killed_worker_left_is_swept_and_what_lives_is_not(tmp_path: Path) -> None:
    """A folder that nobody holds is removed at the next start; that of a living object stays."""
    living = Workspaces(tmp_path / "work")
    kept = living.make("t1", 1)
    left = tmp_path / "work" / "12345-abc"
    (left / "t0-1").mkdir(parents=True)
    other = Workspaces(tmp_path / "work")
    assert not left.exists()
    assert kept.exists()
    other.close()
    living.close()
    assert [] == list((tmp_path / "work").iterdir())


def test_a_vanished_workspace_folder_is_made_again(hub: Hub, work: Callable[..., Summary], tmp_path: Path) -> None:
    """Cleaners of temporary folders do not end a daemon."""

    @hub.tools.register("clean")
    def clean() -> None:
        for folder in (tmp_path / "work").iterdir():
            shutil.rmtree(folder)

    hub.tasks.submit("clean", {})
    hub.tasks.submit("echo", {"message": "on"})
    assert 2 == work(slots=1).succeeded


@pytest.mark.slow
def test_an_unusable_workspace_gives_leases_back_at_a_measured_pace(
    hub: Hub, work: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes no folder is no failure of the task, and the daemon does not spin on it."""

    def full(self: Workspaces, task_id: str, attempt: int) -> Path:
        raise OSError(28, "No space left on device")

    @hub.tools.register("write")
    def write(ctx: ToolContext | None = None) -> None:
        assert ctx is not None
        (ctx.workspace / "file").touch()

    task = hub.tasks.submit("write", {})
    with monkeypatch.context() as patch:
        patch.setattr(Workspaces, "make", full)
        summary = work(until_idle=None, max_runtime=1.5)
    found = hub.tasks.get(task.id)
    assert found is not None
    assert ("queued", 0, 0) == (found.state, found.failures, found.lost)
    assert summary.returned <= 5
    assert 1 == work().succeeded


@pytest.mark.parametrize("result", [ToolResult(True, output=42), ToolResult(True, exit_code="x"), "not a result"])  # type: ignore[arg-type]
def test_a_tool_result_of_the_wrong_type_ends_the_task(hub: Hub, work: Callable[..., Summary], result: Any) -> None:
    """It runs once and ends: failed with the reason, or taken as far as it goes."""
    runs: list[int] = []

    @hub.tools.register("odd")
    def odd() -> Any:
        runs.append(1)
        return result

    task = hub.tasks.submit("odd", {})
    work()
    found = hub.tasks.get(task.id)
    assert found is not None
    assert found.ended
    assert 1 == len(runs)


def test_an_attempt_never_runs_beside_its_predecessor(
    hub: Hub, work: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that outlives its timeout and is retried on the same worker: one at a time, and the retry counts."""
    monkeypatch.setattr("ghcoord.execution.slots.TIMEOUT_SLACK", 0.1)
    at_once, peak, calls = [0], [0], [0]

    @hub.tools.register("slow")
    def slow() -> int:
        calls[0] += 1
        at_once[0] += 1
        peak[0] = max(peak[0], at_once[0])
        time.sleep(1.0 if calls[0] == 1 else 0)
        at_once[0] -= 1
        return calls[0]

    task = hub.tasks.submit("slow", {}, timeout=0.2, retries=1, backoff=0.05)
    work(slots=2, grace=0.1)
    found = hub.tasks.get(task.id)
    assert found is not None
    assert ("succeeded", 2, 1) == (found.state, found.attempt, peak[0])


def test_two_daemons_of_one_process_do_not_disturb_each_other(hub: Hub, work: Callable[..., Summary]) -> None:
    """The end of one leaves the other's workspaces alone."""
    gate = threading.Event()

    @hub.tools.register("wait")
    def wait() -> None:
        gate.wait(10)

    hub.tasks.submit("wait", {})
    thread = threading.Thread(target=work, kwargs={"id": "w1"})
    thread.start()
    until(lambda: hub.tasks.list("leased"))
    work(id="w2", until_idle=None, max_runtime=0.1)
    more = hub.tasks.submit_many([Submission("echo", {"message": "x"}) for _ in range(3)])
    gate.set()
    thread.join(timeout=20)
    assert all(hub.tasks.wait(task.id, 1).success for task in more)


def test_a_vanished_hub_is_never_made_again(hub: Hub, tmp_path: Path) -> None:
    """While the folder is away reads and writes are unavailable and nothing appears in its place; back, all goes on."""
    hub.memory.set("k", 1)
    path = tmp_path / "hub.git"
    path.rename(tmp_path / "away")
    store = LocalStore(tmp_path / "away", SystemRuntime())
    with pytest.raises(Unavailable, match="is gone"):
        hub._context.transactor.store.inner.inner.heads()  # type: ignore[attr-defined]
    assert not path.exists()
    store.close()
    (tmp_path / "away").rename(path)
    assert 1 == hub.memory.get("k")


@pytest.mark.slow
def test_reading_on_for_long_keeps_few_files_open(tmp_path: Path) -> None:
    """A reader of many commits by others holds no descriptor of packs that were merged away long ago."""
    path = tmp_path / "hub.git"
    bootstrap.create(path)[0].close()
    writer = Transactor(LocalStore(path, SystemRuntime()), SystemRuntime())
    reader = LocalStore(path, SystemRuntime())

    def descriptors() -> int:
        return sum("hub.git" in os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if _there(entry.path))

    most = 0
    for number in range(REOPEN_AFTER * 3 // 2):
        writer.transact(["fleet"], lambda tx, number=number: tx.write("fleet", "n", b"%d" % number))  # type: ignore[misc]
        head = reader.heads()["fleet"]
        reader.tree(reader.commit_info(head).tree)
        most = max(most, descriptors())
    assert most < REOPEN_AFTER, most


def _there(path: str) -> bool:
    return os.path.lexists(path)
