"""``docs/security.md`` names every exception of the drivers, and every driver."""

from __future__ import annotations

import re

from ghcoord.execution.sandbox.canaries import GAPS
from ghcoord.faces.cli.workeroptions import SANDBOXES
from tests.docs.pages import ROOT
from tests.execution.attacks import attempts

PAGE = (ROOT / "docs" / "security.md").read_text()
EXCEPTIONS = re.sub(r"\s+", " ", PAGE.partition("### What the others do not hold")[2].partition("\n### ")[0])

GAP_WORDS = {
    "network-namespace": "no network of its own",
    "pid-namespace": "Processes' ids are the host's",
    "host-name": "so are its name",
    "outside-names": "`stat` and `readlink` tell of any path",
    "outside-metadata": "its times and attributes",
    "worker-signal": "processes of the same user can be signalled",
    "ptrace": "allow `ptrace`",
    "vsock": "`AF_VSOCK`",
}
"""What the page says of each canary that a driver does not hold."""


def test_what_the_partial_driver_does_not_hold_is_named() -> None:
    """Each attempt of the attack suite that works there stands in the page by its name."""
    found = [one for value in vars(attempts).values() if isinstance(value, list) for one in value]
    partial = [one.name for one in found if getattr(one, "partial", ())]
    assert partial
    assert [] == [name for name in partial if f"*{name}*" not in EXCEPTIONS]


def test_each_gap_of_the_drivers_is_told() -> None:
    """A driver that promises less than the full one says what."""
    gaps = {gap.canary for each in GAPS.values() for gap in each}
    assert gaps == set(GAP_WORDS)
    assert [] == [canary for canary, words in GAP_WORDS.items() if words not in EXCEPTIONS]


def test_every_driver_is_in_the_table() -> None:
    """With its tier."""
    assert set(SANDBOXES) - {"auto"} <= set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
