"""``ghcoord session shell``: a prompt on a terminal, a program from standard input."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ghcoord.hub import Hub
from tests.cli.running import Cli, Run
from tests.cli.terminal import Terminal


def test_a_program_from_standard_input(cli: Cli, session: str) -> None:
    """Runs as a whole; the value of its last expression is printed, and its variables stay for the next."""
    program = (
        "words = 'to be or not to be'.split()\nfor word in words:\n    pass\n\n"
        "def f():\n\n    return len(set(words))\nf()\n"
    )
    assert Run(0, "4\n", "") == cli("session", "shell", session, stdin=program)
    assert Run(0, "6\n", "") == cli("session", "shell", session, stdin="print(len(words))")
    assert Run(0, "", "") == cli("session", "shell", session, stdin="")


def test_a_program_that_fails(cli: Cli, session: str) -> None:
    """Exit code 8 with the traceback, in which the program's own lines stand."""
    done = cli("session", "shell", session, stdin="print('before')\n1/0\n")
    assert (8, "before\n") == (done.code, done.out)
    assert "line 2" in done.err
    assert "ZeroDivisionError: division by zero" == done.err.splitlines()[-1]
    wrong = cli("session", "shell", session, stdin="if :\n")
    assert (8, True) == (wrong.code, "SyntaxError" in wrong.err)
    late = cli("session", "shell", session, "--timeout", "300ms", stdin="import time; time.sleep(60)")
    assert (8, True) == (late.code, "timed out after 0.3s" in late.err)


def test_hostile_values(cli: Cli, session: str) -> None:
    """Control characters in values and output are escaped."""
    shown = cli("session", "shell", session, stdin="print('\\x1b[31m\\x07')\n'\\x1b]0;x'")
    assert "\\x1b[31m\\x07\n'\\x1b]0;x'\n" == shown.out


@pytest.mark.parametrize(
    ("session_id", "stdin", "code", "words"),
    [
        ("nosuch", "1", 3, "'nosuch': see 'ghcoord session list'"),
        ("S", "x" * 600_001, 2, "session put"),
    ],
)
def test_it_refuses(cli: Cli, session: str, session_id: str, stdin: str, code: int, words: str) -> None:
    """In one line that names the fix."""
    refused = cli("session", "shell", session if session_id == "S" else session_id, stdin=stdin)
    assert (code, True) == (refused.code, words in refused.error), refused.err


@pytest.fixture
def prompt(session: str) -> Iterator[Terminal]:
    """A prompt that waits."""
    with Terminal("session", "shell", session) as screen:
        screen.wait_for(">>> ")
        yield screen


def say(screen: Terminal, text: str, answer: str, before: str = ">>> ") -> None:
    """Type a line; what came since then has ``answer``, and another prompt follows."""
    at = len(screen.seen)
    screen.type(text if text == "\x03" else text + "\r")
    for _ in range(400):
        screen.read(0.05)
        new = screen.seen[at:].replace("\r", "")
        if answer in new and new.endswith(before):
            return
    pytest.fail(f"no {answer!r} and {before!r} after {text!r}: {screen.seen[at:]!r}")


@pytest.mark.slow
def test_the_prompt(prompt: Terminal, session: str) -> None:
    """Values are shown, blocks take several lines, an exception ends nothing, Ctrl-D leaves with exit code 0."""
    assert f"Python in session {session}" in prompt.seen
    say(prompt, "x = 20", "")
    say(prompt, "x + 1", "\n21\n")
    say(prompt, "for n in range(2):", "", "... ")
    say(prompt, "    print('n', n)", "", "... ")
    say(prompt, "", "n 0\nn 1\n")
    say(prompt, "1/0", "ZeroDivisionError: division by zero\n")
    say(prompt, "x +", "SyntaxError")
    say(prompt, "x", "\n20\n")
    prompt.type("\x04")
    assert 0 == prompt.end()


@pytest.mark.slow
def test_ctrl_c_stops_what_runs(prompt: Terminal) -> None:
    """The line that runs, or the one that is being typed; the variables stay, and the prompt too."""
    say(prompt, "y = 7", "")
    say(prompt, "import time", "")
    prompt.type("time.sleep(60)\r")
    prompt.read(1.0)
    interrupt(prompt)
    say(prompt, "y", "\n7\n")
    prompt.type("if True:\r")
    prompt.wait_for("... ")
    interrupt(prompt)
    say(prompt, "y + 1", "\n8\n")


def interrupt(screen: Terminal) -> None:
    """Ctrl-C; the prompt comes back."""
    say(screen, "\x03", "KeyboardInterrupt")


@pytest.mark.slow
def test_leaving_by_word(living: Hub, session: str, cli: Cli) -> None:
    """'exit()' ends the prompt and not the interpreter: its variables are there for the next."""
    with Terminal("session", "shell", session) as screen:
        screen.wait_for(">>> ")
        say(screen, "kept = 'yes'", "")
        screen.type("exit()\r")
        assert 0 == screen.end()
    assert "'yes'\n" == cli("session", "shell", session, stdin="kept").out


@pytest.mark.slow
def test_the_session_goes_away(living: Hub, session: str) -> None:
    """The prompt ends with exit code 3 when the session is destroyed, and says so."""
    with Terminal("session", "shell", session) as screen:
        screen.wait_for(">>> ")
        say(screen, "1", "\n1\n")
        living.sessions.destroy(session)
        screen.type("2\r")
        assert 3 == screen.end()
        assert f"there is no session '{session}'" in screen.seen
