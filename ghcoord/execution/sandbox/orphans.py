"""Sandboxes whose set-up was cut short by the death of their worker: found and ended.

Between its start and the moment it has tied itself to its parent, bubblewrap's
child waits for a parent that a SIGKILL may have taken, for ever.  It has run
nothing of the task.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_MARK = "/memfd:ghcoord"  # what data_fd() calls its files: only our launches hold them


def end_orphans() -> int:
    """End such leftovers of this machine, as far as we may; returns how many.

    One is a ``bwrap`` that is the first process of a pid namespace while its
    parent is the system's first: the bubblewrap outside of it is dead.
    """
    ended = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _is_orphan(folder):
            with contextlib.suppress(OSError):
                os.kill(int(folder.name), signal.SIGKILL)
                ended += 1
    return ended


def _is_orphan(folder: Path) -> bool:
    try:
        fields = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
        namespaces = fields.get("NSpid", "").split()
        if (fields.get("Name"), fields.get("PPid")) != ("bwrap", "1") or len(namespaces) < 2 or namespaces[-1] != "1":
            return False
        return any(os.readlink(fd).startswith(_MARK) for fd in (folder / "fd").iterdir())
    except (OSError, ValueError):
        return False  # gone by now, or somebody else's
