"""A hub in manual time for tests: opened by several actors, and disturbed by people without ghcoord."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pygit2

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.coord import layout
from ghcoord.coord.context import FENCE_TABLE, GATE_TABLE, KEY_TABLE, LOCK_TABLE, TASK_TABLE, WORKER_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import counts, records
from ghcoord.coord.workers.tick import Beat, Finished, Reply
from ghcoord.hub import Hub
from ghcoord.ids import encode_component
from ghcoord.model.codec import stamp
from ghcoord.model.lock import Lock
from ghcoord.model.task import State, Task, TaskResult
from ghcoord.model.worker import Capabilities, SandboxInfo
from ghcoord.store.base import FILE_MODE, Oid, Store
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.local import LocalStore, create_repository
from ghcoord.store.objects import TreeEditor, encode_commit
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx
from ghcoord.testing.clock import ManualRuntime
from ghcoord.testing.faults import FaultyStore

PREFIX = "refs/heads/ghcoord/"
MARGIN = 0.5
"""Seconds of margin of the in-memory store."""

GOOD = TaskResult(success=True, output="fine")
BAD = TaskResult(success=False, error="boom")


class World:
    """One hub under ``runtime``'s clock; in memory, or in the repository at ``folder``."""

    def __init__(self, folder: Path | None = None) -> None:
        self.runtime = ManualRuntime()
        self.folder = folder
        self._memory = MemoryStore(self.runtime.now)
        self._hubs: list[Hub] = []
        if folder is not None:
            create_repository(folder, PREFIX + FLEET)

    def store(self) -> Store:
        """A handle on the hub's store."""
        return self._memory if self.folder is None else LocalStore(self.folder, self.runtime)

    def open(self, actor: str = "me", *, state: Path | None = None, store: Store | None = None, **settings: Any) -> Hub:
        """The hub as another process of ``actor`` would open it; with ``state`` it remembers between runs."""
        hub = open_hub(
            store or self.store(),
            self.runtime,
            Settings(**settings),
            actor=actor,
            state=state or Path("/nonexistent"),
            make=True,
        )
        self._hubs.append(hub)
        return hub

    def open_faulty(self, actor: str = "me") -> tuple[Hub, FaultyStore]:
        """A hub whose store fails on command."""
        faulty = FaultyStore(self.store())
        return self.open(actor, store=faulty), faulty

    def close(self) -> None:
        for hub in self._hubs:
            hub.close()
        assert [] == self.runtime.failures, "a background thread raised"

    # -- looking without ghcoord's upper layers

    def snapshot(self, space: str) -> Snapshot:
        store = self.store()
        return Snapshot(store, space, store.heads().get(space))

    def files(self, space: str) -> dict[str, bytes]:
        snapshot = self.snapshot(space)
        return {path: snapshot.read(path) or b"" for path, _ in snapshot.walk()}

    def widest(self, space: str) -> int:
        """The most entries that one directory of ``space`` has."""
        store = self.store()

        def of(oid: Oid) -> int:
            entries = store.tree(oid)
            return max([len(entries), *(of(entry.oid) for entry in entries.values() if entry.is_tree)])

        root = self.snapshot(space).root
        return of(root) if root is not None else 0

    def check_index(self) -> dict[str, Task]:
        """Index, gates and counts are exactly what the records say; returns the tasks by id."""
        snapshot = self.snapshot(FLEET)
        tasks = {task.id: task for task in TASK_TABLE.scan(snapshot)}
        check_queue(snapshot, tasks)
        return tasks

    # -- people

    def put(self, space: str, changes: Mapping[str, bytes | None], *parents: Oid, message: str = "by hand") -> Oid:
        """Commit ``changes`` as a person would with git: no trailers, no index, no revision."""
        store = self.store()
        head = store.heads().get(space)
        editor = TreeEditor(store.tree)
        tree = editor.apply(store.commit_info(head).tree if head is not None else None, changes)
        made = editor.add(
            "commit", encode_commit(tree, (*([head] if head else []), *parents), "A Person", 1, message + "\n")
        )
        self._keep(editor)
        self.set_head(space, made)
        return made

    def branch(self, base: Oid | None, changes: Mapping[str, bytes | None]) -> Oid:
        """A person's commit on ``base`` that no space is at yet."""
        store = self.store()
        editor = TreeEditor(store.tree)
        tree = editor.apply(store.commit_info(base).tree if base else None, changes)
        made = editor.add("commit", encode_commit(tree, (base,) if base else (), "A Person", 1, "aside\n"))
        self._keep(editor)
        return made

    def symlink(self, space: str, path: str, target: str) -> None:
        """Commit a symbolic link, which no change set can make."""
        self.put(space, {path: target.encode()})
        store = self.store()
        editor = TreeEditor(store.tree)

        def relink(oid: Oid, parts: list[str]) -> Oid:
            from ghcoord.store.objects import encode_tree

            entries = dict(store.tree(oid))
            entry = entries[parts[0]]
            mode, below = ("120000", entry.oid) if len(parts) == 1 else (entry.mode, relink(entry.oid, parts[1:]))
            assert FILE_MODE != mode
            entries[parts[0]] = entry._replace(mode=mode, oid=below)
            return editor.add("tree", encode_tree(entries))

        head = store.heads()[space]
        tree = relink(store.commit_info(head).tree, path.split("/"))
        made = editor.add("commit", encode_commit(tree, (head,), "A Person", 1, "link\n"))
        self._keep(editor)
        self.set_head(space, made)

    def _keep(self, editor: TreeEditor) -> None:
        if self.folder is None:
            self._memory._objects.update(editor.objects)
            return
        repository = pygit2.Repository(str(self.folder))
        kinds = {
            "commit": pygit2.enums.ObjectType.COMMIT,
            "tree": pygit2.enums.ObjectType.TREE,
            "blob": pygit2.enums.ObjectType.BLOB,
        }
        for kind, data in editor.objects.values():
            repository.odb.write(kinds[kind], data)

    def set_head(self, space: str, head: Oid | None) -> None:
        """Point a space's branch somewhere, or delete it, as ``git push --force`` does."""
        if self.folder is None:
            if head is None:
                self._memory._heads.pop(space, None)
            else:
                self._memory._heads[space] = head
            return
        repository = pygit2.Repository(str(self.folder))
        if head is None:
            repository.references.delete(PREFIX + space)
        else:
            repository.references.create(PREFIX + space, pygit2.Oid(hex=head), force=True)

    def forget(self, oid: Oid) -> None:
        """Take an object away, as a squash and ``git gc`` do; in memory only."""
        del self._memory._objects[oid]


def check_queue(snapshot: Snapshot, tasks: Mapping[str, Task]) -> None:
    """What follows from ``tasks``, the records of ``snapshot``, is there, and nothing else."""
    found = {path for folder in layout.QUEUE_INDEX for path, _ in snapshot.walk(folder)}
    expected = {path for task in tasks.values() for path in layout.index_paths(task)}
    gates = {gate.key: gate for gate in GATE_TABLE.scan(snapshot)}
    lines: dict[str, dict[str, list[str]]] = {}
    running: Counter[str] = Counter()
    for task in tasks.values():
        if task.limit is not None and task.state is State.QUEUED:
            line = layout.line_path(task)
            lines.setdefault(task.limit.key, {}).setdefault(line.rsplit("/", 4)[0], []).append(line)
        running[task.limit.key if task.limit is not None else ""] += task.state is State.LEASED
    assert set(lines) | {key for key in running if key and running[key]} <= set(gates)
    for key, gate in gates.items():
        assert running[key] == gate.running, key
        assert gate.running or gate.starts or key in lines, f"the gate {key} is of no use"
        heads = {min(line) for line in lines.get(key, {}).values()} if not gate.full and not gate.reopens_at else set()
        assert heads == {f"index/{path}" for path in gate.exposed}, key
        expected |= heads
        for folder, at in ((layout.REOPENING, gate.reopens_at), (layout.FORGETTING, gate.forget_at)):
            if at is not None:
                expected.add(layout.due_path(folder, at.timestamp(), encode_component(key)))
        assert gate.reopens_at is None or (key in lines and gate.rate is not None and not gate.full)
        assert gate.forget_at is not None or not gate.starts or key in lines
    assert expected == found
    states = Counter(task.state for task in tasks.values())
    classes = Counter(layout.class_of(task.need) for task in tasks.values() if not task.ended)
    recorded = counts.parse(snapshot.read(layout.QUEUE_RECORD))
    assert states == {state: count for state, count in recorded.states.items() if count}
    assert classes == {name: count for name, count in recorded.classes.items() if count}
    assert all(task.sequence < recorded.sequence for task in tasks.values())


def edited(record: bytes, **changes: Any) -> bytes:
    """A record as a person would change it."""
    return json.dumps({**json.loads(record), **changes}, indent=2).encode()


def where(kind: str, name: str) -> str:
    """The path of a record."""
    tables = {"task": TASK_TABLE, "worker": WORKER_TABLE, "lock": LOCK_TABLE, "key": KEY_TABLE, "fence": FENCE_TABLE}
    return tables[kind].path(name)


class Daemon:
    """A worker that ticks when told to."""

    def __init__(
        self,
        hub: Hub,
        worker_id: str = "w1",
        *,
        slots: int = 10,
        tools: tuple[str, ...] = ("echo",),
        capabilities: Capabilities | None = None,
        tier: str = "full",
        max_sessions: int = 5,
    ) -> None:
        self.hub, self.worker_id, self.tools = hub, worker_id, tools
        self.token = hub.workers.register(
            worker_id,
            capacity=slots,
            ttl=15.0,
            capabilities=capabilities,
            sandbox=SandboxInfo(driver="bwrap", tier=tier),
            max_sessions=max_sessions,
        ).token

    def beat(self, want: int = 0, **more: Any) -> Reply:
        return self.hub.beat(Beat(self.worker_id, self.token, tools=self.tools, want=want, **more))

    def lease(self, want: int = 1) -> list[Task]:
        return self.beat(want).leased

    def report(self, task: Task, result: TaskResult = GOOD, **more: Any) -> Reply:
        """Report the end of ``task`` under the lease it was given with."""
        assert task.lease is not None
        return self.beat(finished=(Finished(task.id, task.lease.token, result),), **more)


def enqueue(hub: Hub, *task_ids: str, tool: str = "echo", **fields: Any) -> list[Task]:
    """New tasks put straight into the queue, with whatever fields a record has."""

    def run(tx: Tx) -> list[Task]:
        places = records.next_sequences(tx, len(task_ids))
        made = [
            Task(**{"id": task_id, "tool": tool, "created_at": stamp(tx.now), "sequence": place, **fields})
            for task_id, place in zip(task_ids, places, strict=True)
        ]
        return records.add(tx, made)

    return hub._context.transact((FLEET,), run)


def token_of(task: Task) -> int:
    assert task.lease is not None
    return task.lease.token


def ids(tasks: list[Any]) -> list[str]:
    return [task.id for task in tasks]


def kinds(hub: Hub) -> list[str]:
    """What happened, newest first."""
    return [event.kind for event in hub.events(100)]


def status(hub: Hub, worker_id: str = "w1") -> str:
    worker = hub.workers.get(worker_id)
    return str(worker.status) if worker is not None else "gone"


def taken(lock: Lock | None) -> Lock:
    """The lock that the test counts on having got."""
    assert lock is not None
    return lock
