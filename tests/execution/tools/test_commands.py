"""The tools that start commands: what they return, whose fault a failure is, and how they end."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.sandbox.base import Launch
from ghcoord.execution.sandbox.job import Job, LimitSupport, Mount
from ghcoord.execution.sandbox.none import NoSandbox
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.tools.registry import builtin_tools
from ghcoord.model.limits import Limits
from ghcoord.model.tool import Tool, ToolResult
from tests.execution.tools.conftest import Call, Context, named
from tests.test_tracing import GOOD


def test_echo_returns_its_message(call: Call) -> None:
    """The message is the output and the tool's one field."""
    assert ToolResult(True, "hello", data={"message": "hello"}) == call("echo", message="hello")


def test_shell_returns_streams_and_exit_code(call: Call, ctx: Context) -> None:
    """Output is stdout; data has both streams and the exit code; output was streamed as well."""
    result = call("shell", command='read line; echo "$line $NAME"; echo note >&2', stdin="hello\n", env={"NAME": "you"})
    assert (True, "hello you\n", "", 0) == (result.success, result.output, result.error, result.exit_code)
    assert {"stdout": "hello you\n", "stderr": "note\n", "exit_code": 0} == result.data
    assert {("stdout", "hello you\n"), ("stderr", "note\n")} == set(ctx.logs)


def test_shell_failure_is_the_tasks_failure(call: Call) -> None:
    """Another exit code than 0 fails with that code in the message, and is no matter of the infrastructure."""
    result = call("shell", command="echo out; exit 3")
    assert (False, "out\n", "exit code 3", 3) == (result.success, result.output, result.error, result.exit_code)
    assert result.infrastructure is False
    assert "exit code 137 (SIGKILL)" == call("shell", command="kill -KILL $$").error
    assert "exit code 127" == call("shell", command="no-such-command").error


def test_python_runs_code(call: Call, ctx: Context) -> None:
    """Code sees its arguments, input, variables and workspace, and its file is gone afterwards."""
    code = "import os, sys; open('kept', 'w').write('x'); print(sys.argv[1:], sys.stdin.read(), os.environ['A'])"
    result = call("run.python", code=code, args=["1", "two words"], stdin="input", env={"A": "b"})
    assert (True, "['1', 'two words'] input b\n", 0) == (result.success, result.output, result.exit_code)
    assert ["kept"] == [path.name for path in ctx.workspace.iterdir()]


def test_python_runs_a_file_of_the_workspace(call: Call, ctx: Context) -> None:
    """A file is run where it lies, and may import its neighbours."""
    (ctx.workspace / "helper.py").write_text("answer = 42\n")
    (ctx.workspace / "main.py").write_text("import helper\nprint(helper.answer)\n")
    assert "42\n" == call("run.python", file="main.py").output


def test_python_code_imports_from_the_workspace(call: Call, ctx: Context) -> None:
    """Code given as text finds the workspace's modules as a file would."""
    (ctx.workspace / "helper.py").write_text("answer = 42\n")
    assert "42\n" == call("run.python", code="import helper; print(helper.answer)").output


@pytest.mark.parametrize(
    ("code", "error", "exit_code"),
    [
        ("def f():\n    raise ValueError('no')\nf()", "ValueError: no", 1),
        ("x = (", "SyntaxError: '(' was never closed", 1),
        ("import sys; sys.exit('my words')", "my words", 1),
        ("import sys; sys.stderr.write('a note'); sys.exit(3)", "exit code 3", 3),
        ("import os; os.abort()", "exit code 134 (SIGABRT)", 134),
    ],
)
def test_python_errors_are_the_tracebacks_last_line(call: Call, code: str, error: str, exit_code: int) -> None:
    """The traceback is in stderr with the code's lines, its last line is the error."""
    result = call("run.python", code=code)
    assert (False, error, exit_code) == (result.success, result.error, result.exit_code)
    if "ValueError" in error:
        assert "raise ValueError('no')" in result.data["stderr"]


def test_python_of_any_length(call: Call) -> None:
    """Code longer than an argument may be is no problem."""
    assert "500000\n" == call("run.python", code=f"print(len('{'x' * 500_000}'))").output


@pytest.mark.parametrize(
    ("tool", "args", "error"),
    [
        ("echo", {}, "echo needs the argument message"),
        ("echo", {"message": 5}, "message must be a string, not a number"),
        ("echo", {"message": "a", "loud": True}, "echo has no argument 'loud': it takes message"),
        ("shell", {}, "shell needs the argument command"),
        ("shell", {"command": "  "}, "shell needs the argument command"),
        ("shell", {"command": "x" * 200_000}, "put it in a file or on stdin"),
        ("shell", {"command": "true", "env": {"A=B": "c"}}, "bad environment variable 'A=B'"),
        ("shell", {"command": "true", "env": ["A"]}, "env must be an object of strings, not a list"),
        ("shell", {"command": "true", "stdin": 5}, "stdin must be a string, not a number"),
        ("shell", {"command": "true", "env": {"A": 1}}, "each of env must be a string, not a number"),
        ("shell", {"command": "true", "env": {"A": "\0"}}, "an variable contains a NUL character"),
        ("shell", {"command": "a\0b"}, "an argument contains a NUL character"),
        ("exec", {}, "exec needs the argument argv"),
        ("exec", {"argv": []}, "argv must name a program"),
        ("exec", {"argv": [""]}, "argv must name a program"),
        ("exec", {"argv": "ls"}, "argv must be a list of strings, not a string"),
        ("exec", {"argv": ["ls", "a\0"]}, "an argument contains a NUL character"),
        ("shell", {"command": "\ud800"}, "command is not valid UTF-8"),
        ("run.python", {}, "code or file, one of them"),
        ("run.python", {"code": "1", "file": "a.py"}, "code or file, one of them"),
        ("run.python", {"code": "1", "args": "a"}, "args must be a list of strings, not a string"),
        ("run.python", {"code": "1", "args": [1]}, "each of args must be a string, not a number"),
        ("run.python", {"file": "/a.py"}, "path must be relative to workspace root, got absolute path: /a.py"),
        ("run.python", {"file": "a/../../b.py"}, "path traversal not allowed: a/../../b.py"),
        ("run.python", {"file": ""}, "the path is empty: name a file, or '.' for the workspace"),
    ],
)
def test_bad_arguments_fail_the_task_clearly(
    tools: dict[str, Tool], ctx: Context, tool: str, args: dict[str, Any], error: str
) -> None:
    """A wrong argument is refused by ``check``, and by ``run`` with a failed result instead of an exception."""
    with pytest.raises(UsageError) as refusal:
        tools[tool].check(args)
    assert error in refusal.value.message
    result = tools[tool].run(args, ctx)
    assert (False, refusal.value.message, False) == (result.success, result.error, result.infrastructure)


@pytest.mark.parametrize(
    ("tool", "args"),
    [
        ("shell", {"command": "echo before; sleep 60"}),
        ("run.python", {"code": "import time; print('before'); time.sleep(60)"}),
    ],
)
def test_a_timeout_fails_the_task_and_keeps_its_output(
    tools: dict[str, Tool], ctx: Context, tool: str, args: dict[str, Any]
) -> None:
    """The result says how long was allowed, and has what was written until then."""
    ctx.timeout = 0.5
    result = tools[tool].run(args, ctx)
    assert (False, "timed out after 0.5s", None) == (result.success, result.error, result.exit_code)
    assert "before\n" == result.output
    assert result.infrastructure is False


def test_a_cancelled_task_ends_soon(call: Call, ctx: Context) -> None:
    """A cancellation ends the command and is what the result says."""
    timer = threading.Timer(0.2, ctx.stop.set)
    timer.start()
    started = time.monotonic()
    result = call("shell", command="sleep 60")
    assert (False, "cancelled") == (result.success, result.error)
    assert time.monotonic() - started < 2.0


def test_exec_runs_a_program_without_a_shell(call: Call) -> None:
    """Arguments arrive as they are; a name is looked up inside; what is not there has the shell's exit code."""
    result = call("exec", argv=["printf", "%s|", "a b", "$HOME", "*"], env={"A": "1"})
    assert (True, "a b|$HOME|*|", 0) == (result.success, result.output, result.exit_code)
    assert "x" == call("exec", argv=["/bin/cat"], stdin="x").output
    assert (False, "exit code 127") == (call("exec", argv=["no-such"]).success, call("exec", argv=["no-such"]).error)
    assert "exit code 3" == call("exec", argv=["sh", "-c", "exit 3"]).error


def test_two_calls_with_code_do_not_meet(call: Call, ctx: Context) -> None:
    """Each has a file of its own, so that they may run in one workspace at a time."""
    results: list[ToolResult] = []
    code = "import time; time.sleep(0.3); print({})"
    threads = [
        threading.Thread(target=lambda number=number: results.append(call("run.python", code=code.format(number))))
        for number in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["1\n", "2\n"] == sorted(result.output for result in results)
    assert [] == list(ctx.workspace.iterdir())


def test_output_is_capped(plain: dict[str, Tool], kit: Kit, ctx: Context) -> None:
    """A result says that some of its output was left out: by the worker's cap, or the call's limit."""
    args = {"command": "head -c 5000 /dev/zero | tr '\\0' x"}
    shell = named(builtin_tools(replace(kit, output_cap=100)))["shell"]
    result = shell.run(args, ctx)
    assert (True, True) == (result.success, result.truncated)
    assert len(result.output) < 200
    ctx.limits = Limits(output_kb=1)
    assert 1000 < len(plain["shell"].run(args, ctx).output) < 1200


def test_the_limits_timeout_is_one_more(plain: dict[str, Tool], ctx: Context) -> None:
    """The shorter of the call's timeout and its limit ends it, and is named."""
    ctx.timeout, ctx.limits = 60.0, Limits(timeout=0.3)
    assert "timed out after 0.3s" == plain["shell"].run({"command": "sleep 60"}, ctx).error


def test_a_session_has_its_variables_and_environment(tools: dict[str, Tool], session: Context) -> None:
    """The session's variables, under those of the call; its id; its environment's ``python``, made when missing."""
    session.env = {"A": "session", "B": "session"}
    session.trace = GOOD
    result = tools["shell"].run(
        {
            "command": "echo $A $B $GHCOORD_SESSION_ID $GHCOORD_TASK_ID $GHCOORD_ATTEMPT $TRACEPARENT; "
            "command -v python",
            "env": {"A": "call"},
        },
        session,
    )
    first, second = result.output.splitlines()
    assert f"call session s1 t1 1 {GOOD}" == first
    assert second.endswith("workspace/.venv/bin/python")
    where = "import sys; print(sys.prefix != sys.base_prefix, sys.prefix.endswith('workspace/.venv'))"
    assert "True True\n" == tools["run.python"].run({"code": where}, session).output
    assert "True True\n" == tools["exec"].run({"argv": ["python", "-c", where]}, session).output
    (session.workspace / ".venv/pyvenv.cfg").unlink()
    assert "True True\n" == tools["run.python"].run({"code": where}, session).output


def test_the_trace_is_in_the_environment(plain: dict[str, Tool], ctx: Context) -> None:
    """As ``TRACEPARENT`` where there is one, unless the call sets another."""
    echo = {"command": "echo ${TRACEPARENT-unset}"}
    assert "unset\n" == plain["shell"].run(echo, ctx).output
    ctx.trace = GOOD
    assert f"{GOOD}\n" == plain["shell"].run(echo, ctx).output
    assert "mine\n" == plain["shell"].run({**echo, "env": {"TRACEPARENT": "mine"}}, ctx).output


def test_without_a_session_the_sandboxs_interpreter_is_used(call: Call, ctx: Context) -> None:
    """No environment is made for a task of its own."""
    assert "True\n" == call("run.python", code="import sys; print(sys.prefix == sys.base_prefix)").output
    assert [] == list(ctx.workspace.iterdir())


@dataclass(frozen=True)
class Refusing:
    """A sandbox that cannot be set up."""

    name = "bwrap"
    tier = "full"
    identity = None
    python = "/usr/bin/python3"
    limits = LimitSupport()

    def inside(self, workspace: Path) -> str:
        return str(workspace)

    def where(self, workspace: Path, mount: Mount) -> str:
        return str(mount.source)

    def command(self, job: Job) -> Launch:
        raise SandboxError("no namespaces today")


EVERY = [
    ("shell", {"command": "true"}),
    ("exec", {"argv": ["true"]}),
    ("run.python", {"code": "1"}),
    ("run.python", {"file": "a.py"}),
    ("test.run", {}),
    ("python.prompt", {"code": "1"}),
]


@pytest.mark.parametrize(("tool", "args"), EVERY)
def test_a_sandbox_that_fails_is_not_the_tasks_failure(
    session: Context, kit: Kit, tool: str, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set-up failure is marked as the infrastructure's, so that the lease is given back."""
    monkeypatch.setattr("ghcoord.execution.tools.executing.environment_python", lambda *_: "/usr/bin/python3")
    result = named(builtin_tools(replace(kit, sandbox=Refusing())))[tool].run(args, session)
    assert (False, True, "no namespaces today") == (result.success, result.infrastructure, result.error)
    assert [] == list(session.workspace.iterdir())


@pytest.mark.parametrize(("tool", "args"), EVERY)
def test_a_workspace_that_vanished_is_infrastructure(
    plain: dict[str, Tool], session: Context, tool: str, args: dict[str, Any]
) -> None:
    """Without its workspace no command starts."""
    session.workspace.rmdir()
    assert plain[tool].run(args, session).infrastructure


def test_without_a_python_there_are_only_commands(kit: Kit, session: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that can reach no Python offers what needs none."""
    monkeypatch.setattr(NoSandbox, "python", None)
    tools = named(builtin_tools(kit))
    assert {"shell", "exec"} == {"shell", "exec", "run.python", "test.run", "python.prompt"} & set(tools)
    assert "hi\n" == tools["shell"].run({"command": "echo hi"}, session).output


@pytest.mark.slow
def test_run_python_costs_at_most_three_interpreter_starts(
    plain: dict[str, Tool], bwrap: Any, kit: Kit, session: Context
) -> None:
    """The median of a call in the sandbox, against the bare interpreter's."""

    python = bwrap.python
    assert python is not None
    run = named(builtin_tools(replace(kit, sandbox=bwrap)))["run.python"]

    def median(action: Callable[[], object]) -> float:
        times = []
        for _ in range(21):
            started = time.perf_counter()
            action()
            times.append(time.perf_counter() - started)
        return sorted(times)[10]

    bare = median(lambda: subprocess.run([python, "-c", "pass"], check=True))
    assert median(lambda: run.run({"code": "pass"}, session)) < 3 * bare


@pytest.mark.parametrize(("program", "code"), [("/etc/passwd", 126), ("/none", 127), ("./none", 127), ("./a=b", 127)])
def test_a_program_that_cannot_be_run_is_a_failed_call(call: Call, program: str, code: int) -> None:
    """It ends with the shell's codes, and is no fault of the sandbox, which would send the lease back for ever."""
    result = call("exec", argv=[program, "x"])
    assert (False, False, code) == (result.success, result.infrastructure, result.exit_code)
