"""What ``ghcoord doctor`` looks at."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ghcoord.errors import GhcoordError
from ghcoord.faces.cli.checks_network import network
from ghcoord.faces.cli.context import open_hub, settings
from ghcoord.faces.cli.hints import BUILT_IN, in_words, offers, unserved
from ghcoord.units import format_duration, format_size

if TYPE_CHECKING:
    from ghcoord.hub import Hub


GROWN = 64 * 1024 * 1024
"""Bytes of a hub that gc has not seen, at least, until it is suggested."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. ``level`` is ``ok``, ``warning``, or ``error`` when the hub cannot be used."""

    check: str
    level: str
    message: str
    fix: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def view(self) -> dict[str, Any]:
        """Stable keys for ``--json``."""
        return {
            "check": self.check,
            "level": self.level,
            "message": self.message,
            "fix": self.fix,
            "details": self.details,
        }


def examine(url: str) -> list[Finding]:
    """All findings about the hub at ``url`` and this machine; each check runs whatever the others find.

    Where the way to the hub is blocked it is not gone a second time.
    """
    found: list[Finding] = network(url)
    if any(one.level == "error" for one in found):
        return [*found, *_sandbox()]
    try:
        with open_hub() as hub:
            for check in (_hub, _history, _settings, _broken, _workers, _queue):
                try:
                    found += check(hub)
                except GhcoordError as error:
                    found.append(_failed(check.__name__.strip("_"), error))
    except GhcoordError as error:
        found.append(_failed("hub", error))
    found += [*_folder(url), *_sandbox()]
    return found


def _failed(check: str, error: GhcoordError) -> Finding:
    before, _, fix = error.message.rpartition(": ")
    return Finding(check, "error", before or fix, fix if before else "", {"code": error.code})


def _hub(hub: Hub) -> Iterator[Finding]:
    spaces = sorted(hub.heads())
    named = [space for space in spaces if not space.startswith("memory/")]
    if names := hub.memory.namespaces():
        named.append(f"memory of {', '.join(names)}")
    yield Finding(
        "hub",
        "ok",
        f"{hub.url} can be read, id {hub.id}, spaces {', '.join(named)}",
        details={"id": hub.id, "namespaces": names, "spaces": {space: hub.revision(space) for space in spaces}},
    )


def _history(hub: Hub) -> Iterator[Finding]:
    stopped = hub.check_history()
    if stopped is None:
        yield Finding("history", "ok", "every space goes on from what this user has seen")
        return
    yield Finding(
        "history",
        "error",
        stopped.partition(": ")[0] + "; writes are stopped",
        "look at 'git log' and the reflog of that branch; push what is missing, or 'ghcoord doctor --adopt'",
    )


def _broken(hub: Hub) -> Iterator[Finding]:
    broken = hub.broken()
    if not broken:
        yield Finding("records", "ok", "all can be read")
    for one in broken:
        if one["state"] == "in place":
            fix = "the next write to that space sets it aside and restores the version before; or correct it and push"
            where = f"{one['space']}:{one['path']}"
            text = f"{where} is broken: {one['reason'].removeprefix(where).strip()}"
        else:
            kept = "the version before was restored" if one.get("restored") else "there was no version before"
            text = f"{one['space']}:{one['aside']} was set aside ({kept}): {one.get('reason', 'no reason given')}"
            fix = "correct it at its old place if it is needed, then delete it and its .reason.json, and push"
        yield Finding("records", "warning", text, fix, {key: str(value) for key, value in one.items()})


def _settings(hub: Hub) -> Iterator[Finding]:
    problems = hub.config.problems()
    given = hub.config.given()
    if not problems:
        shown = ", ".join(given) if given else "all as by default"
        yield Finding("settings", "ok", shown, details={"given": given})
    for problem in problems:
        fix = "'ghcoord config set' replaces it; until then the default counts"
        yield Finding("settings", "warning", f"meta:settings.json: {problem}", fix)


def _workers(hub: Hub) -> Iterator[Finding]:
    workers = hub.workers.list()
    stale = hub.workers.stale()
    alive = sum(worker.alive and worker.id not in stale for worker in workers)
    if not stale:
        yield Finding("workers", "ok", f"{alive} alive, {len(workers) - alive} offline")
    for worker in workers:
        if worker.id in stale:
            silent = format_duration((hub.now() - worker.last_heartbeat).total_seconds())
            yield Finding(
                "workers",
                "warning",
                f"worker {worker.id!r} on {worker.hostname} has been silent for {silent}",
                "any running worker recovers its tasks; without one, 'ghcoord worker reap'",
                {"worker": worker.id},
            )


def _queue(hub: Hub) -> Iterator[Finding]:
    waiting = hub.tasks.needs()
    present = offers(hub)
    missing = unserved(waiting, present)
    if not missing:
        yield Finding("queue", "ok", f"{sum(waiting.values())} tasks to do, none without a worker for it")
    for need in missing:
        if any(need.tool in offer.tools for offer in present):
            fix = "start a worker that meets it, or see what there is: 'ghcoord worker list'"
        elif need.tool in BUILT_IN:
            fix = "start one: 'ghcoord worker start'"
            if need.tool != "echo":
                fix += " (it offers this tool only in a working sandbox)"
        else:
            fix = f"start the program that registers it, or cancel what 'ghcoord task list --tool {need.tool}' shows"
        yield Finding(
            "queue",
            "warning",
            f"to do with {in_words(need)}, which no worker that is alive offers: {waiting[need]}",
            fix,
            {"tool": need.tool, "type": need.type, "count": waiting[need]},
        )


def _folder(url: str) -> Iterator[Finding]:
    from ghcoord.bootstrap import inspect_folder

    try:
        state = inspect_folder(url)
    except (GhcoordError, OSError):
        return  # said already by the check of the hub
    if state.unwritable:
        yield Finding(
            "access",
            "warning",
            f"this user may only read: cannot write to {', '.join(map(str, state.unwritable))}",
            "to write as well, change the permissions of the hub's folder, or the user",
            {"unwritable": [str(path) for path in state.unwritable]},
        )
    for stray in state.strays:
        yield Finding(
            "locks of git" if stray.path.suffix == ".lock" else "left over",
            "warning",
            f"{stray.path} has been there for {format_duration(stray.age)}: {stray.what}",
            "'ghcoord doctor --repair' removes it"
            if stray.removable
            else f"if no git command runs in the hub: rm {shlex.quote(str(stray.path))}",
            {"path": str(stray.path)},
        )
    if state.grown > max(GROWN, 2 * state.collected):
        yield Finding(
            "size",
            "warning",
            f"{format_size(state.grown)} of history and of packs not yet compressed",
            "'ghcoord gc --dry-run' tells what could go",
            {"bytes": state.grown, "collected": state.collected},
        )


def _sandbox() -> Iterator[Finding]:
    from ghcoord.execution.sandbox.container import ContainerSettings
    from ghcoord.execution.sandbox.open import probe_all

    try:
        given = settings().sandbox
        container = ContainerSettings(given.image, given.engine, given.options) if given.image else None
        answers = probe_all(container=container)
    except (GhcoordError, OSError) as error:
        yield Finding(
            "sandbox", "warning", f"could not be tried: {error}", "run.python and shell are refused until then"
        )
        return
    full = any(answer.ok and answer.tier == "full" for _, answer in answers)
    for name, answer in answers:
        details = {"driver": name, "ok": answer.ok, "tier": answer.tier, "limits": answer.limits}
        if not answer.ok:
            level = "ok" if full else "warning"
            yield Finding("sandbox", level, f"{name}: {answer.reason}", answer.fix, details)
            continue
        kept = ", ".join(f"{limit.replace('_', ' ')} {how}" for limit, how in answer.limits.items() if limit != "by")
        message = f"{answer.reason}; limits: {kept} (by {answer.limits.get('by', 'nothing')})"
        yield Finding("sandbox", "ok", message, answer.fix, details)
