"""The probe answers its questions whatever GitHub does, and leaves no ref."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import NotFound, Throttled
from ghcoord.store.github.create import create_on_github
from ghcoord.store.github.probe import probe
from ghcoord.store.observation import Observation
from ghcoord.twin.repository import Protection
from ghcoord.twin.switches import FLIPS
from tests.store.github.twins import MODES, TwinHub, twin_hub

RUNTIME = SystemRuntime()


def hub(folder: Path, mode: str = "branch") -> TwinHub:
    made = twin_hub(folder, mode)
    create_on_github(made.api(), made.prefix, create=False)
    return made


def answers(found: list[Observation]) -> dict[str, str]:
    return {one.details["question"]: one.details["answer"] for one in found if "question" in one.details}


@pytest.mark.parametrize("mode", MODES)
def test_what_is_asked_and_what_is_left(tmp_path: Path, mode: str) -> None:
    """With branches and with custom refs: all as reported, and nothing left over."""
    made = hub(tmp_path, mode)
    before = made.repository.refs()
    found = probe(made.api(), made.prefix, RUNTIME)
    assert {"ok"} == {one.level for one in found}
    told = answers(found)
    assert "422 «Update is not a fast forward»" == told["a stale head over REST"]
    assert "Something went wrong while executing your query" in told["a stale head in updateRefs"]
    if mode != "custom":
        assert told["a stale head in createCommitOnBranch"].startswith("STALE_DATA: ")
    assert before == made.repository.refs()


@pytest.mark.parametrize(
    ("switch", "value", "question", "answer"),
    [
        ("custom_refs", False, "custom refs over REST", "refused: 422"),
        ("proxy_refuses_custom_refs", True, "custom rest", "could not be tried: a proxy before"),
        ("graphql", False, "update refs", "has no GraphQL"),
        ("missing_mutations", frozenset({"updateRefs"}), "updateRefs", "updateRefs"),
        ("created_ref_404", 60.0, "a ref read right after its creation", "404"),
        ("not_modified", False, "polling", "every poll counts"),
        ("noop_update_compares", False, "a stale head in updateRefs", "went wrong"),
        ("stale_ref_message", "other words", "a stale head over REST", "422 «other words»"),
        ("update_refs_opaque", False, "updateRefs of two refs, one stale", "moves neither"),
        ("absent_delete_is_error", False, "deleting an absent path in a tree", "201"),
    ],
)
def test_other_answers(tmp_path: Path, switch: str, value: Any, question: str, answer: str) -> None:
    """What differs from the reports is told as it is."""
    made = hub(tmp_path)
    made.twin.switches = replace(made.twin.switches, **{switch: value})
    told = answers(probe(made.api(), made.prefix, RUNTIME))
    assert answer in told[question]


def test_every_uncertain_fact_flipped(tmp_path: Path) -> None:
    """With every switch flipped it ends without an error, and no ref stays."""
    made = hub(tmp_path)
    before = made.repository.refs()
    usual = made.twin.switches
    for name, value in FLIPS.items():
        made.twin.switches = replace(usual, **{name: value})
        assert probe(made.api(), made.prefix, RUNTIME), name
        assert before == made.repository.refs(), name


def test_what_cannot_be_deleted_is_named(tmp_path: Path) -> None:
    """Where deletions are refused the refs that stay are listed with the way to delete them."""
    made = hub(tmp_path)
    made.twin.faults.add("status", times=9, match=lambda incoming: incoming.method == "DELETE")
    last = probe(made.api(), made.prefix, RUNTIME)[-1]
    assert "warning" == last.level
    assert last.message.startswith("not deleted: refs/heads/ghcoord/probe-")
    assert "git push REMOTE :refs/heads/ghcoord/probe-" in last.fix


def test_a_prefix_that_is_refused(tmp_path: Path) -> None:
    """When the first ref is refused there is nothing more to try."""
    made = hub(tmp_path)
    made.twin.switches = replace(made.twin.switches, proxy_refuses_ref_writes=True)
    told = answers(probe(made.api(), made.prefix, RUNTIME))
    assert "a proxy before" in told["create"]
    assert "updateRefs" not in told


# -- making the repository


def test_the_first_commit_is_made_once(tmp_path: Path) -> None:
    """An empty repository gets a README; later calls, and those that come second, change nothing."""
    made = twin_hub(tmp_path)
    create_on_github(made.api(), made.prefix, create=False)
    head = made.repository.head("refs/heads/main")
    assert head is not None
    create_on_github(made.api(), made.prefix, create=True)
    assert head == made.repository.head("refs/heads/main")


def test_the_first_commit_of_another_is_as_good(tmp_path: Path) -> None:
    """Two at once: the second one's README is refused, and that is fine."""
    made = twin_hub(tmp_path)
    slow, fast = made.api(), made.api()
    real = slow.rest

    def late(verb: str, path: str, *args: Any, **more: Any) -> Any:
        if verb == "PUT":
            create_on_github(fast, made.prefix, create=False)
        return real(verb, path, *args, **more)

    slow.rest = late  # type: ignore[method-assign]
    create_on_github(slow, made.prefix, create=False)
    assert 1 == len(made.repository.landings)


def test_nothing_is_made_unasked(tmp_path: Path) -> None:
    """A repository that is not there stays so without ``create``."""
    made = twin_hub(tmp_path)
    made.twin.hosting.repositories.clear()
    with pytest.raises(NotFound, match="or let 'ghcoord init --create' make it"):
        create_on_github(made.api(), made.prefix, create=False)
    assert {} == made.twin.hosting.repositories


def test_limits_are_limits(tmp_path: Path) -> None:
    """A limit hit on the way comes through."""
    made = twin_hub(tmp_path)
    made.twin.faults.add("secondary", seconds=30)
    with pytest.raises(Throttled):
        create_on_github(made.api(), made.prefix, create=False)


def test_protected_branches_are_told(tmp_path: Path) -> None:
    """A rule on the default branch does not stop a repository that has a commit."""
    made = hub(tmp_path)
    made.repository.protected["main"] = Protection()
    create_on_github(made.api(), made.prefix, create=False)
