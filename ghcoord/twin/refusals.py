"""Why a ref may not be written, whatever the protocol: proxies, reserved names, protected branches."""

from __future__ import annotations

import re

from ghcoord.twin.context import RequestContext
from ghcoord.twin.repository import Repository
from ghcoord.twin.rest import ProxyRefused, Refused
from ghcoord.twin.switches import Switches

_REF_MUTATION = re.compile(r"\b(createRef|updateRefs?|deleteRef)\b")
_CUSTOM_REF = re.compile(r'"refs/(?!heads/)')

READ_ONLY = "Repository was archived so is read-only."


def ref_write_refused(
    context: RequestContext, repository: Repository, ref: str, *, delete: bool = False, force: bool = False
) -> str | None:
    """GitHub's words for refusing that write, ``None`` where it is allowed."""
    if ref.startswith("refs/pull/"):
        return "Reference name is reserved: refs/pull"
    if not context.switches.custom_refs and not ref.startswith(("refs/heads/", "refs/tags/")):
        return "Reference must be below refs/heads or refs/tags"
    rule = repository.protection(ref)
    if rule is not None and (context.login not in rule.allow or (not rule.allow_force and (force or delete))):
        return f"Protected branch update failed for {ref}."
    return None


def check_mutation(switches: Switches, body: bytes) -> None:
    """Refuse a mutation, as a proxy does that looks for refs in it."""
    if not switches.proxy_reads_graphql:
        return
    text = body.decode("utf-8", "replace")
    if switches.proxy_refuses_ref_writes and _REF_MUTATION.search(text):
        raise ProxyRefused("writing refs")
    if switches.proxy_refuses_custom_refs and (_CUSTOM_REF.search(text) or "deleteRef" in text):
        raise ProxyRefused("writing refs outside refs/heads, and deleting them,")


def check_ref_write(
    context: RequestContext, repository: Repository, ref: str, *, delete: bool = False, force: bool = False
) -> None:
    """Refuse a REST write of a ref: by the proxy, which stands before GitHub, or by GitHub."""
    switches = context.switches
    if switches.proxy_refuses_ref_writes:
        raise ProxyRefused("writing refs")
    if switches.proxy_refuses_custom_refs and (delete or not ref.startswith("refs/heads/")):
        raise ProxyRefused("writing refs outside refs/heads, and deleting them,")
    refused = ref_write_refused(context, repository, ref, delete=delete, force=force)
    if refused is not None:
        raise Refused(422, refused)
