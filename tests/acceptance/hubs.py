"""Hubs behind a network for acceptance tests: what a command line, a worker or a child process opens by URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ghcoord import bootstrap
from ghcoord.config import load_settings
from ghcoord.twin.server import Twin
from tests.store.gitrepo import QUIET

KINDS = {
    "github": "",
    "github-custom": 'prefix = "refs/ghcoord/"\n',
    "github-rest": '[github]\nwrite = "rest"\n',
    "remote-http": "",
    "remote-file": "",
}
"""Kinds of hubs, each with the ``ghcoord.toml`` that it takes."""


@contextmanager
def network_hub(kind: str, folder: Path, patch: pytest.MonkeyPatch, poll: str = "0.2s") -> Iterator[tuple[str, Twin]]:
    """A new hub of ``kind``, limits off: its URL, for processes started in ``folder``, and the twin that holds it.

    Tokens, settings and folders for state are set up in this process's environment, and undone with ``patch``.
    """
    patch.chdir(folder)
    prefix, _, rest = KINDS[kind].rpartition("\n") if "prefix" in KINDS[kind] else ("", "", KINDS[kind])
    (folder / "ghcoord.toml").write_text(f'{prefix}\npoll = "{poll}"\n{rest}[budget]\nlimits = "none"\n')
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        patch.setenv(name, str(folder / name.lower()))
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        patch.setenv(name, QUIET[name])
    with Twin(folder / "twin") as twin:
        token = twin.user("me")
        repository = twin.repository("me", "hub", empty=False)
        patch.setenv("GH_TOKEN", token)
        patch.setenv("GHCOORD_GITHUB_API", f"{twin.url}/api/v3")
        url = {
            "remote-http": f"{twin.url}/me/hub.git",
            "remote-file": f"git+file://{repository.folder}",
        }.get(kind, "github:me/hub")
        hub, created = bootstrap.create(url, load_settings(folder))
        hub.close()
        assert created
        yield url, twin
