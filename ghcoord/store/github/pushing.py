"""Whether git's own protocol gets through to a repository; pushes nothing."""

from __future__ import annotations

from dataclasses import replace

from ghcoord.clock import Runtime
from ghcoord.errors import GhcoordError
from ghcoord.store.github.api import Repo
from ghcoord.store.github.credentials import Credentials
from ghcoord.store.github.url import git_url
from ghcoord.store.github.wire import Wire

TIMEOUT = 15.0


def push_refused(repo: Repo, credentials: Credentials, runtime: Runtime) -> str | None:
    """Why a push would not get through; ``None`` when it would. Costs none of the API's limits."""
    base, owner, name = git_url(repo).rsplit("/", 2)
    wire = Wire(replace(repo, api=base), credentials.token, runtime, timeout=TIMEOUT, basic=True)
    try:
        raw = wire.send("GET", f"/{owner}/{name}.git/info/refs?service=git-receive-pack")
    except GhcoordError as error:
        return error.message
    except Exception as error:
        return f"no answer ({type(error).__name__})"
    finally:
        wire.close()
    if raw.status == 200 and raw.headers.get("content-type", "").startswith("application/x-git-receive-pack"):
        return None
    by = "" if "x-github-request-id" in raw.headers else ", perhaps by a proxy"
    return f"status {raw.status}{by}"
