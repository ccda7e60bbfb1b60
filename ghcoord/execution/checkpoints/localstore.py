"""A session's checkpoints in a folder of the worker's: contents by their sha256, and manifests.

::

    <session>/objects/ab/<sha256>[.zst]     contents, compressed where zstandard is installed
    <session>/manifests/<id>.json           written last, and durably: a checkpoint is there when this is
    <session>/stat.json                     what files looked like when they were last read
    <session>/boot                          the boot of the machine in which the contents were written
    <session>/lock                          held by an flock while something is written or removed

Contents are not flushed one by one, which would take seconds.  After the
machine was restarted all of them are read once, and what is not what its name
says is removed, so that a power cut can cost a checkpoint, never its truth.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from ghcoord.clock import Runtime
from ghcoord.coord.sessions.manifests import is_digest
from ghcoord.errors import Corrupt, Denied, NotFound, Unavailable, UsageError

PIECE = 1 << 20
"""Bytes of a content that are in memory at a time, for large ones."""

SMALL = 4 << 20
"""Bytes up to which a content is read whole, so that one that is there already is not compressed again."""

LEVEL = 1
"""zstd's level: on 8 MB of source code 33 ms instead of 5,600 for gzip -6 (facts/sandbox.md)."""

LOCK_WAIT = 60.0
"""Seconds to wait for another process that writes to the same session's folder."""

_MANIFEST = re.compile(r"c[0-9a-z]{12}\.json", re.ASCII)


class LocalStore:
    """The folder of one session's checkpoints. Raises ``OSError`` for what the disk does."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self.folder = folder
        self._runtime = runtime
        self._objects = folder / "objects"
        self._manifests = folder / "manifests"
        self._fans: set[str] = set()
        codec = _zstandard()
        self._packer: Any = None if codec is None else codec.ZstdCompressor(level=LEVEL)
        self.written = 0
        """Contents that this object has written, and their bytes on disk."""
        self.written_bytes = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder, which is made: nobody else writes to it or removes from it. Raises ``Unavailable``."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._objects.mkdir(mode=0o700, exist_ok=True)
            self._manifests.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as why:
            raise Denied(f"cannot use {self.folder} for checkpoints: {why.strerror}") from why
        try:
            deadline = self._runtime.monotonic() + LOCK_WAIT
            while not _try_lock(fd):
                if self._runtime.monotonic() > deadline:
                    raise Unavailable(f"another process has held {self.folder} for {LOCK_WAIT:g} s: end it, try again")
                self._runtime.sleep(0.02)
            self._after_boot()
            yield
        finally:
            os.close(fd)

    # -- contents

    def has(self, digest: str) -> bool:
        """Whether the content is there."""
        return self._find(digest) is not None

    def _find(self, digest: str) -> Path | None:
        path = f"{self._objects}/{digest[:2]}/{digest}"
        for each in (f"{path}.zst", path):
            if os.path.exists(each):  # pathlib takes five times as long
                return Path(each)
        return None

    def add(self, source: BinaryIO, size: int) -> tuple[str, int]:
        """Keep what comes from ``source``, at most ``size`` bytes; its sha256 and how many there were."""
        if size <= SMALL:
            data = _read(source, size)
            digest = hashlib.sha256(data).hexdigest()
            if not self.has(digest):
                self.put(digest, data)
            return digest, len(data)
        return self._add_large(source, size)

    def put(self, digest: str, data: bytes) -> None:
        """Keep ``data``, whose sha256 is ``digest``."""
        packed = data if self._packer is None else self._packer.compress(data)
        with self._new() as (file, name):
            file.write(packed)
            name(digest)

    def _add_large(self, source: BinaryIO, size: int) -> tuple[str, int]:
        packer = None if self._packer is None else self._packer.compressobj()
        seen, left = hashlib.sha256(), size
        with self._new() as (file, name):
            while left and (data := source.read(min(PIECE, left))):
                left -= len(data)
                seen.update(data)
                file.write(packer.compress(data) if packer is not None else data)
            if packer is not None:
                file.write(packer.flush())
            digest = seen.hexdigest()
            if not self.has(digest):
                name(digest)
        return digest, size - left

    @contextlib.contextmanager
    def _new(self) -> Iterator[tuple[BinaryIO, Callable[[str], None]]]:
        """A new file, and what gives it its place; without that it goes."""
        path = self._objects / f"new-{os.getpid()}-{self._runtime.randbits(60):x}"
        suffix = "" if self._packer is None else ".zst"
        wanted: list[str] = []
        try:
            with open(path, "xb") as file:
                yield file, wanted.append
            if wanted:
                if wanted[0][:2] not in self._fans:
                    (self._objects / wanted[0][:2]).mkdir(mode=0o700, exist_ok=True)
                    self._fans.add(wanted[0][:2])
                self.written += 1
                self.written_bytes += path.stat().st_size
                path.rename(self._objects / wanted[0][:2] / (wanted[0] + suffix))
        finally:
            path.unlink(missing_ok=True)

    def read(self, digest: str) -> Iterator[bytes]:
        """The content in pieces, the last one only when all of it is what ``digest`` says.

        Raises ``NotFound`` at once and ``Corrupt`` wherever that shows.
        """
        path = self._find(digest)
        if path is None:
            raise NotFound(f"the content {digest} is not in {self.folder}")
        return self._pieces(path, digest)

    def _pieces(self, path: Path, digest: str) -> Iterator[bytes]:
        seen = hashlib.sha256()
        held = b""
        try:
            for piece in _unpacked(path):
                seen.update(piece)
                if held:
                    yield held
                held = piece
        except OSError as why:
            raise Corrupt(f"{path} cannot be read: {why.strerror}") from why
        if seen.hexdigest() != digest:
            raise Corrupt(f"{path} has other content than its name says: remove it and restore from the hub")
        if held:
            yield held

    # -- manifests

    def ids(self) -> list[str]:
        """The checkpoints that are there."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(
                name.removesuffix(".json") for name in os.listdir(self._manifests) if _MANIFEST.fullmatch(name)
            )
        return []

    def manifest(self, checkpoint_id: str) -> bytes | None:
        """A manifest; ``None`` when it is not there."""
        try:
            return (self._manifests / f"{checkpoint_id}.json").read_bytes()
        except FileNotFoundError:
            return None

    def put_manifest(self, checkpoint_id: str, data: bytes) -> None:
        """Keep a manifest: when this returns the checkpoint is there, before that it is not."""
        _replace(self._manifests / f"{checkpoint_id}.json", data, durable=True)

    def remove_manifest(self, checkpoint_id: str) -> None:
        """Forget a checkpoint; its contents go with the next :meth:`keep_only`."""
        (self._manifests / f"{checkpoint_id}.json").unlink(missing_ok=True)

    def keep_only(self, digests: Collection[str]) -> int:
        """Remove every other content, and what was left half-written; how many contents went."""
        removed = 0
        for path in self._files():
            if path.name.partition(".")[0] not in digests:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _files(self) -> Iterator[Path]:
        for fan in sorted(self._objects.iterdir()):
            if fan.is_dir():
                yield from sorted(fan.iterdir())
            else:
                fan.unlink(missing_ok=True)

    # -- what is known of files

    def known(self) -> dict[str, tuple[int, ...]]:
        """What :meth:`note_known` noted, the digest as a number; empty when it cannot be read."""
        try:
            said = json.loads((self.folder / "stat.json").read_bytes())
            return {path: (*map(int, each[:-1]), int(each[-1], 16)) for path, each in said.items()}
        except (OSError, ValueError, TypeError, AttributeError, IndexError):
            return {}

    def note_known(self, known: dict[str, tuple[int, ...]]) -> None:
        """Note what files look like: numbers by path, the last one the digest."""
        said = {path: [*each[:-1], f"{each[-1]:064x}"] for path, each in known.items()}
        _replace(self.folder / "stat.json", json.dumps(said, separators=(",", ":")).encode(), durable=False)

    def _after_boot(self) -> None:
        """Once a boot: remove the contents that a power cut has spoilt."""
        boot = self._runtime.boot_id()
        path = self.folder / "boot"
        try:
            if path.read_text() == boot:
                return
        except (OSError, UnicodeDecodeError):
            pass
        self.verify()
        _replace(path, boot.encode(), durable=True)

    def verify(self) -> None:
        """Remove every content that is not what its name says, and forget what files looked like."""
        (self.folder / "stat.json").unlink(missing_ok=True)
        for each in self._files():
            digest = each.name.partition(".")[0]
            try:
                if not is_digest(digest):
                    raise Corrupt(f"{each} is no content")
                for _ in self._pieces(each, digest):
                    pass
            except Corrupt:
                each.unlink(missing_ok=True)


def _unpacked(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        if path.suffix != ".zst":
            while data := file.read(PIECE):
                yield data
            return
        codec = _zstandard()
        if codec is None:
            raise UsageError(f"{path} is compressed with zstd: install it, pip install 'ghcoord[worker]'")
        try:
            if os.fstat(file.fileno()).st_size <= SMALL:
                packed = file.readall()
                if 0 <= codec.frame_content_size(packed) <= SMALL:
                    yield codec.ZstdDecompressor().decompress(packed)
                    return
                file.seek(0)
            yield from codec.ZstdDecompressor().read_to_iter(file, read_size=PIECE, write_size=PIECE)
        except codec.ZstdError as why:
            raise Corrupt(f"{path} is damaged: {why}") from why


def _read(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    while data and len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data


def _replace(path: Path, data: bytes, *, durable: bool) -> None:
    """Replace a file at once, so that a crash leaves the old one or the new one."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(new, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@cache
def _zstandard() -> ModuleType | None:
    """The zstandard module; ``None`` where it is not installed."""
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard
