"""The environment of a restored session, from its lock."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.checkpoints import checkpoints
from ghcoord.execution.checkpoints import rebuild as rebuilding
from ghcoord.execution.checkpoints.rebuild import Installing, rebuild
from ghcoord.execution.environment.install import InstallOutcome, find_uv, install
from ghcoord.execution.environment.lock import read_lock
from ghcoord.execution.environment.settings import PackageSettings
from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.tool import ToolContext
from tests.execution.checkpoints.conftest import RUNTIME, Desk
from tests.execution.checkpoints.test_checkpoints import again
from tests.execution.checkpoints.trees import fill, tree
from tests.execution.environment.index import Index, serve, wheel

ALPHA = wheel("alpha", "1.0", {"alpha.py": "name = 'alpha'"})
BETA = wheel("beta", "2.0", {"beta.py": "name = 'beta'"})


@pytest.fixture
def index() -> Iterator[Index]:
    """A package index with alpha 1.0 and beta 2.0."""
    with serve(ALPHA, BETA) as found:
        yield found


def of(kit: Kit, index: Index) -> Kit:
    """A worker whose packages come from ``index``."""
    return replace(kit, packages=PackageSettings(index=index.url, hosts=()))


def test_packages_come_back(here: Desk, there: Desk, bwrap: Sandbox, index: Index) -> None:
    """A session with packages has just these on another worker; what no index has is left out and told."""
    if find_uv() is None:
        pytest.skip("uv is not installed")
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {"a": "files"})
    here.kit = of(here.kit, index)
    outcome = install(here.kit, Installing(session, folder), ["alpha", "beta"])
    assert ("alpha==1.0", "beta==2.0") == outcome.installed
    made = here.checkpoints.save(session, folder, here.kit.sandbox)
    assert ("alpha==1.0", "beta==2.0") == made.packages

    there.kit = of(there.kit, index)
    place = there.open(again(here, session))
    restored = there.checkpoints.restore(again(here, session), made.id, place, there.kit)
    assert ((), "") == (restored.missing, restored.note)
    assert made.packages == read_lock(place.files)
    assert tree(folder.workspace) == tree(place.workspace)

    site = next(folder.workspace.glob(".venv/lib/python3*/site-packages"))
    (site / "homemade-3.1.dist-info").mkdir()
    second = here.checkpoints.save(session, folder, here.kit.sandbox)
    shutil.rmtree(place.root)
    place = there.open(again(here, session))
    restored = there.checkpoints.restore(again(here, session), second.id, place, there.kit)
    assert ("homemade==3.1",) == restored.missing
    assert "homemade==3.1" in restored.note
    assert made.packages == read_lock(place.files)


@pytest.mark.slow
def test_an_index_that_is_away_is_no_lost_package(here: Desk, bwrap: Sandbox, index: Index) -> None:
    """When packages cannot be had now, nothing is restored, and the workspace is as it was: try again later."""
    if find_uv() is None:
        pytest.skip("uv is not installed")
    session = here.session()
    folder = here.open(session)
    here.kit = of(here.kit, index)
    install(here.kit, Installing(session, folder), ["alpha"])
    made = here.checkpoints.save(session, folder, here.kit.sandbox)
    shutil.rmtree(folder.root)
    place = here.open(again(here, session))
    fill(place.workspace, {"mine": "as it was"})
    away = replace(here.kit, packages=PackageSettings(index="http://127.0.0.1:9/simple", hosts=()))
    with pytest.raises(SandboxError, match=r"alpha==1\.0"):
        here.checkpoints.restore(again(here, session), made.id, place, away)
    assert ["mine"] == [each.name for each in place.workspace.iterdir()]
    assert {"workspace"} == {each.name for each in place.root.iterdir()} - {"keep"}


# -- without any index


class Fake:
    """Installs by a table: what there is, and what uv would say of the rest."""

    def __init__(self, there: set[str], said: str = "", error: Exception | None = None) -> None:
        self.there = there
        self.said = said
        self.error = error
        self.calls: list[list[str]] = []

    def __call__(self, kit: Kit, ctx: ToolContext, pins: Any, *, no_deps: bool = False) -> InstallOutcome:
        assert no_deps
        assert ("restore", 1, "s1", {}) == (ctx.task_id, ctx.attempt, ctx.session_id, dict(ctx.env))
        ctx.log("stdout", "")
        ctx.progress(0.5)
        assert not ctx.cancelled()
        self.calls.append(list(pins))
        if self.error is not None:
            raise self.error
        good = set(pins) <= self.there
        done = Completed(0 if good else 1, "", "" if good else self.said, False, "", False)
        return InstallOutcome(tuple(pins) if good else (), done, (), "" if good else "it failed")


@pytest.fixture
def made(here: Desk, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rebuild with a fake installer."""
    session = here.session()
    folder = here.open(session)

    def run(fake: Fake, lock: list[str], kit: Kit | None = None) -> tuple[str, ...]:
        monkeypatch.setattr(rebuilding, "install", fake)
        return rebuild(lock, session, folder, kit or here.kit)

    return run


GONE = "× No solution found when resolving dependencies:\n╰─▶ Because b was not found in the package registry\n"


def test_one_by_one_when_together_they_cannot_be_had(made: Any) -> None:
    """One package that no index has does not keep the others away."""
    fake = Fake({"a==1", "c==1"}, GONE)
    assert ("b==1",) == made(fake, ["a==1", "b==1", "c==1"])
    assert [["a==1", "b==1", "c==1"], ["a==1"], ["b==1"], ["c==1"]] == fake.calls
    assert () == made(Fake({"a==1"}), ["a==1"])
    assert () == made(Fake(set()), [])


def test_every_other_failure_is_one_of_the_surroundings(made: Any) -> None:
    """What may be different tomorrow, or on another worker, does not cost a package."""
    for fake in (
        Fake(set(), "error: Failed to fetch: connection refused"),
        Fake(set(), error=UsageError("the worker has no uv")),
        Fake(set(), error=SandboxError("no sandbox")),
    ):
        with pytest.raises(SandboxError):
            made(fake, ["a==1"])
    with pytest.raises(SandboxError, match="together"):
        made(Fake(set(), GONE), [f"p{n}==1" for n in range(300)])
    with pytest.raises(SandboxError, match="no Python"):
        made(Fake(set()), ["a==1"], Kit(None, RUNTIME))
    assert () == made(Fake(set()), [], Kit(None, RUNTIME))


def test_what_fails_after_unpacking_leaves_the_workspace(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old files are back when the environment cannot be made, whatever was in the way."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {"a": "saved"})
    made = here.checkpoints.save(session, folder, here.kit.sandbox)
    fill(folder.workspace, {"a": "as it was"})
    for name in ("restoring", "replaced"):
        (folder.root / name).mkdir()

    def away(*args: object) -> tuple[str, ...]:
        raise SandboxError("no index")

    monkeypatch.setattr(checkpoints, "rebuild", away)
    with pytest.raises(SandboxError, match="no index"):
        here.checkpoints.restore(again(here, session), made.id, folder, here.kit)
    assert "as it was" == (folder.workspace / "a").read_text()
    assert ["workspace"] == [each.name for each in folder.root.iterdir()]
    assert 1 == here.checkpoints.diff(again(here, session), folder, made.id).changed[0].path.count("a")
