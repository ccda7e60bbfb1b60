"""A session saved in one worker's pool goes on in another one's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ghcoord.execution.checkpoints.checkpoints import Checkpoints
from ghcoord.execution.session.pool import SessionPool
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.tools.registry import builtin_tools
from ghcoord.hub import Hub
from ghcoord.model.session import Checkpoint
from ghcoord.model.worker import SandboxInfo
from tests.execution.checkpoints.conftest import Desk


@pytest.fixture
def pool(hub: Hub, tmp_path: Path, kit: Kit, here: Desk) -> Iterator[Callable[[str], SessionPool]]:
    """Makes the pool of a worker with all tools and folders of its own."""
    made: list[SessionPool] = []

    def make(worker: str) -> SessionPool:
        base = tmp_path / f"base-{worker}"
        base.mkdir(mode=0o711)
        checkpoints = Checkpoints(base / ".checkpoints", hub)
        one = SessionPool(hub, worker, base=base, kit=kit, checkpoints=checkpoints, log=lambda level, text: None)
        one.serve({tool.name: tool for tool in builtin_tools(kit)})
        answer = hub.workers.register(worker, max_sessions=5, sandbox=SandboxInfo(driver="bwrap", tier="full"))
        assert one.recover(answer.token)
        made.append(one)
        return one

    yield make
    for each in made:
        each.close()


def call(pool: SessionPool, tool: str, args: dict[str, Any], **options: Any) -> Any:
    """The data of a call that succeeds."""
    result = pool.call("s1", tool, args, **options)
    assert result.success, result.error
    return result.data


def test_a_session_moves_with_its_checkpoint(hub: Hub, pool: Callable[[str], SessionPool]) -> None:
    """Files, what was called with a key, and the differences are there on the next worker; what came later is not."""
    first = pool("w1")
    first.create("s1", metadata={"k": 1})
    call(first, "fs.write", {"path": "d/a", "contents": "one\n"}, key="write")
    made = Checkpoint.model_validate(call(first, "session.checkpoint", {"name": "mine"})["checkpoint"])
    assert ("mine", 1, True) == (made.name, made.files, made.published)
    assert [made.id] == [one.id for one in hub.sessions.checkpoints("s1")]
    call(first, "fs.write", {"path": "d/a", "contents": "two\n"})
    diff = call(first, "session.diff", {"text": True})["diff"]
    assert [("d/a", True)] == [(one["path"], "-one\n+two\n" in one["text"]) for one in diff["changed"]]

    second = pool("w2")
    hub.sessions.restore("s1", made.id, worker="w2")
    assert "one\n" == call(second, "fs.read", {"path": "d/a"})["contents"]
    again = call(second, "fs.write", {"path": "d/a", "contents": "one\n"}, key="write")
    assert {"path": "d/a", "bytes_written": 4} == {name: again[name] for name in ("path", "bytes_written")}
    assert {"k": 1} == hub.sessions.metadata("s1")
    assert "no difference" == second.call("s1", "session.diff", {}).output
