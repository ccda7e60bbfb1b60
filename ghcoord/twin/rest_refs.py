"""REST: git refs. Reads may show the past; an update checks nothing but fast-forward, a deletion nothing at all."""

from __future__ import annotations

from ghcoord.twin import shapes
from ghcoord.twin.objects import Oid, is_oid
from ghcoord.twin.refusals import check_ref_write
from ghcoord.twin.repository import ANY, RefRefused, RefUpdate, Repository
from ghcoord.twin.rest import Call, Refused, Reply, number, route

REFS = "/repos/{owner}/{repo}/git"
EMPTY = "Git Repository is empty."


@route("GET", REFS + "/matching-refs/{ref+}")
def matching_refs(call: Call) -> Reply:
    """All refs whose name starts so: a prefix of characters, not of segments."""
    repository = call.repository()
    if repository.is_empty and call.context.switches.empty_refs_refused:
        raise Refused(409, EMPTY)
    found = list(call.context.refs(repository, "refs/" + call.args["ref"]).items())
    headers: dict[str, str] = {}
    if call.context.switches.matching_refs_paged:
        query = call.context.query
        size, page = number(query.get("per_page"), 30), number(query.get("page"), 1)
        if len(found) > size * page:
            headers["link"] = f'<{call.api}{call.context.path}?per_page={size}&page={page + 1}>; rel="next"'
        found = found[size * (page - 1) : size * page]
    return Reply(200, [shapes.ref(repository, name, oid, call.api) for name, oid in found], headers)


@route("GET", REFS + "/ref/{ref+}")
def one_ref(call: Call) -> Reply:
    """One ref by its exact name."""
    repository = call.repository()
    if repository.is_empty:
        raise Refused(409, EMPTY)
    name = "refs/" + call.args["ref"]
    oid = call.context.refs(repository, name).get(name)
    if oid is None:
        raise Refused(404, "Not Found")
    return Reply(200, shapes.ref(repository, name, oid, call.api))


@route("POST", REFS + "/refs", content=True)
def create_ref(call: Call) -> Reply:
    """Create a ref: the only conditional write of a ref over REST that compares exactly, with absence."""
    repository = call.repository("write")
    name, oid = call.text("ref"), call.text("sha")
    if not name.startswith("refs/") or name.count("/") < 2:
        raise Refused(422, "Reference name must start with 'refs/' and have at least two slashes.")
    check_ref_write(call.context, repository, name)
    if repository.is_empty:
        raise Refused(409, EMPTY)
    _move(call, repository, RefUpdate(name, None, _whole(oid)))
    return Reply(201, shapes.ref(repository, name, oid, call.api))


@route("PATCH", REFS + "/refs/{ref+}", content=True)
def update_ref(call: Call) -> Reply:
    """Move a ref; without force only to a descendant of where it stands."""
    repository = call.repository("write")
    name, oid, force = "refs/" + call.args["ref"], call.text("sha"), call.flag("force")
    check_ref_write(call.context, repository, name, force=force)
    with repository.lock:
        if repository.head(name) is None:
            raise Refused(422, "Reference does not exist")
        _move(call, repository, RefUpdate(name, ANY, _whole(oid), force))
    return Reply(200, shapes.ref(repository, name, oid, call.api))


@route("DELETE", REFS + "/refs/{ref+}", content=True)
def delete_ref(call: Call) -> Reply:
    """Delete a ref wherever it stands."""
    repository = call.repository("write")
    name = "refs/" + call.args["ref"]
    check_ref_write(call.context, repository, name, delete=True)
    _move(call, repository, RefUpdate(name, ANY, None))
    return Reply(204)


def _whole(oid: str) -> Oid:
    if not is_oid(oid):
        raise Refused(422, "The sha parameter must be exactly 40 characters and contain only [0-9a-f].")
    return oid


def _move(call: Call, repository: Repository, update: RefUpdate) -> None:
    context = call.context
    switches = context.switches
    try:
        repository.update_refs([update], login=context.login, via="rest", now=context.now)
    except RefRefused as refused:
        words = {
            "exists": switches.exists_message,
            "stale": switches.stale_ref_message,
            "not_fast_forward": switches.stale_ref_message,
            "prefix": switches.prefix_message,
            "absent": "Reference does not exist",
            "missing_object": "Object does not exist",
            "not_commit": "Object is not a commit",
            "bad_name": f"{update.ref} is not a valid ref name.",
        }
        raise Refused(422, words[refused.reason]) from None
