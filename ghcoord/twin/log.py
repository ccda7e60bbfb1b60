"""What was asked of the twin: one entry a request, and on demand whole REST exchanges."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["poll", "read", "write", "push"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what became of it.

    ``operation`` is the path's template for REST (``GET /repos/{owner}/…``),
    the names of the mutations or of the operation for GraphQL, the service for
    git. ``status`` is 0 where no answer left. ``counted``: it costs something
    of the primary limit (a 304 does not). ``fault`` names what was done to it.
    """

    method: str
    path: str
    status: int
    operation: str
    login: str
    time: float
    kind: Kind
    counted: bool
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A whole REST exchange, for validation against the official description. ``template`` as in that."""

    method: str
    template: str
    path: str
    request: Any
    status: int
    content_type: str
    response: Any


@dataclass
class Log:
    """Thread-safe. ``record`` keeps at most ``keep`` whole REST exchanges too, and each GraphQL document once."""

    record: bool = False
    keep: int = 20_000
    entries: list[Exchange] = field(default_factory=list)
    recorded: list[Recorded] = field(default_factory=list)
    on_entry: Callable[[Exchange], None] | None = None
    documents: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, entry: Exchange) -> None:
        """Note a request."""
        with self._lock:
            self.entries.append(entry)
        if self.on_entry is not None:
            self.on_entry(entry)

    def keep_bodies(self, exchange: Recorded) -> None:
        """Note a REST exchange, if recording."""
        with self._lock:
            if self.record and len(self.recorded) < self.keep:
                self.recorded.append(exchange)

    def keep_document(self, text: str) -> None:
        """Note a GraphQL document, if recording."""
        with self._lock:
            if self.record:
                self.documents.add(text)

    def requests(
        self,
        since: float | int = 0,
        *,
        counted: bool | None = None,
        kind: Kind | None = None,
        login: str | None = None,
        operation: str | None = None,
    ) -> list[Exchange]:
        """Entries from time ``since`` on (an ``int`` is an index into the log) that fit all that is given."""
        with self._lock:
            found = self.entries[since:] if isinstance(since, int) else [e for e in self.entries if e.time >= since]
        return [
            each
            for each in found
            if (counted is None or each.counted == counted)
            and (kind is None or each.kind == kind)
            and (login is None or each.login == login)
            and (operation is None or operation in each.operation)
        ]
