"""``ghcoord tool``: what there is, and one call of it."""

from __future__ import annotations

import pytest

from ghcoord.hub import Hub
from tests.cli.running import Cli

BUILT_IN = """artifact.get artifact.list artifact.put echo exec fs.delete fs.list fs.move fs.read fs.write pkg.install
python.prompt run.python session.checkpoint session.diff shell test.run""".split()


def test_list(cli: Cli) -> None:
    """Every built-in tool, with what it takes; no hub is needed."""
    found = {one["id"]: one for one in cli("tool", "list", "--json").json}
    assert set(BUILT_IN) <= set(found)
    shown = cli("tool", "list").out
    assert all(80 >= len(line) for line in shown.splitlines())
    assert all(name in shown for name in BUILT_IN)
    assert ("full", True, False) == (
        found["run.python"]["tier"],
        found["run.python"]["sandboxed"],
        found["run.python"]["needs_session"],
    )
    one = cli("tool", "list", "fs.read").out
    for part in ("fs.read: ", "arguments:", '"offset"', "returns:", '"contents"'):
        assert part in one
    missing = cli("tool", "list", "nosuch")
    assert (3, True) == (missing.code, "see 'ghcoord tool list'" in missing.error)


def test_call(cli: Cli, session: str) -> None:
    """Its fields as JSON, or a command's streams and exit code."""
    assert {"message": "hi"} == cli("tool", "call", "echo", "--session", session, "--arg", "message=hi").json
    written = ("tool", "call", "fs.write", "--session", session, "--args-json", '{"path": "a", "contents": "x"}')
    assert {"path": "a", "bytes_written": 1} == cli(*written).json
    assert {"path": "b", "bytes_written": 1} == cli(*written, "--arg", "path=b").json
    read = cli("tool", "call", "fs.read", "--session", session, "--arg", "path=a", "--json").json
    assert (session, True, "x") == (read["id"], read["success"], read["data"]["contents"])
    assert 0 == cli("task", "show", read["task"]).code
    done = cli("tool", "call", "run.python", "--session", session, "--arg", "code=import sys; print(1); sys.exit(4)")
    assert (4, "1\n") == (done.code, done.out)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("fs.read", "--arg", "path=nosuch"), 8, "no such file or folder: nosuch"),
        (("fs.read",), 8, "fs.read needs the argument path"),
        (("fs.read", "--arg", "path=a", "--arg", "foo=1"), 8, "no argument 'foo': it takes path, offset"),
        (("fs.read", "--arg", "path=../x"), 8, "path traversal not allowed: ../x"),
        (("fs.read", "--arg", "path=/x"), 8, "got absolute path: /x"),
        (("fs.read", "--arg", "path"), 2, "--arg takes key=value"),
        (("fs.read", "--args-json", "[]"), 2, "JSON object"),
        (("nosuch",), 2, "no tool 'nosuch'"),
        (("ü x",), 2, "tool"),
    ],
)
def test_call_fails(cli: Cli, session: str, args: tuple[str, ...], code: int, words: str) -> None:
    """In one line; with --json the same exit code."""
    failed = cli("tool", "call", *args, "--session", session)
    assert (code, True) == (failed.code, words in failed.error), failed.err
    assert code == cli("tool", "call", *args, "--session", session, "--json").code


def test_call_needs_a_session(cli: Cli, living: Hub) -> None:
    """One that is there."""
    assert "--session" in cli("tool", "call", "echo").error
    missing = cli("tool", "call", "echo", "--session", "nosuch")
    assert (3, True) == (missing.code, "'nosuch'" in missing.error)


def test_a_failing_program_tells_its_own_way(cli: Cli, session: str) -> None:
    """Its traceback and exit code, and no second telling of it."""
    failed = cli("tool", "call", "run.python", "--session", session, "--arg", "code=1/0")
    assert (1, 1) == (failed.code, failed.err.count("ZeroDivisionError"))
    late = cli("tool", "call", "shell", "--session", session, "--arg", "command=sleep 60", "--timeout", "300ms")
    assert (8, "error: timed out after 0.3s\n") == (late.code, late.err)


def test_call_once(cli: Cli, session: str) -> None:
    """A key makes the call happen once."""
    line = ("tool", "call", "shell", "--session", session, "--key", "k", "--arg", "command=echo x >> log; cat log")
    assert "x\n" == cli(*line).out == cli(*line).out
