"""The limits that servers publish, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

HOUR = 3600.0
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one account may do at one host; ``None`` where there is no such limit.

    The numbers are GitHub's own, from «Rate limits for the REST API», «Rate
    limits … for the GraphQL API», «Best practices for using the REST API» and
    «Repository limits» of its documentation:

    - ``reads_per_hour``, ``graphql_points_per_hour``: the primary limits of a
      user, shared by all its tokens.  Headers tell the real ones, and those count.
    - ``points_per_minute``: secondary; a reading is 1 point, a write 5.
    - ``writes_per_minute``, ``writes_per_hour``: secondary, requests that create
      content.  Nothing tells how many are left, so they are counted here.
    - ``write_gap``: seconds that shall lie between two writes.
    - ``pushes_per_minute``: recommended for a repository.
    - ``min_retry``: seconds to wait after a refusal that names no time.
    """

    reads_per_hour: int | None = 5000
    graphql_points_per_hour: int | None = 5000
    points_per_minute: int | None = 900
    writes_per_minute: int | None = 80
    writes_per_hour: int | None = 500
    write_gap: float = 1.0
    pushes_per_minute: int | None = 6
    min_retry: float = 60.0

    @classmethod
    def github(cls) -> Limits:
        """A user's token, or an app's."""
        return cls()

    @classmethod
    def github_actions(cls) -> Limits:
        """The ``GITHUB_TOKEN`` of a workflow: the primary limits are 1,000 an hour for the repository."""
        return cls(reads_per_hour=1000, graphql_points_per_hour=1000)

    @classmethod
    def git_host(cls, host: str) -> Limits:
        """What ``git`` itself may do at ``host``: pushes a minute at GitHub's own hosts, anything elsewhere.

        The API's limits do not count what git does.
        """
        return replace(cls.none(), pushes_per_minute=cls.github().pushes_per_minute if is_githubs(host) else None)

    @classmethod
    def none(cls) -> Limits:
        """No limits: a server that tells of none. What it refuses nevertheless is obeyed."""
        return cls(None, None, None, None, None, 0.0, None)


def is_githubs(host: str) -> bool:
    """Whether GitHub itself runs ``host``, a name with or without a port: then its limits hold."""
    name = host.partition(":")[0].lower().rstrip(".")
    return name in ("github.com", "ssh.github.com", "api.github.com") or name.endswith(".ghe.com")
