"""What ``ghcoord doctor`` finds between this machine and a hub elsewhere: token, permissions, rules, clock, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghcoord.faces.cli.context import say_wait, settings

if TYPE_CHECKING:
    from ghcoord.faces.cli.checks import Finding


def network(url: str) -> list[Finding]:
    """Findings about the way to the hub at ``url``; none for one on this machine."""
    from ghcoord.bootstrap import examine_network
    from ghcoord.faces.cli.checks import Finding

    return [Finding(*one[:4], dict(one.details)) for one in examine_network(url, settings(), say_wait)]


BLOCKING = {"network", "github", "repository", "permissions"}
"""Checks whose errors leave nothing to try."""


def probe(url: str, found: list[Finding]) -> list[Finding]:
    """What a live trial at GitHub tells, unless what was ``found`` rules one out. Raises ``UsageError`` elsewhere."""
    from ghcoord.bootstrap import probe_network
    from ghcoord.faces.cli.checks import Finding

    if any(one.level == "error" and one.check in BLOCKING for one in found):
        return []
    return [Finding(*one[:4], dict(one.details)) for one in probe_network(url, settings(), say_wait)]
