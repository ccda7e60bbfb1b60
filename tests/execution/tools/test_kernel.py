"""The programs that run inside the sandbox, here in this process: what they say on the line and in the report."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ghcoord.execution.tools import kernel, pytest_runner


class Ended(BaseException):
    """Instead of the end of the process."""


class Surviving:
    """The module ``os``, without the end of the process."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def _exit(self, code: int) -> None:
        raise Ended


# For good, and not for a test: the kernel's threads outlive it.
setattr(kernel, "os", Surviving())  # noqa: B010


class Quiet(kernel.Kernel):
    """A kernel whose threads end when the test does."""

    def listen(self) -> None:
        """Until the line is closed."""
        with contextlib.suppress(Ended, OSError, ValueError):
            super().listen()

    def pump(self) -> None:
        """Until the line is closed."""
        with contextlib.suppress(OSError, ValueError):
            super().pump()


class Conversation:
    """A kernel in a thread of its own, and the other end of its line."""

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair()
        self.line.settimeout(5)
        ours, self.output = os.pipe()
        os.set_blocking(ours, False)
        self.kernel = Quiet(theirs, {ours: "stdout"}, self.output)
        self.incoming = self.line.makefile("rb")
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Until the program leaves."""
        with contextlib.suppress(Ended, OSError):
            self.kernel.serve()

    def say(self, **fields: object) -> None:
        """Send a message."""
        data = json.dumps(fields).encode()
        self.line.sendall(struct.pack(">I", len(data)) + data)

    def hear(self) -> dict[str, Any]:
        """The next message."""
        (size,) = struct.unpack(">I", self.incoming.read(4))
        found: dict[str, Any] = json.loads(self.incoming.read(size))
        return found

    def ask(self, code: str) -> tuple[str, dict[str, Any]]:
        """What a call printed, and its end."""
        self.say(nonce="n", code=code)
        printed = ""
        while "end" not in (message := self.hear()):
            printed += message["text"]
        return printed, message


@pytest.fixture
def talk() -> Iterator[Conversation]:
    """A conversation whose end does not end the tests."""
    before = set(threading.enumerate())
    conversation = Conversation()
    conversation.ask("")
    conversation.kernel.count = 0
    yield conversation
    conversation.line.shutdown(socket.SHUT_RDWR)
    for thread in set(threading.enumerate()) - before:
        if "listen" in thread.name:
            thread.join(5)
    for each in (conversation.incoming, conversation.line, conversation.kernel.line):
        each.close()


def test_values_and_errors(talk: Conversation) -> None:
    """The last expression's repr, the traceback on the error stream, and the state in between."""
    assert ("", {"nonce": "n", "end": True, "value": "2", "success": True, "exit": None}) == talk.ask("x = 1\nx + 1")
    assert None is talk.ask("")[1]["value"]
    assert None is talk.ask("None")[1]["value"]
    assert None is talk.ask("y = 2")[1]["value"]
    printed, end = talk.ask("import os\n1 / 0")
    assert (False, None) == (end["success"], end["value"])
    assert 'File "<prompt 5>", line 2' in printed
    assert "ast.py" not in talk.ask("1 +")[0]
    bad = "class Bad(BaseException):\n    @property\n    def __cause__(self): raise Bad\nraise Bad()"
    assert not talk.ask(bad)[1]["success"]


def test_output_is_passed_on(talk: Conversation) -> None:
    """What is written while the code runs comes before its end, byte by byte."""
    assert ("a\xff", "1") == (lambda found: (found[0], found[1]["value"]))(
        talk.ask(f"import os; os.write({talk.output}, b'a\\xff')\n1")
    )


@pytest.mark.parametrize(("code", "exits"), [("exit()", [0]), ("exit(3)", [3]), ("raise SystemExit('words')", [1])])
def test_a_program_that_leaves(talk: Conversation, code: str, exits: list[int]) -> None:
    """Its code comes with the end."""
    _, end = talk.ask(code)
    assert (False, exits) == (end["success"], end["exit"])


def test_a_forked_child_ends_quietly(talk: Conversation) -> None:
    """Where the process is another one nothing is sent."""
    talk.kernel.pid = -1
    with pytest.raises(Ended):
        talk.kernel.guarded("1")
    with pytest.raises(Ended):
        talk.kernel.guarded("exit(3)")


def test_only_the_running_call_is_interrupted(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order with another number, or while nothing runs, does nothing."""
    told: list[int] = []
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: told.append(number))
    talk.say(interrupt="n")
    assert talk.ask("1")[1]["success"]
    talk.say(nonce="m", code="import time\nfor _ in range(100):\n    time.sleep(0.01)\n    if go: break")
    talk.kernel.names["go"] = False
    while not talk.kernel.running:
        time.sleep(0.005)
    talk.say(interrupt="other")
    talk.say(interrupt="m")
    while not told:
        time.sleep(0.005)
    talk.kernel.names["go"] = True
    assert talk.hear()["end"]
    assert [signal.SIGINT] == told
    talk.kernel.interrupt(2, None)
    talk.kernel.running = True
    with pytest.raises(KeyboardInterrupt):
        talk.kernel.interrupt(2, None)


# -- the runner of tests


@pytest.mark.slow
def test_the_runner_reports_each_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a test, with its outcome and message."""
    (tmp_path / "test_inner.py").write_text(
        "import pytest\n"
        "def test_good(): ...\n"
        "def test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='no')\n"
        "def test_skipped(): ...\n"
        "@pytest.mark.xfail\n"
        "def test_expected(): assert 0\n"
        "@pytest.fixture\n"
        "def broken(): raise ValueError('set-up')\n"
        "def test_error(broken): ...\n"
    )
    (tmp_path / "test_unreadable.py").write_text("import nothing_of_that_name\n")
    report = tmp_path / "report"
    report.touch()
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull]
    options += ["--continue-on-collection-errors", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["runner", str(report), *options])
    assert 1 == pytest_runner.main()
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert {
        "test_unreadable.py": "error",
        "test_good": "passed",
        "test_bad": "failed",
        "test_skipped": "skipped",
        "test_expected": "skipped",
        "test_error": "error",
    } == {line["name"].rpartition("::")[2].rpartition("/")[2]: line["outcome"] for line in lines}


def test_the_runner_says_that_pytest_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line of its own, with an exit code that is not success."""
    report = tmp_path / "report"
    report.touch()
    monkeypatch.setattr(sys, "argv", ["runner", str(report)])
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(SystemExit, match="4"):
        runpy.run_path(str(Path(pytest_runner.__file__)), run_name="__main__")
    assert "missing" in json.loads(report.read_text())
