"""What a scaler sees of the hub inside of a transaction: the tasks that wait for a run, and its runs' workers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from ghcoord.coord import layout
from ghcoord.coord.context import WORKER_TABLE
from ghcoord.coord.layout import FLEET, READY
from ghcoord.coord.queue import gates
from ghcoord.coord.scaling.decision import Seat, Seen
from ghcoord.model.lease import Judge
from ghcoord.model.placement import takes_tasks
from ghcoord.model.requirements import SANDBOXED, Offer
from ghcoord.model.tier import Tier
from ghcoord.model.worker import Worker, worker_key
from ghcoord.store.tx import Tx

ENOUGH = 2**40
"""More cores and MiB than a task asks for: which runner a workflow takes is not known here."""


def offer_of(labels: Mapping[str, str]) -> Offer:
    """What the worker of a run offers, as far as a scaler knows: labels are what tells runs apart."""
    return Offer((), SANDBOXED, ENOUGH, ENOUGH, labels, Tier.FULL)


def see(tx: Tx, runs: frozenset[str], offer: Offer, judge: Judge, most: int) -> Seen:
    """What there is for the workers called ``runs``. No more than ``most`` tasks that wait are counted."""
    seats: dict[str, Seat] = {}
    gone: set[str] = set()
    others: list[Worker] = []
    for worker in WORKER_TABLE.all(tx, FLEET):
        alive = worker.alive and not judge(worker_key(worker.id), worker.lease, tx.now)
        if worker.id in runs and alive:
            seats[worker.id] = _seat(worker)
        elif worker.id in runs:
            gone.add(worker.id)
        elif alive and takes_tasks(worker):
            others.append(worker)
    return Seen(min(most, _waiting(tx, offer, others, most) + _sessions(tx)), seats, frozenset(gone))


def _seat(worker: Worker) -> Seat:
    busy = worker.capacity.active_tasks
    sessions = max(worker.active_sessions, len(worker.session_ids))
    return Seat(busy, sessions, takes_tasks(worker), bool(busy or sessions or worker.recent_types))


def _waiting(tx: Tx, offer: Offer, others: list[Worker], most: int) -> int:
    """Queued tasks that a run could take and that no other worker has a free slot for."""
    slots = {worker.id: worker.capacity.available_slots for worker in others}
    found = 0
    for line in tx.names(FLEET, READY):
        need = layout.parse_need(line)
        if need is not None and not need.fits(offer):
            continue
        wanted = sum(slots.values()) + most - found
        count = sum(1 for _ in islice(gates.leaves(tx, f"{READY}/{line}"), wanted))
        for worker in others:
            if need is not None and need.met_by(worker.offer):
                taken = min(count, slots[worker.id])
                slots[worker.id] -= taken
                count -= taken
        found += count
        if found >= most:
            break
    return found


def _sessions(tx: Tx) -> int:
    """Sessions that have calls to be run and no worker."""
    return len(set(tx.names(FLEET, layout.UNPLACED)) & set(tx.names(FLEET, layout.IN_SESSIONS)))
