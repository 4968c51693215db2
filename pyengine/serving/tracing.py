"""OpenTelemetry spans, where its SDK is installed; what is set up there decides where they go."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope


class Tracing:
    """A span for each request, a child of what its traceparent header says, and one for each job
    within it. Without the SDK it does nothing.
    """

    def __init__(self) -> None:
        self._trace: Any = None
        try:
            import opentelemetry.sdk  # noqa: F401 - the API alone would record nothing
            from opentelemetry import propagate, trace
        except ImportError:
            return
        self._trace, self._extract = trace, propagate.extract
        self._tracer = trace.get_tracer("pyengine.serving")

    @contextmanager
    def request(self, scope: Scope, request_id: str) -> Iterator[Any]:
        if self._trace is None:
            yield None
            return
        method, path = scope["method"], scope["path"]
        attributes = {"http.request.method": method, "url.path": path, "request.id": request_id}
        with self._tracer.start_as_current_span(
            f"{method} {path}",
            context=self._extract(dict(Headers(scope=scope))),
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
        ) as span:
            yield span

    def answered(self, span: Any, status: int, caller: str | None) -> None:
        if span is not None:
            span.set_attribute("http.response.status_code", status)
            if caller is not None:
                span.set_attribute("enduser.id", caller)

    def job(self, model: str, times: dict[str, float], report: Any, context: Any) -> None:
        """A span of a job that has ended, its stages as events. times: of `EngineJob.times`."""
        if self._trace is None or not times:
            return
        import time

        shift = time.time() - time.monotonic()

        def at(seconds: float) -> int:
            return int((seconds + shift) * 1e9)

        span = self._tracer.start_span(
            f"draw {model}",
            context=context,
            start_time=at(min(times.values())),
            attributes={"model": model, "steps": report.steps, "evaluations": report.evaluations},
        )
        for name, seconds in times.items():
            span.add_event(name, timestamp=at(seconds))
        span.end(end_time=at(max(times.values())))

    def context(self) -> Any:
        """The current span's, to be given to `job` later."""
        if self._trace is None:
            return None
        return self._trace.set_span_in_context(self._trace.get_current_span())
