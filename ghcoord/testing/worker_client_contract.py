"""The contract of the ways to workers, as tests that each must pass: the fake, this process's own, the hub's.

A test file subclasses :class:`WorkerClientContract` and provides the fixture ``bench``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from ghcoord.errors import NoCapacity, NotFound, SessionLost, UsageError
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.clients.base import Executed, WorkerClient
from ghcoord.hub import Hub
from ghcoord.model.session import Session
from ghcoord.model.tool import Tool, ToolContext, ToolResult
from ghcoord.testing.under_test import in_threads

WAIT = "wait"
"""A tool that says ``begun``, and goes on until it is cancelled; the bench's client must have it."""

PROMPT = 10.0
"""Seconds within which whatever is cancelled must be over on a busy machine."""


@dataclass
class ClientUnderTest:
    """A client with ``room`` for sessions, and its hub.

    ``lose`` has a session's worker lose its files, as when it dies.
    """

    client: WorkerClient
    hub: Hub
    lose: Callable[[str], None]
    room: int
    caller: Caller = field(default_factory=lambda: Caller("ann", "work", "bench"))

    def session(self) -> Session:
        """A new one."""
        return self.client.create(self.caller)

    def call(self, session: Session, tool: str, **args: Any) -> Executed:
        """A call that must succeed."""
        executed = self.client.execute(session.id, tool, args, timeout=60)
        assert executed.result.success, executed.result.error
        return executed

    def write(self, session: Session, text: str, path: str = "file") -> Executed:
        return self.call(session, "fs.write", path=path, contents=text)

    def read(self, session: Session, path: str = "file") -> str:
        return str(self.call(session, "fs.read", path=path).result.data["contents"])


def wait_tool() -> Tool:
    """The tool :data:`WAIT` for a worker."""

    def run(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
        ctx.log("stdout", "begun\n")
        ctx.progress(0.5, "half")
        stop = threading.Event()
        while not ctx.cancelled():
            stop.wait(0.01)
        return ToolResult(success=False, error="cancelled")

    return Tool(WAIT, "Wait until cancelled.", run)


class WorkerClientContract:
    """What every way to workers promises."""

    # -- sessions

    def test_its_tools_have_schemas(self, bench: ClientUnderTest) -> None:
        """Sorted, each once, with what agents get of them."""
        tools = {tool.name: tool for tool in bench.client.tools()}
        assert sorted(tools) == [tool.name for tool in bench.client.tools()]
        for name in ("echo", "fs.list", "fs.read", "fs.write"):
            assert tools[name].arguments is not None
            assert tools[name].returns is not None

    def test_a_session_is_its_creators(self, bench: ClientUnderTest) -> None:
        """With what was asked for, and an id that nobody guesses."""
        made = bench.client.create(
            bench.caller,
            metadata={"goal": "x"},
            env={"COLOUR": "blue"},
            limits={"memory_mb": 512},
            allow=("a.example",),
        )
        other = bench.session()
        found = bench.hub.sessions.get(made.id)
        assert found is not None
        assert ("ann", "work", {"goal": "x"}) == (found.user_id, found.workspace_id, found.metadata)
        assert ({"COLOUR": "blue"}, 512, ("a.example",)) == (found.env, found.limits.memory_mb, found.allow)
        assert len(made.id) >= 20
        assert made.id != other.id

    def test_settings_that_cannot_be_are_refused(self, bench: ClientUnderTest) -> None:
        """And nothing is made."""
        with pytest.raises(UsageError, match="colour"):
            bench.client.create(bench.caller, limits={"colour": 1})
        with pytest.raises(UsageError):
            bench.client.create(bench.caller, env={"not a name": "x"})
        assert 0 == bench.hub.sessions.count()

    def test_a_full_worker_says_so(self, bench: ClientUnderTest) -> None:
        """Until a session ends."""
        made = [bench.session() for _ in range(bench.room)]
        with pytest.raises(NoCapacity, match="no room"):
            bench.session()
        bench.client.destroy(made[0].id)
        assert "x" == bench.call(bench.session(), "echo", message="x").result.data["message"]

    def test_a_session_that_ended_is_not_found(self, bench: ClientUnderTest) -> None:
        """By anything; nor is one that never was."""
        session = bench.session()
        bench.write(session, "x")
        bench.client.destroy(session.id)
        for name in (session.id, "nobody"):
            with pytest.raises(NotFound):
                bench.client.execute(name, "echo", {"message": "x"})
            with pytest.raises(NotFound):
                bench.client.status(name)
            with pytest.raises(NotFound):
                bench.client.destroy(name)
            with pytest.raises(NotFound):
                bench.client.restore(name)
            with pytest.raises(NotFound):
                bench.client.checkpoint(name)

    def test_the_status_tells_of_calls(self, bench: ClientUnderTest) -> None:
        """Soon after them."""
        session = bench.session()
        bench.call(session, "echo", message="x")
        deadline = bench.hub.runtime.monotonic() + PROMPT
        while not (status := bench.client.status(session.id)).tasks:
            assert bench.hub.runtime.monotonic() < deadline
            bench.hub.runtime.sleep(0.02)
        assert (session.id, "echo", True) == (status.id, status.tasks[-1].tool, status.tasks[-1].success)

    # -- calls

    def test_files_stay_in_their_session(self, bench: ClientUnderTest) -> None:
        """From call to call, and no other session has them."""
        one, two = bench.session(), bench.session()
        bench.write(one, "of one")
        bench.write(two, "of two")
        assert ("of one", "of two") == (bench.read(one), bench.read(two))
        bench.write(one, "more", "another")
        assert {"another", "file"} <= {*bench.call(one, "fs.list").result.data["entries"]}
        assert "another" not in bench.call(two, "fs.list").result.data["entries"]

    def test_a_result_is_whole(self, bench: ClientUnderTest) -> None:
        """Output, fields and times; and no notice when nothing happened."""
        executed = bench.write(bench.session(), "four", "a.txt")
        assert ({"path": "a.txt", "bytes_written": 4}, ()) == (executed.result.data, executed.notices)
        assert executed.result.completed_at is not None
        assert executed.result.duration >= 0

    def test_a_call_that_fails_is_a_result(self, bench: ClientUnderTest) -> None:
        """Which says why; the session goes on."""
        session = bench.session()
        result = bench.client.execute(session.id, "fs.read", {"path": "missing"}).result
        assert not result.success
        assert "missing" in result.error
        assert "x" == bench.call(session, "echo", message="x").result.output

    def test_calls_that_cannot_be_are_refused(self, bench: ClientUnderTest) -> None:
        """Tools that there are not, arguments that are wrong; in one sentence."""
        session = bench.session()
        for tool, args in (("nothing", {}), ("echo", {"massage": "x"}), ("fs.read", {"path": "../x"})):
            try:
                result = bench.client.execute(session.id, tool, args, timeout=30).result
            except UsageError:
                continue
            assert (False, True) == (result.success, bool(result.error))

    def test_output_and_progress_are_told_as_they_come(self, bench: ClientUnderTest) -> None:
        """While the call runs: it is ended by what hears them."""
        session = bench.session()
        said: list[tuple[str, str]] = []
        told: list[tuple[float | None, str]] = []
        result = bench.client.execute(
            session.id,
            WAIT,
            {},
            timeout=60,
            log=lambda stream, text: said.append((stream, text)),
            progress=lambda fraction, message: told.append((fraction, message)),
            cancelled=lambda: bool(said) and (0.5, "half") in told,
        ).result
        assert not result.success
        assert "begun\n" == "".join(text for _, text in said)

    def test_a_cancelled_call_ends(self, bench: ClientUnderTest) -> None:
        """Soon, and the session can be used again."""
        session = bench.session()
        stop = threading.Event()
        ended: list[bool] = []

        def run() -> None:
            ended.append(bench.client.execute(session.id, WAIT, {}, timeout=60, cancelled=stop.is_set).result.success)

        thread = threading.Thread(target=run)
        thread.start()
        threading.Event().wait(0.2)
        began = bench.hub.runtime.monotonic()
        stop.set()
        thread.join(PROMPT)
        assert [False] == ended
        assert bench.hub.runtime.monotonic() - began < PROMPT
        assert "x" == bench.call(session, "echo", message="x").result.output

    def test_calls_side_by_side_are_not_mixed_up(self, bench: ClientUnderTest) -> None:
        """Each gets its own answer."""
        sessions = [bench.session() for _ in range(bench.room)]

        answers: dict[str, str] = {}

        def use(number: int) -> None:
            session = sessions[number % len(sessions)]
            for turn in range(3):
                text = f"{number}.{turn}"
                answers[text] = bench.call(session, "echo", message=text).result.output

        in_threads(*[partial(use, number) for number in range(2 * bench.room)])
        assert 6 * bench.room == len(answers)
        assert {text: text for text in answers} == answers

    def test_closing_ends_what_runs(self, bench: ClientUnderTest) -> None:
        """Nobody waits for it any more."""
        session = bench.session()
        begun = threading.Event()
        ended: list[bool] = []

        def run() -> None:
            heard: Callable[[str, str], None] = lambda stream, text: begun.set()  # noqa: E731
            ended.append(bench.client.execute(session.id, WAIT, {}, timeout=60, log=heard).result.success)

        thread = threading.Thread(target=run)
        thread.start()
        assert begun.wait(PROMPT)
        bench.client.close()
        thread.join(PROMPT)
        assert [False] == ended

    # -- checkpoints, and what becomes of the files

    def test_a_session_goes_back_to_its_checkpoint(self, bench: ClientUnderTest) -> None:
        """The newest, or the one that is named; who asked for it needs no notice."""
        session = bench.session()
        bench.write(session, "first")
        first = bench.client.checkpoint(session.id, "first")
        bench.write(session, "second")
        bench.client.checkpoint(session.id)
        bench.write(session, "third")
        bench.client.restore(session.id)
        executed = bench.call(session, "fs.read", path="file")
        assert ("second", ()) == (executed.result.data["contents"], executed.notices)
        bench.client.restore(session.id, first.id)
        assert ("first", "first") == (first.name, bench.read(session))
        with pytest.raises(NotFound, match="checkpoint"):
            bench.client.restore(session.id, "c-nothing")

    def test_a_checkpoint_makes_another_session(self, bench: ClientUnderTest) -> None:
        """With the same owner; the first one stays as it is."""
        session = bench.session()
        bench.write(session, "saved")
        bench.client.checkpoint(session.id)
        bench.write(session, "later")
        other = bench.client.restore(session.id, new_id="s-copy")
        assert ("s-copy", "ann", "work") == (other.id, other.user_id, other.workspace_id)
        assert ("saved", "later") == (bench.read(other), bench.read(session))

    def test_files_that_were_restored_are_noticed(self, bench: ClientUnderTest) -> None:
        """The next call says from which checkpoint, and what is lost; the one after has nothing to say."""
        session = bench.session()
        bench.write(session, "saved")
        checkpoint = bench.client.checkpoint(session.id, "mine")
        bench.write(session, "later")
        bench.lose(session.id)
        executed = bench.call(session, "fs.read", path="file")
        assert "saved" == executed.result.data["contents"]
        (notice,) = executed.notices
        assert f"{checkpoint.id} 'mine'" in notice
        assert "lost" in notice
        assert () == bench.call(session, "echo", message="x").notices

    def test_files_that_are_gone_are_no_empty_workspace(self, bench: ClientUnderTest) -> None:
        """Without a checkpoint calls say that the session is lost."""
        session = bench.session()
        bench.write(session, "x")
        bench.lose(session.id)
        with pytest.raises(SessionLost):
            bench.client.execute(session.id, "fs.list", {}, timeout=30)

    def test_another_session_of_the_same_id_is_noticed(self, bench: ClientUnderTest) -> None:
        """It has none of the files of the one that ended."""
        session = bench.session()
        bench.write(session, "x")
        bench.hub.sessions.destroy(session.id)
        again = bench.hub.sessions.create(session.id, user_id="ann", workspace_id="work")
        assert again.born != session.born
        deadline = bench.hub.runtime.monotonic() + PROMPT
        while "file" in (executed := bench.call(session, "fs.list")).result.data["entries"]:
            assert bench.hub.runtime.monotonic() < deadline, "the old files are there still"
            bench.hub.runtime.sleep(0.05)
        assert any("another one than before" in notice for notice in executed.notices)
