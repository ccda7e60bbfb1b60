"""Tools for locks: taken in the caller's name, leased and fenced; renewed and released by who has the token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import Field

from ghcoord.errors import LeaseLost, NotOwner
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import MAX_WAIT, Call
from ghcoord.faces.mcp.rows import LockRow, lock_line, lock_row
from ghcoord.faces.mcp.shown import line, rows
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.mcp.visible import USER, WORKSPACE, holds, holds_elsewhere
from ghcoord.faces.mcp.waits import Stop
from ghcoord.model.lease import GIVE_UP_AT
from ghcoord.model.lock import MAX_PERMITS, Lock
from ghcoord.units import format_duration

DEFAULT_TTL = 300.0
"""Seconds of a lease unless asked otherwise: agents take long between two calls."""

MIN_TTL = 5.0
"""Seconds: a shorter lease is over before the next call."""

MAX_TTL = 86_400.0
"""Seconds of the longest lease: nobody renews for an agent that has gone."""

MAX_LISTED = 200
"""Grants in one page."""

MAX_SHOWN = 20
"""Holders that a refusal names."""

MAX_PATHS = 100
"""Patterns of one path lock."""

LOOK = 1.0
"""Seconds of a try for a path lock, after which it is looked whether the client has given the call up."""

Name = Annotated[
    str | None, Field(min_length=1, max_length=256, description="Any name that all agree on: deploy/production.")
]
Paths = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
    Field(
        max_length=MAX_PATHS,
        description="In place of name: claim these parts of a tree of files, as patterns such as src/** or docs/*.md.",
    ),
]
Token = Annotated[int, Field(ge=1, le=2**53, description="The token that lock_acquire gave.")]
Ttl = Field(ge=MIN_TTL, le=MAX_TTL, description="Seconds that the lease lasts unless renewed; default 300, 5 to 86400.")


ELSEWHERE = (
    "You took it through another server process: if that one has ended, lock_renew with its token makes it go on, "
    "lock_release ends it; if it still runs, another agent of yours is at work."
)


class Acquire(Arguments):
    """Of ``lock_acquire``."""

    name: Name = None
    paths: Paths = ()
    wait_s: float = Field(default=0.0, ge=0, le=MAX_WAIT, description="Seconds to wait for it, up to 45; 0 tries once.")
    ttl_s: Annotated[float, Ttl] = DEFAULT_TTL
    shared: bool = Field(default=False, description="Hold it together with others that also ask shared, as readers do.")
    permits: int | None = Field(
        default=None, ge=1, le=MAX_PERMITS, description="Let so many hold it at a time; all must name the same number."
    )
    namespaces: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(
        default=(), max_length=16, description="Memory namespaces that you will write to under this lock (fence)."
    )
    purpose: str = Field(default="", max_length=500, description="What you do under it, for others who look.")


class Acquired(Returns):
    """What ``lock_acquire`` returns."""

    acquired: bool
    token: int | None = Field(description="The fencing token: give it to lock_renew, lock_release and fenced writes.")
    renew_within_s: float | None = Field(description="Seconds within which to renew or release it.")
    lock: LockRow | None
    holders: list[LockRow] = Field(description="Who holds it, when you did not get it.")


@tool(
    "lock_acquire",
    title="Take a lock",
    toolset=Toolset.LOCKS,
    takes=Acquire,
    returns=Acquired,
    read_only=False,
)
def lock_acquire(call: Call, args: Acquire) -> Answer:
    """Take a lock before you change something that others may change too; give a name, or paths of files. It is
    yours until ttl_s is over: nothing renews it for you, so call lock_renew before, and lock_release when done. Keep
    the token. If acquired is false you do not have it: do not go on; call it again with wait_s, or do other work.
    Your own lock is in the way as well."""
    named = _named(args.name, args.paths)
    if args.paths and (args.permits is not None or args.namespaces):
        raise Failure("a path lock has neither permits nor namespaces", "Leave them out, or give a name.")
    lock = _take(call, args)
    if lock is not None and call.cancelled():
        _give_back(call, lock)
        raise Failure("the call was given up", "Call lock_acquire again.", code="CANCELLED")
    if lock is None:
        return _refused(call, args, named)
    row = lock_row(lock, call.hub.now(), call.caller)
    within = round(args.ttl_s * GIVE_UP_AT, 1)
    text = (
        f"You have {named} under token {lock.token}, for {format_duration(args.ttl_s)}.\n"
        f"Renew it within {format_duration(within)} (lock_renew with this token), or stop what it protects; "
        "release it as soon as you are done (lock_release)."
    )
    return Answer(text, {"acquired": True, "token": lock.token, "renew_within_s": within, "lock": row, "holders": []})


def _named(name: str | None, paths: tuple[str, ...]) -> str:
    if (name is None) is (not paths):
        raise Failure("a lock has either a name or paths", "Give exactly one of name and paths.")
    if name is not None:
        return f"the lock {line(name)!r}"
    return f"the {'path' if len(paths) == 1 else 'paths'} {line(', '.join(paths))}"


def _take(call: Call, args: Acquire) -> Lock | None:
    metadata = {"purpose": args.purpose} if args.purpose else {}
    metadata |= {"client": call.caller.client[:100]} if call.caller.client else {}
    metadata |= {USER: call.caller.user_id, WORKSPACE: call.caller.workspace_id}
    stop = Stop(call, lambda: f"waiting for {_named(args.name, args.paths)}")
    if args.name is not None:
        granted = call.hub.locks.pursuit(
            args.name,
            call.caller.owner,
            ttl=args.ttl_s,
            wait=args.wait_s,
            metadata=metadata,
            fair=args.wait_s > 0,
            shared=args.shared,
            permits=args.permits,
            guards=args.namespaces,
            stop=stop,
        ).run()
        return None if granted is None else granted.lock
    end = call.wait_until(args.wait_s)
    runtime = call.services.runtime
    while True:
        left = max(0.0, end - runtime.monotonic())
        lock = call.hub.locks.paths.acquire(
            args.paths,
            call.caller.owner,
            ttl=args.ttl_s,
            wait=min(LOOK, left),
            metadata=metadata,
            shared=args.shared,
        )
        if lock is not None or left <= LOOK or stop.is_set():
            return lock
        stop.beat(runtime.monotonic())


def _give_back(call: Call, lock: Lock) -> None:
    if lock.paths:
        call.hub.locks.paths.release(lock.paths, lock.owner, lock.token)
    else:
        call.hub.locks.release(lock.name, lock.owner, lock.token)


def _is(args: Acquire) -> str:
    return "are" if len(args.paths) > 1 else "is"


def _refused(call: Call, args: Acquire, named: str) -> Answer:
    if args.name is not None:
        held = call.hub.locks.holders(args.name, include_expired=True)
    else:
        held = call.hub.locks.paths.overlapping(args.paths, include_expired=True)
    now = call.hub.now()
    holders = [lock_row(one, now, call.caller) for one in held[:MAX_SHOWN]]
    waited = f" after {format_duration(args.wait_s)}" if args.wait_s else ""
    own = any(row["yours"] for row in holders)
    next_step = "Do not do what it protects. Next: lock_acquire again with wait_s (up to 45), or other work."
    if own:
        next_step = "You hold it already: go on under that token if it is yours, or release it first."
    elif any(row["yours_elsewhere"] for row in holders):
        next_step = f"{ELSEWHERE} {next_step}"
    text = "\n".join([f"NOT acquired{waited}: {named} {_is(args)} not free.", *map(lock_line, holders), next_step])
    data = {"acquired": False, "token": None, "renew_within_s": None, "lock": None, "holders": holders}
    return Answer(text, data, failed=True)


class Renew(Arguments):
    """Of ``lock_renew``."""

    name: Name = None
    paths: Paths = ()
    token: Token
    ttl_s: Annotated[float | None, Ttl] = Field(default=None, description="Another length of the lease, in seconds.")


T = TypeVar("T")


def _in_own_name(call: Call, args: Renew | Release, act: Callable[[str], T]) -> T:
    """``act`` in the caller's name, or in that of another server through which the same user took this grant."""
    try:
        return act(call.caller.owner)
    except NotOwner:
        for grant in _grants(call, args):
            if grant.token == args.token and holds_elsewhere(call.caller, grant):
                return act(grant.owner)
        raise


def _grants(call: Call, args: Renew | Release) -> list[Lock]:
    """Who holds it."""
    if args.name is not None:
        return call.hub.locks.holders(args.name, include_expired=True)
    return call.hub.locks.paths.overlapping(args.paths, include_expired=True)


class Renewed(Returns):
    """What ``lock_renew`` returns."""

    token: int
    renew_within_s: float = Field(description="Seconds within which to renew or release it.")
    lock: LockRow


@tool(
    "lock_renew",
    title="Keep a lock",
    toolset=Toolset.LOCKS,
    takes=Renew,
    returns=Renewed,
    read_only=False,
    idempotent=True,
)
def lock_renew(call: Call, args: Renew) -> Answer:
    """Begin the lease of a lock of yours anew, with the name or paths and the token of lock_acquire. If it fails the
    lock is lost and others may have it: stop what it protects and look at the state before going on. After a restart
    of the server it works for what you took before."""
    named = _named(args.name, args.paths)

    def renew(owner: str) -> Lock:
        if args.name is not None:
            return call.hub.locks.renew(args.name, owner, args.token, ttl=args.ttl_s)
        return call.hub.locks.paths.renew(args.paths, owner, args.token, ttl=args.ttl_s)

    lock = _in_own_name(call, args, renew)
    within = round(lock.ttl * GIVE_UP_AT, 1)
    text = f"You have {named} for another {format_duration(lock.ttl)}. Renew it within {format_duration(within)}."
    row = lock_row(lock, call.hub.now(), call.caller)
    return Answer(text, {"token": lock.token, "renew_within_s": within, "lock": row})


class Release(Arguments):
    """Of ``lock_release``."""

    name: Name = None
    paths: Paths = ()
    token: Token


def _gone(call: Call, args: Release, named: str, lost: LeaseLost) -> Failure:
    """There is nothing to release: why, as far as the hub knows."""
    if _grants(call, args):
        why = lost.message.removesuffix(": acquire it again")
        return Failure(
            f"{named} is not yours under token {args.token} any more: {why}",
            "Others may have worked at the same time: look at the state of what it protects.",
            code=lost.code,
        )
    return Failure(
        f"{named} is released already: nobody holds it",
        "Nothing is left to do; if it was not you who released it, its lease was over: look at the state of what it "
        "protects.",
        code=lost.code,
    )


class Released(Returns):
    """What ``lock_release`` returns."""

    released: bool


@tool(
    "lock_release",
    title="Release a lock",
    toolset=Toolset.LOCKS,
    takes=Release,
    returns=Released,
    read_only=False,
)
def lock_release(call: Call, args: Release) -> Answer:
    """Release a lock of yours as soon as you are done, with the name or paths and the token of lock_acquire. If it
    says that you do not hold it any more, others may have worked at the same time: look at the state. After a restart
    of the server it works for what you took before."""
    named = _named(args.name, args.paths)

    def release(owner: str) -> None:
        if args.name is not None:
            call.hub.locks.release(args.name, owner, args.token, whole=True)
        else:
            call.hub.locks.paths.release(args.paths, owner, args.token, whole=True)

    try:
        _in_own_name(call, args, release)
    except LeaseLost as lost:
        raise _gone(call, args, named, lost) from None
    return Answer(f"Released {named}.", {"released": True})


class List(Arguments):
    """Of ``lock_list``."""

    prefix: str = Field(default="", max_length=256, description="Only locks whose name begins so.")
    mine: bool = Field(default=False, description="Only yours: those taken through other server processes are marked.")
    include_expired: bool = Field(default=False, description="Also those whose lease is over and nobody has taken.")
    limit: int = Field(default=50, ge=1, le=MAX_LISTED)
    offset: int = Field(default=0, ge=0, le=1_000_000, description="next_offset of the page before.")


class Listed(Returns):
    """What ``lock_list`` returns."""

    locks: list[LockRow]
    total: int
    next_offset: int | None = Field(description="For the next page; null at the end.")


@tool(
    "lock_list",
    title="List locks",
    toolset=Toolset.LOCKS,
    takes=List,
    returns=Listed,
    read_only=True,
    idempotent=True,
)
def lock_list(call: Call, args: List) -> Answer:
    """List who holds which locks, for how much longer, under which token; path locks are among them. Use it to see
    what others work on, or after a restart to find what you still hold: lock_renew and lock_release take it with its
    token if no other agent of yours is at work with it."""
    caller = call.caller
    held = call.hub.locks.list(include_expired=args.include_expired)
    held = [lock for lock in held if lock.name.startswith(args.prefix) and (not args.mine or holds(caller, lock))]
    now = call.hub.now()
    page = [lock_row(lock, now, caller) for lock in held[args.offset : args.offset + args.limit]]
    after = args.offset + args.limit if args.offset + args.limit < len(held) else None
    more = f"{len(held)} in all; more: offset {after}." if after is not None else ""
    text = rows([lock_line(row) for row in page], "No locks are held." if not held else "No locks on this page.", more)
    return Answer(text, {"locks": page, "total": len(held), "next_offset": after})


TOOLS = (lock_acquire, lock_renew, lock_release, lock_list)
