"""``ghcoord actions lock`` and ``unlock``: a lock that a job holds from one step to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghcoord.errors import GhcoordError, LeaseLost
from ghcoord.faces.cli.actionshub import enter_job, hub_of
from ghcoord.faces.cli.common import duration, number, parse_pairs
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import respond, say

Folder = Annotated[
    Path, typer.Option("--folder", metavar="DIR", help="Where the steps and the process that holds it speak.")
]

RELEASE_PATIENCE = 20.0
"""Seconds to wait for a server's limits at the end of a job, which waits for it."""


def lock(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The lock's name.")],
    folder: Folder,
    owner: Annotated[str, typer.Option("--owner", "-o", metavar="OWNER", help="Who holds it: no two jobs the same.")],
    ttl: Annotated[float | None, duration("--ttl", help="How long others wait when the machine dies.")] = None,
    wait: Annotated[float, duration("--wait", help="How long to stand in its queue; default 0s.")] = 0.0,
    shared: Annotated[bool, typer.Option("--shared", help="Hold it together with other --shared holders.")] = False,
    permits: Annotated[
        int | None, number("--permits", least=1, most=1000, help="Let N hold it at a time; all must name the same N.")
    ] = None,
    at_most: Annotated[
        float, duration("--at-most", help="Stop renewing it after so long; default 6h, which a hosted job may take.")
    ] = 21600.0,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; k:=json for other values than texts.")
    ] = None,
) -> None:
    """Hold a lock until 'actions unlock': the action 'lock'.

    Goes on, and renews the lease, until it is told to end by 'actions unlock'
    with the same --folder, or by a signal; the lock is released then. How it
    stands is in state.json there. It stops renewing, without releasing, when the
    runner of the job has ended, and stops waiting when the step has that started
    it. Makes the hub if there is none. Exits 4 when the lock is held, 5 when the
    lease was lost, 9 when it is still held after --wait.

    Example:
      ghcoord actions lock deploy --folder /tmp/held --owner run-42 --wait 30m &
      ghcoord actions unlock --folder /tmp/held
    """
    from ghcoord.clock import SystemRuntime
    from ghcoord.faces.actions.holdfile import HoldFolder
    from ghcoord.faces.actions.lockholder import Holder
    from ghcoord.faces.cli.lock_text import Target, refusal

    metadata = parse_pairs(meta, "--meta")
    place = HoldFolder(folder)
    place.make()
    holder = Holder(SystemRuntime(), place, name, owner, at_most=at_most)
    how = {"ttl": ttl, "shared": shared, "permits": permits, "metadata": metadata}
    try:
        with hub_of(enter_job()) as hub:
            state = holder.run(hub, wait=wait, how=how)
            if state.state == "waiting":
                raise refusal(hub, Target(name), owner, wait)
        if state.state == "lost":
            raise LeaseLost(f"the lock {name!r} was lost: {state.message}")
    except GhcoordError as error:
        holder.failed(error)
        raise
    respond(state.view(), lambda: say(f"{name} {state.state}{f': {state.message}' if state.message else ''}"))


def unlock(
    folder: Folder,
    timeout: Annotated[float, duration("--timeout", help="How long the process that holds it may take.")] = 30.0,
) -> None:
    """Release what 'actions lock' holds: the end of the action 'lock'.

    Does nothing when that was never granted. When the process that held it is
    dead, does not end or could not release it, the lock is released from here. Exits 5 when the lease
    was lost before: what the job did may have run beside another one.

    Example:
      ghcoord actions lock deploy --folder /tmp/held --owner run-42 &
      ghcoord actions unlock --folder /tmp/held --timeout 10s
    """
    from ghcoord.clock import SystemRuntime
    from ghcoord.faces.actions.holdfile import NOTHING, OVER, HoldFolder
    from ghcoord.faces.actions.lockholder import release_for, stop_holder

    place = HoldFolder(folder)
    state = stop_holder(SystemRuntime(), place, timeout) if folder.is_dir() else None
    if state is None:
        respond(NOTHING, lambda: say("no lock was asked for"))
        return
    if state.state not in OVER or (state.state == "failed" and state.token is not None):
        with open_hub(patience=RELEASE_PATIENCE, actor=enter_job().who) as hub:
            state = release_for(hub, state)
        place.write(state)
    if state.state == "lost":
        raise LeaseLost(f"the lock {state.name!r} was lost while the job ran: {state.message}")
    respond(state.view(), lambda: say(f"{state.name} {state.state}{f': {state.message}' if state.message else ''}"))
