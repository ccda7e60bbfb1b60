"""What the SDK and the HTTP server log, said as the rest of the program says things."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SOURCES = ("mcp", "uvicorn", "sse_starlette")

_LEVELS = {logging.WARNING: "warn", logging.ERROR: "error", logging.CRITICAL: "error"}


class _Telling(logging.Handler):
    def __init__(self, log: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        problem = record.exc_info[1] if record.exc_info else None
        why = "" if problem is None else f": {type(problem).__name__}: {problem}"
        self._log(_LEVELS.get(record.levelno, "warn"), f"{record.name}: {record.getMessage()}{why}"[:2000])


@contextmanager
def routed(log: Callable[[str, str], None]) -> Iterator[None]:
    """Within the context warnings and errors of :data:`SOURCES` go to ``log`` as (level, text), and nowhere else."""
    loggers = [logging.getLogger(name) for name in SOURCES]
    before = [logger.propagate for logger in loggers]
    handler = _Telling(log)
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagate
