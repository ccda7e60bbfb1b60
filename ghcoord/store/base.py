"""The storage port: what a driver must do, and nothing more.

A store holds *spaces*.  A space is one ref whose commit's tree holds files.
Objects (commits, trees, blobs) are immutable and named by their git object id,
so they may be cached for ever; only :meth:`Store.heads` ever changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from ghcoord.store.budget.base import Budget

Oid = str
"""A git object id: 40 lower-case hexadecimal digits."""

FILE_MODE = "100644"
TREE_MODE = "40000"

ROOT_RECORD = "space.json"
"""The record at the top of each space that carries its revision."""

ChangeSet = Mapping[str, bytes | None]
"""Path to new content, or ``None`` to delete. A path that is not there may be deleted."""


Kind = Literal["commit", "tree", "blob"]
RawObject = tuple[Kind, bytes]
"""An object as git keeps it: what it is, and its content."""

Tell = Callable[[str, int], None]
"""Hears how far long work is: what is being done, and how many objects are."""


class Entry(NamedTuple):
    """One name in a tree; ``mode`` is git's, as octal text.

    Symbolic links and submodules are kept but are neither file nor tree: a hub
    has no use for them, and following one that a stranger pushed would be a hole.
    """

    name: str
    oid: Oid
    mode: str

    @property
    def is_tree(self) -> bool:
        return self.mode == TREE_MODE

    @property
    def is_file(self) -> bool:
        return self.mode.startswith("100")


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """A commit as stored: ``time`` is the author's, in seconds since the epoch, and proves nothing."""

    oid: Oid
    tree: Oid
    parents: tuple[Oid, ...]
    author: str
    time: int
    message: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do beyond the minimum; callers refuse rather than do something weaker.

    ``multi_space``: a commit may compare and change several spaces, whole or not at all.
    ``compare_only``: a space in ``expected`` without changes is compared without being written.
    ``server_time``: :meth:`Store.server_time` is one clock for all users of the hub.
    ``clock_margin``: seconds by which two readings of that clock may differ.
    ``max_commit_bytes``: largest sum of the contents of one commit.
    ``poll_interval``: seconds between polls that suit this store.
    ``requests_per_commit``: network requests for one commit of one space.
    ``keeps_objects``: :meth:`Store.raw` is there, and :meth:`Store.collect` leaves the heads alone.
    ``atomic_heads``: :meth:`Store.heads` reads all spaces at one moment.  Elsewhere two readings
    that are equal, one after the other, tell what was true at one moment, unless both lag behind.
    ``far_objects``: reading an object may cost a request; :meth:`Store.near` saves some.
    ``keeps_author``: a commit's author and time are those of its :class:`Operation`.
    """

    multi_space: bool = True
    compare_only: bool = True
    server_time: bool = True
    clock_margin: float = 2.0
    max_commit_bytes: int = 64 * 1024 * 1024
    poll_interval: float = 1.0
    requests_per_commit: int = 0
    keeps_objects: bool = True
    atomic_heads: bool = True
    far_objects: bool = False
    keeps_author: bool = True

    @property
    def remote(self) -> bool:
        """Whether asking costs requests to somebody else's server."""
        return self.requests_per_commit > 0


@dataclass(frozen=True, slots=True)
class Operation:
    """Who commits what: ``ids`` are the operation ids, one a transaction in the batch.

    ``revision`` is the batch's highest; ``time`` seconds since the epoch;
    ``summaries`` one line for people and ``events`` JSON lines, both by space.
    """

    ids: tuple[str, ...]
    revision: int
    time: int
    actor: str = "ghcoord"
    summaries: Mapping[str, str] = field(default_factory=dict)
    events: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did, or would do: commits kept and cut off, objects kept, bytes of all objects.

    ``postponed`` says why what is no longer needed was left for the next time; empty when it was not.
    """

    commits: int
    commits_cut: int
    objects: int
    bytes_before: int
    bytes_after: int
    postponed: str = ""


class Store(Protocol):
    """A place that keeps spaces. All methods may be called from any thread.

    Every method may raise the subclasses of :class:`ghcoord.errors.StoreError`
    and no foreign exception.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def url(self) -> str:
        """Where the hub is, without secrets."""
        ...

    @property
    def budget(self) -> Budget | None:
        """What watches over the limits of the server; ``None`` where there are none."""
        ...

    def heads(self) -> dict[str, Oid]:
        """The present commit of each space; see :attr:`Capabilities.atomic_heads`."""
        ...

    def near(self, head: Oid, paths: Collection[str]) -> None:
        """Bring what is at ``paths`` of the commit ``head`` near, in as few requests as can be.

        The commit, its root record and the trees on the way come along.  A path
        that ends in ``/`` is a folder wanted with the files directly in it.
        Reading it then costs no request.  Drivers on this machine do nothing,
        and what is not there is no error.
        """
        ...

    def commit_info(self, oid: Oid) -> CommitInfo:
        """The commit ``oid``; raises ``Corrupt`` when it is not there."""
        ...

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        """The entries of the tree ``oid`` by name."""
        ...

    def blob(self, oid: Oid) -> bytes:
        """The content of the blob ``oid``."""
        ...

    def commit(
        self,
        expected: Mapping[str, Oid | None],
        changes: Mapping[str, ChangeSet],
        op: Operation,
    ) -> dict[str, Oid]:
        """Commit ``changes`` if every space in ``expected`` is at that head, else nothing at all.

        ``None`` as a head means that the space must not exist.  Every changed
        space must be in ``expected``.  Each new commit is a direct child of the
        expected head.  Returns the new heads of the changed spaces once they
        are durable.  Raises ``Conflict``, ``OutcomeUnknown`` and the others;
        ``Unsupported`` for several spaces where the driver commits to one at a
        time, and for a space that is only compared where it cannot do that.
        """
        ...

    def server_time(self) -> float:
        """The hub's clock, seconds since the epoch."""
        ...

    def raw(self, oid: Oid) -> RawObject:
        """Any object as it is, past all caches; raises ``Unsupported`` where the driver does not keep them."""
        ...

    def collect(self, cut: Collection[Oid], *, dry_run: bool, tell: Tell) -> Collected:
        """Let history end at the commits ``cut``, which stay, and drop what nothing needs any more.

        Heads are as before, also for those who write meanwhile.  What is
        reachable from them, down to the commits ``cut``, stays.  Raises
        ``Unavailable`` while another collection runs and ``Unsupported`` where
        the driver, or this hub, has none.
        """
        ...

    def close(self) -> None:
        """Release files and connections; the store is not used afterwards."""
        ...
