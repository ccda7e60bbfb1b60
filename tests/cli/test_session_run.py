"""``ghcoord session exec``: a command's output, exit code, limits; what cannot be run."""

from __future__ import annotations

import io
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.cli.running import Cli, Run, command, environment
from tests.processes import until, workers


def test_output_and_exit_code(cli: Cli, session: str) -> None:
    """Both streams where they belong, the command's exit code; a program that is not there is 127, a signal 128+n."""
    script = "echo out; echo err >&2; exit 3"
    assert Run(3, "out\n", "err\n") == cli("session", "exec", session, "--", "sh", "-c", script)
    assert (127, True) == ((gone := cli("session", "exec", session, "nosuchprogram")).code, "nosuchprogram" in gone.err)
    assert 137 == cli("session", "exec", session, "sh", "-c", "kill -9 $$").code
    shown = cli("session", "exec", session, "--json", "--", "sh", "-c", script)
    assert 3 == shown.code
    assert (session, "out\n", "err\n") == (
        shown.json["id"],
        shown.json["data"]["stdout"],
        shown.json["data"]["stderr"],
    )


def test_options_of_the_command_are_its_own(cli: Cli, session: str) -> None:
    """From the first word on nothing is an option, with and without '--'; text of any script comes through."""
    assert (
        "-e --json ünï 漢 ' \n"
        == cli("session", "exec", session, "printf", "%s ", "-e", "--json", "ünï", "漢", "'").out
    )
    assert "--json x\n" == cli("session", "exec", session, "--", "echo", "--json", "x").out


def test_variables_and_standard_input(cli: Cli, session: str) -> None:
    """--env adds to the session's; standard input is passed on when that is asked for."""
    script = 'echo "$GREETING"; echo "$GHCOORD_SESSION_ID"'
    assert (
        f"hi there\n{session}\n"
        == cli("session", "exec", session, "--env", "GREETING=hi there", "sh", "-c", script).out
    )
    assert "11\n" == cli("session", "exec", session, "-i", "wc", "-c", stdin="ünïcödé").out
    assert "0\n" == cli("session", "exec", session, "--", "wc", "-c", stdin="ünïcödé").out


def test_what_a_terminal_would_act_on_is_shown(cli: Cli, session: str) -> None:
    """Control characters of a command's output and errors are escaped."""
    done = cli("session", "exec", session, "sh", "-c", r"printf 'x\033[31m\r'; printf '\033]0;t\007' >&2")
    assert ("x\\x1b[31m\\r\n", "\\x1b]0;t\\x07\n") == (done.out, done.err)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("SESSION",), 2, "missing argument '-- CMD...'"),
        (("SESSION", "--", ""), 8, "argv must name a program"),
        (("SESSION", "--", "\udcff"), 2, "is not UTF-8 text"),
        (("SESSION", "--env", "A", "true"), 2, "--env takes key=value"),
        (("SESSION", "--env", "1=2", "true"), 8, "variable"),
        (("SESSION", "--timeout", "soon", "true"), 2, "'soon'"),
        (("SESSION", "--key", "", "true"), 2, "key"),
        (("SESSION", "--nonsense", "--", "true"), 2, "--nonsense"),
        (("nosuch", "true"), 3, "'nosuch': see 'ghcoord session list'"),
        (("a b", "true"), 2, "'a b' is not accepted"),
    ],
)
def test_it_refuses(cli: Cli, session: str, args: tuple[str, ...], code: int, words: str) -> None:
    """In one line that names the fix."""
    refused = cli("session", "exec", *(session if arg == "SESSION" else arg for arg in args))
    assert (code, True) == (refused.code, words in refused.error), refused.err


def test_standard_input_that_cannot_go_along(cli: Cli, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much, or no text: the other way is named."""
    huge = cli("session", "exec", session, "-i", "wc", stdin="x" * 600_001)
    assert (2, True) == (huge.code, "session put" in huge.error)

    class Binary(io.StringIO):
        buffer = io.BytesIO(b"\xff\x00")

    monkeypatch.setattr("ghcoord.faces.cli.sessionrun.stdin_bytes", lambda: Binary.buffer)
    assert "is not UTF-8" in cli("session", "exec", session, "-i", "wc").error


def test_a_key_runs_it_once(cli: Cli, session: str) -> None:
    """The same call returns the first result, another one of the key is refused."""
    line = ("session", "exec", session, "--key", "k/1", "--", "sh", "-c", "echo x >> log; cat log; exit 4")
    assert Run(4, "x\n", "") == cli(*line) == cli(*line)
    assert "belongs to another call" in cli("session", "exec", session, "--key", "k/1", "true").error


def test_ended_by_a_limit(cli: Cli, living: Hub, session: str) -> None:
    """Exit code 8 and which limit; what it wrote until then is shown."""
    late = cli("session", "exec", session, "--timeout", "500ms", "sh", "-c", "echo began; sleep 60")
    assert Run(8, "began\n", "error: timed out after 0.5s\n") == late
    small = cli("session", "create", "--limit", "timeout=300ms", "--limit", "output_kb=1").out.strip()
    assert "timed out after 0.3s" in cli("session", "exec", small, "sleep", "60").err
    much = cli("session", "exec", small, "seq", "1000")
    assert (0, True) == (much.code, "ghcoord task logs" in much.err)
    assert "task" in cli("session", "exec", small, "--json", "seq", "1000").json


@pytest.mark.slow
def test_follow_prints_while_it_runs(cli: Cli, session: str) -> None:
    """The output is there before the command has ended, and once."""
    process = subprocess.Popen(
        command("session", "exec", session, "--follow", "--", "sh", "-c", "echo early; sleep 30; echo late"),
        stdout=subprocess.PIPE,
        env=environment({"PYTHONUNBUFFERED": "1"}),
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert "early\n" == process.stdout.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
    assert Run(2, "out\n", "") == cli("session", "exec", session, "--follow", "sh", "-c", "echo out; exit 2")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_command(cli: Cli, living: Hub, session: str, number: signal.Signals) -> None:
    """Exit code 130, and the command does not go on."""
    process = subprocess.Popen(
        command("session", "exec", session, "--", "sh", "-c", "sleep 2; touch later"), env=environment()
    )
    until(lambda: _runs(living, session))
    process.send_signal(number)
    assert 130 == process.wait(20)
    assert ["cancelled"] == [one.state for one in living.tasks.list() if one.session == session]
    time.sleep(2)
    assert "" == cli("session", "exec", session, "ls").out


@pytest.mark.slow
def test_destroyed_meanwhile(cli: Cli, living: Hub, session: str) -> None:
    """A call whose session is destroyed ends, with exit code 3 or the result that it had."""
    runs: list[Run] = []
    caller = threading.Thread(target=lambda: runs.append(_exec(session, "sleep", "60")))
    caller.start()
    until(lambda: _runs(living, session))
    living.sessions.destroy(session)
    caller.join(20)
    assert runs[0].code in (3, 8), runs
    assert session in runs[0].err or "destroyed" in runs[0].err


def _runs(hub: Hub, session: str) -> bool:
    return any(one.session == session for one in hub.tasks.list(state="leased"))


def _exec(*args: str) -> Run:
    done = subprocess.run(
        command("session", "exec", *args), capture_output=True, text=True, env=environment(), check=False, timeout=60
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_a_lost_session(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """When its worker was killed and it has no checkpoint: exit code 7, and what to do, now and later."""
    args = ("--ttl", "2", "--poll", "50ms", "--workspace", str(tmp_path / "base"))
    (tmp_path / "base").mkdir()
    with workers(hub, "w1", args=args) as [first], workers(hub, "w2", args=args):
        until(lambda: cli("session", "create", "--id", "s1", "--worker", "w1").code == 0)
        assert 0 == cli("session", "exec", "s1", "touch", "x").code
        first.signal(9)
        until(lambda: cli("session", "show", "s1", "--json").json["state"] == "lost", timeout=30)
        for line in (("session", "exec", "s1", "true"), ("session", "get", "s1", "x"), ("session", "checkpoint", "s1")):
            refused = cli(*line)
            assert (7, True) == (refused.code, "s1 was lost" in refused.error), refused.err
        assert "lost: " in cli("session", "show", "s1").out
        assert 0 == cli("session", "destroy", "s1", "--yes").code


@pytest.mark.slow
def test_a_call_that_waits_for_a_dead_worker(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """Its death is said and acted upon by whoever waits, although no other worker is there to notice."""
    args = ("--ttl", "2", "--poll", "50ms", "--workspace", str(tmp_path / "base"))
    (tmp_path / "base").mkdir()
    with workers(hub, "w1", args=args) as [first]:
        until(lambda: cli("session", "create", "--id", "s1").code == 0)
        assert 0 == cli("session", "exec", "s1", "touch", "x").code
        first.signal(9)
        refused = cli("session", "exec", "s1", "true")
    assert 7 == refused.code
    assert "the worker w1 is silent" in refused.err
    assert "error: the session s1 was lost: its worker w1 died; create another" == refused.err.splitlines()[-1]
