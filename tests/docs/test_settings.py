"""``docs/settings.md`` names every setting and every variable, with the defaults of the code."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from ghcoord.config import Settings, parse_settings
from ghcoord.coord.care.settings import HubConfig
from ghcoord.model.timing import DEFAULT_GRACE
from ghcoord.store.base import Capabilities
from ghcoord.units import parse_duration
from tests.docs.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "settings.md").read_text()
ROWS = {
    name: second
    for first, second in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", PAGE, re.MULTILINE)
    for name in re.findall(r"`([\w.]+)`", first)
}
"""First and second column of every table, by each name in the first."""

OUTSIDE = {"XDG_STATE_HOME", "XDG_CACHE_HOME", "NO_COLOR", "GH_TOKEN", "GITHUB_TOKEN", "TRACEPARENT"} | {
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
    "OTEL_SDK_DISABLED",
}
"""Variables that are not ours."""


EXAMPLES = {
    "packages.private",
    "github.api",
    "github.app",
    "github.installation",
    "github.key_file",
    "budget.writes_per_hour",
    "artifacts.directory",
    "artifacts.bucket",
    "artifacts.endpoint",
    "artifacts.region",
    "artifacts.retention",
    "packages.hosts",
    "packages.index",
    "sandbox.image",
    "sandbox.options",
    "worker.checkpoint_dir",
    "worker.limit",
}
"""What the file shown sets although it has no default."""

LATER = {
    "poll": Capabilities().poll_interval,
    "locks.ttl": HubConfig().lock_ttl,
    "worker.ttl": HubConfig().worker_ttl,
    "worker.grace": DEFAULT_GRACE,
}
"""What the hub or the code decides where nothing is set."""


def settings(of: Any = None, above: str = "") -> dict[str, Any]:
    """Every setting by its dotted name, with its default."""
    found: dict[str, Any] = {}
    for one in fields(of := of or Settings()):
        value = getattr(of, one.name)
        found |= settings(value, f"{one.name}.") if is_dataclass(value) else {above + one.name: value}
    return found


def test_the_page_names_the_settings_that_there_are() -> None:
    """No field of the code is missing, and no row is left over."""
    assert set(settings()) == {name for name in ROWS if not name.isupper()}


@pytest.mark.parametrize(("name", "default"), settings().items())
def test_defaults_are_those_of_the_code(name: str, default: object) -> None:
    """The second column is the dataclass's default; where the code decides later, what it decides."""
    shown = ROWS[name]
    if name in LATER:
        assert default is None
        default = LATER[name]
    if isinstance(default, float):
        assert default == parse_duration(shown.replace(" ", ""))
    elif default is None or default == ():
        assert shown in ("none", "user@host")
    elif isinstance(default, bool):
        assert str(default).lower() == shown
    else:
        assert str(default) == shown.strip("`")


def test_the_file_shown_has_every_setting() -> None:
    """The example is a right file, names each setting, and changes no default but of what is decided later."""
    (file,) = (block for block in blocks(PAGE) if block.language == "toml")
    shown = settings(parse_settings("\n".join(file.lines)))
    assert {"hub", "actor", *EXAMPLES, *LATER} == {name for name, value in settings().items() if shown[name] != value}
    for name in settings():
        assert any(line.startswith(f"{name.rpartition('.')[2]} = ") for line in file.lines)


def test_the_page_names_every_variable() -> None:
    """Each GHCOORD_ variable that the package reads or sets is on the page, and no other."""
    code = "".join(file.read_text() for file in (ROOT / "ghcoord").rglob("*.py"))
    ours = set(re.findall(r"\bGHCOORD_[A-Z_]+\b", code))
    assert ours | OUTSIDE == {name for name in ROWS if name.isupper()}
