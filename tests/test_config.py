"""Settings: every one is read, every mistake named, and nothing is ignored."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from ghcoord.config import (
    LockSettings,
    PackageSource,
    SandboxSettings,
    Settings,
    WorkerSettings,
    load_settings,
    parse_settings,
)
from ghcoord.errors import UsageError

FULL = """
hub = "./hub.git"
actor = "ci"
prefix = "refs/ghcoord/"
poll = "250ms"

[locks]
ttl = "5m"

[worker]
ttl = 30
slots = 4
grace = "2s"
max_sessions = 7
stale_after = "1h"
checkpoint_dir = "kept"
max_checkpoints = 3
publish = false
limit = ["memory_mb=512"]

[sandbox]
driver = "container"
image = "python:3.12"
engine = "podman"
options = ["--runtime=runsc"]

[packages]
index = "https://pypi.example.org/simple"
hosts = ["files.example.org"]
only_binary = false
private = ["files.example.org"]
"""


def test_every_setting_is_read() -> None:
    """A file with everything gives everything."""
    expected = Settings(
        hub="./hub.git",
        actor="ci",
        prefix="refs/ghcoord/",
        poll=0.25,
        locks=LockSettings(ttl=300.0),
        worker=WorkerSettings(
            ttl=30.0,
            slots=4,
            grace=2.0,
            max_sessions=7,
            stale_after=3600.0,
            checkpoint_dir="kept",
            max_checkpoints=3,
            publish=False,
            limit=("memory_mb=512",),
        ),
        sandbox=SandboxSettings("container", "python:3.12", "podman", ("--runtime=runsc",)),
        packages=PackageSource(
            "https://pypi.example.org/simple", ("files.example.org",), False, ("files.example.org",)
        ),
    )
    assert expected == parse_settings(FULL)


def test_an_empty_file_means_the_defaults() -> None:
    """Nothing is required."""
    assert Settings() == parse_settings("")


def test_settings_are_frozen() -> None:
    """Nobody changes them on the way."""
    with pytest.raises(FrozenInstanceError):
        Settings().hub = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hub =", "is not TOML: "),
        ("hub = 5", "hub must be a text"),
        ('hub = ""', "hub must be a text"),
        ("hbu = 'x'", "hbu is not a setting: one of actor, artifacts, budget"),
        ("[lock]\nttl = 5", "lock is not a table|lock is not a setting"),
        ("[locks]\nttls = 5", r"locks\.ttls is not a setting: one of retry_attempts"),
        ("locks = 5", "locks .*table"),
        ("locks = 'x'", "locks .*table"),
        ("worker = 'x'", "worker .*table"),
        ("[hub]\nx = 1", "hub is not a table"),
        ("[worker]\nttl = 'soon'", "bad duration 'soon'"),
        ("[worker]\nttl = true", r"worker\.ttl is not a duration"),
        ("[worker]\nttl = []", r"worker\.ttl is not a duration"),
        ("[worker]\nttl = 2020-01-01", r"worker\.ttl is not a duration"),
        ("[worker]\nttl = -1", "out of range"),
        ("[worker]\nslots = 0", r"worker\.slots must be a whole number from 1 to 10,000"),
        ("[worker]\nslots = 10001", "slots must be"),
        ("[worker]\nslots = 1.5", "slots must be"),
        ("[worker]\nslots = true", "slots must be"),
        ("[worker]\nslots = '4'", "slots must be"),
        ("[worker]\npublish = 'yes'", r"worker\.publish must be true or false"),
        ("[worker]\nlimit = 'memory_mb=1'", r"worker\.limit must be a list of texts"),
        ("[worker]\nlimit = [1]", "limit must be a list of texts"),
        ("[sandbox]\ndriver = 'none'", "driver is one of auto, bwrap, landlock, container"),
        ("[packages]\nhosts = ['']", "hosts must be a list of texts"),
        ("poll = 0", "poll must be more than 0"),
        ("prefix = 'heads/x/'", "prefix must start with refs/"),
        ("prefix = 'refs/heads/x'", "prefix must .*end with /"),
    ],
)
def test_a_mistake_is_named(text: str, why: str) -> None:
    """One line with the file and the key."""
    with pytest.raises(UsageError, match=why) as caught:
        parse_settings(text, "here.toml")
    assert "\n" not in caught.value.message


def test_the_nearest_file_counts(tmp_path: Path) -> None:
    """A file in the folder goes before one above it, and a relative hub lies beside its file."""
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "ghcoord.toml").write_text('hub = "hub.git"')
    assert str(tmp_path / "hub.git") == load_settings(deep).hub
    (deep / "ghcoord.toml").write_text('actor = "me"')
    assert (None, "me") == (load_settings(deep).hub, load_settings(deep).actor)


@pytest.mark.parametrize(
    "hub", ["/srv/hub.git", "file:///srv/hub.git", "memory:", "~/hub.git", "github:o/r", "git@host:o/r", "https://h/r"]
)
def test_a_hub_that_is_no_relative_path_stays(tmp_path: Path, hub: str) -> None:
    """URLs, absolute paths and paths from the home folder are not moved beside the file."""
    (tmp_path / "ghcoord.toml").write_text(f'hub = "{hub}"')
    assert hub == load_settings(tmp_path).hub


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    """No file up to the root: the defaults."""
    assert not any((folder / "ghcoord.toml").exists() for folder in tmp_path.parents)
    assert Settings() == load_settings(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """What is not UTF-8 is a clear error with the path."""
    (tmp_path / "ghcoord.toml").write_bytes(b"hub = \xff")
    with pytest.raises(UsageError, match=f"cannot read {tmp_path}"):
        load_settings(tmp_path)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """A file without permission is an error, not silently the defaults."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "ghcoord.toml").write_text("")
    (tmp_path / "ghcoord.toml").chmod(0)
    with pytest.raises(UsageError, match="cannot read"):
        load_settings(tmp_path)
