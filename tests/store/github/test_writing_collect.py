"""gc over GitHub's API: history is written again, within bounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ghcoord.errors import OutcomeUnknown, Unsupported
from ghcoord.store.github import collect as collecting
from ghcoord.testing.contract import HubUnderTest, content
from ghcoord.testing.rewrite_contract import RewriteContract, collect, filled, history
from tests.store.github.twins import twin_hub


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["branch", "custom"])
class TestCollecting(RewriteContract):
    """The contract of rewriting."""

    @pytest.fixture
    def hub(self, tmp_path: Path, mode: str) -> HubUnderTest:
        return twin_hub(tmp_path, mode).under_test()


def test_without_graphql(tmp_path: Path) -> None:
    """A forced ref PATCH is no comparison, so there is no gc over REST; the way that works is named as a command."""
    hub = twin_hub(tmp_path, "rest")
    store = hub.open()
    made = filled(store, times=3)
    with pytest.raises(Unsupported, match=re.escape("ghcoord gc --hub http://twin.local/me/hub")):
        collect(store, made[1])
    assert made[-1] == hub.head("fleet")


def test_too_much_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound nothing is written, also not in a dry run; over git it is one push."""
    monkeypatch.setattr(collecting, "MOST_WRITES", 4)
    hub = twin_hub(tmp_path, "branch")
    store = hub.open()
    made = filled(store, times=6)
    for dry_run in (True, False):
        before = len(hub.twin.requests(kind="write"))
        with pytest.raises(Unsupported, match=re.escape("5 commits would have to be written again")):
            collect(store, made[2], dry_run=dry_run)
        assert before == len(hub.twin.requests(kind="write"))
    collect(store, made[3])
    assert 4 == len(history(store, store.heads()["fleet"]))


@pytest.mark.parametrize("after", [True, False])
def test_a_lost_reply(tmp_path: Path, after: bool) -> None:
    """When ``updateRefs`` answers nothing that helps, looking tells whether the heads moved."""
    hub = twin_hub(tmp_path, "branch")
    store = hub.open()
    made = filled(store, times=4)
    filled(store, "locks", 2)

    def moving(incoming: object) -> bool:
        return b"updateRefs" in getattr(incoming, "body", b"")

    if after:
        hub.twin.faults.add("opaque", match=moving, after=True)
        assert 2 == collect(store, made[2]).commits_cut
        assert 3 == len(history(hub.open(), str(hub.head("fleet"))))
    else:
        hub.twin.faults.add("opaque", match=moving)
        with pytest.raises(OutcomeUnknown):
            collect(store, made[2])
        assert made[-1] == hub.head("fleet")
    assert b"4" == content(hub.open(), hub.head("fleet"))["count"]
