"""Runs the blocks of a page as one bash script, and compares what a console block says is printed.

Blocks of a page share a directory and run in their order.  Any command that
fails ends the run, unless ``echo $?`` follows it or ``||`` catches it.  Python
blocks are programs of their own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import ROOT, SHELL, Block

_SHOW_STATUS = "echo $?"
_MARK = "@@ghcoord-docs@@"
_ALL = "…"


@dataclass(frozen=True, slots=True)
class Step:
    """A command (or a whole ``sh`` or Python block) with the output that the page shows, if it shows any."""

    code: str
    at: int
    shows: tuple[str, ...] | None = None


def steps(found: Iterable[Block]) -> Iterator[Step]:
    """What is to be run of ``found``, in order."""
    for block in found:
        if block.not_run:
            continue
        if block.language == "console":
            yield from _commands(block)
        elif block.language in SHELL:
            yield Step("\n".join(block.lines), block.at)
        elif block.language == "python":
            code = "\n".join(block.lines)
            yield Step(f"{shlex.quote(sys.executable)} -W error - <<'END-OF-BLOCK'\n{code}\nEND-OF-BLOCK", block.at)


def _commands(block: Block) -> Iterator[Step]:
    lines = list(block.lines)
    at = 0
    while at < len(lines):
        if not lines[at].startswith("$ "):
            raise ValueError(f"line {block.at + at + 1}: output without a command ('$ …') before it")
        began = at
        command = [lines[at][2:]]
        at += 1
        while at < len(lines) and lines[at].startswith("> "):
            command.append(lines[at][2:])
            at += 1
        shown = []
        while at < len(lines) and not lines[at].startswith("$ "):
            shown.append(lines[at])
            at += 1
        yield Step("\n".join(command), block.at + began + 1, tuple(shown))


def script(todo: list[Step]) -> str:
    """One bash script; each step's output follows a line with a mark and its number."""
    parts = ["set -e -o pipefail", "__status=0", "__again() { return $__status; }"]
    following = [step.code.strip() for step in todo[1:]] + [""]
    for number, (step, after) in enumerate(zip(todo, following, strict=True)):
        parts.append(f"echo; echo {_MARK}{number}")
        if step.code.strip() == _SHOW_STATUS:
            parts.append(f"set +e; __again; {_SHOW_STATUS}; set -e")
        elif after == _SHOW_STATUS:
            parts.append(f"set +e\n{step.code}\n__status=$?; set -e")
        else:
            parts.append(step.code)
    return "\n".join([*parts, f"echo; echo {_MARK}end", ""])


def run(todo: list[Step], folder: Path, timeout: float = 60.0, **variables: str) -> list[str]:
    """Run the steps in ``folder`` with more ``variables``; what is wrong with the page, one text a mistake."""
    if not todo:
        return []
    process = subprocess.Popen(
        ["bash", "-c", script(todo)],
        cwd=folder,
        env={**environment(folder), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        late = ""
    except subprocess.TimeoutExpired:
        late = f" after {timeout:g} s"
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    finally:
        # A worker that a page leaves behind would hold the pipe and outlive the test.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    said = dict(_split(output))
    last = max((number for number in said if number in range(len(todo))), default=0)
    if process.returncode != 0 or late:
        status = f"stopped{late}" if late else f"exit code {process.returncode}"
        return [f"line {todo[last].at}: {status}\n{todo[last].code}\n{said.get(last, output)}"]
    mistakes = []
    for number, step in enumerate(todo):
        printed = said[number].splitlines()
        if step.shows is not None and not matches(step.shows, printed):
            shown = "\n".join(step.shows) or "(nothing)"
            mistakes.append(f"line {step.at}: $ {step.code}\nshows:\n{shown}\nprints:\n{said[number] or '(nothing)'}")
    return mistakes


def _split(output: str) -> Iterator[tuple[int, str]]:
    for part in output.split(f"\n{_MARK}")[1:]:
        number, _, text = part.partition("\n")
        yield (-1 if number == "end" else int(number)), text.strip("\n")


def matches(shown: tuple[str, ...], printed: list[str]) -> bool:
    """Whether the page may show ``shown`` for ``printed``.

    A line ``…`` stands for any number of lines and ``…`` in a line for any
    text; runs of digits (tokens, times), of spaces and of rules count as equal.
    Words with digits and hexadecimal ids are not: write ``…`` for those.
    """
    wanted = [_level(line) for line in shown if line.strip()]
    pattern = []
    for line in wanted:
        if line == _ALL:
            pattern.append(r"(?:.*\n)*?")
        else:
            pattern.append(".*?".join(map(re.escape, line.split(_ALL))) + r"\n")
    text = "".join(_level(line) + "\n" for line in printed if line.strip())
    return re.fullmatch("".join(pattern), text) is not None


def _level(line: str) -> str:
    return re.sub(r"\d+", "0", " ".join(line.split()))


def environment(folder: Path) -> Mapping[str, str]:
    """A user's environment with ``ghcoord`` and ``python`` of this interpreter, and a home of its own."""
    programs = folder / ".bin"
    programs.mkdir(exist_ok=True)
    python = shlex.quote(sys.executable)
    for name, what in {"ghcoord": f'{python} -m ghcoord "$@"', "python": f'{python} "$@"'}.items():
        (programs / name).write_text(f"#!/bin/sh\nexec {what}\n")
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GHCOORD_")}
    return {
        **kept,
        "PATH": f"{programs}:{kept.get('PATH', os.defpath)}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / ".state"),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "Ann",
        "GIT_AUTHOR_EMAIL": "ann@example.org",
        "GIT_COMMITTER_NAME": "Ann",
        "GIT_COMMITTER_EMAIL": "ann@example.org",
    }
