"""Agents review all *.py of a folder, without a server: swarm.py JOB FOLDER

Needs GHCOORD_HUB. Start it as often as you like, on any machine that has the
same files in FOLDER, also later, to help. Every agent offers the whole job, of
which the hub takes each part once; each takes parts until none is left; an
agent that dies costs no part, only the time until its lease ends. The first one
that finds all parts done writes the summary, and the others find it written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import ghcoord
from ghcoord.errors import GhcoordError, RevisionMismatch
from ghcoord.hub import Submission, TaskQuery


def main(job: str, folder: Path) -> None:
    with ghcoord.connect() as hub:

        @hub.tools.register("review")
        def review(path: str) -> dict[str, int]:
            """Review one file. Your call of a model goes here; this one counts what it would read."""
            text = (folder / path).read_text(errors="replace")
            return {"lines": len(text.splitlines()), "todos": text.count("TODO")}

        parts = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))
        hub.tasks.submit_many([Submission("review", {"path": part}, retries=2) for part in parts], batch=job)

        done = ghcoord.WorkerDaemon(hub, only=["review"], until_idle=2.0).run()
        print(f"I reviewed {done.succeeded} of {len(parts)} files")

        tasks = hub.tasks.list(query=TaskQuery(batch=job))
        results = {task.args["path"]: task.result for task in tasks}
        reports = {path: one.data["value"] for path, one in results.items() if one is not None and one.success}
        if len(reports) < len(parts):
            sys.exit(f"{len(parts) - len(reports)} files are not reviewed: see 'ghcoord task list'")
        summary = {"files": len(reports), "todos": sum(report["todos"] for report in reports.values())}
        try:
            hub.memory.set(f"swarm/{job}", summary, if_revision=0)  # only if nobody has
            print(f"I wrote the summary: {summary}")
        except RevisionMismatch:
            print(f"somebody wrote the summary: {hub.memory.get(f'swarm/{job}')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="its name: who gives the same one helps")
    parser.add_argument("folder", type=Path, help="where the *.py files are")
    asked = parser.parse_args()
    if not any(asked.folder.rglob("*.py")):
        parser.error(f"there is no *.py file in {asked.folder}")
    try:
        main(asked.job, asked.folder)
    except GhcoordError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
