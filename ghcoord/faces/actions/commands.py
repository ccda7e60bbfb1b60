"""Workflow commands: how a job speaks to GitHub's runner, and how it quotes what must not speak to it.

The runner obeys lines of either output stream.  So whatever comes from records
passes :class:`JobLog`: within a line its marks are defused, and texts of
several lines stand between ``::stop-commands::`` and a token of their own.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from ghcoord.faces.cli.output import clean, clean_text

Level = Literal["notice", "warning", "error"]

TOKEN_BITS = 128
"""Bits of chance in the token that ends a quotation: what is quoted cannot guess it."""

_MARK = re.compile(r"(?<!\S):(?=:)|(?<=##)\[")
"""Where a command would begin: ``::`` after nothing but blanks, here after any, and ``##[`` anywhere."""


def escape(text: str) -> str:
    """``text`` as the data of a command: one line, and the same text once the runner has read it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """``text`` as the value of a command's property, where colon and comma have a meaning."""
    return escape(text).replace(":", "%3A").replace(",", "%2C")


def command(name: str, data: str = "", **properties: str) -> str:
    """The line of a command; properties that are empty are left out."""
    given = ",".join(f"{key}={escape_property(value)}" for key, value in properties.items() if value)
    return f"::{name}{' ' if given else ''}{given}::{escape(data)}"


def harmless(text: object) -> str:
    """``text`` as one line that is no command and does nothing to a terminal."""
    return _MARK.sub(lambda mark: f"\\x{ord(mark[0]):02x}", clean(text))


class JobLog:
    """The log of a step. Thread-safe: a quotation is never interrupted by a command.

    ``write`` takes text with its line feeds; ``randbits`` gives chance.
    """

    def __init__(self, write: Callable[[str], object], randbits: Callable[[int], int]) -> None:
        self._write = write
        self._randbits = randbits
        self._lock = threading.RLock()

    def line(self, text: object) -> None:
        """One line, whatever ``text`` holds."""
        self._put(harmless(text))

    def quote(self, text: str) -> None:
        """What somebody else has said, line by line."""
        token = f"quoted-{self._randbits(TOKEN_BITS):032x}"
        with self._lock:
            self._put(command("stop-commands", token))
            try:
                self._put(clean_text(text.removesuffix("\n")))
            finally:
                self._put(f"::{token}::")

    @contextmanager
    def group(self, title: object) -> Iterator[None]:
        """What is written meanwhile is folded away under ``title``."""
        with self._lock:
            self._put(command("group", clean(title)))
            try:
                yield
            finally:
                self._put(command("endgroup"))

    def annotate(self, level: Level, title: str, message: str) -> None:
        """Have the run's page show ``message``; :class:`ghcoord.faces.actions.annotations.Annotations` counts them."""
        self._put(command(level, clean_text(message), title=clean(title)))

    def _put(self, line: str) -> None:
        with self._lock:
            self._write(line + "\n")
