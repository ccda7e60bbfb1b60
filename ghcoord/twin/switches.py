"""What nobody is sure of: each reported or uncertain fact about GitHub that the twin models, as a field to flip.

The defaults are what users report. No safety property of ghcoord may depend on
one: its contract runs with each of them flipped (:func:`flipped`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

STALE_HEAD = 'Expected branch to point to "{expected}" but it did not. Pull and try again.'
OPAQUE = "Something went wrong while executing your query. Please include `{request}` when reporting this issue."


@dataclass(frozen=True, slots=True)
class Switches:
    """How this twin behaves where facts are reported [R] or uncertain [U] only, and what stands before it.

    REST reading:

    - ``etags_differ_by_token``: the same content has another ETag for another token [R].
    - ``etags_weak``: ETags are ``W/"…"`` [U].
    - ``not_modified``: ``If-None-Match`` is honoured on refs [U]; else always 200.
    - ``matching_refs_paged``: matching-refs come 30 at once or ``per_page``, with a ``Link`` [U]; else all.
    - ``not_modified_free``: a 304 to a valid token is not counted [D, but read it as reported].
    - ``read_lag``: seconds that REST and GraphQL reads of refs and contents trail behind writes [R: 10 s seen].
    - ``created_ref_404``: seconds for which a created ref is not found by reads [R].

    REST writing:

    - ``contents_serialise``: a PUT of another file that loses the branch answers 409 «is at … but expected …» [R];
      else it is tried again on the server.
    - ``contents_sha_ignored_when_absent``: a ``sha`` for a missing path is ignored, 201 [R]; else 409.
    - ``stale_ref_message``, ``prefix_message``, ``exists_message``: texts of the 422s of refs [R].
    - ``absent_delete_is_error``: deleting an absent path in a tree is refused with 422 [D]; else ignored.
    - ``payload_limit``, ``payload_status``: a body over so many bytes to git/trees and contents is refused so [R].
    - ``message_newline``: the server ends commit messages with a newline [U].
    - ``commit_dates_free``: POST git/commits takes any dates [D]; else the server puts its own.
    - ``custom_refs``: refs outside heads and tags are accepted, over REST, GraphQL and push [R].
    - ``empty_refs_refused``: listing refs of an empty repository answers 409 [R]; else ``[]``.
    - ``tree_limit``: entries at which a recursive tree is truncated [D: 100,000].

    GraphQL:

    - ``graphql``: there is a GraphQL API at all.
    - ``missing_mutations``: names of mutations that this (older) server lacks.
    - ``stale_data_type``: ``errors[].type`` of a stale ``expectedHeadOid`` [R]; ``None``: no type at all.
    - ``stale_data_message``: its text [R]; ``{expected}`` is the head that was expected.
    - ``stale_names_actual``: that text names the actual head instead of the expected one [U].
    - ``update_refs_opaque``: a lost comparison of updateRefs answers only «Something went wrong …» [R].
    - ``noop_update_compares``: an update with ``beforeOid == afterOid`` is compared as others are [U]; else it passes.
    - ``ref_null_outside_heads``: ``ref(qualifiedName)`` is null outside heads and tags [R].
    - ``ref_names_relative``: ``refs(refPrefix)`` cuts all of the prefix from names [U]; else only ``refs/heads/``.
    - ``absent_file_deletion_is_error``: createCommitOnBranch refuses to delete what is not there [U]; else ignored.
    - ``empty_commits``: createCommitOnBranch makes commits without changes [D]; else refused.
    - ``graphql_payload_limit``: bytes of a request [R: about 40 MB].
    - ``blob_text_limit``: bytes beyond which ``Blob.text`` is cut and ``isTruncated`` says so [U].

    Actions:

    - ``dispatch_tells_run``: a dispatch with ``return_run_details`` names its run [D]; else (older servers) always 204.
    - ``run_lag``: seconds until a new run is found by reads [R].

    Limits:

    - ``secondary_status``, ``graphql_secondary_status``: 403 or 429, and 200 or 403 [D: either].
    - ``retry_after``: refusals by secondary limits carry ``retry-after`` [D: may].
    - ``failed_writes_count``: refused content-creating requests count as content too [U].
    - ``objects_count``: POST of blobs, trees and commits are content-creating requests [U].
    - ``pushes_count``: a push by git is one too [U].

    Time:

    - ``date_header``: answers carry ``Date``; ``clock_offset``: seconds that the server's clock is ahead.

    What stands before it, such as the proxy of a cloud sandbox [R]; 403 each:

    - ``proxy_refuses_custom_refs``: pushes and REST writes of refs outside refs/heads, and deletions of branches.
    - ``proxy_refuses_ref_writes``: every REST write of a ref.
    - ``proxy_refuses_pushes``: every push. ``proxy_refuses_graphql``: GraphQL altogether.
    - ``proxy_reads_graphql``: what it refuses of refs it refuses in mutations too [U].
    """

    etags_differ_by_token: bool = True
    etags_weak: bool = True
    not_modified: bool = True
    matching_refs_paged: bool = False
    not_modified_free: bool = True
    read_lag: float = 0.0
    created_ref_404: float = 0.0

    contents_serialise: bool = True
    contents_sha_ignored_when_absent: bool = True
    stale_ref_message: str = "Update is not a fast forward"
    prefix_message: str = "Reference update failed"
    exists_message: str = "Reference already exists"
    absent_delete_is_error: bool = True
    payload_limit: int = 40_000_000
    payload_status: int = 422
    message_newline: bool = False
    commit_dates_free: bool = True
    custom_refs: bool = True
    empty_refs_refused: bool = True
    tree_limit: int = 100_000

    graphql: bool = True
    missing_mutations: frozenset[str] = frozenset()
    stale_data_type: str | None = "STALE_DATA"
    stale_data_message: str = STALE_HEAD
    stale_names_actual: bool = False
    update_refs_opaque: bool = True
    noop_update_compares: bool = True
    ref_null_outside_heads: bool = True
    ref_names_relative: bool = False
    absent_file_deletion_is_error: bool = True
    empty_commits: bool = True
    graphql_payload_limit: int = 40_000_000
    blob_text_limit: int = 512_000

    dispatch_tells_run: bool = True
    run_lag: float = 0.0

    secondary_status: int = 403
    graphql_secondary_status: int = 200
    retry_after: bool = True
    failed_writes_count: bool = True
    objects_count: bool = True
    pushes_count: bool = False

    date_header: bool = True
    clock_offset: float = 0.0

    proxy_refuses_custom_refs: bool = False
    proxy_refuses_ref_writes: bool = False
    proxy_refuses_pushes: bool = False
    proxy_refuses_graphql: bool = False
    proxy_reads_graphql: bool = False


FLIPS: dict[str, Any] = {
    "etags_differ_by_token": False,
    "etags_weak": False,
    "not_modified": False,
    "matching_refs_paged": True,
    "not_modified_free": False,
    "read_lag": 2.0,
    "created_ref_404": 2.0,
    "contents_serialise": False,
    "contents_sha_ignored_when_absent": False,
    "stale_ref_message": "Reference cannot be updated",
    "prefix_message": "Reference could not be created",
    "exists_message": "Reference update failed",
    "absent_delete_is_error": False,
    "payload_limit": 2_500_000,
    "payload_status": 502,
    "message_newline": True,
    "commit_dates_free": False,
    "empty_refs_refused": False,
    "stale_data_type": None,
    "stale_data_message": "Something is out of date",
    "stale_names_actual": True,
    "update_refs_opaque": False,
    "noop_update_compares": False,
    "ref_null_outside_heads": False,
    "ref_names_relative": True,
    "absent_file_deletion_is_error": False,
    "empty_commits": False,
    "blob_text_limit": 64,
    "secondary_status": 429,
    "graphql_secondary_status": 403,
    "retry_after": False,
    "failed_writes_count": False,
    "objects_count": False,
    "pushes_count": True,
    "date_header": False,
}
"""The other value of each uncertain fact. What merely refuses service (proxies, missing APIs) is not among them."""


def flipped(base: Switches | None = None) -> Iterator[tuple[str, Switches]]:
    """Each switch's name, and ``base`` (default: as reported) with only that one flipped."""
    start = base or Switches()
    for name, value in FLIPS.items():
        yield name, replace(start, **{name: value})
