"""``ghcoord init`` and ``ghcoord doctor``."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Cli, Later
from tests.cli.terminal import Terminal


def _git(*args: object, where: Path) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *identity, *map(str, args)], cwd=where, check=True, capture_output=True)


def _findings(cli: Cli, *options: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in cli("doctor", "--json", *options).json["findings"]:
        found.setdefault(one["check"], []).append(one)
    return found


def test_init_makes_a_hub_once(cli: Cli, tmp_path: Path) -> None:
    """The first call makes the hub and the second says that it is there; both exit 0."""
    first = cli("init", "new/hub.git", "--json")
    assert (0, True) == (first.code, first.json["created"])
    second = cli("init", "new/hub.git")
    assert 0 == second.code
    assert "already" in second.out
    assert first.json["id"] == cli("init", "--hub", "new/hub.git", "--json").json["id"]
    assert str(tmp_path / "hub.git") == cli("init", "--json").json["hub"]


def test_init_takes_the_hub_of_the_settings(cli: Cli, tmp_path: Path) -> None:
    """Without PATH the hub is the one that other commands would use, here the one in ghcoord.toml."""
    (tmp_path / "ghcoord.toml").write_text('hub = "shared.git"\n')
    assert 0 == cli("init").code
    assert (tmp_path / "shared.git" / "HEAD").exists()
    assert 0 == cli("memory", "set", "k", "v").code


def test_init_refuses(cli: Cli, tmp_path: Path) -> None:
    """A folder with other files, two names, and a place that takes no folder each give one line."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert 2 == cli("init", "full").code
    assert "not a Git repository" in cli("init", "full").error
    assert 2 == cli("init", "a.git", "--hub", "b.git").code
    assert 7 == cli("init", "full/file/hub.git").code or 2 == cli("init", "full/file/hub.git").code
    assert 2 == cli("init", "gopher://example.org/hub.git").code
    assert 2 == cli("init", "a.git", "--create").code


def test_init_asks_before_it_uses_a_repository_of_files(cli: Cli, tmp_path: Path) -> None:
    """What it would add is said; without a terminal --yes is needed, and a hub that is there needs no answer."""
    _git("init", "-q", "work", where=tmp_path)
    refused = cli("init", "work")
    assert 2 == refused.code
    assert "adds branches below ghcoord/" in refused.error
    assert "--yes" in refused.error
    assert [] == list((tmp_path / "work" / ".git" / "refs").rglob("fleet"))
    assert 0 == cli("init", "work", "--yes").code
    assert "already" in cli("init", "work").out
    assert 0 == cli("--hub", "work", "lock", "list").code


@pytest.mark.parametrize(("answer", "code"), [("n", 130), ("y", 0)])
def test_init_asks_on_a_terminal(tmp_path: Path, answer: str, code: int) -> None:
    """A no changes nothing, a yes makes the hub."""
    _git("init", "-q", "work", where=tmp_path)
    with Terminal("init", "work") as terminal:
        terminal.wait_for("Make a hub in it?")
        terminal.type(f"{answer}\n")
        assert code == terminal.end()
    assert (code == 0) is (tmp_path / "work" / ".git" / "refs" / "heads" / "ghcoord" / "fleet").exists()


def test_doctor_of_a_good_hub(cli: Cli, hub: Path) -> None:
    """Every check of the hub is fine and the exit code is 0; the sandbox is reported either way."""
    done = cli("doctor")
    assert 0 == done.code
    for check in ("hub", "history", "records", "workers", "queue"):
        assert f"ok     {check}: " in done.out
    assert "sandbox: " in done.out


def test_doctor_names_namespaces_as_people_do(cli: Cli, hub: Path) -> None:
    """Not by their branch."""
    cli("memory", "set", "k", "v", "--namespace", "Team Ä")
    assert ", memory of Team Ä\n" in cli("doctor").out
    assert ["Team Ä"] == _findings(cli)["hub"][0]["details"]["namespaces"]


def test_doctor_without_a_usable_hub(cli: Cli, tmp_path: Path) -> None:
    """Exit code 7 and the fix, in plain and as JSON; a hub that was not even named is a usage error."""
    done = cli("doctor", "--hub", tmp_path / "missing")
    assert 7 == done.code
    assert "fix: 'ghcoord init" in done.out
    in_json = cli("doctor", "--hub", tmp_path, "--json")
    assert (7, False, "error") == (in_json.code, in_json.json["usable"], in_json.json["findings"][0]["level"])
    assert 2 == cli("doctor").code


def test_doctor_names_broken_records(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """A record broken by hand is named where it lies, then where it was set aside; nothing else stops."""
    cli("memory", "set", "k", "good")
    clone = tmp_path / "clone"
    _git("clone", "-q", "-b", "ghcoord/memory/global", hub, clone, where=tmp_path)
    record = next(clone.glob("keys/**/*.json"))
    record.write_text("{")
    _git("commit", "-qam", "break it", where=clone)
    _git("push", "-q", where=clone)
    (found,) = _findings(cli)["records"]
    assert "warning" == found["level"]
    assert "keys/" in found["message"]
    assert 0 == cli("memory", "set", "other", "v").code
    (found,) = _findings(cli)["records"]
    assert "broken/keys/" in found["message"]
    assert "restored" in found["message"]
    assert found["fix"]
    assert "good\n" == cli("memory", "get", "k").out


def test_doctor_adopts_history_that_went_back(cli: Cli, hub: Path) -> None:
    """A hub replaced by an older copy stops writes; --adopt needs a yes and makes it usable again."""
    cli("memory", "set", "k", "1")
    shutil.copytree(hub, "copy.git")
    cli("memory", "set", "k", "2")
    shutil.rmtree(hub)
    shutil.copytree("copy.git", hub)
    assert 7 == cli("memory", "set", "k", "3").code
    assert 7 == cli("doctor").code
    assert "error" == _findings(cli)["history"][0]["level"]
    assert 2 == cli("doctor", "--adopt").code
    assert 0 == cli("doctor", "--adopt", "--yes").code
    assert "nothing to adopt" in cli("doctor", "--adopt").out
    assert 0 == cli("memory", "set", "k", "3").code


def test_doctor_names_what_git_left_behind(cli: Cli, hub: Path) -> None:
    """A lock file of a killed git command is named with its path; one that is young is not."""
    left = hub / "refs" / "heads" / "ghcoord" / "fleet.lock"
    left.write_text("")
    assert "locks of git" not in _findings(cli)
    os.utime(left, (time.time() - 60, time.time() - 60))
    (found,) = _findings(cli)["locks of git"]
    assert str(left) in found["message"]
    assert f"rm {left}" in found["fix"]


def test_doctor_names_tasks_without_a_worker(cli: Cli, hub: Path) -> None:
    """Queued tasks are counted by tool when no living worker offers it, with another fix for tools of programs."""
    cli("task", "submit", "echo")
    cli("task", "submit", "echo")
    cli("task", "submit", "build")
    found = {one["details"]["tool"]: one for one in _findings(cli)["queue"]}
    assert {"echo": 2, "build": 1} == {tool: one["details"]["count"] for tool, one in found.items()}
    assert "worker start" in found["echo"]["fix"]
    assert "registers" in found["build"]["fix"]


def test_doctor_names_silent_workers(cli: Cli, hub: Path, later: Later) -> None:
    """A worker whose lease is over is named, and how it is recovered."""
    cli("worker", "register", "w1", "--ttl", "1")
    assert "ok" == _findings(cli)["workers"][0]["level"]
    later(3.5)
    (found,) = _findings(cli)["workers"]
    assert ("warning", {"worker": "w1"}) == (found["level"], found["details"])
    assert "reap" in found["fix"]
