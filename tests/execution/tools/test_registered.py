"""Registered functions as tools: arguments, results, and whose fault a failure is."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ghcoord.errors import UsageError
from ghcoord.model.tool import ToolContext, ToolRegistry, ToolResult
from tests.execution.tools.conftest import Context


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
