"""A repository of the twin: refs move in atomic steps that compare."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest

from ghcoord.twin.hosting import person
from ghcoord.twin.objects import AbsentPath, NewEntry
from ghcoord.twin.repository import ANY, RefRefused, RefUpdate, Repository, View
from ghcoord.twin.switches import FLIPS, Switches, flipped

HOW = {"login": "me", "via": "rest"}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "r.git", "me", "hub", 1)


def _commit(repository: Repository, text: str, *parents: str) -> str:
    blob = repository.create_blob(text.encode())
    tree = repository.edit_tree(None, {"a/b": NewEntry(0o100644, blob)})
    return repository.create_commit(tree, list(parents), text, person("me", 1.0))


def test_a_step_over_several_refs_is_all_or_nothing(repository: Repository) -> None:
    """One wrong expectation refuses all of it, naming the ref and where it stands."""
    one = _commit(repository, "1")
    two = _commit(repository, "2", one)
    repository.update_refs([RefUpdate("refs/x/a", None, one), RefUpdate("refs/x/b", None, one)], now=1.0, **HOW)
    with pytest.raises(RefRefused) as refused:
        repository.update_refs([RefUpdate("refs/x/a", one, two), RefUpdate("refs/x/b", two, two)], now=2.0, **HOW)
    assert ("stale", "refs/x/b", one) == (refused.value.reason, refused.value.ref, refused.value.actual)
    assert {"refs/x/a": one, "refs/x/b": one} == repository.refs()
    assert repository.refs() == Repository(repository.folder, "me", "hub", 1).refs()


def test_of_many_writers_one_wins(repository: Repository) -> None:
    """Twenty threads that expect the same head: one moves it, the others are refused as stale."""
    head = _commit(repository, "0")
    repository.update_refs([RefUpdate("refs/heads/main", None, head)], now=1.0, **HOW)
    children = [_commit(repository, str(each), head) for each in range(1, 21)]

    def move(child: str) -> str:
        try:
            repository.update_refs([RefUpdate("refs/heads/main", head, child)], now=2.0, **HOW)
        except RefRefused as refused:
            return refused.reason
        return "won"

    with ThreadPoolExecutor(20) as pool:
        results = sorted(pool.map(move, children))
    assert [*["stale"] * 19, "won"] == results


def test_names_clash_with_folders(repository: Repository) -> None:
    """``a`` and ``a/b`` exclude each other, also within one step, unless the one is deleted in it."""
    head = _commit(repository, "1")
    with pytest.raises(RefRefused, match="prefix"):
        repository.update_refs([RefUpdate("refs/x/a", None, head), RefUpdate("refs/x/a/b", None, head)], now=1.0, **HOW)
    repository.update_refs([RefUpdate("refs/x/a", None, head)], now=1.0, **HOW)
    repository.update_refs([RefUpdate("refs/x/a/b", None, head), RefUpdate("refs/x/a", head, None)], now=2.0, **HOW)
    assert ["refs/x/a/b"] == list(repository.refs())


def test_the_past_can_be_seen(repository: Repository) -> None:
    """Refs as of a moment, and without those born since."""
    one = _commit(repository, "1")
    two = _commit(repository, "2", one)
    repository.update_refs([RefUpdate("refs/x/a", None, one)], now=10.0, **HOW)
    repository.update_refs([RefUpdate("refs/x/a", one, two), RefUpdate("refs/x/b", None, one)], now=20.0, **HOW)
    assert {"refs/x/a": one} == repository.refs_seen(view=View(as_of=(15.0, 0)))
    assert {} == repository.refs_seen(view=View(as_of=(5.0, 0)))
    assert {"refs/x/a": two} == repository.refs_seen(view=View(born_before=(15.0, 0)))
    assert {"refs/x/a": two, "refs/x/b": one} == repository.refs_seen()


def test_editing_a_tree_leaves_no_empty_folder(repository: Repository) -> None:
    """A folder goes with its last file; deleting what is absent is an error that names it."""
    blob = repository.create_blob(b"1")
    tree = repository.edit_tree(None, {"a/b/c": NewEntry(0o100644, blob), "d": NewEntry(0o100644, blob)})
    smaller = repository.edit_tree(tree, {"a/b/c": None})
    assert ["d"] == [entry.name for entry in repository.tree(smaller) or ()]
    with pytest.raises(AbsentPath) as absent:
        repository.edit_tree(smaller, {"a/b/c": None})
    assert "a/b/c" == absent.value.path


def test_a_forced_or_missing_move(repository: Repository) -> None:
    """Only force moves to what is no descendant; nothing moves to what is not there."""
    one, two = _commit(repository, "1"), _commit(repository, "2")
    repository.update_refs([RefUpdate("refs/heads/a", None, one)], now=1.0, **HOW)
    for update, reason in (
        (RefUpdate("refs/heads/a", one, two), "not_fast_forward"),
        (RefUpdate("refs/heads/a", one, "1" * 40, True), "missing_object"),
        (RefUpdate("refs/heads/b", ANY, None), "absent"),
        (RefUpdate("refs/heads/b..c", None, one), "bad_name"),
    ):
        with pytest.raises(RefRefused, match=reason):
            repository.update_refs([update], now=1.0, **HOW)
    repository.update_refs([RefUpdate("refs/heads/a", one, two, True)], now=1.0, **HOW)
    assert two == repository.head("refs/heads/a")


def test_every_switch_is_explained_and_flips() -> None:
    """Each field stands in the docstring; each flip differs from what is reported, and there is one for each fact."""
    names = [field.name for field in fields(Switches)]
    assert [] == [name for name in names if f"``{name}``" not in (Switches.__doc__ or "")]
    assert list(FLIPS) == [name for name, _ in flipped()]
    assert [] == [name for name, switches in flipped() if switches == Switches()]
    services = {name for name in names if name.startswith("proxy_")}
    services |= {"graphql", "missing_mutations", "custom_refs", "tree_limit", "graphql_payload_limit", "clock_offset"}
    services |= {"dispatch_tells_run", "run_lag"}  # of another API than the store's: tests/twin/test_actions.py
    assert set(names) == set(FLIPS) | services
