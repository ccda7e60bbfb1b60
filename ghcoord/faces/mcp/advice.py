"""What the hub advises people, as an agent can follow it: a command is a tool here, or something for the user.

Messages of the hub name commands of the CLI as the next step, in single quotes.
An agent has tools only, so where there is one for the command its name is put
in place; where there is none the advice is passed on as one for the user.
"""

from __future__ import annotations

import re

_TOOLS = {
    "artifact get": "artifact_get",
    "artifact list": "artifact_list",
    "artifact put": "artifact_put",
    "lock acquire": "lock_acquire",
    "lock list": "lock_list",
    "lock release": "lock_release",
    "lock renew": "lock_renew",
    "memory delete": "memory_delete",
    "memory get": "memory_get",
    "memory list": "memory_list",
    "memory set": "memory_set",
    "memory watch": "memory_watch",
    "session checkpoint": "session_checkpoint",
    "session create": "session_create",
    "session destroy": "session_destroy",
    "session list": "session_list",
    "session restore": "session_restore",
    "session show": "session_status",
    "task cancel": "task_cancel",
    "task list": "task_list",
    "task logs": "task_logs",
    "task result": "task_result",
    "task show": "task_status",
    "task submit": "task_submit",
    "task wait": "task_wait",
    "worker list": "worker_list",
    "worker show": "worker_status",
}
"""The tool that does what a command does, by the command's first two words."""

USER = "tell the user: "
"""How advice begins that needs a person."""

_COMMAND = re.compile(r"'(?:ghcoord ([a-z]+(?: [a-z]+)?)|(session checkpoint))((?: [^'\n]*)?)'")
_FOR = re.compile(r"'lock acquire [^'\n]* --for ([^'\n]+)'")
_CLAUSE = re.compile(r"[:;.(] +|, or ")


def for_agent(text: str) -> str:
    """``text`` of the hub with tools in place of commands; what only a person can do begins with :data:`USER`."""
    told = _FOR.sub(r'lock_acquire with namespaces ["\1"]', text)
    told = _COMMAND.sub(_tool, told)
    for found in reversed(list(_COMMAND.finditer(told))):
        begins = max((one.end() for one in _CLAUSE.finditer(told, 0, found.start())), default=0)
        if not told[:begins].lower().endswith(USER):
            told = f"{told[:begins]}{USER}{told[begins:]}"
    return told


def _tool(found: re.Match[str]) -> str:
    command, rest = found.group(1) or found.group(2), found.group(3)
    if command == "session checkpoint" and "--list" in rest:
        return "session_status"
    name = _TOOLS.get(command)
    return found.group() if name is None or "--help" in rest else name
