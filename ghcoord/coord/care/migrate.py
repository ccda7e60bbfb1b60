"""From one version of the layout to the next: a table of steps, each of which may be repeated.

A space is migrated in one transaction, before whatever else is done to it, and
again if a process of the older version has written to it since.  The hub's own
record follows when all spaces are done; from then on the older version refuses
the hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ghcoord.coord.care import hubrecord
from ghcoord.coord.layout import FLEET, HUB_RECORD, META, namespace_of
from ghcoord.coord.memory import index as memory_index
from ghcoord.coord.queue.rebuild import rebuild
from ghcoord.errors import Denied
from ghcoord.model.codec import to_json
from ghcoord.store.base import ROOT_RECORD
from ghcoord.store.takeover import SCHEMA
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx

Step = Callable[[Tx, str], None]


def _index_anew(tx: Tx, space: str) -> None:
    """Schema 2 has other indexes of the queue, and one of the keys: both follow from the records."""
    if space == FLEET:
        rebuild(tx)
    elif namespace_of(space) is not None:
        memory_index.rebuild(tx, space)


STEPS: Mapping[int, Step] = {1: _index_anew}
"""Schema → what makes a space of that schema one of the next."""


def migrate_space(tx: Tx, space: str, schema: int) -> None:
    """Bring ``space``, last written under ``schema``, to the present layout."""
    for step in range(max(schema, 1), SCHEMA):
        STEPS[step](tx, space)
    tx.event(space, "space migrated", name=space, before=schema, after=SCHEMA)


def migrate_hub(transactor: Transactor, record: Mapping[str, Any]) -> dict[str, Any]:
    """Bring all spaces to the present layout, and then the hub's record, which is returned.

    May be interrupted and repeated, and run beside others.  Raises ``Denied``
    for who may only read.
    """
    before = int(record["schema"])
    try:
        for space in sorted(transactor.store.heads()):
            if space != META:
                transactor.transact((space,), partial(_ensure, space=space, schema=before), timeout=300.0)
        return transactor.transact((META,), partial(_finish, before=before))
    except Denied as error:
        raise Denied(
            f"the hub has schema {before} and must be migrated to {SCHEMA} first, by somebody who may write: "
            f"{error.message}"
        ) from error


def _ensure(tx: Tx, *, space: str, schema: int) -> None:
    """Migrate a space whose root record does not tell its schema; the others were, on the way here."""
    try:
        known = isinstance(json.loads(tx.read(space, ROOT_RECORD) or b"")["schema"], int)
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        migrate_space(tx, space, schema)


def _finish(tx: Tx, *, before: int) -> dict[str, Any]:
    record = hubrecord.parse(tx.read(META, HUB_RECORD) or b"")
    if record["schema"] < SCHEMA:
        record["schema"] = SCHEMA
        tx.write(META, HUB_RECORD, to_json(record).encode())
        tx.event(META, "hub migrated", before=before, after=SCHEMA)
    return {**record, "migrated_from": before}
