"""What happens to a space before its next transaction: people's commits are adopted, an older layout is migrated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ghcoord.errors import NewerSchema
from ghcoord.store.heads import recorded_schema, stamp_of, stamped_base
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

SCHEMA = 2
"""Version of the layout this code writes."""

Adopter = Callable[[Tx, str, Snapshot, Snapshot], None]
"""Called with (tx, space, last state ghcoord wrote, present state) when people committed in between."""

Migrator = Callable[[Tx, str, int], None]
"""Called with (tx, space, schema) for a space that an older version wrote last."""


def take_over(snapshot: Snapshot, adopt: Adopter | None, migrate: Migrator | None) -> Iterator[Callable[[Tx], None]]:
    """Transactions to run on ``snapshot`` before all others; raises ``NewerSchema`` where none may run."""
    if snapshot.head is None:
        return
    store, space = snapshot.store, snapshot.space
    schema = recorded_schema(snapshot)
    if schema is not None and schema > SCHEMA:
        raise NewerSchema(
            f"the space {space!r} has schema {schema} by now, this ghcoord knows {SCHEMA}: upgrade ghcoord"
        )
    if adopt is not None and stamp_of(store, store.commit_info(snapshot.head)) is None:
        base = Snapshot(store, space, stamped_base(store, snapshot.head)[0])
        yield partial(_adopted, adopt, base, snapshot)
    if migrate is not None and schema is not None and schema < SCHEMA:
        yield partial(_migrated, migrate, space, schema)


def _adopted(adopt: Adopter, base: Snapshot, present: Snapshot, tx: Tx) -> None:
    adopt(tx, present.space, base, present)


def _migrated(migrate: Migrator, space: str, schema: int, tx: Tx) -> None:
    migrate(tx, space, schema)
