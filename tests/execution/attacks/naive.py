"""What a worker does that trusts what lies in a workspace: each of these is what an attempt succeeds against."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any


def checked(root: Path, path: str) -> str:
    """Resolve first, compare then; whoever opens the answer opens what has its name by that time."""
    real = os.path.realpath(root / path)
    if not f"{real}/".startswith(f"{root}/"):
        raise ValueError(f"{path} leads out of the workspace")
    return real


def read(root: Path, path: str) -> bytes:
    return Path(checked(root, path)).read_bytes()


def write(root: Path, path: str, data: bytes) -> None:
    Path(checked(root, path)).write_bytes(data)


def names(root: Path, path: str) -> list[str]:
    return os.listdir(checked(root, path))


def delete(root: Path, path: str) -> None:
    os.unlink(checked(root, path))


def read_no_link(root: Path, path: str) -> bytes:
    """Follows no symbolic link, and believes that this is enough."""
    fd = os.open(root / path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def clear(folder: Path) -> None:
    """Give everything back to its owner, so that it can be removed; as ``chmod -R`` does."""
    for at, folders, others in os.walk(folder):
        for name in folders + others:
            path = Path(at, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISLNK(mode):
                os.chmod(path, stat.S_IMODE(mode) | 0o600)


def disk_use(folder: Path) -> int:
    """What ``du`` counts: files that have a name."""
    return sum(os.lstat(Path(at, name)).st_blocks * 512 for at, _, found in os.walk(folder) for name in found)


def unpack(archive: bytes, target: Path) -> None:
    """As :mod:`tarfile` did for twenty years."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(target, filter="fully_trusted")


def unpack_checked(archive: bytes, target: Path) -> None:
    """Looks where every member and every link leads before it is made, by resolving the path."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            checked(target, member.name)
            if member.issym():
                checked(target, os.path.join(os.path.dirname(member.name), member.linkname))
            if member.islnk():
                checked(target, member.linkname)
            tar.extract(member, target, filter="fully_trusted")


def install_wheel(wheel: bytes, site: Path) -> None:
    """Write the members where their names say."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name in archive.namelist():
            path = os.path.join(site, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(path).write_bytes(archive.read(name))


def look_at_packages(site: Path) -> None:
    """Ask the environment what it has, with an interpreter outside of any sandbox."""
    code = "import site, sys; site.addsitedir(sys.argv[1]); from importlib import metadata; metadata.distributions()"
    subprocess.run([sys.executable, "-c", code, str(site)], check=True, stdout=subprocess.DEVNULL)


def build(source: bytes, folder: Path) -> None:
    """Unpack a source distribution and have it tell what it is."""
    unpack(source, folder)
    (project,) = folder.iterdir()
    subprocess.run([sys.executable, "setup.py", "egg_info"], cwd=project, check=False, capture_output=True)


def install_from(cache: Path, name: str, environment: Path) -> None:
    """By hard links, which is quick."""
    environment.mkdir(parents=True, exist_ok=True)
    os.link(cache / name, environment / name)


def read_report(text: bytes) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def remove(folder: Path) -> None:
    shutil.rmtree(folder)
