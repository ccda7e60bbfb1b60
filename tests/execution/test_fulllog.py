"""Whole outputs: kept within a cap, stored when a record has not all, and shown by 'task logs'."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.config import ArtifactSettings
from ghcoord.coord import layout
from ghcoord.coord.artifacts.artifacts import Artifacts
from ghcoord.coord.layout import FILES
from ghcoord.coord.tasks.logs import FullLogs
from ghcoord.execution.fulllog import RETENTION, FullLog, FullLogKeeper
from ghcoord.execution.running import MAX_TEXT
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.hub import Hub
from ghcoord.model.artifact import LOG_NAME, LOG_TYPE
from ghcoord.model.codec import stamp
from ghcoord.model.task import Task, TaskResult
from ghcoord.model.tool import ToolContext, ToolResult
from tests.coord.world import World

TASK = Task(id="t1", tool="x", created_at=stamp(0))
CUT = TaskResult(success=True, output="end", truncated=True)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def hub(world: World) -> Hub:
    return world.open()


def stored(hub: Hub, full: FullLog) -> str:
    return b"".join(hub.artifacts.open(full.store(hub.artifacts, TASK))).decode()


@pytest.mark.parametrize("size", [1, 79, 80, 81, 119, 120, 160])
def test_the_beginning_and_the_end_are_kept(hub: Hub, size: int) -> None:
    """Up to the cap all of it; beyond, half of the cap, what is missing, and at least the last quarter."""
    full = FullLog(160)
    text = "".join(chr(65 + number % 26) for number in range(size))
    for at in range(0, size, 7):
        full.add(text[at : at + 7])
    assert text == stored(hub, full)
    for seed in range(20):
        full = FullLog(160)
        text = "".join(chr(97 + number % 26) for number in range(161 + 13 * seed))
        full.add(text)
        found = stored(hub, full)
        head, _, rest = found.partition("\n[… ")
        count, mark, tail = rest.partition(" bytes left out …]\n")
        assert (text[:80], True) == (head, bool(mark) or found == text)
        if mark:
            assert len(tail) >= 40
            assert text.endswith(tail)
            assert len(text) == len(head) + int(count) + len(tail)
        full.close()


def test_large_outputs_are_not_in_memory(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes 64 KiB goes to a file; halves of characters are no error."""
    rolled = []
    real = tempfile.SpooledTemporaryFile.rollover
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda file: (rolled.append(1), real(file))[1])
    full = FullLog()
    full.add("é" * 40_000 + "\ud800")
    assert [1] == rolled
    assert "é" * 40_000 + "?" == stored(hub, full)
    full.close()


def test_threads_may_write_together(hub: Hub) -> None:
    """Nothing is lost or torn."""
    full = FullLog()
    threads = [
        threading.Thread(target=lambda name=name: [full.add(name * 99 + "\n") for _ in range(200)]) for name in "abcd"
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    lines = stored(hub, full).splitlines()
    assert {name * 99: 200 for name in "abcd"} == {line: lines.count(line) for line in set(lines)}
    full.close()


def test_a_full_disk_costs_the_log_and_nothing_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came until then is stored, and the task goes on."""
    full = FullLog()
    full.add("before\n")

    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile.SpooledTemporaryFile, "write", no_room)
        full.add("after\n")
    full.add("more\n")
    assert "before\n\n[… 11 bytes left out …]\n" == stored(hub, full)
    full.close()
    full.add("too late\n")


def test_only_what_a_record_has_not_is_stored(world: World) -> None:
    """A record that has all of the output costs no commit; the artifact is the task's and goes after two weeks."""
    hub = world.open(artifacts=ArtifactSettings(retention=1e9))
    keeper = FullLogKeeper(hub, lambda level, text: None)
    full = keeper.begin()
    assert CUT == keeper.keep(full, TASK, CUT)
    full.add("all of it")
    whole = TaskResult(success=True, output="all of it")
    assert whole == keeper.keep(full, TASK, whole)
    assert FILES not in hub.heads()
    kept = keeper.keep(full, TASK, CUT.model_copy(update={"artifacts": ("a1",)}))
    assert "a1" == kept.artifacts[0]
    found = hub.artifacts.get(kept.artifacts[1])
    assert found is not None
    assert (LOG_NAME, "t1") == (found.name, found.task_id)
    assert found.expires_at is not None
    assert RETENTION == (found.expires_at - found.created_at).total_seconds()


def test_a_log_that_cannot_be_stored_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the task's result stays what it is."""
    said: list[tuple[str, str]] = []
    keeper = FullLogKeeper(hub, lambda level, text: said.append((level, text)))
    full = keeper.begin()
    full.add("x" * (1024 * 1024 + 1))
    small = Artifacts(hub._context, hub.contents, ArtifactSettings(max_mb=1))
    monkeypatch.setattr(hub, "artifacts", small)
    assert CUT == keeper.keep(full, TASK, CUT)
    assert [("warn", True)] == [(level, "could not be stored" in text) for level, text in said]
    full.close()


@pytest.mark.parametrize("what", ["none", "another name", "another task", "another type", "broken", "strange", "gone"])
def test_what_is_no_whole_output_is_not_shown(world: World, what: str) -> None:
    """An artifact of the task's own, a broken record, a content that is gone: then the record's part counts."""
    hub = world.open()
    logs = FullLogs(hub.artifacts)
    given = {"name": LOG_NAME, "content_type": LOG_TYPE, "task_id": "t1"}
    given |= {"another name": {"name": "x"}, "another task": {"task_id": "t2"}}.get(what, {})
    given |= {"another type": {"content_type": "text/plain"}}.get(what, {})
    made = hub.artifacts.put(given.pop("name"), "ä\n".encode(), **given)  # type: ignore[arg-type]
    path = layout.artifact_path(made.id)
    if what == "broken":
        world.put(FILES, {path: b"{"})
    elif what == "gone":
        world.put(FILES, {layout.data_path(layout.STORED, made.sha256): None})
    named = "../x" if what == "strange" else made.id
    world.runtime.advance(5)
    ended = TASK.model_copy(update={"result": CUT.model_copy(update={"artifacts": (named,)})})
    found = logs.of(ended)
    assert ("ä\n" if what == "none" else None) == (None if found is None else "".join(found))
    assert None is logs.of(TASK)
    assert None is logs.of(ended.model_copy(update={"result": TaskResult(success=True, artifacts=(made.id,))}))


# -- through the worker


def chatty(lines: int, ctx: ToolContext) -> ToolResult:
    """Says more than a record keeps."""
    text = "".join(f"line {number}\n" for number in range(lines))
    for at in range(0, len(text), 50_000):
        ctx.log("stdout", text[at : at + 50_000])
    return ToolResult(success=True, output=text, data={"stdout": text, "stderr": ""})


def run(hub: Hub, folder: Path, lines: int) -> Task:
    hub.tools.register("chatty")(lambda lines, ctx: chatty(lines, ctx)) if hub.tools.get("chatty") is None else None
    task = hub.tasks.submit("chatty", {"lines": lines})
    WorkerDaemon(hub, "w1", commands=False, until_idle=0.05, workspace=folder).run()
    ended = hub.tasks.get(task.id)
    assert ended is not None
    assert ended.result is not None
    return ended


def test_task_logs_has_the_whole(tmp_path: Path) -> None:
    """A record keeps 64 KiB; the log all lines, with and without --follow. A short output makes no artifact."""
    import ghcoord

    with ghcoord.connect("memory:") as hub:
        short = run(hub, tmp_path / "w", 10)
        assert short.result is not None
        assert ((), False) == (short.result.artifacts, short.result.truncated)
        assert FILES not in hub.heads()
        long = run(hub, tmp_path / "w", 30_000)
        assert long.result is not None
        assert 1 == len(long.result.artifacts)
        assert len(long.result.output) < MAX_TEXT + 100
        assert long.result.output.startswith("line 0\nline 1\n")
        assert " characters cut …]\n" in long.result.output
        assert long.result.output.endswith("line 29999\n")
        expected = "".join(f"line {number}\n" for number in range(30_000))
        assert expected == "".join(hub.tasks.logs(long.id))
        assert expected == "".join(hub.tasks.logs(long.id, follow=True))
        hub.artifacts.delete(long.result.artifacts[0])
        assert "".join(hub.tasks.logs(long.id)).endswith("line 29999\n")
