"""A repository of the twin: a real bare one, whose refs move only in atomic steps that are remembered.

``update_refs`` is the only way to move a ref (beside a push, after which
``reload`` notes what moved). What a request reads comes through
``refs_seen``, which can show the past: replicas of the real GitHub lag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Final, Literal, NamedTuple

import pygit2

from ghcoord.twin.objects import Objects, Oid, is_oid

ANY: Final = "any"
"""As ``old`` of an update: do not compare."""

Reason = Literal["stale", "not_fast_forward", "exists", "absent", "prefix", "missing_object", "bad_name", "not_commit"]


class RefUpdate(NamedTuple):
    """One ref's step: only if it is at ``old`` (``None``: absent, ``ANY``: whatever), to ``new`` (``None``: delete).

    Without ``force`` an existing ref only moves to a descendant.
    """

    ref: str
    old: str | None
    new: str | None
    force: bool = False


class Move(NamedTuple):
    """A ref that moved; ``None`` is absence."""

    ref: str
    before: Oid | None
    after: Oid | None


@dataclass(frozen=True, slots=True)
class Landing:
    """One atomic step that was applied: when (seconds since the epoch), by whom, over what (rest, graphql, push).

    ``number`` grows from step to step of all repositories, also within one instant.
    """

    time: float
    login: str
    via: str
    moves: tuple[Move, ...]
    number: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """What of the past a reader sees: only steps before ``as_of``; and no ref born after ``born_before``.

    Both as a pair of seconds since the epoch and a number of :func:`next_step`; ``None``: the truth.
    """

    as_of: tuple[float, int] | None = None
    born_before: tuple[float, int] | None = None


TRUTH: Final = View()
"""Nothing of the past."""

_steps = count(1)


def next_step() -> int:
    """A number beyond those of all steps so far."""
    return next(_steps)


class RefRefused(Exception):
    """No ref of the step was moved: ``reason``, for which ``ref``, where it stands in truth (``actual``)."""

    def __init__(self, reason: Reason, ref: str, actual: Oid | None = None) -> None:
        super().__init__(f"{reason}: {ref}")
        self.reason = reason
        self.ref = ref
        self.actual = actual


@dataclass
class Protection:
    """A protected branch: who may write it (nobody by default), as the API tells it."""

    allow: frozenset[str] = frozenset()
    allow_force: bool = False
    rules: Mapping[str, object] = field(default_factory=dict)


class Repository(Objects):
    """One repository. ``lock`` (re-entrant) makes several calls one step."""

    def __init__(self, folder: Path, owner: str, name: str, number: int, *, private: bool = False) -> None:
        super().__init__(folder)
        self.owner = owner
        self.name = name
        self.number = number
        self.private = private
        self.archived = False
        self.default_branch = "main"
        self.protected: dict[str, Protection] = {}
        self.landings: list[Landing] = []
        self._born: dict[str, tuple[float, int]] = {}
        self._refs: dict[str, Oid] = self._on_disk()

    @property
    def full_name(self) -> str:
        """``owner/name``."""
        return f"{self.owner}/{self.name}"

    @property
    def node_id(self) -> str:
        """The global id of the GraphQL API."""
        return f"R_twin{self.number}"

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever pushed: no ref exists."""
        with self.lock:
            return not self._refs

    # refs as they are

    def refs(self, prefix: str = "refs/") -> dict[str, Oid]:
        """The truth: all refs whose full name starts with the prefix, sorted."""
        with self.lock:
            return {ref: oid for ref, oid in sorted(self._refs.items()) if ref.startswith(prefix)}

    def head(self, ref: str) -> Oid | None:
        """The truth about one ref, named in full."""
        with self.lock:
            return self._refs.get(ref)

    def protection(self, ref: str) -> Protection | None:
        """What protects a ref, named in full; keys of ``protected`` are branches or patterns of them."""
        for pattern, found in self.protected.items():
            if fnmatchcase(ref, f"refs/heads/{pattern}"):
                return found
        return None

    # refs as a request sees them

    def refs_seen(self, prefix: str = "refs/", view: View = TRUTH) -> dict[str, Oid]:
        """The refs as a reader with that view sees them, sorted."""
        with self.lock:
            seen = dict(self._refs)
            if view.as_of is not None:
                for landing in reversed(self.landings):
                    if _before((landing.time, landing.number), view.as_of):
                        break
                    for move in landing.moves:
                        if move.before is None:
                            seen.pop(move.ref, None)
                        else:
                            seen[move.ref] = move.before
            born = view.born_before
            return {
                ref: oid
                for ref, oid in sorted(seen.items())
                if ref.startswith(prefix) and (born is None or _before(self._born.get(ref, (0.0, 0)), born))
            }

    # moving refs

    def update_refs(self, updates: Sequence[RefUpdate], *, login: str, via: str, now: float) -> Landing:
        """Apply all or none of the steps. Raises :class:`RefRefused` for the first that cannot be."""
        with self.lock:
            for update in updates:
                self._check(update)
            self._check_names(updates)
            moves = tuple(Move(each.ref, self._refs.get(each.ref), each.new) for each in updates)
            # Deletions first: a name below a deleted one may be created in the same step.
            for move in sorted(moves, key=lambda one: one.after is not None):
                self._write(move)
            return self._note(moves, login=login, via=via, now=now)

    def reload(self, *, login: str, via: str, now: float) -> Landing | None:
        """Take over what a push did on disk; returns it, ``None`` if nothing moved."""
        with self.lock:
            found = self._on_disk()
            names = sorted(set(found) | set(self._refs))
            moves = tuple(
                Move(ref, self._refs.get(ref), found.get(ref)) for ref in names if self._refs.get(ref) != found.get(ref)
            )
            self._refs = found
            return self._note(moves, login=login, via=via, now=now) if moves else None

    def _note(self, moves: tuple[Move, ...], *, login: str, via: str, now: float) -> Landing:
        number = next_step()
        for move in moves:
            if move.before is None and move.after is not None:
                self._born[move.ref] = (now, number)
        landing = Landing(now, login, via, moves, number)
        self.landings.append(landing)
        return landing

    def _check(self, update: RefUpdate) -> None:
        actual = self._refs.get(update.ref)
        if not valid_ref(update.ref):
            raise RefRefused("bad_name", update.ref)
        if update.old != ANY and update.old != actual:
            reason: Reason = "exists" if update.old is None else "stale"
            raise RefRefused(reason, update.ref, actual)
        if update.new is None:
            if actual is None:
                raise RefRefused("absent", update.ref)
            return
        kind = self.kind(update.new)
        if kind is None:
            raise RefRefused("missing_object", update.ref, actual)
        if kind != "commit" and update.ref.startswith("refs/heads/"):
            raise RefRefused("not_commit", update.ref, actual)
        if actual is not None and not update.force and not self.is_ancestor(actual, update.new):
            raise RefRefused("not_fast_forward", update.ref, actual)

    def _check_names(self, updates: Sequence[RefUpdate]) -> None:
        after = set(self._refs) - {each.ref for each in updates if each.new is None}
        for update in updates:
            if update.new is not None and update.ref not in self._refs:
                if clash(update.ref, after):
                    raise RefRefused("prefix", update.ref)
                after.add(update.ref)

    def _write(self, move: Move) -> None:
        if move.after is None:
            self.git.references.delete(move.ref)
            self._refs.pop(move.ref, None)
        else:
            self.git.references.create(move.ref, move.after, force=True)
            self._refs[move.ref] = move.after

    def _on_disk(self) -> dict[str, Oid]:
        found = {}
        for ref in self.git.references.iterator():
            if isinstance(ref.target, pygit2.Oid):
                found[ref.name] = str(ref.target)
        return found


def _before(step: tuple[float, int], moment: tuple[float, int]) -> bool:
    """Whether the step is older, by the clock or, for a clock that stands still, by its number."""
    return step[0] < moment[0] or (step[0] == moment[0] and step[1] < moment[1])


def clash(ref: str, others: set[str]) -> bool:
    """Whether the name lies below one of the others, or one of them below it."""
    parts = ref.split("/")
    above = {"/".join(parts[:length]) for length in range(1, len(parts))}
    return bool(above & others) or any(other.startswith(ref + "/") for other in others)


def valid_ref(ref: str) -> bool:
    """Whether git accepts the full name of a ref."""
    return ref.startswith("refs/") and ref.count("/") >= 2 and pygit2.reference_is_valid_name(ref)


def resolve(repository: Repository, expression: str, refs: Mapping[str, Oid]) -> Oid | None:
    """The object that an expression such as ``main``, ``refs/x/y:path`` or an object id (with ``:path``) names."""
    revision, colon, path = expression.partition(":")
    oid = revision if is_oid(revision) else None
    for name in (revision, f"refs/{revision}", f"refs/heads/{revision}", f"refs/tags/{revision}"):
        oid = oid or refs.get(name)
    if revision == "HEAD":
        oid = refs.get(f"refs/heads/{repository.default_branch}")
    if oid is None or not colon:
        return oid if oid is not None and repository.kind(oid) is not None else None
    commit = repository.commit(oid)
    entry = repository.at_path(commit.tree if commit is not None else oid, path)
    return entry.oid if entry is not None else None
