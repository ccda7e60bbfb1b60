"""Which tools there are: built-in ones by what the worker has, and those of plug-ins."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from ghcoord.execution.tools import registry
from ghcoord.execution.tools.arguments import Arguments, declare
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.tool import Tool, ToolContext, ToolResult, check_tool_name
from tests.execution.tools.conftest import RUNTIME, Context, named

FILE_TOOLS = {"echo", "fs.read", "fs.write", "fs.list", "fs.delete", "fs.move"}


def a_tool(name: str) -> Tool:
    """A tool that says its name."""
    return Tool(name, "For tests.", lambda args, ctx: ToolResult(True, name))


def one(kit: Kit) -> Tool:
    """A plug-in with one tool."""
    return a_tool("mine")


def several(kit: Kit) -> list[Tool]:
    """A plug-in with two tools, for workers with a sandbox."""
    return [a_tool("mine.a"), a_tool("mine.b")] if kit.sandbox is not None else []


def shadowing(kit: Kit) -> list[Tool]:
    """A plug-in that wants a built-in tool's name."""
    return [a_tool("innocent"), a_tool("shell")]


def twice(kit: Kit) -> list[Tool]:
    """A plug-in that names a tool twice."""
    return [a_tool("again"), a_tool("again")]


def raising(kit: Kit) -> list[Tool]:
    """A plug-in that does not work."""
    raise ValueError("bad day")


def leaving(kit: Kit) -> list[Tool]:
    """A plug-in that wants to end the worker."""
    raise SystemExit(3)


def misnamed(kit: Kit) -> Tool:
    """A plug-in with a name that is none."""
    return a_tool("a b")


def mistaken(kit: Kit) -> Any:
    """A plug-in that returns something else."""
    return "a tool"


def point(name: str) -> EntryPoint:
    """An entry point for a function here, as an installed plug-in has it."""
    return EntryPoint(name, f"{__name__}:{name}", registry.GROUP)


def test_what_is_offered_depends_on_the_kit(kit: Kit, plain: dict[str, Tool]) -> None:
    """Without a sandbox only what starts nothing; with one everything, each saying whether it needs it."""
    assert FILE_TOOLS == {"echo"} | {
        name for name in named(registry.builtin_tools(Kit(None, RUNTIME))) if name.startswith("fs")
    }
    assert not {"shell", "exec", "run.python", "test.run", "python.prompt"} & set(
        named(registry.builtin_tools(Kit(None, RUNTIME)))
    )
    sandboxed = {name for name, tool in plain.items() if tool.sandboxed}
    assert {"shell", "exec", "run.python", "test.run", "python.prompt", "pkg.install"} <= sandboxed
    assert not FILE_TOOLS & sandboxed
    assert plain["python.prompt"].needs_session


def test_every_tool_says_what_it_takes_and_returns(plain: dict[str, Tool]) -> None:
    """Schemas of arguments that refuse unknown ones, schemas of results, a description, and a proper name."""
    for name, tool in plain.items():
        check_tool_name(name)
        assert tool.description.endswith("."), name
        assert tool.arguments is not None, name
        assert ("object", False) == (tool.arguments["type"], tool.arguments["additionalProperties"]), name
        assert tool.returns is not None, name
        assert "object" == tool.returns["type"], name
    mode = (plain["fs.write"].arguments or {})["properties"]["mode"]["anyOf"]
    assert [{"type": "integer"}, {"type": "string"}, {"type": "null"}] == mode


def test_plug_ins_add_tools(kit: Kit) -> None:
    """One tool or several, made with the worker's kit."""
    said: list[str] = []
    found = registry.plugin_tools(kit, [point("one"), point("several")], ["shell"], said.append)
    assert (["mine", "mine.a", "mine.b"], []) == ([tool.name for tool in found], said)
    assert [] == registry.plugin_tools(Kit(None, RUNTIME), [point("several")], [], said.append)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("raising", "ValueError: bad day"),
        ("leaving", "SystemExit: 3"),
        ("shadowing", "there is a tool 'shell' already"),
        ("twice", "there is a tool 'again' already"),
        ("misnamed", "the tool name 'a b' is not accepted"),
        ("mistaken", "TypeError: it returned a str, no Tool"),
        ("missing", "AttributeError: module"),
    ],
)
def test_a_broken_plug_in_is_left_out(kit: Kit, name: str, error: str) -> None:
    """It is reported, none of its tools is there, and the others are."""
    said: list[str] = []
    found = registry.plugin_tools(kit, [point(name), point("one")], ["shell"], said.append)
    assert ["mine"] == [tool.name for tool in found]
    assert [True] == [f"the tools of plug-in {name!r} ({__name__}:{name}) are left out: " in text for text in said]
    assert error in said[0]


def test_installed_plug_ins_are_found(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points of the group are asked for; what is left out is warned of when nobody listens."""
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point("one"), point("raising")] * (group == registry.GROUP)
    )
    with pytest.warns(RuntimeWarning, match="bad day"):
        assert "mine" in named(registry.builtin_tools(kit))
    said: list[str] = []
    registry.builtin_tools(kit, said.append)
    assert 1 == len(said)


def test_a_tool_that_raises_fails_its_call(ctx: Context) -> None:
    """What the system refuses is a failed result in words."""

    class Nothing(Arguments):
        pass

    def run(args: Nothing, ctx: ToolContext) -> ToolResult:
        raise OSError(28, "No space left on device")

    tool = declare("full", "For tests.", Nothing, run)
    assert ToolResult(False, error="full: No space left on device") == tool.run({}, ctx)
    assert "full has no argument 'a': it takes none" == tool.run({"a": 1}, ctx).error


def test_echo(plain: dict[str, Tool], ctx: Context) -> None:
    """The message is the output and the tool's one field; anything but a message is refused."""
    echo = plain["echo"]
    assert ToolResult(True, "hello", data={"message": "hello"}) == echo.run({"message": "hello"}, ctx)
    assert "echo needs the argument message" == echo.run({}, ctx).error
    assert "message must be a string, not an object" == echo.run({"message": {}}, ctx).error
    assert "echo has no argument 'loud': it takes message" == echo.run({"message": "a", "loud": True}, ctx).error
