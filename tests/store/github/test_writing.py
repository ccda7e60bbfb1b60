"""What became of a commit, by the heads read afterwards: made, lost, or nobody knows."""

from __future__ import annotations

from typing import cast
from unittest.mock import Mock

import pytest

from ghcoord.errors import Conflict, Corrupt, Denied, OutcomeUnknown, Throttled, Unavailable
from ghcoord.store.base import CommitInfo, Oid, Operation
from ghcoord.store.github.objects import Objects
from ghcoord.store.github.writing import LOOK_BACK, Draft, settle
from ghcoord.store.message import format_message
from ghcoord.store.objects import TreeEditor

TREE = "a" * 40


class History:
    """Commits by id."""

    def __init__(self) -> None:
        self.commits: dict[Oid, CommitInfo] = {}

    def add(self, revision: int, *parents: Oid, op: str = "", message: str | None = None) -> Oid:
        """A commit with that revision on ``parents``; a person's where ``message`` is given."""
        oid = f"{len(self.commits) + 1:040x}"
        made = Operation((op or f"other{oid}",), revision, 0)
        text = format_message("fleet", made) if message is None else message
        self.commits[oid] = CommitInfo(oid, TREE, parents, "me", 0, text)
        return oid

    def commit_info(self, oid: Oid) -> CommitInfo:
        if oid not in self.commits:
            raise Corrupt(f"no commit {oid}")
        return self.commits[oid]


def draft(parent: Oid | None, revision: int = 10) -> Draft:
    op = Operation(("mine",), revision, 0)
    editor = TreeEditor(lambda oid: {})
    message = format_message("fleet", op, with_actor=True)
    return Draft("fleet", "refs/heads/fleet", parent, TREE, TREE, {}, (), False, message, op, editor)


def verdict(
    history: History, head: Oid | None, one: Draft, ours: Oid | None = None, *, refused: bool = True
) -> str | Oid:
    """The commit that was made, ``lost`` or ``unknown``."""
    heads = {"fleet": head} if head is not None else {}
    known = {"fleet": ours} if ours is not None else {}
    try:
        return settle(cast("Objects", history), heads, [one], known, refused=refused)["fleet"]
    except Conflict:
        return "lost"
    except OutcomeUnknown:
        return "unknown"


@pytest.fixture
def history() -> History:
    return History()


def test_it_is_the_head_or_below(history: History) -> None:
    """Found by its operation on its parent, or by its id; also when others went on from it."""
    base = history.add(5)
    mine = history.add(10, base, op="mine")
    assert mine == verdict(history, mine, draft(base))
    top = history.add(12, history.add(11, mine))
    assert mine == verdict(history, top, draft(base))
    assert mine == verdict(history, top, draft(base), mine)
    assert "lost" == verdict(history, top, draft(base), "f" * 40)


def test_others_were_first(history: History) -> None:
    """A history that goes back to the expected head without it rules it out, a person's commits included."""
    base = history.add(5)
    assert "lost" == verdict(history, history.add(11, base), draft(base))
    by_hand = history.add(0, history.add(11, base), message="by hand")
    assert "lost" == verdict(history, by_hand, draft(base))
    assert "lost" == verdict(history, base, draft(None)), "the space was to be new"


def test_a_copy_is_not_it(history: History) -> None:
    """The same trailers on another parent are a person's copy."""
    base = history.add(5)
    copy = history.add(10, history.add(0, base, message="by hand"), op="mine")
    assert "lost" == verdict(history, copy, draft(base))


def test_the_expected_head_proves_nothing(history: History) -> None:
    """It may still land, or the answer is old."""
    base = history.add(5)
    assert "unknown" == verdict(history, base, draft(base))
    assert "unknown" == verdict(history, None, draft(None))


def test_an_older_head_proves_nothing(history: History) -> None:
    """An answer from before the expected head says nothing about what happened since."""
    old = history.add(4, history.add(3))
    base = history.add(5, old)
    assert "unknown" == verdict(history, old, draft(base))


def test_no_head_at_all(history: History) -> None:
    """A space that is not there any more is a conflict if the server refused; with no answer it may come late."""
    base = history.add(5)
    assert "lost" == verdict(history, None, draft(base))
    assert "unknown" == verdict(history, None, draft(base), refused=False)


def test_history_was_collected(history: History) -> None:
    """What is newer and has none of its operations rules it out; one of them may be it, written again."""
    base = history.add(5)
    again = history.add(5)
    assert "lost" == verdict(history, history.add(20, history.add(9, again)), draft(base))
    rewritten = history.add(10, again, op="mine")
    assert "unknown" == verdict(history, history.add(20, rewritten), draft(base))
    assert "unknown" == verdict(history, history.add(9, "e" * 40), draft(base)), "an end that is not there"


def test_what_cannot_be_read_proves_nothing(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that lags, throttles or fails while looking leaves the outcome open: nothing is said to have failed."""
    base = history.add(5)
    head = history.add(11, base)

    for error in (Unavailable("lags"), Throttled("wait", 1.0), Denied("no"), Corrupt("gone")):
        monkeypatch.setattr(history, "commit_info", Mock(side_effect=error))
        assert "unknown" == verdict(history, head, draft(base))


def test_too_far_to_look(history: History) -> None:
    """After so many commits nobody knows."""
    head = base = history.add(5)
    for number in range(LOOK_BACK + 1):
        head = history.add(6 + number, head)
    assert "unknown" == verdict(history, head, draft(base))
