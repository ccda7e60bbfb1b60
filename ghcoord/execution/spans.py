"""OpenTelemetry spans, in a process that has a tracer provider; in any other nothing happens and nothing is imported.

A provider is there when a program has set one, under ``opentelemetry-instrument``,
and after :func:`install`.  Spans tell what ran, where, for whom and whether it
worked: never arguments, output or messages, which may hold secrets.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any

from ghcoord.errors import UsageError
from ghcoord.tracing import TraceParent, parse
from ghcoord.version import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

MAX_VALUE = 200
"""Characters of an attribute that are kept."""

EXPORTERS = ("otlp", "console", "none")

Attributes = Mapping[str, str | int | None]
"""What a span tells; ``None`` is left out."""


class Kind(Enum):
    """What a span stands for: work inside this process, or work that somebody has queued."""

    INTERNAL = "INTERNAL"
    CONSUMER = "CONSUMER"


class Span:
    """One piece of work. ``trace`` is the traceparent that what it calls is given."""

    def __init__(self, trace: str, span: Any = None) -> None:
        self.trace = trace
        self._span = span

    def ended(self, success: bool) -> None:
        """Whether the work did what it should."""
        if self._span is not None and not success:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR)


@contextmanager
def span(
    name: str, trace: str = "", attributes: Attributes | None = None, kind: Kind = Kind.INTERNAL
) -> Iterator[Span]:
    """A span around the body, below that of ``trace`` (a traceparent), or below the present one."""
    if "opentelemetry.trace" not in sys.modules:
        yield Span(trace)
        return
    from opentelemetry import trace as otel

    tracer = otel.get_tracer("ghcoord", __version__)
    with tracer.start_as_current_span(
        name[:MAX_VALUE],
        context=_below(trace),
        kind=otel.SpanKind[kind.value],
        attributes=_attributes(attributes or {}),
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        work = Span(_traceparent(made.get_span_context()) or trace, made)
        try:
            yield work
        except BaseException:
            work.ended(False)
            raise


def current() -> str:
    """The traceparent of the present span; ``""`` when there is none."""
    if "opentelemetry.trace" not in sys.modules:
        return ""
    from opentelemetry.trace import get_current_span

    return _traceparent(get_current_span().get_span_context())


def describe(attributes: Attributes) -> None:
    """Add to what the present span tells."""
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(_attributes(attributes))


def install(exporter: str) -> None:
    """Send this process's spans where the ``OTEL_*`` variables say: by OTLP, or to standard error (``console``).

    A provider that is there already stays.  Raises ``UsageError`` for another
    exporter, and where OpenTelemetry's SDK is not installed.
    """
    if exporter not in EXPORTERS:
        raise UsageError(f"OTEL_TRACES_EXPORTER is {exporter[:40]!r}: one of {', '.join(EXPORTERS)}")
    if exporter == "none":
        return
    try:
        from opentelemetry import trace as otel
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        sender = _sender(exporter)
    except ImportError:
        raise UsageError("tracing needs more than is installed: pip install 'ghcoord[otel]'") from None
    if isinstance(otel.get_tracer_provider(), TracerProvider):
        return
    named = Resource.create()
    if str(named.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        named = named.merge(Resource({SERVICE_NAME: "ghcoord"}))
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(sender))
    otel.set_tracer_provider(provider)


def _sender(exporter: str) -> SpanExporter:
    if exporter == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _below(trace: str) -> Context | None:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    parent = parse(trace)
    if parent is None:
        return None
    known = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, TraceFlags(parent.flags))
    return set_span_in_context(NonRecordingSpan(known))


def _traceparent(context: SpanContext) -> str:
    if not context.is_valid:
        return ""
    return str(TraceParent(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags) & 3))


def _attributes(given: Attributes) -> dict[str, str | int]:
    return {
        name: value if isinstance(value, int) else value[:MAX_VALUE]
        for name, value in given.items()
        if value is not None
    }
