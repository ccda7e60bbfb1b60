"""Tools that work in a session: the workers' own, with the session as an argument, and in pages where they are long."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ghcoord.faces.mcp.answer import Answer
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.clients.base import Executed
from ghcoord.faces.mcp.present import shorten
from ghcoord.faces.mcp.tools import workspacetext as texts
from ghcoord.faces.mcp.tools.failing import telling
from ghcoord.faces.mcp.tools.workspacespec import LIST_PAGE, Given, arguments_of, checked, returns_of
from ghcoord.faces.mcp.toolspec import Toolset, ToolSpec
from ghcoord.model.task import TaskResult
from ghcoord.model.tool import Tool

NETWORK = "No network except the hosts in allow of session_create."

ENVIRONMENT = ".venv"
"""The folder of a session's Python environment, in its workspace."""

ARTIFACTS = "ghcoord://artifacts/"

REDIRECTED = {"shell", "run.python"}
"""Tools whose output an agent can send to a file instead."""

Run = Callable[[Call, Tool, Given], Answer]


@dataclass(frozen=True, slots=True)
class _Offer:
    """How a worker's tool is offered."""

    name: str
    title: str
    description: str
    run: Run
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False


def workspace_tools(tools: list[Tool]) -> tuple[ToolSpec, ...]:
    """Those of ``tools`` that agents get. Each takes a ``session_id`` of the caller's and a ``timeout_s``."""
    known = {tool.name: tool for tool in tools}
    return tuple(_spec(known[offer.name], offer) for offer in OFFERS if offer.name in known)


def _spec(tool: Tool, offer: _Offer) -> ToolSpec:
    arguments = arguments_of(tool)

    def check(given: Mapping[str, Any]) -> Given:
        return checked(tool, arguments, given)

    def run(call: Call, given: Given) -> Answer:
        return offer.run(call, tool, given)

    return ToolSpec(
        name=tool.name.replace(".", "_"),
        title=offer.title,
        description=offer.description,
        toolset=Toolset.WORKSPACE,
        arguments=arguments,
        returns=returns_of(tool),
        check=check,
        run=run,
        read_only=offer.read_only,
        destructive=offer.destructive,
        idempotent=offer.idempotent,
        open_world=offer.open_world,
        dotted=tool.name,
    )


# -- calls


def _execute(call: Call, tool: Tool, given: Given, heard: texts.Heard | None = None) -> Executed:
    """Make the call in the session, which must be the caller's; output and progress are told as they come."""
    session = call.services.owners.need(call.caller, given.session_id)

    def log(stream: str, text: str) -> None:
        if heard is not None:
            heard.add(stream, text)
        if line := text.rstrip().rpartition("\n")[2].strip():
            call.progress(None, line[-200:])

    with telling(call, session.id):
        return call.workers.execute(
            session.id,
            tool.name,
            given.args,
            timeout=given.timeout,
            trace=call.trace,
            log=log,
            progress=call.progress,
            cancelled=call.cancelled,
        )


def _answer(executed: Executed, text: str, data: Mapping[str, Any]) -> Answer:
    result = executed.result
    always = {
        "success": result.success,
        "exit_code": result.exit_code,
        "duration_s": result.duration,
        "truncated": result.truncated,
        "error": shorten(_error(result), texts.MOST_ERROR),
    }
    return Answer(text, {**always, **data}, failed=not result.success, notices=executed.notices)


def _error(result: TaskResult) -> str:
    """Why it failed: what a worker says names tools as they are listed, what a command printed stays as it is."""
    own = result.exit_code is None or result.error not in str(result.data.get("stderr", ""))
    return texts.plain_names(result.error) if own else result.error


def _run(call: Call, tool: Tool, given: Given) -> Answer:
    """A tool that prints: what is too long for an answer is kept whole."""
    heard = texts.Heard()
    executed = _execute(call, tool, given, heard)
    result = executed.result
    data = dict(result.data)
    if result.truncated:
        data |= heard.whole(data)
    shown = texts.printed(result, data)
    fitting = texts.shortened(data)
    ends = []
    if result.truncated or fitting != data or texts.size(shown) > texts.MOST:
        uri = _kept(call, f"output of {tool.name.replace('.', '_')} in {given.session_id}", executed, heard)
        ends.append(_left_out(tool, uri, result.truncated or texts.size(shown) > texts.MOST))
        data = {**fitting, "truncated": True, "full_output": uri}
    if (module := texts.missing(result)) and tool.name != "pkg.install":
        ends.append(f"[There is no module {module}: install its package with pkg_install; pip is not there.]")
    return _answer(executed, "\n".join([shorten(shown, texts.MOST), *ends]), data)


def _left_out(tool: Tool, uri: str, text: bool) -> str:
    """Where the whole is: many clients give models no way to resources, but a file can be read."""
    read = ", artifact_get reads it" if uri.startswith(ARTIFACTS) else ""
    redirect = read + ("; or redirect to a file and read it with fs_read" if tool.name in REDIRECTED else "")
    if text:
        return f"[This is not all: {uri} has the whole output{redirect}.]"
    return f"[This is all, but stdout and stderr in the structured data are cut: {uri} has the whole output{redirect}.]"


def _kept(call: Call, title: str, executed: Executed, heard: texts.Heard) -> str:
    """Where all of the output is: the artifact in which the worker keeps it, else what was heard of it here."""
    result = executed.result
    if result.truncated and result.artifacts:
        return f"{ARTIFACTS}{result.artifacts[-1]}"
    whole = texts.printed(result, result.data)
    return call.services.outputs.keep(
        call.caller, title, max(whole, heard.text(), key=len) if result.truncated else whole
    )


def _plain(call: Call, tool: Tool, given: Given) -> Answer:
    """A tool whose output is short."""
    executed = _execute(call, tool, given)
    result = executed.result
    return _answer(executed, result.output if result.success else _error(result), result.data)


def _write(call: Call, tool: Tool, given: Given) -> Answer:
    """What was written, and where."""
    answer = _plain(call, tool, given)
    if answer.failed:
        return answer
    data = answer.data
    done = "Added" if given.args.get("append") else "Wrote"
    path = data.get("path", given.args["path"])
    said = f"{done} {data['bytes_written']} bytes to {path}" if "bytes_written" in data else f"{done} {path}"
    return Answer(f"{said}.", data, notices=answer.notices)


def _read(call: Call, tool: Tool, given: Given) -> Answer:
    """As much of a file as fits an answer: text of many escapes takes more room, and is read in smaller parts."""
    limit = given.args["limit"]
    while True:
        executed = _execute(call, tool, replace(given, args={**given.args, "limit": limit}))
        data = executed.result.data
        if limit <= 256 or len(json.dumps(data.get("contents", ""), ensure_ascii=False)) <= texts.MOST_JSON:
            break
        limit //= 2
    if not executed.result.success:
        return _answer(executed, _with_step(executed.result.error), data)
    text = str(data["contents"])
    if (following := data["next_offset"]) is not None:
        text += f"\n[{following} of {data['size']} bytes: call again with offset {following} for the rest]"
    elif not text:
        text = "[the file is empty]" if data["size"] == 0 else "[nothing is left after this offset]"
    return _answer(executed, text, {**data, "truncated": following is not None})


_STEPS = (
    ("is a folder", "Use fs_list for what is in it."),
    ("not a folder", "Use fs_read for a file."),
    ("no such file", "fs_list shows what is there."),
)
"""What to do after an error of a file that has these words."""


def _with_step(error: str) -> str:
    """``error`` with what to do next, where that is known."""
    step = next((step for words, step in _STEPS if words in error), "")
    said = texts.plain_names(error)
    return f"{said.rstrip('.')}. {step}" if step else said


def _list(call: Call, tool: Tool, given: Given) -> Answer:
    """One page of the names, which the worker gives all at once."""
    executed = _execute(call, tool, given)
    result = executed.result
    if not result.success:
        return _answer(executed, _with_step(result.error), result.data)
    names, details, left_out = _own_entries(given, result.data)
    offset = given.page.get("offset", 0)
    end = min(len(names), offset + given.page.get("limit", LIST_PAGE))
    shown = names[offset:end] if details is None else details[offset:end]
    end = offset + texts.fitting_entries(shown)
    following = end if offset <= end < len(names) and offset < len(names) else None
    data: dict[str, Any] = {**result.data, "entries": names[offset:end], "total": len(names), "next_offset": following}
    if details is not None:
        data["details"] = details[offset:end]
    lines = names[offset:end] if details is None else [texts.detail(one) for one in details[offset:end]]
    if following is not None:
        lines.append(f"[{len(names) - end} more: call again with offset {following}]")
    elif result.truncated:
        lines.append(f"[there are more than {len(names)}: list a folder below, or give a glob]")
    if left_out:
        lines.append(f"[{left_out} in .venv, the session's Python environment, are left out]")
    return _answer(executed, "\n".join(lines) or "[nothing is there]", data)


def _own_entries(given: Given, data: Mapping[str, Any]) -> tuple[list[str], list[Any] | None, int]:
    """Names and details of a list without what installers put into the environment, and how many were that."""
    names, details = [str(name) for name in data["entries"]], data.get("details")
    if not given.args.get("recursive") or str(data["path"]).startswith(ENVIRONMENT):
        return names, details, 0
    kept = [at for at, name in enumerate(names) if not name.startswith(f"{ENVIRONMENT}/")]
    left = None if details is None else [details[at] for at in kept]
    return [names[at] for at in kept], left, len(names) - len(kept)


def _install(call: Call, tool: Tool, given: Given) -> Answer:
    answer = _run(call, tool, given)
    if answer.failed:
        return answer
    installed = ", ".join(map(str, answer.data.get("installed", ()))) or "nothing new"
    return Answer(f"Installed: {installed}.", answer.data, notices=answer.notices)


def _test(call: Call, tool: Tool, given: Given) -> Answer:
    answer = _run(call, tool, given)
    counts = [
        f"{answer.data[name]} {name}" for name in ("passed", "failed", "errors", "skipped") if name in answer.data
    ]
    if not counts:
        return answer
    return Answer(f"{', '.join(counts)}\n{answer.text}", answer.data, failed=answer.failed, notices=answer.notices)


OFFERS = (
    _Offer(
        "fs.read",
        "Read a file",
        "Read a file of the session's workspace, at most 32 KiB at a time: pass next_offset as offset for the rest. "
        "encoding=base64 for bytes that are no text.",
        _read,
        read_only=True,
        idempotent=True,
    ),
    _Offer(
        "fs.write",
        "Write a file",
        "Write a file of the session's workspace, or add to its end with append. Folders are made. "
        "Contents over a few 100 KB in several calls, with append.",
        _write,
        destructive=True,
    ),
    _Offer(
        "fs.list",
        "List files",
        "List a folder of the session's workspace, in pages; with recursive and glob what is below it.",
        _list,
        read_only=True,
        idempotent=True,
    ),
    _Offer(
        "run.python",
        "Run Python",
        "Run Python code, or a file of the workspace, in the session's sandbox, with the packages of pkg_install. "
        "Returns stdout, stderr and exit code. Nothing but files stays for the next call. "
        f"Install packages with pkg_install, pip is not there. {NETWORK}",
        _run,
        destructive=True,
        open_world=True,
    ),
    _Offer(
        "shell",
        "Run a shell command",
        "Run a command with /bin/sh in the session's workspace and sandbox. Returns stdout, stderr and exit code. "
        "Processes that it leaves behind are ended. "
        f"Install packages with pkg_install, pip is not there. {NETWORK}",
        _run,
        destructive=True,
        open_world=True,
    ),
    _Offer(
        "pkg.install",
        "Install packages",
        "Install Python packages from the package index into the session's environment, such as 'requests>=2 idna'. "
        "May take minutes: give it a timeout_s.",
        _install,
        open_world=True,
    ),
    _Offer(
        "test.run",
        "Run tests",
        "Run pytest in the session's workspace: counts, and each test's outcome. Install packages, pytest too, "
        "with pkg_install, pip is not there. Give long suites a timeout_s.",
        _test,
        open_world=True,
    ),
    _Offer(
        "echo",
        "Echo",
        "Return the message, by way of the session's worker: to see that it answers.",
        _plain,
        read_only=True,
        idempotent=True,
    ),
)
"""What agents get, few and in the order of their use."""
