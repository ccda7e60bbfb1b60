"""Annotations within the number that GitHub shows."""

from __future__ import annotations

from collections import Counter

from ghcoord.faces.actions.commands import JobLog, Level

SHOWN = 10
"""Annotations of one level that GitHub shows of a step (documentation of workflow commands, "limits")."""

MAX_TITLE = 200
MAX_MESSAGE = 2000
"""Characters of each; GitHub takes 255, and 64 KB."""


class Annotations:
    """Says what went wrong on the run's page, the last place of each level kept for how many more there were."""

    def __init__(self, log: JobLog, what: str = "tasks") -> None:
        self._log = log
        self._what = what
        self._shown: Counter[Level] = Counter()
        self._kept: dict[Level, tuple[str, str]] = {}
        self._more: Counter[Level] = Counter()

    def add(self, level: Level, title: str, message: str) -> None:
        """Show it, or count it."""
        if self._shown[level] < SHOWN - 1:
            self._shown[level] += 1
            self._show(level, title, message)
        else:
            self._kept[level] = title, message
            self._more[level] += 1

    def close(self) -> None:
        """Use the last places. Call it once."""
        for level, (title, message) in self._kept.items():
            if self._more[level] == 1:
                self._show(level, title, message)
            else:
                self._show(level, f"{self._more[level]} more {self._what}", "see the summary of this run and its log")
        self._kept.clear()

    def _show(self, level: Level, title: str, message: str) -> None:
        self._log.annotate(level, cut(title, MAX_TITLE), cut(message, MAX_MESSAGE))


def cut(text: str, most: int) -> str:
    """``text``, or its beginning and ``…``."""
    return text if len(text) <= most else text[: most - 1] + "…"
