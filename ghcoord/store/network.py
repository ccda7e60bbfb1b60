"""Look at the way to a hub on another machine: what ``ghcoord doctor`` says of network, token and limits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ghcoord.clock import Runtime
from ghcoord.config import Settings
from ghcoord.errors import GhcoordError, UsageError
from ghcoord.store.observation import Observation, clock, failed, limits
from ghcoord.store.open import Surroundings, driver_of, github_api, open_store


def examine_network(url: str, runtime: Runtime, settings: Settings, around: Surroundings) -> list[Observation]:
    """Observations about the way to ``url``; none for hubs on this machine. Raises nothing, writes nothing."""
    found: list[Observation] = []
    try:
        driver = driver_of(url)
        if driver == "github":
            found += _github(url, runtime, settings, around)
        elif driver == "remote":
            found += _remote(url, runtime, settings, around)
    except GhcoordError as error:
        found.append(failed("network", error))
    return found


def probe_network(url: str, runtime: Runtime, settings: Settings, around: Surroundings) -> list[Observation]:
    """Try on GitHub what is only reported of it, in refs that are deleted again. Raises ``UsageError`` elsewhere."""
    if driver_of(url) != "github":
        raise UsageError("--probe asks GitHub: give it with a hub like github:OWNER/REPOSITORY")
    from ghcoord.store.github.probe import probe

    with contextlib.closing(github_api(url, runtime, settings, around)) as api:
        return probe(api, settings.prefix, runtime)


def _github(url: str, runtime: Runtime, settings: Settings, around: Surroundings) -> list[Observation]:
    from ghcoord.store.github.credentials import kind_of
    from ghcoord.store.github.examine import examine
    from ghcoord.store.github.pushing import push_refused

    with contextlib.closing(github_api(url, runtime, settings, around)) as api:
        source = f"{kind_of(api.credentials.token())} from {getattr(api.credentials, 'source', 'the settings')}"
        return examine(api, settings.prefix, runtime, source, lambda: push_refused(api.repo, api.credentials, runtime))


def _remote(url: str, runtime: Runtime, settings: Settings, around: Surroundings) -> Iterator[Observation]:
    with contextlib.closing(open_store(url, runtime, settings, around)) as store:
        spaces = store.heads()
        yield Observation("network", "ok", f"git reaches {store.url}, {len(spaces)} spaces")
        yield clock(store.server_time(), runtime)
        if store.budget is not None:
            yield from limits(store.budget, runtime)
        if "github.com" in store.url:
            yield Observation(
                "driver",
                "ok",
                f"{store.url} spares the API's limits and suits a few long-running workers; many short commands, or "
                "machines without a copy, are faster with github:OWNER/REPOSITORY",
                details={"suits": "https"},
            )
