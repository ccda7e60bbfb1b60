"""A transport under test: a budget that writes down what it is told, and GitHub's answers by ``responses``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ghcoord.clock import Runtime, SystemRuntime
from ghcoord.store.budget.base import Kind, Pace, Report
from ghcoord.store.github.credentials import Credentials, TokenCredentials
from ghcoord.store.github.transport import GithubApi
from ghcoord.store.github.url import parse_github_url

TOKEN = "ghp_0123456789secret0123456789"
BASE = "https://api.github.com:443"
"""As PyGithub writes it."""
REPO = parse_github_url("github:me/hub", None)
FROM_GITHUB = {"x-github-request-id": "1:2:3"}


@dataclass
class Notes:
    """A budget without limits; ``told`` is what it heard, in order."""

    account: str = "github.com/?"
    told: list[tuple[object, ...]] = field(default_factory=list)

    def admit(self, kind: Kind) -> None:
        self.told.append(("admit", kind))

    def note(self, status: int, headers: Mapping[str, str], *, resource: str = "core") -> None:
        self.told.append(("note", status, resource))

    def block(self, until: float, why: str) -> None:
        self.told.append(("block", until, why))

    def rename(self, account: str) -> None:
        self.account = account

    def write_ready_in(self) -> float:
        return 0.0

    def share(self, workers: int) -> None:
        self.told.append(("share", workers))

    def pace(self) -> Pace:
        return Pace(0.0, 1.0, 5.0)

    def report(self) -> Report:
        return Report(self.account, (), self.pace(), 0.0)


def api(
    *,
    credentials: Credentials | None = None,
    runtime: Runtime | None = None,
    notes: Notes | None = None,
    **more: object,
) -> GithubApi:
    """A transport to github.com."""
    return GithubApi(
        REPO,
        credentials or TokenCredentials(TOKEN, "GH_TOKEN"),
        notes or Notes(),
        runtime or SystemRuntime(),
        **more,  # type: ignore[arg-type]
    )
