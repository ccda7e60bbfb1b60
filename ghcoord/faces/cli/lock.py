"""``ghcoord lock``: exclusive, leased, fenced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import GhcoordError, LockHeld, NotFound, UsageError, WaitTimeout
from ghcoord.faces import views
from ghcoord.faces.cli.common import RunCommand, confirm, duration, group, number, parse_pairs, verb
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import fields, note, respond, say, table, to_json
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.lock import Lock

app = group("Take and give exclusive locks with leases and fencing tokens.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The lock's name.")]
Owner = Annotated[str | None, typer.Option("--owner", "-o", metavar="OWNER", help="Who holds it; default user@host.")]
Token = Annotated[int | None, number("--token", least=1, metavar="T", help="Only if the grant has this token.")]
Ttl = Annotated[float | None, duration("--ttl", help="How long it is held without renewal; default 5m.")]
Wait = Annotated[float, duration("--wait", help="How long to keep trying; default 0s.", show_default=False)]


class _Refused(GhcoordError):
    """A lock that was not to be had, with who holds it."""

    def __init__(self, message: str, holder: views.View | None, left: float | None) -> None:
        super().__init__(message)
        self.holder = holder
        self.left = left

    def details(self) -> dict[str, Any]:
        return {**super().details(), "retryable": True, "holder": self.holder, "seconds_left": self.left}


class _Held(_Refused, LockHeld):
    default_code = "LOCK_HELD"


class _StillHeld(_Refused, WaitTimeout):
    default_code = "WAIT_TIMEOUT"


def refusal(hub: Hub, name: str, owner: str, wait: float) -> GhcoordError:
    """Why ``name`` was not granted: who holds it and how much longer. Exit code 4, after a ``wait`` 9."""
    kind = _StillHeld if wait > 0 else _Held
    after = f" after waiting {format_duration(wait)}" if wait > 0 else ""
    holder = _find(hub, name)
    if holder is None:
        return kind(f"the lock {name!r} was held{after} and is free now: try again", None, 0.0)
    left = _left(hub, holder)
    if left <= 0:
        rest = format_duration(max(0.1, left + hub.clock_margin))
        when = f"its lease is over and it can be taken in {rest}"
    else:
        when = f"{format_duration(left)} left"
    who = f"{holder.owner!r} already" if holder.owner == owner else f"{holder.owner!r}"
    parts = (f"token {holder.token}" if holder.owner == owner else "", _place(holder))
    about = ", ".join(part for part in parts if part)
    message = f"the lock {name!r} is held by {who}{f' ({about})' if about else ''}{after}: {when}"
    return kind(message, views.lock_view(holder), round(max(0.0, left), 3))


def say_waiting(hub: Hub, name: str) -> None:
    """Say on standard error whom a wait for ``name`` is for; nothing when it is free, or with ``--json``."""
    holder = None if invocation().json else _find(hub, name)
    if holder is None or (rest := _left(hub, holder) + hub.clock_margin) <= 0:
        return
    who = f"{holder.owner!r}{f' ({place})' if (place := _place(holder)) else ''}"
    note(f"waiting for {name!r}, held by {who}, free in at most {format_duration(max(0.1, rest))} unless renewed")


def _find(hub: Hub, name: str) -> Lock | None:
    """The grant of ``name`` also when its lease is over and nobody has taken it yet."""
    return next((lock for lock in hub.locks.list(include_expired=True) if lock.name == name), None)


def _place(lock: Lock) -> str:
    """Which process took it: ``pid 7 on host``, as far as the grant says."""
    pid, host = (lock.metadata.get(key) for key in ("pid", "hostname"))
    return " on ".join(part for part in (f"pid {pid}" if pid else "", str(host) if host else "") if part)


def _left(hub: Hub, lock: Lock) -> float:
    return (lock.expires_at - hub.now()).total_seconds()


def _show(hub: Hub, lock: Lock) -> None:
    fields(
        [
            ("lock", lock.name),
            ("owner", lock.owner),
            ("token", lock.token),
            ("acquired", views.iso(lock.acquired_at)),
            ("expires", f"{views.iso(lock.expires_at)} ({_left_text(hub, lock)})"),
            ("metadata", to_json(lock.metadata, None) if lock.metadata else None),
        ]
    )


def _left_text(hub: Hub, lock: Lock) -> str:
    left = _left(hub, lock)
    return f"{format_duration(left)} left" if left > 0 else "expired"


@verb(app, "acquire")
def acquire(
    name: Name,
    owner: Owner = None,
    ttl: Ttl = None,
    wait: Wait = 0.0,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; k:=json for other values than texts.")
    ] = None,
) -> None:
    """Take a lock and print its fencing token.

    Pass the token with every write that the lock guards. Exits 4 when it is
    held, naming the holder and the time left, and 9 when it still is after
    --wait.

    Example:
      ghcoord lock acquire deploy --owner ci-7 --ttl 60 --wait 30s
      ghcoord memory set release 1.4 --fence deploy:TOKEN
    """
    metadata = parse_pairs(meta, "--meta")
    with open_hub() as hub:
        who = owner if owner is not None else hub.actor
        if wait > 0:
            say_waiting(hub, name)
        lock = hub.locks.acquire(name, _given(who), ttl=ttl, wait=wait, metadata=metadata)
        if lock is None:
            raise refusal(hub, name, who, wait)
        granted = lock
        respond(views.lock_view(granted), lambda: _show(hub, granted))


def _given(owner: str) -> str:
    if not owner:
        raise UsageError("the owner is empty: give at least one character")
    return owner


@verb(app, "renew")
def renew(name: Name, owner: Owner = None, token: Token = None, ttl: Ttl = None) -> None:
    """Begin the lease of a held lock anew, optionally with another --ttl.

    Exits 3 when nobody holds it, 4 when another owner does, 5 when --token is
    outdated.

    Example:
      ghcoord lock renew deploy --owner ci-7 --ttl 5m
    """
    with open_hub() as hub:
        lock = hub.locks.renew(name, _given(hub.actor if owner is None else owner), token, ttl=ttl)
        respond(views.lock_view(lock), lambda: _show(hub, lock))


@verb(app, "release")
def release(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The lock's name.")] = None,
    owner: Owner = None,
    token: Token = None,
    all_: Annotated[bool, typer.Option("--all", help="Every lock of --owner.")] = False,
) -> None:
    """Give a lock up, or with --all every lock of an owner.

    Exits 3 when nobody holds it, 4 when another owner does, 5 when --token is
    outdated.

    Example:
      ghcoord lock release deploy --owner ci-7
      ghcoord lock release --all --owner ci-7
    """
    if all_:
        if name is not None or token is not None or owner is None:
            raise UsageError("--all takes --owner, and neither NAME nor --token")
        with open_hub() as hub:
            count = hub.locks.release_all(owner)
        respond({"owner": owner, "released": count}, lambda: say(f"{count} released"))
        return
    if name is None:
        raise UsageError("name the lock, or give --all --owner OWNER")
    with open_hub() as hub:
        who = _given(hub.actor if owner is None else owner)
        hub.locks.release(name, who, token)
    respond({"name": name, "owner": who, "released": 1}, lambda: say(f"{name} released"))


@verb(app, "list")
def list_(
    owner: Annotated[str | None, typer.Option("--owner", "-o", metavar="OWNER", help="Only this owner's.")] = None,
    include_expired: Annotated[
        bool, typer.Option("--include-expired", help="Also those whose lease is over and that nobody has taken.")
    ] = False,
) -> None:
    """List the locks that are held.

    Example:
      ghcoord lock list --owner ci-7
    """
    with open_hub() as hub:
        found = hub.locks.list(owner, include_expired)
        left = {lock.name: _left_text(hub, lock) for lock in found}
    respond(
        [views.lock_view(lock) for lock in found],
        lambda: table(
            ("NAME", "OWNER", "TOKEN", "LEASE"),
            [(lock.name, lock.owner, lock.token, left[lock.name]) for lock in found],
            keep=("NAME", "TOKEN"),
            right=("TOKEN", "LEASE"),
            empty="no locks",
        ),
    )


@verb(app, "show")
def show(name: Name) -> None:
    """Show who holds a lock. Exits 0 when it is held, 3 when it is free.

    Example:
      ghcoord lock show deploy || echo free
    """
    with open_hub() as hub:
        lock = hub.locks.get(name)
        if lock is None:
            raise NotFound(f"the lock {name!r} is free")
        held = lock
        respond(views.lock_view(held), lambda: _show(hub, held))


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
def force_unlock(name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """End a grant, whoever holds it.

    The holder is not told: it notices at its next renewal, and its fenced
    writes are refused from now on.

    Example:
      ghcoord lock force-unlock deploy --yes
    """
    with open_hub() as hub:
        holder = _find(hub, name)
        if holder is not None:
            confirm(f"Take the lock {name!r} from {holder.owner!r} ({_left_text(hub, holder)})?", yes)
        lock = hub.locks.force_unlock(name)
    respond(views.lock_view(lock), lambda: say(f"{lock.name} taken from {lock.owner} (token {lock.token})"))


@verb(app, "run", cls=RunCommand)
def run(
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run while holding it.")],
    owner: Owner = None,
    ttl: Ttl = None,
    wait: Wait = 0.0,
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
      ghcoord lock run deploy --ttl 1m --wait 5m -- ./deploy.sh production
    """
    from ghcoord.faces.cli.lockrun import run_guarded

    with open_hub() as hub:
        who = _given(hub.actor if owner is None else owner)
        report = run_guarded(hub, name, command, owner=who, ttl=ttl, wait=wait)
    respond(report, lambda: None)
    raise typer.Exit(int(report["exit_code"]))
