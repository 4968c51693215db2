"""Which replica answers a request: Ray Serve's router, by what is left to do at each.

Loaded by Ray, by its name: it alone of this package imports Ray as it is imported. Ray sends it by
value, so that its module has no state.
"""

from collections.abc import Mapping
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from pyengine.ray import ranking

#: Seconds of a request of which nothing is known yet.
TYPICAL = 0.1


class LeastWork(RequestRouter):
    """The replica with the fewest seconds of work left, as its engine estimates them; what has been
    sent since it told, at what its jobs take on average.

    Two keywords of a call say more: `to`, the id of the replica that is asked for (any other where
    it is no more), and `key`, a text: equal ones go to one replica, as long as it is there.
    """

    def initialize_state(self, **_: Any) -> None:
        self._sent: dict[str, tuple[Any, int]] = {}
        found = self._deployment_id
        ranking.ROUTERS[found.app_name, found.name] = self

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The replicas, one a rank, the best first."""
        asked = {} if pending_request is None else pending_request.kwargs
        if pending_request is not None:  # before the next round, where all are full
            pending_request.routing_context.should_backoff = True
        known = {name_of(replica): replica for replica in candidate_replicas}
        work = {name: self._work(name, replica.routing_stats) for name, replica in known.items()}
        return [[known[name]] for name in ranking.order(work, asked.get("to"), asked.get("key"))]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: Any, result: Any
    ) -> None:
        name = replica_id.unique_id
        told, sent = self._sent.get(name, (None, 0))
        self._sent[name] = told, sent + 1

    def _work(self, name: str, stats: Mapping[str, Any]) -> float:
        told, sent = self._sent.get(name, (None, 0))
        if told != stats.get("told"):
            told, sent = stats.get("told"), 0
            self._sent[name] = told, sent
        return float(stats.get("seconds", 0.0)) + sent * float(stats.get("typical", TYPICAL))

    @property
    def names(self) -> list[str]:
        """The ids of the replicas that there are."""
        return sorted(map(name_of, list(self.curr_replicas.values())))


def name_of(replica: RunningReplica) -> str:
    return str(replica.replica_id.unique_id)
