"""Tools for artifacts: files that outlive the task, session or conversation that made them."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from pydantic import Field

from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.contents import as_text, part_of
from ghcoord.faces.mcp.rows import ArtifactRow, artifact_line, artifact_row
from ghcoord.faces.mcp.shown import MAX_PAGE, rows, text
from ghcoord.faces.mcp.tools.failing import telling
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.mcp.visible import need_artifact, need_task, sees_artifact
from ghcoord.model.artifact import Artifact
from ghcoord.units import format_size

MAX_PUT = 512 * 1024
"""Bytes of a file that one call stores."""

PUT_TIMEOUT = 300.0
"""Seconds that a worker gets to store a session's file."""

MAX_LISTED = 100
"""Artifacts in one page."""

MAX_SCANNED = 1_000
"""Artifacts that are looked at for one page, of which some may not be the caller's to see."""

MAX_RETENTION = 366 * 86_400.0
"""Seconds of the longest time to keep one."""

_Id = Annotated[str, Field(min_length=1, max_length=128)]


class List(Arguments):
    """Of ``artifact_list``."""

    session_id: _Id | None = Field(default=None, description="Only those of this session of yours.")
    task_id: _Id | None = Field(default=None, description="Only those of this task.")
    name: str | None = Field(default=None, max_length=256, description="Only those of this name.")
    limit: int = Field(default=30, ge=1, le=MAX_LISTED)
    offset: int = Field(default=0, ge=0, le=1_000_000, description="next_offset of the page before.")


class Listed(Returns):
    """What ``artifact_list`` returns."""

    artifacts: list[ArtifactRow]
    next_offset: int | None = Field(description="For the next page; null at the end.")


@tool(
    "artifact_list",
    title="List artifacts",
    toolset=Toolset.ARTIFACTS,
    takes=List,
    returns=Listed,
    read_only=True,
    idempotent=True,
)
def artifact_list(call: Call, args: List) -> Answer:
    """List stored files, newest first: what tasks and sessions left, and what others put there for you. Read one with
    artifact_get."""
    if args.session_id is not None:
        call.services.owners.need(call.caller, args.session_id)
    if args.task_id is not None:
        need_task(call, args.task_id)
    found = call.hub.artifacts.list(args.session_id, args.task_id, args.name)
    page: list[dict[str, Any]] = []
    after = None
    for at, one in enumerate(found[args.offset : args.offset + MAX_SCANNED], args.offset):
        if sees_artifact(call, one):
            if len(page) == args.limit:
                after = at
                break
            page.append(artifact_row(one))
    else:
        after = args.offset + MAX_SCANNED if len(found) > args.offset + MAX_SCANNED else None
    more = f"More: offset {after}." if after is not None else ""
    said = rows([artifact_line(row) for row in page], "No artifacts.", more)
    return Answer(said, {"artifacts": page, "next_offset": after})


class Get(Arguments):
    """Of ``artifact_get``."""

    artifact_id: _Id
    offset: int = Field(default=0, ge=0, le=1 << 40, description="Byte to begin at: next_offset of the page before.")
    limit: int = Field(default=MAX_PAGE, ge=16, le=MAX_PAGE, description="Bytes at most, up to 32000.")


class Got(Returns):
    """What ``artifact_get`` returns."""

    artifact: ArtifactRow
    contents: str | None = Field(description="The text; null when it is not text: then read the resource artifact.uri.")
    offset: int
    next_offset: int | None = Field(description="For the next page; null at the end.")


@tool(
    "artifact_get",
    title="Read an artifact",
    toolset=Toolset.ARTIFACTS,
    takes=Get,
    returns=Got,
    read_only=True,
    idempotent=True,
)
def artifact_get(call: Call, args: Get) -> Answer:
    """Read a stored file: text comes page by page (offset = next_offset for the next one); what is not text is only
    described, and its bytes are the resource named in uri."""
    artifact = need_artifact(call, args.artifact_id)
    row = artifact_row(artifact)
    if args.offset > artifact.size:
        raise Failure(f"offset: the artifact has {artifact.size} bytes", "Give a smaller offset.")
    data = part_of(call, artifact, args.offset, args.limit)
    found = as_text(data, args.offset + len(data) >= artifact.size)
    head = artifact_line(row)
    if found is None:
        told = f"It is no UTF-8 text at byte {args.offset}. Its bytes are the resource {row['uri']}."
        return Answer(
            f"{head}\n{told}", {"artifact": row, "contents": None, "offset": args.offset, "next_offset": None}
        )
    contents, used = found
    after = args.offset + used if args.offset + used < artifact.size and used else None
    ends = [f"[{format_size(artifact.size)} in all; more: offset {after}]"] if after is not None else []
    data_of = {"artifact": row, "contents": contents, "offset": args.offset, "next_offset": after}
    return Answer("\n".join([head, text(contents), *ends]), data_of)


class Put(Arguments):
    """Of ``artifact_put``."""

    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Its name, such as report.md; need not be unique. With path that of the file unless given.",
    )
    text: str | None = Field(
        default=None, max_length=MAX_PUT, description="The content as text: this, or base64, or path."
    )
    base64: str | None = Field(default=None, max_length=MAX_PUT * 4 // 3 + 4, description="The content as base64.")
    path: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="A file of the session's workspace, of any size, whose content it is; give session_id too.",
    )
    content_type: str | None = Field(default=None, max_length=160, description="text/markdown …; else by name.")
    session_id: _Id | None = Field(
        default=None,
        description="Make it one of this session of yours, for you alone; else all of the hub may read it.",
    )
    keep_s: float | None = Field(
        default=None, gt=0, le=MAX_RETENTION, description="Seconds to keep it; default as the hub is set."
    )


class Stored(Returns):
    """What ``artifact_put`` returns."""

    artifact: ArtifactRow


@tool(
    "artifact_put",
    title="Store an artifact",
    toolset=Toolset.ARTIFACTS,
    takes=Put,
    returns=Stored,
    read_only=False,
)
def artifact_put(call: Call, args: Put) -> Answer:
    """Store a file that others can read by its id after this conversation: a report, a patch, a result. Its content is
    text or base64 of up to 512 KiB, or a file of a session of yours (session_id and path), which is then for you alone.
    For small facts that change use memory_set instead."""
    if args.path is not None:
        return _put_file(call, args, args.path)
    content = _content(args)
    if args.name is None:
        raise Failure("name: is missing", "Give the artifact a name, such as report.md.")
    if args.session_id is not None:
        call.services.owners.need(call.caller, args.session_id)
    artifact = call.hub.artifacts.put(
        args.name, content, content_type=args.content_type, session_id=args.session_id, retention=args.keep_s
    )
    return _stored(artifact)


def _stored(artifact: Artifact) -> Answer:
    row = artifact_row(artifact)
    return Answer(f"Stored {artifact_line(row)}\nIt is read with artifact_get {row['id']}.", {"artifact": row})


def _put_file(call: Call, args: Put, path: str) -> Answer:
    """A session's file, which its worker stores."""
    if args.text is not None or args.base64 is not None:
        raise Failure("the content is either text, base64 or path", "Give exactly one of text, base64 and path.")
    if args.session_id is None:
        raise Failure("path is that of a session's file", "Give its session_id too.")
    if args.keep_s is not None:
        raise Failure("keep_s does not go with path: the hub says how long it is kept", "Leave keep_s out.")
    session = call.services.owners.need(call.caller, args.session_id)
    given = {"path": path, "name": args.name, "content_type": args.content_type}
    with telling(call, session.id):
        executed = call.workers.execute(
            session.id,
            "artifact.put",
            {name: value for name, value in given.items() if value is not None},
            timeout=PUT_TIMEOUT,
            trace=call.trace,
            progress=call.progress,
            cancelled=call.cancelled,
        )
    result = executed.result
    if not result.success:
        raise Failure(result.error, "fs_list shows what is there.", code="FAILED")
    answer = _stored(need_artifact(call, str(result.data["artifact"]["id"])))
    return Answer(answer.text, answer.data, notices=executed.notices)


def _content(args: Put) -> bytes:
    if (args.text is None) is (args.base64 is None):
        raise Failure("the content is either text or base64", "Give exactly one of text and base64, or a path.")
    if args.text is not None:
        content = args.text.encode()
    else:
        try:
            content = base64.b64decode(args.base64 or "", validate=True)
        except (binascii.Error, ValueError):
            raise Failure("base64: is not base64", "Encode the bytes with the standard alphabet and padding.") from None
    if len(content) > MAX_PUT:
        raise Failure(
            f"the content has {len(content)} bytes: at most {MAX_PUT} are accepted in one call",
            "Split it, or write it to a file of a session with fs_write, and give session_id and path.",
            code="TOO_LARGE",
        )
    return content


TOOLS = (artifact_list, artifact_get, artifact_put)
