"""Scenarios of the rows of ``docs/parity.md`` about sessions, checkpoints, artifacts and tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ghcoord.bootstrap import describe_tools
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.model.limits import Limits
from ghcoord.model.session import Session, SessionStatus
from tests.docs.stage import Stage, row


def call(stage: Stage, session: str, tool: str, **args: Any) -> dict[str, Any]:
    """The fields that a tool returns from Python; the command line returns the same."""
    result = stage.hub.sessions.call(session, tool, args, timeout=60)
    assert result.success, result.error
    pairs = [word for name, value in args.items() for word in ("--arg", f"{name}={value}")]
    shown = stage.cli("tool", "call", tool, "--session", session, *pairs, "--json").json
    assert {*result.data} == {*shown["data"]}
    return result.data


# -- sessions


@row("Sessions, checkpoints, artifacts: CreateSession")
def _create(stage: Stage) -> None:
    made = stage.hub.sessions.create(
        "sess-1", user_id="user-1", workspace_id="ws-1", metadata={"a": 1}, env={"PYTHONPATH": "src"}
    )
    assert ("sess-1", "user-1", "ws-1", {"a": 1}) == (made.id, made.user_id, made.workspace_id, made.metadata)
    args = ("--id", "sess-2", "--workspace-id", "ws-1", "--meta", "a=1", "--env", "PYTHONPATH=src")
    assert "sess-2\n" == stage.cli("session", "create", *args).out


@row("Sessions, checkpoints, artifacts: GetSession")
def _get(stage: Stage) -> None:
    made = stage.hub.sessions.create()
    assert made == stage.hub.sessions.get(made.id)
    assert stage.hub.sessions.get("missing") is None
    assert (0, 3) == (stage.cli("session", "show", made.id).code, stage.cli("session", "show", "missing").code)


@row("Sessions, checkpoints, artifacts: DeleteSession")
def _destroy(stage: Stage) -> None:
    one, other = (stage.hub.sessions.create().id for _ in range(2))
    stage.hub.sessions.destroy(one)
    assert stage.hub.sessions.get(one) is None
    assert 0 == stage.cli("session", "destroy", other, "--yes").code


@row("Sessions, checkpoints, artifacts: CleanupStale")
def _clean(stage: Stage) -> None:
    stage.hub.sessions.create()
    assert 0 == stage.hub.sessions.clean(max_age=1800)
    assert {"stale": [], "cleaned": 0} == stage.cli("session", "clean", "--max-age", "30m", "--json").json


@row("Sessions, checkpoints, artifacts: SessionCount")
def _count(stage: Stage) -> None:
    stage.hub.sessions.create()
    total = stage.hub.sessions.count()
    assert 1 <= total
    assert f"{total}\n" == stage.cli("session", "list", "--count").out


@row("Sessions, checkpoints, artifacts: Session")
def _session(stage: Stage) -> None:
    keys = {"id", "workspace_id", "user_id", "created_at", "last_active", "metadata", "worker_id"}
    made = stage.hub.sessions.create()
    assert keys <= set(Session.model_fields)
    assert keys <= set(stage.cli("session", "show", made.id, "--json").json)


@row("Sessions, checkpoints, artifacts: session metadata co:867")
def _metadata(stage: Stage) -> None:
    sessions, made = stage.hub.sessions, stage.hub.sessions.create(metadata={"a": 1}).id
    assert {"a": 1, "b": 2} == sessions.merge_metadata(made, {"b": 2}) == sessions.metadata(made)
    assert {"c": 3} == sessions.replace_metadata(made, {"c": 3})
    assert {"c": 3, "d": "4"} == stage.cli("session", "metadata", made, "--set", "d=4").json
    assert {} == stage.cli("session", "metadata", made, "--replace", "{}").json


@row("Sessions, checkpoints, artifacts: activity, task history, usage wk:115")
def _status(stage: Stage) -> None:
    made = stage.hub.sessions.create().id
    call(stage, made, "echo", message="hi")
    status = stage.hub.sessions.status(made)
    assert isinstance(status, SessionStatus)
    assert {"memory", "cpu", "disk", "last_active", "tasks"} <= set(SessionStatus.model_fields)
    assert ["echo", "echo"] == [one["tool"] for one in stage.cli("session", "show", made, "--json").json["tasks"]]


@row("Sessions, checkpoints, artifacts: checkpoints wk:127")
def _checkpoints(stage: Stage) -> None:
    sessions, made = stage.hub.sessions, stage.hub.sessions.create().id
    call(stage, made, "fs.write", path="f", contents="one")
    first = sessions.checkpoint(made)
    call(stage, made, "fs.write", path="f", contents="two")
    assert ["f"] == [one.path for one in sessions.diff(made, first.id).changed]
    assert "M f\n" == stage.cli("session", "diff", made).out
    second = sessions.checkpoint(made)
    assert [first.id, second.id] == [one.id for one in sessions.checkpoints(made)]
    assert 2 == len(stage.cli("session", "checkpoint", made, "--list", "--json").json)
    sessions.restore(made, first.id)
    assert "one" == call(stage, made, "fs.read", path="f")["contents"]
    assert 0 == stage.cli("session", "restore", made, second.id, "--yes").code
    assert "two" == call(stage, made, "fs.read", path="f")["contents"]
    sessions.delete_checkpoint(made, first.id)
    third = stage.cli("session", "checkpoint", made, "--json").json["id"]
    assert 0 == stage.cli("session", "checkpoint", made, "--delete", third, "--yes").code


@row("Sessions, checkpoints, artifacts: limits wk:314")
def _limits(stage: Stage) -> None:
    limits = Limits(timeout=60, memory_mb=512, workspace_mb=100, processes=50, active_tasks=2)
    assert limits == stage.hub.sessions.create(limits=limits).limits
    made = stage.cli("session", "create", "--limit", "memory_mb=512", "--limit", "timeout=1m").out.strip()
    assert "timeout=60, memory_mb=512" in stage.cli("session", "show", made).out


@row("Sessions, checkpoints, artifacts: artifacts wk:181")
def _artifacts(stage: Stage) -> None:
    artifacts = stage.hub.artifacts
    made = artifacts.put("x.txt", b"content")
    assert made == artifacts.get(made.id)
    assert made.id in [one.id for one in artifacts.list()]
    assert artifacts.delete(made.id)
    Path("y.txt").write_text("y")
    other = stage.cli("artifact", "put", "y.txt", "--json").json["id"]
    assert 0 == stage.cli("artifact", "get", other, "-o", "z.txt").code
    assert other in stage.cli("artifact", "list").out
    assert 0 == stage.cli("artifact", "delete", other, "--yes").code


# -- tools


@row("Tools: ExecuteTask")
def _call(stage: Stage) -> None:
    made = stage.hub.sessions.create().id
    result = stage.hub.sessions.call(made, "shell", {"command": "exit 3"}, timeout=60)
    assert (False, 3) == (result.success, result.exit_code)
    line = ("tool", "call", "shell", "--session", made, "--arg", "command=exit 3", "--timeout", "5m")
    assert 3 == stage.cli(*line).code


@row("Tools: echo")
def _echo(stage: Stage) -> None:
    assert {"message": "hi"} == call(stage, stage.hub.sessions.create().id, "echo", message="hi")


@row("Tools: fs.write")
def _write(stage: Stage) -> None:
    made = stage.hub.sessions.create().id
    assert {"path": "a/f", "bytes_written": 2} == call(stage, made, "fs.write", path="a/f", contents="hi", mode="600")
    assert 0 == stage.cli("session", "put", made, "-", "g", stdin="x").code


@row("Tools: fs.read")
def _read(stage: Stage) -> None:
    made = stage.hub.sessions.create().id
    call(stage, made, "fs.write", path="f", contents="hello")
    found = stage.hub.sessions.call(made, "fs.read", {"path": "f", "offset": 1, "limit": 2, "encoding": "utf-8"}).data
    assert ("f", "el", 5) == (found["path"], found["contents"], found["size"])
    call(stage, made, "fs.read", path="f")
    assert "hello" == stage.cli("session", "get", made, "f", "-").out


@row("Tools: fs.list")
def _list(stage: Stage) -> None:
    made = stage.hub.sessions.create().id
    call(stage, made, "fs.write", path="a/f.txt", contents="hello")
    asked = {"path": ".", "recursive": True, "glob": "*.txt", "details": True}
    found = stage.hub.sessions.call(made, "fs.list", asked).data
    assert (["a/f.txt"], 5) == (found["entries"], found["details"][0]["size"])
    assert ["f.txt"] == call(stage, made, "fs.list", path="a")["entries"]


@row("Tools: run.python")
def _python(stage: Stage) -> None:
    made = stage.hub.sessions.create().id
    assert {"stdout": "42\n", "stderr": "", "exit_code": 0} == call(stage, made, "run.python", code="print(42)")
    failed = stage.hub.sessions.call(
        made, "run.python", {"code": "1/0", "args": ["a"], "stdin": "x", "env": {"A": "1"}}
    )
    assert "ZeroDivisionError: division by zero" == failed.error
    assert failed.data["stderr"].startswith("Traceback")


@row("Tools: pkg.install")
def _install(stage: Stage) -> None:
    made = stage.hub.sessions.create().id
    (tool,) = (one for one in describe_tools() if one.name == "pkg.install")
    assert tool.arguments is not None
    assert tool.returns is not None
    assert ["requirements"] == tool.arguments["required"]
    assert {"installed", "stdout"} <= set(tool.returns["properties"])
    line = ("tool", "call", "pkg.install", "--session", made, "--arg", "requirements=-r /etc/passwd")
    assert 8 == stage.cli(*line).code
    assert not stage.hub.sessions.call(made, "pkg.install", {"requirements": "../x"}).success


@row("Tools: test.run")
def _test(stage: Stage) -> None:
    made = stage.hub.sessions.create().id
    (tool,) = (one for one in describe_tools() if one.name == "test.run")
    assert tool.returns is not None
    assert {"passed", "failed", "errors", "skipped", "tests"} <= set(tool.returns["properties"])
    missing = stage.hub.sessions.call(made, "test.run", {"paths": ["nosuch"], "args": ["-q"]})
    assert not missing.success
    assert 0 != stage.cli("tool", "call", "test.run", "--session", made).code


# -- settings


def told(stage: Stage, *args: str) -> dict[str, Any]:
    """What a worker is told that is started with ``args``."""
    seen: dict[str, Any] = {}

    class Told(WorkerDaemon):
        def __init__(self, *args: Any, **given: Any) -> None:
            seen.update(given)
            super().__init__(*args, **given)

    stage.monkeypatch.setattr("ghcoord.faces.cli.daemon.WorkerDaemon", Told)
    assert 0 == stage.cli("worker", "start", "--id", "w9", "--until-idle", "50ms", "--no-commands", *args).code
    return seen


@row("Settings: MAX_SESSIONS")
def _max_sessions(stage: Stage) -> None:
    assert 5 == told(stage)["max_sessions"]
    stage.monkeypatch.setenv("GHCOORD_MAX_SESSIONS", "7")
    assert (7, 9) == (told(stage)["max_sessions"], told(stage, "--max-sessions", "9")["max_sessions"])


@row("Settings: CHECKPOINT_DIR")
def _checkpoint_dir(stage: Stage) -> None:
    assert (None, 10) == (told(stage)["checkpoint_dir"], told(stage)["max_checkpoints"])
    stage.monkeypatch.setenv("GHCOORD_CHECKPOINT_DIR", "kept")
    stage.monkeypatch.setenv("GHCOORD_MAX_CHECKPOINTS", "3")
    given = told(stage)
    assert (Path("kept"), 3) == (given["checkpoint_dir"], given["max_checkpoints"])
    given = told(stage, "--checkpoint-dir", "here", "--max-checkpoints", "4")
    assert (Path("here"), 4) == (given["checkpoint_dir"], given["max_checkpoints"])


@row("Settings: PYTHONPATH")
def _network(stage: Stage) -> None:
    assert 0 == stage.cli("worker", "register", "w1").code
    args = ("--allow", "example.org", "--env", "PYTHONPATH=src", "--sandbox", "none", "--id", "s1")
    assert 0 == stage.cli("session", "create", *args).code
    made = stage.hub.sessions.get("s1")
    assert made is not None
    assert (("example.org",), {"PYTHONPATH": "src"}) == (made.allow, made.env)


@row("Settings: memory and disk a session wk:294 co:1018")
def _bench(stage: Stage) -> None:
    assert {"memory", "cpu", "disk"} <= set(SessionStatus.model_fields)
    done = stage.cli("bench", "session", "--quick", "--yes")
    assert 0 == done.code, done.err
