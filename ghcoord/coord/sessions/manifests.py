"""The manifest of a checkpoint: what its files were, by path, and which content each has.

A manifest is a record that a stranger may have pushed.  :func:`decode_manifest`
returns one only after every path, mode, digest, link and package in it was
checked; what comes out may be unpacked in any order that makes folders first
and links last.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pydantic_core
from pydantic import Field

from ghcoord.errors import Corrupt, UsageError
from ghcoord.ids import check_id, new_op_id
from ghcoord.model.codec import MAX_NUMBER, MAX_RECORD, Moment, Number, Record, Token, decode, encode
from ghcoord.model.limits import DEFAULT_LIMITS, Limits
from ghcoord.model.tier import Tier

MAX_PATH = 3000
"""Bytes of the longest path: with the folder that a workspace lies in it stays below Linux's 4,096."""

MAX_NAME = 255
"""Bytes of the longest name in a path (NAME_MAX)."""

MAX_TARGET = 4095
"""Bytes of the longest text of a symbolic link (PATH_MAX without the zero)."""

MAX_PACKAGES = 5000
"""Packages in a lock."""

MAX_MANIFEST_NAME = 200
"""Characters of what a person calls a checkpoint."""

MAX_LEFT_OUT = 200
"""Paths that a manifest names as left out; the count is of all."""

MAX_LISTING = 64 * 1024 * 1024
"""Bytes of the largest listing: 100,000 entries with long paths."""

INLINE = 400_000
"""Bytes of entries that are kept in the manifest itself; more go into a content of their own."""

ENVIRONMENT = ".venv"
"""The folder at the top that a checkpoint never holds: it is rebuilt from the lock."""

OWN_PREFIX = ".ghcoord-"
"""Names at the top that are the worker's own."""

NO_QUOTA = Limits()

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,127})==[A-Za-z0-9][A-Za-z0-9.!+_-]{0,254}", re.ASCII)
_CHECKPOINT = re.compile(r"c[0-9a-z]{12}", re.ASCII)


def new_checkpoint_id(randbits: Callable[[int], int]) -> str:
    """An id for a checkpoint: 60 random bits after ``c``."""
    return "c" + new_op_id(randbits)[:12]


def check_checkpoint_id(text: str) -> str:
    """``text`` if it may be the id of a checkpoint; raises :class:`InvalidName` or :class:`UsageError`."""
    if not _CHECKPOINT.fullmatch(check_id(text, "checkpoint id")):
        raise UsageError(f"{text[:40]!r} is no id of a checkpoint: list them with 'session checkpoint ID --list'")
    return text


def is_digest(text: str) -> bool:
    """Whether ``text`` is a sha256 as we write it."""
    return _DIGEST.fullmatch(text) is not None


def defect_of_path(path: str) -> str:
    """Why ``path`` cannot be in a checkpoint; empty when it can. The rules of file tools, and what JSON can hold."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if not path or "\0" in path:
        return "its name is empty or has a zero byte"
    if size > MAX_PATH:
        return f"its path has {size} bytes, at most {MAX_PATH} are kept"
    parts = path.split("/")
    if not parts[0]:
        return "path must be relative to workspace root, got absolute path"
    if ".." in parts:
        return "path traversal not allowed"
    if "" in parts or "." in parts:
        return "its path has an empty or '.' component"
    if size > MAX_NAME and any(len(part.encode()) > MAX_NAME for part in parts):
        return f"a component of its path has more than {MAX_NAME} bytes"
    if parts[0] == ENVIRONMENT or parts[0].startswith(OWN_PREFIX):
        return "the environment and the worker's own files are not part of a checkpoint"
    return ""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A regular file: permission bits, bytes, microseconds since the epoch, and which content it has."""

    mode: int
    size: int
    mtime_us: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A folder: permission bits and microseconds since the epoch."""

    mode: int
    mtime_us: int


class LeftOut(Record):
    """Something in the workspace that a checkpoint does not hold, and why."""

    path: str = Field(max_length=4 * MAX_PATH)
    why: str = Field(max_length=300)


class ContentRef(Record):
    """A content of the same session: its sha256 and bytes."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: Number


class ManifestRecord(Record):
    """A manifest as it is kept: files as ``MODE SIZE MTIME SHA256`` by path, folders as ``MODE MTIME``, links as text.

    MODE is octal, SIZE in bytes, MTIME in microseconds since the epoch.  With a
    ``listing`` the three lie in that content, as one JSON object.
    """

    id: str
    session: str = Field(min_length=1, max_length=128)
    epoch: Token
    created_at: Moment
    name: str = Field(default="", max_length=MAX_MANIFEST_NAME)
    worker: str = ""
    files: dict[str, str] = Field(default_factory=dict)
    folders: dict[str, str] = Field(default_factory=dict)
    links: dict[str, str] = Field(default_factory=dict)
    listing: ContentRef | None = None
    journal: ContentRef | None = None
    """Lines of the session's journal of calls."""
    python: str = Field(default="", max_length=40)
    """The version of the interpreter that the packages are for."""
    packages: tuple[str, ...] = Field(default=(), max_length=MAX_PACKAGES)
    left_out: tuple[LeftOut, ...] = Field(default=(), max_length=MAX_LEFT_OUT)
    left_out_count: Number = 0
    metadata: dict[str, Any] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    limits: Limits = NO_QUOTA
    allow: tuple[str, ...] = ()
    sandbox: Tier = Tier.FULL


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest. ``record`` has what is not about single files; its own three tables are not to be read."""

    record: ManifestRecord
    files: dict[str, FileEntry] = field(default_factory=dict)
    folders: dict[str, FolderEntry] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The checkpoint's id."""
        return self.record.id

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def contents(self) -> dict[str, int]:
        """Every content that restoring needs, with its bytes."""
        found = {entry.sha256: entry.size for entry in self.files.values()}
        for ref in (self.record.listing, self.record.journal):
            if ref is not None:
                found[ref.sha256] = ref.size
        return found


def encode_manifest(manifest: Manifest) -> tuple[bytes, bytes | None, Manifest]:
    """The record as bytes, the listing when that is a content of its own, and the manifest that knows of it.

    Raises ``TooLarge`` when the settings alone are beyond what a record may have.
    """
    tables: dict[str, dict[str, str]] = {
        "files": {
            path: f"{entry.mode:o} {entry.size} {entry.mtime_us} {entry.sha256}"
            for path, entry in manifest.files.items()
        },
        "folders": {path: f"{entry.mode:o} {entry.mtime_us}" for path, entry in manifest.folders.items()},
        "links": manifest.links,
    }
    plain = manifest.record.model_copy(update={"files": {}, "folders": {}, "links": {}, "listing": None})
    listing = json.dumps(tables, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    data = encode(plain)
    if len(data) + 2 * len(listing) <= MAX_RECORD and len(listing) <= INLINE:
        record = plain.model_copy(update=tables)
        return encode(record), None, Manifest(plain, manifest.files, manifest.folders, manifest.links)
    ref = ContentRef(sha256=hashlib.sha256(listing).hexdigest(), size=len(listing))
    record = plain.model_copy(update={"listing": ref})
    return encode(record), listing, Manifest(record, manifest.files, manifest.folders, manifest.links)


def decode_manifest(
    data: bytes, where: str, *, listing: Callable[[ContentRef], bytes], limits: Limits = NO_QUOTA
) -> Manifest:
    """The manifest in ``data``; ``listing`` brings a content when the entries lie in one of their own.

    Everything in it is checked, counts and sizes against ``limits``.  Raises
    ``Corrupt`` naming ``where``, and ``NewerSchema``.
    """
    record = decode(ManifestRecord, data, where)
    if not _CHECKPOINT.fullmatch(record.id):
        raise Corrupt(f"{where} names itself {record.id[:40]!r}, which is no id of a checkpoint")
    for pin in record.packages:
        if not _PIN.fullmatch(pin):
            raise Corrupt(f"{where}: {pin[:80]!r} is not a package with its version")
    tables: Any = {"files": record.files, "folders": record.folders, "links": record.links}
    if record.listing is not None:
        if record.listing.size > MAX_LISTING:
            raise Corrupt(f"{where}: a listing of {record.listing.size} bytes, at most {MAX_LISTING} are read")
        tables = _tables(listing(record.listing), where)
    plain = record.model_copy(update={"files": {}, "folders": {}, "links": {}})
    manifest = Manifest(
        plain,
        {path: _file(path, text, where) for path, text in tables["files"].items()},
        {path: _folder(path, text, where) for path, text in tables["folders"].items()},
        tables["links"],
    )
    check_manifest(manifest, where, limits)
    return manifest


def _tables(data: bytes, where: str) -> dict[str, dict[str, str]]:
    try:
        value = pydantic_core.from_json(data)
    except ValueError as error:
        raise Corrupt(f"{where}: its listing is not JSON: {error}") from None
    names = ("files", "folders", "links")
    if not isinstance(value, dict) or any(not isinstance(value.get(name), dict) for name in names):
        raise Corrupt(f"{where}: its listing has not files, folders and links")
    for name in names:
        if not all(isinstance(text, str) for text in value[name].values()):
            raise Corrupt(f"{where}: its listing has something other than text for one of its {name}")
    return {name: value[name] for name in names}


def _file(path: str, text: str, where: str) -> FileEntry:
    mode, size, mtime, digest = _numbers(path, text, where, 4)
    if not is_digest(digest):
        raise Corrupt(f"{where}: {_shown(path)} has no sha256")
    return FileEntry(_mode(path, mode, where), _count(path, size, where), _count(path, mtime, where), digest)


def _folder(path: str, text: str, where: str) -> FolderEntry:
    mode, mtime = _numbers(path, text, where, 2)
    return FolderEntry(_mode(path, mode, where), _count(path, mtime, where))


def _numbers(path: str, text: str, where: str, count: int) -> list[str]:
    parts = text.split(" ")
    if len(parts) != count:
        raise Corrupt(f"{where}: {_shown(path)} is described by {text[:80]!r}")
    return parts


def _mode(path: str, text: str, where: str) -> int:
    if not re.fullmatch(r"[0-7]{1,3}", text, re.ASCII):
        raise Corrupt(f"{where}: {_shown(path)} has the mode {text[:20]!r}")
    return int(text, 8)


def _count(path: str, text: str, where: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,15}", text, re.ASCII) or int(text) > MAX_NUMBER:
        raise Corrupt(f"{where}: {_shown(path)} has the number {text[:20]!r}")
    return int(text)


def _shown(path: str) -> str:
    return ascii(path if len(path) <= 80 else path[:77] + "...")


def check_manifest(manifest: Manifest, where: str, limits: Limits) -> None:
    """Raise ``Corrupt`` for a manifest that cannot have been made from a workspace, or that breaks ``limits``."""
    for kind, path in _all_paths(manifest):
        if defect := defect_of_path(path):
            raise Corrupt(f"{where}: the {kind} {_shown(path)} cannot be restored: {defect}")
        parent = path.rpartition("/")[0]
        if parent and parent not in manifest.folders:
            raise Corrupt(f"{where}: the {kind} {_shown(path)} lies in no folder of the checkpoint")
    for one, other in (("files", "folders"), ("files", "links"), ("folders", "links")):
        if both := getattr(manifest, one).keys() & getattr(manifest, other).keys():
            raise Corrupt(f"{where}: {_shown(min(both))} is among its {one} and its {other}")
    for path, target in manifest.links.items():
        if not _is_target(target):
            raise Corrupt(f"{where}: the link {_shown(path)} has a target that no link can have")
    if quota := over_quota(manifest, limits):
        raise Corrupt(f"{where} cannot be restored: {quota}")


def quota(limits: Limits) -> Limits:
    """``limits`` with the usual ``archive_files`` and ``archive_mb`` where it has none."""
    return limits.model_copy(
        update={
            "archive_files": limits.archive_files or DEFAULT_LIMITS.archive_files,
            "archive_mb": limits.archive_mb or DEFAULT_LIMITS.archive_mb,
        }
    )


def over_quota(manifest: Manifest, limits: Limits) -> str:
    """Which of ``limits`` the manifest's files are beyond; empty when none."""
    return quota_message(len(manifest.files) + len(manifest.folders) + len(manifest.links), manifest.size, limits)


def quota_message(count: int, size: int, limits: Limits) -> str:
    """What to say of ``count`` entries of ``size`` bytes; empty when ``limits`` allow them."""
    if limits.archive_files is not None and count > limits.archive_files:
        return f"more than {limits.archive_files} files and folders (limit archive_files)"
    if limits.archive_mb is not None and size > limits.archive_mb * 1024 * 1024:
        return f"files of more than {limits.archive_mb} MiB together (limit archive_mb)"
    return ""


def _is_target(target: str) -> bool:
    try:
        return 0 < len(target.encode()) <= MAX_TARGET and "\0" not in target
    except UnicodeEncodeError:
        return False


def _all_paths(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for kind, table in (("file", manifest.files), ("folder", manifest.folders), ("link", manifest.links)):
        for path in table:
            yield kind, path
