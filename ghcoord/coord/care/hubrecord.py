"""The hub's own record: its id and schema, made by ``init`` and checked whenever it is opened."""

from __future__ import annotations

import json
from typing import Any

from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET, HUB_RECORD, LOCKS, META
from ghcoord.errors import Corrupt, NewerSchema, NotFound, UsageError
from ghcoord.ids import new_op_id
from ghcoord.model.codec import stamp, to_json
from ghcoord.store.base import Store
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.takeover import SCHEMA
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx

_README = {
    META: "the hub's id, its schema and its settings",
    FLEET: "workers (`workers/`), tasks (`tasks/`) and the queue's index (`index/`)",
    LOCKS: "locks and their fencing tokens (`locks/`, `paths/`), and figures of their use (`stats/`)",
}


def create(transactor: Transactor) -> dict[str, Any]:
    """Make the hub in an empty repository, or return the one that is there."""
    made_id = new_op_id(transactor.runtime.randbits)

    def run(tx: Tx) -> dict[str, Any] | None:
        raw = tx.read(META, HUB_RECORD) if META in tx.spaces else None
        if raw is not None:
            return {**parse(raw), "created": False}
        for space in tx.spaces:
            tx.write(space, layout.README, _readme(space, _README[space]))
        if META not in tx.spaces:
            return None
        record = {"created_at": stamp(tx.now).isoformat().replace("+00:00", "Z"), "id": made_id, "schema": SCHEMA}
        tx.write(META, HUB_RECORD, to_json(record).encode())
        tx.event(META, "hub created")
        return {**record, "created": True}

    if transactor.store.capabilities.multi_space:
        return transactor.transact((META, FLEET, LOCKS), run) or {}
    # One after the other; it is a hub once the last of them, its record, is there.
    if transactor.view(META)[META].read(HUB_RECORD) is None:
        for space in (FLEET, LOCKS):
            transactor.transact((space,), run)
    return transactor.transact((META,), run) or {}


def _readme(space: str, what: str) -> bytes:
    return (
        f"# ghcoord: {space}\n\n"
        f"This branch is part of a ghcoord hub and holds {what}.\n"
        "Each file is one record. `git log` is the audit trail.\n\n"
        "The other branches of the hub start with `ghcoord/` too: `meta`, `fleet`, `locks`, `memory/…`.\n"
        "A record may be edited and pushed; ghcoord takes it over, or sets it aside in `broken/` and says so\n"
        "(`ghcoord doctor`). Never force-push: writers stop when history goes backwards.\n"
    ).encode()


def open_existing(transactor: Transactor, url: str) -> dict[str, Any]:
    """The hub's record; raises ``NotFound`` where there is no hub, ``NewerSchema`` for a newer one."""
    raw = transactor.view(META)[META].read(HUB_RECORD)
    if raw is None:
        raise NotFound(f"there is no hub at {url}: 'ghcoord init {url}' makes one")
    return parse(raw)


def read(store: Store, file: str) -> dict[str, Any]:
    """The record of a hub that came in ``file``; raises ``UsageError`` where that held none."""
    raw = Snapshot(store, META, store.heads().get(META)).read(HUB_RECORD)
    if raw is None:
        raise UsageError(f"{file} is a bundle, but not of a hub: it has no {META}:{HUB_RECORD}")
    return parse(raw)


def change_id(transactor: Transactor) -> dict[str, Any]:
    """Give the hub a new id, under which it is another one than it was; returns its record."""
    made = new_op_id(transactor.runtime.randbits)

    def run(tx: Tx) -> dict[str, Any]:
        before = parse(tx.read(META, HUB_RECORD) or b"")
        record = {**before, "id": made, "forked_from": before["id"]}
        tx.write(META, HUB_RECORD, to_json(record).encode())
        tx.event(META, "hub forked", before=before["id"], after=made)
        return record

    return transactor.transact((META,), run)


def parse(raw: bytes) -> dict[str, Any]:
    """The hub's record in a file's text; raises ``Corrupt``, or ``NewerSchema`` for one of a newer ghcoord."""
    try:
        record = json.loads(raw)
        schema = int(record["schema"])
        str(record["id"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise Corrupt(f"{META}:{HUB_RECORD} is broken: restore it from the branch's history") from None
    if schema > SCHEMA:
        raise NewerSchema(f"the hub has schema {schema}, this ghcoord knows {SCHEMA}: upgrade ghcoord")
    return {**record, "schema": schema}
