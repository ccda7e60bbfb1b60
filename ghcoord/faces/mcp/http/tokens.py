"""The token file: bearer tokens that this server made, kept as digests, revoked without a restart.

The file is JSON, mode 0600, and written by renaming a new one over it.  It is
read again for each request, so what ``token create`` and ``token revoke`` do
counts at once.  A file that cannot be read lets nobody in.
"""

from __future__ import annotations

import base64
import builtins
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ghcoord.clock import Runtime
from ghcoord.errors import NotFound, UsageError
from ghcoord.faces.mcp.http.grants import ELSEWHERE, MAX_WHO, OVER, UNKNOWN, Grant, checked_who
from ghcoord.faces.mcp.http.urls import same_resource
from ghcoord.ids import new_op_id

PREFIX = "ghc_"
"""What each token begins with, so that scanners for leaked secrets know it."""

MAX_TOKENS = 10_000
"""Tokens of one file: it is read for each request."""

MAX_BYTES = 8 * 1024 * 1024


class TokenRecord(BaseModel):
    """One token; times in seconds since the epoch. The token itself is not kept, only its SHA-256."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    user: str = Field(min_length=1, max_length=MAX_WHO)
    workspace: str = Field(default="", max_length=MAX_WHO)
    resource: str = Field(min_length=1)
    created_at: float
    expires_at: float
    read_only: bool = False


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(default=1, ge=1, le=1)
    tokens: list[TokenRecord] = []


@dataclass(frozen=True, slots=True)
class Made:
    """A new token: ``secret`` is what the client sends, known only here and now."""

    record: TokenRecord
    secret: str


class TokenFile:
    """A token file. May be used by several threads and processes."""

    issuer = ""

    def __init__(self, path: Path, runtime: Runtime, complain: Callable[[str], None] = lambda text: None) -> None:
        self.path = path
        self._runtime = runtime
        self._complain = complain
        self._seen: tuple[bytes, dict[str, TokenRecord]] = b"", {}
        self._complained = ""

    def check(self) -> TokenFile:
        """This file, known to be readable and in order. Raises ``UsageError`` saying what is wrong."""
        self._load()
        return self

    def verify(self, token: str, resource: str) -> Grant | None:
        """What ``token`` is good for: nothing once it expired or was revoked, or when the file cannot be read."""
        known = self._known()
        record = known.get(_digest(token))
        if record is None or record.expires_at <= self._runtime.now():
            return None
        return Grant(
            user_id=record.user,
            workspace_id=record.workspace,
            credential=record.id,
            resource=resource if same_resource(record.resource, resource) else record.resource,
            expires_at=record.expires_at,
            read_only=record.read_only,
        )

    def why_not(self, token: str, resource: str) -> str:
        """Why :meth:`verify` gives nothing, or nothing for ``resource``."""
        record = self._known().get(_digest(token))
        if record is None:
            return UNKNOWN
        return OVER if record.expires_at <= self._runtime.now() else ELSEWHERE

    def serves(self, resource: str) -> bool:
        """Whether any token is good at ``resource`` now."""
        now = self._runtime.now()
        return any(one.expires_at > now and same_resource(one.resource, resource) for one in self._known().values())

    def stands(self, grant: Grant) -> bool:
        """Whether the token of ``grant`` has neither expired nor been revoked."""
        record = next((one for one in self._known().values() if one.id == grant.credential), None)
        return record is not None and self._runtime.now() < record.expires_at

    def _known(self) -> dict[str, TokenRecord]:
        """The tokens by their digests: none when the file cannot be used, which is said once."""
        try:
            known = self._load()
        except UsageError as problem:
            if problem.message != self._complained:
                self._complained = problem.message
                self._complain(f"no token is accepted: {problem.message}")
            return {}
        self._complained = ""
        return known

    def create(self, user: str, *, workspace: str = "", resource: str, lasts: float, read_only: bool = False) -> Made:
        """Make a token that is good for ``lasts`` seconds at ``resource``. Makes the file when there is none.

        Raises ``UsageError``, ``InvalidName``.
        """
        made_for = checked_who(user, "user")
        place = checked_who(workspace, "workspace") if workspace else ""
        secret = PREFIX + _text(self._runtime.randbits(256))
        now = self._runtime.now()
        record = TokenRecord(
            id=new_op_id(self._runtime.randbits)[:10],
            sha256=_digest(secret),
            user=made_for,
            workspace=place,
            resource=resource,
            created_at=now,
            expires_at=now + lasts,
            read_only=read_only,
        )
        with self._writing() as records:
            if len(records) >= MAX_TOKENS:
                raise UsageError(f"{self.path} has {MAX_TOKENS} tokens: revoke those that are not used")
            records.append(record)
        return Made(record, secret)

    def list(self) -> list[TokenRecord]:
        """All tokens, expired ones too, oldest first. Raises ``UsageError``; no file is no token."""
        return sorted(self._load().values(), key=lambda one: one.created_at) if self.path.exists() else []

    def revoke(self, token_id: str) -> TokenRecord:
        """Take the token of this id back, at once. Raises ``NotFound``, ``UsageError``."""
        if not self.path.exists():
            raise NotFound(f"there is no token file {self.path}")
        with self._writing() as records:
            found = next((one for one in records if one.id == token_id), None)
            if found is None:
                raise NotFound(f"there is no token {token_id[:64]!r} in {self.path}")
            records.remove(found)
        return found

    def _load(self) -> dict[str, TokenRecord]:
        data = _read_private(self.path)
        seen, known = self._seen
        if data != seen or not known:
            known = {one.sha256: one for one in _parse(data, self.path)}
            self._seen = data, known
        return known

    @contextmanager
    def _writing(self) -> Iterator[builtins.list[TokenRecord]]:
        """The records, written when the block ends well. One process at a time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            records = _parse(_read_private(self.path), self.path) if self.path.exists() else []
            yield records
            content = _Content(tokens=records).model_dump(mode="json")
            try:
                _replace(self.path, (json.dumps(content, indent=2) + "\n").encode())
            except OSError as error:
                raise UsageError(f"{self.path} cannot be written: {error.strerror}") from None
        finally:
            os.close(lock)


def _text(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(32, "big")).decode().rstrip("=")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _read_private(path: Path) -> bytes:
    """The bytes of a file that nobody but its owner may read or write. Raises ``UsageError``."""
    try:
        # A descriptor without blocking: what is no regular file may have no end.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_mode & 0o077 or facts.st_uid not in (os.geteuid(), 0):
                raise UsageError(f"others may use the token file {path}: chmod 600 it, and let it be your own")
            data = file.read(MAX_BYTES + 1) or b""
    except FileNotFoundError:
        raise UsageError(f"there is no token file {path}: ghcoord mcp token create --user NAME makes one") from None
    except OSError as error:
        raise UsageError(f"the token file {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"the token file {path} is larger than {MAX_BYTES} bytes")
    return data


def _parse(data: bytes, path: Path) -> list[TokenRecord]:
    try:
        return _Content.model_validate_json(data).tokens
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"the token file {path} is not in order: {where}: {first['msg']}") from None


def _replace(path: Path, data: bytes) -> None:
    """Write ``data`` in place of ``path``, whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
