"""The summary of a job, in Markdown that says nothing but what it is meant to say.

Everything from records stands in ``<code>`` with each special character as a
number: no markup, link, image, mention or reference comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ghcoord.errors import UsageError
from ghcoord.faces.actions.annotations import cut
from ghcoord.faces.cli.output import clean

MAX_BYTES = 1_000_000
"""Bytes of the summary of one step; GitHub shows none of one above 1 MiB."""

MAX_CELL = 200
"""Characters of a text in a table."""

_SPECIAL = re.compile(r"[^A-Za-z0-9 ]")


def code(text: object, most: int = MAX_CELL) -> str:
    """``text``, from anybody, as code in a line or a cell; an empty one as nothing."""
    shown = cut(clean(text), most)
    return f"<code>{_SPECIAL.sub(lambda found: f'&#{ord(found[0])};', shown)}</code>" if shown else ""


def link(text: str, url: str) -> str:
    """A link of our own making: neither part comes from a record."""
    return f"[{text}]({url})"


class Summary:
    """The part of ``file`` that this process writes; what stood there before stays.

    Without a file nothing is written.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._begin = 0
        if file is not None:
            try:
                self._begin = file.stat().st_size
            except FileNotFoundError:
                self._begin = 0
            except OSError as error:
                raise _unwritable(error) from None

    def write(self, parts: Iterable[str]) -> None:
        """Replace what this process wrote before by ``parts``, as many as there is room for.

        Raises ``UsageError`` when it cannot be written.
        """
        if self._file is None:
            return
        note = "\n*There is more than a summary can show.*\n"
        room = MAX_BYTES - self._begin - len(note)
        kept: list[bytes] = []
        for part in parts:
            data = part.encode(errors="backslashreplace")
            if len(data) > room:
                kept.append(note.encode())
                break
            kept.append(data)
            room -= len(data)
        try:
            with self._file.open("r+b" if self._file.exists() else "w+b") as opened:
                opened.truncate(self._begin)
                opened.seek(self._begin)
                opened.write(b"".join(kept))
        except OSError as error:
            raise _unwritable(error) from None


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """The lines of a table; cells are Markdown already. Nothing when there are no rows."""
    begun = False
    for row in rows:
        if not begun:
            yield f"\n| {' | '.join(headers)} |\n|{' --- |' * len(headers)}\n"
            begun = True
        yield f"| {' | '.join(row)} |\n"


def _unwritable(error: OSError) -> UsageError:
    return UsageError(f"GITHUB_STEP_SUMMARY cannot be written: {error.strerror or error}")
