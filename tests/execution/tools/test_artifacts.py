"""``artifact.put``, ``artifact.get``, ``artifact.list``: between a session's files and the hub, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import ghcoord
from ghcoord.config import ArtifactSettings, Settings
from ghcoord.coord.artifacts.artifacts import Artifacts
from ghcoord.execution.running import to_record
from ghcoord.execution.tools import artifacts as module
from ghcoord.execution.tools.kit import Kit
from ghcoord.faces.artifact_views import artifact_view
from ghcoord.hub import Hub
from ghcoord.model.limits import Limits
from tests.execution.tools.conftest import Call, Context, named

BINARY = bytes(range(256)) * 300


@pytest.fixture
def hub() -> Iterator[Hub]:
    with ghcoord.connect("memory:", Settings(artifacts=ArtifactSettings(max_mb=1))) as opened:
        yield opened


@pytest.fixture
def call(kit: Kit, hub: Hub, session: Context) -> Call:
    """Call a tool of artifacts in the session."""
    tools = named(module.tools(replace(kit, artifacts=hub.artifacts)))
    return lambda verb, **args: tools[f"artifact.{verb}"].run(args, session)


def test_there_and_back(call: Call, session: Context, hub: Hub) -> None:
    """The result names the artifact, so does the task's record; it belongs to session and task."""
    (session.workspace / "out").mkdir()
    (session.workspace / "out" / "data.bin").write_bytes(BINARY)
    done = call("put", path="out/data.bin")
    assert done.success
    made = done.data["artifact"]
    assert ("data.bin", len(BINARY), "s1", "t1") == (made["name"], made["size"], made["session_id"], made["task_id"])
    assert (made["id"],) == done.artifacts == to_record(done, duration=0, now=1).artifacts
    assert artifact_view(hub.artifacts.list()[0]) == made
    assert [made] == call("list").data["artifacts"]
    got = call("get", id=made["id"], path="in/copy.bin")
    assert {"path": "in/copy.bin", "size": len(BINARY)} == got.data
    assert BINARY == (session.workspace / "in" / "copy.bin").read_bytes()
    assert {"path": "data.bin", "size": len(BINARY)} == call("get", id=made["id"]).data
    named_ = call("put", path="out/data.bin", name="other name", content_type="image/x-own").data["artifact"]
    assert ("other name", "image/x-own") == (named_["name"], named_["content_type"])
    assert 2 == len(hub.artifacts.list("s1"))


def test_only_the_sessions_own_are_listed(call: Call, hub: Hub) -> None:
    """Another's is not."""
    hub.artifacts.put("x", b"1", session_id="s2")
    hub.artifacts.put("x", b"1")
    assert [] == call("list").data["artifacts"]


def test_links_out_of_the_workspace_are_not_followed(call: Call, session: Context, tmp_path: Path, hub: Hub) -> None:
    """Neither to read a file of the worker's nor to write one; no FIFO makes it wait."""
    secret = tmp_path / "secret"
    secret.write_text("the worker's")
    (session.workspace / "link").symlink_to(secret)
    (session.workspace / "folder").symlink_to(tmp_path)
    os.mkfifo(session.workspace / "pipe")
    for path in ("link", "folder/secret", "pipe"):
        assert not call("put", path=path).success
    assert [] == hub.artifacts.list()
    made = hub.artifacts.put("x", b"new")
    assert not call("get", id=made.id, path="folder/secret").success
    call("get", id=made.id, path="link")
    assert "the worker's" == secret.read_text()


@pytest.mark.parametrize(
    ("verb", "args", "words"),
    [
        ("put", {"path": "/etc/passwd"}, "path must be relative to workspace root, got absolute path: /etc/passwd"),
        ("put", {"path": "../x"}, "path traversal not allowed: ../x"),
        ("get", {"id": "a1", "path": "../x"}, "path traversal not allowed: ../x"),
        ("get", {"id": "a1"}, "there is no artifact 'a1'"),
        ("get", {"id": "../x"}, "artifact id"),
        ("get", {}, "artifact.get needs the argument id"),
        ("put", {"path": "none"}, "none"),
        ("put", {"path": "f", "name": "a\nb"}, "unprintable"),
        ("put", {"path": "f", "content_type": "x"}, "content type"),
        ("put", {"path": "large"}, "artifacts.max_mb"),
        ("list", {"all": True}, "artifact.list has no argument 'all': it takes none"),
    ],
)
def test_refusals_are_results(
    call: Call, session: Context, hub: Hub, verb: str, args: dict[str, str], words: str
) -> None:
    """One sentence each, and nothing is stored."""
    (session.workspace / "f").write_text("x")
    (session.workspace / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    done = call(verb, **args)
    assert not done.success
    assert words in done.error
    assert [] == hub.artifacts.list()


def test_hostile_names_lead_nowhere(call: Call, session: Context, hub: Hub) -> None:
    """By default an artifact goes into a plain file at the top."""
    made = hub.artifacts.put("x/.ssh/authorized_keys; rm", b"1")
    assert "authorized_keys_rm" == call("get", id=made.id).data["path"]
    assert ["authorized_keys_rm"] == os.listdir(session.workspace)


def test_wrong_content_leaves_no_file(
    kit: Kit, session: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that gives something else, or a cancellation in the middle: the file before stays."""
    settings = Settings(artifacts=ArtifactSettings(where="directory", directory=str(tmp_path)))
    (session.workspace / "x").write_text("before")
    with ghcoord.connect("memory:", settings) as hub:
        tools = named(module.tools(replace(kit, artifacts=hub.artifacts)))
        made = hub.artifacts.put("x", BINARY)
        (held,) = (path for path in tmp_path.rglob("*") if path.is_file())
        held.write_bytes(BINARY[:-1] + b"?")
        done = tools["artifact.get"].run({"id": made.id}, session)
        assert (False, True) == (done.success, "other content" in done.error)
        held.write_bytes(BINARY)
        session.stop.set()
        assert "cancelled" in tools["artifact.get"].run({"id": made.id}, session).error
    assert ["x"] == os.listdir(session.workspace)
    assert "before" == (session.workspace / "x").read_text()


def test_the_workspaces_limits_hold(call: Call, session: Context, hub: Hub) -> None:
    """An artifact that does not fit is refused."""
    made = hub.artifacts.put("x", b"x" * (1024 * 1024))
    session.limits = Limits(workspace_mb=1)
    (session.workspace / "there").write_bytes(b"y" * 600_000)
    done = call("get", id=made.id)
    assert not done.success
    assert ["there"] == os.listdir(session.workspace)


def test_without_a_hub_there_are_none(kit: Kit, hub: Hub) -> None:
    """And they say that they work in a session only."""
    assert [] == module.tools(kit)
    assert isinstance(hub.artifacts, Artifacts)
    assert all(tool.needs_session for tool in module.tools(replace(kit, artifacts=hub.artifacts)))
