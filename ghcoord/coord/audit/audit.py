"""``hub.audit``: who did what, from the hub's history and from the tool calls that programs record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Unpack

from ghcoord.clock import Event
from ghcoord.coord.audit import blame as audit_blame
from ghcoord.coord.audit import calls as audit_calls
from ghcoord.coord.audit import log as audit_log
from ghcoord.coord.audit.blame import Blame
from ghcoord.coord.audit.calls import CALL, DROPPED, PAGE, RESULT, Place, Purge
from ghcoord.coord.audit.log import AuditLog
from ghcoord.coord.audit.outbox import Batch, Outbox
from ghcoord.coord.audit.query import AuditEvent, Filters, When, make_query
from ghcoord.coord.audit.redact import KnownByUser
from ghcoord.coord.context import Context
from ghcoord.coord.layout import DEFAULT_NAMESPACE
from ghcoord.errors import Unsupported, UsageError
from ghcoord.model.event import AuditEntry
from ghcoord.store.pinned import READ_ONLY, PinnedStore

LOCAL_INTERVAL = 5.0
"""Seconds between commits of tool calls where a commit costs no request."""

REMOTE_INTERVAL = 60.0
"""Seconds between them elsewhere: writes are scarce there."""

CLOSE_TIMEOUT = 5.0
"""Seconds that closing the hub waits for what is not written yet."""


class Logger(Protocol):
    """What is used of a :class:`logging.Logger`."""

    def info(self, msg: object, /) -> None: ...


Sink = Logger | Callable[[dict[str, Any]], object]


class Audit:
    """The audit log of a hub: what is kept of it, and what is added to it.

    :meth:`tool_call` and :meth:`tool_result` never wait for the hub.  Entries
    are written together every ``interval`` seconds, by :meth:`flush` and when
    the hub is closed: a crash loses those that are not written yet, at most.
    While the hub cannot be reached 10,000 entries or 8 MiB are kept; then the
    oldest are dropped, and the log says how many.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        local = context.transactor.store.capabilities.requests_per_commit == 0
        interval = LOCAL_INTERVAL if local else REMOTE_INTERVAL
        self._outbox = Outbox(context.runtime, self._send, to="the hub", interval=interval)
        self._sinks = Outbox(context.runtime, self._tell, to="the sink", interval=0.0)
        self._batch: tuple[Batch, Place, list[bytes]] | None = None
        self._last = 0
        self._known = KnownByUser()
        self.sink: Sink | None = None
        """A logger, which gets each entry as a line of JSON, or a function, which gets it as a dictionary.

        It is called in a thread of its own.  What it raises is dropped.
        """

    # -- recording

    @property
    def interval(self) -> float:
        """Seconds between commits of recorded entries; may be set."""
        return self._outbox.interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        if not 0 < seconds <= 3600:
            raise UsageError(f"an interval of {seconds:g} s is out of range: more than 0 s, at most an hour")
        self._outbox.interval = seconds

    @property
    def pending(self) -> int:
        """Entries that are not written yet."""
        return self._outbox.pending

    @property
    def trouble(self) -> str:
        """Why entries could not be written at the last attempt; empty when they could."""
        return "" if self._outbox.trouble is None else str(self._outbox.trouble)

    def tool_call(self, entry: AuditEntry) -> None:
        """Record that a tool is called. Returns at once; secrets are redacted and much is cut.

        Raises ``Unavailable`` after :meth:`close` and ``Unsupported`` for a hub in the past, nothing else.
        """
        self._record(CALL, entry)

    def tool_result(self, entry: AuditEntry) -> None:
        """Record how a tool call ended, as :meth:`tool_call` does."""
        self._record(RESULT, entry)

    def flush(self, timeout: float = 30.0) -> None:
        """Write what is recorded now. Raises what the store raises, and ``Unavailable`` after ``timeout`` seconds."""
        self._outbox.flush(timeout)
        self._sinks.flush(timeout)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """As :meth:`flush`; nothing can be recorded afterwards. The hub does it when it is closed."""
        try:
            self._outbox.close(timeout)
        finally:
            self._sinks.close(timeout)

    def _record(self, kind: str, entry: AuditEntry) -> None:
        if isinstance(self._context.transactor.store, PinnedStore):
            raise Unsupported(READ_ONLY)
        known = self._known.of(entry.user_id)
        item = audit_calls.line(audit_calls.encode(kind, entry, self._context.runtime.now(), known))
        self._outbox.put(item)
        if self.sink is not None:
            self._sinks.put(item)

    def _send(self, batch: Batch) -> None:
        """Write a batch; the same one again goes into the same file."""
        if self._batch is None or self._batch[0] is not batch:
            place = audit_calls.new_place(self._context, self._last)
            self._last = place.ms
            lines = list(batch.items)
            if batch.dropped:
                lines.insert(0, audit_calls.line({"at": place.ms / 1000, "kind": DROPPED, "count": batch.dropped}))
            self._batch = batch, place, lines
        _, place, lines = self._batch
        audit_calls.write(self._context, place, lines)
        self._batch = None

    def _tell(self, batch: Batch) -> None:
        for item in batch.items:
            sink = self.sink
            if sink is None:
                return
            try:
                if callable(sink):
                    sink(json.loads(item))
                else:
                    sink.info(item.decode())
            except Exception:
                continue  # the hub has the entry; a logger's trouble is its own

    # -- reading

    def log(
        self,
        *,
        limit: int | None = None,
        oldest_first: bool = False,
        since: When | None = None,
        until: When | None = None,
        **filters: Unpack[Filters],
    ) -> AuditLog:
        """What happened, newest first; read only as far as somebody iterates.

        Events are those in the commits of every space, people's commits (kind
        ``commit by hand``) and recorded tool calls.  ``since`` and ``until``
        are inclusive; ``filters`` are those of :class:`Filters`, and all must
        hold.  ``oldest_first`` gives the oldest ``limit`` of them, for which all
        are read.  Renewals of leases are left out unless ``kind`` names them.
        After the last event ``cut`` of the result says where older history was removed.
        """
        query = make_query(filters, since, until)
        if limit is not None and limit < 1:
            raise UsageError("a limit is at least 1")
        return audit_log.log(self._context, query, limit=limit, oldest_first=oldest_first)

    def follow(
        self,
        *,
        last: int | None = 0,
        since: When | None = None,
        stopped: Event | None = None,
        **filters: Unpack[Filters],
    ) -> Iterator[AuditEvent]:
        """The newest ``last`` events (``None``: all ``since``), oldest first, and then what happens.

        Without end, or until ``stopped`` is set: the hub is looked at every
        poll interval.  ``filters`` as in :meth:`log`.
        """
        query = make_query(filters, since)
        return audit_log.follow(self._context, query, last=last, stopped=stopped or self._context.runtime.event())

    def blame(self, kind: str, name: str, namespace: str = DEFAULT_NAMESPACE) -> Blame:
        """Which commit gave each field of a record its value: when, by whom, at which event.

        ``kind`` is ``task``, ``worker``, ``lock``, ``key`` or ``schedule``.  Of a
        record that is gone: its last state, and who removed it.  Raises
        ``NotFound`` where the history knows nothing of it.
        """
        return audit_blame.blame(self._context, kind, name, namespace)

    def purge(self, older_than: float | None = None, *, dry_run: bool = False, page: int = PAGE) -> Purge:
        """Remove recorded entries older than ``older_than`` seconds (default: the hub's ``retention.audit``).

        ``page`` files a commit.  What the commits themselves tell stays until ``gc`` removes it.
        """
        kept = self._context.config().retention_audit if older_than is None else older_than
        if kept < 0:
            raise UsageError("older_than is a duration: 0 or more seconds")
        return audit_calls.purge(self._context, self._context.now() - kept, dry_run=dry_run, page=max(1, page))
