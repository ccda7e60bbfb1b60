"""What a transaction would do, without doing it: the same pure function, its changes dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ghcoord.coord.context import Context
from ghcoord.store.tx import Overlay, SpaceView, Tx

T = TypeVar("T")


def rehearse(context: Context, spaces: tuple[str, ...], run: Callable[[Tx], T]) -> T:
    """What ``run`` would return if it were carried out now; nothing is written, and nobody need be allowed to.

    By the time it is carried out others may have been first.
    """
    views = {space: SpaceView(snapshot, Overlay()) for space, snapshot in context.transactor.view(*spaces).items()}
    now = context.now()
    return run(Tx(views, now=now, revision=max(1, int(now * 1000))))
