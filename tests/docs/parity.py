"""The rows of ``docs/parity.md``, and a recorder of what was called while a row's scenario ran."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from ghcoord.hub import Hub
from tests.cli.running import Cli, Run
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "parity.md"
OPEN = ("Open", "Not carried over")
"""Sections whose rows are not offered: what is still to come, and what is left out on purpose."""

_CODE = re.compile(r"`([^`]+)`")
_METHOD = re.compile(r"hub\.[a-z_]+\.[a-z_]+")
_FLAG = re.compile(r"--[a-z-]+")


@dataclass(frozen=True)
class Row:
    """One row: what must be called, and which commands run with which flags."""

    section: str
    reference: str
    python: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def methods(self) -> set[str]:
        """``hub.locks.acquire`` …: the methods that the row names."""
        return {name for cell in self.python for name in _METHOD.findall(cell)}

    @property
    def key(self) -> str:
        """The row's first name: what its scenario is called by."""
        found = _CODE.search(self.reference)
        return f"{self.section}: {found[1] if found else self.reference}"


@dataclass
class Recorder:
    """What was called."""

    methods: set[str] = field(default_factory=set)
    lines: list[list[str]] = field(default_factory=list)

    def missing(self, row: Row) -> list[str]:
        """What the row names and nobody called: methods, commands, flags."""
        absent = sorted(row.methods - self.methods)
        for command in row.commands:
            words, flags = _split(command)
            said = [line for line in self.lines if line[: len(words)] == words]
            if not said:
                absent.append(command)
            absent += [f"{' '.join(words)} {flag}" for flag in flags if not any(flag in line for line in said)]
        return absent


def _split(command: str) -> tuple[list[str], list[str]]:
    """The words of a command in small letters, and its flags."""
    words: list[str] = []
    for word in command.split():
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        words.append(word)
    return words[:2] if words else [], _FLAG.findall(command.partition(" -- ")[0])


def rows() -> list[Row]:
    """Every row of the page, in its order."""
    found: list[Row] = []
    section = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) < 2 or cells[0] in ("reference", "---"):
            continue
        python = tuple(_CODE.findall(cells[1]))
        commands = () if section in OPEN or len(cells) < 3 else tuple(_CODE.findall(cells[2]))
        found.append(Row(section, cells[0], python, commands))
    return found


def offered() -> list[Row]:
    """The rows that must work."""
    return [row for row in rows() if row.section not in OPEN]


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch, hub: Hub, cli: Cli) -> Iterator[tuple[Recorder, Cli]]:
    """Record the calls of the hub's parts and the command lines given to the ``Cli`` that is yielded."""
    recorder = Recorder()
    for part, thing in vars(hub).items():
        if part.startswith("_") or not type(thing).__module__.startswith("ghcoord."):
            continue
        for name in dir(type(thing)):
            method = getattr(type(thing), name)
            if not name.startswith("_") and callable(method):
                monkeypatch.setattr(type(thing), name, _noting(method, f"hub.{part}.{name}", recorder, hub, thing))

    def run(*args: object, stdin: str = "") -> Run:
        recorder.lines.append([str(arg) for arg in args])
        return cli(*args, stdin=stdin)

    yield recorder, run


def _noting(method: Any, name: str, recorder: Recorder, hub: Hub, thing: object) -> Any:
    def called(self: object, *args: Any, **more: Any) -> Any:
        if self is thing:
            recorder.methods.add(name)
        return method(self, *args, **more)

    return called
