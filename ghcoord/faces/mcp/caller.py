"""Who calls: taken from how the client was authenticated, never from an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated side of a call.

    ``user_id`` and ``workspace_id`` own what the call makes. ``holder`` tells
    this server's process from others of the same user: locks are held in the
    name of :attr:`owner`.  ``client`` is what the client calls itself, for the
    audit.  ``shared`` tells that several users use this server, so that each
    may only end what is their own.  ``read_only`` is a caller that may look
    only, whatever the server offers.
    """

    user_id: str
    workspace_id: str
    holder: str
    client: str = ""
    shared: bool = False
    read_only: bool = False

    @property
    def owner(self) -> str:
        """The owner of the locks that it takes."""
        return f"{self.user_id}/{self.holder}"
