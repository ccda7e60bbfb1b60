"""``session.checkpoint`` and ``session.diff``, as calls in a session."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ghcoord.coord.sessions.differences import Change, Diff, Names
from ghcoord.errors import LeaseLost, UsageError
from ghcoord.execution.tools.checkpoints import tools
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.codec import stamp
from ghcoord.model.session import Checkpoint
from ghcoord.model.tool import Tool
from tests.execution.checkpoints.conftest import RUNTIME
from tests.execution.environment.context import Context

TOOLS: dict[str, Tool] = {tool.name: tool for tool in tools(Kit(None, RUNTIME))}


@dataclass
class InSession(Context):
    """A call's context that saves and compares by heart."""

    asked: list[Any] = field(default_factory=list)
    found: Diff = field(default_factory=lambda: Diff(a="c1", b=None))

    def checkpoint(self, name: str = "") -> Checkpoint:
        self.asked.append(name)
        if name == "lost":
            raise LeaseLost("the session is elsewhere")
        return Checkpoint(id="c1", created_at=stamp(1e9), name=name, epoch=1)

    def diff(self, a: str | None = None, b: str | None = None, *, text: bool = False) -> Diff:
        self.asked.append((a, b, text))
        return self.found


def test_saving(tmp_path: Path) -> None:
    """The checkpoint's record is what the call returns; a failure is its error."""
    ctx = InSession(tmp_path)
    result = TOOLS["session.checkpoint"].run({"name": "x"}, ctx)
    assert (True, "c1", "x") == (result.success, result.output, Checkpoint(**result.data["checkpoint"]).name)
    failure = TOOLS["session.checkpoint"].run({"name": "lost"}, ctx)
    assert (False, "the session is elsewhere") == (failure.success, failure.error)


def test_comparing(tmp_path: Path) -> None:
    """The difference is what the call returns, in JSON and in a few words."""
    ctx = InSession(tmp_path)
    run = TOOLS["session.diff"].run
    assert "no difference" == run({}, ctx).output
    ctx.found = Diff(a="c1", b="c2", added=(Change(path="p", kind="file"),))
    result = run({"a": "c1", "b": "c2", "text": True}, ctx)
    assert "1 added" == result.output
    assert ctx.found == Diff.model_validate(result.data["diff"])
    ctx.found = Diff(a="c1", b="c2", packages=Names(added=("x==1",)))
    assert "packages or settings differ" == run({}, ctx).output
    assert [(None, None, False), ("c1", "c2", True), (None, None, False)] == ctx.asked


def test_arguments_and_place(tmp_path: Path) -> None:
    """Unknown arguments are refused, and so is a call outside a session."""
    for name, tool in TOOLS.items():
        assert tool.needs_session
        assert tool.arguments is not None
        assert tool.returns is not None
        with pytest.raises(UsageError, match="no argument"):
            tool.check({"other": 1})
        result = tool.run({}, Context(tmp_path))
        assert (False, True) == (result.success, f"{name} works in a session only" in result.error)
    with pytest.raises(UsageError):
        TOOLS["session.checkpoint"].check({"name": "x" * 201})
