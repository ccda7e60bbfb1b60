"""Looking after a hub, as plain dictionaries with stable keys; see :mod:`ghcoord.faces.views`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghcoord.faces.views import View, iso

if TYPE_CHECKING:
    from ghcoord.coord.care.care import GcReport
    from ghcoord.coord.care.repair import Repair
    from ghcoord.coord.care.settings import SettingState


def repair_view(repair: Repair) -> View:
    """One thing that was put right, or would be; ``space`` is ``None`` for the hub's folder."""
    return {"check": repair.check, "space": repair.space, "what": repair.what, "why": repair.why}


def gc_view(report: GcReport) -> View:
    """What a gc did, or would do: ``retention`` in seconds, sizes in bytes, ``since`` by space."""
    return {
        "dry_run": report.dry_run,
        "retention": report.retention,
        "since": {space: iso(at) for space, at in report.since.items()},
        "commits": report.commits,
        "commits_cut": report.commits_cut,
        "objects": report.objects,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "postponed": report.postponed or None,
    }


def setting_view(setting: SettingState) -> View:
    """A setting of the hub: what counts, the default, and whether it was set. Durations in seconds."""
    return {
        "name": setting.name,
        "value": setting.value,
        "default": setting.default,
        "set": setting.given,
        "kind": setting.kind,
        "means": setting.means,
    }
