"""The interpreter that stays: state between calls, output, interruption, and its end."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.tools.executing import Commands
from ghcoord.execution.tools.interpreter import Answer, Interpreter
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.tools.prompt import Prompts
from ghcoord.execution.tools.registry import builtin_tools
from ghcoord.model.limits import Limits
from ghcoord.model.tool import Tool, ToolResult
from tests.execution.tools.conftest import RUNTIME, Call, Context, named
from tests.test_tracing import GOOD


@pytest.fixture(params=["bwrap", pytest.param("none", marks=pytest.mark.slow)])
def sandboxed(request: pytest.FixtureRequest, kit: Kit) -> Kit:
    """A kit with each sandbox in turn."""
    return kit if request.param == "none" else replace(kit, sandbox=request.getfixturevalue("bwrap"))


@pytest.fixture
def prompt(sandboxed: Kit, session: Context) -> Iterator[Call]:
    """Run code in the session's interpreter; ``timeout`` as keyword."""
    tool = named(builtin_tools(sandboxed))["python.prompt"]

    def run(code: str, timeout: float | None = 20.0) -> ToolResult:
        session.timeout = timeout
        return tool.run({"code": code}, session)

    yield run
    for end in sandboxed.ends:
        end()


def test_state_stays(prompt: Call, session: Context) -> None:
    """Variables, imports and definitions are there in the next call; the last expression's value comes back.

    What tells of the first call alone, such as its trace, is not.
    """
    session.trace = GOOD
    first = prompt("import sys\nx = 40\ndef f(n):\n    return x + n")
    assert ToolResult(True, data={"stdout": "", "stderr": "", "value": None}) == first
    assert ToolResult(True, "42\n", data={"stdout": "", "stderr": "", "value": "42"}) == prompt("f(2)")
    assert "'42'" == prompt("str(_)").data["value"]
    assert "True" == prompt("sys.prefix.endswith('/workspace/.venv')").data["value"]
    assert "False" == prompt("__import__('os').environ.keys() >= {'TRACEPARENT'}").data["value"]
    assert None is prompt("None").data["value"]
    assert "x\n" == prompt("print('x')").output
    assert prompt("open('file', 'w').close()").success
    assert (session.workspace / "file").exists()


def test_output_comes_apart_and_as_it_happens(prompt: Call, session: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Python and of what it starts; the caller sees it while the code runs."""
    code = (
        "import os, sys, time\n"
        "print('one', flush=True)\n"
        "os.system('echo two; echo three >&2')\n"
        "time.sleep(0.3)\n"
        "print('ü')"
    )
    seen: list[float] = []

    def log(self: Context, stream: str, text: str) -> None:
        seen.append(time.monotonic())
        self.logs.append((stream, text))

    monkeypatch.setattr(Context, "log", log)
    result = prompt(code)
    assert ("one\ntwo\nü\n", "three\n") == (result.data["stdout"], result.data["stderr"])
    assert seen[-1] - seen[0] > 0.25
    assert "one\ntwo\nü\n" == "".join(text for stream, text in session.logs if stream == "stdout")


@pytest.mark.parametrize(
    ("code", "error", "shown"),
    [
        ("1\n1 / 0", "ZeroDivisionError: division by zero", "    1 / 0\n"),
        ("def f(:", "SyntaxError: invalid syntax", "def f(:"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("class Bad(Exception):\n    def __str__(self): 1 / 0\nraise Bad", "Bad: <exception str() failed>", ""),
        ("class V:\n    def __repr__(self): raise ValueError('no repr')\nV()", "ValueError: no repr", "no repr"),
        ("input()", "EOFError: EOF when reading a line", ""),
        ("\x00", "SyntaxError: source code string cannot contain null bytes", ""),
    ],
)
def test_errors_leave_the_state(prompt: Call, code: str, error: str, shown: str) -> None:
    """The traceback is in stderr with the code's lines and nothing of ours, its last line is the error."""
    assert prompt("kept = 1").success
    result = prompt(code)
    assert (False, error, False) == (
        result.success,
        result.error.replace("ValueError: source", "SyntaxError: source"),
        result.infrastructure,
    )
    assert shown in result.data["stderr"]
    assert "<string>" not in result.data["stderr"]
    assert "1" == prompt("kept").data["value"]


def test_a_call_that_takes_too_long_is_interrupted(prompt: Call) -> None:
    """It ends like with Ctrl-C, with its output so far, and the variables stay."""
    result = prompt("import time\nx = 1\nprint('begun', flush=True)\ntime.sleep(60)", timeout=0.4)
    assert (False, "timed out after 0.4s", "begun\n") == (result.success, result.error, result.output)
    assert "KeyboardInterrupt" in result.data["stderr"]
    assert "1" == prompt("x").data["value"]
    assert "timed out after 0.3s" == prompt("while True: pass", timeout=0.3).error
    assert "1" == prompt("x").data["value"]


def test_what_cannot_be_interrupted_is_ended(prompt: Call) -> None:
    """The result says that the variables are gone; the next call has a new interpreter."""
    prompt("import signal, time; x = 1; signal.signal(signal.SIGINT, signal.SIG_IGN)")
    result = prompt("time.sleep(60)", timeout=0.3)
    gone = "the interpreter has ended (it did not stop when it was interrupted): its variables are gone"
    assert f"timed out after 0.3s; {gone}" == result.error
    assert "NameError: name 'x' is not defined" == prompt("x").error


def test_a_cancelled_call_is_interrupted(prompt: Call, session: Context) -> None:
    """Like one that takes too long."""
    assert prompt("x = 1").success
    timer = threading.Timer(0.3, session.stop.set)
    timer.start()
    result = prompt("import time; time.sleep(60)")
    assert (False, "cancelled") == (result.success, result.error)
    session.stop.clear()
    assert "1" == prompt("x").data["value"]


@pytest.mark.parametrize(
    ("code", "success", "error"),
    [
        ("exit()", True, ""),
        ("import sys; sys.exit(3)", False, "the program left with exit code 3"),
        ("raise SystemExit('bye')", False, "the program left with exit code 1"),
        ("import os; os._exit(7)", False, "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", False, "exit code 137"),
    ],
)
def test_a_program_may_leave(prompt: Call, code: str, success: bool, error: str) -> None:
    """Then its variables are gone, which the result says, and the next call begins anew."""
    prompt("x = 1")
    result = prompt(code)
    assert success == result.success
    assert ("" if success else f"the interpreter has ended ({error}): its variables are gone") == result.error
    assert "NameError: name 'x' is not defined" == prompt("x").error


def test_output_cannot_pass_for_an_answer(prompt: Call) -> None:
    """A program that writes the kernel's own messages without the call's number changes nothing; noise ends it."""
    forged = (
        "import gc, json, socket, struct\n"
        "line = [each for each in gc.get_objects() if isinstance(each, socket.socket)][0]\n"
        "data = json.dumps({'nonce': '0' * 32, 'end': True, 'value': 'forged', 'success': True}).encode()\n"
        "print(data.decode())\n"
        "line.sendall(struct.pack('>I', len(data)) + data)\n"
        "'real'"
    )
    assert "'real'" == prompt(forged).data["value"]
    for noise in ("b'\\xff' * 100", "struct.pack('>I', 3) + b'{{{'", "struct.pack('>I', 200000) + b'[' * 200000"):
        result = prompt(forged.replace("line.sendall(struct.pack('>I', len(data)) + data)", f"line.sendall({noise})"))
        assert "the interpreter has ended (it did not answer): its variables are gone" == result.error
    assert "1" == prompt("1").data["value"]


def test_a_process_that_never_stops_printing_does_not_block(prompt: Call) -> None:
    """It is the caller's own noise; calls go on, and what is too much is left out."""
    result = prompt("import subprocess, sys; p = subprocess.Popen(['yes']); x = 1", timeout=5)
    assert (True, "") == (result.success, result.error)
    assert prompt("import time; time.sleep(0.3)").truncated
    result = prompt("p.kill(); p.wait(); x")
    assert "1" == result.data["value"]


def test_a_child_that_leaves_is_not_the_interpreter(prompt: Call) -> None:
    """A forked child that falls out of the code ends quietly, whatever it did."""
    assert (
        "'parent'" == prompt("import os\nif not os.fork():\n    raise SystemExit(3)\nos.wait()\n'parent'").data["value"]
    )
    assert "1" == prompt("import os\nif os.fork(): os.wait()\n1").data["value"]


def test_limits_hold_for_the_interpreter(prompt: Call, session: Context) -> None:
    """Output is capped for each call."""
    session.limits = Limits(output_kb=1)
    result = prompt("print('x' * 100_000)")
    assert (True, True) == (result.success, result.truncated)
    assert len(result.data["stdout"]) < 1200
    assert len(prompt("'x' * 1_000_000").data["value"]) < 70_000


def test_one_call_at_a_time(prompt: Call) -> None:
    """A second one is refused in words instead of waiting."""
    assert prompt("import time").success
    results: list[ToolResult] = []
    thread = threading.Thread(target=lambda: results.append(prompt("time.sleep(0.5)")))
    thread.start()
    time.sleep(0.2)
    assert "the session's interpreter is busy with another call: wait for it, or cancel it" == prompt("1").error
    thread.join()
    assert results[0].success


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({}, "python.prompt needs the argument code"),
        ({"code": 1}, "code must be a string, not a number"),
        ({"code": "1", "file": "a"}, "python.prompt has no argument 'file': it takes code"),
    ],
)
def test_bad_arguments(plain: dict[str, Tool], session: Context, args: dict[str, object], error: str) -> None:
    """Each is told in a sentence."""
    with pytest.raises(UsageError) as refusal:
        plain["python.prompt"].check(args)
    assert error == refusal.value.message == plain["python.prompt"].run(args, session).error


def test_it_needs_a_session(plain: dict[str, Tool], ctx: Context) -> None:
    """A task of its own has nothing that could stay."""
    assert "works in a session only" in plain["python.prompt"].run({"code": "1"}, ctx).error


# -- the end


def processes(marker: str) -> list[str]:
    """Command lines of processes that have ``marker`` in their environment or command line."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            text = (each / "cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in text:
            found.append(text.decode(errors="replace"))
    return found


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it becomes true within five seconds."""
    ends = time.monotonic() + 5
    while not true() and time.monotonic() < ends:
        time.sleep(0.02)
    return true()


@pytest.fixture
def prompts(kit: Kit, bwrap: Sandbox) -> Prompts:
    """Interpreters in bubblewrap that are idle after half a second."""
    return Prompts(Commands(replace(kit, sandbox=bwrap), bwrap), idle=0.5)


@pytest.mark.parametrize("how", ["closed", "idle", "workspace gone", "workspace replaced"])
def test_nothing_is_left_when_it_ends(prompts: Prompts, session: Context, how: str) -> None:
    """By the worker's end, for being idle, and with its session's folder: no process and no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    secret = f"marker{RUNTIME.randbits(64)}"
    assert prompts.run(
        f"import subprocess; p = subprocess.Popen(['sleep', '60', ], env={{}}); '{secret}'", session
    ).success
    prompts.run(f"subprocess.Popen(['sh', '-c', 'sleep 60; : {secret}'])", session)
    assert eventually(lambda: len(processes(secret)) > 0)
    if how == "closed":
        prompts.close()
    elif how.startswith("workspace"):
        session.workspace.rename(session.workspace.with_name("gone"))
        if how.endswith("replaced"):
            session.workspace.mkdir()
    assert eventually(lambda: not processes(secret))
    assert eventually(lambda: before == len(os.listdir("/proc/self/fd")))


def test_a_new_workspace_of_the_same_name_has_its_own(prompts: Prompts, session: Context) -> None:
    """Nothing of a session that ended is seen by one that takes its place."""
    assert prompts.run("x = 1", session).success
    session.workspace.rename(session.workspace.with_name("gone"))
    session.workspace.mkdir()
    time.sleep(0.2)
    answer = prompts.run("x", session)
    assert (False, True) == (answer.success, "NameError" in answer.stderr)
    prompts.close()


# -- an interpreter that misbehaves


class Fake:
    """The other end of the conversation, played by a function."""

    def __init__(self, play: Callable[[socket.socket], Completed | None]) -> None:
        self.play = play

    def start(self, argv: list[str], stdin_fd: int, cancelled: Callable[[], bool]) -> Completed:
        with socket.socket(fileno=stdin_fd) as line:
            done = self.play(line)
            while done is None:
                if cancelled():
                    return Completed(None, "", "", False, "cancelled", False)
                time.sleep(0.01)
            return done


def ask(play: Callable[[socket.socket], Completed | None], timeout: float | None = 1.0) -> Answer:
    """What a call of an interpreter that is played by ``play`` comes to."""
    interpreter = Interpreter(RUNTIME, Fake(play).start, lambda idle: False)
    try:
        return interpreter.run(
            "code", cap=1000, timeout=timeout, grace=0.2, cancelled=lambda: False, log=lambda stream, text: None
        )
    finally:
        interpreter.close()


def receive(line: socket.socket) -> str:
    """The call's number."""
    (size,) = struct.unpack(">I", line.recv(4))
    nonce = json.loads(line.recv(size))["nonce"]
    assert isinstance(nonce, str)
    return nonce


def say(line: socket.socket, **fields: object) -> None:
    """Send a message."""
    data = json.dumps(fields).encode()
    line.sendall(struct.pack(">I", len(data)) + data)


def test_strange_messages_are_dropped() -> None:
    """What has the wrong types or another number is no output and no end."""

    def play(line: socket.socket) -> None:
        nonce = receive(line)
        for fields in (
            {"nonce": "other", "end": True, "value": "wrong"},
            {"nonce": nonce, "stream": "elsewhere", "text": "wrong"},
            {"nonce": nonce, "stream": "stdout", "text": 5},
            {"nonce": nonce, "stream": ["stdout"], "text": "wrong"},
            {"nonce": nonce, "end": "yes"},
            {"nonce": nonce, "stream": "stdout", "text": "right"},
        ):
            say(line, **fields)
        line.sendall(struct.pack(">I", 2) + b"[]")
        say(line, nonce=nonce, end=True, value=["wrong"], success="wrong", exit=["wrong"])

    assert Answer(False, "right", "", None, False) == ask(play)


def test_an_end_by_a_limit_is_told() -> None:
    """The interpreter's own end says why."""

    def play(line: socket.socket) -> Completed:
        receive(line)
        return Completed(None, "", "killed", False, "memory", False)

    answer = ask(play)
    assert ("it passed the limit of memory", "killed") == (answer.ended, answer.stderr)


def test_a_sandbox_that_fails_is_raised() -> None:
    """So that the lease is given back."""

    def play(line: socket.socket) -> Completed:
        raise SandboxError("no namespaces")

    with pytest.raises(SandboxError):
        ask(play)


def test_one_that_never_takes_the_code_is_ended() -> None:
    """A timeout before the code was sent whole needs no interruption."""
    interpreter = Interpreter(RUNTIME, Fake(lambda line: None).start, lambda idle: False)
    answer = interpreter.run(
        "x" * 10_000_000, cap=1000, timeout=0.3, grace=0.2, cancelled=lambda: False, log=lambda stream, text: None
    )
    assert ("timeout", False, False) == (answer.stopped, answer.success, interpreter.alive)
