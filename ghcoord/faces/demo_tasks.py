"""The tasks of ``ghcoord demo``: some urgent, some long, one that fails once, and a lot of short ones."""

from __future__ import annotations

from ghcoord.hub import Submission

URGENT, LONG, SHORT = 9, 5, 1
"""Priorities."""

LONG_SECONDS = 2.5
"""How long a long task computes: long enough to be killed in the middle of it."""

STEP = 200_000
"""Numbers that one task looks through for primes."""

_SEARCH = """\
import sys, time
end = time.monotonic() + float(sys.argv[1])
primes, number = [2], 3
while time.monotonic() < end:
    if all(number % prime for prime in primes if prime * prime <= number):
        primes.append(number)
    number += 2
print(f"the largest of {len(primes)} primes found is {primes[-1]}")
"""

_COUNT = """\
import sys
low, high = int(sys.argv[1]), int(sys.argv[2])
sieve = bytearray([1]) * high
for number in range(2, int(high ** 0.5) + 1):
    if sieve[number]:
        sieve[number * number :: number] = bytes(len(range(number * number, high, number)))
print(f"{sum(sieve[max(2, low):])} primes from {low} to {high}")
"""

_FLAKY = """\
import os, sys
attempt = os.environ["GHCOORD_ATTEMPT"]
if attempt == "1":
    sys.exit("the network was down (this is the attempt that is meant to fail)")
print(f"worked at attempt {attempt}")
"""

FLAKY_ID = "flaky"

TRUSTED = "none"
"""The least sandbox that these tasks need: the demo knows what it runs, and shows it on every machine."""


def submissions() -> list[Submission]:
    """28 tasks, the least urgent first, so that the order in which they run shows that priorities count.

    The first to run are not echoes: after those a worker would lease dozens ahead.
    """
    return [
        *(Submission("echo", {"message": f"hello number {n}"}, priority=SHORT, id=f"echo-{n}") for n in range(1, 11)),
        *(_count(f"count-{n}", n, SHORT) for n in range(1, 11)),
        Submission("run.python", {"code": _FLAKY}, priority=LONG, retries=2, backoff=0.5, id=FLAKY_ID, sandbox=TRUSTED),
        *(
            Submission(
                "run.python",
                {"code": _SEARCH, "args": [str(LONG_SECONDS)]},
                priority=LONG,
                id=f"search-{n}",
                sandbox=TRUSTED,
            )
            for n in range(1, 5)
        ),
        *(_count(f"urgent-{n}", n, URGENT) for n in range(1, 4)),
    ]


def _count(task_id: str, number: int, priority: int) -> Submission:
    limits = [str((number - 1) * STEP), str(number * STEP)]
    return Submission("run.python", {"code": _COUNT, "args": limits}, priority=priority, id=task_id, sandbox=TRUSTED)


def is_long(task_id: str) -> bool:
    """Whether the task computes for :data:`LONG_SECONDS`."""
    return task_id.startswith("search-")
