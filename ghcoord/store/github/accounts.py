"""Which login a token belongs to, remembered across processes. Keeps fingerprints, no tokens."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

KEPT = 64
"""Entries that the file holds at most; the oldest go first."""


class Accounts:
    """The file ``accounts.json``, mode 0600; ``None`` keeps nothing. Losing it costs a request."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def login(self, host: str, identity: str) -> str | None:
        """Whose ``identity`` is, if it was told before."""
        login = self._load().get(f"{host} {identity}")
        return login if isinstance(login, str) and login else None

    def remember(self, host: str, identity: str, login: str) -> None:
        """Keep it; best effort."""
        if self._file is None:
            return
        known = self._load()
        known.pop(f"{host} {identity}", None)
        known[f"{host} {identity}"] = login
        text = json.dumps(dict(list(known.items())[-KEPT:]))
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as out:
                out.write(text)
            temporary.replace(self._file)

    def _load(self) -> dict[str, Any]:
        if self._file is None:
            return {}
        try:
            known = json.loads(self._file.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}
