"""``ghcoord leader``: of all who run for a name, one leads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import NotFound, UsageError
from ghcoord.faces import views
from ghcoord.faces.cli import lock_text as text
from ghcoord.faces.cli.common import RunCommand, duration, group, verb
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import fields, note, respond, say, table, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ghcoord.coord.locks.leader import Term
    from ghcoord.faces.cli.lockrun import Child
    from ghcoord.hub import Hub
    from ghcoord.model.lock import Lock, Waiter

app = group("Let one of several processes lead, and another take over when it falls silent.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The election's name.")]
Id = Annotated[str | None, typer.Option("--id", metavar="ID", help="The candidate's name; default user@host.")]


def leader_view(name: str, lock: Lock, waiting: Sequence[Waiter]) -> views.View:
    """Who leads; ``candidates`` are those that wait in the queue."""
    return {
        "name": name,
        "leader": lock.owner,
        "token": lock.token,
        "since": views.iso(lock.acquired_at),
        "expires_at": views.iso(lock.expires_at),
        "metadata": lock.metadata,
        "candidates": [views.waiter_view(waiter) for waiter in waiting],
    }


@verb(app, "run", cls=RunCommand)
def run(
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run while leading.")],
    id_: Id = None,
    ttl: Annotated[
        float | None, duration("--ttl", help="How long others wait when this one falls silent; default 30s.")
    ] = None,
    renew_deadline: Annotated[
        float | None, duration("--renew-deadline", help="Stop when not renewed for so long; default 2/3 of --ttl.")
    ] = None,
    renew: Annotated[float | None, duration("--renew", help="Between renewals; default half of that.")] = None,
    fair: Annotated[bool, typer.Option("--fair", help="Lead in the order in which candidates came.")] = False,
    once: Annotated[bool, typer.Option("--once", help="When the lead is lost, exit with 5.")] = False,
) -> None:
    """Run a command while leading; campaign until then, and again when the lead is lost.

    The command's end ends the lead, and its exit code is passed on. When the
    lead is lost, the command and all processes of its group are ended (TERM,
    then KILL) before another can lead. The command finds GHCOORD_FENCING_TOKEN,
    GHCOORD_LOCK and GHCOORD_HUB in its environment. Who leads is told on
    standard error. It holds that ttl > renew deadline > 1.2 × renew.

    Example:
      ghcoord leader run scheduler --ttl 15s -- ./scheduler --forever
    """
    from ghcoord.faces.cli.lockrun import passing_signals

    if id_ == "":
        raise UsageError("the id is empty: give at least one character")
    with open_hub() as hub:
        led = _Led(hub, name, command)
        election = hub.leader.election(
            name,
            led.start,
            led.end,
            id=id_,
            ttl=ttl,
            renew_deadline=renew_deadline,
            renew=renew,
            fair=fair,
            once=once,
            on_new_leader=led.tell,
        )
        with passing_signals(led.signal):
            election.run()
    respond(led.report, lambda: None)
    raise typer.Exit(int(led.report["exit_code"]))


class _Led:
    """The command of a candidate: started each time it leads."""

    def __init__(self, hub: Hub, name: str, command: list[str]) -> None:
        self._hub = hub
        self._name = name
        self._command = command
        self._child: Child | None = None
        self._terms = 0
        self.report: dict[str, Any] = {}

    def start(self, term: Term) -> None:
        """Run the command to its end, in the thread that has the terminal."""
        from ghcoord.faces.cli.lockrun import MAX_GRACE, Child, guarded_environment

        self._terms += 1
        child = Child(self._hub.runtime)
        child.grace = min(MAX_GRACE, term.spare / 2)
        self._child = child
        if term.stop.is_set():
            child.end()
        started = self._hub.runtime.monotonic()
        try:
            child.start(self._command, guarded_environment(term.lock))
            code = child.wait()
        finally:
            self._child = None
        self.report = {
            "name": self._name,
            "id": term.id,
            "token": term.token,
            "terms": self._terms,
            "exit_code": code,
            "duration": round(self._hub.runtime.monotonic() - started, 3),
        }

    def end(self, term: Term) -> None:
        """The lead is lost, or the command has ended."""
        child = self._child
        if child is None:
            return
        self._note(f"{term.id!r} has lost the lead of {self._name!r}: its command is ended")
        child.end()

    def signal(self, number: int) -> bool:
        """Pass a signal on to the command; ``False`` while there is none."""
        child = self._child
        return child is not None and child.signal(number)

    def tell(self, leader: str) -> None:
        """Say who leads."""
        self._note(f"{leader!r} leads {self._name!r}")

    def _note(self, line: str) -> None:
        if not invocation().json:
            note(line)


@verb(app, "show")
def show(name: Name) -> None:
    """Show who leads, and who waits in the queue to lead. Exits 3 when nobody leads.

    Example:
      ghcoord leader show scheduler
    """
    with open_hub() as hub:
        lock = hub.leader.current(name)
        if lock is None:
            raise NotFound(f"nobody leads {name!r}")
        leader, waiting = lock, hub.leader.candidates(name)

        def plain() -> None:
            fields(
                [
                    ("election", name),
                    ("leader", leader.owner),
                    ("token", leader.token),
                    ("since", views.iso(leader.acquired_at)),
                    ("lease", text.left_text(hub, leader)),
                    ("metadata", to_json(leader.metadata, None) if leader.metadata else None),
                ]
            )
            text.show_waiters(hub, waiting)

        respond(leader_view(name, leader, waiting), plain)


@verb(app, "list")
def list_() -> None:
    """List the elections that have a leader.

    Example:
      ghcoord leader list
    """
    with open_hub() as hub:
        found = hub.leader.list()
        shown = [leader_view(name, lock, hub.leader.candidates(name)) for name, lock in found.items()]
        respond(
            shown,
            lambda: table(
                ("ELECTION", "LEADER", "TOKEN", "LEASE"),
                [(name, lock.owner, lock.token, text.left_text(hub, lock)) for name, lock in found.items()],
                keep=("ELECTION", "TOKEN"),
                right=("TOKEN", "LEASE"),
                empty="nobody leads anything",
            ),
        )


@verb(app, "resign")
def resign(name: Name, id_: Id = None) -> None:
    """Give up the lead of --id: its command is ended at its next renewal, and another leads.

    Exits 3 when nobody leads, 4 when another does.

    Example:
      ghcoord leader resign scheduler
    """
    with open_hub() as hub:
        who = hub.actor if id_ is None else id_
        if not who:
            raise UsageError("the id is empty: give at least one character")
        hub.leader.resign(name, who)
    respond({"name": name, "id": who, "resigned": True}, lambda: say(f"{who} no longer leads {name}"))
