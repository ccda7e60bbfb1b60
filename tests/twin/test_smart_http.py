"""Git itself talks to the twin over HTTP."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.twin.limits import TwinLimits
from ghcoord.twin.repository import Protection
from ghcoord.twin.server import Twin
from ghcoord.twin.switches import Switches
from tests.store.gitrepo import QUIET

PERSON = {name: "x@y" for who in ("AUTHOR", "COMMITTER") for name in (f"GIT_{who}_NAME", f"GIT_{who}_EMAIL")}


class Git:
    """A working copy of ``me/hub``."""

    def __init__(self, folder: Path, twin: Twin, token: str) -> None:
        self.folder = folder
        self.url = twin.url.replace("//", f"//x:{token}@") + "/me/hub.git"
        folder.mkdir()
        self("init", "-q")

    def __call__(self, *args: str, code: int = 0) -> str:
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_TERMINAL_PROMPT": "0", **QUIET, **PERSON}
        done = subprocess.run(
            ["git", *args], cwd=self.folder, capture_output=True, text=True, env=environment, check=False
        )
        assert code == done.returncode, done.stderr
        return done.stdout + done.stderr

    def commit(self, text: str) -> str:
        (self.folder / "f").write_text(text)
        self("add", "f")
        self("commit", "-qm", text)
        return self("rev-parse", "HEAD").strip()

    def push(self, *refspecs: str, code: int = 0) -> str:
        return self("push", "--atomic", "--porcelain", self.url, *refspecs, code=code)


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with Twin(tmp_path / "twin") as made:
        made.repository("me", "hub")
        yield made


@pytest.fixture
def git(twin: Twin, tmp_path: Path) -> Git:
    return Git(tmp_path / "work", twin, twin.user("me"))


def test_a_push_moves_all_its_refs_or_none(twin: Twin, git: Git) -> None:
    """Several refs move in one step; with a stale lease on one of them none moves."""
    first = git.commit("1")
    git.push("HEAD:refs/heads/a", "HEAD:refs/ghcoord/b")
    repository = twin.hosting.repositories["me/hub"]
    assert {"refs/heads/a": first, "refs/ghcoord/b": first} == repository.refs()
    assert [("push", 2)] == [(landing.via, len(landing.moves)) for landing in twin.commits()]
    git.commit("2")
    lease = f"--force-with-lease=refs/heads/a:{'1' * 40}"
    assert "stale info" in git.push(lease, "HEAD:refs/heads/a", "HEAD:refs/ghcoord/b", code=1)
    assert {first} == set(repository.refs().values())
    assert 1 == len(twin.requests(kind="push"))


def test_what_was_pushed_is_fetched_and_read(twin: Twin, git: Git, tmp_path: Path) -> None:
    """A clone gets it, REST shows it, and what REST wrote is fetched."""
    first = git.commit("1")
    git.push("HEAD:refs/heads/main")
    repository = twin.hosting.repositories["me/hub"]
    commit = repository.commit(first)
    assert commit is not None
    entry = repository.at_path(commit.tree, "f")
    assert entry is not None
    assert b"1" == repository.blob(entry.oid)
    git("clone", "-q", git.url, str(tmp_path / "clone"))
    assert "1" == (tmp_path / "clone" / "f").read_text()


def test_it_asks_who_is_there(twin: Twin, git: Git, tmp_path: Path) -> None:
    """A wrong token, no write permission, an archived and a private repository are refused in words."""
    git.commit("1")
    wrong = Git(tmp_path / "wrong", twin, "ghp_wrong")
    wrong.commit("1")
    assert "Authentication failed" in wrong.push("HEAD:refs/heads/a", code=128)
    stranger = Git(tmp_path / "stranger", twin, twin.user("stranger"))
    stranger.commit("1")
    assert "Permission to me/hub.git denied to stranger" in stranger.push("HEAD:refs/heads/a", code=128)
    twin.hosting.repositories["me/hub"].private = True
    assert "Repository not found" in stranger("ls-remote", stranger.url, code=128)
    twin.hosting.repositories["me/hub"].archived = True
    assert "403" in git.push("HEAD:refs/heads/a", code=128)
    assert {} == twin.hosting.repositories["me/hub"].refs()


@pytest.mark.parametrize(
    ("switches", "ref", "code"),
    [
        (Switches(proxy_refuses_custom_refs=True), "refs/ghcoord/a", 1),
        (Switches(proxy_refuses_pushes=True), "refs/heads/a", 128),
    ],
)
def test_a_proxy_refuses_pushes(twin: Twin, git: Git, switches: Switches, ref: str, code: int) -> None:
    """With 403, of custom refs or altogether."""
    git.commit("1")
    twin.switches = switches
    assert "403" in git.push(f"HEAD:{ref}", code=code)
    assert {} == twin.hosting.repositories["me/hub"].refs()


def test_a_protected_branch_is_declined_in_the_report(twin: Twin, git: Git) -> None:
    """Git is told which ref was refused and why, and the others stay too."""
    git.commit("1")
    twin.hosting.repositories["me/hub"].protected["main"] = Protection()
    told = git.push("HEAD:refs/heads/main", "HEAD:refs/heads/other", code=1)
    assert "[remote rejected] (Protected branch update failed for refs/heads/main.)" in told
    assert {} == twin.hosting.repositories["me/hub"].refs()


def test_pushes_are_limited(tmp_path: Path) -> None:
    """Beyond the pushes of a minute git is refused, and nothing moves."""
    with Twin(tmp_path / "twin", limits=TwinLimits(pushes_per_minute=1)) as twin:
        twin.repository("me", "hub")
        git = Git(tmp_path / "work", twin, twin.user("me"))
        git.commit("1")
        git.push("HEAD:refs/heads/a")
        assert "429" in git.push("HEAD:refs/heads/b", code=1)
        assert ["refs/heads/a"] == list(twin.hosting.repositories["me/hub"].refs())


def test_a_push_whose_answer_is_lost_has_landed(twin: Twin, git: Git) -> None:
    """Git sees a broken connection, the ref has moved."""
    head = git.commit("1")
    twin.faults.add("reply_lost", on="push")
    git.push("HEAD:refs/heads/a", code=1)
    assert {"refs/heads/a": head} == twin.hosting.repositories["me/hub"].refs()


def test_a_big_push_comes_in_chunks(twin: Twin, git: Git) -> None:
    """Bodies above git's buffer are sent chunked, and taken."""
    (git.folder / "big").write_bytes(bytes(range(256)) * 20_000)
    git("add", "big")
    head = git.commit("1")
    git("config", "http.postBuffer", "65536")
    git("config", "core.compression", "0")
    git.push("HEAD:refs/heads/a")
    assert {"refs/heads/a": head} == twin.hosting.repositories["me/hub"].refs()
