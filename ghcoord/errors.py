"""Every error ghcoord raises, in one tree.

::

    GhcoordError                     1  unexpected
    ├── UsageError                   2  the caller's input is wrong
    │   ├── InvalidName              2  a name, id or key that is not accepted
    │   ├── PathRefused              2  a path that leaves the workspace
    │   └── NoHub                    2  no hub was named
    ├── NotFound                     3  the named thing does not exist
    ├── IllegalTransition            4  the state machine has no such step
    ├── RevisionMismatch             4  a compare-and-set lost
    ├── LockError                    4  (``code`` in the reference's spelling)
    │   ├── LockHeld                 4  someone else holds it
    │   ├── NotOwner                 4  INVALID_OWNER
    │   └── LeaseLost                5  LOCK_EXPIRED
    │       └── FenceRefused         5  a write with an outdated fencing token
    ├── WorkerError                  1  (``worker_id``)
    │   ├── WorkerReplaced           5  a newer registration of the id exists
    │   └── NoCapacity               7  no worker has a free slot
    ├── SyncError                    7  (``namespace``) memory could not be synchronised
    ├── TaskFailed                   8  the task ended without success
    ├── WaitTimeout                  9  the wait ended before the thing happened
    ├── SandboxError                 7  the sandbox could not be set up (not: the task failed)
    ├── SessionLost                  7  (``session_id``) the session's files are gone
    └── StoreError                   7  the hub's storage
        ├── Conflict                 4  someone committed first: read again, decide again
        ├── OutcomeUnknown           7  sent, no answer: look for the operation id first
        ├── Throttled                7  refused until a given time
        ├── Unavailable              7  not reachable now
        ├── Denied                   6  not permitted
        ├── TooLarge                 2  beyond what the store takes
        ├── Unsupported              2  this store cannot do that
        ├── HeadRegressed            7  history went backwards; writes stop
        ├── NewerSchema              7  written by a newer ghcoord
        └── Corrupt                  7  state that cannot be read

``exit_code`` is the CLI's exit status, ``retryable`` says whether the same call
may succeed later without the caller changing anything.  ``OutcomeUnknown`` is
not retryable: retrying before looking for the operation id may apply it twice.
"""

from __future__ import annotations

from typing import Any, ClassVar


class GhcoordError(Exception):
    """Base of all errors raised by ghcoord."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    default_code: ClassVar[str] = "ERROR"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code

    def details(self) -> dict[str, Any]:
        """The keys of ``error`` in ``--json`` output."""
        return {
            "code": self.code,
            "message": self.message,
            "exit_code": self.exit_code,
            "retryable": self.retryable,
        }


class UsageError(GhcoordError):
    """The caller's input is wrong; the message names the fix."""

    exit_code = 2
    default_code = "USAGE"


class InvalidName(UsageError):
    """A name, id or key that is not accepted."""

    default_code = "INVALID_NAME"


class PathRefused(UsageError):
    """A path that is absolute or leaves the workspace."""

    default_code = "PATH_REFUSED"


class NoHub(UsageError):
    """No hub was named and none is configured."""

    default_code = "NO_HUB"


class NotFound(GhcoordError):
    """The named thing does not exist (in the state last read)."""

    exit_code = 3
    default_code = "NOT_FOUND"


class IllegalTransition(GhcoordError):
    """The state machine has no step from the present state to the asked one."""

    exit_code = 4
    default_code = "ILLEGAL_TRANSITION"


class RevisionMismatch(GhcoordError):
    """A compare-and-set found another revision than the expected one."""

    exit_code = 4
    default_code = "REVISION_MISMATCH"

    def __init__(self, message: str, *, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual

    def details(self) -> dict[str, Any]:
        return {**super().details(), "expected": self.expected, "actual": self.actual}


class LockError(GhcoordError):
    """Something about a lock; ``code`` carries the reference's literal."""

    exit_code = 4
    default_code = "LOCK_ERROR"


class LockHeld(LockError):
    """Another owner holds the lock."""

    default_code = "LOCK_HELD"


class NotOwner(LockError):
    """The caller is not the lock's owner."""

    default_code = "INVALID_OWNER"


class LeaseLost(LockError):
    """The caller's lease expired or was taken from it."""

    exit_code = 5
    default_code = "LOCK_EXPIRED"


class FenceRefused(LeaseLost):
    """A fenced write carried a token that is not the current grant's."""

    default_code = "FENCE_REFUSED"


class WorkerError(GhcoordError):
    """Something about one worker, named by ``worker_id``."""

    default_code = "WORKER_ERROR"

    def __init__(self, message: str, worker_id: str = "", *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.worker_id = worker_id

    def details(self) -> dict[str, Any]:
        return {**super().details(), "worker_id": self.worker_id}


class WorkerReplaced(WorkerError):
    """A newer registration of the same worker id exists: this process must stop."""

    exit_code = 5
    default_code = "WORKER_REPLACED"


class NoCapacity(WorkerError):
    """No worker has a free slot."""

    exit_code = 7
    retryable = True
    default_code = "NO_CAPACITY"


class SyncError(GhcoordError):
    """A memory namespace could not be synchronised with the hub."""

    exit_code = 7
    retryable = True
    default_code = "SYNC_ERROR"

    def __init__(self, message: str, namespace: str = "") -> None:
        super().__init__(message)
        self.namespace = namespace

    def details(self) -> dict[str, Any]:
        return {**super().details(), "namespace": self.namespace}


class TaskFailed(GhcoordError):
    """The task ended without success; the hub worked as it should."""

    exit_code = 8
    default_code = "TASK_FAILED"


class WaitTimeout(GhcoordError):
    """A wait ended before what it waited for happened."""

    exit_code = 9
    retryable = True
    default_code = "WAIT_TIMEOUT"


class SandboxError(GhcoordError):
    """The sandbox could not be set up; the task did not run."""

    exit_code = 7
    default_code = "SANDBOX"


class SessionLost(GhcoordError):
    """The session's worker died without a checkpoint: its files are gone. ``session_id`` names it."""

    exit_code = 7
    default_code = "SESSION_LOST"

    def __init__(self, message: str, session_id: str = "", *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.session_id = session_id

    def details(self) -> dict[str, Any]:
        return {**super().details(), "session_id": self.session_id}


class StoreError(GhcoordError):
    """Something about the hub's storage."""

    exit_code = 7
    default_code = "STORE"


class Conflict(StoreError):
    """A compared head was not the expected one: read again and decide again."""

    exit_code = 4
    retryable = True
    default_code = "CONFLICT"


class OutcomeUnknown(StoreError):
    """A commit was sent and no answer came; it may or may not have happened."""

    default_code = "OUTCOME_UNKNOWN"


class Throttled(StoreError):
    """The store refuses requests until ``until`` (seconds since the epoch)."""

    retryable = True
    default_code = "THROTTLED"

    def __init__(self, message: str, until: float) -> None:
        super().__init__(message)
        self.until = until


class Unavailable(StoreError):
    """The store cannot be reached, or could not take the write in time."""

    retryable = True
    default_code = "UNAVAILABLE"


class Denied(StoreError):
    """The store refused for lack of permission."""

    exit_code = 6
    default_code = "DENIED"


class TooLarge(StoreError):
    """A record or commit is larger than the store takes."""

    exit_code = 2
    default_code = "TOO_LARGE"


class Unsupported(StoreError):
    """This store cannot do what was asked, rather than doing something weaker."""

    exit_code = 2
    default_code = "UNSUPPORTED"


class HeadRegressed(StoreError):
    """A space's history went backwards or vanished; nothing is written until it is adopted."""

    default_code = "HEAD_REGRESSED"


class NewerSchema(StoreError):
    """The hub was written by a newer ghcoord."""

    default_code = "NEWER_SCHEMA"


class Corrupt(StoreError):
    """State that cannot be read as what it should be."""

    default_code = "CORRUPT"
