"""The metrics of several replicas, and of what stands in front, as one page."""

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ..serving.errors import Refusal

#: Of each series: whose it is.
LABEL = "replica"


class FrontMetrics:
    """What the front counts itself: requests as clients see them, and those that it refused."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "pyengine_front_requests", "Answers.", ("method", "status"), registry=self._registry
        )
        self._refusals = Counter(
            "pyengine_front_refusals",
            "Requests that reached no replica, or whose replicas were lost.",
            ("reason",),
            registry=self._registry,
        )

    def request(
        self, method: str, route: str, status: int, seconds: float, refusal: Refusal | None
    ) -> None:
        """A request was answered: for Gate."""
        del route, seconds  # the replicas' have them
        self._requests.labels(method, status).inc()
        if refusal is not None:
            self._refusals.labels(refusal.reason).inc()

    def page(self) -> bytes:
        return bytes(generate_latest(self._registry))


def merged(pages: Sequence[tuple[str, bytes]]) -> bytes:
    """pages: (replica, its page in Prometheus' text format). One page of all."""
    found: dict[str, Any] = {}
    for replica, text in pages:
        for family in text_string_to_metric_families(text.decode("utf-8")):
            whole = found.setdefault(family.name, family)
            samples = [s._replace(labels={LABEL: replica, **s.labels}) for s in family.samples]
            whole.samples = samples if whole is family else [*whole.samples, *samples]

    class Pages:
        def collect(self) -> list[object]:
            return list(found.values())

    return bytes(generate_latest(Pages()))  # type: ignore[arg-type]
