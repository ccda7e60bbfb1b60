"""What an environment has installed, by the names of its folders: no file of it is opened, no code of it runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ghcoord.errors import GhcoordError

if TYPE_CHECKING:
    from ghcoord.execution.files.beneath import Files

ENVIRONMENT = ".venv"
"""The environment's folder in a workspace."""

MAX_PACKAGES = 5_000
"""Packages that a lock may have; more are left out."""

MAX_ENTRIES = 50_000
"""Entries of ``site-packages`` that are looked at."""

_SUFFIX = ".dist-info"
_LIBRARY = re.compile(r"python3\.\d{1,3}t?")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", re.ASCII)
_VERSION = re.compile(
    r"v?(?:\d{1,9}!)?\d{1,18}(?:\.\d{1,18}){0,20}"
    r"(?:[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d{0,18})?"
    r"(?:[-_.]?(?:post|rev|r)[-_.]?\d{0,18})?(?:[-_.]?dev[-_.]?\d{0,18})?"
    r"(?:\+[a-z0-9]{1,64}(?:[-_.][a-z0-9]{1,64}){0,8})?",
    re.ASCII | re.IGNORECASE,
)
"""PEP 440, with ends."""


def normal_name(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(files: Files) -> tuple[str, ...]:
    """``name==version`` of each package in the workspace's environment, sorted; empty without an environment.

    What is not the name of a distribution's folder is passed over.  A package
    that is there twice counts once, with the first version in alphabetical order.
    """
    found: dict[str, str] = {}
    for name in sorted(_distributions(files)):
        project, dash, version = name.removesuffix(_SUFFIX).partition("-")
        if dash and _NAME.fullmatch(project) and _VERSION.fullmatch(version):
            found.setdefault(normal_name(project), version.lower())
    return tuple(f"{name}=={version}" for name, version in sorted(found.items())[:MAX_PACKAGES])


def _distributions(files: Files) -> list[str]:
    names: list[str] = []
    for library in _names(files, f"{ENVIRONMENT}/lib"):
        if _LIBRARY.fullmatch(library):
            names += _names(files, f"{ENVIRONMENT}/lib/{library}/site-packages")
    return [name for name in names if name.endswith(_SUFFIX)]


def _names(files: Files, folder: str) -> list[str]:
    """The folders in ``folder``; none where there is no such folder inside the workspace."""
    try:
        entries = files.list(folder, limit=MAX_ENTRIES)
    except GhcoordError:
        return []
    return [entry.path.rpartition("/")[2] for entry in entries if entry.kind == "folder"]
