"""Sandboxes whose set-up was cut short by the death of their worker: found and ended.

Between their start and the moment they have tied themselves to their parents,
a SIGKILL of the worker leaves bubblewrap and its child waiting for it or for
each other for ever; or, when they were told to go on already, leaves the
command running inside, with nobody to hold it to its time and soft limits.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

MARK = ("--setenv", "GHCOORD_SANDBOX", "1")
"""Options of our launches by which they are known; the variable is cleared before the command starts."""

_MARK = "\0".join(("", *MARK, "")).encode()


def end_orphans() -> int:
    """End such leftovers of this machine, as far as we may; returns how many.

    One is a ``bwrap`` of ours that is the first process of a pid namespace
    while the bubblewrap outside of it is dead: then it fell to another parent.
    So is one whose bubblewrap lives while the worker is dead: that one's parent
    is the system's first process.  Where a worker is itself that one, as in a
    container, the latter is not looked for.
    """
    outer_too = not _first_is_worker()
    ended = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _is_orphan(folder, outer_too):
            with contextlib.suppress(OSError):
                os.kill(int(folder.name), signal.SIGKILL)
                ended += 1
    return ended


def _first_is_worker() -> bool:
    try:
        return os.getpid() == 1 or b"ghcoord" in Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return True


def _is_orphan(folder: Path, outer_too: bool) -> bool:
    try:
        name, parent, namespaces = _status(folder)
        if name != "bwrap" or len(namespaces) < 2 or namespaces[-1] != "1":
            return False
        above, grandparent, _ = _status(folder.parent / parent)
        if above == "bwrap" and not (outer_too and grandparent == "1"):
            return False
        return _MARK in (folder / "cmdline").read_bytes()
    except (OSError, ValueError):
        return False  # gone by now, or somebody else's


def _status(folder: Path) -> tuple[str, str, list[str]]:
    fields = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    return fields.get("Name", ""), fields.get("PPid", ""), fields.get("NSpid", "").split()
