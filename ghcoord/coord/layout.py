"""Where everything lies: all path patterns of all spaces, and nothing else.

Records lie two levels deep in directories of even size.  The queue's index
holds one empty file a task, named so that sorting the names sorts the queue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

from ghcoord.coord.lines import class_of as class_of
from ghcoord.coord.lines import parse_need as parse_need
from ghcoord.coord.moments import due_at as due_at
from ghcoord.coord.moments import due_path as due_path
from ghcoord.coord.moments import expiry_second as expiry_second
from ghcoord.coord.moments import numbered as numbered
from ghcoord.coord.moments import spread
from ghcoord.errors import InvalidName
from ghcoord.ids import check_id, check_name, decode_component, encode_component, fan_out
from ghcoord.model.codec import ms_of
from ghcoord.model.task import TIMED, State, Task

FLEET = "fleet"
LOCKS = "locks"
META = "meta"
AUDIT = "audit"
FILES = "files"
MEMORY_PREFIX = "memory/"
DEFAULT_NAMESPACE = "global"
MAX_NAMESPACE = 60
"""Longest namespace in characters; one whose ref component would not be reversible is too long as well."""

HUB_RECORD = "hub.json"
SETTINGS_RECORD = "settings.json"
README = "README.md"
QUEUE_RECORD = "queue.json"
BALANCE_RECORD = "balance.json"
BROKEN = "broken"
TASKS = "tasks"
WORKERS = "workers"
SESSIONS = "sessions"
CALLED = "called"
LOCK_RECORDS = "locks"
LOCK_STATS = "stats"
PATH_CLAIMS = "paths"
KEYS = "keys"
FENCES = "fences"
INDEX = "index"
READY = "index/ready"
ASSIGNED = "index/assigned"
IN_SESSIONS = "index/sessions"
UNPLACED = "index/unplaced"
GATED = "index/gated"
LEASED = "index/leased"
BLOCKED = "index/blocked"
ENDED = "index/ended"
CALLS = "calls"
DUE = "index/due"
SCHEDULED = "index/due/scheduled"
BACKING_OFF = "index/due/backing-off"
PREFERRED = "index/due/preferred"
REOPENING = "index/due/gates"
FORGETTING = "index/due/windows"
FIRING = "index/due/schedules"
DEPENDENTS = "index/dependents"
RELEASING = "index/releasing"
UNIQUE = "index/unique"
SCHEDULES = "schedules"
SCALERS = "autoscale"
GATES = "gates"
QUEUE_INDEX = (
    *(READY, ASSIGNED, IN_SESSIONS, GATED, LEASED, BLOCKED, ENDED),
    *(SCHEDULED, BACKING_OFF, PREFERRED, REOPENING, FORGETTING),
)
"""The folders that follow from the tasks' records and from the gates."""

BEHIND_GATES = "+gated"
"""Folder of ``index/assigned/WORKER`` with its tasks that wait in the line of a key; no class is called so."""
OPEN_CALLS = "+open"
"""Folder of ``index/sessions/SESSION`` with all its calls that have not ended; no class is called so."""

EXPIRY = "expiry"
NAMESPACE_RECORD = "namespace.json"

ARTIFACTS = "artifacts"
STORED = "stored"
"""Folder of ``files`` with the contents of the artifacts that the hub holds."""
ARTIFACT_REFS = "index/contents"
ARTIFACTS_OF_TASK = "index/tasks"
ARTIFACTS_OF_SESSION = "index/sessions"
ARTIFACTS_DUE = "index/due"
ARTIFACT_INDEX = (ARTIFACT_REFS, ARTIFACTS_OF_TASK, ARTIFACTS_OF_SESSION, ARTIFACTS_DUE)
"""The folders of ``files`` that follow from the artifacts' records."""
CHECKPOINTS = "checkpoints"
MANIFESTS = "manifests"
DATA = "data"
UPLOADS = "uploads"
WHOLE = "whole.json"

_BATCHED = re.compile(r"b([0-9a-f]{12})-(0|[1-9][0-9]{0,7})", re.ASCII)

MARKER = b"{}\n"
"""Content of index files: the same for all, so that it is stored once."""

RECORD_FOLDERS = {
    FLEET: (TASKS, WORKERS, SESSIONS, SCHEDULES, SCALERS),
    LOCKS: (LOCK_RECORDS, PATH_CLAIMS, LOCK_STATS),
    META: (),
}
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


@lru_cache(4096)
def task_path(task_id: str) -> str:
    """Numbered tasks lie in blocks of 256, so that a batch changes few directories; others are spread."""
    number = numbered(task_id)
    if number is not None:
        return f"{TASKS}/t/{number >> 16:06x}/{number >> 8 & 255:02x}/{task_id}.json"
    batched = _BATCHED.fullmatch(task_id)
    if batched is not None:
        batch, place = batched[1], int(batched[2])
        return f"{TASKS}/b/{batch[:2]}/{batch[2:4]}/{batch}/{place >> 16:03x}/{place >> 8 & 255:02x}/{task_id}.json"
    return former_task_path(task_id)


def former_task_path(task_id: str) -> str:
    """Where schema 1 had the record of a task, whatever its id."""
    return _record(TASKS, check_id(task_id, "task id"))


def worker_path(worker_id: str) -> str:
    return _record(WORKERS, check_id(worker_id, "worker id"))


def session_path(session_id: str) -> str:
    return _record(SESSIONS, check_id(session_id, "session id"))


def called_top(session_id: str) -> str:
    """Where the keys lie that calls of a session were made with."""
    return f"{CALLED}/{fan_out(session_id)[0]}/{encode_component(session_id)}"


def called_path(session_id: str, digest: str) -> str:
    """That a call with the key of ``digest`` was made in a session."""
    return f"{called_top(session_id)}/{digest[:2]}/{digest}"


def unplaced_path(session_id: str) -> str:
    """That no worker has a session which one could take."""
    return f"{UNPLACED}/{encode_component(session_id)}"


def lock_path(name: str) -> str:
    return _record(LOCK_RECORDS, check_name(name, "lock name"))


def lock_stats_path(name: str) -> str:
    return _record(LOCK_STATS, check_name(name, "lock name"))


def path_claim_path(token: str) -> str:
    return _record(PATH_CLAIMS, check_id(token, "token"))


def key_path(key: str) -> str:
    return _record(KEYS, check_name(key, "key"))


def key_of(path: str) -> str | None:
    """The key whose record lies at ``path``; ``None`` where only the record knows it."""
    return decode_component(path.rpartition("/")[2].removesuffix(".json"))


def fence_path(lock: str) -> str:
    return _record(FENCES, check_name(lock, "lock name"))


def schedule_path(name: str) -> str:
    return _record(SCHEDULES, check_id(name, "schedule name"))


def scaler_path(name: str) -> str:
    return f"{SCALERS}/{encode_component(check_id(name, 'scaler name'))}.json"


def unique_path(digest: str) -> str:
    """Which tasks have the unique key of ``digest``."""
    return f"{UNIQUE}/{digest[:2]}/{digest[2:4]}/{digest}.json"


def dependents_top(task_id: str, success: bool) -> str:
    """Where the tasks lie that wait for ``task_id``: for its success, or for its end however it comes."""
    number = numbered(task_id)
    block = "/".join(fan_out(task_id)) if number is None else f"t/{number >> 16:06x}/{number >> 8 & 255:02x}"
    return f"{DEPENDENTS}/{block}/{task_id}/{'success' if success else 'end'}"


def dependent_path(task_id: str, dependent: str, success: bool) -> str:
    """That ``dependent`` waits for ``task_id``."""
    return f"{dependents_top(task_id, success)}/{spread(dependent)}/{dependent}"


def releasing_path(task_id: str) -> str:
    """That ``task_id`` has ended and those who wait for it are still to be told."""
    return f"{RELEASING}/{spread(task_id)}/{task_id}"


def gate_path(key: str) -> str:
    """The record of the gate of a concurrency or rate key."""
    return gate_at(encode_component(key))


def gate_at(component: str) -> str:
    """As :func:`gate_path`, from the key's encoded name."""
    return f"{GATES}/{fan_out(component)[0]}/{component}.json"


def gated_top(key: str) -> str:
    """Where the tasks of a key wait in line."""
    component = encode_component(key)
    return f"{GATED}/{fan_out(component)[0]}/{component}"


def _sequenced(folder: str, sequence: int, task_id: str) -> str:
    """``folder/aaaaaa/bb/cc-id``, sorted by sequence: 256 names a level keep what a transaction rewrites small."""
    return f"{folder}/{sequence >> 16:06x}/{sequence >> 8 & 255:02x}/{sequence & 255:02x}-{task_id}"


def assigned_top(worker_id: str) -> str:
    """Where queued tasks that are meant for one worker lie."""
    return f"{ASSIGNED}/{encode_component(worker_id)}"


def session_top(session_id: str) -> str:
    """Where the calls of one session lie."""
    return f"{IN_SESSIONS}/{encode_component(session_id)}"


def leased_top(worker_id: str) -> str:
    """Where the tasks lie that one worker holds."""
    return f"{LEASED}/{encode_component(worker_id)}"


def line_path(task: Task) -> str:
    """Where workers look for the queued ``task``; one behind a gate is there only as the head of its line."""
    if task.session is not None:
        top = session_top(task.session)
    else:
        top = READY if task.assigned is None else assigned_top(task.assigned.worker)
    return _sequenced(f"{top}/{class_of(task.need)}/{9 - task.priority}", task.sequence, task.id)


def waiting_path(key: str, line: str) -> str:
    """Where a task whose ``line_path`` is ``line`` waits behind the gate of ``key``."""
    return f"{gated_top(key)}/{line.removeprefix(INDEX + '/')}"


def index_paths(task: Task) -> tuple[str, ...]:
    """The index files of ``task`` in its present state."""
    paths = _state_paths(task)
    if task.session is None or task.ended:
        return paths
    return (*paths, _sequenced(f"{session_top(task.session)}/{OPEN_CALLS}", task.sequence, task.id))


def _state_paths(task: Task) -> tuple[str, ...]:
    if task.state is State.QUEUED:
        return tuple(_queued_paths(task))
    if task.state is State.LEASED and task.lease is not None:
        block = f"{task.sequence >> 8 & 255:02x}"
        return (f"{leased_top(task.lease.worker)}/{block}/{task.sequence:010x}-{task.id}",)
    if task.state is State.BLOCKED:
        return (_sequenced(BLOCKED, task.sequence, task.id),)
    if task.state in TIMED and task.due_at is not None:
        folder = SCHEDULED if task.state is State.SCHEDULED else BACKING_OFF
        return (due_path(folder, task.due_at.timestamp(), task.id),)
    return (_ended_path(task),)


def _queued_paths(task: Task) -> Iterator[str]:
    line = line_path(task)
    yield line if task.limit is None else waiting_path(task.limit.key, line)
    if task.assigned is not None and task.session is None:
        if task.limit is not None:
            yield _sequenced(f"{assigned_top(task.assigned.worker)}/{BEHIND_GATES}", task.sequence, task.id)
        if task.assigned.until is not None:
            yield due_path(PREFERRED, task.assigned.until.timestamp(), task.id)


def _ended_path(task: Task) -> str:
    """By the time it ended: 2³², 2²⁴, 2¹⁶ and 2⁸ ms, a fan-out for those that ended together, and the rest."""
    ms = ms_of((task.ended_at or task.created_at).timestamp())
    blocks = f"{ms >> 32:04x}/{ms >> 24 & 255:02x}/{ms >> 16 & 255:02x}/{ms >> 8 & 255:02x}"
    fan = f"{task.sequence >> 10 & 255:02x}"
    return f"{ENDED}/{task.state}/{blocks}/{fan}/{ms & 255:02x}-{task.sequence:010x}-{task.id}"


def expiry_path(ends: datetime, key: str) -> str:
    """``expiry/aaaaa/bbb/ccc/xx/yy/KEY``: the second at which a value ends (2²⁰, 2¹⁰ and 1 s), then as in ``keys``."""
    second = int(ends.timestamp())
    where = key_path(key).removeprefix(KEYS).removesuffix(".json")
    return f"{EXPIRY}/{second >> 20:05x}/{second >> 10 & 1023:03x}/{second & 1023:03x}{where}"


def calls_folder(ms: int) -> str:
    """``calls/2026/11/21/10/07``: the minute, UTC, of a time in milliseconds."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime(f"{CALLS}/%Y/%m/%d/%H/%M")


def calls_path(ms: int, suffix: str) -> str:
    """The file of the tool calls that one process flushed at ``ms``; ``suffix`` tells processes apart."""
    return f"{calls_folder(ms)}/{ms}-{suffix}.jsonl"


def artifact_path(artifact_id: str) -> str:
    return _record(ARTIFACTS, check_id(artifact_id, "artifact id"))


def artifact_marker(top: str, artifact_id: str) -> str:
    """The artifact in an index folder of its task, session or content."""
    return f"{top}/{fan_out(artifact_id)[0]}/{artifact_id}"


def artifact_refs(digest: str) -> str:
    """Where the artifacts are named whose content, that of ``digest``, the hub holds."""
    return f"{ARTIFACT_REFS}/{digest[:2]}/{digest[2:4]}/{digest}"


def artifacts_of(folder: str, owner: str) -> str:
    """Where the artifacts of a task or session are named; ``folder`` is the index of either."""
    return f"{folder}/{'/'.join(fan_out(owner))}/{encode_component(owner)}"


def data_path(folder: str, digest: str) -> str:
    """Where ``folder`` of ``files`` has a content: a file, or for a large one the folder of its chunks."""
    return f"{folder}/{DATA}/{digest[:2]}/{digest[2:4]}/{digest}"


def chunk_path(folder: str, digest: str, number: int) -> str:
    """A chunk of a large content, counted from 0."""
    return f"{data_path(folder, digest)}/{chunk_name(number)}"


def chunk_name(number: int) -> str:
    """The name of a chunk in its folder."""
    return f"{number:04d}"


def whole_path(folder: str, digest: str) -> str:
    """What says that all chunks of a large content are there."""
    return f"{data_path(folder, digest)}/{WHOLE}"


def upload_path(folder: str, digest: str) -> str:
    """What says that a large content is on its way, or was left half way."""
    return f"{folder}/{UPLOADS}/{digest[:2]}/{digest}.json"


def checkpoints_folder(session_id: str) -> str:
    """The folder of ``files`` with the checkpoints of a session: contents, and manifests beside them."""
    first, second = fan_out(check_id(session_id, "session id"))
    return f"{CHECKPOINTS}/{first}/{second}/{encode_component(session_id)}"


def manifest_name(checkpoint_id: str) -> str:
    """Where the manifest of a checkpoint lies in its session's folder."""
    return f"{MANIFESTS}/{check_id(checkpoint_id, 'checkpoint id')}.json"
