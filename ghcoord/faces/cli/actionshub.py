"""What all verbs of ``ghcoord actions`` share: the job, its hub, and its log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from ghcoord.errors import GhcoordError, NoHub, NotFound
from ghcoord.faces.cli.context import (
    environment,
    hide,
    hub_url,
    invocation,
    open_hub,
    say_wait,
    settings,
)
from ghcoord.faces.cli.output import note

if TYPE_CHECKING:
    from ghcoord.faces.actions.commands import JobLog
    from ghcoord.faces.actions.environment import JobEnvironment
    from ghcoord.hub import Hub


def enter_job() -> JobEnvironment:
    """The job that this process runs in. Its own variables are out of reach for everything else from now on."""
    from ghcoord.faces.actions.environment import JobEnvironment, hidden

    variables = environment()
    job = JobEnvironment.of(variables)
    hide(hidden(variables))
    return job


def open_log() -> JobLog:
    """The log of the step: standard output, or standard error where JSON goes to that."""
    from ghcoord.clock import SystemRuntime
    from ghcoord.faces.actions.commands import JobLog

    stream = sys.stderr if invocation().json else sys.stdout

    def write(text: str) -> None:
        with suppress(OSError):  # nobody reads it any more: the work goes on
            stream.write(text)
            stream.flush()

    return JobLog(write, SystemRuntime().randbits)


@contextmanager
def failures_shown(log: JobLog) -> Iterator[None]:
    """Show an error as an annotation of the run too."""
    try:
        yield
    except GhcoordError as error:
        log.annotate("error", "ghcoord", error.message)
        raise


@contextmanager
def hub_of(job: JobEnvironment) -> Iterator[Hub]:
    """The hub that was named, else that of the job's own repository; made when there is none yet.

    A workflow has nobody who types ``ghcoord init``.
    """
    import ghcoord.bootstrap as bootstrap

    try:
        hub_url()
    except NoHub:
        if job.hub is None:
            raise
        invocation().hub = job.hub
    with ExitStack() as stack:
        try:
            hub = stack.enter_context(open_hub(actor=job.who))
        except NotFound:
            made, new = bootstrap.create(hub_url(), settings(), actor=job.who, on_wait=say_wait, tell=note)
            hub = stack.enter_context(made)
            if new:
                note(f"made a hub at {hub.url}")
        yield hub
