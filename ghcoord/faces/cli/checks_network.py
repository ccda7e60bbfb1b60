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


def probe(url: str) -> list[Finding]:
    """What a live trial at GitHub found. Raises ``UsageError`` for other hubs."""
    from ghcoord.bootstrap import probe_network
    from ghcoord.faces.cli.checks import Finding

    return [Finding(*one[:4], dict(one.details)) for one in probe_network(url, settings(), say_wait)]
