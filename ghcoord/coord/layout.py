"""Where everything lies: all path patterns of all spaces, and nothing else.

Records lie two levels deep in directories of even size.  The queue's index
holds one empty file a task, named so that sorting the names sorts the queue.
"""

from __future__ import annotations

from datetime import datetime

from ghcoord.errors import InvalidName
from ghcoord.ids import check_id, check_name, decode_component, encode_component, fan_out
from ghcoord.model.task import State, Task

FLEET = "fleet"
LOCKS = "locks"
META = "meta"
MEMORY_PREFIX = "memory/"
DEFAULT_NAMESPACE = "global"
MAX_NAMESPACE = 60
"""Longest namespace in characters; one whose ref component would not be reversible is too long as well."""

HUB_RECORD = "hub.json"
README = "README.md"
QUEUE_RECORD = "queue.json"
BROKEN = "broken"
TASKS = "tasks"
WORKERS = "workers"
LOCK_RECORDS = "locks"
KEYS = "keys"
FENCES = "fences"
INDEX = "index"
READY = "index/ready"
LEASED = "index/leased"
BACKING_OFF = "index/backing-off"
ENDED = "index/ended"

MARKER = b"{}\n"
"""Content of index files: the same for all, so that it is stored once."""

RECORD_FOLDERS = {FLEET: (TASKS, WORKERS), LOCKS: (LOCK_RECORDS,), META: ()}
"""Folders of records by space; a memory space has ``keys`` and ``fences``."""


def memory_space(namespace: str) -> str:
    """The space of a namespace. Raises ``InvalidName`` for what cannot be one ref component."""
    name = check_name(namespace, "namespace")
    component = encode_component(name)
    if len(name) > MAX_NAMESPACE or decode_component(component) != name:
        raise InvalidName(f"the namespace is too long: at most {MAX_NAMESPACE} plain characters are accepted")
    return MEMORY_PREFIX + component


def namespace_of(space: str) -> str | None:
    """The namespace behind a memory space's name; ``None`` for other spaces."""
    if not space.startswith(MEMORY_PREFIX):
        return None
    return decode_component(space.removeprefix(MEMORY_PREFIX))


def _record(folder: str, name: str) -> str:
    first, second = fan_out(name)
    return f"{folder}/{first}/{second}/{encode_component(name)}.json"


def task_path(task_id: str) -> str:
    return _record(TASKS, check_id(task_id, "task id"))


def worker_path(worker_id: str) -> str:
    return _record(WORKERS, check_id(worker_id, "worker id"))


def lock_path(name: str) -> str:
    return _record(LOCK_RECORDS, check_name(name, "lock name"))


def key_path(key: str) -> str:
    return _record(KEYS, check_name(key, "key"))


def fence_path(lock: str) -> str:
    return _record(FENCES, check_name(lock, "lock name"))


def ready_class(tool: str) -> str:
    """The requirements class of tasks for ``tool``: workers read only the classes they serve."""
    return encode_component(tool)


def _sequenced(folder: str, sequence: int, task_id: str) -> str:
    """``folder/aaaaaa/bb/cc-id``, sorted by sequence: 256 names a level keep what a transaction rewrites small."""
    return f"{folder}/{sequence >> 16:06x}/{sequence >> 8 & 255:02x}/{sequence & 255:02x}-{task_id}"


def index_path(task: Task) -> str:
    """The index file of ``task`` in its present state."""
    if task.state is State.QUEUED:
        return _sequenced(f"{READY}/{ready_class(task.tool)}/{9 - task.priority}", task.sequence, task.id)
    if task.state is State.LEASED and task.lease is not None:
        first, _ = fan_out(task.id)
        return f"{LEASED}/{encode_component(task.lease.worker)}/{first}/{task.id}"
    if task.state is State.FAILED and task.due_at is not None:
        return due_path(task.due_at, task.id)
    return _sequenced(f"{ENDED}/{task.state}", task.sequence, task.id)


def due_path(due_at: datetime, task_id: str) -> str:
    """``folder/aaaaaaa/bbb/ff/ccc-id``: 2²⁰ ms, 2¹⁰ ms, a fan-out for those that failed together, and the rest."""
    ms = int(due_at.timestamp() * 1000)
    first, _ = fan_out(task_id)
    return f"{BACKING_OFF}/{ms >> 20:07x}/{ms >> 10 & 1023:03x}/{first}/{ms & 1023:03x}-{task_id}"


def due_at(block: str, part: str = "0", name: str = "0") -> float | None:
    """The second at which a back-off index entry, or a folder of them, begins; ``None`` for names that are not ours."""
    try:
        return ((int(block, 16) << 20) + (int(part, 16) << 10) + int(name.partition("-")[0], 16)) / 1000
    except ValueError:
        return None
