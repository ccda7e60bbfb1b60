"""A request as the twin takes it, from a socket or from within the process, and a lost connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Incoming:
    """A request: ``path`` decoded, ``headers`` with lower-case names, ``body`` as it came.

    ``timeout`` is how many seconds its client waits, known of clients in this process only.
    """

    method: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    body: bytes
    base_url: str = "http://twin.local"
    timeout: float | None = None

    @cached_property
    def query(self) -> dict[str, str]:
        """The query string's fields."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @cached_property
    def json(self) -> Any:
        """The parsed body; ``None`` without one. Raises ``ValueError``."""
        return json.loads(self.body) if self.body else None


class ConnectionLost(ConnectionError):
    """No (whole) answer leaves; ``reset`` by a TCP reset, ``timeout`` because the client stopped waiting."""

    def __init__(self, *, reset: bool = False, timeout: bool = False) -> None:
        super().__init__("the twin closed the connection")
        self.reset = reset
        self.timeout = timeout
