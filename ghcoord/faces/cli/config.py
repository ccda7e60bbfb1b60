"""``ghcoord config``: the settings that all users of the hub share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.faces.care_views import setting_view
from ghcoord.faces.cli.common import group, verb
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import respond, say, table
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.coord.care.settings import SettingState

app = group("Settings of the hub, which count for all its users.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The setting, as 'config list' names it.")]


def _shown(kind: str, value: Any) -> str:
    if value is None:
        return "none"
    return format_duration(value) if kind == "duration" else str(value)


def _value(setting: SettingState) -> str:
    return _shown(setting.kind, setting.value)


@verb(app, "list")
def list_() -> None:
    """List all settings: what counts, and what the default is where it was changed.

    Example:
      ghcoord config list
    """
    with open_hub() as hub:
        found = hub.config.describe()
    respond(
        [setting_view(one) for one in found],
        lambda: table(
            ("NAME", "VALUE", "DEFAULT", "MEANS"),
            [(one.name, _value(one), _shown(one.kind, one.default) if one.given else "", one.means) for one in found],
            keep=("NAME", "VALUE"),
        ),
    )


@verb(app, "get")
def get(name: Name) -> None:
    """Print what counts for a setting. Exits 3 when there is no such setting.

    Example:
      ghcoord config get retention.history
    """
    with open_hub() as hub:
        (found,) = hub.config.describe(name)
    respond(setting_view(found), lambda: say(_value(found)))


@verb(app, "set")
def set_(
    name: Name, value: Annotated[str, typer.Argument(metavar="VALUE", help="Durations as in 90s, 5m, 30d.")]
) -> None:
    """Change a setting for all users of the hub, from their next look at it on.

    What a command's option or a ghcoord.toml says goes before it.

    Example:
      ghcoord config set retention.history 7d
      ghcoord config set quota.open_tasks 100000
    """
    with open_hub() as hub:
        hub.config.set(name, value)
        (found,) = hub.config.describe(name)
    respond(setting_view(found), lambda: say(f"{name} is {_value(found)} now"))


@verb(app, "unset")
def unset(name: Name) -> None:
    """Return a setting to its default.

    Example:
      ghcoord config unset quota.open_tasks
    """
    with open_hub() as hub:
        was_set = hub.config.unset(name)
        (found,) = hub.config.describe(name)
    before = "" if was_set else ", as before"
    respond(setting_view(found), lambda: say(f"{name} is {_value(found)}, the default{before}"))
