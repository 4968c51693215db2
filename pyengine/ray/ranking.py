"""In which order replicas are asked, and which there are: what LeastWork decides, without Ray."""

import hashlib
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

#: The routers of this process, by (application, deployment).
ROUTERS: weakref.WeakValueDictionary[tuple[str, str], Any] = weakref.WeakValueDictionary()


def order(work: Mapping[str, float], to: str | None, key: str | None) -> Sequence[str]:
    """Names of replicas, the best first. work: seconds by name."""

    def rank(name: str) -> tuple[bool, bytes, float, str]:
        # Rendezvous hashing: a replica that comes or goes moves only its own share of the keys.
        place = b"" if key is None else hashlib.sha256(f"{key}\0{name}".encode()).digest()
        return name != to, place, work[name], name

    return sorted(work, key=rank)


def replicas(app: str, deployment: str) -> list[str]:
    """Ids of a deployment's replicas, as this process last heard; none before its first call."""
    router = ROUTERS.get((app, deployment))
    return [] if router is None else list(router.names)
