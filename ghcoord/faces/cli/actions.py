"""``ghcoord actions``: what the GitHub Actions of this project run."""

from __future__ import annotations

from ghcoord.faces.cli.actionslock import lock, unlock
from ghcoord.faces.cli.actionssubmit import submit
from ghcoord.faces.cli.actionsworker import worker
from ghcoord.faces.cli.common import group, verb

app = group("What the GitHub Actions of this project run.")

verb(app, "worker")(worker)
verb(app, "submit")(submit)
verb(app, "lock")(lock)
verb(app, "unlock")(unlock)
