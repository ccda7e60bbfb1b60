"""The copy of a remote hub on this machine: a bare repository shared by its processes.

It holds objects and, in ``packed-refs``, the heads last seen, so that git knows
what it need not fetch.  Nothing in it decides anything: what is true is asked
of the remote, and a damaged or deleted copy is made anew.  Every use holds the
lock shared; pruning and making anew hold it alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pygit2

from ghcoord.clock import Runtime
from ghcoord.errors import Denied, StoreError, Unavailable, Unsupported
from ghcoord.store.base import Oid, RawObject
from ghcoord.store.odb import open_repository
from ghcoord.store.packs import write_pack

LOCK_TIMEOUT = 90.0
"""Seconds to wait for another process of this machine; the longest that one call of git may take is a minute."""

HEADS = "refs/ghcoord-mirror/"
ABANDONED = 86400.0
"""Seconds after which the folder of a call was left by a killed process."""

_CONFIG = """[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
[gc]
\tauto = 0
"""


class Mirror:
    """The copy below ``cache`` of the hub that ``name`` names (its URL and prefix)."""

    def __init__(self, cache: Path, name: str, runtime: Runtime) -> None:
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:24]
        self.folder = cache / digest
        self.git_dir = self.folder / "mirror.git"
        self.packs = self.git_dir / "objects" / "pack"
        self._calls = self.folder / "calls"
        self._runtime = runtime

    # -- locks

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Use the copy beside others; it is there, and nothing is removed from it meanwhile."""
        with self._flock(fcntl.LOCK_SH, LOCK_TIMEOUT):
            made = self._present()
            if made:
                yield
                return
        with self.exclusive():
            self._make()
        with self._flock(fcntl.LOCK_SH, LOCK_TIMEOUT):
            yield

    @contextlib.contextmanager
    def exclusive(self, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """Use the copy alone; raises ``Unavailable`` where others use it for ``timeout`` seconds."""
        with self._flock(fcntl.LOCK_EX, timeout):
            yield

    @contextlib.contextmanager
    def _flock(self, kind: int, timeout: float) -> Iterator[None]:
        with _mapped(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = self._runtime.monotonic() + timeout
            wait = 0.0005
            while True:
                try:
                    fcntl.flock(fd, kind | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR):
                        raise Unavailable(f"{self.folder} cannot be locked: {error.strerror}") from error
                    if self._runtime.monotonic() >= deadline:
                        raise Unavailable(f"another process uses {self.folder} for long: is one stopped?") from None
                self._runtime.sleep(wait)
                wait = min(wait * 1.5, 0.05)
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    # -- making

    def _present(self) -> bool:
        return all((self.git_dir / name).exists() for name in ("HEAD", "config", "refs", "objects/pack", "../calls"))

    def _make(self) -> None:
        """Make the copy unless it is whole; the lock is held alone."""
        with _mapped(self.folder):
            if self._present():
                return
            os.chmod(self.folder, 0o700)
            self.discard()
            self._calls.mkdir(exist_ok=True, mode=0o700)
            building = Path(tempfile.mkdtemp(prefix="new-", dir=self.folder))
            for name in ("objects/pack", "objects/info", "refs"):
                (building / name).mkdir(parents=True)
            (building / "HEAD").write_text("ref: refs/heads/none\n")
            (building / "config").write_text(_CONFIG)
            os.rename(building, self.git_dir)

    def discard(self) -> None:
        """Remove the copy; the lock is held alone."""
        for left in (self.git_dir, *self.folder.glob("new-*"), *self.folder.glob("old-*")):
            if left.exists():
                old = self.folder / f"old-{self._runtime.randbits(64):016x}"
                os.rename(left, old)  # gone for all at once
                shutil.rmtree(old, ignore_errors=True)

    def remake(self) -> None:
        """Make a damaged copy anew."""
        with self.exclusive():
            with _mapped(self.folder):
                self.discard()
            self._make()

    def open(self) -> pygit2.Repository:
        """The copy, made first where it is missing or damaged."""
        try:
            with self.shared():
                return open_repository(self.git_dir)
        except Unsupported:
            self.remake()
        with self.shared():
            return open_repository(self.git_dir)

    # -- using, with the lock held

    @contextlib.contextmanager
    def call(self) -> Iterator[Path]:
        """A ``GIT_DIR`` for one call of git, which shares all but its own refs with the others."""
        with _mapped(self.folder):
            own = Path(tempfile.mkdtemp(dir=self._calls))
            (own / "HEAD").write_text("ref: refs/heads/none\n")
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def write(self, objects: Mapping[Oid, RawObject]) -> None:
        """Store ``objects``."""
        with _mapped(self.folder):
            write_pack(self.packs, objects)

    def record(self, heads: Mapping[str, Oid], *, all_of_them: bool) -> None:
        """Remember ``heads``, whose objects are all there; the last one to say wins, and nothing hangs on it."""
        path = self.git_dir / "packed-refs"
        told = {_ref(space): oid for space, oid in heads.items()}
        with _mapped(self.folder):
            before = self._recorded()
            refs = told if all_of_them else {**before, **told}
            if refs == before:
                return
            lines = [f"{refs[ref]} {ref}\n" for ref in sorted(refs)]
            temporary = self.git_dir / f"packed-refs.{self._runtime.randbits(64):016x}"
            temporary.write_text("".join(["# pack-refs with: peeled fully-peeled sorted \n", *lines]))
            os.rename(temporary, path)

    def _recorded(self) -> dict[str, Oid]:
        try:
            lines = (self.git_dir / "packed-refs").read_text().splitlines()
        except FileNotFoundError:
            return {}
        return {line[41:]: line[:40] for line in lines if line[:1] != "#"}

    def knows_heads(self) -> bool:
        """Whether heads were recorded."""
        return bool(self._recorded())

    def shallow(self) -> set[Oid]:
        """Commits at which the remote's own history ends."""
        try:
            return set((self.git_dir / "shallow").read_text().split())
        except FileNotFoundError:
            return set()

    def sweep(self) -> None:
        """Remove what killed processes left; the lock is held alone, so no call is under way."""
        with _mapped(self.folder):
            for left in [*self._calls.iterdir(), *self.folder.glob("old-*"), *self.folder.glob("new-*")]:
                shutil.rmtree(left, ignore_errors=True)
            for left in [
                *self.git_dir.glob("packed-refs.*"),
                *self.packs.glob("tmp_*"),
                *self.packs.glob("ghcoord-pack-*"),
                *self.git_dir.glob("objects/tmp_*"),
            ]:
                left.unlink(missing_ok=True)

    def pruned_size(self) -> int:
        """Bytes of the packs after the last pruning; 0 where there was none."""
        try:
            return int((self.folder / "pruned").read_text())
        except (OSError, ValueError):
            return 0

    def note_pruned(self) -> None:
        """The copy was pruned just now."""
        with _mapped(self.folder):
            (self.folder / "pruned").write_text(f"{self.size()[1]}\n")

    def size(self) -> tuple[int, int]:
        """Files in the object store, roughly, and bytes in its packs."""
        with _mapped(self.folder):
            packs = [path.stat().st_size for path in self.packs.glob("*.pack")]
            sample = self.git_dir / "objects" / "17"  # one of 256 folders, as git looks itself
            loose = len(os.listdir(sample)) * 256 if sample.is_dir() else 0
            return len(packs) + loose // 16, sum(packs)


def _ref(space: str) -> str:
    # By digest: spaces called a and a/b, or one of 250 letters, make no trouble.
    return HEADS + hashlib.sha256(space.encode(errors="surrogateescape")).hexdigest()[:40]


@contextlib.contextmanager
def _mapped(folder: Path) -> Iterator[None]:
    """Errors of the disk as errors of the store."""
    try:
        yield
    except StoreError:
        raise
    except PermissionError as error:
        raise Denied(f"cannot write to {error.filename or folder}: check the permissions of the cache") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Unavailable(f"the disk with {folder} is full: make room") from error
        raise Unavailable(f"cannot use the cache in {folder}: {error.strerror or error}") from error
