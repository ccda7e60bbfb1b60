"""A secondary limit with a retry-after: no request leaves before it has passed, and users are told what is waited for.

The sixth line of the network drivers' acceptance.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.config import BudgetSettings, Settings
from ghcoord.errors import Throttled
from ghcoord.hub import Hub
from ghcoord.store.github.create import create_on_github
from ghcoord.store.open import Surroundings, github_api, open_store
from ghcoord.testing.clock import ManualRuntime
from ghcoord.twin.inprocess import in_process
from ghcoord.twin.limits import TwinLimits
from ghcoord.twin.server import Twin
from tests.cli.running import command, environment

RETRY_AFTER = 60.0


class World:
    """Processes of one machine, each with a hub object, on a twin with GitHub's limits and a virtual clock."""

    def __init__(self, folder: Path) -> None:
        self.runtime = ManualRuntime()
        self.folder = folder
        self.twin = Twin(folder / "twin", runtime=self.runtime, limits=TwinLimits.published())
        self.token = self.twin.user("mona")
        self.twin.repository("mona", "hub")
        self.told: list[tuple[str, float, str]] = []

    def open(self, name: str, *, patience: float = 900.0, make: bool = False) -> Hub:
        """One process's hub."""
        url = f"github://{self.twin.place}/mona/hub"
        settings = Settings(budget=BudgetSettings(patience=patience))
        around = Surroundings(
            environment={"GH_TOKEN": self.token},
            state=self.folder / "state",
            cache=self.folder / "cache",
            on_wait=lambda until, why: self.told.append((name, round(until - self.runtime.now(), 2), why)),
        )
        if make:
            create_on_github(github_api(url, self.runtime, settings, around), settings.prefix, create=False)
        store = open_store(url, self.runtime, settings, around)
        return open_hub(store, self.runtime, settings, make=make, state=self.folder / "hub")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    with in_process(found.twin):
        yield found


@pytest.mark.parametrize("request_kind", ["write", "poll"])
def test_no_request_leaves_before_it_passes(world: World, request_kind: str) -> None:
    """Whoever was refused waits to the second and then does what was asked; so do the machine's other processes."""
    one = world.open("one", make=True)
    other = world.open("other")
    world.twin.faults.add("secondary", seconds=RETRY_AFTER, on="write" if request_kind == "write" else "poll")
    if request_kind == "write":
        one.memory.set("color", "blue")
    else:
        assert one.heads()
    log = world.twin.log
    refused = next(number for number, each in enumerate(log) if each.fault)
    assert log[refused].time + RETRY_AFTER == pytest.approx(log[refused + 1].time, abs=0.01)
    assert [] == world.twin.violations
    ((who, wait, why),) = world.told
    assert ("one", RETRY_AFTER) == (who, wait)
    assert "the secondary limit was hit" in why
    world.told.clear()
    world.twin.faults.add("secondary", seconds=RETRY_AFTER)
    one.heads()
    assert other.memory.get("color") == ("blue" if request_kind == "write" else None)
    assert [] == world.twin.violations


def test_another_process_waits_for_the_block_that_one_was_told_of(world: World) -> None:
    """It sends nothing to find out; where its patience is shorter it says at once until when."""
    world.open("one", make=True)
    hasty = world.open("hasty", patience=10.0)
    patient = world.open("patient")
    world.twin.faults.add("secondary", seconds=RETRY_AFTER)
    with pytest.raises(Throttled):
        world.open("refused", patience=0.0)
    sent, blocked = len(world.twin.log), world.runtime.now()
    with pytest.raises(Throttled, match="for another 1m00s: try again then") as refused:
        hasty.heads()
    assert blocked + RETRY_AFTER == pytest.approx(refused.value.until, abs=0.01)
    assert sent == len(world.twin.log)
    patient.heads()
    assert ["patient"] == [who for who, _, _ in world.told]
    assert blocked + RETRY_AFTER == pytest.approx(world.twin.log[sent].time, abs=0.01)
    assert [] == world.twin.violations


@pytest.mark.slow
def test_the_command_line_says_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real processes at once, on real time: both say on standard error what for and how long, wait, and succeed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Twin(tmp_path / "twin") as twin:
        monkeypatch.setenv("GH_TOKEN", twin.user("mona"))
        twin.repository("mona", "hub")
        monkeypatch.setenv("GHCOORD_HUB", f"github://{twin.url.removeprefix('http://')}/mona/hub")
        subprocess.run(command("init"), check=True, capture_output=True, env=environment())
        twin.faults.add("secondary", seconds=3)
        children = [
            subprocess.Popen(
                command("memory", "set", key, "1"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
            )
            for key in ("a", "b")
        ]
        said = [child.communicate(timeout=60)[1] for child in children]
        assert [0, 0] == [child.returncode for child in children], said
        log = twin.log
        refused = next(number for number, each in enumerate(log) if each.fault)
        under_way = 1  # the other's first request, at most
        assert all(each.time >= log[refused].time + 3 for each in log[refused + 1 + under_way :])
        assert len(twin.violations) <= under_way
        for one in said:
            assert re.search(r"^waiting [23]s, until \d\d:\d\d:\d\d: 127\.0\.0\.1.*secondary limit was hit$", one, re.M)
