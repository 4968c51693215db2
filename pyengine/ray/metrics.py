"""The metrics of several replicas as one page, each series labelled with its replica."""

from collections.abc import Sequence
from typing import Any

from .needs import need

LABEL = "replica"


def merged(pages: Sequence[tuple[str, bytes]]) -> bytes:
    """pages: (replica, its page in Prometheus' text format). One page of all."""
    families = need("prometheus_client.parser").text_string_to_metric_families
    found: dict[str, Any] = {}
    for replica, text in pages:
        for family in families(text.decode("utf-8")):
            whole = found.setdefault(family.name, family)
            samples = [s._replace(labels={LABEL: replica, **s.labels}) for s in family.samples]
            whole.samples = samples if whole is family else [*whole.samples, *samples]

    class Pages:
        def collect(self) -> list[object]:
            return list(found.values())

    page: bytes = need("prometheus_client.exposition").generate_latest(Pages())
    return page
