"""The namespaces that a lock is taken for: its token is raised in each before the grant counts.

Where a server commits to one space at a time, a write to a namespace cannot
look at the lock.  It looks at the fence in the namespace itself: the highest
token that was raised there, and only that one may write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ghcoord.coord.context import FENCE_TABLE, Context
from ghcoord.coord.layout import memory_space
from ghcoord.errors import FenceRefused, UsageError
from ghcoord.model.lock import Ask, Lock, Mode
from ghcoord.model.memory import Fence
from ghcoord.store.tx import Tx

Ended = list[tuple[int, tuple[str, ...]]]
"""Tokens of grants that ended, each with the namespaces that its lock was taken for."""

MAX_GUARDS = 16
"""Namespaces that one lock is taken for at most: each is a commit of its own."""


def check_guards(guards: Sequence[str], ask: Ask) -> tuple[str, ...]:
    """The namespaces, each once. Raises ``UsageError`` for a kind of lock with several holders, or too many."""
    for namespace in guards:
        memory_space(namespace)
    named = tuple(dict.fromkeys(guards))
    if named and ask.mode is not Mode.EXCLUSIVE:
        raise UsageError("only a lock held alone can be taken for namespaces: leave --shared and --permits out")
    if len(named) > MAX_GUARDS:
        raise UsageError(f"a lock is taken for at most {MAX_GUARDS} namespaces, not {len(named)}")
    return named


def raise_fences(context: Context, lock: Lock) -> None:
    """Let ``lock``'s token be the only one that writes to its namespaces.

    Raises ``FenceRefused`` when a higher token was raised already: somebody has the lock since.
    """
    for namespace in lock.guards:
        space = memory_space(namespace)

        def run(tx: Tx, space: str = space) -> None:
            seen = FENCE_TABLE.get(tx, space, lock.name)
            if seen is not None and seen.token > lock.token:
                raise FenceRefused(f"the lock {lock.name!r} was taken under the higher token {seen.token} meanwhile")
            FENCE_TABLE.put(tx, space, lock.name, Fence(lock=lock.name, token=lock.token))
            tx.event(space, "fence raised", lock=lock.name, token=lock.token)

        context.transact((space,), run, near={space: [FENCE_TABLE.path(lock.name)]})


def close_fences(context: Context, name: str, ended: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Let the tokens in ``ended``, each with its namespaces, write no more; a newer one is left alone."""
    for token, guards in ended:
        for namespace in guards:
            space = memory_space(namespace)

            def run(tx: Tx, space: str = space, token: int = token) -> None:
                seen = FENCE_TABLE.get(tx, space, name)
                if seen is not None and seen.token == token and not seen.closed:
                    FENCE_TABLE.put(tx, space, name, Fence(lock=name, token=token, closed=True))
                    tx.event(space, "fence closed", lock=name, token=token)

            context.transact((space,), run, near={space: [FENCE_TABLE.path(name)]})
