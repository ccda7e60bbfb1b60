"""``ghcoord mcp`` where bubblewrap does not work: said at the start, before an agent finds out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.bootstrap import create
from ghcoord.errors import NoCapacity, SandboxError
from ghcoord.execution.sandbox.landlock import check_landlock
from ghcoord.faces.cli.mcprun import WorkerOptions, worker_client
from ghcoord.faces.mcp.caller import Caller
from ghcoord.hub import Hub

ANN = Caller("ann", "home", "server-1", "test")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on a machine that has Landlock and no bubblewrap."""
    try:
        check_landlock()
    except SandboxError as why:
        pytest.skip(f"Landlock is not usable here: {why.message}")
    monkeypatch.setattr("ghcoord.execution.sandbox.open.find_bwrap", lambda: None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with create(tmp_path / "hub.git", state=tmp_path / "state")[0] as opened:
        yield opened


def said(hub: Hub, capsys: pytest.CaptureFixture[str], sandbox: str | None) -> tuple[str, str]:
    """What starting says, and why no session can be made; empty when one can."""
    options = WorkerOptions(1, 1, None, sandbox, False)
    ended = hub.runtime.event()
    with worker_client(hub, options, lambda: None, ended, lambda level, text: None) as client:
        try:
            client.create(ANN)
        except NoCapacity as error:
            return capsys.readouterr().err, error.message
    return capsys.readouterr().err, ""


def test_a_weaker_sandbox_is_said_at_the_start(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """One line: what is missing, how to get it, how to accept less; and no session is made in it."""
    line, why = said(hub, capsys, None)
    assert (
        "no session can be made: bubblewrap is not installed, and landlock is weaker: install it, e.g. "
        "'apt-get install bubblewrap', or start with --sandbox landlock to accept it\n"
    ) == line
    assert "tier partial, not full" in why


def test_one_that_was_named_is_accepted(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """With --sandbox landlock nothing is said, and sessions are made."""
    assert ("", "") == said(hub, capsys, "landlock")
