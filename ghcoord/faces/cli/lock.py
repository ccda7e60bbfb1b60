"""``ghcoord lock``: leased, fenced; alone, shared, with permits, or on paths."""

from __future__ import annotations

from typing import Annotated

import typer

from ghcoord.errors import NotFound, UsageError
from ghcoord.faces import views
from ghcoord.faces.cli import lock_text as text
from ghcoord.faces.cli.common import RunCommand, confirm, duration, group, number, parse_pairs, verb
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.lock_text import Target
from ghcoord.faces.cli.output import fields, respond, say, table
from ghcoord.units import format_duration

app = group("Take and give locks with leases and fencing tokens.")

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="The lock's name.")]
Paths = Annotated[
    list[str] | None,
    typer.Option("--paths", metavar="PATTERN", help="Not a name but paths: 'src/**', 'docs/*.md'. May be repeated."),
]
Owner = Annotated[str | None, typer.Option("--owner", "-o", metavar="OWNER", help="Who holds it; default user@host.")]
Token = Annotated[int | None, number("--token", least=1, metavar="T", help="Only if the grant has this token.")]
Ttl = Annotated[float | None, duration("--ttl", help="How long it is held without renewal; default 5m.")]
Wait = Annotated[float, duration("--wait", help="How long to keep trying; default 0s.", show_default=False)]
Fair = Annotated[bool, typer.Option("--fair", help="Wait in the lock's queue: first come, first served.")]
Shared = Annotated[bool, typer.Option("--shared", help="Hold it together with other --shared holders.")]
Permits = Annotated[
    int | None, number("--permits", least=1, most=1000, help="Let N hold it at a time; all must name the same N.")
]
Guards = Annotated[
    list[str] | None,
    typer.Option("--for", metavar="NAMESPACE", help="Raise its token in this namespace first. May be repeated."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _given(owner: str) -> str:
    if not owner:
        raise UsageError("the owner is empty: give at least one character")
    return owner


@verb(app, "acquire")
def acquire(
    name: Name = None,
    owner: Owner = None,
    ttl: Ttl = None,
    wait: Wait = 0.0,
    fair: Fair = False,
    shared: Shared = False,
    permits: Permits = None,
    token: Annotated[
        int | None, number("--token", least=1, metavar="T", help="Enter once more the lock that you hold under it.")
    ] = None,
    paths: Paths = None,
    guards: Guards = None,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; k:=json for other values than texts.")
    ] = None,
) -> None:
    """Take a lock and print its fencing token.

    Pass the token with every write that the lock guards. Exits 4 when it is
    held, naming the holder and the time left, and 9 when it still is after
    --wait.

    With --fair nobody gets past those who wait. With --token the holder enters
    its lock once more, and releases it as often. With --paths the lock is on
    all paths that fit the patterns: it is granted when none of them fits a
    pattern that is held. '*' and '?' stay within a name, '**' is any number of
    folders. With --for the token is raised in the namespaces that the lock
    guards: where a server commits to one space at a time, fenced writes need it.

    Example:
      ghcoord lock acquire deploy --owner ci-7 --ttl 60 --wait 30s
      ghcoord memory set release 1.4 --fence deploy:TOKEN
      ghcoord lock acquire --paths 'src/**' --paths README.md --owner agent-1
    """
    target = Target.given(name, paths)
    metadata = parse_pairs(meta, "--meta")
    with open_hub() as hub:
        who = _given(owner if owner is not None else hub.actor)
        how = {"ttl": ttl, "wait": wait, "fair": fair, "shared": shared, "permits": permits, "guards": guards or ()}
        if wait > 0:
            text.say_waiting(hub, target)
        lock = target.acquire(hub, who, metadata=metadata, token=token, **how)
        if lock is None:
            raise text.refusal(hub, target, who, wait)
        granted = lock
        respond(views.lock_view(granted), lambda: text.show_lock(hub, granted))


@verb(app, "renew")
def renew(name: Name = None, owner: Owner = None, token: Token = None, ttl: Ttl = None, paths: Paths = None) -> None:
    """Begin the lease of a held lock anew, optionally with another --ttl.

    Exits 3 when nobody holds it, 4 when another owner does, 5 when --token is
    outdated.

    Example:
      ghcoord lock renew deploy --owner ci-7 --ttl 5m
    """
    target = Target.given(name, paths)
    with open_hub() as hub:
        lock = target.renew(hub, _given(hub.actor if owner is None else owner), token, ttl)
        respond(views.lock_view(lock), lambda: text.show_lock(hub, lock))


@verb(app, "release")
def release(
    name: Name = None,
    owner: Owner = None,
    token: Token = None,
    all_: Annotated[
        bool, typer.Option("--all", help="At once, however often it was entered; without NAME every lock of --owner.")
    ] = False,
    paths: Paths = None,
    yes: Yes = False,
) -> None:
    """Give a lock up; with --all and no NAME every lock of an owner.

    A lock that its holder entered several times is released as often, or with
    --all at once. Exits 3 when nobody holds it, 4 when another owner does, 5
    when --token is outdated. Asked about many on a terminal, --yes answers.

    Example:
      ghcoord lock release deploy --owner ci-7
      ghcoord lock release --all --owner ci-7
    """
    if all_ and name is None and not paths:
        if token is not None or owner is None:
            raise UsageError("--all without NAME takes --owner, and no --token")
        with open_hub() as hub:
            held = hub.locks.list(_given(owner), include_expired=True)
            if held:
                confirm(f"Release {text.counted(held)} of {owner!r}?", yes, unattended=True)
            count = hub.locks.release_all(owner)
        respond({"owner": owner, "released": count}, lambda: say(f"{count} released"))
        return
    if name is None and not paths:
        raise UsageError("name the lock, or give --paths, or --all --owner OWNER")
    target = Target.given(name, paths)
    with open_hub() as hub:
        who = _given(hub.actor if owner is None else owner)
        left = target.release(hub, who, token, all_)
    depth = left.depth if left is not None else 0
    told = f"{target.name} released" if not depth else f"{target.name} is still held, {depth} deep"
    respond({"name": target.name, "owner": who, "released": int(not depth), "depth": depth}, lambda: say(told))


@verb(app, "list")
def list_(
    owner: Annotated[str | None, typer.Option("--owner", "-o", metavar="OWNER", help="Only this owner's.")] = None,
    include_expired: Annotated[
        bool, typer.Option("--include-expired", help="Also those whose lease is over and that nobody has taken.")
    ] = False,
) -> None:
    """List the locks that are held, a row for each holder.

    Example:
      ghcoord lock list --owner ci-7
    """
    with open_hub() as hub:
        found = hub.locks.list(owner, include_expired)
        respond([views.lock_view(lock) for lock in found], lambda: text.show_table(hub, found))


@verb(app, "show")
def show(name: Name = None, paths: Paths = None) -> None:
    """Show who holds a lock and who waits for it. Exits 0 when it is held, 3 when it is free.

    With --paths: the path locks that have a path in common with the patterns.

    Example:
      ghcoord lock show deploy || echo free
      ghcoord lock show --paths src/main.py
    """
    target = Target.given(name, paths)
    with open_hub() as hub:
        alive = [lock for lock in target.holders(hub) if not hub.locks.is_expired(lock)]
        waiting = target.waiters(hub)
        held = text.need_holders(alive, target)

        def plain() -> None:
            if len(held) == 1:
                text.show_lock(hub, held[0])
            else:
                text.show_table(hub, held)
            text.show_waiters(hub, waiting)

        respond(views.lock_state_view(held, waiting), plain)


@verb(app, "stats")
def stats(name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this lock.")] = None) -> None:
    """Show how often locks were taken, how long they were held and waited for.

    Of each lock that was used in the last day. LEFT counts those who left its
    queue without it. Exits 3 when NAME is not among them.

    Example:
      ghcoord lock stats deploy
    """
    with open_hub() as hub:
        if name is None:
            found = hub.locks.all_stats()
        else:
            one = hub.locks.stats(name)
            if one is None:
                raise NotFound(f"the lock {name!r} was not used in the last day: there are no figures")
            found = [one]
    shown = [views.lock_stats_view(one) for one in found]
    if name is not None:
        only = found[0]
        respond(
            shown[0],
            lambda: fields(
                [
                    ("lock", only.name),
                    ("acquired", f"{only.acquisitions} times, {only.contended} after waiting"),
                    ("held", f"{format_duration(only.held_total)}, at most {format_duration(only.held_max)}"),
                    ("waited", f"{format_duration(only.waited_total)}, at most {format_duration(only.waited_max)}"),
                    ("expired", f"{only.expired} times"),
                    ("left", f"{only.left} waiters"),
                    ("last owner", only.last_owner or None),
                ]
            ),
        )
        return
    respond(
        shown,
        lambda: table(
            ("NAME", "TAKEN", "WAITED", "LEFT", "HELD MAX", "WAIT MAX", "LAST OWNER"),
            [
                (
                    one.name,
                    one.acquisitions,
                    one.contended,
                    one.left,
                    format_duration(one.held_max),
                    format_duration(one.waited_max),
                    one.last_owner or None,
                )
                for one in found
            ],
            keep=("NAME",),
            right=("TAKEN", "WAITED", "LEFT", "HELD MAX", "WAIT MAX"),
            empty="no lock was used in the last day",
        ),
    )


@verb(app, "clean")
def clean() -> None:
    """Remove the locks whose lease is over. Every worker does so by itself.

    Example:
      ghcoord lock clean
    """
    with open_hub() as hub:
        count = hub.locks.clean()
    respond({"removed": count}, lambda: say(f"{count} removed"))


@verb(app, "force-unlock")
def force_unlock(
    name: Name = None,
    token: Annotated[int | None, number("--token", least=1, metavar="T", help="Only this grant of several.")] = None,
    paths: Paths = None,
    yes: Yes = False,
) -> None:
    """End the grants of a lock, whoever holds it.

    The holder is not told: it notices at its next renewal, and its fenced
    writes are refused from now on. With --paths: every path lock that has a
    path in common with the patterns.

    Example:
      ghcoord lock force-unlock deploy --yes
    """
    target = Target.given(name, paths)
    with open_hub() as hub:
        holders = [lock for lock in target.holders(hub) if token in (None, lock.token)]
        if holders:
            first = holders[0]
            whose = f"{first.owner!r} ({text.left_text(hub, first)})"
            many = f"End {text.counted(holders)}, each {'that overlaps' if paths else 'of'} {target.name!r}?"
            confirm(f"Take {target.what} from {whose}?" if len(holders) == 1 and not paths else many, yes)
        ended = target.force_unlock(hub, token)

    def plain() -> None:
        for lock in ended:
            say(f"{lock.name} taken from {lock.owner} (token {lock.token})")

    respond(views.lock_state_view(ended, []), plain)


class _Run(RunCommand):
    instead_of_name = ("--paths",)


@verb(app, "run", cls=_Run)
def run(
    name: Name = None,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND...", help="What to run while holding it.")
    ] = None,
    owner: Owner = None,
    ttl: Ttl = None,
    wait: Wait = 0.0,
    fair: Fair = False,
    shared: Shared = False,
    permits: Permits = None,
    paths: Paths = None,
    guards: Guards = None,
) -> None:
    """Hold a lock while a command runs, and pass on the command's exit code.

    Options of this command stand before COMMAND: what follows its first word
    is passed on as it is, also without '--'.

    The command finds GHCOORD_FENCING_TOKEN, GHCOORD_LOCK and GHCOORD_HUB in its
    environment. The lease is renewed in the background; when it is lost, the
    command and all processes of its group are ended (TERM, then KILL) and the
    exit code is 5. A command that a signal ends gives 128 + the signal's
    number. With --json the command's output goes to standard error.

    Example:
      ghcoord lock run deploy --ttl 1m --wait 5m --fair -- ./deploy.sh production
      ghcoord lock run --paths 'src/**' -- make format
    """
    from ghcoord.faces.cli.lockrun import run_guarded

    words = [*(command or [])]
    if paths and name is not None:
        words.insert(0, name)  # there is no NAME: it is the command's first word
        name = None
    target = Target.given(name, paths)
    if not words:
        raise UsageError("say what to run, after '--'")
    with open_hub() as hub:
        who = _given(hub.actor if owner is None else owner)
        how = {"ttl": ttl, "wait": wait, "fair": fair, "shared": shared, "permits": permits, "guards": guards or ()}
        report = run_guarded(hub, target, words, owner=who, wait=wait, how=how)
    respond(report, lambda: None)
    raise typer.Exit(int(report["exit_code"]))
