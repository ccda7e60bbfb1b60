"""A GitHub App's installation token: made from its key, replaced before it expires."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from pathlib import Path

import jwt

from ghcoord.clock import Runtime
from ghcoord.errors import Denied
from ghcoord.store.github.answers import Asked, judge, no_answer
from ghcoord.store.github.api import Answer, Repo
from ghcoord.store.github.wire import Wire, carry

AHEAD = 300.0
"""Seconds before its end at which a token is replaced; they last an hour."""

FRESH = 30.0
"""Seconds in which another token would be refused as well."""

PROOF = 540
"""Seconds that the App's own proof is valid; GitHub accepts ten minutes at most, from a minute ago."""


class AppCredentials:
    """The token of an installation of the App ``app``; without ``installation`` the one of the repository."""

    def __init__(self, repo: Repo, app: str, installation: str | None, key_file: Path, runtime: Runtime) -> None:
        if not app.replace(".", "").replace("-", "").isalnum() or (installation and not installation.isdigit()):
            raise Denied("the GitHub App's id or installation is none: set github.app and github.installation")
        try:
            self._key = key_file.read_bytes()
        except OSError as error:
            raise Denied(f"cannot read the App's key {key_file} ({error.strerror}): set github.key_file") from None
        self._repo = repo
        self._app = app
        self._installation = installation
        self._identity = f"app:{app}:{installation or f'{repo.owner}/{repo.name}'}"
        self._key_file = key_file
        self._runtime = runtime
        self._wire = Wire(repo, self._proof, runtime, timeout=30.0)
        self._lock = threading.Lock()
        self._token: str | None = None
        self._until = 0.0
        self._made_at = 0.0
        self.source = f"GitHub App {app}"

    def token(self) -> str:
        """The present token; asks for one when there is none or it ends soon."""
        with self._lock:
            if self._token is None or self._runtime.monotonic() > self._until:
                self._replace()
            return self._token or ""

    def identity(self) -> str:
        return self._identity

    def refresh(self) -> bool:
        """Make a new token, unless the one that was refused has just been made."""
        with self._lock:
            if self._token is None or self._runtime.monotonic() - self._made_at < FRESH:
                return False
            self._replace()
            return True

    def __repr__(self) -> str:
        return f"AppCredentials(app={self._app!r})"

    def _replace(self) -> None:
        if self._installation is None:
            found = self._ask("GET", f"{self._repo.path}/installation")
            self._installation = str(found.get("id"))
        made = self._ask("POST", f"/app/installations/{self._installation}/access_tokens")
        token, expires = made.get("token"), made.get("expires_at")
        try:
            until = datetime.fromisoformat(str(expires)).timestamp()
        except ValueError:
            until = self._runtime.now() + 3600
        if not isinstance(token, str) or not token:
            raise Denied(f"{self._repo.host} made no token for the App: look at its installation's settings")
        lasts = min(max(until - self._runtime.now() - AHEAD, 60.0), 3600.0 - AHEAD)
        self._made_at = self._runtime.monotonic()
        self._token, self._until = token, self._made_at + lasts

    def _proof(self) -> str:
        now = int(self._runtime.now())
        try:
            return jwt.encode({"iat": now - 60, "exp": now + PROOF, "iss": self._app}, self._key, algorithm="RS256")
        except (ValueError, TypeError, jwt.PyJWTError):
            pass
        raise Denied(f"{self._key_file} is no private key: set github.key_file to the App's .pem file")

    def _ask(self, verb: str, path: str) -> dict[str, object]:
        asked = Asked(self._repo, verb, path, "read")
        raw = carry(lambda: self._wire.send(verb, path), asked, self._runtime)
        try:
            body = json.loads(raw.content)
        except (ValueError, RecursionError):
            body = None
        if raw.status in (401, 404):
            raise Denied(
                f"{self._repo.host} does not accept the GitHub App {self._app} for {self._repo.url} "
                f"(status {raw.status}): check github.app, github.installation and github.key_file"
            )
        if (error := judge(asked, Answer(raw.status, raw.headers, body), self._runtime.now())) is not None:
            raise error
        if not isinstance(body, dict):
            raise no_answer(asked, "the answer was cut off or is no JSON")
        return body
