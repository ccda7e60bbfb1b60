"""Checkpoints on a hub behind GitHub's API: what they send, and that they come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord import bootstrap
from ghcoord.config import load_settings
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.worker import SandboxInfo
from tests.acceptance.hubs import network_hub
from tests.execution.checkpoints.conftest import desk, passable
from tests.execution.checkpoints.test_checkpoints import again
from tests.execution.checkpoints.trees import fill, tree

SAVED = {"github": 3, "github-rest": 8, "remote-http": 10}
"""Requests of a second checkpoint: at best two commits, and a look at what is new."""

RESTORED = {"github": 6, "github-rest": 110, "remote-http": 4}
"""Requests that bring 100 small files: without GraphQL each is one."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["github", "github-rest", "remote-http"])
def test_the_second_checkpoint_sends_what_changed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kit: Kit
) -> None:
    """After one change in 100 files a checkpoint is two commits; another machine restores it in few requests."""
    passable(tmp_path)
    with (
        network_hub(kind, tmp_path, monkeypatch) as (url, twin),
        bootstrap.connect(url, load_settings(tmp_path)) as hub,
    ):
        hub.workers.register("w1", sandbox=SandboxInfo(driver="bwrap", tier="full"))
        here = desk(hub, tmp_path / "a", kit)
        session = here.session()
        folder = here.open(session)
        fill(folder.workspace, {f"d{n % 7}/f{n}": f"content of {n}\n" * 200 for n in range(100)})
        here.checkpoints.save(session, folder, kit.sandbox)
        fill(folder.workspace, {"d1/f1": "another"})
        before, commits = len(twin.log), len(twin.commits())
        made = here.checkpoints.save(again(here, session), folder, kit.sandbox)
        sent = twin.log[before:]
        assert len(sent) <= SAVED[kind], [one.kind for one in sent]
        assert 2 == len(twin.commits()) - commits
        assert ("d1/f1",) == made.modified
        for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
            monkeypatch.setenv(name, str(tmp_path / f"{name.lower()}-2"))
        with bootstrap.connect(url, load_settings(tmp_path)) as other:
            there = desk(other, tmp_path / "b", kit, "w2")
            moved = again(there, session)
            before = len(twin.log)
            place = there.restore(moved, made.id)
            assert len(twin.log) - before <= RESTORED[kind]
        assert tree(folder.workspace) == tree(place.workspace)
