"""``ghcoord session put`` and ``get``: files of every size, into a session and out of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.cli.running import Cli, command, environment
from tests.cli.terminal import Terminal

BINARY = bytes(range(256)) * 20
LARGE = os.urandom(1024) * 700
"""More than travels in a call, both ways."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "data ü.bin"
    path.parent.mkdir()
    path.write_bytes(BINARY)
    return path


def test_there_and_back(cli: Cli, session: str, file: Path) -> None:
    """What comes back is what went in; folders are made, a file that was there is replaced."""
    done = cli("session", "put", session, file, "a/b/x.bin")
    assert (0, "a/b/x.bin: 5.0 KiB\n") == (done.code, done.out)
    assert (0, "x.bin: 5.0 KiB\n") == ((got := cli("session", "get", session, "a/b/x.bin")).code, got.out)
    assert BINARY == Path("x.bin").read_bytes()
    file.write_bytes(b"")
    put = cli("session", "put", session, file, "a/b/x.bin", "--json").json
    assert {"id": session, "path": "a/b/x.bin", "size": 0} == put
    back = cli("session", "get", session, "a/b/x.bin", "y", "--json").json
    assert {"id": session, "path": "a/b/x.bin", "local": "y", "size": 0} == back
    assert b"" == Path("y").read_bytes()


def test_names_of_folders(cli: Cli, session: str, file: Path) -> None:
    """Without a name, or with a folder's, a file keeps its own, both ways."""
    for remote, name in (((), file.name), (("sub/",), f"sub/{file.name}"), ((".",), file.name)):
        assert name == cli("session", "put", session, file, *remote, "--json").json["path"]
    Path("out").mkdir()
    assert f"out/{file.name}" == cli("session", "get", session, f"sub/{file.name}", "out", "--json").json["local"]
    assert BINARY == (Path("out") / file.name).read_bytes()


def test_large_files_and_what_carries_them(cli: Cli, living: Hub, session: str, file: Path) -> None:
    """They go by way of an artifact, of which nothing is left; permissions too."""
    file.write_bytes(LARGE)
    assert 0 == cli("session", "put", session, file, "big", "--mode", "750").code
    assert "-rwxr-x---" in cli("session", "exec", session, "ls", "-l", "big").out
    assert "big: 700 KiB\n" == cli("session", "get", session, "big").out
    assert LARGE == Path("big").read_bytes()
    assert [] == living.artifacts.list(session_id=session)
    refused = cli("session", "put", session, file, "big/below/a/file")
    assert (8, True) == (refused.code, "big" in refused.error)
    assert [] == living.artifacts.list(session_id=session)


def test_programs_stay_programs(cli: Cli, session: str, file: Path) -> None:
    """A file that can be run here can be run there; other permissions are not taken along."""
    file.write_text("#!/bin/sh\necho ran\n")
    file.chmod(0o700)
    cli("session", "put", session, file, "run.sh")
    assert "ran\n" == cli("session", "exec", session, "./run.sh").out
    file.chmod(0o600)
    cli("session", "put", session, file, "plain")
    assert "-rw-r--r--" in cli("session", "exec", session, "ls", "-l", "plain").out


@pytest.mark.slow
def test_through_pipes(session: str) -> None:
    """Standard input and output carry bytes as they are, however many."""
    for content in (BINARY, LARGE):
        subprocess.run(command("session", "put", session, "-", "p"), input=content, env=environment(), check=True)
        got = subprocess.run(command("session", "get", session, "p", "-"), capture_output=True, env=environment())
        assert (0, content) == (got.returncode, got.stdout)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("none.bin", "x"), 3, "no file 'none.bin'"),
        (("in", "x"), 2, "is a folder: 'tar c in | ghcoord session put ID - a.tar'"),
        (("FILE", "../x"), 2, "path traversal not allowed: ../x"),
        (("FILE", "/x"), 2, "path must be relative to workspace root, got absolute path: /x"),
        (("FILE", "a\0b"), 2, "NUL"),
        (("FILE", "x" * 300), 2, "at most 255"),
        (("FILE", ".venv/../../x"), 2, "path traversal not allowed"),
        (("-",), 2, "standard input has no name"),
        (("FILE", "x", "--mode", "999"), 2, "--mode takes octal"),
        (("FILE", "x", "--mode", "4755"), 2, "--mode takes octal"),
    ],
)
def test_put_refuses(cli: Cli, session: str, file: Path, args: tuple[str, ...], code: int, words: str) -> None:
    """In one line that names the fix."""
    refused = cli("session", "put", session, *(file if arg == "FILE" else arg for arg in args))
    assert (code, True) == (refused.code, words in refused.error), refused.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("nosuch",), 8, "no such file or folder: nosuch"),
        (("sub", "y"), 8, "is a folder"),
        (("../x",), 2, "path traversal not allowed: ../x"),
        (("sub/f", "missing/y"), 2, "no folder 'missing'"),
        (("sub/f", "there"), 2, "there is there already: --force replaces it"),
        (("sub/f", "-", "--json"), 2, "--json"),
    ],
)
def test_get_refuses(cli: Cli, session: str, args: tuple[str, ...], code: int, words: str) -> None:
    """In one line, and nothing is left half written."""
    cli("session", "put", session, "-", "sub/f", stdin="x")
    Path("there").write_text("mine")
    before = sorted(os.listdir("."))
    refused = cli("session", "get", session, *args)
    message = refused.json["error"]["message"] if "--json" in args else refused.error
    assert (code, True) == (refused.code, words in message), message
    assert before == sorted(os.listdir("."))
    assert "mine" == Path("there").read_text()


def test_only_force_replaces(cli: Cli, session: str) -> None:
    """A link is replaced, not followed; a folder never."""
    cli("session", "put", session, "-", "f", stdin="new")
    Path("mine").write_text("mine")
    Path("link").symlink_to("mine")
    assert 2 == cli("session", "get", session, "f", "link").code
    assert 0 == cli("session", "get", session, "f", "link", "--force").code
    assert ("mine", "new", False) == (Path("mine").read_text(), Path("link").read_text(), Path("link").is_symlink())
    Path("d/f").mkdir(parents=True)
    assert "d/f is a folder" in cli("session", "get", session, "f", "d", "--force").error


def test_no_such_session(cli: Cli, living: Hub, file: Path) -> None:
    """Said before anything is copied."""
    file.write_bytes(LARGE)
    for line in (("put", "nosuch", file, "x"), ("get", "nosuch", "x")):
        refused = cli("session", *line)
        assert (3, True) == (refused.code, "no session 'nosuch'" in refused.error)


def test_a_link_out_of_the_workspace_leads_nowhere(cli: Cli, session: str, file: Path) -> None:
    """Neither reading nor writing goes through it."""
    cli("session", "exec", session, "ln", "-s", "/etc", "out")
    for line in (("get", session, "out/passwd"), ("put", session, file, "out/x")):
        refused = cli("session", *line)
        assert 8 == refused.code, refused
        assert "out" in refused.error


@pytest.mark.slow
def test_a_terminal_sees_how_far_it_is_and_no_bytes(session: str, file: Path) -> None:
    """Text is shown cleaned, binary content refused, and a large file has a bar while it is stored."""
    file.write_bytes(BINARY)
    subprocess.run(command("session", "put", session, file, "b"), env=environment(), check=True)
    with Terminal("session", "get", session, "b", "-") as screen:
        assert 2 == screen.end()
        assert "disturb the terminal" in screen.seen
    file.write_bytes(b"text \x1b[31m\n")
    subprocess.run(command("session", "put", session, file, "t"), env=environment(), check=True)
    with Terminal("session", "get", session, "t", "-") as screen:
        assert 0 == screen.end()
        assert "text \\x1b[31m" in screen.seen
    file.write_bytes(os.urandom(20_000_000))
    with Terminal("session", "put", session, file, "big") as screen:
        assert 0 == screen.end(60)
        assert "storing" in screen.seen
        assert "big: 19.1 MiB" in screen.seen
    with Terminal("session", "get", session, "big", "back") as screen:
        assert 0 == screen.end(60)
        assert "the worker stores it" in screen.seen
    assert file.read_bytes() == Path("back").read_bytes()
