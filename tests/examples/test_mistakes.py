"""What examples say to a newcomer who starts them with too little, or stops them: no traceback."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.examples.conftest import EXAMPLES, Start
from tests.processes import until

PYTHON = sorted(path.name for path in EXAMPLES.glob("*.py"))
OPTIONAL = {"compare_and_set.py", "python_worker.py"}
"""They need no arguments, but a hub."""


@pytest.mark.slow
def test_without_arguments_and_without_a_hub(start: Start) -> None:
    """A usage of one line and what is missing, or one line that says how to name a hub."""
    started = {name: start(name, GHCOORD_HUB="") for name in PYTHON}
    for name, process in started.items():
        out, err = process.communicate(timeout=100)
        assert "" == out, name
        first, *rest = err.splitlines()
        if name in OPTIONAL:
            assert (1, True, []) == (process.returncode, first.startswith("error: no hub was named"), rest), err
        else:
            assert (2, True, 1) == (process.returncode, first.startswith(f"usage: {name} "), len(rest)), err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("swarm.py", "review", "missing"), "there is no *.py file in missing"),
        (("swarm.py", "review", "empty"), "there is no *.py file in empty"),
        (("sweep.py", "sweep"), "invalid choice"),
        (("leader_cron.py", "0", "true"), "at least 1"),
        (("leader_cron.py", "1"), "and a command"),
        (("leader_cron.py", "1", "no-such-program", "-x"), "error: [Errno 2]"),
        (("decisions.py", "decide", "database"), "required: answer, why"),
        (("ledger_service.py", "ledger.db", "a:b"), "invalid order value"),
        (("ledger_service.py", "missing/ledger.db", "a:b:1"), "error: unable to open database file"),
        (("compare_and_set.py", "many"), "invalid int value"),
    ],
)
def test_mistakes(start: Start, tmp_path: Path, line: tuple[str, ...], said: str) -> None:
    """Each is told in a line, under the usage at most."""
    (tmp_path / "empty").mkdir()
    process = start(*line)
    out, err = process.communicate(timeout=100)
    assert process.returncode in (1, 2)
    assert said in err
    assert 2 >= len(err.splitlines()), out + err


@pytest.mark.slow
def test_ctrl_c_ends_quietly(hub: Hub, start: Start) -> None:
    """Whatever waits says nothing when it is interrupted; a leader gives up its lead."""
    hub.locks.acquire("ledger", "somebody")
    hub.memory.set("question", {"answer": "a", "why": "w", "by": "me"}, "decisions")
    waiting = {
        name: start(name, *args)
        for name, *args in (
            ("decisions.py", "follow"),
            ("leader_cron.py", "60", "true"),
            ("ledger_service.py", "ledger.db", "a:b:1"),
            ("python_worker.py", "60"),
        )
    }
    heard = waiting["decisions.py"].stdout
    assert heard is not None
    assert heard.readline().startswith("question: a")
    until(lambda: hub.leader.list() and hub.workers.list("active") and hub.locks.waiters("ledger"))
    for name, process in waiting.items():
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert "" == err, name
        assert process.returncode in (0, 130), name
    assert not hub.leader.list()
