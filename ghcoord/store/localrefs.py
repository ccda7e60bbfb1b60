"""Refs of a local repository, moved together and durably, also when killed at any instruction.

All of it happens under one exclusive ``flock`` on ``<repository>/ghcoord/lock``,
which the kernel drops when its holder dies.  Git's own programs do not know
that lock, so each ref's ``<ref>.lock`` is taken as git takes it: as a hard link
to a file of ours, by whose inode a lock that a killed writer left behind is
told from one that git holds.  Moving several refs first writes a durable
*intent*; the next holder of the flock rolls it forward if any ref has moved and
discards it otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.errors import Conflict, Corrupt, Denied, OutcomeUnknown, StoreError, Unavailable
from ghcoord.store.base import Oid
from ghcoord.store.packs import fsync_dir, write_durably

LOCK_TIMEOUT = 20.0
"""Seconds to wait for the flock. A commit holds it for milliseconds; only a stopped process holds it longer."""

GIT_LOCK_TIMEOUT = 0.25
"""Seconds to wait for a ``<ref>.lock`` that git holds (git's own default is 0.1).

Short, since the flock is held meanwhile: whoever tries again lets others in between.
"""


class LocalRefs:
    """The refs below ``prefix`` in the repository at ``git_dir``."""

    def __init__(self, git_dir: Path, prefix: str, runtime: Runtime) -> None:
        self._git_dir = git_dir
        self._prefix = prefix
        self._own = git_dir / "ghcoord"
        self._lock = self._own / "lock"
        self._intent = self._own / "intent.json"
        self._runtime = runtime
        self._packed: tuple[tuple[int, int, int], dict[str, Oid]] | None = None

    # -- the flock

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the hub's write lock, with whatever a killed writer left put right."""
        with self._flock(fcntl.LOCK_EX):
            try:
                self._recover()
            except OSError as error:
                raise self._refused(error) from error
            yield

    def read(self) -> dict[str, Oid]:
        """All refs below the prefix, by the rest of their names, as of one moment."""
        with self._flock(fcntl.LOCK_SH):
            if not self._intent.exists():
                return self.read_all()
        with self.exclusive():
            return self.read_all()

    @contextlib.contextmanager
    def _flock(self, kind: int) -> Iterator[None]:
        fd = self._open_lock(kind)
        try:
            deadline = self._runtime.monotonic() + LOCK_TIMEOUT
            wait = 0.0002
            while True:
                try:
                    fcntl.flock(fd, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._runtime.monotonic() >= deadline:
                        raise Unavailable(
                            f"another process has held {self._lock} for {LOCK_TIMEOUT:.0f} s: "
                            "is one stopped? 'fuser' on that file names it"
                        ) from None
                self._runtime.sleep(wait)
                wait = min(wait * 1.5, 0.005)
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough if a fork has copied the descriptor
            os.close(fd)

    def _open_lock(self, kind: int) -> int:
        path = self._lock
        try:
            try:
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                if not (self._git_dir / "objects").is_dir():
                    # Never made again: an empty stub would pass for a hub, and be in the way of the real one.
                    raise Unavailable(f"{self._git_dir} is gone: was it moved, or its volume unmounted?") from None
                self._make_folder(self._own)
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                if kind == fcntl.LOCK_SH:
                    with contextlib.suppress(OSError):
                        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                raise Denied(f"cannot write to {self._own}: check the permissions of the hub's folder") from error
            raise Unavailable(f"cannot open {path}: {error.strerror}") from error

    # -- reading

    def read_all(self) -> dict[str, Oid]:
        """As :meth:`read`, for a caller that already holds the flock."""
        try:
            return self._collect()
        except OSError as error:
            kind = Denied if isinstance(error, PermissionError) else Unavailable
            raise kind(f"cannot read refs in {self._git_dir}: {error.strerror or error}") from error

    def _collect(self) -> dict[str, Oid]:
        refs: dict[str, Oid] = {}
        top = f"{self._git_dir}/"
        for folder, _, names in os.walk(top + self._prefix.rstrip("/"), onerror=_unless_missing):
            below = folder.removeprefix(top)
            for name in names:
                if not name.endswith(".lock"):
                    oid = self._read_loose(f"{below}/{name}")
                    if oid is not None:
                        refs[f"{below}/{name}"] = oid
        # Only now: git packs a ref before it removes the loose one, so the other order could miss it.
        for name, oid in self._read_packed().items():
            if name.startswith(self._prefix):
                refs.setdefault(name, oid)
        return {name.removeprefix(self._prefix): oid for name, oid in refs.items()}

    def value(self, ref: str) -> Oid | None:
        """Where one ref (by its full name) points."""
        return self._read_loose(ref) or self._read_packed().get(ref)

    def _read_loose(self, ref: str) -> Oid | None:
        try:
            with open(f"{self._git_dir}/{ref}", "rb") as file:
                text = file.read().decode("ascii", "replace").strip()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        if len(text) != 40 or set(text) - set("0123456789abcdef"):
            raise Corrupt(f"{self._git_dir / ref} does not hold an object id: restore it with 'git update-ref'")
        return text

    def _read_packed(self) -> dict[str, Oid]:
        path = self._git_dir / "packed-refs"
        try:
            with path.open("rb") as file:
                state = os.fstat(file.fileno())
                mark = (state.st_mtime_ns, state.st_size, state.st_ino)
                if self._packed is None or self._packed[0] != mark:
                    refs = {}
                    for line in file.read().decode(errors="replace").splitlines():
                        oid, _, name = line.partition(" ")
                        if name and len(oid) == 40:
                            refs[name] = oid
                    self._packed = (mark, refs)
        except FileNotFoundError:
            return {}
        return self._packed[1]

    # -- writing

    def move(self, expected: Mapping[str, Oid | None], new: Mapping[str, Oid]) -> None:
        """Move the refs in ``new`` if all in ``expected`` are where they should be. Durable on return.

        Only inside :meth:`exclusive`; names are without the prefix.
        """
        old = {self._prefix + name: oid for name, oid in expected.items()}
        target = {self._prefix + name: oid for name, oid in new.items()}
        moved = False
        held: list[str] = []
        try:
            for ref in sorted(old):
                self._take(ref, target.get(ref) or old[ref] or "")
                held.append(ref)
            for ref, oid in old.items():
                if self.value(ref) != oid:
                    raise Conflict(f"{ref} was moved by git, away from {oid}")
            if len(target) > 1:
                self._write_intent(old, target)
            moved = True
            for ref in sorted(target):
                os.rename(self._lock_path(ref), self._git_dir / ref)
            for folder in {(self._git_dir / ref).parent for ref in target}:
                fsync_dir(folder)
        except OSError as error:
            if moved:
                raise OutcomeUnknown(f"the disk failed while moving refs: {error}") from error
            raise self._refused(error) from error
        finally:
            if not moved:
                self._intent.unlink(missing_ok=True)
            for ref in held:
                if not moved or ref not in target:
                    self._lock_path(ref).unlink(missing_ok=True)
        self._tidy(held)

    def put(self, name: str, content: str) -> None:
        """Replace a file of git's at the top of the repository, under git's own lock on it; ``""`` removes it.

        Durable on return.  Only inside :meth:`exclusive`.
        """
        try:
            self._take(name, content)
            if content:
                os.rename(self._lock_path(name), self._git_dir / name)
            else:
                (self._git_dir / name).unlink(missing_ok=True)
            fsync_dir(self._git_dir)
        except OSError as error:
            raise self._refused(error) from error
        finally:
            self._drop_stale_lock(name)
            self._own_path(name).unlink(missing_ok=True)

    def _tidy(self, held: list[str]) -> None:
        """Remove our own files of a finished move; left over, they are harmless and recovered."""
        with contextlib.suppress(OSError):
            for ref in held:
                self._own_path(ref).unlink(missing_ok=True)
            self._intent.unlink(missing_ok=True)

    def _refused(self, error: OSError) -> StoreError:
        if isinstance(error, PermissionError):
            return Denied(f"cannot write refs in {self._git_dir}: check the permissions of the hub's folder")
        return Unavailable(f"cannot write refs in {self._git_dir}: {error.strerror or error}")

    def _lock_path(self, ref: str) -> Path:
        return self._git_dir / f"{ref}.lock"

    def _own_path(self, ref: str) -> Path:
        # No ref has a colon, and escapes would make the longest names too long for a file system.
        return self._own / f"ref-{ref.replace('/', ':')}"

    def _take(self, ref: str, content: str) -> None:
        """Take git's lock on ``ref``, with ``content`` in it."""
        own, lock = self._own_path(ref), self._lock_path(ref)
        own.unlink(missing_ok=True)
        write_durably(own, f"{content}\n".encode(), 0o644)
        deadline = self._runtime.monotonic() + GIT_LOCK_TIMEOUT
        while True:
            try:
                self._make_folder(lock.parent)
                os.link(own, lock)
                return
            except FileNotFoundError:
                # 'git pack-refs' has just removed the folder, empty for a moment.
                if self._runtime.monotonic() >= deadline:
                    raise
            except FileExistsError:
                if self._runtime.monotonic() >= deadline:
                    raise Unavailable(
                        f"{lock} exists: a git command is writing that branch; if none is running, delete the file"
                    ) from None
                self._runtime.sleep(0.01)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            fsync_dir(folder.parent)

    def _write_intent(self, old: Mapping[str, Oid | None], target: Mapping[str, Oid]) -> None:
        refs = [{"ref": ref, "old": old[ref], "new": oid} for ref, oid in sorted(target.items())]
        temporary = self._own / "intent.tmp"
        write_durably(temporary, json.dumps({"refs": refs}, indent=2).encode(), 0o644)
        os.rename(temporary, self._intent)
        fsync_dir(self._own)

    # -- after a kill

    def _recover(self) -> None:
        """Finish or discard what a killed writer had begun. The flock proves that it is dead."""
        with os.scandir(self._own) as found:
            names = [item.name for item in found]
        leftovers = [name.removeprefix("ref-").replace(":", "/") for name in names if name.startswith("ref-")]
        intent = self._intent.exists()
        if not leftovers and not intent:
            return
        for ref in leftovers:
            self._drop_stale_lock(ref)
        if intent:
            self._roll()
        for leftover in (*map(self._own_path, leftovers), self._own / "intent.tmp"):
            leftover.unlink(missing_ok=True)
        if intent:
            self._intent.unlink(missing_ok=True)
            fsync_dir(self._own)

    def _drop_stale_lock(self, ref: str) -> None:
        own, lock = self._own_path(ref), self._lock_path(ref)
        try:
            if own.stat().st_ino == lock.stat().st_ino:
                lock.unlink()
        except FileNotFoundError:
            pass

    def _roll(self) -> None:
        """Move the refs of the intent that have not moved, if any has; the intent was durable before the first."""
        try:
            refs = json.loads(self._intent.read_bytes())["refs"]
            steps = [(str(r["ref"]), r["old"], str(r["new"])) for r in refs]
        except (ValueError, KeyError, TypeError):
            return  # written whole or not at all: a torn one never had its rename made durable
        behind = [(ref, new) for ref, old, new in steps if self.value(ref) == old]
        if len(behind) == len(steps):
            return
        for ref, new in behind:
            self._take(ref, new)
            os.rename(self._lock_path(ref), self._git_dir / ref)
        for ref, _ in behind:
            fsync_dir((self._git_dir / ref).parent)
            self._own_path(ref).unlink(missing_ok=True)


def _unless_missing(error: OSError) -> None:
    """Let ``os.walk`` pass over a folder that git has just removed, and over nothing else."""
    if not isinstance(error, FileNotFoundError):
        raise error
