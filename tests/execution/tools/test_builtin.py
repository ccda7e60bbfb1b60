"""The built-in tools and registered functions: arguments, results, and whose fault a failure is."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import PathRefused, SandboxError, UsageError
from ghcoord.execution.sandbox.base import Launch, Sandbox, current_identity
from ghcoord.execution.sandbox.none import NoSandbox
from ghcoord.execution.tools.former import CODE_FILE, builtin_tools, workspace_path
from ghcoord.model.tool import Tool, ToolContext, ToolRegistry, ToolResult

RUNTIME = SystemRuntime()


@dataclass
class Context:
    """A :class:`ToolContext` that keeps what it is told."""

    workspace: Path
    timeout: float | None = None
    task_id: str = "t1"
    attempt: int = 1
    stop: threading.Event = field(default_factory=threading.Event)
    logs: list[tuple[str, str]] = field(default_factory=list)

    def cancelled(self) -> bool:
        return self.stop.is_set()

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        self.logs.append(("progress", f"{fraction} {message}"))

    def log(self, stream: str, text: str) -> None:
        self.logs.append((stream, text))


Call = Callable[..., ToolResult]


@pytest.fixture
def ctx() -> Iterator[Context]:
    """A context with a workspace that root's tasks can reach."""
    directory = Path(tempfile.mkdtemp(prefix="ghcoord-test-"))
    directory.chmod(0o711)
    (directory / "workspace").mkdir()
    yield Context(directory / "workspace")
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["bwrap", "none"])
def tools(request: pytest.FixtureRequest) -> dict[str, Tool]:
    """The built-in tools on each sandbox in turn."""
    if request.param == "none":
        return named(builtin_tools(NoSandbox(current_identity()), RUNTIME))
    return named(builtin_tools(request.getfixturevalue("bwrap"), RUNTIME))


@pytest.fixture
def call(tools: dict[str, Tool], ctx: Context) -> Call:
    """Call a tool with arguments."""
    return lambda tool, **args: tools[tool].run(args, ctx)


def named(tools: list[Tool]) -> dict[str, Tool]:
    """Tools by name."""
    return {tool.name: tool for tool in tools}


# -- built-in


def test_without_a_sandbox_only_echo_is_offered() -> None:
    """Tools that start processes are absent where nothing may confine them."""
    assert {"echo"} == set(named(builtin_tools(None, RUNTIME)))


def test_tools_say_whether_they_need_the_sandbox(tools: dict[str, Tool]) -> None:
    """Of the three built-in tools two run in the sandbox."""
    assert {"echo": False, "run.python": True, "shell": True} == {name: tool.sandboxed for name, tool in tools.items()}


def test_without_an_interpreter_in_reach_there_is_no_run_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that can reach no Python offers only the shell."""
    monkeypatch.setattr(NoSandbox, "python", None)
    assert {"echo", "shell"} == set(named(builtin_tools(NoSandbox(None), RUNTIME)))


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


def test_a_planted_link_does_not_redirect_the_code(call: Call, ctx: Context) -> None:
    """A link that an earlier task left in the place of the code's file is removed, not followed."""
    target = ctx.workspace.parent / "target"
    target.write_text("untouched")
    (ctx.workspace / CODE_FILE).symlink_to(target)
    assert "1\n" == call("run.python", code="print(1)").output
    assert "untouched" == target.read_text()


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
        ("shell", {"command": "true", "stdin": None}, "stdin must be a string, not null"),
        ("shell", {"command": "\ud800"}, "command is not valid UTF-8"),
        ("run.python", {}, "code or file, one of them"),
        ("run.python", {"code": "1", "file": "a.py"}, "code or file, one of them"),
        ("run.python", {"code": "1", "args": "a"}, "args must be a list of strings, not a string"),
        ("run.python", {"code": "1", "args": [1]}, "each of args must be a string, not a number"),
        ("run.python", {"file": "/a.py"}, "path must be relative to workspace root, got absolute path: /a.py"),
        ("run.python", {"file": "a/../../b.py"}, "path traversal not allowed: a/../../b.py"),
        ("run.python", {"file": ""}, "not the path of a file: ''"),
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


def test_paths_out_of_the_workspace_are_refused() -> None:
    """A path is taken as it is when it stays inside."""
    assert "a/b.py" == workspace_path("./a//b.py")
    with pytest.raises(PathRefused):
        workspace_path("..")


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


def test_output_is_capped(bwrap: Sandbox, ctx: Context) -> None:
    """A result says that some of its output was left out."""
    shell = named(builtin_tools(bwrap, RUNTIME, output_cap=100))["shell"]
    result = shell.run({"command": "head -c 1000 /dev/zero | tr '\\0' x"}, ctx)
    assert (True, True) == (result.success, result.truncated)
    assert len(result.output) < 200


@dataclass(frozen=True)
class Refusing:
    """A sandbox that cannot be set up."""

    name = "bwrap"
    tier = "full"
    identity = None
    python = "/usr/bin/python3"

    def inside(self, workspace: Path) -> str:
        return str(workspace)

    def command(self, argv: Any, *, workspace: Path, env: Any) -> Launch:
        raise SandboxError("no namespaces today")


@pytest.mark.parametrize(("tool", "args"), [("shell", {"command": "true"}), ("run.python", {"code": "1"})])
def test_a_sandbox_that_fails_is_not_the_tasks_failure(ctx: Context, tool: str, args: dict[str, Any]) -> None:
    """A set-up failure is marked as the infrastructure's, so that the lease is given back."""
    result = named(builtin_tools(Refusing(), RUNTIME))[tool].run(args, ctx)
    assert (False, True, "no namespaces today") == (result.success, result.infrastructure, result.error)


def test_a_workspace_that_vanished_is_infrastructure(call: Call, ctx: Context) -> None:
    """Without its workspace no command starts."""
    ctx.workspace.rmdir()
    for tool, args in (("shell", {"command": "true"}), ("run.python", {"code": "1"})):
        assert call(tool, **args).infrastructure


# -- registered functions


@pytest.fixture
def registry() -> ToolRegistry:
    """An empty registry."""
    return ToolRegistry()


def invoke(registry: ToolRegistry, name: str, args: dict[str, Any], ctx: ToolContext) -> ToolResult:
    """Run a registered tool."""
    tool = registry.get(name)
    assert tool is not None
    return tool.run(args, ctx)


def test_a_registered_function_gets_arguments_by_name_and_its_context(registry: ToolRegistry, ctx: Context) -> None:
    """Defaults apply, ``ctx`` is passed, the value is the result, and the function stays callable."""

    @registry.register("build")
    def build(target: str, jobs: int = 1, ctx: ToolContext | None = None) -> dict[str, Any]:
        """Build a target.

        Slowly.
        """
        assert ctx is not None
        ctx.progress(0.5, "halfway")
        return {"target": target, "jobs": jobs, "task": ctx.task_id}

    result = invoke(registry, "build", {"target": "all"}, ctx)
    assert {"target": "all", "jobs": 1, "task": "t1"} == result.data["value"]
    assert (True, '{"target": "all", "jobs": 1, "task": "t1"}') == (result.success, result.output)
    assert [("progress", "0.5 halfway")] == ctx.logs
    tool = registry.get("build")
    assert tool is not None
    assert ("Build a target.", False) == (tool.description, tool.sandboxed)
    assert callable(build)


@pytest.mark.parametrize(
    ("value", "output", "kept"),
    [("text", "text", "text"), (None, "", None), ((1, "a"), '[1, "a"]', [1, "a"]), (True, "true", True)],
)
def test_any_json_value_is_a_result(
    registry: ToolRegistry, ctx: Context, value: object, output: str, kept: object
) -> None:
    """The output is the value's text; the value itself comes back as JSON would bring it."""
    registry.register("f")(lambda: value)
    assert ToolResult(True, output, data={"value": kept}) == invoke(registry, "f", {}, ctx)


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), {1: "a"}, [{"a": {2: 3}}], b"x", "\ud800"])
def test_a_value_that_is_not_json_fails(registry: ToolRegistry, ctx: Context, value: object) -> None:
    """What could not be stored as it is fails the task, in words."""
    registry.register("f")(lambda: value)
    result = invoke(registry, "f", {}, ctx)
    assert result.success is False
    assert f"the tool returned a {type(value).__name__}, which is not JSON" in result.error


def test_a_result_is_passed_through(registry: ToolRegistry, ctx: Context) -> None:
    """A function may return the whole result itself."""
    mine = ToolResult(False, "some", "mine", 5, {"a": 1}, True)
    registry.register("f")(lambda: mine)
    assert mine is invoke(registry, "f", {}, ctx)
    registry.register("g")(lambda: ToolResult(True, data={"a": {1}}))
    assert "not JSON" in invoke(registry, "g", {}, ctx).error


@pytest.mark.parametrize(
    ("failure", "error"),
    [(ValueError("no"), "ValueError: no"), (SystemExit(3), "SystemExit: 3"), (KeyError(), "KeyError")],
)
def test_an_exception_fails_the_task_with_its_traceback(
    registry: ToolRegistry, ctx: Context, failure: BaseException, error: str
) -> None:
    """The error is one line; the traceback shows the function and nothing of ours."""

    @registry.register("f")
    def explode() -> None:
        raise failure

    result = invoke(registry, "f", {}, ctx)
    assert (False, error, False) == (result.success, result.error, result.infrastructure)
    assert "in explode" in result.data["traceback"]
    assert "model/tool.py" not in result.data["traceback"]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({}, "tool 'f': missing a required argument: 'a'; it takes a, b?"),
        ({"a": 1, "c": 2}, "tool 'f': got an unexpected keyword argument 'c'; it takes a, b?"),
        ({"a": 1, "ctx": 2}, "tool 'f' does not take the argument 'ctx': the worker passes it"),
    ],
)
def test_arguments_that_do_not_fit_the_signature_fail(
    registry: ToolRegistry, ctx: Context, args: dict[str, Any], error: str
) -> None:
    """Unknown and missing arguments are told before the function is called."""
    called = []
    registry.register("f")(lambda a, b=1, ctx=None: called.append(a))
    assert ToolResult(False, error=error) == invoke(registry, "f", args, ctx)
    tool = registry.get("f")
    assert tool is not None
    with pytest.raises(UsageError):
        tool.check(args)
    assert [] == called


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "x" * 65, "ü"])
def test_bad_tool_names_are_refused(registry: ToolRegistry, name: str) -> None:
    """A tool's name is an id of at most 64 characters."""
    with pytest.raises(UsageError):
        registry.register(name)(lambda: None)
    assert [] == registry.names()


def test_a_name_is_registered_once(registry: ToolRegistry) -> None:
    """A second function of one name is refused, also when threads race for it."""
    refusals = []

    def register() -> None:
        try:
            registry.register("f")(lambda: None)
        except UsageError as refusal:
            refusals.append(refusal.message)

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (7, ["f"]) == (len(refusals), registry.names())
    assert registry.get("g") is None


def test_functions_that_cannot_be_called_by_name_are_refused(registry: ToolRegistry) -> None:
    """Positional parameters and coroutines are refused when registered, not when a task arrives."""

    async def coroutine() -> None: ...

    for function in (lambda *args: None, lambda a, /: None, coroutine):
        with pytest.raises(UsageError):
            registry.register("f")(function)
