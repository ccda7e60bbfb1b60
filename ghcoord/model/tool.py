"""Tools: what a task names, what it is given while it runs, and what it returns.

A tool is a name and a function of (arguments, context).  The built-in ones run
a child process in a sandbox (:mod:`ghcoord.execution.tools`); a Python program
adds its own with :meth:`ToolRegistry.register`.
"""

from __future__ import annotations

import inspect
import json
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ghcoord.errors import InvalidName, UsageError
from ghcoord.ids import check_id
from ghcoord.model.limits import Limits
from ghcoord.model.tier import Tier

_F = TypeVar("_F", bound=Callable[..., Any])

MAX_TOOL_NAME = 64
"""Longest tool name in characters: the limit that MCP clients put on a tool's name."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returns; the worker adds the duration and the time of completion."""

    success: bool
    output: str = ""
    """Standard output, or the tool's text."""
    error: str = ""
    """The error message, apart from standard error. Empty on success."""
    exit_code: int | None = None
    """The command's exit code, 128 + n when signal n ended it; ``None`` when there was none or we ended it."""
    data: dict[str, Any] = field(default_factory=dict)
    """The tool's own fields, JSON values only."""
    truncated: bool = False
    """Whether output was left out for its size."""
    artifacts: tuple[str, ...] = ()
    """Ids of the artifacts that it made."""
    infrastructure: bool = False
    """The sandbox could not be set up: the lease is given back, and the task has not failed."""


class ToolContext(Protocol):
    """What a running tool is given. Its methods may be called from any thread."""

    @property
    def task_id(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    @property
    def workspace(self) -> Path:
        """The attempt's private directory."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds the attempt may take; ``None`` for no limit."""
        ...

    @property
    def session_id(self) -> str | None:
        """The session whose workspace this is; ``None`` for a task of its own."""
        ...

    @property
    def trace(self) -> str:
        """The caller's W3C traceparent, to be passed on to what is called; ``""`` when there is none."""
        ...

    @property
    def env(self) -> Mapping[str, str]:
        """The session's variables, for every command."""
        ...

    @property
    def limits(self) -> Limits:
        """What the call may use; ``timeout`` says how long it may take."""
        ...

    @property
    def allow(self) -> tuple[str, ...]:
        """Hosts that the session may reach through the relay besides the package index."""
        ...

    def keep(self, name: str) -> Path:
        """A private folder called ``name`` beside the workspace: the tasks' own, shown to a command only when mounted.

        A session keeps it between calls; otherwise it goes with the attempt.  Raises ``OSError``.
        """
        ...

    def cancelled(self) -> bool:
        """Whether to stop: the task was cancelled, or its lease was lost."""
        ...

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        """Tell how far the work is: ``fraction`` between 0 and 1."""
        ...

    def log(self, stream: str, text: str) -> None:
        """Pass on output as it comes; ``stream`` is ``stdout`` or ``stderr``."""
        ...


def _accept(args: dict[str, Any]) -> None:
    """Accept any arguments."""


@dataclass(frozen=True)
class Tool:
    """A named tool."""

    name: str
    description: str
    run: Callable[[dict[str, Any], ToolContext], ToolResult]
    """Does the work. Raises nothing for a task that fails: that is a result."""
    sandboxed: bool = False
    """Whether it runs a child process in the worker's sandbox."""
    check: Callable[[dict[str, Any]], None] = _accept
    """Raises :class:`UsageError` for arguments the tool does not take."""
    arguments: Mapping[str, Any] | None = None
    """The JSON schema of its arguments; ``None`` where nobody wrote one."""
    returns: Mapping[str, Any] | None = None
    """The JSON schema of ``ToolResult.data``; ``None`` where nobody wrote one."""
    tier: Tier = Tier.FULL
    """The least sandbox that its tasks need unless they say otherwise; only where it is ``sandboxed``."""
    needs_session: bool = False
    """Whether it works only in a session."""


class ToolRegistry:
    """The tools that one program offers, by name. Safe to share between threads."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._mutex = threading.Lock()

    def register(self, name: str, *, description: str = "") -> Callable[[_F], _F]:
        """Offer a Python function as the tool ``name``.

        ::

            @hub.tools.register("build")
            def build(target: str, jobs: int = 1, ctx: ToolContext | None = None) -> dict: ...

        A task's arguments arrive as keyword arguments, by name; a parameter
        called ``ctx`` receives the :class:`ToolContext`.  The function returns
        any JSON value, or a :class:`ToolResult` that is passed on as it is; an
        exception fails the task, with its traceback in ``data``.

        It runs in the worker's own process, in no sandbox: it cannot be killed,
        so one that takes long must look at ``ctx.cancelled()``.

        ``description`` defaults to the first line of the docstring.  Raises
        :class:`InvalidName` for a bad name and :class:`UsageError` for one that
        is taken, or for a function that cannot be called this way.
        """

        def decorate(function: _F) -> _F:
            self.add(function_tool(name, function, description))
            return function

        return decorate

    def add(self, tool: Tool) -> None:
        """Offer ``tool``. Raises :class:`InvalidName`, or :class:`UsageError` when its name is taken."""
        check_tool_name(tool.name)
        with self._mutex:
            if tool.name in self._tools:
                raise UsageError(f"a tool named {tool.name!r} is registered already: choose another name")
            self._tools[tool.name] = tool

    def get(self, name: str) -> Tool | None:
        """The tool called ``name``; ``None`` when there is none."""
        with self._mutex:
            return self._tools.get(name)

    def names(self) -> list[str]:
        """The names of all tools, sorted."""
        with self._mutex:
            return sorted(self._tools)


def check_tool_name(name: str) -> str:
    """``name`` when it is a tool's name: an id of at most 64 characters. Raises :class:`InvalidName`."""
    check_id(name, "tool name")
    if len(name) > MAX_TOOL_NAME:
        raise InvalidName(f"the tool name has {len(name)} characters: at most {MAX_TOOL_NAME} are accepted")
    return name


def function_tool(name: str, function: Callable[..., Any], description: str = "") -> Tool:
    """``function`` as a :class:`Tool` (see :meth:`ToolRegistry.register`).

    Raises :class:`UsageError` when it cannot be called with keyword arguments,
    or is a coroutine function.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"the function of tool {name!r} is async: register one that calls asyncio.run()")
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise UsageError(
                f"the function of tool {name!r} has the positional parameter {parameter.name!r}: "
                "arguments are passed by name only"
            )
    wants_context = "ctx" in signature.parameters

    def check(args: dict[str, Any]) -> None:
        if "ctx" in args:
            raise UsageError(f"tool {name!r} does not take the argument 'ctx': the worker passes it")
        given = {**args, "ctx": None} if wants_context else args
        try:
            signature.bind(**given)
        except TypeError as mistake:
            raise UsageError(f"tool {name!r}: {mistake}; it takes {_spell(signature)}") from None

    def run(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
        try:
            check(args)
        except UsageError as mistake:
            return ToolResult(success=False, error=mistake.message)
        try:
            value = function(**args, ctx=ctx) if wants_context else function(**args)
        except (Exception, SystemExit) as failure:
            return ToolResult(success=False, error=_describe(failure), data={"traceback": _traceback(failure)})
        return _as_result(value)

    doc = inspect.getdoc(function) or ""
    return Tool(name, description or doc.partition("\n")[0], run, sandboxed=False, check=check)


def json_problem(value: object, where: str = "the value") -> str | None:
    """Why ``value`` is not JSON that comes back as it went, naming the place; ``None`` when it is.

    A tuple counts as a list.  Not accepted: keys that are not strings, NaN and
    infinities, text that is not valid Unicode, structures that contain themselves.
    """
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError:
        return f"{where} is nested too deeply"
    except (TypeError, ValueError) as mistake:
        return f"{where}: {mistake}"
    return _key_problem(value, where)


def _key_problem(value: object, where: str) -> str | None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                return f"{where} has the key {key!r}, which is not a string"
            if problem := _key_problem(inner, f"{where}[{key!r}]"):
                return problem
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            if problem := _key_problem(inner, f"{where}[{at}]"):
                return problem
    return None


def _as_result(value: Any) -> ToolResult:
    if isinstance(value, ToolResult):
        if problem := json_problem(value.data, "its data"):
            return ToolResult(success=False, error=f"the tool returned a result that is not JSON: {problem}")
        return value
    if problem := json_problem(value):
        return ToolResult(
            success=False,
            error=f"the tool returned a {type(value).__name__}, which is not JSON: {problem}",
        )
    text = json.dumps(value, ensure_ascii=False)
    value = json.loads(text)
    output = value if isinstance(value, str) else text
    return ToolResult(success=True, output="" if value is None else output, data={"value": value})


def _spell(signature: inspect.Signature) -> str:
    names = [
        f"**{each.name}" if each.kind is each.VAR_KEYWORD else each.name + ("" if each.default is each.empty else "?")
        for each in signature.parameters.values()
        if each.name != "ctx"
    ]
    return ", ".join(names) or "no arguments"


def _describe(failure: BaseException) -> str:
    text = str(failure).strip()
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__


def _traceback(failure: BaseException) -> str:
    """The traceback without this module's own frame."""
    inner = failure.__traceback__.tb_next if failure.__traceback__ else None
    return "".join(traceback.format_exception(type(failure), failure, inner or failure.__traceback__))
