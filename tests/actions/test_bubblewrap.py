"""What the action ``worker`` changes on the machine before it starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.actions.runner import ACTIONS


@pytest.mark.parametrize(
    ("kind", "value", "changes"),
    [("github-hosted", "1", True), ("github-hosted", "0", False), ("self-hosted", "1", False), (None, "1", False)],
)
def test_only_github_s_own_machines_are_opened(tmp_path: Path, kind: str | None, value: str, changes: bool) -> None:
    """The protection of user namespaces is turned off where the machine ends with the job; elsewhere it is said."""
    programs = tmp_path / "bin"
    programs.mkdir()
    done = tmp_path / "done"
    for name, body in {"bwrap": "", "sysctl": f'echo "$@" >> {done}', "sudo": 'shift; exec "$@"'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    switch = tmp_path / "switch"
    switch.write_text(f"{value}\n")
    env = {"PATH": f"{programs}:{os.defpath}", **({"RUNNER_ENVIRONMENT": kind} if kind else {})}
    script = ACTIONS / "worker" / "bubblewrap.sh"
    ran = subprocess.run(["bash", str(script), str(switch)], env=env, capture_output=True, text=True, check=True)
    assert changes == done.exists()
    assert (value == "1" and not changes) == ("user namespaces stay forbidden" in ran.stdout)
