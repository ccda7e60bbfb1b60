"""``ghcoord tool``: what workers can do, and one call of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import NotFound
from ghcoord.faces import session_views as views
from ghcoord.faces.cli.common import group, parse_object, parse_pairs, verb
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import clean_text, respond, table, to_json
from ghcoord.faces.cli.sessionrun import CallTimeout, exit_code_of, print_error, print_streams, run_call
from ghcoord.faces.views import result_view

if TYPE_CHECKING:
    from ghcoord.model.task import Task, TaskResult
    from ghcoord.model.tool import Tool

app = group("See the tools of workers and call them in a session.")


def _tools() -> list[Tool]:
    """The tools that a worker of this version has, plug-ins of this environment among them."""
    from ghcoord.bootstrap import describe_tools

    return describe_tools()


@verb(app, "list")
def list_(
    name: Annotated[str | None, typer.Argument(metavar="[TOOL]", help="Only this one, with its arguments.")] = None,
) -> None:
    """List the built-in tools and installed plug-ins, with what they take.

    A worker offers those that its sandbox allows: 'worker show' lists them.

    Example:
      ghcoord tool list
      ghcoord tool list fs.read
    """
    found = _tools()
    if name is not None:
        found = [one for one in found if one.name == name]
        if not found:
            raise NotFound(f"there is no tool {name[:70]!r}: see 'ghcoord tool list'")
    respond([views.tool_view(one) for one in found], lambda: _show(found, whole=name is not None))


def _show(found: list[Tool], *, whole: bool) -> None:
    if whole:
        one = found[0]
        print(clean_text(f"{one.name}: {one.description}"))
        for title, schema in (("arguments", one.arguments), ("returns", one.returns)):
            if schema is not None:
                print(f"\n{title}:\n{to_json(dict(schema))}")
        return
    table(
        ("TOOL", "TAKES", "SANDBOX", "DOES"),
        [(one.name, _takes(one), str(one.tier) if one.sandboxed else "-", one.description) for one in found],
        keep=("TOOL",),
    )


def _takes(tool: Tool) -> str:
    schema: dict[str, Any] = dict(tool.arguments or {})
    needed = schema.get("required", ())
    return ", ".join(name if name in needed else f"[{name}]" for name in schema.get("properties", {})) or "-"


@verb(app, "call")
def call(
    name: Annotated[str, typer.Argument(metavar="TOOL", help="The tool's name.")],
    session_id: Annotated[str, typer.Option("--session", metavar="ID", help="The session.")],
    arg: Annotated[
        list[str] | None, typer.Option("--arg", metavar="K=V", help="An argument; k:=json for other than text.")
    ] = None,
    args_json: Annotated[
        str | None, typer.Option("--args-json", metavar="JSON", help="Arguments as a JSON object; --arg adds to it.")
    ] = None,
    timeout: CallTimeout = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="K", help="Run it once: a repeated call of K returns the first result."),
    ] = None,
) -> None:
    """Call a tool in a session and wait for its result.

    Exits 8 when the call failed; a tool that runs a command, with the command's
    exit code.

    Example:
      ghcoord tool call fs.list --session s42 --arg recursive:=true
      ghcoord tool call run.python --session s42 --arg code='print(1 + 1)'
    """
    args = {**(parse_object(args_json, "--args-json") if args_json else {}), **parse_pairs(arg, "--arg")}
    with open_hub() as hub:
        task, result = run_call(hub, session_id, name, args, timeout=timeout, key=key)
    respond({"id": session_id, "task": task.id, **result_view(result)}, lambda: _print(task, result))
    raise typer.Exit(exit_code_of(result))


def _print(task: Task, result: TaskResult) -> None:
    if "stdout" in result.data or not result.success:
        print_streams(result)
    else:
        print(clean_text(to_json(result.data)))
    print_error(task, result)
