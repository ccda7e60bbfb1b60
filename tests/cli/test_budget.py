"""``ghcoord budget``: on hubs with and without limits, and while the server refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from ghcoord.store.wrappers import RetryingStore
from ghcoord.twin.inprocess import in_process
from ghcoord.twin.limits import TwinLimits
from ghcoord.twin.server import Twin
from tests.cli.running import Cli

KEYS = {"limited", "account", "usage", "forecast", "pace", "blocked_until", "why", "refusals", "not_asked"}


@pytest.fixture
def twin(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twin]:
    """A GitHub with its limits, and a hub there that GHCOORD_HUB names."""
    found = Twin(tmp_path / "twin")
    found.repository("mona", "hub")
    monkeypatch.setenv("GH_TOKEN", found.user("mona"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with in_process(found):
        monkeypatch.setenv("GHCOORD_HUB", f"github://{found.place}/mona/hub")
        made = cli("init")
        assert 0 == made.code, made.err
        assert 0 == cli("memory", "set", "color", "red").code
        found.exchanges.entries.clear()
        found.limiter.limits = TwinLimits.published()  # from now on, or the hub would take ten seconds to make
        yield found


def _writes(twin: Twin) -> int:
    """Writes since the limits hold."""
    return len([each for each in twin.log if each.kind == "write"])


def test_a_hub_without_limits(cli: Cli, hub: Path) -> None:
    """One sentence, and the same keys as ever."""
    shown = cli("budget")
    assert (0, "the hub's server tells of no limits: nothing is counted\n") == (shown.code, shown.out)
    found = cli("budget", "--json").json
    assert (KEYS, False, [], None) == ({*found}, found["limited"], found["usage"], found["pace"])


def test_no_hub(cli: Cli) -> None:
    """Without a hub it exits 2, as every command."""
    failed = cli("budget")
    assert (2, True) == (failed.code, "no hub was named" in failed.error)


def test_what_is_used_and_left(cli: Cli, twin: Twin) -> None:
    """A table that fits 80 columns, the pace, and few requests to find out."""
    assert 0 == cli("memory", "set", "color", "blue").code
    before = len(twin.log)
    sent = _writes(twin)
    shown = cli("budget")
    assert (0, "") == (shown.code, shown.err)
    assert 2 >= len(twin.log) - before
    lines = shown.out.splitlines()
    assert 80 >= max(map(len, lines))
    assert ["LIMIT", "USED", "OF", "LEFT", "PLANNED", "WHOLE", "AGAIN"] == lines[0].split()
    rows = {re.split(r"\s{2,}", line)[0]: line.split() for line in lines[1:]}
    assert [f"{sent}", "80", f"{80 - sent}", "79"] == rows["writes a minute"][3:7]
    assert [f"{sent}", "500", f"{500 - sent}", "250"] == rows["writes an hour"][3:7]
    assert ["5000", "2500"] == [rows["GraphQL points an hour"][at] for at in (5, 7)]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", rows[name][-1]) for name in ("writes a minute", "writes an hour"))
    assert f"{twin.place}/mona" == rows["account"][1]
    assert f"{6 * sent} writes an hour at the present rate" == " ".join(rows["forecast"][1:])
    assert "a commit every 1s, a poll every 1.5s, a lease of 1m00s" == " ".join(rows["pace"][1:])
    assert {"slower", "blocked"}.isdisjoint(rows)


def test_what_is_stretched_and_why(cli: Cli, twin: Twin) -> None:
    """The workers of the account on all machines count, those of others do not."""
    twin.limiter.limits = None
    with connect() as hub:
        for name, account in (("w1", hub.account), ("w2", hub.account), ("w3", "github.com/hubot"), ("w4", None)):
            hub.workers.register(name, account=account)
    twin.limiter.limits = TwinLimits.published()
    assert 0 == cli("memory", "set", "color", "blue").code
    found = cli("budget", "--json").json
    assert (KEYS, True) == ({*found}, found["limited"])
    assert (2, 90.0, 3.0) == tuple(found["pace"][key] for key in ("workers", "lease_ttl", "poll_every"))
    assert 3 == len(found["pace"]["stretched"])
    shown = cli("budget").out.splitlines()
    assert ["slower    commits every 3s: 2 workers share the limits"] == [
        line for line in shown if line.startswith("slower")
    ]
    assert "          leases last 1m30s: 2 workers renew theirs with 250 writes an hour" == shown[-1]
    assert {"write_every", "poll_every", "lease_ttl", "workers", "stretched"} == {*found["pace"]}
    first = found["usage"][0]
    assert {"name", "used", "limit", "left", "planned", "window", "resets_at", "source"} == {*first}
    assert ("writes a minute", 80, 60.0, "counted") == tuple(
        first[key] for key in ("name", "limit", "window", "source")
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", first["resets_at"])
    assert (None, None, None) == tuple(found[key] for key in ("blocked_until", "why", "not_asked"))


def test_while_the_server_refuses(cli: Cli, twin: Twin) -> None:
    """It shows what this machine knows, says until when nothing may leave and why, and sends nothing more."""
    cli("memory", "set", "color", "blue")
    twin.faults.add("secondary", seconds=300)
    first = cli("budget")
    assert 0 == first.code
    assert first.err.startswith("the hub was not asked, this is what this machine knows: ")
    assert "writes an hour" in first.out
    blocked = next(line for line in first.out.splitlines() if line.startswith("blocked"))
    assert re.search(r"until \d\d:\d\d:\d\d: .*the secondary limit was hit", blocked)
    sent = len(twin.log)
    found = cli("budget", "--json").json
    assert sent == len(twin.log)
    assert ("the secondary limit was hit" in found["why"], 1) == (True, found["refusals"])
    assert found["blocked_until"] is not None
    assert "for another" in found["not_asked"]
    assert [] == twin.violations


def test_while_the_server_is_not_there(cli: Cli, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of this machine, on standard output, and why there is no more, on standard error."""
    cli("memory", "set", "color", "blue")
    sent = _writes(twin)
    twin.faults.add("reset", times=1000)
    monkeypatch.setattr(RetryingStore.__init__, "__defaults__", (0.0,))  # seconds of trying again
    shown = cli("budget")
    assert 0 == shown.code
    assert "the hub was not asked" in shown.err
    assert re.search(rf"^writes an hour +{sent} +500", shown.out, re.MULTILINE)
