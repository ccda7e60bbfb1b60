"""The plain functions of tools, resources and prompts as handlers of the SDK's low-level server: nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    CallToolRequestParams,
    CallToolResult,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)

from ghcoord.faces.mcp import present, prompts, resources
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.audited import call_trace
from ghcoord.faces.mcp.call import Call, Services
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.catalog import Catalog
from ghcoord.faces.mcp.explain import explain
from ghcoord.faces.mcp.running import Threads
from ghcoord.faces.mcp.toolspec import ToolSpec

Context = ServerRequestContext[Any, Any]
Identify = Callable[[Context], Caller]
"""Who sent a request."""

RESOURCE_NOT_FOUND = -32002
"""The protocol's code for a resource that is not there."""

NEXT_URI = "ghcoord/next_uri"
"""In the metadata of a page of a resource: where it goes on."""

T = TypeVar("T")


class Auditor(Protocol):
    """What records calls: :class:`ghcoord.faces.mcp.audited.Audited`."""

    def run(
        self, name: str, caller: Caller, arguments: Mapping[str, Any], trace: str, run: Callable[[], Answer]
    ) -> Answer:
        """``run()``, recorded before and after; what it raises passes through."""
        ...


class Adapter:
    """Handlers over ``catalog`` for what ``services`` has. ``log`` hears (level, text) of faults of the server."""

    def __init__(
        self,
        services: Services,
        catalog: Catalog,
        *,
        auditor: Auditor,
        identify: Identify,
        log: Callable[[str, str], None],
    ) -> None:
        self.services = services
        self.catalog = catalog
        self.identify = identify
        self._auditor = auditor
        self._threads = Threads(services.runtime)
        self._log = log
        self._tools: dict[str, Tool] = {}

    # -- tools

    async def list_tools(self, ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        """All tools at once; what does not suit the caller is left out."""
        listed = self.catalog.listed(read_only=self.identify(ctx).read_only)
        return ListToolsResult(tools=[self._described(name, spec) for name, spec in listed])

    def _described(self, name: str, spec: ToolSpec) -> Tool:
        if name not in self._tools:
            self._tools[name] = describe(name, spec)
        return self._tools[name]

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """The schema of a tool's arguments; ``None`` for a tool that is not there."""
        try:
            return self.catalog.find(name).arguments
        except Failure:
            return None

    async def call_tool(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        """Run a tool in a thread. Whatever goes wrong is an answer that says what to do, no error of the protocol."""
        arguments = params.arguments or {}
        try:
            call = self._call(ctx)
            answer = await self._threads.run(
                lambda cancelled, progress: self._audited(
                    params.name, replace(call, cancelled=cancelled, progress=progress), arguments
                ),
                ctx.session.report_progress,
                who=_sharing(call.caller),
            )
            return present.success(answer, call.caller, f"output of {params.name[:64]}", self.services.outputs)
        except Exception as error:
            return present.failure(self._explained(error, params.name))

    def _audited(self, name: str, call: Call, arguments: Mapping[str, Any]) -> Answer:
        def run() -> Answer:
            spec = self.catalog.find(name)
            if call.caller.read_only and not spec.read_only:
                raise Failure(
                    f"{spec.name} changes something, and you may only look", "Ask the user to allow it.", code="DENIED"
                )
            return spec.run(call, spec.check(arguments))

        return self._auditor.run(self._known(name), call.caller, arguments, call.trace, run)

    def _known(self, name: str) -> str:
        """The tool's plain name where there is one, for the audit."""
        try:
            return self.catalog.find(name).name
        except Failure:
            return name[:64]

    # -- resources

    async def list_resources(self, ctx: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        """The caller's."""
        found = await self._ask(ctx, resources.list_resources)
        return ListResourcesResult(
            resources=[
                Resource(uri=one.uri, name=one.name, title=one.title, description=one.description, mime_type=one.mime)
                for one in found
            ]
        )

    async def list_templates(self, ctx: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        """What can be read by its id."""
        return ListResourceTemplatesResult(
            resource_templates=[
                ResourceTemplate(
                    uri_template=one.uri,
                    name=one.name,
                    title=one.title,
                    description=one.description,
                    mime_type=one.mime,
                )
                for one in resources.TEMPLATES
            ]
        )

    async def read_resource(self, ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        """One of the caller's resources."""
        content = await self._ask(ctx, lambda call: resources.read(call, str(params.uri)))
        more = None if content.next_uri is None else {NEXT_URI: content.next_uri}
        part: TextResourceContents | BlobResourceContents
        if content.blob is not None:
            part = BlobResourceContents(uri=params.uri, mime_type=content.mime, blob=content.blob, meta=more)
        else:
            part = TextResourceContents(uri=params.uri, mime_type=content.mime, text=content.text, meta=more)
        return ReadResourceResult(contents=[part])

    # -- prompts

    async def list_prompts(self, ctx: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
        """All of them."""
        return ListPromptsResult(
            prompts=[
                Prompt(
                    name=one.name,
                    title=one.title,
                    description=one.description,
                    arguments=[
                        PromptArgument(name=each.name, description=each.description, required=each.required)
                        for each in one.arguments
                    ],
                )
                for one in prompts.PROMPTS
            ]
        )

    async def get_prompt(self, ctx: Context, params: GetPromptRequestParams) -> GetPromptResult:
        """A prompt with its arguments filled in."""
        try:
            text = prompts.get(params.name, params.arguments or {})
        except Exception as error:
            raise self._protocol_error(error, f"prompt {params.name[:64]}") from None
        return GetPromptResult(messages=[PromptMessage(role="user", content=TextContent(type="text", text=text))])

    # -- shared

    def _call(self, ctx: Context) -> Call:
        caller = self.identify(ctx)
        if not caller.client:
            caller = replace(caller, client=client_of(ctx))
        trace = call_trace(trace_of(ctx), self.services.runtime.randbits)
        return Call(caller, self.services, trace=trace)

    async def _ask(self, ctx: Context, ask: Callable[[Call], T]) -> T:
        """``ask(call)`` in a thread; its errors as those of the protocol."""
        call = self._call(ctx)
        try:
            return await self._threads.run(
                lambda cancelled, progress: ask(replace(call, cancelled=cancelled, progress=progress)),
                who=_sharing(call.caller),
            )
        except Exception as error:
            raise self._protocol_error(error, ctx.method) from None

    def _protocol_error(self, error: Exception, what: str) -> MCPError:
        why = self._explained(error, what)
        code = RESOURCE_NOT_FOUND if why.code == "NOT_FOUND" else INVALID_PARAMS
        return MCPError(code=code, message=str(why)[:4096], data={"code": why.code, "retryable": why.retryable})

    def _explained(self, error: Exception, what: str) -> Failure:
        why = explain(error, self.services.runtime.now())
        if why.code == "UNEXPECTED":
            self._log("error", f"{what[:64]}: {why.message}")
        return why


def _sharing(caller: Caller) -> str:
    """The user, where there are several; else empty."""
    return caller.user_id if caller.shared else ""


def describe(name: str, spec: ToolSpec) -> Tool:
    """A tool as it is listed."""
    return Tool(
        name=name,
        title=spec.title,
        description=spec.description,
        input_schema=dict(spec.arguments),
        output_schema=present.output_schema(spec.returns),
        annotations=ToolAnnotations(
            title=spec.title,
            read_only_hint=spec.read_only,
            destructive_hint=spec.destructive,
            idempotent_hint=spec.idempotent or spec.read_only,
            open_world_hint=spec.open_world,
        ),
        meta=dict(spec.meta) or None,
    )


def client_of(ctx: Context) -> str:
    """What the client calls itself; empty when it does not."""
    told = ctx.session.client_params
    return "" if told is None else f"{told.client_info.name} {told.client_info.version}"[:128]


def trace_of(ctx: Context) -> str:
    """The W3C ``traceparent`` that came with a request: of its metadata, else of its HTTP headers."""
    given = (ctx.meta or {}).get("traceparent")
    if not isinstance(given, str) or not given:
        given = getattr(ctx.request, "headers", {}).get("traceparent")
    return given if isinstance(given, str) else ""
