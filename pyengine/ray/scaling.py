"""How many replicas there are to be: as many as finish what is left in so many seconds each."""

import math
from collections.abc import Mapping
from typing import Any

#: The replicas' metric: seconds of work left.
METRIC = "remaining_seconds"


class Scale:
    """Ray Serve's autoscaling policy. seconds: of work left that a replica may have."""

    def __init__(self, seconds: float = 10.0):
        self._seconds = seconds

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """(number of replicas, state), as Ray asks for it; it applies its delays to the number."""
        told: Mapping[Any, float] = (context.aggregated_metrics or {}).get(METRIC, {})
        wanted = replicas_for(sum(told.values()), self._seconds)
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(low, min(wanted, high)), {}


def replicas_for(work: float, seconds: float) -> int:
    """work: seconds left, on one replica."""
    return math.ceil(work / seconds)
