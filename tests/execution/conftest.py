"""What the tests of execution share."""

from __future__ import annotations

import os

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.open import open_sandbox, probe

RUNTIME = SystemRuntime()


@pytest.fixture(scope="module")
def bwrap() -> Sandbox:
    """The sandbox of this machine; a skip where it has none, an error in CI."""
    sandbox = open_sandbox(unsafe=False, runtime=RUNTIME)
    if sandbox is None:
        found = probe(RUNTIME)
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a working bubblewrap: {found.reason}; {found.fix}")
        pytest.skip(f"bubblewrap is not usable here: {found.reason}")
    return sandbox
