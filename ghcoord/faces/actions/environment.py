"""What a job of GitHub Actions is told by its environment, and the files through which it answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ghcoord.errors import UsageError

FILES = ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY")
"""Files by which a step changes what later steps see."""

RUNTIME = "ACTIONS_"
"""Start of the variables with the runner's own tokens and addresses: caches, artifacts, identities."""

DELIMITER_BITS = 128


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """A job; everything is empty or ``None`` where this is none."""

    repository: str = ""
    server_url: str = ""
    own_api: bool = False
    """Whether the environment names another API than the server's usual one."""
    run_id: str = ""
    run_attempt: str = ""
    job: str = ""
    actor: str = ""
    system: str = ""
    architecture: str = ""
    kind: str = ""
    """``github-hosted`` or ``self-hosted``."""
    output: Path | None = None
    summary: Path | None = None

    @staticmethod
    def of(variables: Mapping[str, str]) -> JobEnvironment:
        """What the runner says."""

        def path(name: str) -> Path | None:
            return Path(variables[name]) if variables.get(name) else None

        return JobEnvironment(
            repository=variables.get("GITHUB_REPOSITORY", ""),
            server_url=variables.get("GITHUB_SERVER_URL", "") or "https://github.com",
            own_api=bool(variables.get("GHCOORD_GITHUB_API")),
            run_id=variables.get("GITHUB_RUN_ID", ""),
            run_attempt=variables.get("GITHUB_RUN_ATTEMPT", "") or "1",
            job=variables.get("GITHUB_JOB", ""),
            actor=variables.get("GITHUB_ACTOR", ""),
            system=variables.get("RUNNER_OS", ""),
            architecture=variables.get("RUNNER_ARCH", ""),
            kind=variables.get("RUNNER_ENVIRONMENT", ""),
            output=path("GITHUB_OUTPUT"),
            summary=path("GITHUB_STEP_SUMMARY"),
        )

    @property
    def hub(self) -> str | None:
        """The hub of the job's own repository."""
        if not self.repository:
            return None
        host = urlsplit(self.server_url).netloc
        if self.own_api or host in ("", "github.com"):
            return f"github:{self.repository}"
        return f"github://{host}/{self.repository}"

    @property
    def run_url(self) -> str | None:
        """The page of the run."""
        if not (self.repository and self.run_id):
            return None
        return f"{self.server_url}/{self.repository}/actions/runs/{self.run_id}"

    @property
    def who(self) -> str | None:
        """Who acts, as records name it: the account that started the run, and the run."""
        return f"{self.actor or 'somebody'}@run-{self.run_id}.{self.run_attempt}" if self.run_id else None

    def worker_id(self, suffix: str) -> str | None:
        """An id that names the run and that no other job of it has, given a random ``suffix``."""
        return f"run-{self.run_id}-{self.run_attempt}-{suffix}" if re.fullmatch(r"\d{1,20}", self.run_id) else None

    def labels(self) -> dict[str, str]:
        """What tasks may require of the worker."""
        said = {"os": self.system, "arch": self.architecture, "runner": self.kind}
        return {name: value.lower() for name, value in said.items() if value}


def hidden(variables: Iterable[str]) -> list[str]:
    """The variables that neither a task nor a tool in the worker's process has any business with."""
    return [name for name in variables if name in FILES or name.startswith(RUNTIME)]


def write_outputs(file: Path | None, values: Mapping[str, object], randbits: Callable[[int], int]) -> None:
    """Set outputs of the step, whatever the values hold. Raises ``UsageError`` when the file cannot be written."""
    if file is None:
        return
    text = "".join(_entry(name, value, randbits) for name, value in values.items())
    try:
        with file.open("a", encoding="utf-8", errors="backslashreplace", newline="") as opened:
            opened.write(text)
    except OSError as error:
        raise UsageError(f"GITHUB_OUTPUT cannot be written: {error.strerror or error}") from None


def _entry(name: str, value: object, randbits: Callable[[int], int]) -> str:
    text = "" if value is None else "true" if value is True else "false" if value is False else str(value)
    delimiter = f"end-{randbits(DELIMITER_BITS):032x}"
    return f"{name}<<{delimiter}\n{text}\n{delimiter}\n"
