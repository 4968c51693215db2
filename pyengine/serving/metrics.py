"""Counters of a server for Prometheus, in a registry of its own."""

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ..engine import Engine, EngineJob

if TYPE_CHECKING:
    from .budget import Budget
    from .errors import Refusal

router = APIRouter(tags=["health"])

#: Upper bounds of histograms: seconds of evaluations, seconds of jobs, pictures.
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
JOBS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Safe from any thread. All counts are of this server's engine, none of the process."""

    def __init__(self, engine: Engine, held: "Budget"):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def gauge(name: str, text: str, value: Any) -> None:
            Gauge(f"pyengine_{name}", text, registry=registry).set_function(value)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"pyengine_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, bounds: Any, *labels: str) -> Histogram:
            name = f"pyengine_{name}"
            return Histogram(name, text, labels, buckets=bounds, registry=registry)

        gauge("running", "Jobs that were started and have not ended.", lambda: engine.running)
        gauge("waiting", "Jobs in the queue.", lambda: engine.waiting)
        gauge("held_bytes", "Decoded pictures of jobs that have not ended.", lambda: held.taken)
        self._batch = histogram("batch_size", "Pictures of an evaluation.", BATCHES, "model")
        self._step = histogram("step_seconds", "Seconds of an evaluation.", STEPS, "model")
        self._queue = histogram("queue_seconds", "From submitted to started.", JOBS, "model")
        self._job = histogram("job_seconds", "From submitted to ended.", JOBS, "model")
        self._preview = histogram(
            "first_preview_seconds", "From submitted to the first preview.", JOBS, "model"
        )
        self._jobs = counter("jobs", "Jobs that have ended.", "model", "outcome")
        self._pictures = counter("pictures", "Pictures that were drawn.", "model")
        self._steps = counter("steps", "Evaluations of the model, of each picture.", "model")
        self._tokens = counter("tokens", "Tokens that were drawn.", "model")
        self._refusals = counter("refusals", "Requests that were refused.", "reason")
        self._requests = counter("http_requests", "Answers.", "method", "route", "status")
        self._seconds = histogram("http_request_seconds", "Of an answer.", JOBS, "route")
        self._public = dict(zip(engine.models, engine.models, strict=True))
        engine.observe(self._evaluated)

    def names(self, public: dict[str, str]) -> None:
        """What models are called here: public names by the engine's."""
        self._public = public

    def _evaluated(self, model: str, pictures: int, seconds: float) -> None:
        name = self._public[model]
        self._batch.labels(name).observe(pictures)
        self._step.labels(name).observe(seconds)

    def ended(self, model: str, job: EngineJob, pictures: int) -> None:
        """A job has ended."""
        times = job.times
        begin = times.get("queued", 0.0)
        last = next((kind for kind in ("done", "failed", "cancelled") if kind in times), "failed")
        self._jobs.labels(model, last).inc()
        self._job.labels(model).observe(times.get(last, begin) - begin)
        if "started" in times:
            self._queue.labels(model).observe(times["started"] - begin)
        if "preview" in times:
            self._preview.labels(model).observe(times["preview"] - begin)
        if last == "done":
            self._pictures.labels(model).inc(pictures)
            self._steps.labels(model).inc(job.report.evaluations * pictures)
            self._tokens.labels(model).inc(job.report.tokens)

    def request(
        self, method: str, route: str, status: int, seconds: float, refusal: "Refusal | None"
    ) -> None:
        """A request was answered. route: its pattern, so that paths make no labels."""
        known = method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if refusal is not None:
            self._refusals.labels(refusal.reason).inc()


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format."""
    registry = request.app.state.server.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
