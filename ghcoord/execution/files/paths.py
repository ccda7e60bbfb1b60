"""The one check of a path that a caller names in a workspace, and how names are shown."""

from __future__ import annotations

from ghcoord.errors import PathRefused

PRIVATE_PREFIX = ".ghcoord-"
"""Begins the names of files that exist only while a call runs; they are no part of a workspace's content."""

MAX_NAME = 255
"""Bytes of the longest name of a file (NAME_MAX)."""

MAX_DEPTH = 4000
"""Folders within each other that are gone through: a bound to the work that a stranger can cause."""


def workspace_path(path: str) -> str:
    """``path`` of a file in the workspace, without empty and ``.`` parts.

    A backslash is a character like any other.  Raises :class:`PathRefused`, for
    absolute and traversing paths in the reference's words.
    """
    clean = folder_path(path)
    if clean == ".":
        raise PathRefused(f"not the path of a file: {shown(path)!r}")
    return clean


def folder_path(path: str) -> str:
    """Like :func:`workspace_path` for what may be the workspace itself, which is ``.``."""
    if "\0" in path:
        raise PathRefused(f"the path contains a NUL character: {_short(path)!r}")
    if path.startswith("/"):
        raise PathRefused(f"path must be relative to workspace root, got absolute path: {_short(path)}")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PathRefused(f"path traversal not allowed: {_short(path)}")
    if not path:
        raise PathRefused("the path is empty: name a file, or '.' for the workspace")
    try:
        sizes = [len(part.encode(errors="surrogateescape")) for part in parts]
    except UnicodeEncodeError:
        raise PathRefused("the path is not valid UTF-8") from None
    if any(size > MAX_NAME for size in sizes):
        raise PathRefused(f"a name in the path has {max(sizes)} bytes: at most {MAX_NAME} are possible")
    if len(parts) > MAX_DEPTH:
        raise PathRefused(f"the path has {len(parts)} parts: at most {MAX_DEPTH} are accepted")
    return "/".join(parts) or "."


def shown(name: str) -> str:
    r"""``name`` as text that is always valid Unicode: bytes that are not UTF-8 become ``\xff``."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _short(path: str) -> str:
    """``path`` for a message: valid, and not longer than a few lines."""
    text = path.encode(errors="backslashreplace").decode()
    return text if len(text) <= 500 else f"{text[:500]}…"
