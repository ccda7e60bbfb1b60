"""Wrong inputs: one clear line, the right exit code, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.bootstrap import create
from tests.cli.running import Cli, command, environment

LONG = "x" * 10_000
HUGE = '"' + "x" * 2_000_000 + '"'


@pytest.mark.parametrize(
    ("code", "line"),
    [
        # names
        (2, ["lock", "acquire", ""]),
        (2, ["lock", "acquire", "a//b"]),
        (2, ["lock", "acquire", "/a"]),
        (2, ["lock", "acquire", ".."]),
        (2, ["lock", "acquire", "a/../b"]),
        (2, ["lock", "acquire", LONG]),
        (2, ["lock", "acquire", "a\nb"]),
        (2, ["lock", "acquire", "a\x1b[31mb"]),
        (2, ["lock", "acquire", " a"]),
        (2, ["lock", "acquire", "\ud800"]),
        (2, ["lock", "acquire", "x", "--owner", ""]),
        (2, ["lock", "acquire", "x", "--owner", LONG]),
        (2, ["lock", "renew", "x", "--owner", ""]),
        (2, ["lock", "release", "x", "--owner", ""]),
        (2, ["lock", "run", "", "--", "true"]),
        (2, ["lock", "show", ""]),
        (2, ["lock", "show", LONG]),
        (2, ["lock", "force-unlock", "..", "--yes"]),
        (2, ["memory", "set", "", "v"]),
        (2, ["memory", "set", "a/../b", "v"]),
        (2, ["memory", "set", LONG, "v"]),
        (2, ["memory", "get", ""]),
        (2, ["memory", "get", LONG]),
        (2, ["memory", "delete", ".."]),
        (2, ["memory", "watch", ""]),
        (2, ["memory", "set", "k", "v", "--namespace", ""]),
        (2, ["memory", "set", "k", "v", "--namespace", LONG]),
        (2, ["memory", "set", "k", "v", "--namespace", "a/../b"]),
        (2, ["task", "submit", ""]),
        (2, ["task", "submit", "ünï"]),
        (2, ["task", "submit", "a/b"]),
        (2, ["task", "submit", LONG]),
        (2, ["task", "submit", "echo", "--id", ".."]),
        (2, ["task", "show", ""]),
        (2, ["task", "show", ".."]),
        (2, ["task", "show", LONG]),
        (2, ["task", "wait", "a/b"]),
        (2, ["worker", "register", "wörker"]),
        (2, ["worker", "show", LONG]),
        (2, ["worker", "show", ""]),
        # unknown things
        (3, ["task", "show", "t0"]),
        (3, ["task", "wait", "t0"]),
        (3, ["task", "logs", "t0"]),
        (3, ["worker", "show", "w0"]),
        (3, ["memory", "get", "k0"]),
        (3, ["lock", "show", "l0"]),
        # durations and numbers
        (2, ["lock", "acquire", "x", "--ttl", "soon"]),
        (2, ["lock", "acquire", "x", "--ttl", "-5"]),
        (2, ["lock", "acquire", "x", "--ttl", "0"]),
        (2, ["lock", "acquire", "x", "--ttl", "5 parsecs"]),
        (2, ["lock", "acquire", "x", "--ttl", "9" * 400]),
        (2, ["lock", "acquire", "x", "--ttl", "40d"]),
        (2, ["lock", "acquire", "x", "--wait", ""]),
        (2, ["lock", "acquire", "x", "--wait", LONG]),
        (2, ["memory", "set", "k", "v", "--ttl", "0"]),
        (2, ["memory", "set", "k", "v", "--if-revision", "one"]),
        (2, ["memory", "set", "k", "v", "--fence", "x"]),
        (2, ["memory", "set", "k", "v", "--fence", "x:y"]),
        (2, ["memory", "set", "k", "v", "--fence", ":1"]),
        (2, ["task", "list", "--limit", "-1"]),
        (2, ["worker", "reap", "--every", "0"]),
        # payloads
        (2, ["memory", "set", "k", HUGE]),
        (2, ["memory", "set", "k", HUGE, "--json-value"]),
        (2, ["task", "submit", "echo", "--arg", f"message={HUGE}"]),
        (2, ["task", "submit", "echo", "--meta", f"m={HUGE}"]),
        (2, ["lock", "acquire", "x", "--meta", f"m={HUGE}"]),
        (2, ["memory", "set", "k", "{", "--json-value"]),
        (2, ["memory", "set", "k", "", "--json-value"]),
        (2, ["memory", "set", "k", "Infinity", "--json-value"]),
        (2, ["memory", "set", "k", "[" * 100_000, "--json-value"]),
        (2, ["memory", "set", "k", "[" * 100 + "]" * 100, "--json-value"]),
        (2, ["memory", "set", "k", '"\\ud800"', "--json-value"]),
        (2, ["task", "submit", "echo", "--args-json", "'"]),
        (2, ["task", "submit", "echo", "--args-json", "3"]),
        # the command line
        (2, ["lok"]),
        (2, ["lock"]),
        (2, ["lock", "take", "x"]),
        (2, ["lock", "acquire"]),
        (2, ["lock", "acquire", "x", "y"]),
        (2, ["lock", "acquire", "x", "--ttl"]),
        (2, ["lock", "acquire", "x", f"--{LONG}"]),
        (2, ["task", "submit"]),
        (2, ["--hub", "", "task", "list"]),
    ],
    ids=lambda value: " ".join(part[:16] for part in value) if isinstance(value, list) else str(value),
)
def test_wrong_input(cli: Cli, hub: Path, code: int, line: list[str]) -> None:
    """Each gives its exit code with one short line, and the same as an object with --json."""
    plain = cli(*line)
    assert code == plain.code
    assert 700 > len(plain.error)
    assert plain.error.isprintable()
    before = line.index("--") if "--" in line else len(line)
    in_json = cli(*line[:before], "--json", *line[before:])
    assert (code, "") == (in_json.code, in_json.err)
    assert code == in_json.json["error"]["exit_code"]
    assert {"code", "message", "exit_code", "retryable"} <= set(in_json.json["error"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["task", "list", "--limit", "-1"], "'--limit': '-1' is not a whole number of at least 0"),
        (["worker", "start", "--slots", "0"], "'--slots': '0' is not a whole number from 1 to 10000"),
        (["memory", "set", "a", "b", "--if-revision", "abc"], "'abc' is not a whole number of at least 0"),
        (["task", "submit", "echo", "--priority", "1.5"], "'1.5' is not a whole number"),
        (["worker", "list", "--status", "foo"], "--status 'foo' is unknown: one of active, busy, draining, offline"),
        (["memory", "set", "a", "-1"], "no such option: -1: put '--' before a value that starts with '-'"),
        (["memory", "set", "a", "--x"], "no such option: --x: put '--' before a value that starts with '-'"),
        (["lock", "acquire", "x", "--tll", "5"], "no such option: --tll (Possible options: --ttl) (see"),
        (["task", "list", "-x"], "no such option: -x (see"),
    ],
)
def test_what_is_said(cli: Cli, hub: Path, line: list[str], said: str) -> None:
    """A wrong option gets one sentence in our words, with the way out where the command line was misread."""
    refused = cli(*line)
    assert 2 == refused.code
    assert said in refused.error
    assert "Input should" not in refused.error


def test_a_value_that_starts_with_a_dash(cli: Cli, hub: Path) -> None:
    """What the hint says works."""
    assert 0 == cli("memory", "set", "a", "--", "-1").code
    assert "-1\n" == cli("memory", "get", "a").out


@pytest.mark.parametrize(
    "line", [["task", "list"], ["lock", "acquire", "x"], ["memory", "get", "k"], ["worker", "list"], ["status"]]
)
def test_no_hub(cli: Cli, line: list[str]) -> None:
    """Without a hub the line names the three ways to give one."""
    refused = cli(*line)
    assert 2 == refused.code
    assert all(way in refused.error for way in ("--hub", "GHCOORD_HUB", "ghcoord.toml"))


def test_places_that_are_no_hub(cli: Cli, tmp_path: Path) -> None:
    """A missing folder, a file, an ordinary folder, an empty repository and foreign URLs each say what they are."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    subprocess.run(["git", "init", "-q", "--bare", "empty.git"], check=True, cwd=tmp_path)
    for place, code in {
        "missing": 3,
        "file": 3,
        "folder": 3,
        "empty.git": 3,
        "https://user:secret@example.org/hub.git": 2,
        "gopher://example.org/x": 2,
        "file://elsewhere/hub.git": 2,
        "a\0b": 2,
    }.items():
        refused = cli("--hub", place, "task", "list")
        assert code == refused.code, place
        assert "secret" not in refused.error


def test_bad_settings(cli: Cli, tmp_path: Path) -> None:
    """A ghcoord.toml that is not TOML, or has unknown keys or wrong values, is named with the reason."""
    for text, said in (("hub = ", "TOML"), ("colour = 1", "colour"), ('[locks]\nttl = "soon"', "duration")):
        (tmp_path / "ghcoord.toml").write_text(text)
        refused = cli("task", "list")
        assert 2 == refused.code
        assert said in refused.error


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach, with a hub in it."""
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-cli-"))
    folder.chmod(0o755)
    create(folder / "hub.git")[0].close()
    yield folder
    shutil.rmtree(folder)


_AS_ANOTHER = """
import json, os, sys
from ghcoord.__main__ import main
hub, warm, lines = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
quiet = os.dup(1), os.dup(2)
null = os.open(os.devnull, os.O_WRONLY)
os.dup2(null, 1), os.dup2(null, 2)
for line in lines:
    main(["--hub", warm, *line])  # loads every module while they can be read
os.dup2(quiet[0], 1), os.dup2(quiet[1], 2)
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
for line in lines:
    print(main(["--hub", hub, *line]), flush=True)
"""


def test_a_hub_that_may_not_be_written(shared: Path, tmp_path: Path) -> None:
    """As another user: reading works, every write exits 6 with one line that names the place; doctor warns once."""
    create(tmp_path / "warm.git")[0].close()
    (shared / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")  # git asks before it trusts another user's files
    if os.getuid():
        for folder, _, _ in os.walk(shared / "hub.git"):
            Path(folder).chmod(0o555)
    reads = [["lock", "list"], ["memory", "list"], ["task", "list"], ["worker", "list"], ["doctor"]]
    writes = [
        ["lock", "acquire", "x"],
        ["lock", "run", "x", "--", "true"],
        ["memory", "set", "k", "v"],
        ["task", "submit", "echo"],
        ["worker", "register", "w1"],
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _AS_ANOTHER,
            str(shared / "hub.git"),
            str(tmp_path / "warm.git"),
            json.dumps([*reads, *writes]),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment({"HOME": str(shared), "XDG_STATE_HOME": str(shared / "state")}),
        cwd=tmp_path,
        check=False,
    )
    for folder, _, _ in os.walk(shared):
        Path(folder).chmod(0o755)
    assert 0 == done.returncode, done.stderr
    codes = [line for line in done.stdout.splitlines() if line.isdigit()]
    assert ["0"] * 5 + ["6"] * 5 == codes
    assert 1 == done.stdout.count("warn   access: this user may only read: cannot write to ")
    assert "ERROR" not in done.stdout
    errors = done.stderr.splitlines()
    assert 5 == len(errors)
    assert all(line.startswith("error: cannot write to ") for line in errors)


def test_a_folder_that_is_gone(cli: Cli, tmp_path: Path) -> None:
    """From a folder that was deleted under us there is one line too."""
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused = cli("task", "list")
    assert 2 == refused.code
    assert "folder" in refused.error


def test_an_unexpected_error_is_one_line(cli: Cli, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug exits 1 with one line that points to --debug, which shows the traceback."""

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("boom\nwith more")

    monkeypatch.setattr("ghcoord.coord.locks.locks.Locks.list", fail)
    broken = cli("lock", "list")
    assert 1 == broken.code
    assert "unexpected RuntimeError: boom with more; --debug shows the traceback" == broken.error
    shown = cli("lock", "list", "--debug")
    assert "Traceback" in shown.err
    assert "UNEXPECTED" == cli("lock", "list", "--json").json["error"]["code"]


def test_an_interrupt_exits_130(cli: Cli, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is quiet and exits 130."""

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ghcoord.coord.locks.locks.Locks.list", interrupt)
    assert (130, "", "") == tuple(cli("lock", "list").__dict__.values())


def test_debug_traces_the_store(cli: Cli, hub: Path) -> None:
    """--debug names each call of the store on standard error, before and after the subcommand."""
    assert "store: heads" in cli("lock", "list", "--debug").err
    assert "store: heads" in cli("--debug", "lock", "list").err


def test_python_dash_m_is_the_same(hub: Path) -> None:
    """As a process of its own: the exit code of an error, and its line alone."""
    done = subprocess.run(command("lock", "show", "x"), capture_output=True, text=True, env=environment(), check=False)
    assert (3, "", "error: the lock 'x' is free\n") == (done.returncode, done.stdout, done.stderr)
