"""Trees of files, made and read back for comparison."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ghcoord.execution.checkpoints.scan import SKIPPED


def fill(root: Path, files: dict[str, bytes | str], identity: tuple[int, int] | None = None) -> None:
    """Write files below ``root``; a path that ends in ``/`` is a folder, ``path -> target`` a link."""
    for path, content in files.items():
        name, arrow, target = path.partition(" -> ")
        where = root / name
        where.parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            where.symlink_to(target)
        elif path.endswith("/"):
            where.mkdir(exist_ok=True)
        else:
            where.write_bytes(content.encode() if isinstance(content, str) else content)
    if identity is not None:
        for above, folders, names in os.walk(root):
            for each in (above, *(f"{above}/{name}" for name in [*folders, *names])):
                os.chown(each, *identity, follow_symlinks=False)


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below ``root`` but the environment: kind, mode, mtime in microseconds, and content."""
    found: dict[str, tuple[object, ...]] = {}
    for above, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]
        for name in [*folders, *names]:
            path = Path(above) / name
            info = path.lstat()
            key = str(path.relative_to(root))
            if stat.S_ISLNK(info.st_mode):
                found[key] = ("link", os.readlink(path))
            elif stat.S_ISDIR(info.st_mode):
                found[key] = ("folder", info.st_mode & 0o7777, info.st_mtime_ns // 1000)
            else:
                found[key] = ("file", info.st_mode & 0o7777, info.st_mtime_ns // 1000, path.read_bytes())
    return found
