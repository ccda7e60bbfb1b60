"""Sandboxes whose set-up was cut short by the death of their worker: found and ended.

Between their start and the moment they have tied themselves to their parents,
bubblewrap and its child wait for a worker or for each other, for ever, when a
SIGKILL has taken what they wait for.  They have run nothing of the task.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_MARK = "/memfd:ghcoord"  # what data_fd() calls its files: only our launches hold them


def end_orphans() -> int:
    """End such leftovers of this machine, as far as we may; returns how many.

    One is a ``bwrap`` of ours that is the first process of a pid namespace
    while the bubblewrap outside of it is dead, or that one's worker: its parent
    is the system's first process.  Where a worker is itself that one, as in a
    container, only the former is looked for.
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
        if parent != "1" and not (outer_too and _status(folder.parent / parent)[:2] == ("bwrap", "1")):
            return False
        return any(os.readlink(fd).startswith(_MARK) for fd in (folder / "fd").iterdir())
    except (OSError, ValueError):
        return False  # gone by now, or somebody else's


def _status(folder: Path) -> tuple[str, str, list[str]]:
    fields = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    return fields.get("Name", ""), fields.get("PPid", ""), fields.get("NSpid", "").split()
