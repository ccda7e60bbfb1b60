"""Collecting what a local hub no longer needs, beside its writers.

No ref is rewritten.  Where history is to end is written into git's own
``shallow`` file, so heads, tokens and revisions stay what they are.  What is in
use goes into a new pack without any lock; only the last step, in which the old
packs go, holds the hub's flock.  Docs: decisions/0004.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import pygit2

from ghcoord.clock import Runtime
from ghcoord.errors import Corrupt, Denied, StoreError, Unavailable, Unsupported
from ghcoord.store.base import Collected, Oid, RawObject, Tell
from ghcoord.store.localrefs import LocalRefs
from ghcoord.store.objects import parse_commit
from ghcoord.store.packfile import PackWriter
from ghcoord.store.packs import fsync_dir, write_durably
from ghcoord.store.reach import Found, Reach

CATCH_UP = 2000
"""Objects made in the meantime that are left to the step under the lock; it copies them in tens of milliseconds."""

ROUNDS = 5
"""Times that the writers are caught up with before the lock is taken in any case."""

ABANDONED = 86400.0
"""Seconds after which a push in progress counts as one that was killed."""

SETTLE = 10.0
"""Seconds after which git has moved the branch for which it moved objects in; it takes milliseconds."""

SHALLOW = "shallow"
_LOOSE_FOLDER = re.compile("[0-9a-f]{2}")
_LOOSE = re.compile("[0-9a-f]{38}")
_OF_ONE_COMMIT = re.compile("pack-g0-[0-9a-f]{40}")
_PUSHED = re.compile("pack-[0-9a-f]{40}")
_MERGED = re.compile("pack-g[1-9]-[0-9a-f]{40}")


class Sweep:
    """One run of gc over the repository at ``git_dir``.

    ``read`` returns raw objects and raises ``Corrupt`` for those that are
    missing; ``cut`` are the commits whose parents are dropped; ``check`` raises
    ``Unsupported`` where something else may need what goes; ``tell`` hears how
    far it is.
    """

    def __init__(
        self,
        git_dir: Path,
        refs: LocalRefs,
        runtime: Runtime,
        read: Callable[[Oid], RawObject],
        cut: Collection[Oid],
        check: Callable[[], None],
        tell: Tell,
    ) -> None:
        self._git_dir = git_dir
        self._objects = git_dir / "objects"
        self._packs = self._objects / "pack"
        self._work = git_dir / "ghcoord" / "collect"
        self._refs = refs
        self._runtime = runtime
        self._read = read
        self._check = check
        self._tell = tell
        self._ends = frozenset(cut)
        self._reach = Reach(read, cut)
        self._made: set[str] = set()

    def run(self, *, dry_run: bool) -> Collected:
        """Collect; with ``dry_run`` find out what that would do, at nearly the same cost.

        Raises ``Unavailable`` while another one runs, ``Unsupported`` where
        something else than the hub lies in the repository, ``Corrupt`` for a
        damaged one, which is left as it is.
        """
        self._check()
        with _mapped(self._git_dir), self._alone():
            self._reach = Reach(self._read, self._ends.union(_lines(self._git_dir / SHALLOW)))
            before = _size(self._objects)
            old_packs, old_loose = self._stems(), list(self._loose())
            first = self._pack(self._refs.read().values())
            cut = self._count_cut()
            kept, commits = len(self._reach), len(self._reach.commits)
            if dry_run:
                after = sum(path.stat().st_size for path in self._work.iterdir())
                return Collected(commits, cut, kept, before, after)
            self._install(first)
            for _ in range(ROUNDS):
                more = self._pack(self._refs.read().values())
                count = len(self._reach) - kept
                kept = len(self._reach)
                self._install(more)
                if count <= CATCH_UP:
                    break
            postponed = self._finish(old_packs, old_loose)
            return Collected(
                len(self._reach.commits), cut, len(self._reach), before, _size(self._objects), postponed=postponed
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other runs out, and leave no unfinished files behind."""
        (self._git_dir / "ghcoord").mkdir(exist_ok=True)
        fd = os.open(self._git_dir / "ghcoord" / "collecting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unavailable("another gc of this hub is running: let it end") from None
            try:
                shutil.rmtree(self._work, ignore_errors=True)
                self._work.mkdir()
                yield
            finally:
                shutil.rmtree(self._work, ignore_errors=True)
        finally:
            os.close(fd)

    # -- packing

    def _pack(self, heads: Iterable[Oid], leave: Collection[Oid] = ()) -> str | None:
        """Write what is in use from ``heads`` on, and was not before, as a pack in the work folder; its name.

        Objects in ``leave`` lie elsewhere and stay there.
        """
        writer = PackWriter(self._work / "unfinished.pack")
        try:
            for head in heads:
                writer.new_root()
                for found in self._reach.walk([head]):
                    if found.oid not in leave:
                        writer.add(found, self._content(found))
                        self._tell("packing", len(writer))
            if not len(writer):
                return None
            stem = f"pack-gc-{writer.finish()}"
            write_durably(self._work / f"{stem}.idx", writer.index())
            os.chmod(writer.path, 0o444)
            os.rename(writer.path, self._work / f"{stem}.pack")
            return stem
        finally:
            writer.close()

    def _content(self, found: Found) -> bytes:
        return found.data if found.data is not None else self._read(found.oid)[1]

    def _install(self, stem: str | None) -> None:
        """Give a finished pack to everybody; the index last, since packs are found by it."""
        if stem is not None:
            for suffix in (".pack", ".idx"):
                os.rename(self._work / (stem + suffix), self._packs / (stem + suffix))
            fsync_dir(self._packs)
            self._made.add(stem)

    def _count_cut(self) -> int:
        """Commits below the cut that are still there."""
        count = 0
        todo = sorted(self._reach.ends)
        seen = set(todo)
        while todo:
            try:
                oid = todo.pop()
                commit = parse_commit(oid, self._read(oid)[1])
            except StoreError:
                continue
            count += oid not in self._reach
            below = [one for one in commit.parents if one not in seen and one not in self._reach]
            seen.update(below)
            todo += below
        return count

    # -- the step under the lock

    def _finish(self, old_packs: set[str], old_loose: list[Path]) -> str:
        """Bring the last objects over, cut history, and remove what was replaced; why it was not, if so."""
        self._tell("removing", 0)
        with self._refs.exclusive():
            pushing = self._pushing()
            present = self._stems()
            stay = {stem for stem in present - old_packs - self._made if not _MERGED.fullmatch(stem)}
            fresh = [self._packs / f"{stem}.idx" for stem in stay if _OF_ONE_COMMIT.fullmatch(stem)]
            at_hand = {oid for index in fresh for oid in _oids(index)}
            self._install(self._pack(self._refs.read_all().values(), at_hand))
            if pushing or self._pushing() or self._arriving(stay, old_loose):
                return "a push is in progress"
            self._check()  # somebody may have made a tag meanwhile
            self._cut()
            stay |= self._made | {path.stem for path in self._packs.glob("*.keep")}
            self._forget_summaries()
            for stem in present - stay:
                self._remove(stem)
            for path in old_loose:
                path.unlink(missing_ok=True)
            fsync_dir(self._packs)
        return ""

    def _cut(self) -> None:
        ends = "\n".join(sorted(self._reach.ends))
        if ends or (self._git_dir / SHALLOW).exists():
            self._refs.put(SHALLOW, ends)

    def _remove(self, stem: str) -> None:
        """Remove a pack, its index first: packs are found by their index."""
        files = sorted(self._packs.glob(f"{stem}.*"), key=lambda path: path.suffix != ".idx")
        for path in files:
            path.unlink(missing_ok=True)

    def _forget_summaries(self) -> None:
        """Remove what git keeps to be quicker and what names objects that go."""
        info = self._objects / "info"
        for path in [*self._packs.glob("multi-pack-index*"), info / "commit-graph"]:
            path.unlink(missing_ok=True)
        shutil.rmtree(info / "commit-graphs", ignore_errors=True)

    def _pushing(self) -> bool:
        """Whether git is checking what somebody pushes: that may count on objects that are to go."""
        now = self._runtime.now()
        for path in [*self._objects.glob("tmp_objdir-incoming-*"), *self._objects.glob("incoming-*")]:
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime < ABANDONED:
                    return True
        return False

    def _arriving(self, fresh: Collection[str], old_loose: Collection[Path]) -> bool:
        """Whether objects came just now that no branch leads to: git moves them in before it moves the branch."""
        paths = [self._packs / f"{stem}.pack" for stem in fresh if _PUSHED.fullmatch(stem)]
        paths += [path for path in set(self._loose()).difference(old_loose) if _loose_oid(path) not in self._reach]
        now = self._runtime.now()
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_ctime < SETTLE and not self._reached(path):
                    return True
        return False

    def _reached(self, path: Path) -> bool:
        return path.suffix == ".pack" and all(oid in self._reach for oid in _oids(path.with_suffix(".idx")))

    # -- looking

    def _stems(self) -> set[str]:
        """The packs that are there, by name, whole or not."""
        with os.scandir(self._packs) as found:
            return {item.name.partition(".")[0] for item in found if item.name.startswith("pack-")}

    def _loose(self) -> Iterator[Path]:
        for folder in self._objects.iterdir():
            if _LOOSE_FOLDER.fullmatch(folder.name):
                yield from (path for path in folder.iterdir() if _LOOSE.fullmatch(path.name))


@contextlib.contextmanager
def _mapped(git_dir: Path) -> Iterator[None]:
    """Errors of the disk as errors of the store."""
    try:
        yield
    except PermissionError as error:
        raise Denied(f"cannot write to {error.filename or git_dir}: gc needs to own the hub's files") from error
    except OSError as error:
        raise Unavailable(f"gc stopped, nothing is lost: {error.strerror or error}") from error


def check_alone(repository: pygit2.Repository, git_dir: Path, prefix: str) -> None:
    """Raise ``Unsupported`` where the repository holds more than the hub: that might need what gc removes."""
    if not repository.is_bare:
        raise Unsupported(
            f"{git_dir.parent} is a repository with files of its own, where gc is not offered: 'ghcoord export' and "
            "'ghcoord import' move the hub to a place of its own"
        )
    foreign = sorted(name for name in repository.references if not name.startswith(prefix))
    if repository.head_is_detached:
        foreign.append("a detached HEAD")
    if foreign:
        named = ", ".join(foreign[:3])
        raise Unsupported(f"{git_dir} holds more than the hub: remove {named}, or move the hub by export and import")
    if any(path.stat().st_size for path in (git_dir / "logs").rglob("*") if path.is_file()):
        raise Unsupported(f"{git_dir} has reflogs of old commits: 'git reflog expire --expire=now --all' ends them")
    if any((git_dir / "worktrees").glob("*")):
        raise Unsupported(f"{git_dir} has worktrees: 'git worktree remove' ends them")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", "replace").split()
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    """Bytes of the files below ``folder``; some may vanish meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(root, name)).st_size
    return total


def _loose_oid(path: Path) -> Oid:
    return path.parent.name + path.name


def _oids(index: Path) -> set[Oid]:
    """The objects of one of our packs, by its index."""
    raw = index.read_bytes()
    try:
        count = struct.unpack_from(">I", raw, 8 + 255 * 4)[0]
    except struct.error:
        raise Corrupt(f"{index} is damaged: run 'git fsck' there") from None
    return {raw[at : at + 20].hex() for at in range(1032, 1032 + count * 20, 20)}
