"""``--audit-log``: the entries of the audit as lines of JSON, on standard error or in a file."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ghcoord.errors import UsageError

STDERR = "-"


def open_sink(target: str, warn: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """What writes entries to ``target``, a file or ``-`` for standard error.

    Raises ``UsageError`` for a file that cannot be written; ``warn`` is told, once, when that happens later.
    """
    return _to_stderr if target == STDERR else JsonLines(Path(target), warn)


def line(entry: dict[str, Any]) -> str:
    """``entry`` on one line, in ASCII: nothing in it can end the line or move a terminal's cursor."""
    return json.dumps(entry) + "\n"


def _to_stderr(entry: dict[str, Any]) -> None:
    sys.stderr.write(line(entry))
    sys.stderr.flush()


class JsonLines:
    """Appends to a file that only its owner reads; made again when somebody has moved it away, as logrotate does."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._failed = False
        self._lock = threading.Lock()
        try:
            self._append(b"")
        except OSError as error:
            raise UsageError(f"the audit log {path} cannot be written: {error.strerror or error}") from None

    def __call__(self, entry: dict[str, Any]) -> None:
        with self._lock:
            try:
                self._append(line(entry).encode())
            except OSError as error:
                if not self._failed:
                    self._warn(f"the audit log {self._path} cannot be written: {error.strerror or error}")
                self._failed = True
            else:
                self._failed = False

    def _append(self, data: bytes) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while data:
                data = data[os.write(handle, data) :]
        finally:
            os.close(handle)
