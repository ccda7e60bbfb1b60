"""Tasks from a file: a JSON object a line, with ``tool``, ``args`` and any option of ``task submit``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from ghcoord.errors import GhcoordError, UsageError
from ghcoord.faces.cli.common import parse_object
from ghcoord.faces.cli.context import invocation
from ghcoord.faces.cli.taskoptions import KEYS, SPELLINGS, meaning

if TYPE_CHECKING:
    from ghcoord.hub import Submission

LINE_KEYS = ("tool", "args", "id", *KEYS)
"""Keys of a line; they may have ``-`` for ``_``, and the other names of ``SPELLINGS``."""

MAX_LINE = 4_000_000
"""Characters of one line."""


def read_batch(name: str, defaults: Mapping[str, Any]) -> list[Submission]:
    """The tasks in the file ``name``, ``-`` for standard input; raises ``UsageError`` naming the line.

    ``defaults`` holds the options of lines that do not say otherwise.
    """
    try:
        if name == "-":
            return list(parse_lines(sys.stdin, "standard input", defaults))
        with open(name, encoding="utf-8") as file:
            return list(parse_lines(file, name, defaults))
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(f"cannot read {name}: {reason}") from None


def parse_lines(file: TextIO, name: str, defaults: Mapping[str, Any]) -> Iterator[Submission]:
    """One task a line; empty lines are passed over."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE:
                raise UsageError(f"longer than {MAX_LINE} characters")
            yield _submission(parse_object(line, "the line"), defaults)
        except GhcoordError as mistake:
            raise UsageError(f"{name}, line {number}: {mistake.message}") from None


def _submission(line: dict[str, Any], defaults: Mapping[str, Any]) -> Submission:
    from ghcoord.hub import Submission

    values = {_name(key): value for key, value in line.items()}
    if len(values) < len(line):
        raise UsageError("an option is given twice")
    for key in ("tool", "id"):
        if key in values and not isinstance(values[key], str):
            raise UsageError(f"{key} must be a text")
    if "tool" not in values:
        raise UsageError("the key 'tool' is missing")
    own = {key: values.pop(key) for key in ("tool", "args", "id") if key in values}
    one = Submission(**own, **meaning({**defaults, **values}))
    one.check()
    return one


def _name(key: str) -> str:
    plain = key.replace("-", "_")
    name = SPELLINGS.get(plain, plain)
    if name not in {SPELLINGS.get(one, one) for one in LINE_KEYS}:
        raise UsageError(f"{key[:40]!r} is no option of a task: one of {', '.join(LINE_KEYS)}")
    return name


@contextmanager
def progress_bar(total: int, what: str = "submitting") -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error; nothing elsewhere. Yields what takes the number done."""
    if invocation().json or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ghcoord.faces.cli.output import console

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda done: progress.update(bar, completed=done)
