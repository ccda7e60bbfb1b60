"""The state of a hub at one moment as one plain dictionary: what ``status`` shows, and later the HTTP face."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ghcoord.faces import views
from ghcoord.faces.phrases import phrase
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.worker import Worker

EVENTS = 40
"""Recent events that are gathered."""

TEND_EVERY = 1.0
"""Seconds between a daemon's looks at the others, less for a short lease (``ghcoord.execution.chores``)."""

LIMITED_LOOKS = 2.4
"""Polls between such looks at most, where a server's limits count: those of the second worker in line."""

NOBODY = "no worker is alive to notice: start one with 'ghcoord worker start'"


def gather(hub: Hub) -> views.View:
    """Read everything once; raises what reading raises.

    Keys: ``hub`` (url, id), ``at``, ``revision`` (of the latest commit in any
    space), ``revisions`` (of each space), ``workers``, ``queue`` (tasks by state), ``locks``, ``events``
    (newest first) and ``recovery``.  Times are ISO 8601, durations seconds; those
    that depend on the moment are made by :func:`as_of`.
    """
    revisions = hub.revisions()
    workers = hub.workers.list()
    seen = {
        "hub": {
            "url": hub.url,
            "id": hub.id,
            "clock_margin": hub.clock_margin,
            "poll_interval": hub.poll_interval,
            "look_interval": _look_interval(hub, workers),
        },
        "revision": max(revisions.values(), default=0),
        "revisions": revisions,
        "workers": [views.worker_view(worker, hub.clock_margin) for worker in workers],
        "queue": hub.tasks.counts(),
        "locks": [views.lock_view(lock) for lock in hub.locks.list(include_expired=True)],
        "events": [
            {**views.event_view(event), "text": phrase(event.kind, event.fields)} for event in hub.events(EVENTS)
        ],
    }
    return as_of(seen, hub.now())


def _look_interval(hub: Hub, workers: list[Worker]) -> float:
    """Seconds between two polls of a daemon after which it looks at the others."""
    account = hub.account
    if account is not None:
        hub.share(sum(worker.alive and worker.account == account for worker in workers), here=False)
    pace = hub.pace()
    return hub.poll_interval if pace is None else LIMITED_LOOKS * max(hub.poll_interval, pace.poll_every)


def as_of(seen: views.View, now: datetime) -> views.View:
    """What was gathered, with the ages and the times left as they are at ``now`` by the hub's clock.

    A worker gets ``heartbeat_age``, ``lease_left`` and ``silent`` (its lease is
    over and nobody has noticed yet), a lock ``lease_left``, an event ``age``.
    """
    workers = []
    for worker in seen["workers"]:
        left = _until(worker["expires_at"], now)
        silent = worker["status"] != "offline" and left <= 0
        age = -_until(worker["last_heartbeat"], now)
        workers.append({**worker, "heartbeat_age": age, "lease_left": left, "silent": silent})
    return {
        "hub": seen["hub"],
        "at": views.iso(now),
        "revision": seen["revision"],
        "revisions": seen["revisions"],
        "workers": workers,
        "queue": seen["queue"],
        "locks": [{**lock, "lease_left": _until(lock["expires_at"], now)} for lock in seen["locks"]],
        "events": [{**event, "age": -_until(event["at"], now)} for event in seen["events"]],
        "recovery": recovery(workers, seen["hub"]["clock_margin"], seen["hub"]["look_interval"]),
    }


def _until(at: str, now: datetime) -> float:
    return round((datetime.fromisoformat(at) - now).total_seconds(), 3)


def recovery(workers: list[views.View], margin: float, poll: float) -> views.View:
    """How long after a worker's death its tasks are back in the queue, at most, and why.

    ``seconds`` is for the live worker for which it takes longest, ``None`` when
    nobody would notice.  A lease may have been renewed just before the death,
    and another worker must see it stand still for lease and margin; it looks
    at the others every sixth of its lease, at most every second, when it polls,
    which is every ``poll`` seconds.
    ``pending`` are the silent ones with the seconds that are left, at most.
    """
    alive = [w for w in workers if w["status"] != "offline" and not w["silent"]]
    looks = {w["id"]: min(TEND_EVERY, w["ttl"] / 6) + poll for w in alive}
    pending = [
        {
            "worker": w["id"],
            "tasks": w["capacity"]["active_tasks"],
            "seconds": round(max(0.0, w["lease_left"] + margin + 2 * min(looks.values())), 3) if looks else None,
        }
        for w in workers
        if w["silent"]
    ]
    if not alive:
        return {"seconds": None, "why": NOBODY, "pending": pending}
    if len(alive) == 1:
        why = f"nobody would notice the death of {alive[0]['id']}, the only live worker: start another one"
        return {"seconds": None, "why": why, "pending": pending}
    notice = {w["id"]: 2 * min(look for other, look in looks.items() if other != w["id"]) for w in alive}
    slowest = max(alive, key=lambda w: (w["ttl"] + notice[w["id"]], w["id"]))
    noticed = notice[slowest["id"]]
    seconds = round(slowest["ttl"] + margin + noticed, 3)
    parts = f"lease {_s(slowest['ttl'])} + margin {_s(margin)} + up to {_s(noticed)} until another worker looks"
    return {
        "seconds": seconds,
        "why": f"a dead worker's tasks are back in the queue within {_s(seconds)}: {parts}",
        "pending": pending,
    }


def _s(seconds: float) -> str:
    return format_duration(round(seconds, 1)) if seconds >= 60 else f"{round(seconds, 1):g} s"
