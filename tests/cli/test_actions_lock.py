"""``ghcoord actions lock`` and ``unlock``, in this process; with processes of their own: tests/actions/test_lock.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from ghcoord.bootstrap import connect
from ghcoord.clock import SystemRuntime
from ghcoord.faces.actions.holdfile import HoldFolder, HoldState
from ghcoord.faces.actions.jobprocess import Process, ancestor, find
from ghcoord.faces.actions.lockholder import stop_holder
from tests.cli.running import REPOSITORY, Cli
from tests.cli.test_output import HOLD_KEYS
from tests.processes import until

LOCK = REPOSITORY / ".github" / "actions" / "lock"


def state_of(folder: Path) -> dict[str, Any]:
    """What the holder says; nothing before it does."""
    file = folder / "state.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"state": ""}
    return found


def test_lock_and_unlock(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """Holds until it is told to stop, and has released then."""
    folder = tmp_path / "held"
    seen: list[str] = []

    def stop() -> None:
        until(lambda: "held" == state_of(folder)["state"], every=0.01)
        with connect(hub) as other:
            seen.append(other.locks.holders("deploy")[0].owner)
        HoldFolder(folder).ask_to_stop()

    thread = threading.Thread(target=stop)
    thread.start()
    done = cli("actions", "lock", "deploy", "--folder", folder, "--owner", "run-1", "--json")
    thread.join()
    assert 0 == done.code, done.err
    assert ("released", "run-1") == (done.json["state"], done.json["owner"])
    assert HOLD_KEYS.split() == list(done.json)
    assert ["run-1"] == seen
    assert 3 == cli("lock", "show", "deploy").code
    again = cli("actions", "unlock", "--folder", folder)
    assert (0, "deploy released\n") == (again.code, again.out)


def test_lock_held_by_another(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """Exits 4 at once, or 9 after a wait, and says so in the folder."""
    cli("lock", "acquire", "deploy", "--owner", "someone")
    refused = cli("actions", "lock", "deploy", "--folder", tmp_path / "one", "--owner", "run-1")
    assert 4 == refused.code
    assert "'deploy' is held by 'someone'" in refused.error
    late = cli("actions", "lock", "deploy", "--folder", tmp_path / "two", "--owner", "run-1", "--wait", "10ms")
    assert 9 == late.code
    assert ["refused", "refused"] == [state_of(tmp_path / name)["state"] for name in ("one", "two")]


def test_a_folder_whose_lock_was_never_had_serves_again(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """The same line says the same again while another holds it, also after 'unlock', and gets it when it is free."""
    cli("lock", "acquire", "deploy", "--owner", "someone")
    line = ("actions", "lock", "deploy", "--folder", tmp_path / "held", "--owner", "run-1")
    for _ in range(2):
        assert (4, True) == ((done := cli(*line)).code, "'deploy' is held by 'someone'" in done.error)
        assert "deploy refused" in cli("actions", "unlock", "--folder", tmp_path / "held").out
    cli("lock", "release", "deploy", "--owner", "someone")
    assert 5 == cli(*line, "--at-most", "10ms").code
    again = cli(*line)
    assert (2, True) == (again.code, "is that of an earlier lock" in again.error)


def test_lock_told_to_stop_before_it_began(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """A job that is cancelled while ghcoord starts takes nothing."""
    HoldFolder(tmp_path / "held").make()
    HoldFolder(tmp_path / "held").ask_to_stop()
    done = cli("actions", "lock", "deploy", "--folder", tmp_path / "held", "--owner", "run-1", "--json")
    assert (0, "stopped") == (done.code, done.json["state"])
    assert 3 == cli("lock", "stats", "deploy").code


def test_lock_wants_a_folder_of_its_own(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """The folder of an earlier lock is refused, and so is one that cannot be made."""
    HoldFolder(tmp_path).write(HoldState("released", "deploy", "run-1"))
    assert "is that of an earlier lock" in cli("actions", "lock", "x", "--folder", tmp_path, "--owner", "a").error
    (tmp_path / "file").touch()
    done = cli("actions", "lock", "x", "--folder", tmp_path / "file" / "held", "--owner", "a")
    assert (2, True) == (done.code, "cannot be made" in done.error)


def test_at_most(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """After the longest time it is renewed no more, and unlock says that it was lost."""
    args = ("--folder", tmp_path / "held", "--owner", "run-1", "--at-most", "10ms")
    done = cli("actions", "lock", "deploy", *args)
    assert 5 == done.code
    assert "the longest that was allowed" in done.error
    assert 0 == cli("lock", "show", "deploy").code
    assert 5 == cli("actions", "unlock", "--folder", tmp_path / "held").code


def test_unlock_for_a_dead_holder(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """What a dead process held is released for it; without its grant it was lost."""
    acquired = cli("lock", "acquire", "deploy", "--owner", "run-1", "--json").json
    dead = subprocess.Popen(["true"])
    dead.wait()
    held = HoldState("held", "deploy", "run-1", pid=dead.pid, started=1, token=acquired["token"], ttl=60.0)
    HoldFolder(tmp_path).write(held)
    done = cli("actions", "unlock", "--folder", tmp_path)
    assert (0, True) == (done.code, "the process that held it had ended" in done.out)
    assert 3 == cli("lock", "show", "deploy").code
    HoldFolder(tmp_path).write(held)
    lost = cli("actions", "unlock", "--folder", tmp_path)
    assert 5 == lost.code
    assert "was lost while the job ran" in lost.error


def test_unlock_of_nothing(cli: Cli, tmp_path: Path) -> None:
    """Where no lock was asked for there is nothing to do, and no hub is needed."""
    done = cli("actions", "unlock", "--folder", tmp_path / "none", "--json")
    assert (0, None) == (done.code, done.json["state"])
    assert "no lock was asked for\n" == cli("actions", "unlock", "--folder", tmp_path).out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state": "odd", "name": "x", "owner": "y"}', '{"state": 7', "\xff"])
def test_unlock_with_a_broken_state(cli: Cli, tmp_path: Path, text: str) -> None:
    """A state that something else wrote is one line that names the file."""
    (tmp_path / "state.json").write_bytes(text.encode("latin-1"))
    done = cli("actions", "unlock", "--folder", tmp_path)
    assert 2 == done.code
    assert "state.json" in done.error


def test_holder_that_does_not_end(tmp_path: Path) -> None:
    """A holder that does not react is killed; who calls releases for it."""
    with subprocess.Popen(["sleep", "60"]) as process:
        found = find(process.pid)
        assert found is not None
        folder = HoldFolder(tmp_path)
        folder.write(HoldState("held", "deploy", "run-1", *found, token=7))
        state = stop_holder(SystemRuntime(), folder, 0.05)
        assert -9 == process.wait(5)
    assert state is not None
    assert "held" == state.state


def test_every_input_is_read() -> None:
    """No input of the action is without effect, and its programs read no other."""
    action = yaml.safe_load((LOCK / "action.yml").read_text())
    programs = "".join(file.read_text() for file in LOCK.glob("*.js"))
    assert set(action["inputs"]) == set(re.findall(r"(?:input|flag)\('([a-z-]+)'\)", programs))
    assert {"main.js", "post.js"} == {action["runs"]["main"], action["runs"]["post"]}
    assert "always()" == action["runs"]["post-if"]


def test_processes_are_told_apart() -> None:
    """A number that belongs to another process by now is not the same process."""
    me = find(os.getpid())
    assert me is not None
    assert me.alive
    assert not Process(me.pid, me.started + 1).alive
    assert find(2**22 + 1) is None
    assert ancestor("no such program") is None
