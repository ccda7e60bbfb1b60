"""Artifacts in a hub on GitHub: binary content is right in every way of writing, and costs what was planned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.clock import SystemRuntime
from ghcoord.config import Settings
from ghcoord.hub import Hub
from ghcoord.store.github.driver import MOST_AT_ONCE
from ghcoord.twin.messages import Incoming
from tests.coord.files.test_content import noise
from tests.store.github.twins import TwinHub, twin_hub

SIZE = 9_000_000


class Counted:
    """Requests to a twin, by what they ask, and the bytes of the largest."""

    def __init__(self, at: TwinHub) -> None:
        self.calls: Counter[str] = Counter()
        self.largest = 0
        self._inner = at.twin.handle
        at.twin.handle = self._handle  # type: ignore[method-assign]

    def _handle(self, request: Incoming):  # type: ignore[no-untyped-def]
        path = request.path.rpartition("/hub/")[2].split("/")[:2] if "/hub/" in request.path else ["graphql"]
        self.calls[f"{request.method} {'/'.join(path)}"] += 1
        self.largest = max(self.largest, len(request.body))
        return self._inner(request)

    def take(self) -> dict[str, int]:
        found, self.calls = dict(self.calls), Counter()
        return found


def opened(at: TwinHub) -> Hub:
    return open_hub(at.open(), SystemRuntime(), Settings(), actor="me", state=Path("/nonexistent"), make=True)


@pytest.mark.slow
def test_a_large_binary_costs_two_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """9 MB are two commits of at most 5 MB, each one request once there is a branch; reading is a request a chunk.

    GraphQL shows no binary text, so chunks come over REST.  The same content again is one commit.
    """
    # What is known counts as fresh, however long this machine takes for 9 MB.
    monkeypatch.setattr("ghcoord.store.transact.FRESH", 60.0)
    at = twin_hub(tmp_path)
    hub, counted = opened(at), Counted(at)
    first = hub.artifacts.put("first.bin", noise(SIZE, 1))  # makes the branch
    counted.take()
    counted.largest = 0
    before = hub.commits
    made = hub.artifacts.put("second.bin", noise(SIZE, 2))
    assert 2 == hub.commits - before
    assert {"POST graphql": 2} == counted.take()
    assert counted.largest < MOST_AT_ONCE // 4 * 1.4
    again = hub.artifacts.put("again.bin", noise(SIZE, 2))
    assert 3 == hub.commits - before
    other = opened(at)
    counted.take()
    assert noise(SIZE, 2) == b"".join(other.artifacts.open(made.id))
    asked = counted.take()
    assert 3 == asked.pop("GET git/blobs")
    assert 4 >= sum(asked.values())
    before = hub.commits
    assert hub.artifacts.delete(made.id)
    assert hub.artifacts.delete(again.id)
    assert 2 == hub.commits - before
    assert noise(SIZE, 1) == b"".join(opened(at).artifacts.open(first.id))


@pytest.mark.parametrize(
    "mode", ["branch", "rest", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("custom", "refs"))]
)
def test_every_way_of_writing(tmp_path: Path, mode: str) -> None:
    """Binary and text, small and in chunks, with line ends and bytes that text would not survive."""
    at = twin_hub(tmp_path, mode)
    hub = opened(at)
    sources = [b"", b"text\n", b"\r\n\x00\xff\xfe", "é\u2028".encode(), noise(3000), noise(5_000_000)]
    made = [hub.artifacts.put("x", source, task_id="t") for source in sources]
    for reader in (hub, opened(at)):
        assert sources == [b"".join(reader.artifacts.open(one.id)) for one in made]
        assert {one.id for one in made} == {one.id for one in reader.artifacts.list(task_id="t")}


def test_a_hub_without_artifacts_asks_nothing(tmp_path: Path) -> None:
    """The cleaning that every worker does costs no request for the space that is not there."""
    at = twin_hub(tmp_path)
    hub = opened(at)
    hub.memory.set("k", 1)
    counted = Counted(at)
    assert 0 == hub.artifacts.clean()
    assert sum(counted.take().values()) <= 1  # whether the heads have moved
    assert "files" not in hub.heads()
