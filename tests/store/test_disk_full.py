"""A disk that is full refuses writes clearly, loses nothing, and goes on when there is room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ghcoord.bootstrap as bootstrap
from ghcoord.errors import Unavailable
from tests.processes import call


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.getuid() != 0:
        pytest.skip("mounting a small file system takes root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False)
    if mounted.returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is full, writes fail with one line and exit code 7; what was acknowledged is there."""
    monkeypatch.setattr("ghcoord.store.wrappers.RetryingStore.__init__.__defaults__", (0.2,))
    hub, _ = bootstrap.create(small_disk / "hub.git")
    kept: list[str] = []

    def fill() -> None:
        for number in range(1000):
            hub.memory.set(f"k{number}", os.urandom(20_000).hex())
            kept.append(f"k{number}")

    with pytest.raises(Unavailable, match="No space left"):
        fill()
    failed = call(small_disk / "hub.git", "memory", "set", "big", os.urandom(50_000).hex())
    assert 7 == failed.returncode
    assert 1 == len(failed.stderr.splitlines())
    assert len(kept) == len(hub.memory.list())
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    hub.memory.set("after", 1)
    assert {*kept, "after"} == set(hub.memory.list())
    hub.close()
    done = subprocess.run(
        ["git", "-C", str(small_disk / "hub.git"), "fsck", "--strict"], capture_output=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    assert [] == [p for p in (small_disk / "hub.git").rglob("*") if p.name.endswith((".lock", ".tmp"))]
