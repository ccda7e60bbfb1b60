"""What uv's complaints mean for who asked: one sentence that names the fix."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ghcoord.execution.process import Completed

_NOT_FOUND = re.compile(r"(\S+) was not found in the package registry")
_NO_WHEEL = re.compile(r"(?:has no (?:usable )?wheels|no (?:usable|matching) wheels|source distribution.*disabled)")
_NO_SPACE = re.compile(r"No space left on device|File too large|Disk quota exceeded")
_CAUSE = re.compile(r"cause: (?:Because )?(.*?)(?:, we can conclude\b|\. (?:And|So)\b|$)")
_FILE_TOO_LARGE = 128 + 25
"""The exit code after SIGXFSZ."""


def explain(done: Completed, *, only_binary: bool, refused: Sequence[str], failed: Sequence[str]) -> str:
    """Why the installation failed; empty when it did not.

    ``refused`` and ``failed`` are what the relay says: hosts that are not
    allowed, and those that could not be reached.
    """
    if not done.exit_code:
        return ""
    said = re.sub(r"\s+", " ", done.stderr).strip()
    found = _NOT_FOUND.search(said)
    if refused and not found:
        return f"not allowed: {refused[0]}"
    if failed:
        return f"the package index does not answer: {failed[0]}"
    if found:
        return f"the index has no package {found[1]}"
    if only_binary and _NO_WHEEL.search(said):
        return (
            "a package has no wheel for this Python, and only wheels are installed: choose another version, "
            "or give only_binary=false to build it in the sandbox"
        )
    if done.exit_code == _FILE_TOO_LARGE or _NO_SPACE.search(said):
        return "no room is left for the packages: a limit of the workspace or of its files is reached"
    if cause := _CAUSE.search(said):
        return cause[1][:500]
    lines = [line.removeprefix("error:").strip() for line in done.stderr.splitlines() if line.startswith("error:")]
    return lines[0][:500] if lines else f"the installer ended with exit code {done.exit_code}"
