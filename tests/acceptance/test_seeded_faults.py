"""Seeded faults of every kind under a mixed workload: nothing is lost, nothing applied twice, no two holders write.

The fourth line of the network drivers' acceptance.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ghcoord.store.sending import Sender
from tests.acceptance.mixed import Told, counter, owner, submitter, worker
from tests.acceptance.seeded import MODES, World, note_of
from tests.acceptance.verdict import judge

SEEDS = 200
QUICK = 10


def simulate(seed: int, folder: Path, sender: type[Sender] = Sender, **more: object) -> tuple[World, Told]:
    """One run, judged; the seed is in what it raises."""
    where = folder / f"run{seed}"
    where.mkdir()
    told = Told()
    world = World(seed, where, list(MODES)[seed % len(MODES)], **more)  # type: ignore[arg-type]
    for name in ("a", "b"):
        world.process(name, owner(told, 2))
    for name in ("c", "d"):
        world.process(name, counter(told, 3))
    world.process("submitter", submitter)
    for name in ("w1", "w2"):
        world.process(name, worker(told))
    try:
        with note_of(world):
            world.run(sender)
            judge(world, told)
    finally:
        shutil.rmtree(where)
    return world, told
