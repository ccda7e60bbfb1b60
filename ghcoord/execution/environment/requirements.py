"""Which requirements ``pkg.install`` takes: names, extras, versions and markers of PEP 508, nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ghcoord.errors import UsageError

MAX_REQUIREMENTS = 2000
MAX_LENGTH = 500
"""Characters of one requirement."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = r"(?:~=|===?|!=|<=?|>=?)\s*[A-Za-z0-9_.*+!-]+"
_VERSIONS = rf"{_VERSION}(?:\s*,\s*{_VERSION})*\s*,?"
_MARKER = r"""[A-Za-z0-9_.,'"()<>=!~ \t+*-]+"""
_REQUIREMENT = re.compile(
    rf"{_NAME}\s*(?:\[\s*(?:{_NAME}(?:\s*,\s*{_NAME})*)?\s*\])?\s*"
    rf"(?:\({_VERSIONS}\)|{_VERSIONS})?\s*(?:;\s*{_MARKER})?",
    re.ASCII,
)
_FILES = (".whl", ".zip", ".gz", ".bz2", ".xz", ".zst", ".tgz", ".tar", ".txt", ".toml", ".egg")


def split_requirements(text: str) -> list[str]:
    """The requirements in ``text``: one a line, or several with spaces between; ``#`` starts a comment.

    Raises :class:`UsageError` naming what is none.
    """
    found: list[str] = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        whole = " @ " in line or (len(line) <= MAX_LENGTH and _REQUIREMENT.fullmatch(line))
        found += [line] if whole else line.split()
    return check_requirements(found)


def check_requirements(requirements: Sequence[str]) -> list[str]:
    """``requirements`` when each is one that is installed. Raises :class:`UsageError`."""
    if not requirements:
        raise UsageError("no requirement is given: name a package, such as idna or idna==3.10")
    if len(requirements) > MAX_REQUIREMENTS:
        raise UsageError(f"{len(requirements)} requirements are given: at most {MAX_REQUIREMENTS} are taken at a time")
    for each in requirements:
        _check(each)
    return list(requirements)


def _check(text: str) -> None:
    shown = repr(text[:80])
    if len(text) > MAX_LENGTH:
        raise UsageError(f"the requirement {shown} has {len(text)} characters: at most {MAX_LENGTH} are taken")
    if text.startswith("-"):
        raise UsageError(f"{shown} is an option: pkg.install takes requirements only, such as idna==3.10")
    if "://" in text or "@" in text or text.startswith("git+"):
        raise UsageError(f"{shown} is a URL: only packages of the index are installed; name one, such as idna==3.10")
    if "/" in text or "\\" in text or text.startswith(".") or text.lower().endswith(_FILES):
        raise UsageError(f"{shown} is a file: only packages of the index are installed; name one, such as idna==3.10")
    if not _REQUIREMENT.fullmatch(text):
        raise UsageError(
            f"{shown} is no requirement: write name, name==1.2 or name[extra]>=1,<2; "
            "one with spaces or a marker needs a line of its own"
        )
