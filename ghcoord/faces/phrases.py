"""Events in the words of people. The words come from here, the names from records: nothing is cleaned yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PHRASES = {
    "worker registered": "{worker} joined",
    "worker updated": "{worker} registered anew",
    "worker deregistered": "{worker} left",
    "worker removed": "{worker} was removed after long silence",
    "worker active": "{worker} was set active",
    "worker busy": "{worker} was set busy",
    "worker draining": "{worker} was asked to drain",
    "worker offline": "{worker} is offline",
    "worker recovered": "recovered from {worker}: {tasks} tasks, {locks} locks",
    "worker reported unknown sessions": "{worker} reported sessions that the hub does not know",
    "task submitted": "task {task} ({tool}) submitted by {by}",
    "task leased": "{worker} took task {task}, attempt {attempt}",
    "task succeeded": "{worker} finished task {task}",
    "task failed": "task {task} failed on {worker}, to be tried again",
    "task dead": "task {task} failed on {worker} for good",
    "task cancelled": "task {task} was cancelled",
    "task cancel requested": "{by} asked to cancel task {task}",
    "task retried": "{by} queued task {task} again",
    "task unblocked": "task {task} no longer waits for {after}",
    "task assigned": "{by} meant task {task} for {worker}",
    "task unassigned": "{by} freed task {task} for all workers",
    "task given back": "{worker} gave task {task} back",
    "task lease lost": "{worker} lost task {task}",
    "task result refused": "a late result of {worker} for task {task} was refused",
    "task return refused": "a late return of task {task} by {worker} was refused",
    "schedule set": "{by} set schedule {schedule} to {cron}",
    "schedule paused": "{by} paused schedule {schedule}",
    "schedule resumed": "{by} resumed schedule {schedule}",
    "schedule removed": "{by} removed schedule {schedule}",
    "schedule fired": "schedule {schedule} submitted task {task}",
    "schedule fire skipped": "schedule {schedule} left a fire out",
    "schedule missed fires": "schedule {schedule} missed {fires} fires",
    "schedule cannot fire": "schedule {schedule} cannot fire",
    "schedule cannot be read": "schedule {schedule} cannot be read",
    "lock acquired": "{lock} locked by {owner}, token {token}",
    "lock released": "{lock} unlocked by {owner}, token {token}",
    "lock expired": "{lock} unlocked, the lease of {owner} was over, token {token}",
    "lock forced": "{lock} unlocked by force, {owner} had it, token {token}",
    "lock queued": "{owner} waits for {lock}",
    "lock wait ended": "{owner} no longer waits for {lock}",
    "lock wait over": "{owner} waited too long for {lock}",
    "lock waiter passed over": "{lock} went past {owner}, who did not take it",
    "lock recovered": "{lock} unlocked, {owner} died, token {token}",
    "run intended": "{scaler} asks for a run, for {worker}",
    "run accepted": "the run for {worker} was accepted",
    "run cancelling": "the run for {worker} is cancelled",
    "run started": "the run for {worker} has started",
    "run ended": "the run for {worker} has ended",
    "run lost": "the run for {worker} was given up",
    "scaler removed": "the scaler {scaler} was removed",
    "setting changed": "{by} set {setting} to {value}",
    "setting unset": "{by} returned {setting} to its default",
    "history collected": "{by} let {commits} old commits go",
    "memory set": "{key} set by {by}",
    "memory deleted": "{key} deleted by {by}",
    "memory expired": "{count} values had ended and were removed",
    "memory dropped": "{by} dropped a namespace: {count} keys",
    "audit purged": "{by} removed {files} files of old audit entries",
    "tool calls dropped": "{count} tool calls were dropped: the hub could not be reached in time",
    "hub created": "the hub was made",
    "hub forked": "the hub has a new id, {after}",
    "hub migrated": "the hub was migrated from schema {before} to {after}",
    "space migrated": "{name} was migrated from schema {before} to {after}",
    "repaired": "{what}",
    "record edited by hand": "{path} was edited by hand",
    "record deleted by hand": "{path} was deleted by hand",
    "broken record set aside": "{path} cannot be read and was set aside",
    "broken record left in place: too many at once": "{path} cannot be read and is left in place for now",
    "ignored: too many directories below each other": "{path} is ignored: too many directories below each other",
    "worker record cut": "the record of {worker} was too large and was cut",
}
"""Event kind → phrase. A token stands at the end, where :func:`ghcoord.faces.columns.fit_token` keeps it."""

_TOGETHER = {
    "task leased": "{worker} took {count} tasks",
    "task succeeded": "{worker} finished {count} tasks",
    "task given back": "{worker} gave {count} tasks back",
    "task lease lost": "{worker} lost {count} tasks",
}
"""Kinds of which several by one worker in one commit are one line."""


class _Names(dict[str, str]):
    """A phrase's names, cut to a length, and numbers, never cut; what is missing is ``?``."""

    def __init__(self, fields: Mapping[str, Any], longest: int) -> None:
        super().__init__(
            {key: shorten(value, longest) if isinstance(value, str) else str(value) for key, value in fields.items()}
        )

    def __missing__(self, key: str) -> str:
        return "?"


def shorten(text: str, longest: int) -> str:
    """``text`` with its end cut off when it has more than ``longest`` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def phrase(kind: str, fields: Mapping[str, Any], longest: int = 1000) -> str:
    """One line for an event; names are cut to ``longest`` characters, an error or a reason stands at the end."""
    names = _Names(fields, longest)
    known = _PHRASES.get(kind)
    if known is None:
        rest = [f"{key} {value}" for key, value in names.items() if value not in ("", "None")]
        return ", ".join([shorten(kind, 2 * longest), *rest])
    why = fields.get("error") or fields.get("reason")
    return known.format_map(names) + (f": {why}" if why else "")


def together(events: list[dict[str, Any]], longest: int = 1000) -> list[tuple[str, str]]:
    """(time, line) of ``events`` in their order, those that one commit holds of one worker as one line."""
    lines: list[tuple[str, str]] = []
    group: list[dict[str, Any]] = []

    def end() -> None:
        if len(group) > 1:
            names = _Names({**group[0]["fields"], "count": len(group)}, longest)
            lines.append((group[0]["at"], _TOGETHER[group[0]["kind"]].format_map(names)))
        elif group:
            lines.append((group[0]["at"], phrase(group[0]["kind"], group[0]["fields"], longest)))
        group.clear()

    for event in events:
        if group and (event["kind"] not in _TOGETHER or _key(event) != _key(group[0])):
            end()
        group.append(event)
    end()
    return lines


def _key(event: Mapping[str, Any]) -> tuple[str, str, str]:
    return event["at"], event["kind"], str(event["fields"].get("worker"))
