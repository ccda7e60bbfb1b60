"""What holds on the embedded hub holds over a network: counting, killed and stopped workers, locks."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord import bootstrap
from ghcoord.config import load_settings
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.errors import FenceRefused, Unsupported
from ghcoord.hub import Hub
from ghcoord.twin.server import Twin
from tests.acceptance.hubs import KINDS, network_hub
from tests.processes import GHCOORD, cli, needs_program, until, workers
from tests.whole import WHOLE

TWO = pytest.mark.parametrize("kind", [*KINDS] if WHOLE else ["github", "remote-http"])
"""For what takes long: the two ways to a server. Of them only ``github`` is at full size; see ``tests/whole.py``."""

FAST = ("--ttl", "10", "--poll", "0.3s")

COUNT = """
import sys
import ghcoord
with ghcoord.connect(sys.argv[1]) as hub:
    transact = hub._context.transactor.transact
    for _ in range(int(sys.argv[2])):
        print("s", end="", flush=True)
        def count(tx):
            tx.write("fleet", "count", b"%d" % (int(tx.read("fleet", "count") or b"0") + 1))
        transact(["fleet"], count, timeout=300)
        print("a", end="", flush=True)
"""


pytestmark = pytest.mark.slow


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Twin]]:
    with network_hub(kind, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def url(place: tuple[str, Twin]) -> str:
    return place[0]


@pytest.fixture
def hub(url: str) -> Iterator[Hub]:
    with bootstrap.connect(url, load_settings(Path.cwd())) as opened:
        yield opened


def counted(hub: Hub) -> int:
    return int(hub._context.transactor.view("fleet")["fleet"].read("count") or b"0")


def counting(url: str, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COUNT, url, str(times)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def race(url: str, hub: Hub, processes: int, times: int) -> None:
    children = [counting(url, times) for _ in range(processes)]
    said = [child.communicate(timeout=1500) for child in children]
    assert [("sa" * times, "")] * processes == said
    assert processes * times == counted(hub)


@pytest.mark.timeout(300)
def test_processes_count_exactly(url: str, hub: Hub) -> None:
    """Processes that increment one key through ``transact`` end at exactly their number."""
    race(url, hub, 3, 5)


@pytest.mark.timeout(1600)
def test_eight_processes_count_to_1600(url: str, hub: Hub, kind: str) -> None:
    """8 × 200 increments of one key end at exactly 1,600."""
    race(url, hub, 8, 200 if WHOLE or kind == "github" else 12)


@pytest.mark.timeout(300)
def test_killed_processes_lose_nothing_that_was_acknowledged(place: tuple[str, Twin], hub: Hub) -> None:
    """With processes killed at random the count lies between acknowledged and acknowledged plus in doubt."""
    url, twin = place
    dice = random.Random(4)
    children = [counting(url, 100_000) for _ in range(4)]
    said = []
    for turn in range(10):
        time.sleep(dice.uniform(0.5, 2.0))
        victims = list(children) if turn == 9 else [dice.choice(children)]
        for victim in victims:
            victim.kill()
            children.remove(victim)
            said.append(victim.communicate(timeout=60)[0])
            if turn < 9:
                children.append(counting(url, 100_000))
    acknowledged = sum(text.count("a") for text in said)
    in_doubt = sum(text.count("s") for text in said) - acknowledged
    began = time.monotonic()
    assert 0 == cli(url, "memory", "set", "after", "1").returncode
    assert time.monotonic() - began < 10, "others go on"
    assert 10 < acknowledged <= counted(hub) <= acknowledged + in_doubt
    (repository,) = twin.hosting.repositories.values()
    fsck = subprocess.run(["git", "-C", str(repository.folder), "fsck", "--strict"], capture_output=True, check=False)
    assert 0 == fsck.returncode, fsck.stderr


@TWO
@pytest.mark.timeout(900)
def test_every_task_succeeds_once_though_a_worker_is_killed(hub: Hub, url: str, kind: str) -> None:
    """Three workers, one killed with SIGKILL while it holds leases: each task succeeds exactly once in the record."""
    needs_program("bwrap")
    count = 1000 if WHOLE or kind == "github" else 40
    slow = [Submission("shell", {"command": "sleep 3"}, priority=9) for _ in range(6)]
    quick = [Submission("echo", {"message": str(n)}) for n in range(count - 6)]
    hub.tasks.submit_many(slow + quick)
    with workers(url, "w1", "w2", "w3", args=("--slots", "2", "--until-idle", "2s", *FAST)) as started:
        busy: list[str | None] = []
        until(lambda: busy.extend(task.worker for task in hub.tasks.list("leased")) or busy, timeout=60)
        victim = next(worker for worker in started if worker.id == busy[0])
        victim.signal(signal.SIGKILL)
        for worker in started:
            code, output = worker.wait(800)
            assert worker is victim or code == 0, output
    time.sleep(1.1)
    tasks = hub.tasks.list("succeeded")
    assert count == len({task.id for task in tasks})
    for task in tasks:
        assert 1 == sum(attempt.outcome == "succeeded" for attempt in task.history)
        assert "succeeded" == task.history[-1].outcome
    assert sum(task.lost for task in tasks) > 0


@TWO
@pytest.mark.timeout(300)
def test_a_stopped_worker_has_its_late_result_refused(hub: Hub, url: str) -> None:
    """SIGSTOP beyond the lease, SIGCONT: the result is refused, an event says so, the record is untouched."""
    needs_program("bwrap")
    with workers(url, "w1", args=FAST) as [stopped]:
        until(lambda: hub.workers.list("active"), timeout=60)
        task = hub.tasks.submit("shell", {"command": "sleep 2; echo first"})
        until(lambda: hub.tasks.list("leased"), timeout=60)
        stopped.signal(signal.SIGSTOP)
        with workers(url, "w2", args=FAST):
            assert hub.tasks.wait(task.id, 120).success
            before = hub.tasks.get(task.id)
            stopped.signal(signal.SIGCONT)
            refused = ("task result refused", "task return refused")
            until(lambda: [event for event in hub.events(50) if event.kind in refused], timeout=60)
            assert before == hub.tasks.get(task.id)
            assert before is not None
            assert (2, 1, "w2") == (before.attempt, before.lost, before.worker)


@pytest.mark.timeout(120)
def test_locks_between_processes(hub: Hub, url: str, kind: str) -> None:
    """The holder is named; after its release the next token is higher; a write with the old one is refused at once."""
    more = ["--for", "global"]
    taken = cli(url, "lock", "acquire", "x", "--owner", "a", *more, "--json")
    assert 0 == taken.returncode, taken.stderr
    token = int(taken.stdout.partition('"token": ')[2].partition(",")[0])
    refused = cli(url, "lock", "acquire", "x", "--owner", "b", *more)
    assert 4 == refused.returncode
    assert "held by 'a'" in refused.stderr
    assert 0 == cli(url, "memory", "set", "k", "a", "--fence", f"x:{token}").returncode
    assert 0 == cli(url, "lock", "release", "x", "--owner", "a").returncode
    lock = hub.locks.acquire("x", "b", guards=["global"])
    assert lock is not None
    assert lock.token > token
    late = cli(url, "memory", "set", "k", "late", "--fence", f"x:{token}")
    assert 5 == late.returncode, late.stderr
    hub.memory.set("k", "b", fence=("x", lock.token))
    if kind != "github-rest":
        with pytest.raises(FenceRefused):
            hub.memory.set("k", "later", "elsewhere", fence=("x", token))


def racing(url: str, lock: str, racers: int) -> list[int]:
    command = [*GHCOORD, "--hub", url, "lock", "acquire", lock]
    started = [
        subprocess.Popen([*command, "--owner", f"o{n}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for n in range(racers)
    ]
    return sorted(process.wait(200) for process in started)


@TWO
@pytest.mark.timeout(900)
def test_ten_races_of_twenty_have_one_winner_each(url: str, kind: str) -> None:
    """10 rounds of 20 separate processes that race for one lock give one winner each, and nothing but refusals."""
    for number in range(10 if WHOLE or kind == "github" else 2):
        assert [0] + [4] * 19 == racing(url, f"x{number}", 20)


@pytest.mark.parametrize("kind", ["github-rest"])
def test_one_space_at_a_time_refuses_what_needs_more(hub: Hub, url: str) -> None:
    """Over REST alone gc and changes of several spaces are unsupported and say so; a fence needs ``--for``."""
    from ghcoord.hub import SetKey

    with pytest.raises(Unsupported, match="one space at a time"):
        hub.memory.apply([SetKey("k", 1, "a"), SetKey("k", 1, "b")])
    refused = cli(url, "gc", "--yes")
    assert 2 == refused.returncode
    assert "Traceback" not in refused.stderr
    lock = hub.locks.acquire("x", "me")
    assert lock is not None
    with pytest.raises(FenceRefused, match="--for"):
        hub.memory.set("k", 1, fence=("x", lock.token))
