"""What is asked of the remote: which heads it has, with their objects, and to move some."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.errors import Corrupt, StoreError, Throttled, Unavailable
from ghcoord.store.base import Oid
from ghcoord.store.budget.base import Budget, Kind
from ghcoord.store.remote.answers import (
    Busy,
    Damaged,
    Fault,
    Moved,
    Pushed,
    explain,
    lacks_atomic,
    last_words,
    read_push,
)
from ghcoord.store.remote.environment import base_environment, with_access
from ghcoord.store.remote.mirror import Mirror
from ghcoord.store.remote.program import Done, Git
from ghcoord.store.remote.servertime import ServerClock
from ghcoord.store.remote.url import Remote

PAUSE = 60.0
"""Seconds for which nothing is sent after the server has refused for a while; git does not tell for how long."""

SLOWEST = 100_000
"""Bytes a second that a push is given time for."""

FIRST = 10
"""The first fetch brings all of the hub, and may take so many times as long."""

RETRIES = 3
"""Times that a listing is asked for again because a ref moved, or because the copy had to be made anew."""

_FETCHED = re.compile(r"([0-9a-f]{40})\t(?:not-for-merge)?\t(branch )?'(.*)' of ")
_SPACE = re.compile(r"[A-Za-z0-9_=+@%~!,-][A-Za-z0-9._=+@%~!,-]*(?:/[A-Za-z0-9_=+@%~!,-][A-Za-z0-9._=+@%~!,-]*)*")
_OWN = "refs/worktree/ghcoord/"


class Session:
    """Talks to ``remote`` about the refs below ``prefix``. Thread-safe; sends no push twice."""

    def __init__(
        self,
        remote: Remote,
        mirror: Mirror,
        runtime: Runtime,
        prefix: str,
        budget: Budget | None,
        environment: Mapping[str, str],
        timeout: float,
    ) -> None:
        self._remote = remote
        self._mirror = mirror
        self._runtime = runtime
        self._prefix = prefix
        self._budget = budget
        self._timeout = timeout
        self._base = base_environment(environment, remote)
        self._git = Git(self._base, runtime)
        self._mutex = threading.Lock()
        self._access: dict[str, str] | None = None
        self.clock = ServerClock(runtime)
        self.atomic = True
        """Whether several refs can be pushed as one, as far as is known."""

    # -- reading

    def heads(self) -> dict[str, Oid]:
        """The present head of each space; all that they need is in the copy afterwards."""
        self.admit("poll")
        for attempt in range(RETRIES):
            last = attempt == RETRIES - 1
            try:
                with self._mirror.shared():
                    found = self._fetch()
                    self._mirror.record(found, all_of_them=True)
                    return found
            except Moved as fault:
                if last:
                    raise Unavailable(f"{self._remote.host} moves refs faster than they can be read") from fault
            except Damaged as fault:
                if last:
                    raise Corrupt(
                        f"the copy of the hub in {self._mirror.folder} cannot be repaired: {fault}"
                    ) from fault
                self._mirror.remake()
        raise AssertionError("unreachable")

    def _fetch(self) -> dict[str, Oid]:
        """List and fetch in one call: two requests over HTTP when nothing is new, three otherwise."""
        known = self._mirror.knows_heads()
        with self._mirror.call() as own:
            done = self._run(
                [
                    "fetch",
                    "--quiet",
                    "--no-tags",
                    "--no-recurse-submodules",
                    "--no-auto-maintenance",
                    "--update-shallow",
                    "--",
                    self._remote.git_url,
                    f"+{self._prefix}*:{_OWN}*",
                ],
                own,
                self._timeout if known else self._timeout * FIRST,
            )
            if done.code != 0:
                raise self._failed(done)
            return self._listed(own / "FETCH_HEAD")

    def _listed(self, file: Path) -> dict[str, Oid]:
        found: dict[str, Oid] = {}
        try:
            lines = file.read_text(errors="surrogateescape").splitlines()
        except FileNotFoundError:
            return found
        for line in lines:
            match = _FETCHED.match(line)
            if match is not None:
                ref = f"refs/heads/{match[3]}" if match[2] else match[3]
                space = ref.removeprefix(self._prefix)
                if ref.startswith(self._prefix) and _SPACE.fullmatch(space):
                    found[space] = match[1]
        return found

    def intact(self) -> bool:
        """Whether the copy has all that the heads last seen need."""
        with self._mirror.shared():
            return self.local("rev-list", "--objects", "--quiet", "--all").code == 0

    def local(self, *arguments: str, stdin: str = "", timeout: float | None = None) -> Done:
        """Run git on the copy alone; the caller holds its lock."""
        with self._mirror.call() as own:
            return self._git.run(
                arguments,
                timeout=timeout or self._timeout,
                folder=self._mirror.git_dir,
                git_dir=own,
                common=self._mirror.git_dir,
                stdin=stdin,
            )

    # -- writing

    def push(self, moves: Mapping[str, tuple[Oid | None, Oid]], size: int) -> Pushed:
        """Ask the server to move the spaces in ``moves`` from the first id to the second, all or none. Sent once.

        ``size`` is about how many bytes go with it.
        """
        refs = {self._prefix + space: ids for space, ids in moves.items()}
        with self._mirror.shared(), self._mirror.call() as own:
            done = self._run(
                [
                    "push",
                    "--porcelain",
                    "--no-verify",
                    *(["--atomic"] if len(refs) > 1 else []),
                    *(f"--force-with-lease={ref}:{old or ''}" for ref, (old, _) in refs.items()),
                    "--",
                    self._remote.git_url,
                    *(f"{new}:{ref}" for ref, (_, new) in refs.items()),
                ],
                own,
                self._timeout + size / SLOWEST,
            )
        if lacks_atomic(done):
            self.atomic = False
        pushed = read_push(done, {ref: new for ref, (_, new) in refs.items()}, self._remote)
        if isinstance(pushed.error, Busy):
            self._pause()
        return pushed

    # -- running git

    def _run(self, arguments: list[str], own: Path, timeout: float) -> Done:
        done = self._git.run(
            arguments,
            timeout=timeout,
            folder=self._mirror.git_dir,
            git_dir=own,
            common=self._mirror.git_dir,
            extra=self._access_environment(),
            trace=self._remote.scheme in ("https", "http") and self.clock.wants_sample(),
        )
        self.clock.learn(done)
        return done

    def _access_environment(self) -> dict[str, str]:
        """Variables that let git in, found out once: where a token is at hand, or ssh is used, settings decide."""
        with self._mutex:
            if self._access is None:
                made = with_access(self._base, self._remote, self._has_setting)
                self._access = {name: value for name, value in made.items() if self._base.get(name) != value}
            return self._access

    def _has_setting(self, name: str) -> bool:
        url = self._remote.git_url if "://" in self._remote.git_url else f"ssh://{self._remote.host}/"
        done = self._git.run(
            ["config", "--includes", "--get-urlmatch", name, url], timeout=self._timeout, folder=self._mirror.folder
        )
        return done.code == 0 and bool(done.out.strip())

    def admit(self, kind: Kind) -> None:
        """Wait until the limits allow a request of that kind."""
        if self._budget is not None:
            self._budget.admit(kind)

    def _failed(self, done: Done) -> StoreError | Fault | Exception:
        """The error for a listing that failed."""
        if done.code is None:
            return Unavailable(f"{self._remote.host} did not answer in time ({done.ended - done.began:.0f} s)")
        error = explain(done.err, self._remote)
        if isinstance(error, Busy):
            return self._pause()
        return error or Unavailable(f"git cannot read from {self._remote.host}: {last_words(done.err)}")

    def _pause(self) -> Throttled:
        until = self._runtime.now() + PAUSE
        why = f"{self._remote.host} refuses requests for a while"
        if self._budget is not None:
            self._budget.block(until, why)
        return Throttled(why, until)
