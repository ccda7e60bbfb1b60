"""Who holds the contents of artifacts outside the hub: a directory, or a bucket (:mod:`ghcoord.coord.artifacts.s3`).

Each content is the artifact's own there, under its id: no transaction spans the
hub and somebody else's storage, and what nobody shares nobody loses.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from ghcoord.coord.files.sending import Stream
from ghcoord.errors import Denied, NotFound, StoreError, TooLarge, Unavailable
from ghcoord.ids import fan_out

PIECE = 1024 * 1024
"""Bytes that are read at once."""

_FULL = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)


class Holder(Protocol):
    """Keeps contents by the id of their artifact. Raises the subclasses of ``StoreError`` and ``NotFound`` alone."""

    def put(self, artifact_id: str, content: Stream) -> None:
        """Keep all that ``content`` gives; nothing is there until all is."""
        ...

    def read(self, artifact_id: str) -> Iterator[bytes]:
        """The content in pieces; raises ``NotFound`` where there is none."""
        ...

    def delete(self, artifact_id: str) -> None:
        """Remove the content, if it is there."""
        ...


class Directory:
    """Contents as files below ``folder``, which is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, artifact_id: str) -> Path:
        first, second = fan_out(artifact_id)
        return self._folder / first / second / artifact_id

    def put(self, artifact_id: str, content: Stream) -> None:
        path = self._path(artifact_id)
        partial = path.with_name(f"{artifact_id}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as file:
                while piece := content.read(PIECE):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise self._refused(error, "written to") from error

    def read(self, artifact_id: str) -> Iterator[bytes]:
        try:
            file = self._path(artifact_id).open("rb")
        except FileNotFoundError:
            raise NotFound(f"the content of the artifact {artifact_id!r} is not in {self._folder}") from None
        except OSError as error:
            raise self._refused(error, "read") from error
        return self._pieces(file)

    def _pieces(self, file: BinaryIO) -> Iterator[bytes]:
        with file:
            try:
                while piece := file.read(PIECE):
                    yield piece
            except OSError as error:
                raise self._refused(error, "read") from error

    def delete(self, artifact_id: str) -> None:
        try:
            self._path(artifact_id).unlink(missing_ok=True)
        except OSError as error:
            raise self._refused(error, "changed") from error

    def _refused(self, error: OSError, what: str) -> StoreError:
        why = error.strerror or str(error)
        message = f"the directory of artifacts {self._folder} cannot be {what}: {why}"
        if isinstance(error, PermissionError):
            return Denied(message)
        return TooLarge(message) if error.errno in _FULL else Unavailable(message)
