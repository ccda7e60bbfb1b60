"""The tools that work on files: ``fs.read``, ``fs.write``, ``fs.list``, ``fs.delete`` and ``fs.move``.

They run in the worker itself and start nothing, so they cost no sandbox; what
keeps them in the workspace is :class:`ghcoord.execution.files.beneath.Files`.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ghcoord.errors import UsageError
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.files.entries import Entry
from ghcoord.execution.files.paths import folder_path, shown, workspace_path
from ghcoord.execution.tools.arguments import Arguments, FilePath, FolderPath, Returns, declare
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.tool import Tool, ToolContext, ToolResult

READ_BYTES = 48 * 1024
"""Bytes that ``fs.read`` returns when no ``limit`` is given: as base64 what a record keeps of one text (MAX_TEXT)."""

MOST_READ = 8 * 1024 * 1024
"""Bytes that ``fs.read`` returns at most in one call."""

MOST_ENTRIES = 10_000
"""Names that ``fs.list`` returns at most."""

LIST_BYTES = 400 * 1024
"""Bytes of JSON that a list may have; a record takes 600,000."""

_REMEMBERED = 256
"""Workspaces whose size is remembered between calls."""

_FRESH = 1.0
"""Seconds for which it is: commands write as well, and their writing is not seen here."""

_REST = 20
"""The same, in times of what counting took: nobody keeps a worker busy with that."""

_NO_TEXT = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"}
"""Codecs of Python that are no encodings of a file's text, some of them slow on purpose-made input."""


def _mode(value: Any) -> Any:
    """``0644`` in either spelling: ``420`` or ``"0644"``."""
    if isinstance(value, str):
        try:
            value = int(value, 8)
        except ValueError:
            raise ValueError('mode must be octal digits such as "0644", or a number') from None
    if isinstance(value, int) and not isinstance(value, bool) and not 0 <= value <= 0o777:
        raise ValueError("mode must be between 0 and 0777: permission bits only")
    return value


Mode = Annotated[int | None, BeforeValidator(_mode, json_schema_input_type=int | str | None)]
"""Permission bits, as a number or as octal digits."""


class _Read(Arguments):
    path: FilePath
    offset: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=0, le=MOST_READ)
    encoding: str = "utf-8"


class _ReadResult(Returns):
    path: str
    contents: str
    size: int
    encoding: str
    offset: int
    next_offset: int | None


class _Write(Arguments):
    path: FilePath
    contents: str
    encoding: str = "utf-8"
    mode: Mode = None
    append: bool = False


class _WriteResult(Returns):
    path: str
    bytes_written: int


class _List(Arguments):
    path: FolderPath = "."
    recursive: bool = False
    glob: str | None = None
    details: bool = False


class _Details(Returns):
    path: str
    kind: str
    size: int
    mode: str
    mtime: float
    target: str


class _ListResult(Returns):
    path: str
    entries: list[str]
    details: list[_Details] | None = None


class _Delete(Arguments):
    path: FilePath
    recursive: bool = False


class _DeleteResult(Returns):
    path: str
    deleted: int


class _Move(Arguments):
    source: FilePath
    target: FilePath
    overwrite: bool = False


class _MoveResult(Returns):
    source: str
    target: str


def tools(kit: Kit) -> list[Tool]:
    """All of them: they need no sandbox."""
    work = _Work(kit)
    return [
        declare("fs.read", "Read a file of the workspace.", _Read, partial(_read, work), returns=_ReadResult),
        declare("fs.write", "Write or append to a file.", _Write, partial(_write, work), returns=_WriteResult),
        declare("fs.list", "List a folder.", _List, partial(_list, work), returns=_ListResult),
        declare("fs.delete", "Delete a file or folder.", _Delete, partial(_delete, work), returns=_DeleteResult),
        declare("fs.move", "Move or rename a file or folder.", _Move, partial(_move, work), returns=_MoveResult),
    ]


class _Work:
    """Opens workspaces, and remembers between calls how much lies in them."""

    def __init__(self, kit: Kit) -> None:
        self._identity = kit.sandbox.identity if kit.sandbox is not None else None
        self._ceiling = kit.limits
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._now = kit.runtime.monotonic
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def files(self, ctx: ToolContext, *, fresh: bool = False) -> Iterator[Files]:
        """The call's files; with ``fresh`` their size is counted anew when it matters."""
        name = str(ctx.workspace)
        with Files(ctx.workspace, self._identity, limits=ctx.limits.under(self._ceiling)) as files:
            with self._lock:
                known, until = self._known.pop(name, (0, 0.0))
            began = self._now()
            if remembered := began < until and not fresh:
                files.known = known
            yield files
            if files.known is not None:
                ended = self._now()
                with self._lock:
                    lasting = max(_FRESH, _REST * (ended - began))
                    self._known[name] = (files.known, until if remembered else ended + lasting)
                    while len(self._known) > _REMEMBERED:
                        self._known.popitem(last=False)


# -- text and bytes


def _codec(encoding: str) -> codecs.CodecInfo:
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):
        raise UsageError(f"unknown encoding {encoding[:40]!r}: utf-8, base64, or a codec of Python") from None
    if not codec._is_text_encoding or codec.name in _NO_TEXT or codec.name.replace("-", "_") in _NO_TEXT:
        raise UsageError(f"{encoding[:40]!r} is no encoding of text: utf-8, base64, or a text codec of Python")
    return codec


def _encode(text: str, encoding: str) -> bytes:
    if encoding == "base64":
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as wrong:
            raise UsageError(f"contents is not valid base64: {wrong}") from None
    codec = _codec(encoding)
    try:
        return codec.encode(text)[0]
    except UnicodeError as wrong:
        raise UsageError(f"contents cannot be written as {encoding}: {wrong}") from None


def _decode(data: bytes, encoding: str, path: str, *, whole: bool) -> tuple[str, int]:
    """The text, and how many bytes it took: without ``whole`` a character cut at the end is left for the next call."""
    if encoding == "base64":
        return base64.b64encode(data).decode(), len(data)
    codec = _codec(encoding)
    try:
        if whole or codec.incrementaldecoder is None:
            return codec.decode(data)[0], len(data)
        decoder = codec.incrementaldecoder()
        text = decoder.decode(data)
        return text, len(data) - len(decoder.getstate()[0])
    except UnicodeError as wrong:
        raise UsageError(f"{shown(path)} is not {encoding} text: {wrong}; pass encoding=base64") from None


# -- tools


def _read(work: _Work, args: _Read, ctx: ToolContext) -> ToolResult:
    path = workspace_path(args.path)
    if args.encoding != "base64":
        _codec(args.encoding)
    wanted = READ_BYTES if args.limit is None else args.limit
    with work.files(ctx) as files:
        data, size = files.read(path, args.offset, wanted)
    end = args.offset + len(data)
    text, used = _decode(data, args.encoding, path, whole=end >= size)
    if not used and data:
        raise UsageError(f"limit is less than one character of {args.encoding}: at least 4")
    more = args.offset + used < size
    fields = {
        "path": shown(path),
        "contents": text,
        "size": size,
        "encoding": args.encoding,
        "offset": args.offset,
        "next_offset": args.offset + used if more else None,
    }
    output = "" if args.encoding == "base64" else text
    return ToolResult(success=True, output=output, data=fields, truncated=more and args.limit is None)


def _write(work: _Work, args: _Write, ctx: ToolContext) -> ToolResult:
    path = workspace_path(args.path)
    data = _encode(args.contents, args.encoding)
    with work.files(ctx) as files:
        written = files.write(path, data, mode=args.mode, append=args.append)
    return ToolResult(success=True, output=f"{written} bytes\n", data={"path": shown(path), "bytes_written": written})


def _list(work: _Work, args: _List, ctx: ToolContext) -> ToolResult:
    path = folder_path(args.path)
    with work.files(ctx) as files:
        found = files.list(path, recursive=args.recursive, glob=args.glob, limit=MOST_ENTRIES + 1)
    names: list[str] = []
    details: list[dict[str, Any]] = []
    left = LIST_BYTES
    for entry in found[:MOST_ENTRIES]:
        each = _details(entry)
        left -= len(json.dumps(each["path"])) + (len(json.dumps(each)) if args.details else 0) + 4
        if left < 0:
            break
        names.append(each["path"])
        details.append(each)
    fields = {"path": shown(path), "entries": names, **({"details": details} if args.details else {})}
    output = "".join(f"{name}\n" for name in names)
    return ToolResult(success=True, output=output, data=fields, truncated=len(names) < len(found))


def _details(entry: Entry) -> dict[str, Any]:
    return {
        "path": shown(entry.path),
        "kind": entry.kind,
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "mtime": round(entry.mtime_ns / 1e9, 3),
        "target": shown(entry.target),
    }


def _delete(work: _Work, args: _Delete, ctx: ToolContext) -> ToolResult:
    path = workspace_path(args.path)
    with work.files(ctx, fresh=True) as files:
        deleted = files.delete(path, recursive=args.recursive)
    return ToolResult(success=True, output=f"{deleted} deleted\n", data={"path": shown(path), "deleted": deleted})


def _move(work: _Work, args: _Move, ctx: ToolContext) -> ToolResult:
    source, target = workspace_path(args.source), workspace_path(args.target)
    with work.files(ctx) as files:
        files.move(source, target, overwrite=args.overwrite)
    return ToolResult(success=True, data={"source": shown(source), "target": shown(target)})
