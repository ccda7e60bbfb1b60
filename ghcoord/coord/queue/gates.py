"""Gates: tasks of a key whose limit is reached wait in the key's own line, where they cost nobody anything.

Each queued task with a limit lies in the line of its key.  Workers see, for
each line of equal needs, at most its first task, and only while the gate is
open: while fewer of its tasks run, and fewer have started within the period,
than its limits say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from ghcoord.coord import layout
from ghcoord.coord.context import GATE_TABLE
from ghcoord.coord.layout import FLEET, FORGETTING, INDEX, REOPENING
from ghcoord.coord.queue import timers
from ghcoord.errors import Corrupt, InvalidName, NewerSchema
from ghcoord.ids import encode_component
from ghcoord.model import gate as model
from ghcoord.model.codec import stamp
from ghcoord.model.gate import Gate
from ghcoord.model.task import State, Task
from ghcoord.store.tx import Tx

MAX_EXPOSED = 1500
"""Lines of a key that show their first task at a time: the gate's record must hold their places.

There are fewer lines for all workers, which come first; those for single workers and sessions come after them.
"""


def get(tx: Tx, key: str) -> Gate | None:
    """The gate of ``key``; ``None`` when nothing of it waits, runs or has lately started."""
    try:
        return GATE_TABLE.get(tx, FLEET, key)
    except (Corrupt, NewerSchema, InvalidName):
        return None


def room(tx: Tx, key: str) -> int:
    """How many more tasks of ``key`` may start now."""
    gate = get(tx, key)
    return model.UNLIMITED if gate is None else gate.room(tx.now)


# -- what follows from changed tasks


def follow(tx: Tx, pairs: Iterable[tuple[Task | None, Task | None]]) -> None:
    """Count what started and stopped when each old task became the new one, and settle the gates concerned."""
    changes: dict[str, list[tuple[Task | None, Task | None]]] = {}
    for old, new in pairs:
        for key in {task.limit.key for task in (old, new) if task is not None and task.limit is not None}:
            before, after = _of_key(old, key), _of_key(new, key)
            if _standing(before) != _standing(after):
                changes.setdefault(key, []).append((before, after))
    for key, changed in sorted(changes.items()):
        known = get(tx, key)
        gate = known or Gate(key=key)
        started = stopped = 0
        for old, new in changed:
            started += _runs(new) and not _runs(old)
            stopped += _runs(old) and not _runs(new)
            submitted = known is None or old is None or new is None or old.limit != new.limit
            if submitted and new is not None and new.limit is not None:
                gate = model.limited(gate, new.limit)
        settle(tx, model.moved(gate, stopped=stopped, started=started, now=tx.now))


def _of_key(task: Task | None, key: str) -> Task | None:
    return task if task is not None and task.limit is not None and task.limit.key == key else None


def _runs(task: Task | None) -> bool:
    return task is not None and task.state is State.LEASED


def _standing(task: Task | None) -> object:
    """All about a task that matters to its gate."""
    if task is None:
        return None
    return _runs(task), layout.line_path(task) if task.state is State.QUEUED else None, task.limit


def settle(tx: Tx, gate: Gate) -> Gate | None:
    """Show workers what they may take of ``gate``, see to its timers, and write its record, or remove it.

    Returns what was written.
    """
    gate = model.pruned(gate, tx.now)
    is_open = gate.room(tx.now) > 0
    waiting = False
    exposed: list[str] = []
    for head in _heads(tx, gate.key):
        waiting = True
        if not is_open or len(exposed) >= MAX_EXPOSED:
            break
        exposed.append(head)
    for path in set(gate.exposed) - set(exposed):
        tx.delete(FLEET, f"{INDEX}/{path}")
    for path in set(exposed) - set(gate.exposed):
        tx.write(FLEET, f"{INDEX}/{path}", layout.MARKER)
    reopens = gate.next_room(tx.now) if waiting and not is_open and not gate.full else None
    forget = None if waiting or not gate.starts else gate.ends_at()
    if gate.forget_at is not None and (gate.starts or waiting or gate.running):
        forget = gate.forget_at.timestamp()  # looks again then, which costs less than to move it with each start
    _time(tx, REOPENING, gate, gate.reopens_at.timestamp() if gate.reopens_at is not None else None, reopens)
    _time(tx, FORGETTING, gate, gate.forget_at.timestamp() if gate.forget_at is not None else None, forget)
    if not (waiting or gate.running or gate.starts):
        GATE_TABLE.remove(tx, FLEET, gate.key)
        return None
    settled = {
        "exposed": tuple(sorted(exposed)),
        "reopens_at": None if reopens is None else stamp(reopens),
        "forget_at": None if forget is None else stamp(forget),
    }
    written = gate.model_copy(update=settled)
    GATE_TABLE.put(tx, FLEET, gate.key, written)
    return written


def _time(tx: Tx, folder: str, gate: Gate, before: float | None, after: float | None) -> None:
    if before != after:
        name = encode_component(gate.key)
        if before is not None:
            timers.remove(tx, folder, before, name)
        if after is not None:
            timers.add(tx, folder, after, name)


def _heads(tx: Tx, key: str) -> Iterator[str]:
    """Where workers would look for the first task of each of the key's lines, below ``index/``."""
    top = layout.gated_top(key)
    for line in _lines(tx, top):
        first = next(leaves(tx, f"{top}/{line}"), None)
        if first is not None:
            yield f"{line}/{first}"


def _lines(tx: Tx, top: str) -> Iterator[str]:
    ready = layout.READY.removeprefix(INDEX + "/")
    yield from (f"{ready}/{name}" for name in tx.names(FLEET, f"{top}/{ready}"))
    for folder in (layout.ASSIGNED, layout.IN_SESSIONS):
        owned = folder.removeprefix(INDEX + "/")
        for owner in tx.names(FLEET, f"{top}/{owned}"):
            yield from (f"{owned}/{owner}/{name}" for name in tx.names(FLEET, f"{top}/{owned}/{owner}"))


def leaves(tx: Tx, top: str) -> Iterator[str]:
    """What lies in a line of the index, in the order of priority and place, read lazily."""
    for priority in tx.names(FLEET, top):
        for high in tx.names(FLEET, f"{top}/{priority}"):
            for middle in tx.names(FLEET, f"{top}/{priority}/{high}"):
                block = f"{priority}/{high}/{middle}"
                yield from (f"{block}/{name}" for name in tx.names(FLEET, f"{top}/{block}"))


# -- what follows from time


def reopen_due(tx: Tx, limit: int) -> None:
    """Settle the first ``limit`` gates whose window has moved on."""
    for at, name in timers.due(tx, REOPENING, limit):
        gate = _timed(tx, name)
        if gate is None or gate.reopens_at != stamp(at):
            timers.remove(tx, REOPENING, at, name)
        else:
            settle(tx, gate)


def forget_due(tx: Tx, limit: int) -> None:
    """Look at the first ``limit`` gates that may no longer be needed."""
    for at, name in timers.due(tx, FORGETTING, limit):
        timers.remove(tx, FORGETTING, at, name)
        gate = _timed(tx, name)
        if gate is not None and gate.forget_at == stamp(at):
            settle(tx, gate.model_copy(update={"forget_at": None}))


def _timed(tx: Tx, component: str) -> Gate | None:
    path = layout.gate_at(component)
    data = tx.read(FLEET, path)
    try:
        return None if data is None else GATE_TABLE.decode(data, FLEET, path)
    except (Corrupt, NewerSchema):
        return None


# -- anew


def rebuild(tx: Tx, derived: Mapping[str, Gate], strays: set[str]) -> None:
    """Make all gates anew, where the lines of the keys are right already.

    ``derived`` is what follows from the tasks; of a readable record the limits
    and the starts count, which tasks that were removed since have left there.
    ``strays`` are files of the index that belong to no task: those that belong
    to no gate either are deleted.
    """
    known: dict[str, Gate] = {}
    for path in list(tx.walk(FLEET, layout.GATES)):
        try:
            gate = GATE_TABLE.decode(tx.read(FLEET, path) or b"", FLEET, path)
            known[gate.key] = gate
        except (Corrupt, NewerSchema):
            tx.delete(FLEET, path)
    for key in sorted({*known, *derived}):
        fresh = derived.get(key) or Gate(key=key)
        gate = known.get(key, fresh)
        update = {
            "running": fresh.running,
            "exposed": tuple(path for path in gate.exposed if f"{INDEX}/{path}" in strays),
            "reopens_at": gate.reopens_at if _timer(REOPENING, gate, gate.reopens_at) in strays else None,
            "forget_at": gate.forget_at if _timer(FORGETTING, gate, gate.forget_at) in strays else None,
        }
        settled = settle(tx, gate.model_copy(update=update))
        if settled is not None:
            strays -= {f"{INDEX}/{path}" for path in settled.exposed}
            strays -= {_timer(REOPENING, settled, settled.reopens_at), _timer(FORGETTING, settled, settled.forget_at)}
    for path in strays:
        tx.delete(FLEET, path)


def _timer(folder: str, gate: Gate, at: datetime | None) -> str:
    """The file of a gate's timer; empty where it has none."""
    return "" if at is None else layout.due_path(folder, at.timestamp(), encode_component(gate.key))
