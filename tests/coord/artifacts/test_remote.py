"""Artifacts in a hub behind ``git push``: whole, in bounded pushes, in a repository that git finds sound."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect, create
from ghcoord.config import Settings
from tests.coord.files.test_content import noise
from tests.store.gitrepo import QUIET

SIZE = 20_000_000


@pytest.mark.slow
def test_a_large_binary_by_pushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB are two commits of at most 16 MiB; a fresh clone reads them; what was deleted is gone."""
    for name, value in {**QUIET, "XDG_STATE_HOME": str(tmp_path / "a"), "XDG_CACHE_HOME": str(tmp_path / "b")}.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "r.git"
    subprocess.run(["git", "init", "-q", "--bare", folder], check=True)
    url = f"git+file://{folder}"
    hub, _ = create(url, Settings())
    with hub:
        before = hub.commits
        made = hub.artifacts.put("x", noise(SIZE))
        assert 2 == hub.commits - before
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    with connect(url) as fresh:
        assert noise(SIZE) == b"".join(fresh.artifacts.open(made.id))
        assert fresh.artifacts.delete(made.id)
        assert [] == list(fresh.contents.digests("stored"))
    checked = subprocess.run(
        ["git", "--git-dir", folder, "fsck", "--strict"], capture_output=True, text=True, check=True
    )
    assert "error" not in checked.stderr
