"""The root of the command line: its nouns, loaded when used, and what becomes of errors."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import Corrupt, GhcoordError
from ghcoord.faces.cli.common import Group, single
from ghcoord.faces.cli.context import begin, invocation
from ghcoord.faces.cli.output import clean, emit, to_json
from ghcoord.version import __version__

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

PROGRAM = "ghcoord"
SERVER = f"{PROGRAM} mcp"
"""The command whose standard output is a protocol's alone."""

COMMANDS = {
    "init": ("hub:init", "Make a hub, or say that it is there."),
    "demo": ("demo:demo", "See it work: two workers, tasks, locks, a crash and its recovery."),
    "status": ("status:status", "Show workers, queue, locks and recent events."),
    "doctor": ("hub:doctor", "Look for problems of the hub and of this machine."),
    "budget": ("budget:budget", "Show the limits of the hub's server: used, left, and what follows."),
    "bench": ("bench:bench", "Measure the hub: latency, throughput, commits a task."),
    "config": ("config:app", "Settings of the hub, for all its users."),
    "gc": ("care:gc", "Drop old history and compress the rest."),
    "export": ("care:export", "Write the whole hub into one file."),
    "import": ("care:import_", "Make a hub of such a file."),
    "worker": ("worker:app", "Run workers and look after them."),
    "task": ("task:app", "Submit tasks and follow them."),
    "session": ("session:app", "Work in a sandboxed workspace on a worker."),
    "tool": ("tool:app", "See the tools of workers and call them."),
    "artifact": ("artifact:app", "Keep files in the hub."),
    "balance": ("balance:app", "Place tasks on workers and even out the load."),
    "schedule": ("schedule:app", "Submit tasks again and again, at given times."),
    "lock": ("lock:app", "Take and give locks."),
    "leader": ("leader:app", "Let one of several processes lead."),
    "memory": ("memory:app", "Share values by key."),
    "audit": ("audit:app", "See who did what."),
    "mcp": ("mcp:app", "Offer the hub to agents: an MCP server."),
    "actions": ("actions:app", "What the GitHub Actions of this project run."),
    "autoscale": ("autoscale:autoscale", "Start workers on GitHub Actions as the queue grows."),
    "twin": ("twin:twin", "Run a GitHub of your own, for tests."),
}
"""Name → module and attribute below ``ghcoord.faces.cli`` (an application, or the function of one command), summary."""

EXIT_CODES = """\
Exit codes:
  0  done                       5  the lease was lost
  1  unexpected error           6  permission denied
  2  wrong usage                7  hub unavailable or throttled
  3  not found                  8  the task failed
  4  held by another, or        9  timed out waiting
     lost a conditional write   130  interrupted
Durations: 90, 90s, 5m, 1h30m. An argument that starts with '-' goes after '--'.
"""

EXAMPLE = """\
Example:
  ghcoord demo
  ghcoord init ./hub.git && export GHCOORD_HUB=./hub.git
  ghcoord task submit echo --arg message=hello && ghcoord worker start --until-idle 2s
"""

MAX_MESSAGE = 600
"""Characters of an error's line; a longer one is cut."""


class Root(Group):
    """The top: imports a noun only when it is used, so that ``ghcoord --help`` stays quick."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # The names serve the suggestions for mistyped ones; get_command() makes the commands.
        self._loaded: dict[str, Command] = {}
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self._loaded:
            where, summary = COMMANDS[cmd_name]
            module, _, attribute = where.partition(":")
            found = getattr(import_module(f"ghcoord.faces.cli.{module}"), attribute)
            app = found if isinstance(found, typer.Typer) else single(found, cmd_name)
            command = typer.main.get_command(app)
            command.short_help = summary
            self._loaded[cmd_name] = command
        return self._loaded[cmd_name]

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _show_version(value: bool) -> None:
    if value:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Root, help="Locks, workers, tasks and shared memory in a Git repository, with no server.", rich_markup_mode=None
)


@app.callback(epilog=f"{EXAMPLE}\n{EXIT_CODES}")
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, expose_value=False, help="Print the version."),
    ] = False,
) -> None:
    """Locks, workers, tasks and shared memory in a Git repository, with no server."""


@cache
def root_command() -> Any:
    """The root, made once in a process: what several calls of ``main`` share."""
    return typer.main.get_command(app)


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never raises."""
    args = list(sys.argv[1:] if argv is None else argv)
    begin()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _dispatch(_asked(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone. What is left in the buffer must not fail again at exit.
        with suppress(OSError, ValueError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def _asked(args: list[str]) -> list[str]:
    """``ghcoord help lock run`` and ``ghcoord version`` as the options that they stand for."""
    if args[:1] == ["help"] or not args:
        return [*args[1:], "--help"]
    return ["--version"] if args == ["version"] else args


def _dispatch(args: list[str]) -> int:
    try:
        result = root_command().main(args, prog_name=PROGRAM, standalone_mode=False)
    except GhcoordError as error:
        hint = ": run 'ghcoord doctor'" if isinstance(error, Corrupt) else ""
        return _fail(error.message + hint, error.exit_code, error.details(), error)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except typer.Abort:
        return _fail("nothing was done", 130, {"code": "ABORTED"})
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):
            raise BrokenPipeError from None
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        return _unforeseen(error, args)
    return result if isinstance(result, int) else 0


def _unforeseen(error: Exception, args: list[str]) -> int:
    """What Typer says about a wrong command line, or a bug."""
    say = getattr(error, "format_message", None)
    if say is None:
        kind, text = type(error).__name__, str(error)
        hint = "" if invocation().debug else "; --debug shows the traceback"
        return _fail(f"unexpected {kind}: {text or 'no message'}{hint}", 1, {"code": "UNEXPECTED"}, error)
    options = args[: args.index("--")] if "--" in args else args
    if "--json" in options:
        invocation().json = True
    message = str(say()).strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    where = _where(context, options)
    invocation().quiet = where == SERVER
    if context is not None and getattr(error, "possibilities", ()) in (None, []):
        message += _dashes(context.command)
    return _fail(f"{message} (see '{where} --help')", 2, {"code": "USAGE"}, error)


def _where(context: Any, options: list[str]) -> str:
    """The command whose help says more; a group's own options are read before it has a context that knows it."""
    if context is not None:
        return str(context.command_path)
    words = [one for one in options if not one.startswith("-")]
    return SERVER if words[:1] == ["mcp"] else PROGRAM


def _dashes(command: Command) -> str:
    """What to do if that was no option but an argument that looks like one."""
    takes = [one.name for one in command.params if one.param_type_name == "argument"]
    return ": put '--' before a value that starts with '-'" if takes else ""


def _fail(message: str, code: int, details: dict[str, Any], error: Exception | None = None) -> int:
    """Report an error: one line on standard error, or with ``--json`` an object on standard output.

    Where that is a protocol's the object goes to standard error as well.
    """
    line = clean(" ".join(message.split()))
    if len(line) > MAX_MESSAGE:
        line = line[:MAX_MESSAGE] + "…"
    if invocation().debug and error is not None:
        traceback.print_exception(error, file=sys.stderr)
    if invocation().json:
        head = {"code": "ERROR", "message": line, "exit_code": code, "retryable": False}
        told = {"error": {**head, **details, "message": line}}
        if invocation().quiet:
            print(to_json(told), file=sys.stderr)
        else:
            emit(told)
    else:
        print(f"error: {line}", file=sys.stderr)
    return code
