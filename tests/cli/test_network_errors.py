"""What stands between a user and a hub on GitHub is one line with the fix, and tokens are seen nowhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ghcoord.store.wrappers import RetryingStore
from ghcoord.twin.repository import Protection, RefUpdate, Repository
from ghcoord.twin.server import Twin
from tests.cli.running import Cli, Run, spawn

TOKENS = ("GH_TOKEN", "GITHUB_TOKEN", "GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN", "GHCOORD_GITHUB_API")
TOKEN = "ghp_v3rySecretTokenOfMine0123456789"


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twin]:
    """A GitHub with me/hub, which GHCOORD_HUB names; GH_TOKEN may do everything."""
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Twin(tmp_path / "twin") as twin:
        twin.repository("me", "hub")
        monkeypatch.setenv("GH_TOKEN", twin.user("me", TOKEN))
        monkeypatch.setenv("GHCOORD_HUB", url_of(twin))
        yield twin


def url_of(twin: Twin, path: str = "me/hub") -> str:
    return f"github://{twin.url.removeprefix('http://')}/{path}"


def repository(twin: Twin, name: str = "me/hub") -> Repository:
    return twin.hosting.repositories[name]


def errors(run: Run) -> list[tuple[str, str]]:
    """Findings of doctor that make the hub unusable: what and fix."""
    return [(one["message"], one["fix"]) for one in run.json["findings"] if one["level"] == "error"]


def levels(run: Run) -> dict[str, str]:
    """Of each check of doctor the level that came last."""
    return {one["check"]: one["level"] for one in run.json["findings"]}


def test_a_hub_on_github(twin: Twin, cli: Cli) -> None:
    """Init, a lock and doctor work, and doctor says who, where and which driver."""
    assert 0 == cli("init").code
    assert 0 == cli("lock", "acquire", "door").code
    run = cli("doctor", "--json")
    assert 0 == run.code
    found = levels(run)
    assert {"ok"} == {found[check] for check in ("token", "permissions", "rules", "clock", "driver", "hub")}
    token = next(one for one in run.json["findings"] if one["check"] == "token")
    assert "me, by a classic token from GH_TOKEN" in token["message"]
    assert "GH_TOKEN" == token["details"]["source"].rpartition(" ")[2]


# -- one line with the fix


def test_a_wrong_token(twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 6 and what to do; doctor says the same and exits 7."""
    cli("init")
    monkeypatch.setenv("GH_TOKEN", "ghp_wrong")
    run = cli("lock", "acquire", "door")
    assert 6 == run.code
    assert run.error.endswith("does not accept the token: make a new one and set GH_TOKEN, or 'gh auth login'")
    run = cli("doctor", "--json")
    assert 7 == run.code
    assert "make a new one and set GH_TOKEN, or 'gh auth login'" == errors(run)[0][1]
    assert 1 == len(errors(run))


@pytest.mark.parametrize("value", ["", "two words"])
def test_what_is_no_token(twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """An empty variable, or one with more in it, is told before anything is sent."""
    monkeypatch.setenv("GH_TOKEN", value)
    run = cli("status")
    assert 6 == run.code
    assert run.error.startswith("GH_TOKEN ")
    assert [] == twin.log
    assert 7 == cli("doctor").code


def test_no_token_at_all(twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where none is found both ways to give one are named."""
    monkeypatch.delenv("GH_TOKEN")
    monkeypatch.setenv("PATH", str(tmp_path))
    run = cli("status")
    assert 6 == run.code
    assert "set GH_ENTERPRISE_TOKEN, or run 'gh auth login --hostname 127.0.0.1:" in run.error


def test_a_server_that_was_named_is_called_by_its_name(
    twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With GHCOORD_GITHUB_API no message sends a user to github.com or to a variable of another server."""
    place = twin.url.removeprefix("http://")
    monkeypatch.setenv("GHCOORD_GITHUB_API", f"{twin.url}/api/v3")
    monkeypatch.setenv("GH_TOKEN", "wrong")
    assert f"{place} does not accept the token" in cli("status", "--hub", "github:me/hub").error
    monkeypatch.delenv("GH_TOKEN")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"no token for {place}: set GH_TOKEN" == cli("status", "--hub", "github:me/hub").error


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told_of(twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is tried again standard error says so, and standard output keeps to its JSON."""
    monkeypatch.setattr("ghcoord.store.wrappers.QUIET", 0.0)
    monkeypatch.setattr(RetryingStore.__init__, "__defaults__", (2.0,))
    monkeypatch.setenv("GHCOORD_GITHUB_API", "http://127.0.0.1:1")
    run = cli("status", "--hub", "github:me/hub", "--json")
    assert (7, "UNAVAILABLE") == (run.code, run.json["error"]["code"])
    assert 1 == len(run.err.splitlines())
    assert run.err.rstrip().endswith("trying again, 127.0.0.1:1 cannot be reached (connection refused)")


def test_a_branch_in_the_way(twin: Twin, cli: Cli) -> None:
    """A branch by the name of the hub's folder of branches is named before anything is written."""
    full = twin.repository("me", "full", empty=False)
    main = full.refs()["refs/heads/main"]
    full.update_refs([RefUpdate("refs/heads/ghcoord", None, main)], login="me", via="rest", now=0.0)
    run = cli("init", url_of(twin, "me/full"))
    assert 2 == run.code
    assert "refs/heads/ghcoord of github://127.0.0.1:" in run.error
    assert run.error.endswith("rename or delete it, or choose another prefix")


def test_a_missing_permission(twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that may only read: the permission is named, by the write and by doctor."""
    cli("init")
    reader = twin.user("me", kind="fine", permissions={"contents": "read", "metadata": "read"})
    monkeypatch.setenv("GH_TOKEN", reader)
    run = cli("lock", "acquire", "door")
    assert 6 == run.code
    assert "the token lacks the permission contents: write" in run.error
    run = cli("doctor", "--json")
    assert 7 == run.code
    assert "contents: write" in errors(run)[0][1]
    assert 0 == cli("lock", "list").code


def test_an_archived_repository(twin: Twin, cli: Cli) -> None:
    """It can be read; writes and doctor say that it is archived."""
    cli("init")
    repository(twin).archived = True
    run = cli("lock", "acquire", "door")
    assert 6 == run.code
    assert run.error.endswith("is archived and cannot be written: unarchive it in its settings, or name another")
    run = cli("doctor", "--json")
    assert 7 == run.code
    assert "unarchive it in its settings" == errors(run)[0][1]


def test_an_unknown_host(twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 7 and the host's name."""
    monkeypatch.setenv("GH_ENTERPRISE_TOKEN", "x")
    monkeypatch.setenv("GHCOORD_HUB", "github://no-such-host.invalid/me/hub")
    monkeypatch.setattr(RetryingStore.__init__, "__defaults__", (0.0,))
    for verb in (("status",), ("lock", "acquire", "door"), ("init",)):
        run = cli(*verb)
        assert 7 == run.code
        assert "there is no host no-such-host.invalid: check the hub's URL and the network" == run.error
    assert 7 == cli("doctor").code


def test_a_proxy_that_refuses_custom_refs(twin: Twin, cli: Cli, tmp_path: Path) -> None:
    """The refusal is told from GitHub's own, and the default prefix and git are named as ways round it."""
    (tmp_path / "ghcoord.toml").write_text('prefix = "refs/ghcoord/"\n[github]\nwrite = "rest"\n')
    cli("init")
    twin.switches = replace(twin.switches, proxy_refuses_custom_refs=True, proxy_refuses_ref_writes=True)
    run = cli("lock", "acquire", "door")
    assert 6 == run.code
    assert "a proxy before 127.0.0.1:" in run.error
    assert "use branches (the default prefix refs/heads/ghcoord/), or git itself with --hub " in run.error
    run = cli("doctor", "--probe", "--json")
    probed = [one["message"] for one in run.json["findings"] if one["check"] == "probe"]
    assert any("a proxy before" in message for message in probed)


def test_a_proxy_that_refuses_pushes(twin: Twin, cli: Cli) -> None:
    """Doctor finds out that git itself does not get through, without pushing."""
    cli("init")
    twin.switches = replace(twin.switches, proxy_refuses_pushes=True)
    run = cli("doctor", "--json")
    push = [one for one in run.json["findings"] if one["check"] == "push"]
    assert ["warning"] == [one["level"] for one in push]
    assert "status 403, perhaps by a proxy" in push[0]["message"]
    assert 0 == run.code


def test_a_protected_branch(twin: Twin, cli: Cli) -> None:
    """Protection in the way of the hub's branches is named, with the way out."""
    cli("init")
    repository(twin).protected["ghcoord/locks"] = Protection()
    run = cli("lock", "acquire", "door")
    assert 6 == run.code
    assert "a branch protection or ruleset of " in run.error
    assert run.error.endswith("except the hub's branches from it, or set another prefix")


def test_a_missing_repository(twin: Twin, cli: Cli) -> None:
    """Nothing is made unasked; with --create a private repository is, and once."""
    where = url_of(twin, "me/new")
    run = cli("init", where)
    assert 3 == run.code
    assert "or let 'ghcoord init --create' make it (private)" in run.error
    made = cli("init", where, "--create")
    assert (0, "takes about ten seconds" in made.err) == (made.code, True)
    again = cli("init", where, "--create")
    assert (0, "") == (again.code, again.err)
    assert repository(twin, "me/new").private


def test_a_repository_of_an_organization(twin: Twin, cli: Cli) -> None:
    """One's own organizations get repositories, others do not, and a race for the first commit is lost gladly."""
    twin.organization("acme", "me")
    twin.organization("other")
    assert 0 == cli("init", url_of(twin, "acme/hub"), "--create").code
    run = cli("init", url_of(twin, "other/hub"), "--create")
    assert 6 == run.code
    assert "the token may not make repositories for the organization other" in run.error


def test_a_clock_that_is_off(twin: Twin, cli: Cli) -> None:
    """An hour's difference is told, and does no harm."""
    cli("init")
    twin.switches = replace(twin.switches, clock_offset=3600.0)
    run = cli("doctor", "--json")
    assert "warning" == levels(run)["clock"]
    assert 0 == run.code


@pytest.mark.slow
def test_probing_leaves_nothing(twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question is answered, and no ref stays; a hub elsewhere is not probed."""
    assert "Git Repository is empty" in cli("doctor", "--probe").out, "before there is a hub"
    cli("init")
    before = repository(twin).refs()
    run = cli("doctor", "--probe", "--json")
    assert 0 == run.code
    questions = {one["details"]["question"] for one in run.json["findings"] if one["check"] == "probe"}
    assert {
        "polling",
        "custom refs over REST",
        "a stale head over REST",
        "a stale head in updateRefs",
        "updateRefs of two refs, one stale",
        "a stale head in createCommitOnBranch",
        "createCommitOnBranch that deletes an absent path",
        "a ref read right after its creation",
        "clean-up",
    } <= questions
    assert before == repository(twin).refs()
    monkeypatch.setenv("GH_TOKEN", "ghp_wrong")
    run = cli("doctor", "--probe", "--json")
    assert 7 == run.code
    assert "probe" not in levels(run)
    run = cli("--hub", "./elsewhere.git", "doctor", "--probe")
    assert 2 == run.code


# -- the token


def written(*folders: Path) -> str:
    """Everything in all files of the folders, and their names."""
    found = []
    for folder in folders:
        for file in folder.rglob("*"):
            found.append(str(file))
            if file.is_file():
                found.append(file.read_bytes().decode("latin-1"))
    return "\n".join(found)


@pytest.mark.slow
def test_the_token_is_in_no_output_state_or_argument(
    twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that work and such that fail, with --debug too, in processes of their own."""
    outputs: list[str] = []
    seen: list[str] = []

    def run(*args: object) -> None:
        done = spawn(*args)
        outputs.append(done.out + done.err)

    scan = (
        "import glob\nfor f in glob.glob('/proc/[0-9]*/cmdline'):\n  try: print(open(f).read())\n  except OSError: pass"
    )
    run("--debug", "init")
    run("--debug", "lock", "run", "door", "--", sys.executable, "-c", scan)
    assert "lock" in outputs[-1], outputs[-1]
    seen.append(outputs[-1])
    run("memory", "set", "notes", "key", '"value"')
    run("doctor", "--probe", "--json", "--debug")
    run("budget", "--json")
    twin.faults.add("reset")
    run("--debug", "lock", "acquire", "other")
    twin.revoke(TOKEN)
    for args in (["status"], ["--debug", "status"], ["doctor", "--debug"], ["--debug", "init"]):
        run(*args)
    kept = written(tmp_path / "state", tmp_path / "cache", repository(twin).folder)
    assert "accounts.json" in kept
    for text in (*outputs, *seen, kept):
        assert TOKEN not in text
        assert TOKEN[4:] not in text
    assert "does not accept the token" in outputs[-1]


@pytest.mark.slow
def test_tasks_do_not_get_the_token(twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's task sees nothing of the worker's environment: no variable of a token reaches it."""
    for name in TOKENS[:4]:
        monkeypatch.setenv(name, TOKEN)
    cli("init")
    task = cli("task", "submit", "shell", "--args-json", '{"command": "env; cat /proc/self/environ"}', "--json")
    assert 0 == task.code, task.err
    done = spawn("worker", "start", "--until-idle", "1s", "--poll", "1s", "--debug")
    assert 0 == done.code, done.err
    result = cli("task", "show", task.json["id"], "--json")
    assert "GHCOORD_TASK_ID" in result.out
    assert TOKEN not in result.out + done.out + done.err
    assert "_TOKEN=" not in result.out


def test_git_does_not_get_the_token_as_an_argument(
    twin: Twin, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over git's own protocol the token is in no argument of git and its helpers, and in nothing that is kept."""
    real = next(Path(folder) / "git" for folder in os.environ["PATH"].split(":") if (Path(folder) / "git").exists())
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/arguments\nexec {real} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GHCOORD_GITHUB_API", f"{twin.url}/api/v3")
    where = f"{twin.url}/me/hub.git"
    done = spawn("--hub", where, "--debug", "init")
    assert 0 == done.code, done.err
    outputs = [done.out + done.err, (tmp_path / "arguments").read_text()]
    outputs.append(written(tmp_path / "state", tmp_path / "cache"))
    run = cli("--hub", where, "doctor", "--json")
    assert (0, "ok", "ok") == (run.code, levels(run)["network"], levels(run)["clock"])
    outputs.append(run.out + run.err)
    assert "push" in outputs[1]
    assert not any(TOKEN in text for text in outputs)
