"""Typed records in a space: what turns files into objects, for transactions and for plain reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic

from ghcoord.errors import Corrupt, InvalidName, NewerSchema
from ghcoord.model.codec import AnyRecord, decode, encode
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx


class Table(Generic[AnyRecord]):
    """Records of one kind: ``folder`` is where they lie, ``path`` tells where one does.

    ``name`` is the field that names a record.  One that does not lie where its
    name belongs is broken: nothing that acts on a name may be led elsewhere.
    """

    def __init__(self, kind: type[AnyRecord], folder: str, path: Callable[[str], str], name: str) -> None:
        self.kind = kind
        self.folder = folder
        self.path = path
        self._name = name

    def decode(self, data: bytes, space: str, path: str) -> AnyRecord:
        """The record in the file at ``path``; raises ``Corrupt`` or ``NewerSchema``."""
        record = decode(self.kind, data, f"{space}:{path}")
        name = str(getattr(record, self._name))
        try:
            right = self.path(name)
        except InvalidName as error:
            raise Corrupt(f"{space}:{path}: {error}") from None
        if right != path:
            raise Corrupt(f"{space}:{path} names itself {name[:80]!r}, whose place is {right}")
        return record

    def get(self, tx: Tx, space: str, name: str) -> AnyRecord | None:
        """The record called ``name``; raises ``Corrupt`` when a person broke it."""
        path = self.path(name)
        data = tx.read(space, path)
        return None if data is None else self.decode(data, space, path)

    def put(self, tx: Tx, space: str, name: str, record: AnyRecord) -> None:
        tx.write(space, self.path(name), encode(record))

    def remove(self, tx: Tx, space: str, name: str) -> None:
        tx.delete(space, self.path(name))

    def all(self, tx: Tx, space: str) -> Iterator[AnyRecord]:
        """Every readable record, as the transaction sees it."""
        for path in list(tx.walk(space, self.folder)):
            data = tx.read(space, path)
            try:
                if data is not None:
                    yield self.decode(data, space, path)
            except (Corrupt, NewerSchema):
                continue

    def find(self, snapshot: Snapshot, name: str) -> AnyRecord | None:
        """The record called ``name`` in a snapshot; raises ``Corrupt`` when a person broke it."""
        return self.find_at(snapshot, self.path(name))

    def find_at(self, snapshot: Snapshot, path: str) -> AnyRecord | None:
        """The record at ``path``."""
        data = snapshot.read(path)
        return None if data is None else self.decode(data, snapshot.space, path)

    def scan(self, snapshot: Snapshot) -> Iterator[AnyRecord]:
        """Every readable record of a snapshot; ``doctor`` reports the others."""
        for path, _ in snapshot.walk(self.folder):
            try:
                record = self.find_at(snapshot, path)
            except (Corrupt, NewerSchema):
                continue
            if record is not None:
                yield record
