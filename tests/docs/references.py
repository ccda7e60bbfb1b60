"""Write ``docs/cli.md`` and ``docs/python.md`` from the code: ``python -m tests.docs.references``."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from tests.docs.pages import ROOT

COMMAND = "python -m tests.docs.references"
WIDTH = 100

_COMMON = frozenset({"hub", "json", "debug", "help"})


def cli_reference() -> str:
    """The page of the command line, from its own help."""
    import typer

    from ghcoord.faces.cli.main import PROGRAM, app

    os.environ["COLUMNS"] = str(WIDTH + 2)
    parts = [
        "# Command line",
        f"Generated from the program's own help by `{COMMAND}`. Do not edit.",
        "Every command also takes `--hub HUB` (`-H`), `--json`, `--debug` and `--help`, before or after its name. "
        "They are left out below.",
        "With `--json` a command prints one JSON document on standard output: an object, or a list of objects. "
        'A failure prints `{"error": {"code", "message", "exit_code", "retryable", …}}` there. '
        "Commands that go on (`memory watch`, `task logs --follow`, `status --watch`, `worker reap --every`, "
        "`autoscale`) print one document a line.",
        exit_codes(),
        _fence(_help(typer.main.get_command(app), PROGRAM, common=True)),
    ]
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name=PROGRAM)
    for name in root.list_commands(context):
        command: Any = root.get_command(context, name)
        title = f"{PROGRAM} {name}"
        parts += [f"## {title}", _fence(_help(command, title))]
        for verb, below in getattr(command, "commands", {}).items():
            parts += [f"### {title} {verb}", _fence(_help(below, f"{title} {verb}"))]
    return "\n\n".join(parts) + "\n"


def _help(command: Any, path: str, *, common: bool = False) -> str:
    if not common:
        command.params = [option for option in command.params if option.name not in _COMMON]
        command.add_help_option = False
    context = command.context_class(command, info_name=path, terminal_width=WIDTH, max_content_width=WIDTH)
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def exit_codes() -> str:
    """The table of exit codes, each with the errors that give it."""
    from ghcoord import errors

    meanings = {
        0: "done",
        1: "unexpected error",
        2: "wrong usage",
        3: "not found",
        4: "held by another, or lost a conditional write",
        5: "the lease was lost",
        6: "permission denied",
        7: "hub or sandbox unavailable, or throttled",
        8: "the task failed",
        9: "timed out waiting",
        130: "interrupted",
    }
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.GhcoordError)]
    unknown = {kind.exit_code for kind in kinds} - set(meanings)
    if unknown:
        raise ValueError(f"exit codes without a meaning here: {unknown}")
    rows = ["## Exit codes", "", "| code | meaning | errors |", "|---|---|---|"]
    for code, meaning in meanings.items():
        names = ", ".join(f"`{kind.__name__}`" for kind in kinds if kind.exit_code == code)
        rows.append(f"| {code} | {meaning} | {names} |")
    rows += [
        "",
        "`lock run` passes on its command's own code, 128 + n when signal n ended it. "
        "Its own failures use the codes above. Standard output that nobody reads ends a command with 141.",
    ]
    return "\n".join(rows)


# -- Python


def python_reference() -> str:
    """The page of the Python API, from signatures and docstrings."""
    import ghcoord
    from ghcoord import config, errors
    from ghcoord.bootstrap import import_hub
    from ghcoord.coord.audit import audit, events
    from ghcoord.coord.audit import query as audit_query
    from ghcoord.coord.care import care, repair
    from ghcoord.coord.care import settings as config_record
    from ghcoord.coord.locks import keepalive, leader, locks
    from ghcoord.coord.locks import paths as lock_paths
    from ghcoord.coord.memory import memory
    from ghcoord.coord.tasks import query as task_query
    from ghcoord.coord.tasks import schedules, tasks
    from ghcoord.coord.workers import balance, workers
    from ghcoord.execution import worker as daemon
    from ghcoord.hub import Hub
    from ghcoord.model import event, lock, lock_stats, placement, requirements, schedule, task, tool, worker
    from ghcoord.model import memory as entries
    from ghcoord.store import bundle

    parts = [
        "# Python",
        f"Generated from signatures and docstrings by `{COMMAND}`. Do not edit. "
        "[How to use it](how-to/python.md) comes first.",
        "Durations are seconds. Times are aware `datetime`s in UTC. Everything may be shared between threads.",
        "## Opening a hub",
        _function("ghcoord.connect", ghcoord.connect),
        _function("ghcoord.bootstrap.import_hub", import_hub),
        _class(Hub, leave_out={"beat"}),
        "## Parts of a hub",
        _class(locks.Locks, "hub.locks", leave_out={"pursuit", "held"}),
        _class(lock_paths.PathLocks, "hub.locks.paths"),
        _class(keepalive.HeldLock, "what `hub.locks.hold` returns"),
        _class(leader.Elections, "hub.leader"),
        _class(leader.Term, "what `on_started` of an election gets"),
        _class(leader.Election, "what `hub.leader.election` returns"),
        _class(tasks.Tasks, "hub.tasks"),
        _class(task_query.TaskQuery, "which tasks a bulk action means"),
        _class(schedules.Schedules, "hub.schedules"),
        _class(workers.Workers, "hub.workers", leave_out={"recover_dead"}),
        _class(balance.Balance, "hub.balance"),
        _class(memory.Memory, "hub.memory"),
        _class(audit.Audit, "hub.audit"),
        _class(config_record.HubSettings, "hub.config"),
        _class(tool.ToolRegistry, "hub.tools"),
        "## Running tasks",
        _class(daemon.WorkerDaemon, constructor=True),
        _class(tool.ToolContext, "what a tool gets as `ctx`"),
        _class(tool.ToolResult),
        "## Records",
        *(
            _class(kind)
            for kind in (lock.Lock, lock.Waiter, lock_stats.LockStats, task.Task, task.TaskResult, tasks.Submission)
        ),
        *(_class(kind) for kind in (requirements.Requirements, schedule.Schedule)),
        *(_class(kind) for kind in (worker.Worker, workers.Registration, placement.LoadDistribution)),
        *(_class(kind) for kind in (entries.MemoryEntry, memory.FencedBy, memory.Change, events.Event)),
        *(_class(kind) for kind in (event.AuditEntry, audit_query.AuditEvent)),
        *(_class(kind) for kind in (care.GcReport, bundle.Written, repair.Repair, config_record.SettingState)),
        "## Settings",
        *(_class(kind) for kind in (config.Settings, config.LockSettings, config.WorkerSettings)),
        "## Errors",
        _markdown(errors),
    ]
    return "\n\n".join(parts) + "\n"


def _class(kind: type[Any], note: str = "", *, leave_out: set[str] | None = None, constructor: bool = False) -> str:
    parts = [f"### {kind.__name__}" + (f": {_code(note)}" if note else "")]
    parts.append(f"In `{_home(kind)}`.")
    if constructor:
        parts.append(_signature(kind.__name__, kind.__init__, drop_self=True))
    parts.append(_markdown(kind))
    rows = list(_fields(kind))
    if rows:
        parts.append("\n".join(["| field | type | default |", "|---|---|---|", *rows]))
    for name, member in _members(kind):
        if name.startswith("_") or name in (leave_out or ()):
            continue
        if isinstance(member, property):
            returns = inspect.signature(member.fget).return_annotation if member.fget else ""
            parts.append(f"#### `{kind.__name__}.{name}: {returns}`")
            parts.append(_markdown(member))
        elif inspect.isfunction(member) and member.__doc__:
            parts.append(_function(f"{kind.__name__}.{name}", member, drop_self=True))
    return "\n\n".join(part for part in parts if part)


def _home(kind: type[Any]) -> str:
    """The module to import a class from: the nearest to the root that exports it."""
    import ghcoord.hub

    for module in (ghcoord, ghcoord.hub):
        if kind.__name__ in module.__all__:
            return module.__name__
    return kind.__module__


def _code(note: str) -> str:
    return note if "`" in note else f"`{note}`"


def _members(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """A class's own members in the order of the source, those of its bases in ghcoord after them."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("ghcoord") and base.__name__ != "Record":
            for name, member in vars(base).items():
                if name not in seen:
                    seen.add(name)
                    yield name, member


def _fields(kind: type[Any]) -> Iterator[str]:
    if hasattr(kind, "model_fields"):
        for name, field in kind.model_fields.items():
            if name != "format":
                default = "" if field.is_required() else repr(field.get_default(call_default_factory=True))
                yield _row(name, _annotation(kind, name), default)
    elif dataclasses.is_dataclass(kind):
        for each in dataclasses.fields(kind):
            default = "" if each.default is dataclasses.MISSING else repr(each.default)
            if each.default_factory is not dataclasses.MISSING:
                default = repr(each.default_factory())
            yield _row(each.name, str(each.type), default)
    elif issubclass(kind, tuple):
        for name in kind._fields:
            yield _row(name, _annotation(kind, name), repr(kind._field_defaults.get(name, "")).strip("'"))


def _annotation(kind: type[Any], name: str) -> str:
    """An annotation as it is written in the source."""
    for base in kind.__mro__:
        found = inspect.get_annotations(base).get(name)
        if found is not None:
            text = found if isinstance(found, str) else getattr(found, "__forward_arg__", str(found))
            return text.replace("AwareDatetime", "datetime")
    raise ValueError(f"{kind.__name__}.{name} has no annotation")


def _row(name: str, kind: str, default: str) -> str:
    kind = kind.replace("|", "\\|")
    return f"| `{name}` | `{kind}` | {f'`{default}`' if default else ''} |"


def _function(name: str, function: Any, *, drop_self: bool = False) -> str:
    title = f"#### `{name}`"
    return "\n\n".join([title, _signature(name.rpartition(".")[2], function, drop_self), _markdown(function)])


def _signature(name: str, function: Any, drop_self: bool = False) -> str:
    signature = inspect.signature(function)
    parameters = [*signature.parameters.values()]
    if drop_self:
        signature = signature.replace(parameters=parameters[1:])
    if name[:1].isupper():
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    line = _unquote(f"{name}{signature}")
    if len(line) > WIDTH:
        inner = "".join(f"    {_unquote(part)},\n" for part in _spelled(signature))
        returns = signature.return_annotation
        arrow = "" if returns is inspect.Signature.empty else _unquote(f" -> {returns}")
        line = f"{name}(\n{inner}){arrow}"
    return f"```text\n{line}\n```"


def _spelled(signature: inspect.Signature) -> list[str]:
    spelled, starred = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            spelled.append("*")
            starred = True
        spelled.append(str(parameter))
    return spelled


def _unquote(text: str) -> str:
    """Postponed annotations are texts; show them as written, and functions by their names."""
    text = re.sub(r"<function (\S+) at 0x[0-9a-f]+>", r"\1", text)
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).replace("builtins.", "")


def _markdown(thing: Any) -> str:
    """A docstring's reStructuredText as Markdown."""
    text = inspect.getdoc(thing) or ""
    out: list[str] = []
    literal: list[str] | None = None
    for line in text.splitlines():
        if literal is not None and (not line or line.startswith("    ")) and not (line == "" and literal[1:] == []):
            literal.append(line[4:])
            continue
        if literal is not None and line:
            out += [_fence("\n".join(literal).strip("\n")), ""]
            literal = None
        if line.strip() == "::":
            literal = []
        elif literal is None or line:
            out.append(_inline(line))
    if literal is not None:
        out.append(_fence("\n".join(literal).strip("\n")))
    return "\n".join(out).strip("\n")


def _inline(line: str) -> str:
    line = re.sub(r":[a-z]+:`~?\.?([^`]+)`", lambda found: f"`{found[1].removeprefix('ghcoord.')}`", line)
    return line.replace("``", "`").replace(".  ", ". ")


def _fence(text: str) -> str:
    return f"```text\n{text}\n```"


def write() -> None:
    """Write both pages."""
    for name, make in (("cli", cli_reference), ("python", python_reference)):
        page = ROOT / "docs" / f"{name}.md"
        page.write_text(make())
        print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(write())
