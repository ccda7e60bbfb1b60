"""Sessions of real worker daemons, each a process of its own: restarted, drained, killed, destroyed, full."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from ghcoord.errors import NoCapacity, NotFound, SessionLost
from ghcoord.execution.sandbox.open import Probe
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.hub import Hub
from ghcoord.model.session import SessionState
from tests.processes import call, needs_program, until, workers

FAST = ("--ttl", "3", "--poll", "0.1s")


@pytest.fixture(autouse=True)
def _needs() -> None:
    needs_program("bwrap")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Where the workers of one machine have their workspaces."""
    folder = tmp_path / "base"
    folder.mkdir(mode=0o711)
    os.chmod(folder, 0o711)
    for above in folder.parents:
        if above.stat().st_uid == os.getuid() and above != Path("/tmp"):
            above.chmod(above.stat().st_mode | 0o011)
    return folder


def args(base: Path, *more: str) -> tuple[str, ...]:
    return (*FAST, "--workspace", str(base), *more)


def registered(hub: Hub, worker: str) -> None:
    until(lambda: worker in {one.id for one in hub.workers.list("active")})


def shell(hub: Hub, session: str, command: str) -> str:
    """The output of a command in the session."""
    result = hub.sessions.call(session, "shell", {"command": command}, wait=60)
    assert result.success, result.error
    return result.output


def state(hub: Hub, session: str) -> SessionState | None:
    found = hub.sessions.get(session)
    return None if found is None else found.state


def folders(base: Path) -> set[str]:
    """Sessions that have a folder below ``base``."""
    return {path.parent.name for path in base.glob("sessions/*/*/*/session.json")}


def test_a_session_through_its_life(hub: Hub, base: Path) -> None:
    """Created, called, reattached after a SIGKILL, parked by a drain, restored, destroyed: files stay until the end."""
    with workers(hub.url, "w1", args=args(base, "--limit", "memory_mb=777")) as [first]:
        registered(hub, "w1")
        worker = hub.workers.get("w1")
        assert worker is not None
        assert worker.sandbox is not None
        assert worker.sandbox.model_dump()["limits"]["by"]
        hub.sessions.create("s1", metadata={"who": "me"}, env={"GREETING": "hello"})
        assert "hello\n" == shell(hub, "s1", "echo $GREETING | tee file")
        assert "/workspace/.venv/bin/python\n" == shell(hub, "s1", "command -v python")
        found = hub.sessions.get("s1")
        assert found is not None
        assert (SessionState.ACTIVE, "w1", 2) == (found.state, found.worker_id, found.calls)
        first.signal(signal.SIGKILL)
        first.process.wait(10)
    assert {"s1"} == folders(base)
    with workers(hub.url, "w1", args=args(base)) as [again]:
        assert "hello\n" == shell(hub, "s1", "cat file")
        assert ["hello\n"] * 2 == [shell(hub, "s1", f"cat file; touch new{n}") for n in range(2)]
        again.signal(signal.SIGTERM)
        code, output = again.wait(30)
    assert 0 == code, output
    assert SessionState.PARKED == state(hub, "s1"), output
    assert set() == folders(base)
    with workers(hub.url, "w2", args=args(base)):
        registered(hub, "w2")
        assert "file\nnew0\nnew1\n" == shell(hub, "s1", "ls")
        found = hub.sessions.get("s1")
        assert found is not None
        assert ({"who": "me"}, "w2") == (found.metadata, found.worker_id)
        assert found.restored_from is not None
        hub.sessions.destroy("s1")
        until(lambda: not folders(base))
        with pytest.raises(NotFound):
            hub.sessions.call("s1", "shell", {"command": "true"}, wait=5)


@pytest.mark.slow
def test_a_session_of_a_killed_worker_goes_on_elsewhere(hub: Hub, base: Path, tmp_path: Path) -> None:
    """Its last checkpoint is what the next call finds on another worker; without one it is lost, and says so."""
    with workers(hub.url, "w1", args=args(base)) as [first]:
        registered(hub, "w1")
        for name in ("s1", "s2"):
            hub.sessions.create(name)
            shell(hub, name, "echo saved >file")
        saved = hub.sessions.checkpoint("s1", "mine")
        shell(hub, "s1", "echo later >file")
        with workers(hub.url, "w2", args=args(tmp_path / "elsewhere")):
            registered(hub, "w2")
            first.signal(signal.SIGKILL)
            assert "saved\n" == shell(hub, "s1", "cat file")
            found = hub.sessions.get("s1")
            assert found is not None
            assert ("w2", saved.id) == (found.worker_id, found.restored_from)
            until(lambda: state(hub, "s2") == SessionState.LOST)
            with pytest.raises(SessionLost):
                hub.sessions.call("s2", "shell", {"command": "true"}, wait=5)


def test_a_worker_takes_so_many_sessions(hub: Hub, base: Path) -> None:
    """The next one is refused and says why, until one goes."""
    with workers(hub.url, "w1", args=args(base, "--max-sessions", "2")):
        registered(hub, "w1")
        for name in ("s1", "s2"):
            hub.sessions.create(name)
        with pytest.raises(NoCapacity, match="no room"):
            hub.sessions.create("s3")
        hub.sessions.destroy("s1")
        hub.sessions.create("s3")
        assert "x\n" == shell(hub, "s3", "echo x")


@pytest.mark.slow
def test_a_session_has_limits(hub: Hub, base: Path) -> None:
    """Those of the session, under those of the worker: time and output."""
    with workers(hub.url, "w1", args=args(base, "--limit", "output_kb=4")):
        registered(hub, "w1")
        hub.sessions.create("s1", limits={"timeout": 0.5, "output_kb": 64})
        slow = hub.sessions.call("s1", "shell", {"command": "sleep 30"}, timeout=20, wait=30)
        assert "timed out" in slow.error
        wide = hub.sessions.call("s1", "shell", {"command": "head -c 20000 /dev/zero | tr '\\0' x"}, wait=30)
        assert wide.truncated
        assert len(wide.output) < 6000


def test_a_folder_for_checkpoints_that_cannot_be_used_is_refused(hub: Hub) -> None:
    """At the start, not when there is something to save."""
    refused = call(hub.url, "worker", "start", "--no-commands", "--checkpoint-dir", "/proc/x", "--until-idle", "0.1s")
    assert (6, True) == (refused.returncode, "cannot use /proc/x for checkpoints" in refused.stderr)
    assert [] == hub.workers.list()


def test_a_worker_without_sandbox_does_not_start(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to do, exits 7 and registers nothing; a Python program goes on with the other tools."""
    monkeypatch.setattr("ghcoord.execution.offer.open_sandbox", lambda **given: None)
    found = Probe(False, "bubblewrap is not installed", "install it, e.g. 'apt-get install bubblewrap'")
    monkeypatch.setattr("ghcoord.execution.offer.probe", lambda runtime: found)
    refused = call(hub.url, "worker", "start", "--until-idle", "0.1s")
    assert 7 == refused.returncode
    assert "apt-get install bubblewrap" in refused.stderr
    assert "--no-commands" in refused.stderr
    assert [] == hub.workers.list()
    hub.tasks.submit("echo", {"message": "x"})
    said: list[str] = []
    daemon = WorkerDaemon(hub, "w1", until_idle=0.1, poll=0.05, log=lambda level, text: said.append(text))
    assert 1 == daemon.run().succeeded
    assert any("no sandbox works here" in line for line in said)


def test_what_a_worker_is_told_of_sessions(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option goes before its variable, that before the setting; what cannot be is refused in one sentence."""
    given = ("worker", "start", "--no-commands", "--until-idle", "0.1s")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ghcoord.toml").write_text("[worker]\nmax_sessions = 6\n")
    assert ", 6 sessions, " in call(hub.url, *given).stderr
    monkeypatch.setenv("GHCOORD_MAX_SESSIONS", "7")
    monkeypatch.setenv("GHCOORD_CHECKPOINT_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("GHCOORD_MAX_CHECKPOINTS", "3")
    monkeypatch.setenv("GHCOORD_BASE_WORKSPACE", str(tmp_path / "work"))
    assert ", 7 sessions, " in call(hub.url, *given).stderr
    assert (tmp_path / "work").is_dir()
    assert ", 8 sessions, " in call(hub.url, *given, "--max-sessions", "8").stderr
    for wrong, says in (
        (("--max-sessions", "0"), "from 1 to 10000"),
        (("--max-checkpoints", "x"), "not a whole number"),
        (("--limit", "memory_mb"), "--limit takes key=value"),
        (("--limit", "colour=1"), "'colour' is no limit: one of timeout"),
        (("--limit", "memory_mb=1"), "limit memory_mb"),
    ):
        refused = call(hub.url, *given, *wrong)
        assert 2 == refused.returncode
        assert says in refused.stderr
    monkeypatch.setenv("GHCOORD_MAX_CHECKPOINTS", "0")
    assert 2 == call(hub.url, *given).returncode
    monkeypatch.delenv("GHCOORD_MAX_CHECKPOINTS")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "sessions").write_text("")
    refused = call(hub.url, *given, "--workspace", str(tmp_path / "taken"))
    assert 6 == refused.returncode
    assert "for sessions" in refused.stderr
    assert [] == hub.workers.list()


def test_named_choices_of_the_sandbox(hub: Hub, tmp_path: Path) -> None:
    """What cannot be is refused with the fix; --no-commands needs none and offers none."""
    refused = call(hub.url, "worker", "start", "--sandbox", "none")
    assert 2 == refused.returncode
    assert "--unsafe-no-sandbox" in refused.stderr
    refused = call(hub.url, "worker", "start", "--sandbox", "container")
    assert 0 != refused.returncode
    assert "image" in refused.stderr
    refused = call(hub.url, "worker", "start", "--no-commands", "--sandbox", "bwrap")
    assert 2 == refused.returncode
    done = call(hub.url, "--json", "worker", "start", "--no-commands", "--until-idle", "0.1s", "--id", "w9")
    assert 0 == done.returncode, done.stderr
    assert "w9" == json.loads(done.stdout)["worker_id"]
    assert "no sandbox" in done.stderr
    assert "shell" not in done.stderr
