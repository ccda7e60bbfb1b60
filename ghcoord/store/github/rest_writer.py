"""Moving one ref over REST, where there is no GraphQL: for one space at a time.

``PATCH`` without force takes no expected id and only refuses what is no
fast-forward.  It is a comparison all the same, because every commit is a
direct child of the head that was expected.
"""

from __future__ import annotations

from urllib.parse import quote

from ghcoord.errors import OutcomeUnknown
from ghcoord.store.base import Oid
from ghcoord.store.github.api import Answer, Api
from ghcoord.store.github.refusals import is_protected, refusal, say

REFUSED = (404, 409, 422)
"""How the server answers what it does not do. Why is told by looking, not by its text."""


class Refused(Exception):
    """The server says that it did not move the ref. Stays in the driver.

    ``absent``: it does not see the ref, which may have been made just now.
    """

    def __init__(self, text: str, *, absent: bool) -> None:
        super().__init__(text)
        self.absent = absent


def move_ref(api: Api, ref: str, before: Oid | None, after: Oid) -> None:
    """Move ``ref`` to ``after``, a direct child of ``before``, or create it; may raise ``Refused``."""
    path = f"{api.repo.path}/git/refs"
    if before is None:
        answer = api.rest("POST", path, {"ref": ref, "sha": after}, kind="write", expect=REFUSED)
    else:
        where = f"{path}/{quote(ref.removeprefix('refs/'))}"
        answer = api.rest("PATCH", where, {"sha": after, "force": False}, kind="write", expect=REFUSED)
    if answer.status >= 400:
        raise _refused(api, answer, ref)
    target = answer.body.get("object") if isinstance(answer.body, dict) else None
    if not isinstance(target, dict) or target.get("sha") != after:
        raise OutcomeUnknown("the server does not say where the branch is now")


def _refused(api: Api, answer: Answer, ref: str) -> Exception:
    text = say(answer.body)
    if is_protected(text):
        return refusal(api.repo, answer, write=True, what=f"moving {ref}")
    return Refused(text or f"status {answer.status}", absent=answer.status == 404)
