"""``ghcoord gc``, ``export``, ``import`` and ``doctor --repair``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect, create
from tests.cli.running import Cli, Later
from tests.cli.terminal import Terminal

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def _quick_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox is not what these tests are about, and takes half a second to try."""
    monkeypatch.setattr("ghcoord.execution.sandbox.open.probe_all", lambda **_: [])


def aged(cli: Cli, later: Later) -> None:
    """Ten days of history, one commit a day, and today."""
    for day in range(-10, 1):
        later(day * 86400)
        assert 0 == cli("memory", "set", "day", "--", day).code


def commits(hub: Path) -> int:
    with connect(hub) as opened:
        return len(list(opened.log("memory/global")))


def test_gc(cli: Cli, hub: Path, later: Later) -> None:
    """What it will do, and then does, is said; the value stays."""
    aged(cli, later)
    told = cli("gc", "--retention", "3d", "--dry-run")
    assert 0 == told.code
    assert "would go" in told.out
    assert 11 == commits(hub)
    done = cli("gc", "--retention", "3d", "--yes")
    assert 0 == done.code
    assert 7 == int(done.out.split("stay, ")[1].split()[0])
    assert 4 == commits(hub)
    assert "0\n" == cli("memory", "get", "day").out
    view = cli("gc", "--yes", "--json").json
    assert (False, 30 * 86400.0, None) == (view["dry_run"], view["retention"], view["postponed"])
    assert {"meta", "fleet", "locks", "memory/global"} == set(view["since"])


def test_gc_is_refused(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """Without an answer, and in a repository with more than the hub."""
    done = cli("gc")
    assert 2 == done.code
    assert "History older than 30d goes for good. Go on? Nobody is there to answer: add --yes" in done.error
    subprocess.run(["git", "init", "-q", "work"], cwd=tmp_path, check=True)
    assert 0 == cli("init", "work", "--yes").code
    assert 2 == cli("gc", "--hub", "work", "--yes").code
    assert "'ghcoord export' and 'ghcoord import' move the hub" in cli("gc", "--hub", "work", "--yes").error


@pytest.mark.slow
def test_gc_on_a_terminal(tmp_path: Path) -> None:
    """It asks first, and a no is taken."""
    create(tmp_path / "hub.git", state=tmp_path)[0].close()
    with Terminal("gc", "--hub", str(tmp_path / "hub.git")) as terminal:
        terminal.wait_for("goes for good. Go on?")
        terminal.type("n\n")
        assert 130 == terminal.end()


def test_export_and_import(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """The hub comes back from its file, with another id on request."""
    cli("memory", "set", "k", "v")
    made = cli("export", "x.bundle")
    assert 0 == made.code
    assert made.out.startswith("x.bundle: 4 commits, ")
    done = cli("import", "x.bundle", "--hub", "copy.git")
    assert (0, f"made a hub at {tmp_path / 'copy.git'}, id ") == (
        done.code,
        done.out[: len(done.out.split("id ")[0]) + 3],
    )
    assert "v\n" == cli("memory", "get", "k", "--hub", "copy.git").out
    small = cli("export", "small.bundle", "--no-history", "--json").json
    assert (4, {"fleet", "locks", "memory/global", "meta"}) == (small["commits"], set(small["spaces"]))
    fork = cli("import", "small.bundle", "--hub", "fork.git", "--new-id", "--json").json
    assert fork["id"] != cli("doctor", "--json").json["findings"][0]["details"]["id"]
    assert 0 == subprocess.run(["git", "fsck", "--strict"], cwd="fork.git", check=False, capture_output=True).returncode


def test_export_is_refused(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """A file that is there is not replaced unasked; a folder that is not there is named."""
    (tmp_path / "x.bundle").write_text("precious")
    assert "x.bundle exists. Replace it? Nobody is there to answer: add --yes" in cli("export", "x.bundle").error
    assert "precious" == (tmp_path / "x.bundle").read_text()
    assert 0 == cli("export", "x.bundle", "--yes").code
    assert 7 == cli("export", "missing/x.bundle").code
    assert 7 == cli("export", tmp_path, "--yes").code


def test_import_is_refused(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """Into a hub that is there, from a file that is none; nothing is left behind."""
    cli("export", "x.bundle")
    before = sorted(os.listdir(tmp_path))
    done = cli("import", "x.bundle")
    assert 2 == done.code
    assert "exists and is not empty: name a new folder" in done.error
    (tmp_path / "no.bundle").write_text("?")
    assert 2 == cli("import", "no.bundle", "--hub", "copy.git").code
    cut = (tmp_path / "x.bundle").read_bytes()[:-9]
    (tmp_path / "no.bundle").write_bytes(cut)
    done = cli("import", "no.bundle", "--hub", "copy.git")
    assert 7 == done.code
    assert "no.bundle cannot be imported: it is damaged or cut off" in done.error
    assert 2 == cli("import", "missing", "--hub", "copy.git").code
    assert sorted([*before, "no.bundle"]) == sorted(os.listdir(tmp_path))


def test_an_older_hub_is_migrated(cli: Cli, tmp_path: Path) -> None:
    """The command that opens it first says so on standard error, and does what it was asked."""
    from ghcoord.store.local import create_repository
    from ghcoord.store.unbundle import load_bundle

    git_dir = create_repository(tmp_path / "old.git", "refs/heads/ghcoord/fleet")
    load_bundle(DATA / "schema1.bundle", git_dir, "refs/heads/ghcoord/", lambda what, count: None)
    first = cli("memory", "get", "plain", "--hub", "old.git")
    assert (0, "migrated the hub from schema 1, which older versions wrote\n") == (first.code, first.err)
    again = cli("memory", "get", "plain", "--hub", "old.git")
    assert (0, "", first.out) == (again.code, again.err, again.out)


def broken(hub: Path, clone: Path) -> None:
    """Break a record and the settings by hand, as a person does."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for branch, pattern in (("memory/global", "keys/**/*.json"), ("meta", "settings.json")):
        subprocess.run(["git", "clone", "-q", "-b", f"ghcoord/{branch}", hub, clone], check=True)
        next(clone.glob(pattern)).write_text('{"locks.ttl": "soon"}')
        subprocess.run(["git", *identity, "commit", "-qam", "break it"], cwd=clone, check=True)
        subprocess.run(["git", "push", "-q"], cwd=clone, check=True)
        shutil.rmtree(clone)


def test_doctor_repairs(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """A dry run shows what, then it is done, and a second time there is nothing to do."""
    cli("memory", "set", "k", "good")
    cli("config", "set", "locks.ttl", "9s")
    broken(hub, tmp_path / "clone")
    left = hub / "objects" / "pack" / "tmp_pack_x"
    left.write_text("")
    lock = hub / "refs" / "heads" / "ghcoord" / "fleet.lock"
    lock.write_text("")
    for file, age in ((left, 100_000), (lock, 4000)):
        os.utime(file, (time.time() - age,) * 2)
    found = cli("doctor")
    assert "meta:settings.json: locks.ttl: 'soon' cannot be used" in found.out
    assert "'ghcoord doctor --repair' removes it" in found.out
    told = cli("doctor", "--repair", "--dry-run", "--json").json["repairs"]
    assert [False] * len(told) == [one["done"] for one in told]
    assert {"records", "index", "settings", "left over"} == {one["check"] for one in told}
    assert lock.exists()
    assert 2 == cli("doctor", "--repair").code
    done = cli("doctor", "--repair", "--yes")
    assert 0 == done.code
    assert "\nrepaired:\n" in done.out
    assert not lock.exists()
    assert not left.exists()
    assert "good\n" == cli("memory", "get", "k").out
    again = cli("doctor", "--repair", "--yes")
    assert again.out.startswith("nothing to repair\n")
    assert [] == cli("doctor", "--repair", "--dry-run", "--json").json["repairs"]


def test_doctor_repair_is_refused(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """--dry-run alone means nothing, and a hub that is not there cannot be repaired."""
    assert "--dry-run goes with --repair" in cli("doctor", "--dry-run").error
    assert 3 == cli("doctor", "--repair", "--hub", tmp_path / "missing").code


def test_doctor_hints_at_gc(cli: Cli, hub: Path) -> None:
    """A hub that has grown a lot is named, with what it would help."""
    pack = hub / "objects" / "pack" / "pack-0.pack"
    with pack.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    done = cli("doctor")
    assert "size: 100 MiB of history and of packs not yet compressed" in done.out
    assert "'ghcoord gc --dry-run' tells what could go" in done.out
    pack.unlink()
    assert "size: " not in cli("doctor").out


def test_settings_in_doctor(cli: Cli, hub: Path) -> None:
    """What was set is listed."""
    cli("config", "set", "locks.ttl", "9s")
    found = {one["check"]: one for one in json.loads(cli("doctor", "--json").out)["findings"]}
    assert {"locks.ttl": 9.0} == found["settings"]["details"]["given"]
