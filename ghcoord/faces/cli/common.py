"""What all commands share: the command classes, the options that each of them takes, parameter types.

``--hub``, ``--json`` and ``--debug`` are appended here to every command and
group, so they are taken before and after the subcommand and no function
declares them.  A command's docstring ends in an ``Example:`` section, which is
shown as written at the end of its help.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from ghcoord.errors import UsageError
from ghcoord.faces.cli.context import invocation
from ghcoord.faces.cli.output import clean
from ghcoord.units import format_duration, parse_duration

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def _set_hub(value: str | None) -> None:
    if value is not None:
        invocation().hub = value


def _set_json(value: bool) -> None:
    if value:
        invocation().json = True


def _set_debug(value: bool) -> None:
    if value:
        invocation().debug = True


def _options(
    hub: Annotated[
        str | None,
        typer.Option(
            "--hub",
            "-H",
            metavar="HUB",
            callback=_set_hub,
            expose_value=False,
            help="The hub: a folder or a URL; else GHCOORD_HUB, else hub in ghcoord.toml.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", callback=_set_json, expose_value=False, help="Print JSON with stable keys.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            callback=_set_debug,
            expose_value=False,
            help="Show tracebacks, and each call of the store on standard error.",
        ),
    ] = False,
) -> None:
    """Hold the options that every command takes."""


@cache
def _common_options() -> tuple[Any, ...]:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(_options)
    return tuple(typer.main.get_command(app).params)


def _shown_defaults(params: list[Any]) -> list[Any]:
    """``params``, durations among them with their defaults as one writes them, once."""
    for one in params:
        default = getattr(one, "default", None)
        if getattr(one, "metavar", None) == "DURATION" and isinstance(default, int | float):
            one.show_default = False if "default" in (one.help or "") else format_duration(default)
    return params


_SETTINGS = {"help_option_names": ["-h", "--help"]}


def _split_example(text: str | None) -> tuple[str | None, str | None]:
    """A docstring's text, and its ``Example:`` section."""
    before, mark, after = (text or "").partition("Example:\n")
    return (before.strip() or None, "Example:\n" + after.rstrip()) if mark else (text, None)


def _write_verbatim(text: str | None, formatter: HelpFormatter) -> None:
    if text:
        formatter.write("\n" + text.rstrip() + "\n")


class Command(TyperCommand):
    """A command with the common options and a verbatim example."""

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **settings: Any) -> None:
        text, example = _split_example(settings.pop("help", None))
        settings["epilog"] = example or settings.get("epilog")
        settings["context_settings"] = {**(settings.get("context_settings") or {}), **_SETTINGS}
        super().__init__(name, params=[*_shown_defaults(params or []), *_common_options()], help=text, **settings)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_verbatim(self.epilog, formatter)


class RunCommand(Command):
    """A command whose arguments are a name and a command line: from the latter's first word on nothing is an option.

    ``lock run y ls -la`` means what ``lock run y -- ls -la`` does.  An option in
    ``instead_of_name``, given before all words, stands for the name.
    """

    instead_of_name: tuple[str, ...] = ()

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_dashes(args, self._takes_value(ctx), self.instead_of_name))

    def _takes_value(self, ctx: Context) -> dict[str, bool]:
        """Every spelling of an option, and whether a value follows it."""
        options = (one for one in self.get_params(ctx) if one.param_type_name == "option")
        return {name: not getattr(one, "is_flag", False) for one in options for name in one.opts}


def _with_dashes(args: list[str], takes_value: dict[str, bool], names: tuple[str, ...] = ()) -> list[str]:
    """``args`` with ``--`` before the second word that is neither an option nor an option's value.

    After one of the options ``names`` it is the first word.
    """
    words = at = 0
    while at < len(args) and args[at] != "--":
        one = args[at]
        if not one.startswith("-") or one == "-":
            words += 1
            if words == 2:
                return [*args[:at], "--", *args[at:]]
        elif one.partition("=")[0] in names:
            words, at = 1, at + ("=" not in one)
        elif takes_value.get(one, False):
            at += 1
        at += 1
    return args


class Group(TyperGroup):
    """A group of commands with the common options."""

    def __init__(self, *, params: list[Any] | None = None, **settings: Any) -> None:
        text, example = _split_example(settings.pop("help", None))
        settings["epilog"] = example or settings.get("epilog")
        settings["context_settings"] = {**(settings.get("context_settings") or {}), **_SETTINGS}
        super().__init__(params=[*_shown_defaults(params or []), *_common_options()], help=text, **settings)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_verbatim(self.epilog, formatter)


def group(help: str) -> typer.Typer:
    """A noun: an application whose commands are its verbs."""
    return typer.Typer(cls=Group, help=help, add_completion=False, rich_markup_mode=None)


def verb(app: typer.Typer, name: str, **settings: Any) -> Callable[[AnyFunction], AnyFunction]:
    """Declare a function as the command ``name`` of ``app``."""
    return app.command(name, **{"cls": Command, **settings})


def single(function: Callable[..., Any], name: str) -> typer.Typer:
    """An application that is one command, for those without a noun."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=Command)(function)
    return app


# -- parameter types


def _duration(text: str | float) -> float:
    try:
        return parse_duration(text)
    except UsageError as mistake:
        raise typer.BadParameter(mistake.message) from None


def duration(*names: str, help: str, **settings: Any) -> Any:
    """An option whose value is a duration such as ``90``, ``90s``, ``5m`` or ``1h30m``; seconds in the function."""
    return typer.Option(*names, parser=_duration, metavar="DURATION", help=help, **settings)


def number(*names: str, help: str, least: int | None = None, most: int | None = None, **settings: Any) -> Any:
    """An option whose value is a whole number, of at least ``least`` and at most ``most``."""
    low = "" if least is None else f" of at least {least}"
    span = low if most is None else f" from {least} to {most}"

    def parse(text: str | int) -> int:
        try:
            found = int(text)
        except ValueError:
            found = None
        if found is None or (least is not None and found < least) or (most is not None and found > most):
            raise typer.BadParameter(f"{str(text)[:40]!r} is not a whole number{span}")
        return found

    return typer.Option(*names, parser=parse, help=help, **{"metavar": "N", **settings})


def one_of(choices: Iterable[str]) -> Callable[[Any], str]:
    """A parser that takes one of ``choices``."""
    known = tuple(choices)

    def parse(text: Any) -> str:
        if text not in known:
            raise typer.BadParameter(f"{str(text)[:40]!r} is not one of {', '.join(known)}")
        return str(text)

    return parse


def check_each(given: Iterable[str] | None, known: Sequence[str], option: str) -> None:
    """Raise ``UsageError`` for the first of ``given`` that is not ``known``."""
    for one in given or ():
        if one not in known:
            raise UsageError(f"{option} {one[:40]!r} is unknown: one of {', '.join(known)}")


def parse_json(text: str, what: str) -> Any:
    """The value of a JSON text; raises ``UsageError`` naming ``what`` and the place."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as mistake:
        reason = mistake if isinstance(mistake, ValueError) else "nested too deeply"
        raise UsageError(f"{what} is not JSON: {reason}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def parse_object(text: str, what: str) -> dict[str, Any]:
    """As :func:`parse_json`, for a JSON object."""
    value = parse_json(text, what)
    if not isinstance(value, dict):
        raise UsageError(f'{what} must be a JSON object, as in \'{{"key": "value"}}\'')
    return value


def parse_pairs(pairs: Iterable[str] | None, option: str) -> dict[str, Any]:
    """``key=value`` pairs as texts, ``key:=json`` pairs as the JSON value; raises ``UsageError``."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, mark, value = pair.partition("=")
        typed = key.endswith(":")
        key = key.removesuffix(":")
        if not mark or not key:
            raise UsageError(f"{option} takes key=value, or key:=json: got {pair[:40]!r}")
        if key in found:
            raise UsageError(f"{option} {key[:40]!r} is given twice")
        found[key] = parse_json(value, f"{option} {key[:40]}") if typed else value
    return found


def parse_labels(pairs: Iterable[str] | None, option: str = "--label") -> dict[str, str]:
    """``key=value`` pairs whose values stay texts; a bare ``key`` stands for ``key=true``. Raises ``UsageError``."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        key, mark, value = pair.partition("=")
        if not key:
            raise UsageError(f"{option} takes key=value, or a key alone: got {pair[:40]!r}")
        found[key] = value if mark else "true"
    return found


def confirm(question: str, yes: bool, *, unattended: bool = False, flag: str = "--yes") -> None:
    """Ask on the terminal unless ``yes``; raises ``Abort`` on a no.

    Where nobody can answer: goes ahead if ``unattended``, else raises ``UsageError`` naming the ``flag`` that answers.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        if unattended:
            return
        raise UsageError(f"{question} Nobody is there to answer: add {flag}")
    if not typer.confirm(clean(question), err=True):
        raise typer.Abort
