"""What a daemon does for the hub besides its tasks: old ones are removed, schedules are fired."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ghcoord.execution.worker import Summary
from ghcoord.hub import Hub


def test_old_tasks_are_removed(hub: Hub, work: Callable[..., Summary]) -> None:
    """After the time that the hub's settings keep them."""
    hub.config.set("retention.cancelled", 0)
    old = hub.tasks.submit("echo")
    hub.tasks.cancel(old.id)
    young = hub.tasks.submit("echo", {"message": "x"})
    work()
    assert [young.id] == [task.id for task in hub.tasks.list()]


@pytest.mark.slow
def test_schedules_are_fired(hub: Hub, work: Callable[..., Summary]) -> None:
    """While the daemon runs, each due time once, and their tasks run."""
    hub.schedules.put("s", "every 1s", "echo", {"message": "x"})
    work(until_idle=None, max_runtime=2.5)
    fires = hub.schedules.list()[0].fires
    tasks = hub.tasks.list()
    assert 2 <= fires <= 3
    assert fires == len(tasks)
    assert {"succeeded"} == {str(task.state) for task in tasks}
