"""A sweep over parameters, on as many machines as there are: sweep.py submit | work | table

Needs GHCOORD_HUB. ``submit`` queues a run for each combination, ``work`` takes
runs until none is left (start it on every machine; the workflow sweep.yml does
so on runners), ``table`` prints the results as Markdown, best first. Each run
leaves what it learned as an artifact: ``ghcoord artifact get ID``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys

import ghcoord
from ghcoord.errors import GhcoordError
from ghcoord.hub import Submission, TaskQuery
from ghcoord.model.tool import ToolContext

SWEEP = "sweep-1"  # another name is another sweep
RATES = (0.01, 0.1, 0.5)
STEPS = (10, 100)

POINTS = [(x / 10, 3 * x / 10 + 1 + 0.1 * math.sin(x)) for x in range(10)]


def train(rate: float, steps: int) -> dict[str, float]:
    """Fit a line to the points by gradient descent. Your training goes here."""
    slope = offset = 0.0
    for _ in range(steps):
        errors = [(slope * x + offset - y, x) for x, y in POINTS]
        slope -= rate * 2 * sum(error * x for error, x in errors) / len(errors)
        offset -= rate * 2 * sum(error for error, _ in errors) / len(errors)
    loss = sum((slope * x + offset - y) ** 2 for x, y in POINTS) / len(POINTS)
    return {"slope": slope, "offset": offset, "loss": loss}


def submit(hub: ghcoord.Hub) -> None:
    runs = [Submission("train", {"rate": rate, "steps": steps}) for rate, steps in itertools.product(RATES, STEPS)]
    hub.tasks.submit_many(runs, batch=SWEEP)  # said again, it queues only what is missing
    print(f"{len(runs)} runs are queued")


def work(hub: ghcoord.Hub) -> None:
    @hub.tools.register("train")
    def run(rate: float, steps: int, ctx: ToolContext) -> dict[str, float | str]:
        """Train once, and keep the model."""
        model = train(rate, steps)
        kept = hub.artifacts.put("model.json", json.dumps(model).encode(), task_id=ctx.task_id)
        return {"loss": round(model["loss"], 6), "model": kept.id}

    done = ghcoord.WorkerDaemon(hub, only=["train"], until_idle=2.0).run()
    print(f"{done.succeeded} runs done here")


def table(hub: ghcoord.Hub) -> None:
    ended = hub.tasks.list(query=TaskQuery(batch=SWEEP, states=["succeeded"]))
    rows = [(one.result.data["value"], one) for one in ended if one.result is not None]
    print("| loss | rate | steps | worker | model |\n|---|---|---|---|---|")
    for value, run in sorted(rows, key=lambda row: row[0]["loss"]):
        cells = value["loss"], run.args["rate"], run.args["steps"], run.worker, value["model"]
        print("|", " | ".join(map(plain, cells)), "|")


def plain(value: object) -> str:
    """A value as a cell: what is in a hub anybody may have written, and this table may become a page on GitHub."""
    return re.sub(r"[^\w .:+-]", "", str(value))


if __name__ == "__main__":
    verbs = {"submit": submit, "work": work, "table": table}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=verbs)
    asked = parser.parse_args()
    try:
        with ghcoord.connect() as opened:
            verbs[asked.verb](opened)
    except GhcoordError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
