"""The tests of the tools that go through most of a hub, again on a repository and behind a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.testing.far import FarStore
from tests.coord.world import World
from tests.mcp import test_locks, test_memory, test_prompts, test_resources, test_tables, test_tasks
from tests.mcp.desk import Desk

pytestmark = pytest.mark.slow

AGAIN: tuple[Callable[[Desk], None], ...] = (
    test_tasks.test_a_task_from_submission_to_result,
    test_tasks.test_cancelling,
    test_tasks.test_lists_come_in_pages,
    test_tasks.test_output_comes_in_pages,
    test_tasks.test_tasks_of_anothers_session_do_not_exist,
    test_locks.test_a_lock_from_taking_to_releasing,
    test_locks.test_waiting_gets_it_when_the_lease_is_over,
    test_locks.test_a_wait_that_is_given_up_leaves_nothing,
    test_locks.test_path_locks,
    test_locks.test_of_many_callers_one_gets_it,
    test_memory.test_compare_and_set,
    test_memory.test_a_watch_returns_the_change_and_where_to_go_on,
    test_memory.test_a_watch_of_much_is_bounded_and_says_so,
    test_tables.test_artifacts_of_anothers_session_do_not_exist,
    test_tables.test_the_hub_says_where_one_is_and_in_whose_name,
    test_resources.test_a_session_with_its_checkpoints,
    test_prompts.test_two_agents_who_follow_claim_work_share_the_items,
)


@pytest.mark.parametrize("test", AGAIN, ids=lambda test: test.__name__)
@pytest.mark.parametrize("kind", ["repository", "far"])
def test_it_holds_there_too(tmp_path: Path, kind: str, test: Callable[[Desk], None]) -> None:
    """What a hub in memory does, one in a repository does, and one that costs requests."""
    world = World(tmp_path / "hub.git" if kind == "repository" else None)
    test(Desk(world, FarStore(world.runtime.now) if kind == "far" else None))
    world.close()
