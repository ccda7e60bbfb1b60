"""HTTP connections that are closed when the head of a request does not come: uvicorn itself waits for ever."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT = 15.0
"""Seconds in which the head of a request has to come, from the connection's beginning or its first byte."""


def impatient(timeout: float = HEAD_TIMEOUT) -> type[H11Protocol]:
    """uvicorn's protocol that waits ``timeout`` seconds for the head of each request."""

    class Impatient(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect_nothing()
            super().connection_lost(exc)

        def _expect(self) -> None:
            if not self._idle():
                self._expect_nothing()
            elif self._late is None:
                self._late = self.loop.call_later(timeout, self._hang_up)

        def _expect_nothing(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _hang_up(self) -> None:
            self._late = None
            if self._idle():
                self.transport.close()

        def _idle(self) -> bool:
            """Whether no request is being answered."""
            return self.cycle is None or self.cycle.response_complete

    return Impatient
