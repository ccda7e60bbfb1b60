"""Issue 2, line 6: people clone the hub, read it, edit, break and delete records, and push."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import ghcoord.bootstrap as bootstrap
from tests.processes import call as cli

IDENTITY = ("-c", "user.name=Ann", "-c", "user.email=ann@example.invalid")


def git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *args], cwd=folder, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def ok(hub: Path, *args: str) -> dict[str, object]:
    done = cli(hub, *args, "--json")
    assert 0 == done.returncode, done.stdout + done.stderr
    value: dict[str, object] = json.loads(done.stdout)
    return value


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    path = tmp_path / "hub.git"
    opened, _ = bootstrap.create(path)
    with opened:
        for name in ("one", "two", "three"):
            opened.tasks.submit("echo", {"message": name}, id=name)
        opened.locks.acquire("deploy", "ann")
        opened.memory.set("colour", {"hex": "#00ff00"})
    return path


def clone(hub: Path, space: str) -> Path:
    folder = hub.parent / f"clone-{space.replace('/', '-')}"
    git(hub.parent, "clone", "-q", "--branch", f"ghcoord/{space}", str(hub), str(folder))
    return folder


def record(folder: Path, name: str) -> Path:
    [found] = folder.glob(f"*/*/*/{name}.json")
    return found


def push(folder: Path, message: str) -> None:
    git(folder, "commit", "-q", "-a", "-m", message)
    git(folder, "push", "-q")


def test_a_clone_shows_records_that_a_person_can_read(hub: Path) -> None:
    """`git clone` without options checks out the fleet: a README and one indented, sorted JSON file a record."""
    git(hub.parent, "clone", "-q", str(hub), "plain")
    plain = hub.parent / "plain"
    assert "ghcoord: fleet" in (plain / "README.md").read_text()
    text = record(plain, "one").read_text()
    value = json.loads(text)
    assert json.dumps(value, indent=2, sort_keys=True) + "\n" == text
    assert ("echo", "queued", {"message": "one"}) == (value["tool"], value["state"], value["args"])
    branches = set(git(plain, "branch", "-r", "--format", "%(refname:short)").split())
    assert {"origin/ghcoord/meta", "origin/ghcoord/locks", "origin/ghcoord/memory/global"} <= branches


def test_an_edited_record_is_picked_up(hub: Path) -> None:
    """A priority raised by hand decides what runs next: the index follows the edit."""
    folder = clone(hub, "fleet")
    file = record(folder, "three")
    file.write_text(file.read_text().replace('"priority": 0', '"priority": 9'))
    push(folder, "three first")
    ok(hub, "worker", "register", "w1")
    assert 9 == ok(hub, "task", "show", "three")["priority"]
    listed = cli(hub, "task", "list", "--state", "queued", "--json")
    assert ["three", "one", "two"] == [task["id"] for task in json.loads(listed.stdout)]


def test_a_broken_record_is_set_aside_and_nothing_else_stops(hub: Path) -> None:
    """A record broken by hand: the last good version is back, the broken text is kept, doctor says where and why."""
    folder = clone(hub, "fleet")
    file = record(folder, "two")
    file.write_text(file.read_text()[:-20])
    push(folder, "oops")
    before = cli(hub, "doctor")
    assert "two.json" in before.stdout
    ok(hub, "task", "submit", "echo", "--arg", "message=four", "--id", "four")
    assert "queued" == ok(hub, "task", "show", "two")["state"]
    said = cli(hub, "doctor")
    assert 0 == said.returncode
    assert "two.json" in said.stdout
    assert "not JSON" in " ".join(said.stdout.split())
    git(folder, "pull", "-q", "--rebase")
    assert list(folder.glob("broken/**/two.json"))
    done = cli(hub, "worker", "start", "--id", "w1", "--until-idle", "0.3s", "--poll", "0.1s")
    assert 0 == done.returncode, done.stderr
    listed = cli(hub, "task", "list", "--state", "succeeded", "--json")
    assert {"one", "two", "three", "four"} == {task["id"] for task in json.loads(listed.stdout)}


def test_a_new_broken_file_is_set_aside(hub: Path) -> None:
    """A record that never was good goes to broken/ and is gone from where it lay."""
    folder = clone(hub, "locks")
    (folder / "locks" / "aa").mkdir(exist_ok=True)
    (folder / "locks" / "aa" / "junk.json").write_text("{}")
    git(folder, "add", ".")
    push(folder, "junk")
    assert 0 == cli(hub, "lock", "acquire", "other", "--owner", "ben").returncode
    git(folder, "pull", "-q", "--rebase")
    assert not (folder / "locks" / "aa" / "junk.json").exists()
    assert list(folder.glob("broken/**/junk.json"))


def test_a_deleted_lock_is_free_and_its_old_token_is_refused(hub: Path) -> None:
    """Deleting a lock's file and pushing is a forced unlock: the next token is higher, the old one no longer writes."""
    old = ok(hub, "lock", "show", "deploy")["token"]
    folder = clone(hub, "locks")
    record(folder, "deploy").unlink()
    push(folder, "free it")
    assert 3 == cli(hub, "lock", "show", "deploy").returncode
    new = ok(hub, "lock", "acquire", "deploy", "--owner", "ben")["token"]
    assert isinstance(old, int)
    assert isinstance(new, int)
    assert new > old
    assert 5 == cli(hub, "memory", "set", "k", "v", "--fence", f"deploy:{old}").returncode


def test_an_edited_value_is_read(hub: Path) -> None:
    """A value edited by hand is what `memory get` prints; a key deleted by hand is gone."""
    folder = clone(hub, "memory/global")
    file = record(folder, "colour")
    file.write_text(file.read_text().replace("#00ff00", "#ff0000"))
    push(folder, "red")
    assert {"hex": "#ff0000"} == json.loads(cli(hub, "memory", "get", "colour").stdout)
    git(folder, "pull", "-q")
    record(folder, "colour").unlink()
    push(folder, "none")
    assert 3 == cli(hub, "memory", "get", "colour").returncode


def test_a_broken_root_record_is_made_anew(hub: Path) -> None:
    """space.json destroyed by hand: the revision goes on from the trailers, tokens keep growing."""
    old = ok(hub, "lock", "show", "deploy")["token"]
    folder = clone(hub, "locks")
    (folder / "space.json").write_text("gone")
    push(folder, "oops")
    new = ok(hub, "lock", "acquire", "second", "--owner", "ben")["token"]
    assert isinstance(old, int)
    assert isinstance(new, int)
    assert new > old
    git(folder, "pull", "-q", "--rebase")
    assert json.loads((folder / "space.json").read_text())["revision"] >= new


def test_a_deleted_branch_stops_writes_until_it_is_adopted(hub: Path) -> None:
    """A vanished space is not silently made again: writes stop, doctor says so, --adopt goes on with higher tokens."""
    old = ok(hub, "lock", "acquire", "mine", "--owner", "ann")["token"]
    git(hub, "update-ref", "-d", "refs/heads/ghcoord/locks")
    refused = cli(hub, "lock", "acquire", "mine", "--owner", "ben")
    assert 7 == refused.returncode
    assert "doctor --adopt" in refused.stderr
    assert "vanished" in cli(hub, "doctor").stdout
    assert 0 == cli(hub, "doctor", "--adopt", "--yes").returncode
    new = ok(hub, "lock", "acquire", "mine", "--owner", "ben")["token"]
    assert isinstance(old, int)
    assert isinstance(new, int)
    assert new > old
