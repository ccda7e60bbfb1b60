"""What the hub advises people, as agents are told: checked against every message in the code that names a command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ghcoord
from ghcoord.bootstrap import describe_tools
from ghcoord.errors import NoCapacity, NotFound
from ghcoord.faces.mcp import advice
from ghcoord.faces.mcp.advice import for_agent
from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.catalog import all_tools
from ghcoord.faces.mcp.explain import explain

ROOT = Path(ghcoord.__file__).parent
BELOW = ("coord", "model", "store", "execution", "hub.py", "faces/mcp")
"""Where messages come from that an agent may see."""

COMMAND = re.compile(r"'ghcoord ([a-z]+(?: [a-z]+)?)")


def messages() -> Iterator[str]:
    """Every text in the code that names a command; what is filled in is shown as ``x``."""
    for part in BELOW:
        place = ROOT / part
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            if path.name == "advice.py":
                continue
            tree = ast.parse(path.read_text())
            docs = {
                id(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            }
            inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                text = ""
                if isinstance(node, ast.JoinedStr):
                    text = "".join(str(one.value) if isinstance(one, ast.Constant) else "x" for one in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inner:
                    text = node.value
                if "ghcoord " in text and COMMAND.search(text):
                    yield text


@pytest.mark.slow
def test_no_message_sends_an_agent_to_a_command() -> None:
    """Of each message a command is left only in advice for the user, and none for which there is a tool."""
    found = list(messages())
    assert len(found) > 20
    names = {spec.name for spec in all_tools(describe_tools())}
    for text in found:
        told = for_agent(text)
        for left in COMMAND.finditer(told):
            assert advice.USER in told[: left.start()].lower(), told
            if "--help" not in told[left.start() :]:
                assert left.group(1).replace(" ", "_") not in names, told
    assert set(advice._TOOLS.values()) <= names


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "the session s has no checkpoint 'c': see 'ghcoord session checkpoint s --list'",
            "the session s has no checkpoint 'c': see session_status",
        ),
        ("'c' is no id of a checkpoint: list them with 'session checkpoint ID --list'", None),
        ("there is no worker 'w' that is alive: see 'ghcoord worker list'", None),
        (
            "there is no worker for the session: start one with 'ghcoord worker start'",
            "there is no worker for the session: tell the user: start one with 'ghcoord worker start'",
        ),
        (
            "it is meant for w, which is not alive: start it, or see 'ghcoord task assign --help'",
            "it is meant for w, which is not alive: start it, or tell the user: see 'ghcoord task assign --help'",
        ),
        ("take it with 'lock acquire x --for plans'", 'take it with lock_acquire with namespaces ["plans"]'),
        ("nothing of the kind: 'quoted' and plain", "nothing of the kind: 'quoted' and plain"),
    ],
)
def test_messages_are_translated(said: str, told: str | None) -> None:
    """To the tool of the same noun and verb, else to what the user is to be told."""
    if told is not None:
        assert told == for_agent(said)
    assert for_agent(for_agent(said)) == for_agent(said)
    assert "session checkpoint" not in for_agent(said)
    assert "'ghcoord worker list'" not in for_agent(said)


def test_errors_are_translated() -> None:
    """Those of the hub, and those that tools made of them."""
    why = explain(NoCapacity("nobody: start one with 'ghcoord worker start'"), 0.0)
    assert "nobody: tell the user: start one with 'ghcoord worker start'" == why.message
    why = explain(Failure("no", "see 'ghcoord worker list'", code="X", retryable=True), 0.0)
    assert ("see worker_list", "X", True) == (why.next_step, why.code, why.retryable)
    assert "see session_list" in explain(NotFound("none: see 'ghcoord session list'"), 0.0).message
