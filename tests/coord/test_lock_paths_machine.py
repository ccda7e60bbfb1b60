"""Path locks against a model in plain Python: any order of commands, on both stores."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from ghcoord.errors import NotFound
from ghcoord.model.lock import Lock
from tests.coord.test_lock_machine import NO_ROUND_NUMBER, OWNERS, TTLS, Held, found
from tests.coord.test_machines import MARGIN, Machine, on_disk, run

TREE = {
    "src/**": {"src", "src/a", "src/b", "src/deep/a"},
    "src/*": {"src/a", "src/b"},
    "**/a": {"a", "src/a", "src/deep/a"},
    "src/b": {"src/b"},
    "docs": {"docs"},
}
"""Patterns, and the paths of a small tree that fit them."""

PATTERNS = st.frozensets(st.sampled_from(sorted(TREE)), min_size=1, max_size=2)


def fitting(patterns: frozenset[str]) -> set[str]:
    return set().union(*(TREE[one] for one in patterns))


class PathMachine(Machine):
    """Three owners claim parts of a tree."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[Held] = []
        self.given = [1]

    def alive(self) -> list[Held]:
        return [held for held in self.claims if self.now <= held.since + held.ttl + MARGIN[self.where]]

    @rule(patterns=PATTERNS, owner=OWNERS, shared=st.booleans(), ttl=TTLS)
    def claim(self, patterns: frozenset[str], owner: str, shared: bool, ttl: float) -> None:
        """All patterns or none, beside claims that share no path with them, and readers beside readers."""
        got = self.hubs[owner].locks.paths.acquire(patterns, ttl=ttl, shared=shared)
        others = [held for held in self.alive() if not (shared and held.mode == "shared")]
        free = not any(fitting(patterns) & fitting(held.patterns) for held in others)
        assert free is (got is not None)
        if got is not None:
            assert got.token > max(self.given)
            self.given.append(got.token)
            mode = "shared" if shared else "exclusive"
            self.claims = [*self.alive(), Held(owner, got.token, mode, ttl, self.now, patterns=patterns)]

    def some(self, data: Any, owner: str) -> tuple[frozenset[str], int | None, Held | type[Exception]]:
        """Patterns that are held, with a token or without, and what they mean."""
        patterns = data.draw(st.sampled_from([held.patterns for held in self.claims]))
        token = data.draw(st.sampled_from([None, *self.given[-4:]]))
        return patterns, token, found([one for one in self.claims if one.patterns == patterns], owner, token)

    @precondition(lambda self: self.claims)
    @rule(owner=OWNERS, data=st.data())
    def release(self, owner: str, data: Any) -> None:
        patterns, token, held = self.some(data, owner)
        if not isinstance(held, Held):
            with pytest.raises(held):
                self.hubs[owner].locks.paths.release(patterns, owner, token)
            return
        left = self.hubs[owner].locks.paths.release(patterns, owner, token)
        held.depth -= 1
        assert held.depth == (left.depth if left else 0)
        if not held.depth:
            self.claims.remove(held)

    @precondition(lambda self: self.claims)
    @rule(owner=OWNERS, again=st.booleans(), data=st.data())
    def renew(self, owner: str, again: bool, data: Any) -> None:
        """The lease begins anew; with the token the holder may also come in once more."""
        patterns, token, held = self.some(data, owner)
        paths = self.hubs[owner].locks.paths
        entering = again and token is not None

        def call() -> Lock | None:
            return paths.acquire(patterns, owner, token=token) if entering else paths.renew(patterns, owner, token)

        if not isinstance(held, Held):
            with pytest.raises(held):
                call()
            return
        call()
        held.since, held.depth = self.now, held.depth + entering

    @rule(patterns=PATTERNS, by=OWNERS)
    def force(self, patterns: frozenset[str], by: str) -> None:
        """Whatever overlaps is ended."""
        met = [held for held in self.claims if fitting(patterns) & fitting(held.patterns)]
        if not met:
            with pytest.raises(NotFound):
                self.hubs[by].locks.paths.force_unlock(patterns)
            return
        assert [held.token for held in met] == [one.token for one in self.hubs[by].locks.paths.force_unlock(patterns)]
        self.claims = [held for held in self.claims if held not in met]

    @rule(owner=OWNERS, by=OWNERS)
    def release_all(self, owner: str, by: str) -> None:
        own = [held for held in self.claims if held.owner == owner]
        assert len(own) == self.hubs[by].locks.release_all(owner)
        self.claims = [held for held in self.claims if held not in own]

    @rule(by=OWNERS)
    def clean(self, by: str) -> None:
        before = len(self.claims)
        self.claims = self.alive()
        assert before - len(self.claims) == self.hubs[by].locks.clean()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0]))
    def pause(self, seconds: float) -> None:
        self.world.runtime.advance(seconds + NO_ROUND_NUMBER)

    @invariant()
    def the_records_are_the_model(self) -> None:
        assert [(held.owner, held.token, held.mode, held.depth, held.patterns) for held in self.claims] == [
            (one.owner, one.token, one.mode, one.depth, frozenset(one.paths))
            for one in self.hubs["a"].locks.paths.list(include_expired=True)
        ]


def test_path_locks_follow_the_model() -> None:
    """Any order of commands: what is held never overlaps, but among readers."""
    run(PathMachine, 15, 15)


def test_the_same_on_disk() -> None:
    """The local store behaves as the one in memory."""
    run(on_disk(PathMachine), 2, 12)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [PathMachine, on_disk(PathMachine)])
def test_far_more_of_it(machine: type[Machine]) -> None:
    """As above, longer."""
    run(machine, 100 if machine.where == "memory" else 10, 60)
